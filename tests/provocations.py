"""What provokes each error that a user can meet, for the table in test_messages.py."""

import fcntl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from tokenizers.normalizers import NFKC

import hired_eval.mini
from hired_eval import Full, HiRED, PartitionLayout
from hired_eval.cli.help import check_names
from hired_eval.cli.show import main as show
from hired_eval.dropping.registry import build
from hired_eval.dropping.types import VisionEncoding
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.local_data import DataSource
from hired_eval.lmms.model import HiredVLM
from hired_eval.lmms.tasks import load_task
from hired_eval.mini.benchmarks import Content
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint, load_checkpoint
from hired_eval.records.folder import RunFolder, explained_disk_errors, read_record
from hired_eval.records.record import Benchmark
from hired_eval.records.replies import ReplyFile
from hired_eval.records.store import Store
from hired_eval.reporting.__main__ import main as report
from hired_eval.reporting.figures import baselines
from hired_eval.reporting.rank import main as rank
from hired_eval.runs.efficiency.__main__ import main as efficiency
from hired_eval.runs.options import build_dropper, method_class, read_config, read_method
from hired_eval.runs.probes import questions
from tests import tiny
from tests.data import truncated_png, write_docvqa
from tests.reporting.packaged import table2
from tests.reporting.synthetic import METHODS, identity, unfinished, write_measurement, write_run
from tests.spine import config, run_quietly

IMAGE = 4
"""Id of the tiny tokenizer's image token."""
PROMPT = "{images}\n{question}"
DOCVQA = Benchmark("docvqa", "docvqa_val", "anls", "mean")
RECORD = unfinished(METHODS["full"], "docvqa", "mini", "run", identity())
LAYOUT = PartitionLayout(1, 2, (4, 4), (56, 112))


@dataclass(frozen=True)
class Place:
    """What a provocation may use.

    Attributes:
        model: folder of the tiny checkpoint.
        data: folder of the tests' documents.
        tmp: empty folder.
        patch: undone behind it.
    """

    model: Path
    data: Path
    tmp: Path
    patch: pytest.MonkeyPatch

    def llava(self, change: Callable[[Any, Any], None] = lambda model, processor: None) -> DroppingVLM:
        """The tiny model, changed."""
        model, processor = tiny.llava_next()
        change(model, processor)
        return DroppingVLM(Checkpoint(model, processor), HiRED(), PROMPT)

    def measure(self, *overrides: str) -> None:
        """A run of the tiny model."""
        base = [f"model.path={self.model}", f"data.path={self.data}", f"runs_dir={self.tmp}"]
        run_quietly(*base, *overrides)


Provocation = list[str] | Callable[[Place], Any]


def encoding(**changes: Any) -> VisionEncoding:
    parts: dict[str, Any] = {"features": torch.ones(3, 16, 8), "cls_attention": {0: torch.ones(3, 2, 16)}}
    return VisionEncoding(**parts | changes)


def plugin(place: Place, value: str) -> None:
    point = EntryPoint("bright", value, "hired_eval.methods")
    place.patch.setattr("hired_eval.dropping.registry.entry_points", lambda group: [point])
    build("bright")


def unreachable(place: Place) -> None:
    for module in ("hired_eval.models.checkpoint", "hired_eval.lmms.tasks"):
        place.patch.setattr(f"{module}.explain_unreachable", lambda: "HF_HUB_OFFLINE is set")


def without_waiting(place: Place) -> None:
    """lmms-eval tries five times, and waits."""
    place.patch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def data_of_the_hub(place: Place) -> None:
    unreachable(place)
    without_waiting(place)
    load_task(DOCVQA, DataSource("hub"))


def cut_data(place: Place) -> None:
    (source,) = place.data.rglob("*.parquet")
    (place.tmp / "validation-0.parquet").write_bytes(source.read_bytes()[:-9])
    load_task(DOCVQA, DataSource("hub", place.tmp))


def not_a_picture(place: Place) -> None:
    write_docvqa(place.tmp / "data", 4, [tiny.picture(9, 9), {"bytes": b"x", "path": None}])
    place.measure(f"data.path={place.tmp / 'data'}")


