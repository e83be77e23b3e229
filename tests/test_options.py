"""Options say what they do: every value has the type of its option, however it arrives."""

from __future__ import annotations

import json
import math
import pwd
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from lmms_eval.utils import simple_parse_args_string
from omegaconf import OmegaConf

from hired_eval import HiRED, Random
from hired_eval.cli.arguments import check_words, expand_flags, translate_for_hydra
from hired_eval.cli.help import check_names
from hired_eval.cli.show import main as show
from hired_eval.cli.sweeps import WithoutHome
from hired_eval.dropping import Full, VisionZip
from hired_eval.dropping.registry import build, build_as_typed
from hired_eval.errors import UserError
from hired_eval.lmms.options import VLMOptions, read_typed, unquote
from hired_eval.method_configs import ABOUT
from hired_eval.mini import default_cache
from hired_eval.models.configs import default_dtype, default_prompt, model_configs, prompt_named, typed_text
from hired_eval.paths import config_folder, expand_home, hide_home, home_folder, write_tilde
from hired_eval.runs.measuring import MEASURES
from hired_eval.runs.options import (
    GROUPS,
    RunConfig,
    build_dropper,
    dump_config,
    kinds,
    read_config,
    read_method,
)
from hired_eval.typed import Count, Positive, Range, Share, check_value, read, types_of
from tests.spine import config, run_config

if TYPE_CHECKING:
    from nowhere import Nothing

VICUNA = "USER: {images}\n{question} ASSISTANT:"


@dataclass(frozen=True, kw_only=True)
class Own(Full):
    """A method of the user's own, with an option of every kind."""

    flag: bool = False
    many: int = 1
    part: float = 0.5
    layer: int | None = None
    kind: Literal["a", "b"] = "a"
    word: str = "x"
    file: Path | None = None
    sizes: list[int] = None  # type: ignore[assignment]
    unknown: Nothing = None


@pytest.mark.parametrize(
    ("kind", "value", "typed"),
    [
        (bool, True, True),
        (int, 5.0, 5),
        (Count | None, 1e3, 1000),
        (Count | None, None, None),
        (float, 1, 1.0),
        (Share, 1, 1.0),
        (int | None, -2.0, -2),
        (Path, "~/x", Path.home() / "x"),
        (Path | None, "./none", Path("none")),
        (Literal["none", "rows"], "none", "none"),
        (Literal["none"] | None, "none", "none"),
        (int | str, "x", "x"),
        (bool | int, 1, 1),
        (list[int], [1, 2.0], [1, 2]),
        (tuple[float, ...], [1], (1.0,)),
        (Any, "no", "no"),
    ],
)
def test_a_value_of_the_type_is_taken(kind: Any, value: Any, typed: Any) -> None:
    taken = check_value("x", kind, value)
    assert taken == typed
    assert type(taken) is type(typed)


@pytest.mark.parametrize(
    ("kind", "value", "must"),
    [
        (bool, "no", "true or false, got 'no'"),
        (bool, "off", "true or false, got 'off'"),
        (bool, 1, "true or false, got 1"),
        (bool, None, "true or false, got None"),
        (Count, True, "a whole number of at least 1, got True"),
        (Count, "0x10", "a whole number of at least 1, got '0x10'"),
        (Count, 0.5, "a whole number of at least 1, got 0.5"),
        (Count, math.inf, "a whole number of at least 1, got inf"),
        (Count | None, "none", "a whole number of at least 1, or null, got 'none'"),
        (float, math.nan, "a number, got nan"),
        (Positive, math.inf, "above 0, got inf"),
        (Share | None, "20%", "a number above 0 and at most 1, or null, got '20%'; for 20 % write 0.2"),
        (Share, math.nan, "above 0 and at most 1, got nan"),
        (Share, "0.2", "a number above 0 and at most 1, got '0.2'"),
        (Path | None, "none", "a path, or null, got 'none'"),
        (Path | None, False, "a path, or null, got False"),
        (Path | None, "Off", "a path, or null, got 'Off'"),
        (Path, "", "a path, got ''"),
        (Path, 2024, "a path, got 2024; put it in quotes"),
        (str, 12, "text, got 12; put it in quotes"),
        (str | None, "null", "text, or null, got 'null'"),
        (Literal["a", "b", "c"], "d", "'a', 'b' or 'c', got 'd'"),
        (Literal["a"] | None, "none", "'a', or null, got 'none'"),
        (Literal["no"], False, "'no', got False"),
        (list[int], [1, "x"], r"a list, got [1, 'x']"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: Any, value: Any, must: str) -> None:
    with pytest.raises(UserError) as refused:
        check_value("x", kind, value)
    assert str(refused.value) == f"x must be {must}"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (bool, "False", False),
        (bool, "no", "no"),
        (int | None, "null", None),
        (int, "-2", -2),
        (int, "010", "010"),
        (float, "1e-1", 0.1),
        (float, ".5", 0.5),
        (float, "1_0", "1_0"),
        (str, "12", "12"),
        (Literal["none"], "none", "none"),
        (int, 3, 3),
    ],
)
def test_a_text_is_read_as_the_type_says(kind: Any, text: Any, value: Any) -> None:
    assert read(kind, text) == value
    assert type(read(kind, text)) is type(value)


