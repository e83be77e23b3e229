"""What makes two runs the same: what was asked for as it is resolved, and the content that it is asked of."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hired_eval import HiRED, hub
from hired_eval.lmms.local_data import DataSource
from hired_eval.records.context import blocks_of
from hired_eval.records.record import Method
from hired_eval.records.store import Store
from hired_eval.runs.identity import READ_WHOLE, fingerprint, identify_run, name_run, normal
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import Outcome
from hired_eval.runs.plan import Plan, plan_run
from tests import tiny
from tests.data import write_docvqa, write_mme
from tests.spine import run_config, run_quietly

MODEL_CACHE = "models--llava-hf--llava-v1.6-vicuna-7b-hf"
DOCVQA_CACHE = "datasets--lmms-lab-encoder--DocVQA"
EFFICIENCY = "measure=efficiency"


def plan(*overrides: str) -> Plan:
    return plan_run(run_config(*overrides))


def samples_of(outcome: Outcome) -> bytes:
    return (outcome.folder / "samples.parquet").read_bytes()


def name(*overrides: str) -> str:
    return plan(*overrides).folder.path.name


@pytest.mark.parametrize(
    ("first", "same"),
    [
        (["method=hired"], ["budget=0.2"]),
        (["method=hired"], ["method.budget=0.20", "batch_size=2"]),
        (["budget=0.2"], ["budget=2e-1", "efficiency.repeats=7"]),
        (["budget=0.2"], ["method.budget=0.7", "budget=0.2"]),
        (["budget=1.0"], ["budget=1"]),
        (["method=hired"], ["model.alpha=0.5", "method.heads=sum", "method.final_layer=null"]),
        (["method=hired", "method.alpha=0.3"], ["model.alpha=0.3"]),
        (["method=hired"], ["method._target_=hired_eval.dropping.HiRED"]),
        (["method=hired"], ["method.label=mine", "method.place=3"]),
        (["method=even_split"], ["method=fastervlm"]),
        (["method=spatial"], ["method=spatial_sampling", "method.mode=pooling"]),
        (["method=full"], ["method=full", "device=cpu", "share_prefix=false", "on_error=record"]),
        (["method=full"], ["method=full", "decoding=static"]),
        (["method=full"], ["method=full", "rerun=true"]),
        (["method=random"], ["method=random", "method.seed=0"]),
        (["method=hired"], ["method=hired", "++method.label=Ours"]),
        (["data=auto"], ["data=bundled"]),
        (["model=mini"], ["model.feature_layer=4"]),
        (["model=mini"], ["model.feature_layer=null"]),
        (["model=mini"], ["model.hub_id=some/model", "model.revision=main", "model.weights=pickle"]),
        (["task=mme"], ["task=mme", "+task.scale=1.0"]),
        (["measure=gallery"], ["measure=gallery", "limit=4", "batch_size=1"]),
        (["measure=generation_attention"], ["measure=generation_attention", "model.attention=eager"]),
        ([EFFICIENCY], [EFFICIENCY, "task=mme", "data=bundled", "model.prompt='{images}{question}'"]),
        ([EFFICIENCY], [EFFICIENCY, "device=cpu", "limit=3"]),
    ],
)
def test_a_run_asked_for_in_another_way_is_the_same_run(first: list[str], same: list[str]) -> None:
    assert name(*first) == name(*same)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ([], "budget=0.21"),
        ([], "method.heads=single"),
        ([], "method=even_split"),
        ([], "seed=1"),
        ([], "model.dtype=bfloat16"),
        ([], "model.attention=eager"),
        ([], "model.quantization=8bit"),
        ([], "model.feature_layer=-3"),
        ([], "model.prompt='{images} {question}'"),
        ([], "task.metric=other"),
        ([], "task.scale=1"),
        ([], "task=mme"),
        ([], "measure=gallery"),
        (["method=random"], "method.seed=1"),
        (["measure=gallery"], "limit=5"),
        (["measure=gallery"], "model.attention=eager"),
        ([EFFICIENCY], "batch_size=2"),
        ([EFFICIENCY], "efficiency.repeats=7"),
        ([EFFICIENCY], "efficiency.width=100"),
        (
            [EFFICIENCY, "model.weights=dummy", "model=clip_l_small", "data=bundled"],
            "model.hub_id=llava-hf/llava-1.5-7b-hf",
        ),
    ],
)
def test_what_decides_an_answer_or_a_score_makes_another_run(base: list[str], change: str) -> None:
    assert name(*base) != name(*base, change)


def test_a_machine_is_part_of_what_is_timed_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(EFFICIENCY), name()
    monkeypatch.setattr("hired_eval.runs.plan.describe_machine", lambda: "another machine")
    assert name(EFFICIENCY) != before[0]
    assert name() == before[1]


def test_another_version_of_a_method_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = (plan_run(run_config(f"method={m}")).folder.path.name for m in ("hired", "full"))
    monkeypatch.setattr(HiRED, "VERSION", HiRED.VERSION + 1)
    after = plan_run(run_config("method=hired"))
    assert after.folder.path.name != before
    assert after.record.method_version == HiRED.VERSION
    assert plan_run(run_config("method=full")).folder.path.name == other


def test_the_record_holds_what_ran(tiny_run: list[str], tmp_path: Path) -> None:
    record = run_quietly(
        *tiny_run, f"runs_dir={tmp_path}", "limit=1", "method.budget=0.7", "budget=0.4"
    ).record
    options = {
        "newline": "none", "positions": "compact", "budget": 0.4, "tokens": None,
        "tokens_per_partition": None,
        "spend_leftover": False, "final_layer": None, "alpha": 0.5,
        "distribute": "content", "initial_layer": 0, "heads": "sum", "head": 0, "signal": "cls",
    }  # fmt: skip
    assert record.method == Method("hired_eval.dropping.HiRED", options)
    assert record.method_defaults == options | {"budget": None}
    assert record.method_version == HiRED.VERSION
    assert record.identity.settings["method"]["budget"] == 0.4
    assert record.identity.settings["limit"] == 2, "both questions about the picture that was drawn"
    assert record.identity.settings["order"] == "random 0"


def linked(folder: Path, target: Path) -> None:
    folder.symlink_to(target)


@pytest.mark.parametrize("place", [shutil.copytree, linked])
def test_a_checkpoint_and_documents_are_known_by_their_content(
    tiny_checkpoint: Path,
    docvqa_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Any, Any], Any],
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "ck")
    shutil.copytree(docvqa_folder, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    first = name("model.path=ck", "data.path=data")
    source = (tiny_checkpoint, docvqa_folder)
    for target, of in zip((tmp_path / "ck2", tmp_path / "data2"), source, strict=True):
        place(*((of, target) if place is shutil.copytree else (target, of)))
    for model, data in (
        ("ck/", "data/"),
        ("./ck", "./data"),
        (f"{tmp_path}/ck", "../data"),
        ("ck2", "data2"),
    ):
        data = data.replace("..", f"{tmp_path}/ck/..")
        assert name(f"model.path={model}", f"data.path={data}") == first
    (tmp_path / "ck" / "README.md").write_text("# A card")
    (tmp_path / "ck" / ".cache").mkdir()
    (tmp_path / "ck" / ".cache" / "download.metadata").write_text("yesterday")
    (file,) = (tmp_path / "data").rglob("*.parquet")
    shutil.copy(file, file.with_name("train-0.parquet"))
    file.rename(file.with_name("validation-00000-of-00001.parquet"))
    assert name("model.path=ck", "data.path=data") == first
    settings = tmp_path / "ck" / "generation_config.json"
    settings.write_text(settings.read_text().replace("{", '{"max_length": 7,', 1))
    changed = name("model.path=ck", "data.path=data")
    assert changed != first
    write_docvqa(tmp_path / "data3", 3)
    assert name("model.path=ck", "data.path=data3") not in (first, changed)


def test_a_limit_that_cuts_off_nothing_is_no_limit(tiny_run: list[str]) -> None:
    whole = name(*tiny_run)
    for order, at_11 in (("dataset", False), ("random", True)):
        names = [name(*tiny_run, f"limit={n}", f"order={order}") for n in (10, 11, 12, 13)]
        assert [n == whole for n in names] == [False, at_11, True, True], "a picture drawn last has two"


def test_a_part_drawn_at_random_is_one_run_that_grows(tiny_run: list[str]) -> None:
    part = name(*tiny_run, "limit=3")
    assert part == name(*tiny_run, "limit=7")
    assert part == name(*tiny_run, "precision=5", "limit=7")
    assert part not in (name(*tiny_run), name(*tiny_run, "limit=3", "order_seed=1"))
    assert part != name(*tiny_run, "limit=3", "order=dataset")
    assert name(*tiny_run) == name(*tiny_run, "order=dataset") == name(*tiny_run, "order_seed=1")


def test_limits_that_come_to_the_same_pairs_are_one_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write_mme(tmp_path / "data", 4)
    names = [
        name(f"model.path={tiny_checkpoint}", f"data.path={data}", "task=mme", *limit)
        for limit in (["limit=1"], ["limit=2"], ["limit=3"], ["limit=7"], [])
        for limit in [[*limit, "order=dataset"]]
    ]
    assert [names.index(n) for n in names] == [0, 0, 2, 3, 3]


@given(st.integers(-(2**40), 2**40), st.integers(-3, 6))
def test_a_number_has_one_spelling(digits: int, exponent: int) -> None:
    number = float(f"{digits}e{exponent}")
    assert repr(normal({"a": [number]})) == repr(normal({"a": [float(repr(number))]}))
    if number.is_integer():
        assert repr(normal(number)) == repr(normal(int(number)))


@pytest.mark.parametrize("size", [3 << 20, READ_WHOLE + 999])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.503, 1.0])
def test_one_changed_byte_of_the_weights_makes_other_weights(tmp_path: Path, size: int, place: float) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(size))
    before = fingerprint(tmp_path, "*")
    with file.open("r+b") as stream:
        stream.seek(min(size - 1, int(place * size)))
        stream.write(b"1")
    assert fingerprint(tmp_path, "*") != before


def test_a_checkpoint_replaced_while_a_sweep_runs_is_loaded_again(
    tiny_checkpoint: Path, docvqa_folder: Path, tmp_path: Path
) -> None:
    """Otherwise the record would name the new weights, with answers of the old ones."""
    shutil.copytree(tiny_checkpoint, tmp_path / "ck")
    options = [f"model.path={tmp_path}/ck", f"data.path={docvqa_folder}", f"runs_dir={tmp_path}/runs"]
    models = Models()
    run_quietly(*options, "method=full", models=models)
    for part in tiny.llava_next(seed=1):
        part.save_pretrained(tmp_path / "ck")
    second = run_quietly(*options, "method=full", models=models)
    alone = run_quietly(*options[:2], f"runs_dir={tmp_path}/alone", "method=full")
    assert second.folder.name == alone.folder.name
    assert samples_of(second) == samples_of(alone)


def test_a_run_of_a_sweep_is_the_run_alone(tiny_run: list[str], tmp_path: Path) -> None:
    """Neither methods, seeds, nor numeric types leave anything behind for the next run."""
    asked = [
        ["method=prumerge_plus"],
        ["method=random", "seed=4", "model.dtype=bfloat16"],
        ["method=random", "seed=3"],
    ]
    models = Models()
    for options in asked:
        sweep = [*tiny_run, *options, f"runs_dir={tmp_path}/sweep"]
        together = run_quietly(*sweep, models=models)
        alone = run_quietly(*tiny_run, *options, f"runs_dir={tmp_path}/alone")
        assert together.folder.name == alone.folder.name
        assert samples_of(together) == samples_of(alone)


def test_a_new_commit_on_the_hub_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub cannot be reached, the commit is the one that was fetched last."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "explain_unreachable", lambda: "the test has no hub")
    names = []
    for weights, documents in (("a1", "b1"), ("a1", "b2"), ("a2", "b2")):
        for kind, known in ((MODEL_CACHE, weights), (DOCVQA_CACHE, documents)):
            (tmp_path / kind / "refs").mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / "refs" / "main").write_text(known)
        hub.commit.cache_clear()
        of_run = [
            identify_run(
                settings,
                str(settings.model.hub_id),
                DataSource("hub"),
                HiRED(),
                limit=None,
            )
            for settings in (
                run_config("model=llava_next_7b", "data=hub"),
                run_config("model=llava_next_7b", "data=hub", "model.revision=main"),
            )
        ]
        assert (of_run[0].checkpoint, of_run[0].documents) == (weights, documents)
        assert name_run(of_run[0]) == name_run(of_run[1])
        names.append(name_run(of_run[0]))
    hub.commit.cache_clear()
    assert len(set(names)) == 3


def test_a_build_for_a_device_is_no_other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = plan().record.identity

    def with_version(package: str, version: str) -> str:
        return name_run(replace(identity, versions=identity.versions | {package: version}))

    torch = identity.versions["torch"].partition("+")[0]
    assert (
        with_version("torch", f"{torch}+cu128") == with_version("torch", f"{torch}+cpu") == name_run(identity)
    )
    assert with_version("hired-eval", "9.9") == with_version("python", "3.11.99") == name_run(identity)
    for package in identity.versions.keys() - {"hired-eval", "python"}:
        assert with_version(package, "0.0.1") != name_run(identity)


def test_a_text_tower_is_known_by_its_content(tiny_run: list[str], tmp_path: Path) -> None:
    names = []
    for folder, content in (("one", "a"), ("copy", "a"), ("other", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(content)
        names.append(name(*tiny_run, "method=cdpruner", f"method.text_tower={tmp_path / folder}"))
    assert names[0] == names[1] != names[2]
    assert name(*tiny_run, "method=cdpruner") not in names


def test_documents_with_another_name_are_another_run_in_another_block(
    tiny_run: list[str], tmp_path: Path
) -> None:
    """The same documents twice, since only the name is to tell."""
    options = [*tiny_run, "method=full", "limit=2", f"runs_dir={tmp_path}"]
    records = [run_quietly(*options, *name).record for name in ([], ["data.name=receipts"])]
    assert records[0].run != records[1].run
    assert [record.data for record in records] == ["local copy", "receipts"]
    store = Store(tmp_path)
    assert [block.label for block in blocks_of(store.accuracy())] == [
        "mini, local copy data",
        "mini, receipts data",
    ]
    assert not store.superseded
