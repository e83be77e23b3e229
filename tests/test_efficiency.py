"""Counted FLOPs are PyTorch's own count; measured times and memory make sense; the record holds them."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.memory import count_kv_bytes
from hired_eval.models.prefix import Prefix, PrefixCaches
from hired_eval.records.record import Record
from hired_eval.runs.efficiency import summarize
from hired_eval.runs.efficiency.flops import Decoder, Tower, Work
from hired_eval.runs.efficiency.machine import Machine, measure_machine, peak_memory
from hired_eval.runs.efficiency.measure import Efficiency
from hired_eval.runs.efficiency.table import HEAD, table
from hired_eval.runs.loading import Models
from hired_eval.runs.measuring import measure
from hired_eval.runs.options import RunConfig, Workload, read_method
from hired_eval.runs.plan import plan_run
from tests import tiny
from tests.spine import run_config

WORK = Workload(width=112, height=112, text_tokens=7, new_tokens=4, warm_up=0, repeats=2)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "hired": {"budget": 0.3},
    "prumerge": {},
    "fastv": {"layer": 1, "keep": 0.4},
    "pyramiddrop": {"budget": 0.7},
    "sparsevlm": {},
    "dart": {"layer": 1},
    "hired+fastv": {"hired.budget": 0.6, "fastv.layer": 1},
}
SELECTION_NOT_COUNTED = ("prumerge",)
"""Methods whose choice itself takes products of matrices."""


@pytest.fixture
def eager(request: pytest.FixtureRequest) -> Any:
    """A tiny model whose attention FlopCounterMode can see: products of matrices, no fused kernel."""
    model, processor = getattr(tiny, request.param)()
    model.set_attn_implementation("eager")
    return Checkpoint(model, processor)


def counted(timed: Efficiency) -> int:
    with FlopCounterMode(display=False) as counter:
        timed.run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("eager", "method", "batch_size"),
    [
        *product(("llava_next", "llava", "internvl"), ("full", "hired", "prumerge"), (1, 3)),
        *product(("llava_next",), ("fastv", "pyramiddrop", "sparsevlm", "dart", "hired+fastv"), (3,)),
    ],
    indirect=["eager"],
)
def test_counted_flops_are_those_of_torch(eager: Any, method: str, batch_size: int) -> None:
    timed = Efficiency(eager, build(method, **METHODS[method]), WORK, batch_size)
    total = counted(timed)
    mine = sum(work.flops for work in timed.phases().values())
    if method in SELECTION_NOT_COUNTED:
        # the selection's own products are not counted; on such small partitions they are up to a tenth
        assert 0.9 * total <= mine <= total
    else:
        # the CLS row is a product and a sum, which FlopCounterMode does not see: it counts matrix products
        layers = timed.dropper.vision.attention_layers(timed.family.feature_layer)
        rows = Tower.of(timed.family, timed.layout).cls_rows(
            timed.layout.partitions * batch_size, len(layers)
        )
        assert mine == total + rows.flops


@pytest.mark.parametrize("eager", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"], indirect=True)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", {}),
        ("random", {"budget": 0.3}),
        ("hired", {"budget": 0.3, "signal": "received", "initial_layer": 1}),
    ],
)
def test_counted_flops_without_a_class_token_are_those_of_torch(
    eager: Any, method: str, options: dict[str, Any]
) -> None:
    timed = Efficiency(eager, build(method, **options), WORK, 2)
    assert counted(timed) == sum(work.flops for work in timed.phases().values())


@pytest.mark.parametrize(
    "eager", ["llava_next", "llava", "llava_onevision", "internvl", "qwen2_5_vl", "qwen3_vl"], indirect=True
)
def test_counted_flops_of_the_stock_model_are_those_of_torch(eager: Any) -> None:
    timed = Efficiency(eager, None, WORK, 2)
    total = counted(timed)
    work = timed.phases()
    # the stock run encodes a second time, to time the vision side alone
    assert sum(w.flops for w in work.values()) + work["vision"].flops == total


def test_dropping_saves_what_the_formulas_say(llava_next: tuple[Any, Any]) -> None:
    flops = {}
    for method in ("full", "hired"):
        timed = Efficiency(Checkpoint(*llava_next), build(method, **METHODS[method]), WORK, 1)
        timed.run()
        flops[method] = timed.phases()
        assert timed.kv_cache_bytes() == count_kv_bytes(
            llava_next[0].config, 7 + timed.by_layer[0][0] + 3, torch.float32
        )
    assert flops["hired"]["prefill"].flops < flops["full"]["prefill"].flops
    assert flops["hired"]["decode"].flops < flops["full"]["decode"].flops
    assert flops["hired"]["vision"].flops < flops["full"]["vision"].flops


def test_what_leaves_inside_the_language_model_is_in_neither_cache_nor_selection_time(
    llava_next: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Efficiency(Checkpoint(*llava_next), build("hired+fastv", **METHODS["hired+fastv"]), WORK, 2)
    held: list[int] = []
    generate = llava_next[0].generate

    def note(**arguments: Any) -> Any:
        output = generate(**arguments, return_dict_in_generate=True)
        held.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers))
        return output.sequences

    monkeypatch.setattr(llava_next[0], "generate", note)
    timed.run()
    assert timed.kv_cache_bytes() == held[0]
    given, left = timed.by_layer[0]
    assert left == given // 2
    assert timed.kept == [(given + left) / 2] * 2
    assert 0 < timed.time_selection() < timed.run().total


def test_kv_bytes_are_those_of_the_cache(llava_next: tuple[Any, Any]) -> None:
    model = llava_next[0]
    with torch.inference_mode():
        cache = PrefixCaches(family_of(model)).batch([Prefix((5, 6, 7, 8, 9), (), ())], 0)[0]
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == count_kv_bytes(model.config, 5, torch.float32)


def test_the_7b_model_needs_what_is_known_of_it() -> None:
    """LLaVA-Next 7B at 672 x 672: 5 partitions; 6.6 billion weights in the layers and the output."""
    tower = Tower(channels=1024, inner=4096, patches=576, patch_values=588, layers=24, output=4096)
    decoder = Decoder(4096, 11008, 32, 32, 32, 128, 32064)
    assert decoder.prefill(1, [1] * 32, 2).weight_bytes == pytest.approx(2 * 6.607e9, rel=1e-3)
    # 303 million weights of CLIP-L, of which the layers are nearly all
    assert tower.encode(1, 24, 1).weight_bytes == pytest.approx(303e6, rel=0.01)
    assert decoder.forward(1, [1] * 32, [1000] * 32, 2).cache_bytes == 1000 * 524288


def test_the_vision_side_is_timed_before_the_first_token_and_that_before_the_last(
    llava_next: tuple[Any, Any],
) -> None:
    times = Efficiency(Checkpoint(*llava_next), build("hired"), WORK, 2).run()
    assert 0 < times.vision < times.first_token < times.total


def test_the_stock_run_generates_what_full_generates(llava_next: tuple[Any, Any]) -> None:
    stock = Efficiency(Checkpoint(*llava_next), None, WORK, 2)
    full = Efficiency(Checkpoint(*llava_next), build("full"), WORK, 2)
    for ours, theirs in zip(full.visual_tokens(), stock.visual_tokens(), strict=True):
        torch.testing.assert_close(ours, theirs)
    stock.run()
    full.run()
    assert stock.kept == full.kept


def test_peak_memory_is_that_of_the_block() -> None:
    device = torch.device("cpu")
    with peak_memory(device) as large:
        torch.ones(50_000_000).sum()
    with peak_memory(device) as small:
        torch.ones(1_000_000).sum()
    assert large.bytes - large.start > 150e6
    assert small.bytes - small.start < 50e6


def test_the_roofline_is_the_slower_of_arithmetic_and_traffic() -> None:
    machine = Machine(flops_per_second=100, bytes_per_second=10)
    assert machine.least_seconds(Work(1000, 5)) == 10
    assert machine.least_seconds(Work(10, 5, 15)) == 2
    best = measure_machine(torch.device("cpu"), torch.float32)
    assert best.flops_per_second > 1e8
    assert best.bytes_per_second > 1e8


@pytest.mark.parametrize(
    ("name", "value"), [("repeats", 0), ("width", 0), ("new_tokens", 2.5), ("warm_up", -1)]
)
def test_a_workload_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"efficiency.{name} must be a whole number of at least"):
        run_config(f"efficiency.{name}={value}")


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path) -> RunConfig:
    return run_config(
        f"model.path={tiny_checkpoint}", "batch_size=2", "efficiency.width=112", "efficiency.height=112",
        "efficiency.new_tokens=3", "efficiency.repeats=2", "measure=efficiency", "device=cpu",
    )  # fmt: skip


def records(config: RunConfig, folder: Path) -> list[Record]:
    said: list[str] = []
    models = Models()
    full = read_method({"_target_": "hired_eval.dropping.Full", "newline": "rows"})
    variants = [
        replace(config, measure="efficiency_stock", method=full),
        replace(config, method=full),
        replace(config, budget=0.2),
    ]
    return [measure(replace(v, runs_dir=folder), said.append, models).record for v in variants]


def test_records_hold_what_the_table_needs(config: RunConfig, tmp_path: Path) -> None:
    made = records(config, tmp_path)
    for record in made:
        measured = record.efficiency
        assert record.status == "complete"
        assert not record.out_of_memory
        assert measured is not None
        assert set(measured.flops) == {"vision", "prefill", "decode"}
        for name in ("throughput_tokens_per_second", "time_to_first_token_seconds", "latency_seconds"):
            found = getattr(measured, name)
            assert 0 < found.low <= found.median <= found.high
        assert 0 < measured.share_of_roofline < 1
        assert measured.memory_gigabytes > 0.05
        assert "tokens/s" in summarize(record)
    text = table(made)
    rows = [line.split("|")[3].strip() for line in text.splitlines()[2:5]]
    assert rows == ["stock generate", "Full", "HiRED 20 %"]
    full = text.splitlines()[3].split("|")
    assert full[HEAD.index("x faster") + 1].strip() == "1.00"
    hired = text.splitlines()[4].split("|")
    assert float(hired[HEAD.index("FLOPs allow") + 1]) > 1
    assert hired[HEAD.index("vision GB") + 1].strip() == "-", "a resident set does not tell it"
    assert made[2].efficiency is not None
    on_gpu = replace(
        made[2],
        timings=replace(made[2].timings, device="cuda"),
        efficiency=replace(made[2].efficiency, vision_memory_gigabytes=0.25),
    )
    assert table([on_gpu]).splitlines()[2].split("|")[HEAD.index("vision GB") + 1].strip() == "0.25"
    again = measure(replace(config, runs_dir=tmp_path, budget=0.2), print, Models())
    assert again.reused


def test_out_of_memory_is_a_result(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: Any, *args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    models = Models()
    checkpoint = plan_run(config).load_checkpoint(models, print)
    handle = checkpoint.model.model.language_model.register_forward_pre_hook(no_memory)
    try:
        record = measure(replace(config, runs_dir=tmp_path), print, models).record
    finally:
        handle.remove()
    assert record.status == "complete"
    assert record.out_of_memory
    assert "OOM" in table([record])
    assert "out of memory" in summarize(record)


def test_the_stock_model_drops_nothing(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set method=full"):
        measure(replace(config, runs_dir=tmp_path, measure="efficiency_stock"), print, Models())


def test_an_empty_folder_says_how_to_fill_it() -> None:
    with pytest.raises(UserError, match="experiment=table4"):
        table([])
