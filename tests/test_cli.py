"""The command line: what it prints, how it ends, and what it says to a mistake."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hired_eval.cli.arguments import folders_as_flags
from hired_eval.models.answering import DroppingVLM
from tests.spine import command_line

MISTAKES = [
    (["method=hird"], "there is no method 'hird'; did you mean hired"),
    (["task=docvq"], "there is no task 'docvq'; did you mean docvqa"),
    (["model=llava_next_7"], "there is no model 'llava_next_7'; did you mean llava_next_7b"),
    (["data=hubb"], "there is no data 'hubb'; did you mean hub"),
    (["profile=papr"], "there is no profile 'papr'; did you mean paper"),
    (["budgt=0.2"], "there is no option 'budgt'; did you mean budget"),
    (["+budgt=0.2"], "there is no option 'budgt'; did you mean budget"),
    (["method.alfa=0.2"], "there is no option 'alfa' of method hired; did you mean alpha"),
    (["~limit"], "~limit: an option cannot be taken away; set it to null"),
    (["method=full,hired"], "method=full,hired names several values; add -m"),
    (["budget=0.2,0.4"], "budget=0.2,0.4 names several values; add -m"),
    (["budget=0"], "budget must be above 0 and at most 1, got 0"),
    (["budget=-1"], "budget must be above 0 and at most 1, got -1"),
    (["budget=1.5"], "budget must be above 0 and at most 1, got 1.5"),
    (["budget=nan"], "budget must be above 0 and at most 1, got nan"),
    (["budget=x"], "budget must be a number above 0 and at most 1, or null, got 'x'"),
    (["budget=true"], "budget must be a number above 0 and at most 1, or null, got True"),
    (["method.alpha=2"], "alpha must be from 0 to 1, got 2"),
    (["model.alpha=-0.1"], "alpha must be from 0 to 1, got -0.1"),
    (["method=full", "budget=0.4"], "no token budget of its own; leave budget=0.4 out"),
    (["method.newline=x"], "newline must be 'none' or 'rows', got 'x'"),
    (["batch_size=0"], "batch_size must be a whole number of at least 1, got 0"),
    (["batch_size=null"], "batch_size must be a whole number of at least 1 or 'auto', got None"),
    (["limit=0"], "limit must be a whole number of at least 1, got 0"),
    (["limit=0.5"], "limit must be a whole number of at least 1, got 0.5"),
    (["seed=x"], "seed must be a whole number of at least 0, got 'x'"),
    (["on_error=ignore"], "on_error must be 'stop' or 'record', got 'ignore'"),
    (["device=gpu"], "device 'gpu' is not known to PyTorch; try auto, cpu or cuda:0"),
    (["data.source=x"], "data.source must be 'auto', 'bundled' or 'hub', got 'x'"),
    (["data=bundled"], "exclude each other; leave one out"),
    (["data.path=/no/folder"], "data.path=/no/folder is not a folder"),
    (["model.path=/no/folder"], "model.path=/no/folder is not a folder"),
    (["model.path=null"], "model mini names no checkpoint; set model.path=FOLDER or model.hub_id=ID"),
    (["model.dtype=int4"], "model.dtype must be 'float32', 'float16' or 'bfloat16', got 'int4'"),
    (["model.weights=x"], "model.weights must be 'pretrained', 'pickle' or 'dummy', got 'x'"),
    (["model.feature_layer=x"], "model.feature_layer must be a whole number, or null, got 'x'"),
    (["model.feature_layer=-20"], "vision_feature_layer=-20 is outside the vision tower, which has 4 layers"),
    (["model.quantization=x"], "model.quantization must be 'none', '8bit' or '4bit', got 'x'"),
    (["model.attention=x"], "model.attention must be 'sdpa', 'eager' or 'flash_attention_2', got 'x'"),
    (
        ["model.prompt=hello"],
        "prompt 'hello' is neither a template with {images} and {question} once each nor",
    ),
    (["method.final_layer=9"], "HiRED asks for attention of layer 9, and the vision tower has layers"),
    (["task.lmms_task=docvqa_vl"], "lmms-eval has no task 'docvqa_vl' (task.lmms_task)"),
    (["task.metric=f1"], "task docvqa_val has no metric 'f1'; it has anls"),
    (["task.scale=x"], "task.scale must be a number, or null, got 'x'"),
    (["task.scoring=x"], "task.scoring must be one of mean, category_mean, mme, mmbench, ocrbench, got 'x'"),
    (["runs_dir=/dev/null/runs"], "cannot write /dev/null/runs"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_a_mistake_ends_in_one_clear_line(
    arguments: list[str],
    message: str,
    tiny_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {argument.split("=")[0] for argument in arguments}
    base = [option for option in [*tiny_run, f"runs_dir={tmp_path}"] if option.split("=")[0] not in named]
    assert command_line(monkeypatch, *base, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert errors[0] == printed.err.splitlines()[-1]


def test_the_exit_status_reaches_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hired_eval", "method=hird"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: there is no method 'hird'")
    assert ended.stderr.count("\n") == 1


def test_an_unreachable_hub_is_one_line_for_model_and_data(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("hired_eval.models.checkpoint", "hired_eval.lmms.tasks"):
        monkeypatch.setattr(f"{module}.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")
    runs = f"runs_dir={tmp_path}"
    model = ["model=llava_next_7b", "model.hub_id=nobody/nothing", "data=bundled"]
    assert command_line(monkeypatch, *model, runs) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: could not fetch nobody/nothing from the hub (HF_HUB_OFFLINE is set); point to local copies "
        "with model.path=FOLDER (in lmms-eval pretrained=FOLDER) and data.path=FOLDER, or use the bundled "
        "ones with model=mini and data=bundled"
    )
    assert command_line(monkeypatch, tiny_run[0], "data=hub", "task=pope", runs) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: could not fetch the data set lmms-lab-encoder/POPE of pope from the hub (HF_HUB_OFFLINE is "
        "set); point to local copies with data.path=FOLDER and model.path=FOLDER, or use the bundled ones "
        "with data=bundled and model=mini"
    )


def test_a_sweep_ends_where_the_hub_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hired_eval.models.checkpoint.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")
    sweep = [
        "-m",
        "model=llava_next_7b",
        "model.hub_id=nobody/nothing",
        "data=bundled",
        "method=full,hired,random",
    ]
    assert command_line(monkeypatch, *sweep, f"runs_dir={tmp_path}") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: could not fetch nobody/nothing from the hub (HF_HUB_OFFLINE is set)")
    assert last.endswith("; 2 runs were not begun")


def test_a_run_prints_its_table_and_is_not_repeated(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*tiny_run, f"runs_dir={tmp_path}", "budget=0.4", "limit=3"]
    assert command_line(monkeypatch, *arguments) == 0
    first = capsys.readouterr()
    assert first.out.startswith("| benchmark | method")
    for cell in ("docvqa", "HiRED 40 %", "anls", "4 of 12 (partial)", "(max "):
        assert cell in first.out
    assert first.out.splitlines()[-1].startswith(f"record: {tmp_path}/docvqa-mini-hired-0.4-")
    assert first.err.count("\n") < 12
    assert command_line(monkeypatch, *arguments) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "complete already" in again.err


def test_the_table_of_a_run_is_computed_from_samples(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the folder of runs is written with ~; of samples that are gone, the line says so."""
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [*tiny_run, "runs_dir=~/runs", "limit=3"]
    assert command_line(monkeypatch, *arguments, "method=full") == 0
    (folder,) = tmp_path.glob("runs/docvqa-mini-full-*")
    record = json.loads((folder / "record.json").read_text())
    record["score"]["value"] = 4321.0
    (folder / "record.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert command_line(monkeypatch, *arguments, "method=hired") == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| Full +\|", shown), "beside it"
    assert "4321" not in shown
    (folder / "samples.parquet").write_bytes(b"")
    assert command_line(monkeypatch, *arguments, "method=hired") == 1
    assert f"error: {folder / 'samples.parquet'} cannot be read" in capsys.readouterr().err


