"""One method on one model, timed: vision, first token, all tokens; and the arithmetic beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from hired_eval.dropping import Layouts, TokenDropper
from hired_eval.dropping.layer_stage import LayerStage, acting, counts_by_layer, plan_steps
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.inside import Stages
from hired_eval.models.memory import count_kv_bytes, is_out_of_memory
from hired_eval.models.prefix import pad_left, positions
from hired_eval.models.visual_tokens import VisualTokens, make_visual_tokens
from hired_eval.records.record import Speed, Spread
from hired_eval.runs.efficiency.flops import Decoder, Tower, Work
from hired_eval.runs.efficiency.machine import Machine, peak_memory, synchronize
from hired_eval.runs.options import Workload


@dataclass(frozen=True)
class Times:
    """Seconds of one run: until the visual tokens are there, the first new token, and the last one."""

    vision: float
    first_token: float
    total: float


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when the first new token is there; stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.first: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        if not self.first:
            synchronize(self.device)
            self.first.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Stopwatch:
    """Seconds of several blocks together, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds += time.perf_counter() - start


class Efficiency:
    """A model, a batch of pictures and a prompt of ids, ready to be timed.

    Times start at pixel values in the host's memory and include their way to the device; image preprocessing
    and text are left out, since they are the same for every method.

    Args:
        checkpoint: stock model and processor.
        dropper: the method; None is stock `generate` on pixel values, with no code of this package.
        workload: picture, prompt, tokens.
        batch_size: pictures answered together, all different.
    """

    def __init__(
        self, checkpoint: Checkpoint, dropper: TokenDropper | None, workload: Workload, batch_size: int
    ) -> None:
        self.model: Any = checkpoint.model
        self.dropper, self.workload, self.batch_size = dropper, workload, batch_size
        self.device: torch.device = checkpoint.model.device
        square = checkpoint.square
        self.size = (square, square) if square else (workload.height, workload.width)
        processor: Any = checkpoint.processor
        self.family = family_of(checkpoint.model, image_processor=processor.image_processor)
        self.layout = self.family.layout(self.size)
        pictures = [picture(self.size[1], self.size[0], seed) for seed in range(batch_size)]
        made = processor.image_processor(
            images=pictures, return_tensors="pt", **self.family.processor_options
        )
        self.inputs: dict[str, Tensor] = {k: v for k, v in made.items() if k in self.family.vision_arguments}
        self.depth: int = self.model.config.get_text_config(decoder=True).num_hidden_layers
        self.by_layer: list[list[int]] = []
        """Visual tokens of each picture that each layer of the language model sees."""
        self._projected = 0
        self._pictures = [self.family.read(one, processor.image_processor) for one in pictures]

    @torch.inference_mode()
    def visual_tokens(self) -> list[Tensor]:
        """The visual tokens of each picture, (n_i, D): dropped and projected, or as stock makes them."""
        if self.dropper is not None:
            images = make_visual_tokens(self.family, self._pictures, self.dropper.vision)
            return [image.embeddings for image in images]
        output = self.model.model.get_image_features(**self._vision_inputs(), return_dict=True).pooler_output
        return list(output)

    @torch.inference_mode()
    def run(self) -> Times:
        """Encode and generate once."""
        clock = _Clock(self.device)
        synchronize(self.device)
        start = time.perf_counter()
        if self.dropper is not None:
            inputs = self._inputs(make_visual_tokens(self.family, self._pictures, self.dropper.vision))
            synchronize(self.device)
            vision = time.perf_counter() - start
        else:
            vision = float("nan")
            self.by_layer = [[self.layout.stock_tokens] * self.depth] * self.batch_size
            inputs = {**self._prompt([self.layout.stock_tokens] * self.batch_size), **self._vision_inputs()}
            if "mm_token_type_ids" in self.family.vision_arguments:
                is_visual = inputs["input_ids"] == self.model.config.image_token_id
                inputs["mm_token_type_ids"] = is_visual.int()
        self._generate(inputs, self.workload.new_tokens, clock)
        synchronize(self.device)
        end = time.perf_counter()
        if self.dropper is None:
            before = time.perf_counter()
            self.visual_tokens()
            synchronize(self.device)
            vision = time.perf_counter() - before
        return Times(vision, clock.first[0] - start, end - start)

    @torch.inference_mode()
    def time_selection(self) -> float:
        """Seconds in which the method chooses, before the language model and inside it."""
        if self.dropper is None:
            return 0.0
        stage, watch = self.dropper.vision, _Stopwatch(self.device)
        for picture in self._pictures:
            encoding = self.family.encode(picture.pixels, stage)
            layouts = Layouts((picture.layout,), encoding.features.device)
            with watch.running():
                stage.select(encoding, layouts)
        if self.dropper.inside:
            inputs = self._inputs(make_visual_tokens(self.family, self._pictures, stage))
            self._generate(inputs, 1, _Clock(self.device), watch)
        return watch.seconds

    def _inputs(self, images: Sequence[VisualTokens]) -> dict[str, Any]:
        """Inputs of the language model, and what is counted of them."""
        kept = [image.counts.kept for image in images]
        self._projected = sum(len(image.packed.features) for image in images)
        stages: Sequence[LayerStage] = self.dropper.inside if self.dropper else ()
        self.by_layer = [counts_by_layer(stages, n, self.depth, self.layout.total_tokens) for n in kept]
        inputs = self._prompt(kept)
        places = [self.family.find_positions(self._question(1), [image]) for image in images]
        inputs["position_ids"] = positions(inputs["attention_mask"].cpu(), places).to(self.device)
        return inputs | self.family.inputs([image.embeddings for image in images])

    def _generate(
        self, inputs: dict[str, Any], new_tokens: int, clock: _Clock, watch: _Stopwatch | None = None
    ) -> None:
        """Generate, with the stages inside the language model, if any.

        Args:
            inputs: of the model.
            new_tokens: neither more nor fewer.
            clock: notes the first of them.
            watch: times the selection inside the language model.
        """
        with ExitStack() as stack:
            if self.dropper is not None and self.dropper.inside:
                selecting = nullcontext if watch is None else watch.running
                stages = Stages(self.model.get_decoder(), self.dropper.inside, selecting)
                stages.expect(
                    inputs["input_ids"] == self.model.config.image_token_id,
                    totals=[self.layout.total_tokens] * self.batch_size,
                )
                stack.enter_context(stages.hook_layers())
            self.model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
                # what a checkpoint says about sampling does not matter here, and makes transformers warn
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=0,
            )

    @property
    def kept(self) -> list[float]:
        """Visual tokens of each picture, the mean over the layers of the language model."""
        return [fmean(counts) for counts in self.by_layer]

    @property
    def _lengths(self) -> list[int]:
        """Tokens that each layer of the language model sees of the longest prompt, as padding goes."""
        return [self.workload.text_tokens + max(counts) for counts in zip(*self.by_layer, strict=True)]

    def _select_inside(self, decoder: Decoder) -> Work:
        """What the stages inside the language model read of it, made again beside its own."""
        work, lengths = Work(0, 0), self._lengths
        for layer, stage in acting(self.dropper.inside if self.dropper else (), self.depth).items():
            words = self.workload.text_tokens - self.workload.text_tokens // 2
            asking = words if type(stage).raters is not LayerStage.raters else 1
            if stage.reads & {"attention", "own_attention"}:
                work += decoder.rows(self.batch_size, asking, lengths[layer - 1])
            if "key_norms" in stage.reads:
                work += decoder.keys(self.batch_size, lengths[layer - 1])
        return work + Work(self._flops_of_choice(decoder.hidden), 0)

    def _flops_of_choice(self, width: int) -> int:
        """What the stages inside the language model compute of what they read."""
        stages: Sequence[LayerStage] = self.dropper.inside if self.dropper else ()
        lengths, total = self._lengths, self.layout.total_tokens
        words = self.workload.text_tokens - self.workload.text_tokens // 2
        found = sum(self.batch_size * stage.flops_of_raters(lengths[0], words, width) for stage in stages)
        for counts in self.by_layer:
            for layer, step in plan_steps(stages, counts[0], self.depth, total).items():
                found += step.stage.flops_of_choice(lengths[layer - 1], step.leaves, width)
        return found

    def phases(self) -> dict[str, Work]:
        """Arithmetic and memory traffic of the vision tower, prefill and decode, for the whole batch."""
        config = self.model.config
        tower, decoder = Tower.of(self.family, self.layout), Decoder.of(config)
        number = self.model.dtype.itemsize
        partitions = self.layout.partitions * self.batch_size
        if self.dropper is None:
            vision = tower.encode(partitions, tower.layers, number)
            vision += tower.project(partitions * tower.tokens, number)
        else:
            stage = self.dropper.vision
            rows, received = self.family.layers_read(stage), self.family.received_read(stage)
            run = self.family.feature_layer + 1
            vision = tower.encode(partitions, run, number) + tower.cls_rows(partitions, len(rows))
            vision += tower.received(partitions, len(received))
            if "keys" in stage.reads and stage.key_layer == "last" and run < tower.layers:
                vision += tower.keys(partitions, number)
            vision += tower.project(self._projected, number)
        prefill = decoder.prefill(self.batch_size, self._lengths, number) + self._select_inside(decoder)
        decode = decoder.decode(self.batch_size, self._lengths, self.workload.new_tokens, number)
        return {"vision": vision, "prefill": prefill, "decode": decode}

    def kv_cache_bytes(self) -> int:
        """KV cache of the batch when the last token is there."""
        cached = sum(length + self.workload.new_tokens - 1 for length in self._lengths)
        return self.batch_size * count_kv_bytes(self.model.config, cached, self.model.dtype) // self.depth

    def _vision_inputs(self) -> dict[str, Tensor]:
        """Arguments of the stock model's vision side, on the device."""
        pixels = self.inputs["pixel_values"].to(self.device, self.model.dtype)
        others = {name: value.to(self.device) for name, value in self.inputs.items()}
        return {**others, "pixel_values": pixels}

    def _question(self, placeholders: int) -> list[int]:
        """Half of the text, the placeholders, the other half: what the text says does not change the time."""
        config = self.model.config
        before = self.workload.text_tokens // 2
        # an id that is neither special nor the placeholder
        word = next(i for i in range(config.text_config.vocab_size - 1, -1, -1) if i != config.image_token_id)
        return (
            [word] * before
            + [config.image_token_id] * placeholders
            + [word] * (self.workload.text_tokens - before)
        )

    def _prompt(self, kept: Sequence[int]) -> dict[str, Any]:
        """A row for each picture, with as many placeholders."""
        ids, mask = pad_left([self._question(n) for n in kept], self._question(0)[0])
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(1, 3, height, width)
    for cells in (3, 12, 48):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        pixels += torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") / 3
    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).byte().numpy())