def damaged_inside(place: Place) -> None:
    without_waiting(place)
    (source,) = place.data.rglob("*.parquet")
    content = bytearray(source.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    (place.tmp / "validation-0.parquet").write_bytes(content)
    load_task(DOCVQA, DataSource("hub", place.tmp))


def model_of_the_hub(place: Place) -> None:
    unreachable(place)
    load_checkpoint("nobody/nothing")


def processes(place: Place) -> None:
    for module in ("runs.measuring", "models.checkpoint"):
        place.patch.setattr(
            f"hired_eval.{module}.Processes", lambda: SimpleNamespace(count=2, main=True, rank=0)
        )


def spread_twice(place: Place) -> None:
    processes(place)
    load_checkpoint(str(place.model), device_map="auto")


def probe_twice(place: Place) -> None:
    processes(place)
    place.measure("measure=gallery")


def no_gpu(place: Place) -> None:
    place.patch.setattr(torch.cuda, "is_available", lambda: False)
    load_checkpoint(str(place.model), device="cuda:0")


def no_package(place: Place, option: str, value: str) -> None:
    for name in ("is_flash_attn_2_available", "is_bitsandbytes_available"):
        place.patch.setattr(f"hired_eval.models.checkpoint.{name}", lambda: False)
    load_checkpoint(str(place.model), **{option: value})  # type: ignore[arg-type]


def cannot_be_imported(place: Place) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ImportError("this needs the package tiktoken\nand more")

    place.patch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    load_checkpoint(str(place.model))


def with_config(place: Place, config: str) -> None:
    (place.tmp / "config.json").write_text(config)
    load_checkpoint(str(place.tmp))


def other_weights(place: Place) -> None:
    model, processor = tiny.llava()
    model.save_pretrained(place.tmp)
    processor.save_pretrained(place.tmp)
    text = (place.tmp / "config.json").read_text().replace('"hidden_size": 48', '"hidden_size": 96')
    (place.tmp / "config.json").write_text(text)
    load_checkpoint(str(place.tmp), dtype="float32")


def cut_weights(place: Place) -> None:
    for file in place.model.iterdir():
        content = file.read_bytes()
        (place.tmp / file.name).write_bytes(content[:-9] if file.suffix == ".safetensors" else content)
    load_checkpoint(str(place.tmp))


def cut_weights_of_the_hub(place: Place) -> None:
    """As in the hub's cache, whose place a checkpoint's name does not tell."""
    place.patch.setattr("hired_eval.models.checkpoint.Path.is_dir", lambda path: False)
    unreachable(place)
    cut_weights(place)


def without(*names: str) -> Callable[[Place], Any]:
    """A checkpoint that lacks files."""

    def provoke(place: Place) -> None:
        for file in place.model.iterdir():
            if file.name not in names:
                (place.tmp / file.name).write_bytes(file.read_bytes())
        load_checkpoint(str(place.tmp))

    return provoke


def pickled(place: Place, content: bytes = b"", **options: Any) -> None:
    (place.tmp / "pytorch_model.bin").write_bytes(content)
    for file in place.model.iterdir():
        if file.suffix != ".safetensors":
            (place.tmp / file.name).write_bytes(file.read_bytes())
    load_checkpoint(str(place.tmp), **options)


def wrong_placeholders(place: Place) -> None:
    place.llava(lambda _, processor: setattr(processor, "image_token", "?")).prepare(
        Question("what", (tiny.picture(9, 9),))
    )


def no_tokens(place: Place) -> None:
    llava = place.llava()
    llava._prompts.tokenizer = Silent()
    llava.prepare(Question("what"), " yes")


class Silent:
    """A tokenizer that makes the same of every text."""

    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
    bos_token = None

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [1]}


def made_by_normalizing(place: Place) -> None:
    """A control token that NFKC makes of full-width signs."""

    def change(model: Any, processor: Any) -> None:
        raw = processor.tokenizer.backend_tokenizer
        raw.normalizer = NFKC()
        raw.add_special_tokens([AddedToken("<z>", special=True, normalized=True)])

    place.llava(change).prepare(Question("＜z＞"))


def option_missing(place: Place) -> None:
    settings = config()
    del settings["model"]["revision"]
    read_config(settings)


def abstract_method(place: Place) -> None:
    build_dropper(read_method({"_target_": "hired_eval.dropping.SelectingDropper"}), None)


@dataclass(frozen=True, kw_only=True)
class Placed(Full):
    place: int = 0


@dataclass(frozen=True, kw_only=True)
class Needy(Full):
    power: int


def own_config(text: str) -> Callable[[Place], Any]:
    """A config of the user's own, asked for by its name."""

    def provoke(place: Place) -> None:
        (place.tmp / "method").mkdir()
        (place.tmp / "method" / "mine.yaml").write_text(text)
        check_names([f"--config-dir={place.tmp}", "method=mine"])

    return provoke


