"""Fills in the tables of README.md and docs/, so that no score or method in them is written by hand.

`--runs FOLDER` first renews results/mini/methods.csv and results/mini/fidelity.csv from run records, which
`make measured` makes. Without it, the tables are filled from the files in results/mini/.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.method_configs import method_configs
from hired_eval.models.families import FAMILIES
from hired_eval.models.family import Family
from hired_eval.models.published import PUBLISHED
from hired_eval.paths import config_folder
from hired_eval.records.record import Record
from hired_eval.records.store import Store, best
from hired_eval.reporting.rows import budget_of, option_text
from hired_eval.runs.identity import effective_method
from hired_eval.typed import types_of

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "results" / "mini"
START, END = "<!-- {}, made by scripts/fill_docs.py: start -->", "<!-- {}: end -->"
BENCHMARK = "docvqa"
BUDGET = 0.2
Options = dict[str, object]
# what is compared -> the two ways: the method and the options that differ from its config's
COMPARISONS: dict[str, tuple[tuple[str, Options], tuple[str, Options]]] = {
    "the released code's selection, against Algorithm 1": (("hired_released", {}), ("hired", {})),
    "newline tokens within the budget, against none": (("hired", {"newline": "rows"}), ("hired", {})),
    "leftover budget spent, against the paper's floors": (("hired", {"spend_leftover": True}), ("hired", {})),
    "full execution without newline tokens, against the stock model": (
        ("full", {"newline": "none"}),
        ("full", {}),
    ),
    "Spatial by sampling, against pooling": (("spatial_sampling", {}), ("spatial", {})),
    "PruMerge held to the budget, against its own count": (("prumerge_budget", {}), ("prumerge", {})),
    "HoloV: attention alone within a band, against the combined score": (
        ("holov", {"within": "attention"}),
        ("holov", {}),
    ),
    "GlobalCom2: logits, against attention": (("globalcom2", {"scores": "logit"}), ("globalcom2", {})),
    "HiPrune: neighbours that wrap, against those on the map": (("hiprune", {"wrap": True}), ("hiprune", {})),
}

# options with which families that cannot serve a method as it is are tried
WAYS: list[Options] = [
    {},
    {"signal": "received"},
    {"signal": "received", "distribute": "even"},
    {"object_depth": 0.5},
]

Row = dict[str, str]
EVERYWHERE = (
    ("newline", "none"), ("positions", "compact"), ("tokens", None), ("tokens_per_partition", None)
)  # fmt: skip
"""Options that the list of methods explains once."""


def chosen(records: list[Record], name: str, options: Options) -> Record:
    """The run of a method with these options, at the budget of the tables where it has one.

    Raises:
        UserError: it has not been run.
    """
    wanted = effective_method(build(name, **options))
    found = [
        r
        for r in records
        if budget_of(r) in (None, BUDGET)
        and r.method.target == wanted.target
        and {**r.method.options, "budget": None} == {**wanted.options, "budget": None}
    ]
    record = best(found)
    if record is None:
        raise UserError(
            f"no complete run of {name} with {options or 'its defaults'}; start with make measured"
        )
    return record


def renew(runs: Path) -> None:
    """Write what the tables are made of from the run records of the bundled model."""
    store = Store(runs)
    records = [
        r for r in store.accuracy() if r.model == "mini" and r.benchmark.name == BENCHMARK and not r.partial
    ]
    rows = []
    for name in method_configs():
        r = chosen(records, name, {})
        score, tokens = store.score([r]), r.tokens
        rows.append(
            {
                "method": name,
                "kept": f"{tokens.kept.mean:.0f}",
                "full": f"{tokens.full.mean:.0f}",
                **{k: f"{getattr(score, k):.1f}" for k in ("value", "low", "high")},
                "run": r.run,
            }
        )
    write_rows(MEASURED / "methods.csv", rows)
    rows = []
    for what, (one, other) in COMPARISONS.items():
        first, second = (chosen(records, *way) for way in (one, other))
        difference = store.difference([(first, second)])
        assert difference is not None, "both answer the whole benchmark"
        rows.append(
            {
                "what": what,
                "kept": f"{first.tokens.kept.mean:.0f}",
                "kept_other": f"{second.tokens.kept.mean:.0f}",
                "score": f"{store.score([first]).value:.1f}",
                "score_other": f"{store.score([second]).value:.1f}",
                **{k: f"{getattr(difference, k):+.1f}" for k in ("value", "low", "high")},
                "beyond_noise": str(difference.beyond_noise),
            }
        )
    write_rows(MEASURED / "fidelity.csv", rows)


def write_rows(file: Path, rows: list[Row]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(name: str) -> list[Row]:
    with (MEASURED / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def table3() -> Iterator[list[str]]:
    """Scores alone; tokens and scores as results/mini/table3.md prints them."""
    labels = {row["row"] for row in read_rows("table3.csv")}
    lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (MEASURED / "table3.md").read_text().splitlines()
        if line.startswith("|")
    ]
    yield ["method", "tokens kept", *lines[0][2:]]
    yield from (
        [line[0], line[1], *(c.split(" [")[0] for c in line[2:])] for line in lines if line[0] in labels
    )


def listed() -> Iterator[list[str]]:
    """The methods as their configs describe them: two lines of comment, and the options with their values."""
    yield ["`method=`", "keeps", "source", "options"]
    for name, config in method_configs().items():
        keeps, source, *_ = (config_folder() / "method" / f"{name}.yaml").read_text().splitlines()
        options = [
            # what the run fills in has no value here
            f"`{option}`" if str(value).startswith("${") else f"`{option_text(option, value)}`"
            for option, value in config.options.items()
            if (option, value) not in EVERYWHERE
        ]
        yield [f"`{name}`", keeps[2:], source.removeprefix("# Source: "), ", ".join(options)]


def families() -> Iterator[list[str]]:
    """What each family, with a vision tower of published shape, does with each method."""
    yield ["`method=`", *(f"`{name}`" for name in FAMILIES)]
    shapes = [config() for _, config in PUBLISHED.values()]
    with torch.device("meta"):
        known = [
            family(family.stock._from_config(next(c for c in shapes if c.model_type == name)))
            for name, family in FAMILIES.items()
        ]
    for name in method_configs():
        yield [f"`{name}`", *(served(family, name) for family in known)]


def served(family: Family, name: str) -> str:
    """Whether a family serves a method, with which options, or why not."""
    reasons = []
    for options in WAYS:
        if options.keys() <= types_of(type(build(name))).keys():
            try:
                family.refuse_what_is_not_there(build(name, **options).vision)
            except UserError as error:
                reasons.append(str(error).split(", ")[0].replace(f" of {family.tower_class.__name__}", ""))
                continue
            set_so = " ".join(option_text(option, value) for option, value in options.items())
            return f"with `{set_so}`" if options else "yes"
    return f"no: {reasons[-1]}"


def methods() -> Iterator[list[str]]:
    yield ["`method=`", "tokens kept", "of", "score", "95 % interval"]
    for row in read_rows("methods.csv"):
        interval = f"{row['low']} to {row['high']}"
        yield [f"`{row['method']}`", row["kept"], row["full"], row["value"], interval]


def fidelity() -> Iterator[list[str]]:
    yield ["what, against what", "tokens kept", "scores", "difference [95 % interval]", ""]
    for row in read_rows("fidelity.csv"):
        yield [
            row["what"],
            f"{row['kept']} against {row['kept_other']}",
            f"{row['score']} against {row['score_other']}",
            f"{row['value']} [{row['low']}, {row['high']}]",
            "beyond noise" if row["beyond_noise"] == "True" else "not resolved at this n",
        ]


TABLES: dict[str, tuple[Path, Callable[[], Iterator[list[str]]]]] = {
    "table3": (ROOT / "README.md", table3),
    "list": (ROOT / "docs" / "methods.md", listed),
    "methods": (ROOT / "docs" / "methods.md", methods),
    "families": (ROOT / "docs" / "families.md", families),
    "fidelity": (ROOT / "docs" / "fidelity.md", fidelity),
}


def filled(name: str, text: str) -> str:
    """A page's text with its table as measured."""
    head, *body = TABLES[name][1]()
    lines = [head, ["---"] * len(head), *body]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    start, end = START.format(name), END.format(name)
    return f"{text.split(start)[0]}{start}\n\n{table}\n\n{end}{text.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="renew results/mini from the records in this folder first")
    options = parser.parse_args()
    if options.runs:
        try:
            renew(options.runs)
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
    for name, (page, _) in TABLES.items():
        page.write_text(filled(name, page.read_text()))
        print(f"written: {name} in {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