def test_every_option_of_the_configs_is_declared_and_no_other() -> None:
    whole = yaml.safe_load((config_folder() / "config.yaml").read_text())
    chosen = {"model", "method", "task", "data", "protocol", "profile"}
    assert {*whole} - {"defaults", "hydra"} | chosen == types_of(RunConfig).keys()
    assert whole["efficiency"].keys() == types_of(GROUPS["efficiency"]).keys()
    for group in ("model", "task", "data"):
        for file in (config_folder() / group).glob("*.yaml"):
            named, declared = yaml.safe_load(file.read_text()).keys(), fields(GROUPS[group])
            for_tables = {*ABOUT, "group"} if group == "task" else set()
            assert named <= {f.name for f in declared} | for_tables, file
            assert named >= {f.name for f in declared if f.default is MISSING}, file
    assert set(get_args(kinds()["measure"])) == MEASURES.keys()
    groups = {*types_of(GROUPS["model"]), *types_of(GROUPS["reading"])}
    assert types_of(VLMOptions).keys() <= {*kinds(), *groups, "pretrained", "protocol"}
    assert whole["reading"].keys() == types_of(GROUPS["reading"]).keys()


def test_every_method_of_the_configs_fits_its_types() -> None:
    for file in (config_folder() / "method").glob("*.yaml"):
        method = yaml.safe_load(file.read_text())
        method |= {k: 0.5 if k == "alpha" else 0 for k, v in method.items() if str(v).startswith("${")}
        assert build_dropper(read_method(method), None) is not None


