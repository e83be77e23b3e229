"""The paper's figures, and the accuracy-token curve, from run records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from PIL import Image

from hired_eval.errors import UserError
from hired_eval.method_configs import BUDGETS
from hired_eval.records.context import versions_note
from hired_eval.records.record import Record
from hired_eval.records.statistics import FEWEST, Estimate
from hired_eval.records.store import Store, best
from hired_eval.reporting.choosing import (
    NothingYetError,
    newest,
    nothing_yet,
    of_models,
    one_block,
    others,
    rows_for,
)
from hired_eval.reporting.configs import PACKAGED, Configs
from hired_eval.reporting.rows import (
    FULL,
    HIRED,
    Row,
    budget_of,
    options_of,
    percent,
    rows_of,
    target_of,
    without_budget,
)
from hired_eval.reporting.spec import RowSpec, TableSpec
from hired_eval.reporting.tables import provenance, repetitions, with_seeds

matplotlib.use("Agg")

BARS = f"Bars: 95 % intervals; none where a bootstrap has fewer than {FEWEST} pictures."

# Okabe and Ito's colours, which stay apart for the colour-blind; markers and dashes tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#bbbbbb"
COLUMN = (3.4, 2.4)
"""Inches of a figure that is as wide as a column of a paper."""
TICKS = (5, 10, 20, 40, 100)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what a reader must know.

    Attributes:
        name: e.g. figure5; also the name of its files.
        title: one line.
        figure: of matplotlib.
        alternative: what it shows, in words, for readers who do not see it.
        notes: one line each.
    """

    name: str
    title: str
    figure: Figure
    alternative: str
    notes: Sequence[str] = field(default_factory=tuple)