def measure_speed(efficiency: Efficiency, machine: Machine) -> Speed | None:
    """Time the workload and count its arithmetic.

    Returns:
        What the record says under `efficiency`; None where memory ran out.
    """
    workload = efficiency.workload
    try:
        for _ in range(workload.warm_up):
            efficiency.run()
        with peak_memory(efficiency.device) as peak:
            times = [efficiency.run() for _ in range(workload.repeats)]
        with peak_memory(efficiency.device) as vision_peak:
            efficiency.visual_tokens()
        selection = [efficiency.time_selection() for _ in range(workload.repeats)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    tokens = workload.new_tokens * efficiency.batch_size
    phases = efficiency.phases()
    least = {name: machine.least_seconds(work) for name, work in phases.items()}
    return Speed(
        throughput_tokens_per_second=spread([tokens / t.total for t in times]),
        time_to_first_token_seconds=spread([t.first_token for t in times]),
        latency_seconds=spread([t.total for t in times]),
        vision_seconds=spread([t.vision for t in times]),
        selection_seconds=spread(selection),
        memory_gigabytes=peak.bytes / 1e9,
        vision_memory_gigabytes=(vision_peak.bytes - vision_peak.start) / 1e9,
        kv_cache_bytes=efficiency.kv_cache_bytes(),
        flops={name: work.flops for name, work in phases.items()},
        least_seconds=least,
        share_of_roofline=sum(least.values()) / median(t.total for t in times),
        machine=asdict(machine),
        workload=asdict(workload),
    )


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest value."""
    return Spread(median(values), min(values), max(values))