REFUSED = {
    "rerun=no": "rerun must be true or false, got 'no'",
    "rerun=off": "rerun must be true or false, got 'off'",
    "share_prefix=no": "share_prefix must be true or false, got 'no'",
    "method.spend_leftover=off": "spend_leftover must be true or false, got 'off'",
    "method.alpha=none": "alpha must be a number from 0 to 1, got 'none'",
    "method.final_layer=none": "final_layer must be a whole number of at least 0, or null, got 'none'",
    "data.path=none": "data.path must be a path, or null, got 'none'",
    "data.path=false": "data.path must be a path, or null, got False",
    "limit=none": "limit must be a whole number of at least 1, or null, got 'none'",
    "seed=null": "seed must be a whole number of at least 0, got None",
    "seed=5000000000": "seed must be a whole number of at least 0, got 5000000000",
    "batch_size=true": "batch_size must be a whole number of at least 1 or 'auto', got True",
    "budget=20%": "budget must be a number above 0 and at most 1, or null, got '20%'; for 20 % write 0.2",
    "budget=inf": "budget must be above 0 and at most 1, got inf",
    "model.path=none": "model.path must be a path, or null, got 'none'",
    "model.revision=none": "model.revision must be text, or null, got 'none'",
    "model.dtype=none": "model.dtype must be 'float32', 'float16' or 'bfloat16', got 'none'",
    "model.feature_layer=none": "model.feature_layer must be a whole number, or null, got 'none'",
    "data.path=no": "data.path must be a path, or null, got 'no'",
    "device=null": "device must be text, got None",
    "efficiency.repeats=0.5": "efficiency.repeats must be a whole number of at least 1, got 0.5",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_a_run_refuses_words_of_another_type(argument: str) -> None:
    with pytest.raises(UserError) as refused:
        run_config(*translate_for_hydra([argument]))
    assert str(refused.value) == REFUSED[argument]


def test_a_config_is_the_same_for_all_spellings() -> None:
    spelled = ["limit=5.0", "budget=1", "data.path=~/x", "model.prompt=mini", "runs_dir=2024"]
    once = run_config(*translate_for_hydra(spelled))
    plain = [
        f"data.path={Path.home()}/x",
        f"model.prompt={VICUNA}",
        "runs_dir='2024'",
        "limit=5",
        "budget=1.0",
    ]
    assert run_config(*translate_for_hydra(plain)) == once
    assert (once.limit, once.runs_dir, once.model.prompt) == (5, Path("2024"), VICUNA)
    assert isinstance(once.budget, float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flag": "no"}, "flag must be true or false"),
        ({"many": "2"}, "many must be a whole number"),
        ({"part": "x"}, "part must be a number"),
        ({"layer": "none"}, "layer must be a whole number, or null"),
        ({"kind": "c"}, "kind must be 'a' or 'b'"),
        ({"word": 3}, "word must be text"),
        ({"file": "off"}, "file must be a path, or null"),
    ],
)
def test_a_method_of_the_users_own_is_checked_by_its_annotations(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Own(**{"sizes": [1], **options})
    method = {"_target_": f"{__name__}.Own", "sizes": [1], **options}
    with pytest.raises(UserError, match=message):
        build_dropper(read_method(method), None)


def test_a_method_gets_its_options_in_their_types() -> None:
    own = Own(many=2.0, part=1, file="~/x", sizes=[1.0])  # type: ignore[arg-type, list-item]
    assert (own.many, own.file, own.sizes) == (2, Path.home() / "x", [1])
    assert isinstance(own.part, float)
    settings = config()
    settings["method"] = {"_target_": f"{__name__}.Own", "file": "~/x", "sizes": [1]}
    typed = read_config(settings)
    assert typed.method.options["file"] == Path.home() / "x"
    assert dump_config(typed)["method"]["file"] == "~/x"


def test_annotations_without_the_future_import_count() -> None:
    names: dict[str, Any] = {"Full": Full, "dataclass": dataclass, "__name__": __name__}
    exec("@dataclass(frozen=True, kw_only=True)\nclass Now(Full):\n    flag: bool = False\n", names)
    with pytest.raises(UserError, match="flag must be true or false, got 'no'"):
        names["Now"](flag="no")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (HiRED, {"budget": "0.2"}),
        (HiRED, {"spend_leftover": "no"}),
        (HiRED, {"initial_layer": True}),
        (Random, {"seed": -1}),
        (VisionZip, {"contextual": 2}),
        (Full, {"newline": None}),
    ],
)
def test_constructors_refuse_other_types(method: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} must be "):
        method(**options)


def test_options_typed_for_show_and_lmms_eval_are_read_by_type() -> None:
    typed = build_as_typed("hired", {"budget": "0.3", "final_layer": "null", "spend_leftover": "true"})
    assert typed == HiRED(budget=0.3, spend_leftover=True)
    with pytest.raises(UserError, match="spend_leftover must be true or false, got 'no'"):
        build_as_typed("hired", {"spend_leftover": "no"})
    with pytest.raises(UserError, match="budget must be a number"):
        build("hired", budget="0.3")
    with pytest.raises(UserError, match="there is no method 'HiRED'; did you mean hired"):
        build("HiRED")


LLAVA: dict[str, Any] = {
    "batch_size": 1, "device": "auto", "dtype": None, "prompt": None, "revision": None, "device_map": None,
    "attention": "sdpa", "quantization": "none", "feature_layer": None, "on_error": "stop",
    "share_prefix": True,
}  # fmt: skip


