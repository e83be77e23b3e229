"""`hired-eval compare`: which runs a user means, what is said of them, and a page that is inert."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hired_eval.cli.compare import main
from hired_eval.errors import UserError
from hired_eval.records.store import Store
from hired_eval.reporting.comparison import compare, printed
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import Outcome
from hired_eval.runs.redrawn import redraw
from tests.reporting import synthetic
from tests.spine import run_quietly


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Path, docvqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "Made":
    """Two runs of the tiny model, whose answers differ."""
    return Made(tiny_checkpoint, docvqa_folder, tmp_path_factory.mktemp("runs"))


class Made:
    """Overrides and outcomes of two runs."""

    def __init__(self, model: Path, data: Path, runs: Path) -> None:
        self.runs, models = runs, Models()
        common = f"limit=6 model.path={model} data.path={data}"
        self.asked = [f"method=full {common}", f"method=hired budget=0.2 {common}"]
        self.outcomes: list[Outcome] = [
            run_quietly(*asked.split(), f"runs_dir={runs}", models=models) for asked in self.asked
        ]


def test_two_configs_are_compared_with_pictures(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "compare.html"
    main([*made.asked, "--runs-dir", str(made.runs), "--out", str(out), "--pictures", "2"])
    said, page = capsys.readouterr(), out.read_text()
    names = [outcome.record.run for outcome in made.outcomes]
    assert all(name in said.out and name in page for name in names)
    assert re.search(
        r"^B - A: [+-]0\.0 \[-[\d.]+, \+[\d.]+\], not resolved at this n \(n=6, .* whole",
        said.out,
        re.MULTILINE,
    ), "drawn"
    counts = re.search(r"of 6 documents: right to wrong 0 .*other text (\d) \(", said.out)
    assert counts
    assert int(counts[1]) > 0, "the tiny model says something else"
    assert "no pictures" not in said.err
    assert page.count("<img") == 2 * min(2, int(counts[1]))
    assert page.count("\u2717 wrong") == page.count("<img"), "two wrong answers in other words"
    assert "HiRED 20 %</strong>, " in page


def test_runs_are_named_by_name_or_folder(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (outcome.folder for outcome in made.outcomes)
    out = ["--out", str(tmp_path / "a.html"), "--pictures", "0"]
    main([first.name, second.name, "--runs-dir", str(made.runs), *out])
    by_name = capsys.readouterr().out
    main([str(first), str(second), *out])
    assert capsys.readouterr().out == by_name
    assert "<img" not in (tmp_path / "a.html").read_text()


def test_what_was_kept_is_what_the_run_kept(made: Made) -> None:
    record = made.outcomes[1].record
    samples = Store(made.runs).samples(record)
    found = redraw(record, samples["doc_id"].iloc[[0, 3]].tolist(), Models(), lambda line: None)
    of_run = samples.set_index("doc_id")["kept"].iloc[[0, 3]]
    assert {number: one.kept for number, one in found.items()} == dict(of_run)
    assert all(len(one.arrays["kept_0"]) == one.kept for one in found.values())


def two(runs: Path, **second: object) -> tuple[Store, Store]:
    """Full execution, and a run that is worse on a part of the documents."""
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.9, question=synthetic.HOSTILE)
    synthetic.write_run(runs, "hired", **{"task": "docvqa", "accuracy": 0.5, "budget": 0.2} | second)  # type: ignore[arg-type]
    return Store(runs), Store(runs)


def test_the_difference_and_the_flips_are_those_of_the_samples(tmp_path: Path) -> None:
    store, _ = two(tmp_path)
    full, hired = sorted(store.accuracy(), key=lambda r: "hired" in r.run)
    found = compare((store, full), (store, hired))
    before, after = store.samples(full)["score"], store.samples(hired)["score"]
    assert found.difference.value == pytest.approx(100 * (after.mean() - before.mean()))
    assert found.flips.count("right to wrong") == (after < before).sum() > 10
    text = printed(found)
    assert "beyond noise" in text
    assert "... and" in text
    assert "\x07" not in text
    back = compare((store, hired), (store, full))
    assert back.difference.value == -found.difference.value
    assert back.flips.count("wrong to right") == found.flips.count("right to wrong")


def test_the_page_of_a_comparison_is_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = two(tmp_path)
    names = sorted((r.run for r in store.accuracy()), key=lambda name: "hired" in name)
    out = tmp_path / "c.html"
    main([*names, "--runs-dir", str(tmp_path), "--out", str(out)])
    page = out.read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "no pictures: " in capsys.readouterr().err, "synthetic runs have no model"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"task": "textvqa"}, "is on benchmark docvqa and textvqa-"),
        ({"documents_are": "others"}, "answered other documents (bundled and bundled); compare runs on the"),
    ],
)
def test_runs_that_do_not_compare_are_refused(
    tmp_path: Path, second: dict[str, object], message: str
) -> None:
    store, _ = two(tmp_path, **second)
    full, hired = sorted(store.records, key=lambda r: "hired" in r.run)
    with pytest.raises(UserError) as refused:
        compare((store, full), (store, hired))
    assert message in str(refused.value)


def test_runs_without_a_common_document_or_a_score_are_refused(tmp_path: Path) -> None:
    store, _ = two(tmp_path)
    full, hired = sorted(store.records, key=lambda r: "hired" in r.run)
    with pytest.raises(UserError, match="is not a finished run with a score; choose another one"):
        compare((store, full), (store, replace(hired, status="failed")))
    file = tmp_path / hired.run / "samples.parquet"
    samples = pd.read_parquet(file)
    samples.assign(doc_id=samples["doc_id"] + 1000).to_parquet(file)
    with pytest.raises(UserError, match="have no document in common; run both with one limit"):
        compare((store, full), (store, hired))


def test_pictures_of_another_checkpoint_or_that_cannot_be_read_are_refused(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made.outcomes[0].record
    other = replace(record, identity=replace(record.identity, checkpoint="another"))
    with pytest.raises(
        UserError, match=r"the checkpoint or the documents of .* have changed since; run it again"
    ):
        redraw(other, [0], Models(), lambda line: None)

    def broken(task: object, document: object) -> None:
        raise OSError("cut off")

    monkeypatch.setattr("lmms_eval.api.task.ConfigurableTask.doc_to_visual", broken)
    monkeypatch.setattr("hired_eval.lmms.tasks.check_documents", lambda *arguments: None)
    with pytest.raises(UserError, match="the picture of document 0 cannot be read: cut off"):
        redraw(record, [0], Models(), lambda line: None)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    store, _ = two(tmp_path, settings={"dtype": "float16"})
    full, hired = sorted(store.records, key=lambda r: "hired" in r.run)
    assert "B also differs from A in dtype=float16" in printed(compare((store, full), (store, hired)))