def test_a_sweep_goes_on_behind_a_mistake_and_fails_in_the_end(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", *tiny_run, f"runs_dir={tmp_path}", "limit=2", "method=full,hired"]
    assert command_line(monkeypatch, *sweep, "budget=2,0.4") == 1
    assert "budget must be above 0 and at most 1, got 2" in capsys.readouterr().err
    assert len(list(tmp_path.glob("docvqa-*/record.json"))) == 2
    assert command_line(monkeypatch, *sweep) == 0
    assert len(list(tmp_path.glob("docvqa-*/record.json"))) == 3
    printed = capsys.readouterr()
    assert printed.out.index("| Full ") < printed.out.index("| HiRED "), "one table, in the end"
    assert printed.out.count("| benchmark ") == 1
    assert "1 of 2 runs were complete already (rerun=true repeats them)" in printed.err
    assert re.search(r"run 2 of 2, method=hired: anls \d+\.\d \(\d+ s\)$", printed.err, re.MULTILINE)
    assert command_line(monkeypatch, *sweep) == 0
    assert "every run was complete already (rerun=true repeats them)" in capsys.readouterr().err


def test_a_forecast_that_fails_does_not_end_a_sweep(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", *tiny_run, f"runs_dir={tmp_path}", "precision=5", "method=hired", "budget=2,3"]
    assert command_line(monkeypatch, *sweep) == 1
    printed = capsys.readouterr().err
    assert "no forecast: budget must be above 0 and at most 1, got 2" in printed
    assert re.search(r"run 2 of 2, .*budget=3: failed: budget must be above 0 and at most 1, got 3", printed)


def test_a_sweep_over_budgets_runs_a_method_without_one_once(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", *tiny_run, f"runs_dir={tmp_path}", "limit=2", "method=full,hired", "budget=0.2,0.4"]
    assert command_line(monkeypatch, *sweep) == 0
    assert "run 2 of 4, method=full budget=0.4: the same run as one before" in capsys.readouterr().err
    names = sorted(f.parent.name.rpartition("-")[0] for f in tmp_path.glob("docvqa-*/record.json"))
    assert [name.partition("-")[2].partition("-")[2] for name in names] == ["full", "hired-0.2", "hired-0.4"]
    assert command_line(monkeypatch, *sweep) == 0
    assert "every run was complete already" in capsys.readouterr().err


def test_an_interrupted_run_says_so_and_goes_on(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*tiny_run, f"runs_dir={tmp_path}", "batch_size=1"]
    answer = DroppingVLM.answer
    asked = []

    def interrupted(self: DroppingVLM, *args: object) -> object:
        asked.append(args)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answer(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DroppingVLM, "answer", interrupted)
        assert command_line(monkeypatch, *arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: interrupted")
    assert not list(tmp_path.glob("*/record.json"))
    assert command_line(monkeypatch, *arguments) == 0
    assert "going on with 3 questions answered before" in capsys.readouterr().err


def test_a_tilde_is_the_home_folder(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command_line(monkeypatch, *tiny_run, "limit=1", "runs_dir=~/runs") == 0
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 1
    assert f"record: {tmp_path}/runs/" in capsys.readouterr().out


CONFIGS = Path(__file__).parents[1] / "configs"
CHOSEN = {"model": "mini", "method": "hired", "task": "docvqa", "data": "auto", "profile": "mini"}


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_fits_two_screens_and_names_every_choice_and_option(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, *arguments) == 0
    text = capsys.readouterr().out
    assert text.count("\n") < 70
    for group, default in CHOSEN.items():
        listed = re.search(rf"^  {group}={default} (.*(?:\n {{21}}.*)*)", text, re.MULTILINE)
        assert listed
        assert set(re.split(r",\s+", listed[1].strip())) == {
            file.stem for file in (CONFIGS / group).glob("*.yaml")
        }
    options = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    for option in options.keys() - {"defaults", "hydra"}:
        for key in options[option] if isinstance(options[option], dict) else [""]:
            assert f"\n  {option}{key and '.'}{key}=" in text


def test_help_has_the_whole_of_a_comment_and_lists_as_they_are_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, "--help", "method=pyramiddrop", "method=random") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "method.ratios=[0.5,0.25,0.125] Share of the original tokens that stays at each" in text
    assert "compact (numbered anew) or original (as they were among all visual tokens)" in text


def test_a_plan_takes_compositions_and_counts_a_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", "method=hired+fastv,prumerge", "budget=0.2,0.4", "task=docvqa", f"runs_dir={tmp_path}"]
    assert command_line(monkeypatch, "plan", *sweep) == 0
    out = capsys.readouterr().out
    methods = [line.split("|")[3].strip() for line in out.splitlines()[2:-1]]
    labels = ["HiRED + FastV 20 %, HiRED.budget=0.2", "HiRED + FastV 40 %, HiRED.budget=0.2", "PruMerge"]
    assert methods == labels
    assert "3 runs: about 1,800 of 1,800 questions" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group", CHOSEN)
def test_help_on_a_group_explains_each_choice(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, group, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{group}={CHOSEN[group]}"
    for file in (CONFIGS / group).glob("*.yaml"):
        line = next(line for line in lines if line.startswith(f"  {file.stem} "))
        assert len(line.split(maxsplit=1)) == 2, f"{file} says nothing of itself"


@pytest.mark.parametrize("file", sorted((CONFIGS / "method").glob("*.yaml")), ids=lambda file: file.stem)
def test_help_on_a_method_explains_its_options(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, "--help", f"method={file.stem}") == 0
    text = capsys.readouterr().out
    for option in yaml.safe_load(file.read_text()).keys() - {"_target_", "defaults"}:
        assert re.search(rf"^  method\.{option}=.* \w", text, re.MULTILINE), f"{option} has a comment"
    assert command_line(monkeypatch, "--help", "method=hird") == 1
    assert "did you mean hired" in capsys.readouterr().err


def test_threads_wait_passively_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert command_line(monkeypatch, "--version") == 0
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert command_line(monkeypatch, "--version") == 0
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    code = "import sys, hired_eval.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "it is set before torch reads it"


def test_methods_in_the_folder_where_one_works_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For hired-eval too, which Python does not start with that folder among its places."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    for _ in range(2):
        assert command_line(monkeypatch, "--version") == 0
        assert sys.path.count(str(tmp_path)) == 1


def test_folders_of_records_are_named_as_for_a_run() -> None:
    assert folders_as_flags(["rank", "budget=0.2", "runs_dir=a b", "out=c"]) == [
        "budget=0.2",
        "--runs-dir=a b",
        "--out=c",
    ]
    assert folders_as_flags(["plan", "runs_dir=a"]) == ["runs_dir=a"]


def test_the_version_is_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"hired_eval {importlib.metadata.version('hired_eval')}\n"


def test_the_resolved_config_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line(monkeypatch, "profile=paper", "budget=0.2", "--cfg", "job") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["budget"] == 0.2
    assert shown["model"]["hub_id"] == "llava-hf/llava-v1.6-vicuna-7b-hf"
    assert shown["method"]["alpha"] == shown["model"]["alpha"] == 0.5
    assert shown["data"]["source"] == "hub"