def of_lmms_eval(arguments: str) -> dict[str, Any]:
    return read_typed(VLMOptions, LLAVA | simple_parse_args_string(f"pretrained=x,{arguments}"))


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        ("feature_layer=-2", "feature_layer", -2),
        ("share_prefix=False", "share_prefix", False),
        ("device_map=null", "device_map", None),
        ('revision="0012345"', "revision", "0012345"),
        ('prompt="A chat, {images} {question}"', "prompt", "A chat, {images} {question}"),
    ],
)
def test_the_arguments_of_lmms_eval_are_typed(arguments: str, option: str, value: Any) -> None:
    assert of_lmms_eval(arguments)[option] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("share_prefix=no", "share_prefix must be true or false, got 'no'"),
        ("revision=0012345", "revision must be text, or null, got 12345; put it in quotes"),
        ("feature_layer=x", "feature_layer must be a whole number, or null, got 'x'"),
        ("batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("dtype=half", "dtype must be 'float32', 'float16' or 'bfloat16', or null, got 'half'"),
        ("prompt=the user's {images}{question},dtype=float32", "prompt swallows dtype="),
    ],
)
def test_the_arguments_of_lmms_eval_are_refused_by_type(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        of_lmms_eval(arguments)


def test_quotes_around_an_option_of_a_method_go_too() -> None:
    assert unquote({"label": "'a, b'", "n": 3}) == {"label": "a, b", "n": 3}


# prompts


TYPED = r"USER: {images}\n{question} ASSISTANT:"
WAYS = [TYPED, f'"{TYPED}"', f"'{TYPED}'", VICUNA, f'"{VICUNA}"', "mini"]


@pytest.mark.parametrize("typed", WAYS)
def test_a_prompt_typed_in_any_way_is_the_same(typed: str) -> None:
    arguments = [f"model.prompt={typed}"]
    check_names(arguments)
    assert run_config(*translate_for_hydra(arguments)).model.prompt == VICUNA
    assert prompt_named(of_lmms_eval(f"prompt={typed}")["prompt"]) == VICUNA


@pytest.mark.parametrize(
    "prompt",
    [
        "A chat, 'so' to \"speak\": [x] {images} ${x} {question}=",
        "{images}\t{question}, ~/x",
        "{question}(a,b){images}",
    ],
)
def test_a_prompt_keeps_every_sign_in_a_run_and_in_a_sweep(prompt: str) -> None:
    for flags in ([], ["-m"]):
        typed = translate_for_hydra([*flags, f"model.prompt={prompt}"])[-1]
        if "${" in prompt:
            assert typed == f"model.prompt={prompt}"  # Hydra's interpolation
            continue
        assert OverridesParser.create().parse_override(typed).value() == prompt


def test_a_sweep_over_prompts_in_quotes_is_left_to_hydra() -> None:
    argument = "model.prompt='{images} {question}','{images}, {question}'"
    assert translate_for_hydra(["-m", argument]) == ["-m", argument]
    assert len(list(OverridesParser.create().parse_override(argument).sweep_string_iterator())) == 2


def test_tabs_and_line_breaks_alone_are_typed_with_a_backslash() -> None:
    assert typed_text("x", r"a\tb\nc") == "a\tb\nc"
    for text in (r"a\r", r"a\\n", "\\"):
        with pytest.raises(UserError, match="x holds a backslash"):
            typed_text("x", text)


def test_show_takes_typed_text(tmp_path: Path, picture_file: Path) -> None:
    with pytest.raises(SystemExit, match="--question holds a backslash"):
        show([str(picture_file), "--question", r"what\r?", "--out", str(tmp_path / "o.png")])
    with pytest.raises(SystemExit, match="prompt 'x' is neither a template"):
        show([str(picture_file), "model.prompt=x"])
    with pytest.raises(SystemExit, match="spend_leftover must be true or false, got 'no'"):
        show([str(picture_file), "method.spend_leftover=no"])


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_folder_name_decides_neither_prompt_nor_dtype(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_id = model_configs()["llava_next_7b"]["hub_id"]
    assert default_prompt(hub_id).template == model_configs()["llava_next_7b"]["prompt"]
    assert "llava_next_7b" in default_prompt(hub_id).origin
    assert default_dtype(hub_id) == "float16"
    for name in (hub_id, hub_id.split("/")[1], "models--" + hub_id.replace("/", "--") + "/snapshots/0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    for folder in (hub_id, str(tmp_path / hub_id.split("/")[1])):
        with pytest.raises(UserError, match="has no chat template of its own; name the prompt"):
            default_prompt(folder)
        assert default_dtype(folder) == "float32"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "internvl_chat"}, "brings code of its own, which is not run; take .*InternVL3-1B-hf"),
        ({"model_type": "mllama"}, "holds a 'mllama' model; supported are llava, .*, qwen3_vl "),
    ],
)
def test_what_a_checkpoint_is_comes_before_its_prompt(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Nor is anybody asked whether its code should run."""
    own = {"auto_map": {"AutoConfig": "code.Config", "AutoProcessor": "code.Processor"}}
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "code.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(UserError, match=message):
        default_prompt(str(tmp_path))


# the home folder


@pytest.mark.parametrize(
    ("home", "path", "hidden"),
    [
        ("/home/al", "/home/al", "~"),
        ("/home/al", "/home/al/x/y", "~/x/y"),
        ("/home/al", "/home/alice/x", "/home/alice/x"),
        ("/home/al", "/mnt/home/al/x", "/mnt/home/al/x"),
        ("/", "/tmp/x", "/tmp/x"),
        ("al", "al/x", "al/x"),
        ("", "/tmp/x", "/tmp/x"),
        ("/home/a b,[c]'", "/home/a b,[c]'/x", "~/x"),
    ],
)
def test_the_home_folder_is_hidden_in_whole_components(
    home: str, path: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    assert write_tilde(path) == hidden
    assert hide_home(f"cannot write {path}: full") == f"cannot write {hidden}: full"
    usual = run_config()
    model = replace(usual.model, path=Path(path), prompt=path, hub_id="llava-hf/x")
    shown = dump_config(replace(usual, runs_dir=Path(path), model=model))
    assert (shown["runs_dir"], shown["model"]["path"]) == (hidden, hidden)
    assert (shown["model"]["prompt"], shown["model"]["hub_id"]) == (path, "llava-hf/x")


def test_without_a_home_folder_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert home_folder() is None
    assert translate_for_hydra(["method=full", "runs_dir=x"]) == ["method=full", 'runs_dir="x"']
    assert expand_flags(["--help", "--question=~/x"]) == ["--help", "--question=~/x"]
    assert dump_config(run_config())["runs_dir"] == "results/runs"
    assert default_cache().is_absolute()
    with pytest.raises(UserError, match="~/x: there is no such home folder here; write the path out"):
        expand_home("~/x")


@pytest.mark.parametrize("home", ["/tmp/a, b", "/tmp/[a]", "/tmp/a'b\"c", "/tmp/{a}:b=c", "/tmp/a\\"])
def test_a_tilde_is_a_home_folder_of_any_name_in_paths_alone(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)

    def value(argument: str, *flags: str) -> Any:
        return OverridesParser.create().parse_override(translate_for_hydra([*flags, argument])[-1])

    assert value("data.path=~/x").value() == f"{home}/x"
    assert value("hydra.sweep.dir=~").value() == home
    assert value("model.prompt=~/x {images}{question}").value() == "~/x {images}{question}"
    assert value("+method.file=~/x").value() == "~/x"
    swept = [choice.text for choice in value("model.path=~/x,/y", "-m").value().list]
    assert swept == [f"{home}/x", "/y"]
    assert expand_flags(["--out=~/x"]) == [f"--out={home}/x"]


def test_what_a_sweep_leaves_hides_the_home_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/al")
    task = ["runs_dir='/home/al/r'", "data.path=/home/alice/x", "model.prompt=/home/al {images}{question}"]
    left = {"hydra": {"overrides": {"task": task}, "cwd": "/home/al", "other": "${runs_dir}/x"}}
    (tmp_path / "multirun.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(left)))
    sweep = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    WithoutHome().on_multirun_end(sweep)
    hidden: Any = yaml.safe_load((tmp_path / "multirun.yaml").read_text())["hydra"]
    assert hidden["overrides"]["task"] == ["runs_dir='~/r'", *task[1:]]
    assert (hidden["cwd"], hidden["other"]) == ("~", "${runs_dir}/x")


# words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget", "0.2"], "write budget=0.2"),
        (["method=full", "budget", "0.2"], "write budget=0.2"),
        (["--budget", "0.2"], "write budget=0.2"),
        (["--budget=0.2"], "write budget=0.2"),
        (["--batch-size=2"], "write batch_size=2"),
        (["-m", "method=full,", "hired"], "write method=full,hired"),
        (["model.prompt=USER:", "{images}"], "put the whole option in quotes"),
        (["--colour"], "there is no flag --colour"),
        (["-m", "modl"], "'modl' is not an option; write NAME=VALUE"),
    ],
)
def test_a_word_that_stands_alone_is_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_names(arguments)
    assert "\n" not in str(refused.value)


def test_the_flags_of_hydra_are_known() -> None:
    words = ["--cfg", "job", "--resolve", "-m", "--multirun", "--config-dir", "x", "-cd=x", "--info", "all"]
    check_words([*words, "-p", "x", "--config-name=x", "method=full"], ["method"])


def test_a_range_of_ones_own_counts() -> None:
    percent = Annotated[float, Range("from 0 to 100", 0, 100)]
    assert check_value("x", percent, 3) == 3.0
    with pytest.raises(UserError, match="x must be from 0 to 100, got 101"):
        check_value("x", percent, 101)


def test_a_name_in_capitals_is_understood() -> None:
    with pytest.raises(UserError, match="there is no method 'HiRED'; did you mean hired"):
        check_names(["method=HiRED"])
