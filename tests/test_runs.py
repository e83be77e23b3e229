"""One run: what its record says, when it is reused, and how it survives faults."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hired_eval.errors import UserError
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.tasks import load_task
from hired_eval.models.answering import Answer, DroppingVLM, Prepared
from hired_eval.records.record import Benchmark, Count
from hired_eval.runs.measuring import Outcome
from tests import tiny
from tests.data import truncated_png, write_docvqa, write_mme, write_ocrbench
from tests.spine import held_elsewhere, run_quietly


def samples_of(outcome: Outcome) -> pd.DataFrame:
    return pd.read_parquet(outcome.folder / "samples.parquet")


@pytest.fixture(scope="session")
def finished(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run of all twelve documents that nothing interrupted."""
    return run_quietly(*tiny_run, f"runs_dir={tmp_path_factory.mktemp('finished')}", "batch_size=1")


class CountedAnswers:
    """Counts the answers the model gives, and fails at the one asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> None:
        self.given = 0
        answer = DroppingVLM.answer

        def counted(
            llava: DroppingVLM, batch: list[Prepared], generation: dict[str, Any], seeds: list[int]
        ) -> list[Answer]:
            if fail_at is not None and self.given + len(batch) > fail_at:
                raise RuntimeError("the machine fails")
            self.given += len(batch)
            return answer(llava, batch, generation, seeds)

        monkeypatch.setattr(DroppingVLM, "answer", counted)


def test_the_record_says_all_that_a_report_needs(finished: Outcome) -> None:
    record, samples = finished.record, samples_of(finished)
    assert record.status == "complete"
    assert not record.partial
    assert record.samples == record.documents == len(samples) == 12
    assert record.benchmark.lmms_task == "docvqa_val"
    assert record.method.target == "hired_eval.dropping.HiRED"
    assert record.method_label == "HiRED"
    assert record.score is not None
    assert record.score.value == pytest.approx(100 * samples["score"].mean())
    assert record.score.low <= record.score.value <= record.score.high
    assert record.score.clusters == 6, "two questions a picture"
    assert record.identity.versions.keys() >= {"torch", "transformers", "lmms_eval", "python"}
    assert record.seed == 0
    assert record.timings.seconds > 0
    assert record.timings.questions_timed == 12
    assert list(samples["doc_id"]) == list(range(12))
    assert samples["question"][3].startswith("what is number 3?")
    assert json.loads(samples["target"][3]) == ["3", "a"]
    assert (samples["kept"] > 0).all()
    assert (samples["kept"] <= samples["allowed"]).all()
    assert (samples["allowed"] < samples["full"]).all()
    for name in ("kept", "allowed", "full"):
        assert getattr(record.tokens, name) == Count(
            pytest.approx(samples[name].mean()),  # type: ignore[arg-type]
            samples[name].max(),
        )


def test_the_same_config_is_reused_and_another_is_another_run(tiny_run: list[str], tmp_path: Path) -> None:
    base = [*tiny_run, f"runs_dir={tmp_path}", "limit=2", "order=dataset"]
    first = run_quietly(*base)
    assert not first.reused
    again = run_quietly(*base, "profile=mini")
    assert again.reused
    assert again.record == first.record
    folders = {first.folder}
    for change in ("budget=0.4", "method=full", "seed=1", "limit=3"):
        other = run_quietly(
            *[option for option in base if option != "limit=2" or "limit" not in change], change
        )
        assert not other.reused
        folders.add(other.folder)
    assert len(folders) == 5
    assert not run_quietly(*base, "rerun=true").reused


def test_other_weights_or_documents_at_the_same_place_are_another_run(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    model.symlink_to(tiny_checkpoint)
    write_docvqa(data, 2)
    options = [f"model.path={model}", f"data.path={data}", f"runs_dir={tmp_path / 'runs'}"]
    first = run_quietly(*options)
    assert run_quietly(*options).reused
    write_docvqa(data, 2, [tiny.picture(77, 78)])
    second = run_quietly(*options)
    model.unlink()
    for part in tiny.llava_next(seed=1):
        part.save_pretrained(model)
    third = run_quietly(*options)
    assert len({first.folder, second.folder, third.folder}) == 3


@pytest.mark.parametrize("fail_at", [0, 1, 7, 11])
def test_a_run_that_broke_off_goes_on_where_it_stopped(
    finished: Outcome, fail_at: int, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*tiny_run, f"runs_dir={tmp_path}", "batch_size=1"]
    with monkeypatch.context() as patch:
        CountedAnswers(patch, fail_at)
        with pytest.raises(RuntimeError, match="the machine fails") as broken:
            run_quietly(*options)
    assert "docvqa_val document" in broken.value.__notes__[0]
    rest = CountedAnswers(monkeypatch)
    outcome = run_quietly(*options)
    assert rest.given == 12 - fail_at
    assert outcome.record.timings.questions_timed == 12 - fail_at
    pd.testing.assert_frame_equal(samples_of(outcome), samples_of(finished))
    assert outcome.record.score == finished.record.score
    assert not (outcome.folder / "replies.jsonl").exists()


@pytest.mark.parametrize("limit", ["null", "2"])
def test_documents_are_read_once_a_run(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    reads: list[str] = []

    def counted(benchmark: Benchmark, data: DataSource) -> Any:
        reads.append(benchmark.name)
        return load_task(benchmark, data)

    monkeypatch.setattr("hired_eval.runs.plan.load_task", counted)
    outcome = run_quietly(*tiny_run, f"runs_dir={tmp_path}", f"limit={limit}", "++method.label=Ours")
    assert reads == ["docvqa"]
    assert outcome.record.method_label == outcome.record.config["method"]["label"] == "Ours"


def test_two_processes_do_not_run_the_same(tiny_run: list[str], tmp_path: Path) -> None:
    options = [*tiny_run, f"runs_dir={tmp_path}", "limit=1"]
    folder = run_quietly(*options).folder
    with (
        held_elsewhere(tmp_path, folder.name),
        pytest.raises(UserError, match="another process is working on this run"),
    ):
        run_quietly(*options)
    assert run_quietly(*options).reused


def test_a_failed_sample_is_recorded_and_tried_again(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [tiny.picture(60, 60), truncated_png(), tiny.picture(70, 60)]
    data = write_docvqa(tmp_path / "data", 6, pictures)
    options = [f"model.path={tiny_checkpoint}", f"data.path={data}", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match=r"docvqa_val document 2: its image cannot be read: .*truncated"):
        run_quietly(*options)
    first = CountedAnswers(monkeypatch)
    outcome = run_quietly(*options, "on_error=record")
    assert first.given == 2, "the two questions before the damaged picture were answered already"
    samples = samples_of(outcome)
    assert outcome.record.status == "failed"
    assert outcome.record.failed_samples == 2
    assert outcome.record.score is None
    assert list(samples["error"].notna()) == [False, False, True, True, False, False]
    assert samples["score"].isna().equals(samples["error"].notna())
    again = CountedAnswers(monkeypatch)
    assert not run_quietly(*options, "on_error=record").reused
    assert again.given == 0


def test_a_limit_is_marked_and_cuts_no_pair_of_mme(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = [f"model.path={tiny_checkpoint}", f"runs_dir={tmp_path / 'runs'}", "task=mme", "order=dataset"]
    options.append(f"data.path={write_mme(tmp_path / 'data', 4)}")
    for limit, answered in ((1, 2), (2, 2), (3, 4)):
        record = run_quietly(*options, f"limit={limit}").record
        assert (record.samples, record.documents) == (answered, 8)
        assert record.partial
        assert record.score.n == answered // 2
    whole = run_quietly(*options)
    assert not whole.record.partial
    assert whole.record.score.n == 2, "the other two pairs are of the cognition part"
    assert samples_of(whole)["score"].notna().sum() == 4


def test_ocrbench_is_scored_right_in_every_run_of_a_process(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_checkpoint}", f"runs_dir={tmp_path / 'runs'}", "task=ocrbench"]
    options.append(f"data.path={write_ocrbench(tmp_path / 'data', right=3, wrong=1)}")
    for repeated in (["method=full"], ["method=hired"], ["method=hired", "rerun=true"]):
        record = run_quietly(*options, *repeated).record
        assert record.score.value == 750
        assert record.lmms_eval_metrics["ocrbench_accuracy,none"] == 0.003
    limited = run_quietly(*options, "limit=2", "order=dataset").record
    assert limited.score.value == 100, "a share of what was asked in percent, not points of 1000"
    assert limited.partial
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}, "no file for a leader board"


def test_records_hold_no_home_folder_and_no_token(
    tiny_checkpoint: Path, docvqa_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name, target in (("model", tiny_checkpoint), ("data", docvqa_folder)):
        (tmp_path / name).symlink_to(target)
    paths = [f"{name}={tmp_path}/{name.split('.')[0]}" for name in ("model.path", "data.path", "runs_dir")]
    outcome = run_quietly(*paths, "limit=2")
    assert outcome.record.config["data"]["path"] == "~/data"
    for file in outcome.folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        assert b"hf_secret" not in file.read_bytes()
