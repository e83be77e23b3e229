"""`python -m bench`: all comparisons in one run, as a table on the screen and in docs/speed.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from bench import end_to_end, gpu, parts
from bench.harness import Comparison, table
from hired_eval.errors import UserError
from hired_eval.mini import checkpoint_path
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.runs.options import Workload
from hired_eval.runs.plan import describe_machine

START, END = "<!-- made by make bench: start -->", "<!-- end -->"
CASES = "abcdefgh"


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["gpu"]:
        gpu.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--cases", default=CASES, help=f"letters of {CASES}; h: memory of the vision side")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns after the warm-up")
    parser.add_argument("--documents", type=int, default=36, help="of each bundled benchmark")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", type=Path, help="another checkpoint than the bundled one for a, e and f")
    parser.add_argument("--shapes", default="dummy/clip-l-small", help="dummy model of b, g and h")
    parser.add_argument("--dtype", default="float32", help="of the dummy model")
    parser.add_argument("--side", type=int, default=672, help="of the picture of b, g and h, in pixels")
    parser.add_argument("--write", type=Path, help="put the table between the marks in this file")
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        sys.exit(f"error: no case {', '.join(sorted(unknown))}; choose letters of {CASES}")
    try:
        report = measured(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(report)
    if options.write:
        text = options.write.read_text()
        before, after = text.split(START)[0], text.split(END)[1]
        options.write.write_text(f"{before}{START}\n{report}\n{END}{after}")


def measured(options: argparse.Namespace) -> str:
    """Run the chosen cases; the table and, below it, what it was measured on."""
    rows: list[Comparison] = []
    lines: list[str] = []
    device, repeats = torch.device(options.device), options.repeats
    model = options.model or checkpoint_path()
    setting = end_to_end.Setting(str(model), options.device, options.documents, options.batch_size, repeats)
    if "a" in options.cases:
        rows += end_to_end.against_llava_hf(setting)
    if "c" in options.cases:
        rows += parts.cls_rows(device, repeats)
    if "d" in options.cases:
        rows += parts.prumerge(device, repeats)
    if "e" in options.cases:
        rows += end_to_end.prefix_sharing(setting)
    if "f" in options.cases:
        rows += end_to_end.encode_once(setting)
    if not set("bgh").isdisjoint(options.cases):
        dummy = load_checkpoint(options.shapes, weights="dummy", dtype=options.dtype, device=options.device)
        work = Workload(options.side, options.side, text_tokens=60, new_tokens=15, warm_up=1, repeats=repeats)
        if "b" in options.cases:
            rows += parts.dropping(dummy, work, repeats)
        if "g" in options.cases:
            rows += parts.selection(dummy, work, repeats)
        if "h" in options.cases:
            memory = ", ".join(f"{what} {gb:.4f} GB" for what, gb in parts.vision_memory(dummy, work))
            lines.append(f"(h) Peak memory that the vision side allocates: {memory}. Target: below stock.")
    rows.sort(key=lambda row: row.what[:3])
    conditions = (
        f"{describe_machine()}; PyTorch {torch.__version__}; median of {repeats} turns after one to warm up, "
        "lowest and highest in brackets. "
        f"a, e and f: {options.documents} documents a benchmark. "
        f"b, g and h: {options.shapes} in {options.dtype}, a picture of {options.side} x {options.side}."
    )
    return "\n\n".join([table(rows), *lines, conditions]) if rows else "\n\n".join([*lines, conditions])


if __name__ == "__main__":
    main()