def own_module(name: str, text: str) -> Callable[[Place], Any]:
    """A method in a module of the user's own."""

    def provoke(place: Place) -> None:
        (place.tmp / f"{name}.py").write_text(text)
        place.patch.syspath_prepend(place.tmp)
        method_class(f"{name}.Mine")

    return provoke


def lacking_library(place: Place) -> None:
    (place.tmp / "own_lacking.py").write_text("import nowhere_installed\n")
    sys.path.insert(0, str(place.tmp))
    try:
        method_class("own_lacking.Own")
    finally:
        sys.path.remove(str(place.tmp))


def cannot_be_found(place: Place) -> None:
    method_class("tests.nowhere.Missing")


def loaded(**options: Any) -> Callable[[Place], Any]:
    return lambda place: load_checkpoint(str(place.model), **options)


def tower(**options: Any) -> Callable[[Place], Any]:
    def provoke(place: Place) -> None:
        place.llava(lambda model, _: [setattr(model.config, k, v) for k, v in options.items()])

    return provoke


def siglip(place: Place) -> None:
    place.llava(lambda model, _: setattr(model.model, "vision_tower", torch.nn.Identity()))


def without_cls(place: Place) -> None:
    model, _ = tiny.llava_onevision()
    with HiRED()(model):
        model(
            input_ids=torch.tensor([[4]]),
            pixel_values=torch.zeros(1, 2, 3, tiny.SIZE, tiny.SIZE),
            image_sizes=torch.tensor([[9, 9]]),
        )


def applied(change: Callable[[dict[str, Any]], Any]) -> Callable[[Place], Any]:
    def provoke(place: Place) -> None:
        model, processor = tiny.llava_next()
        picture = tiny.picture(56, 112)
        inputs = dict(processor(images=[picture] * 2, text=["<image>"] * 2, return_tensors="pt"))
        change(inputs)
        with HiRED()(model):
            model(**inputs)

    return provoke


def tiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[Place], Any]:
    """A picture of two tiles and a thumbnail."""

    def provoke(place: Place) -> None:
        model, processor = tiny.internvl()
        inputs = dict(processor(images=tiny.picture(112, 56), text="<image>?", return_tensors="pt"))
        change(inputs)
        with HiRED()(model):
            model(
                input_ids=inputs.pop("input_ids"),
                **{k: v for k, v in inputs.items() if k != "attention_mask"},
            )

    return provoke


def within(use: Callable[[Any, dict[str, Any]], Any]) -> Callable[[Place], Any]:
    """What is done with a model, and the inputs of a picture, inside a block that drops tokens."""

    def provoke(place: Place) -> None:
        model, processor = tiny.llava_next()
        picture = tiny.picture(56, 112)
        inputs = dict(processor(images=picture, text="a<image>b", return_tensors="pt"))
        with HiRED(budget=0.2)(model), torch.no_grad():
            use(model, inputs)

    return provoke


