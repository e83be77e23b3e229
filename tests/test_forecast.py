"""What a sweep is said to take: more where scores differ more, less where an answer needs less."""

from dataclasses import replace
from pathlib import Path

import pytest

from hired_eval.records.goal import Goal
from hired_eval.runs.forecast import Forecast, forecast, needed, summarize_forecasts
from tests.reporting import synthetic
from tests.spine import run_config


def test_questions_grow_with_the_square_of_what_is_asked_until_all_are_needed() -> None:
    """10 % of the answers change, as in the made-up benchmarks of docs/precision.md."""
    asked = [needed(Goal(precision), 1000, 0, 10**7, 1) for precision in (8, 4, 2, 1)]
    assert asked == sorted(asked)
    assert asked[3] == pytest.approx(2 * 3.69 * 1000, rel=0.5)
    assert needed(Goal(0.1), 1000, 0, 5000, 1) == 5000
    assert needed(Goal(margin=1), 1000, 0.5, 10**7, 1) > asked[3]
    assert needed(Goal(margin=1), 1000, 9, 10**7, 1) == 200, "far from the margin"
    assert needed(Goal(margin=1), 1000, 1, 10**7, 1) == 10**7, "on the margin"
    assert needed(Goal(different=True), 1000, 0, 5000, 1) == 5000
    assert needed(Goal(margin=1), 1000, 0, 5000, 1, own=True) == 200


def test_records_tell_how_much_scores_differ_and_full_answers_for_the_method_that_needs_most(
    tmp_path: Path,
) -> None:
    for method, accuracy in (("full", 0.9), ("hired", 0.85)):
        synthetic.write_run(tmp_path, method, "docvqa", documents=5000, pictures=5000, accuracy=accuracy)
    options = ["data=bundled", "task=docvqa", f"runs_dir={tmp_path}", "precision=5"]
    full, hired, visionzip = forecast(
        [run_config(*options, f"method={name}") for name in ("full", "hired", "visionzip")]
    )
    assert (full.known, hired.known, visionzip.known) == (True, True, False)
    assert full.questions == max(hired.questions, visionzip.questions)
    assert hired.questions < hired.documents == 5000
    assert full.tflop is not None
    assert hired.tflop is not None
    assert full.tflop / full.questions > hired.tflop / hired.questions
    limited, whole = (
        forecast([run_config(*options[:3], *more)])[0] for more in (["limit=300"], ["task=docvqa"])
    )
    assert (limited.questions, whole.questions) == (300, 5000)


def test_arithmetic_of_the_papers_model_is_that_of_the_readme() -> None:
    """42 TFLOP a full-size question of Full on the 7B model."""
    (found,) = forecast([run_config("profile=paper", "method=full", "task=pope", "runs_dir=/nowhere")])
    assert (found.documents, found.questions) == (9000, 9000)
    assert found.tflop is not None
    assert found.tflop / found.questions == pytest.approx(42, rel=0.1)


@pytest.mark.parametrize(
    ("model", "text", "tokens", "tower", "patches"),
    [
        ("llava_onevision_0_5b", 0.358, 2941, 0.396, 5 * 729),
        ("internvl3_1b", 0.358, 1280, 0.302, 5 * 1024),
        ("qwen2_5_vl_3b", 2.77, 576, 0.631, 2304),
        ("qwen3_vl_4b", 3.63, 441, 0.302, 1764),
    ],
)
def test_every_family_has_its_arithmetic(
    model: str, text: float, tokens: int, tower: float, patches: int
) -> None:
    """Two operations a weight and token: billions of weights in layers, for a picture of 672 x 672 pixels.

    Attention, the projector and the output layer come on top.
    """
    options = ["profile=paper", f"model={model}", "task=pope", "runs_dir=/nowhere"]
    full, fewer = forecast([run_config(*options, f"method={name}") for name in ("full", "divprune")])
    assert full.tflop is not None
    assert fewer.tflop is not None
    least = 2e-3 * (text * (tokens + 60) + tower * patches)
    assert least < full.tflop / full.questions < 1.7 * least
    assert fewer.tflop < full.tflop


def test_the_sum_of_a_sweep_is_one_line() -> None:
    one = Forecast("a", "m", "Full", 1000, 200, 100, 360.0, True)
    runs = [one, replace(one, questions=300, tflop=None)]
    assert summarize_forecasts(runs, 100) == (
        "2 runs: about 500 of 2,000 questions (25 %), 200 encodings, 360 TFLOP, 0.001 GPU hours at 100 TFLOP "
        "a second, not counting 1 runs of unknown shape"
    )
