"""`hired-eval plan`: what a run or a sweep will take, before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from hired_eval.cli.arguments import quote
from hired_eval.cli.composing import compose_jobs
from hired_eval.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Print what each run takes, and all of them together.

    Raises:
        UserError: a name or an option is wrong, or the speed is no positive number.
    """
    from hired_eval.reporting.render import aligned
    from hired_eval.runs.forecast import TFLOPS, forecast, summarize_forecasts

    parser = argparse.ArgumentParser(prog="hired-eval plan", description=__doc__, allow_abbrev=False)
    parser.add_argument("--tflops", type=float, default=TFLOPS, help="TFLOP a second of the card")
    asked, overrides = parser.parse_known_args(list(arguments))
    if not asked.tflops > 0:
        raise UserError(f"--tflops must be above 0, got {asked.tflops:g}")
    with TemporaryDirectory() as scratch:
        # Hydra leaves a note of a sweep, and a launcher would start it
        nowhere = [f"hydra.sweep.dir={quote(scratch)}", "hydra/launcher=basic"]
        jobs = compose_jobs(overrides, nowhere)
    found = forecast([job.read() for job in jobs])
    head = ["benchmark", "model", "method", "questions", "encodings", "TFLOP", "from"]
    rows = [
        [
            f.benchmark,
            f.model,
            f.method,
            f"{f.questions} of {f.documents}",
            str(f.encodings),
            "-" if f.tflop is None else f"{f.tflop:.3g}",
            "records" if f.known else "assumption",
        ]
        for f in found
    ]
    print(aligned([head, *rows]))
    print(summarize_forecasts(found, asked.tflops))
    if not all(f.known for f in found):
        print(
            '"assumption": no record says how scores differ; one answer in ten is taken to change, and '
            "pictures to have 672 x 672 pixels"
        )