def turn(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What goes on with the KV cache of a first turn: one more token."""
    cache = model(**inputs).past_key_values
    return {"input_ids": torch.tensor([[7]]), "past_key_values": cache}


def in_another_thread(model: Any, inputs: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(HiRED()(model).__enter__).result()


def outside(place: Place) -> None:
    model, processor = tiny.llava_next()
    inputs = dict(processor(images=tiny.picture(56, 112), text="a<image>b", return_tensors="pt"))
    with HiRED(budget=0.2)(model), torch.no_grad():
        more = turn(model, inputs)
    model(**more)


def embeds(inputs: dict[str, Any]) -> None:
    inputs["inputs_embeds"] = torch.zeros(*inputs.pop("input_ids").shape, 48)


def text_between(inputs: dict[str, Any]) -> None:
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids[:, :3], torch.ones_like(ids[:, :1]), ids[:, 3:]], dim=1)
    inputs.pop("attention_mask")


def sizes_of_llava(place: Place) -> None:
    model, processor = tiny.llava()
    inputs = processor(images=tiny.picture(56, 56), text="<image>", return_tensors="pt")
    with HiRED()(model):
        model(**inputs, image_sizes=torch.tensor([[56, 56]]))


def spread_over_rows(inputs: dict[str, Any]) -> None:
    needed = int((inputs["input_ids"][0] == IMAGE).sum())
    inputs["input_ids"] = torch.ones(2, 2 * needed, dtype=torch.long)
    inputs["input_ids"][0, : needed + 1] = IMAGE
    inputs["input_ids"][1, : needed - 1] = IMAGE
    inputs.pop("attention_mask")


def out_of_memory(place: Place, where: str) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    place.patch.setattr(DroppingVLM, where, refuse)
    place.measure("limit=1", "order=dataset")


def several_rounds(place: Place) -> None:
    HiredVLM.around(Answerer(place.llava())).generate_until_multi_round([])


def no_picture(place: Place) -> None:
    task = SimpleNamespace(instances=[], config=SimpleNamespace(task="t"), build_all_requests=lambda **_: 0)
    list(questions(task, 1))


def record(name: str, content: bytes | None) -> Callable[[Place], Any]:
    """A run's folder with that file; None: a folder of that name."""

    def provoke(place: Place) -> None:
        folder = RunFolder(place.tmp, "run")
        folder.path.mkdir()
        (folder.path / "samples.parquet").write_bytes(b"")
        if content is None:
            (folder.path / name).mkdir()
        else:
            (folder.path / name).write_bytes(content)
        folder.record()

    return provoke


def damaged_samples(place: Place) -> None:
    folder = RunFolder(place.tmp, "run")
    folder.write(replace(RECORD, status="complete"), pd.DataFrame({"doc_id": [0]}))
    (folder.path / "samples.parquet").write_bytes(b"")
    folder.record()


def held(place: Place) -> None:
    (place.tmp / ".locks").mkdir()
    with (place.tmp / ".locks" / "run.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with RunFolder(place.tmp, "run").locked():
            pass


def damaged_reply(place: Place) -> None:
    (place.tmp / "run").mkdir()
    (place.tmp / "run" / "replies.jsonl").write_text("[]\n")
    ReplyFile(RunFolder(place.tmp, "run"))


def full_disk(place: Place) -> None:
    with explained_disk_errors(place.tmp / "run"):
        raise OSError(28, "No space left on device")


def table2_without_grid(place: Place) -> None:
    write_measurement(
        place.tmp, "generation_attention", {"top_tokens": np.empty((0, 2, 5))}, name="gallery-1"
    )
    table2(Store(place.tmp))


def shown(*arguments: str) -> Callable[[Place], Any]:
    def provoke(place: Place) -> None:
        Image.new("RGB", (9, 9)).save(place.tmp / "a.png")
        show([argument.format(tmp=place.tmp) for argument in arguments])

    return provoke


def bomb(place: Place) -> None:
    place.patch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    shown("{tmp}/a.png")(place)


def shown_truncated(place: Place) -> None:
    (place.tmp / "cut.png").write_bytes(truncated_png()["bytes"])
    show([str(place.tmp / "cut.png")])


def drift(place: Place) -> None:
    nothing = Content("0", "0", np.zeros((0, 8, 8), np.uint8))
    place.patch.setattr("hired_eval.mini.benchmarks.write", lambda task, file: [file.touch(), nothing][1])
    hired_eval.mini.write_data_files("pope", place.tmp)


def efficiency_records(place: Place) -> None:
    place.patch.setattr("sys.argv", ["x", "--runs-dir", str(place.tmp)])
    efficiency()


def unreported(place: Place) -> None:
    """A record without what reports read."""
    (place.tmp / "run").mkdir()
    (place.tmp / "run" / "record.json").write_text('{"format": 2, "run": "run", "status": "failed"}')
    read_record(place.tmp / "run")


def described(text: str, *, numbers: str | None = None) -> Callable[[Place], Any]:
    """A table of somebody's own, of a run of full execution, with published numbers beside its file."""

    def provoke(place: Place) -> None:
        write_run(place.tmp, "full", "docvqa")
        (place.tmp / "mine.yaml").write_text(text)
        if numbers is not None:
            (place.tmp / "mine.csv").write_text(numbers)
        reported(str(place.tmp / "mine.yaml"))(place)

    return provoke


def reported(*arguments: str) -> Callable[[Place], Any]:
    return lambda place: report([*arguments, "--runs-dir", str(place.tmp), "--out", str(place.tmp / "out")])


def ranked(*words: str, full: bool = False) -> Callable[[Place], Any]:
    """A ranking of a run of HiRED at 20 %, and of full execution."""

    def provoke(place: Place) -> None:
        write_run(place.tmp, "hired", "docvqa", budget=0.2)
        if full:
            write_run(place.tmp, "full", "docvqa")
        rank([*words, "--runs-dir", str(place.tmp), "--out", str(place.tmp / "out")])

    return provoke


def curve_without_full(place: Place) -> None:
    for budget in (0.2, 0.4):
        write_run(place.tmp, "hired", "docvqa", budget=budget)
    baselines(Store(place.tmp))


def hired_llava(**options: Any) -> Callable[[Place], Any]:
    return lambda place: HiredVLM(**{"pretrained": str(place.model), "prompt": "mini"} | options)