def _line(i: int) -> dict[str, Any]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        "linestyle": DASHES[(i + 2 * (i // len(COLOURS))) % len(DASHES)],
        "markersize": 3.5,
        "linewidth": 1.2,
    }


def figure2(store: Store, configs: Configs = PACKAGED) -> Drawing:
    """Figure 2: attention to system, text and visual tokens in generation, and its CDF over visual tokens."""
    record = newest(store, "generation_attention", "figure2")
    arrays = store.arrays(record)
    kinds = [str(k) for k in arrays["kinds"]]
    per_token = arrays["mass"] / np.maximum(arrays["tokens"], 1)
    share, tokens = arrays["mass"].mean(axis=0), arrays["token_share"].mean(axis=0)
    cumulative = arrays["cumulative"]
    figure = Figure(figsize=(8.4, 3.1))
    left, middle, right = figure.subplots(1, 3)
    places = np.arange(len(kinds))
    percents = per_token.mean(axis=0) * 100
    left.plot(places, percents, linestyle="none", marker="D", color=COLOURS[0], markersize=7)
    # at least a decade each way, so that small differences look small
    left.set_yscale("log")
    left.set_ylim(percents.min() / 10, percents.max() * 10)
    left.set_xlim(-0.5, len(kinds) - 0.5)
    left.set(title="(a) attention a token gets", ylabel="% of the prompt's attention, log scale")
    left.set_xticks(places, kinds, rotation=30, ha="right")
    width = 0.4
    middle.bar(
        places - width / 2,
        tokens * 100,
        width,
        label="tokens",
        color=COLOURS[4],
        edgecolor="black",
        linewidth=0.5,
    )
    middle.bar(
        places + width / 2,
        share * 100,
        width,
        label="attention",
        color=COLOURS[1],
        hatch="//",
        edgecolor="white",
    )
    middle.set(title="(b) tokens and attention", ylabel="share in %")
    middle.set_xticks(places, kinds, rotation=30, ha="right")
    # room for the legend above the bars
    middle.set_ylim(0, 135 * max(share.max(), tokens.max()))
    middle.legend(loc="upper center", ncols=2)
    x = np.linspace(0, 100, cumulative.shape[1])
    low, mean, high = (
        np.percentile(cumulative, 5, axis=0),
        cumulative.mean(axis=0),
        np.percentile(cumulative, 95, axis=0),
    )
    right.fill_between(
        x, low * 100, high * 100, color=COLOURS[0], alpha=0.2, linewidth=0, label="5 to 95 % of pictures"
    )
    right.plot(x, mean * 100, color=COLOURS[0], label="mean")
    right.plot([20, 40], [60, 80], linestyle="none", marker="x", color="black", label="published")
    right.set(title="(c) top visual tokens", xlabel="top visual tokens in %", ylabel="attention in %")
    right.set(xlim=(0, 100), ylim=(0, 101))
    right.legend(loc="lower right")
    at20, at40 = (float(np.interp(p, x, mean)) * 100 for p in (20, 40))
    notes = [
        f"Attention of generated tokens, mean of all layers and heads, over {record.samples} questions of "
        f"{record.benchmark.name}.",
        f"The top 20 % and 40 % of visual tokens hold {at20:.0f} % and {at40:.0f} % of the attention that "
        "visual tokens get; the paper's caption says 60 % and 80 %.",
        *others(store, record, configs),
        *provenance([record]),
    ]
    alternative = f"Bars of attention for {', '.join(kinds)}; cumulative attention of visual tokens."
    return Drawing("figure2", "Figure 2: attention in generation", figure, alternative, notes)


def figure3(store: Store, configs: Configs = PACKAGED) -> Drawing:
    """Figure 3: CLS-attention maps of the full-image, layer by layer."""
    record = newest(store, "cls_attention", "figure3")
    arrays = store.arrays(record)
    # more pictures do not fit a page
    maps, layers = arrays["maps"][:4], [int(i) for i in arrays["layers"]]
    rows = len(maps)
    pictures = []
    for i in range(rows):
        with Image.open(store.picture(record, f"{i}.png")) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    heights = [pixels.shape[0] / pixels.shape[1] for pixels in pictures]
    figure = Figure(figsize=(1.5 * (1 + len(layers)), 1.55 * sum(heights) + 0.3))
    axes = figure.subplots(rows, 1 + len(layers), squeeze=False, height_ratios=heights)
    side = round(maps.shape[-1] ** 0.5)
    for i, (row, pixels) in enumerate(zip(axes, pictures, strict=True)):
        _picture(row[0], pixels, "picture" if i == 0 else "")
        for axis, layer, values in zip(row[1:], layers, maps[i], strict=True):
            _picture(axis, pixels, f"layer {layer}" if i == 0 else "")
            axis.imshow(
                values.reshape(side, side), cmap="cividis", alpha=0.8,
                extent=(0, pixels.shape[1], pixels.shape[0], 0), interpolation="nearest",
            )  # fmt: skip
    notes = [
        "Sum over heads, each map on a scale of its own: yellow is high.",
        *others(store, record, configs),
        *provenance([record]),
    ]
    return Drawing(
        "figure3", "Figure 3: CLS-attention of the full-image", figure,
        f"{rows} pictures, each with its CLS-attention map in layers {', '.join(map(str, layers))}.", notes,
    )  # fmt: skip


def _picture(axis: Axes, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels)
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()


def tokens_per_sample(spec: TableSpec, store: Store, configs: Configs = PACKAGED) -> Drawing:
    """Visual tokens given to the LLM for each of the first 100 samples of a benchmark."""
    if len(spec.columns) != 1:
        raise UserError(
            f"{spec.origin}: a figure of kind {spec.kind} shows one benchmark; name it in columns"
        )
    runs = of_models(spec, store, store.accuracy())
    records, notes = one_block(r for r in runs if r.benchmark.name == spec.columns[0].name)
    rows = [row for row in rows_for(spec, records, configs)[0] if row.of(records)]
    if not rows:
        raise nothing_yet(spec.name, configs)
    figure = Figure(figsize=COLUMN)
    axis = figure.subplots()
    used = []
    for i, row in enumerate(rows):
        record = best(row.of(records))
        assert record is not None, "rows without runs were left out"
        used.append(record)
        samples = store.samples(record)
        kept = samples[samples["images"] > 0].sort_values("doc_id")["kept"].to_numpy()[:100]
        axis.plot(
            np.arange(1, len(kept) + 1),
            kept,
            label=row.label,
            **{**_line(i), "markersize": 3, "markevery": 5 + i},
        )
    axis.set(ylim=(0, None))
    axis.set_xlabel("sample", fontsize=8)
    axis.set_ylabel("visual tokens", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, columnspacing=1)
    alternative = f"Lines of visual tokens per sample for {', '.join(row.label for row in rows)}."
    return Drawing(
        spec.name, spec.title, figure, alternative,
        [*notes, *versions_note(used), *provenance(used), *spec.notes_on(r.model for r in used)],
    )  # fmt: skip


def figure6(store: Store, configs: Configs = PACKAGED) -> Drawing:
    """Figure 6: accuracy of HiRED over alpha."""
    hired = [r for r in store.accuracy() if target_of(r) == HIRED]
    runs, left = one_block(r for r in hired if not set(options_of(r)) - {"alpha"})
    other = sum(bool(set(options_of(r)) - {"alpha"}) for r in hired)
    left += [f"Not drawn: {other} runs of HiRED with other options than alpha."] if other else []
    tasks = [t for t in configs.benchmarks_of(runs) if len(_alphas(_on(runs, t))) > 1]
    budgets = sorted(
        {b for r in runs if (b := budget_of(r)) and any(len(_alphas(_on(runs, t, b))) > 1 for t in tasks)}
    )
    if not budgets:
        raise nothing_yet("figure6")
    figure = Figure(figsize=COLUMN)
    axes = figure.subplots(1, len(budgets), squeeze=False, sharey=True)[0]
    used = []
    for axis, budget in zip(axes, budgets, strict=True):
        for i, task in enumerate(tasks):
            found = _alphas(_on(runs, task, budget))
            used += [r for of_alpha in found.values() for r in of_alpha]
            # side by side, so that the intervals can be told apart
            shift = 0.012 * (i - (len(tasks) - 1) / 2)
            points = [(alpha + shift, store.score(found[alpha])) for alpha in sorted(found)]
            _scores(axis, points, _plain(configs.benchmark_label(task)), i)
        axis.axvline(0.5, color="#888888", linewidth=0.8, zorder=1)
        axis.set_title(f"token budget {percent(budget)}", fontsize=8)
        axis.set_xlabel("alpha", fontsize=8)
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("score", fontsize=8)
    entries = dict(zip(*reversed(axes[-1].get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=4, fontsize=7, columnspacing=1)
    notes = [
        f"Alpha is the share of the budget for the full-image; the line at 0.5 is the default. {BARS}",
        *left,
        *versions_note(used),
        *provenance(used),
    ]
    alternative = f"Score over alpha for {', '.join(tasks)} at {', '.join(map(percent, budgets))}."
    return Drawing("figure6", "Figure 6: the split of the budget", figure, alternative, notes)


def _on(records: Sequence[Record], task: str, budget: float | None = None) -> list[Record]:
    return [r for r in records if r.benchmark.name == task and budget in (None, budget_of(r))]


def _alphas(records: Sequence[Record]) -> dict[float, list[Record]]:
    """The runs of each alpha, one a seed."""
    alphas = {r.method.options["alpha"] for r in records}
    return {a: repetitions(r for r in records if r.method.options["alpha"] == a) for a in alphas}


def _scores(axis: Axes, points: Sequence[tuple[float, Estimate]], label: str, i: int) -> None:
    """A line of scores with their intervals, where they have one."""
    x = [p for p, _ in points]
    y = np.array([s.value for _, s in points])
    ends = np.array([(s.shown_low, s.shown_high) for _, s in points], dtype=float).T
    errors = np.nan_to_num(np.stack([y - ends[0], ends[1] - y]))
    axis.errorbar(x, y, yerr=errors.clip(min=0), label=label, capsize=2, elinewidth=0.8, **_line(i))


def baselines(store: Store, configs: Configs = PACKAGED) -> Drawing:
    """The accuracy-token curve: every method over the tokens it kept, a few by name, others in grey."""
    records, left = one_block(r for r in store.accuracy() if r.kept_share is not None)
    curves = _curves(records)
    tasks = configs.benchmarks_of(r for runs in curves.values() if _budgets(runs) > 1 for r in runs)
    if not tasks:
        raise NothingYetError("the curve needs a method at two budgets; run it with -m budget=0.4,0.2")
    full = {task: repetitions(FULL.of(_on(records, task))) for task in tasks}
    wholes = {task: store.score(runs).value for task, runs in full.items() if runs}
    drawable = [task for task in tasks if wholes.get(task, 0) > 0]
    if not drawable:
        raise NothingYetError("the curve needs full execution on its benchmarks; run method=full too")
    columns = min(2, len(drawable))
    lines = -(-len(drawable) // columns)
    figure = Figure(figsize=(COLUMN[0], 1.35 * lines + 0.9))
    axes = figure.subplots(lines, columns, squeeze=False, sharey="row", sharex=True)
    usual = {target_of(runs[0]) for runs in curves.values() if not options_of(runs[0])}
    few = [
        label
        for label, runs in curves.items()
        if options_of(runs[0]) and target_of(runs[0]) in usual and _budgets(runs) < 3
    ]
    drawn = {
        label: runs for label, runs in curves.items() if label not in few and runs[0] not in FULL.of(runs)
    }
    named = _named(drawn, configs)
    used = []
    for axis, task in zip(axes.flat, drawable, strict=False):
        axis.axhline(100, color="#888888", linewidth=0.8, zorder=1)
        for label, runs in drawn.items():
            of_task = _on(runs, task)
            cells = [repetitions(row.of(of_task)) for row in rows_of(of_task)]
            used += [r for cell in cells for r in cell]
            shares = [(100 * (cell[0].kept_share or 0), cell) for cell in cells]
            points = [
                (share, store.score(cell).scaled(100 / wholes[task]))
                for share, cell in sorted(shares, key=lambda p: p[0])
            ]
            if label in named and points:
                _scores(axis, points, label, named.index(label))
            elif points:
                x, y = [p for p, _ in points], [score.value for _, score in points]
                axis.plot(x, y, color=GREY, linewidth=0.7, marker=".", markersize=3, zorder=1)
        axis.set_title(_plain(configs.benchmark_label(task)), fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(4, 110)
        axis.set_xticks(TICKS, [str(tick) for tick in TICKS], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(drawable) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("visual tokens kept, %", fontsize=8)
    figure.supylabel("score, % of full execution", fontsize=8)
    entries = {
        name: handle
        for axis in axes.flat
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    known = [label for label in named if label in entries]
    grey = [label for label in drawn if label not in named]
    handles = [entries[name] for name in known] + [Line2D([], [], color=GREY)] * bool(grey)
    names = [*map(_plain, known), *["others"] * bool(grey)]
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7, columnspacing=1)
    absent = [configs.benchmark_label(b) for b in configs.benchmarks_of(records) if b not in tasks]
    without = [configs.benchmark_label(b) for b in tasks if b not in drawable]
    free = [k for k, runs in drawn.items() if not any(r.method.options.get(b) for r in runs for b in BUDGETS)]
    notes = [
        f"{BARS} The line at 100 % is full execution.",
        *([f"Without a budget, so of one point each: {', '.join(free)}."] if free else []),
        *([f"In grey: {', '.join(grey)}."] if grey else []),
        *([f"Not drawn, options at fewer than three budgets: {'; '.join(few)}."] if few else []),
        *([f"Not drawn, no method at two budgets: {', '.join(absent)}."] if absent else []),
        *([f"Not drawn, no full execution: {', '.join(without)}."] if without else []),
        *left,
        *versions_note(used),
        *provenance([*used, *(r for task in drawable for r in full[task])]),
    ]
    alternative = f"Score over the share of visual tokens kept: {', '.join([*known, *grey])}."
    return Drawing("baselines", "Accuracy over visual tokens", figure, alternative, notes)


def _named(drawn: dict[str, list[Record]], configs: Configs) -> list[str]:
    """The curves with a name and a colour: all where the colours suffice, else those the report names."""
    if len(drawn) <= len(COLOURS):
        return list(drawn)
    targets = [configs.row(RowSpec(method=name)).target for name in configs.spec("baselines").named]
    return [
        label
        for target in targets
        for label, runs in drawn.items()
        if target_of(runs[0]) == target and not options_of(runs[0])
    ][: len(COLOURS)]


def _curves(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of each method and choice of options, by label."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(records):
        rows.setdefault((row.target, str(sorted(row.options.items()))), []).append(row)
    found = {}
    for of_curve in rows.values():
        runs = [r for row in of_curve for r in row.of(records)]
        found[with_seeds(without_budget(of_curve[0]), runs)] = runs
    return found


def _budgets(runs: Sequence[Record]) -> int:
    return len({budget_of(r) for r in runs})


def _plain(text: str) -> str:
    """Text that matplotlib prints as it stands: it takes what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")


FIGURES: dict[str, Callable[[Store, Configs], Drawing]] = {
    "figure2": figure2,
    "figure3": figure3,
    "figure6": figure6,
    "baselines": baselines,
}
