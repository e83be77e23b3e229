"""Vision encodings kept between runs: the same answers, no second pass, and nothing that must not be lost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from loguru import logger
from safetensors.torch import save_file

from hired_eval.dropping import Layouts, SelectingDropper, VisionEncoding
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.encoding_cache import EncodingStore, fingerprint
from hired_eval.models.families import family_of
from tests import tiny

MIB = 2**20
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("hired", {"budget": 0.2}),
    ("hired", {"budget": 0.4, "alpha": 0.1}),
    ("prumerge", {}),
    ("hired", {"budget": 0.3, "initial_layer": 1}),
    ("prumerge_plus", {}),
]


@pytest.fixture
def warnings() -> Any:
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(str(message)), level="WARNING")
    yield messages
    logger.remove(handler)


def questions() -> list[Question]:
    return [Question(f"{i}?", (tiny.picture(60 + 60 * i, 150, seed=i),)) for i in range(3)]


def losses(
    checkpoint: tuple[Any, Any], method: str, options: dict[str, Any], store: EncodingStore | None
) -> tuple[list[float], DroppingVLM]:
    model = DroppingVLM(
        Checkpoint(*checkpoint), build(method, **options), "U:{images}\n{question} A:", encodings=store
    )
    return [x.loss for x in model.likelihood([model.prepare(q, " yes") for q in questions()])], model


def test_a_sweep_encodes_each_image_once_for_methods_that_read_the_same(
    llava_next: tuple[Any, Any], tmp_path: Path
) -> None:
    uses = []
    for method, options in METHODS:
        # a new store each time, as in another process
        scores, model = losses(llava_next, method, options, EncodingStore(tmp_path / "cache", 100 * MIB))
        assert scores == losses(llava_next, method, options, None)[0]
        assert model.cache is not None
        uses.append((model.cache.use.computed, model.cache.use.disk))
    assert uses == [(3, 0), (0, 3), (0, 3), (3, 0), (3, 0), (0, 3)]
    for method, options in METHODS:
        _, model = losses(llava_next, method, options, EncodingStore(tmp_path / "cache", 100 * MIB))
        assert model.cache is not None
        assert model.cache.use.computed == 0, "what one method adds to an entry, another must not take away"


@dataclass(frozen=True, kw_only=True)
class Seeing(SelectingDropper):
    """Notes what it is shown, then spoils it."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    layers: tuple[int, ...] = ()

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        return frozenset(self.layers)

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> torch.Tensor:
        rows = dict(encoding.cls_attention)
        if rows:
            rows[-1] = encoding.attention_at(None)
        tensors = {"features": encoding.features, **{str(layer): a for layer, a in rows.items()}}
        tensors |= {"keys": encoding.keys} if encoding.keys is not None else {}
        tensors |= {"query": encoding.cls_query} if encoding.cls_query is not None else {}
        self.shown.append({name: (x.clone(), x.stride(), x.dtype) for name, x in tensors.items()})
        scores = encoding.features.float().norm(dim=-1)
        for x in tensors.values():
            x.zero_()
        return scores


@dataclass(frozen=True, kw_only=True)
class SeeingKeys(Seeing):
    reads: ClassVar = frozenset({"keys"})


@pytest.mark.parametrize("kind", [Seeing, SeeingKeys])
@pytest.mark.parametrize("layers", [(), (1,), (0, 3)])
def test_a_method_is_shown_the_same_with_and_without_the_cache(
    llava_next: tuple[Any, Any], tmp_path: Path, kind: type[Seeing], layers: tuple[int, ...]
) -> None:
    """Nor does it matter what others asked for, or what they did to what they were shown."""

    def shown(store: EncodingStore | None) -> dict[str, Any]:
        dropper = kind(layers=layers)
        model = DroppingVLM(Checkpoint(*llava_next), dropper, "U:{images}\n{question} A:", encodings=store)
        model.prepare(questions()[0])
        (one,) = dropper.shown
        return one

    alone = shown(None)
    wanted = {"features", *({"-1", "2", *map(str, layers)} if layers else ())}
    assert alone.keys() == wanted | ({"keys", "query"} if kind is SeeingKeys else set())
    if layers:
        assert alone["-1"][0].equal(alone["2"][0]), "None is the feature layer"
    store = EncodingStore(tmp_path, 100 * MIB)
    losses(llava_next, "prumerge", {}, EncodingStore(tmp_path, 100 * MIB))
    for cache in (
        store,
        store,
        EncodingStore(tmp_path, 100 * MIB),
        EncodingStore(tmp_path / "own", 100 * MIB),
    ):
        found = shown(cache)
        assert found.keys() == alone.keys()
        for name, (tensor, *form) in alone.items():
            assert found[name][0].equal(tensor)
            assert list(found[name][1:]) == form


def test_a_layer_that_was_recorded_for_others_is_not_there(
    llava_next: tuple[Any, Any], tmp_path: Path
) -> None:
    store = EncodingStore(tmp_path, 100 * MIB)
    messages = []
    for cache in (None, store, store):
        model = DroppingVLM(Checkpoint(*llava_next), ReadsLayer0(), "U:{images}\n{question}", encodings=cache)
        with pytest.raises(UserError) as refused:
            model.prepare(questions()[0])
        messages.append(str(refused.value))
    assert messages == ["CLS-attention of layer 0 was not recorded; recorded layers: 1, 2"] * 3


@dataclass(frozen=True, kw_only=True)
class ReadsLayer0(SelectingDropper):
    """Asks for one layer and reads another."""

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        return frozenset({1})

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> torch.Tensor:
        return encoding.attention_at(0).sum(dim=1)


def test_memory_comes_before_disk(llava_next: tuple[Any, Any], tmp_path: Path) -> None:
    store = EncodingStore(tmp_path, 100 * MIB)
    losses(llava_next, "full", {}, store)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    scores, model = losses(llava_next, "hired", {}, store)
    assert model.cache is not None
    assert (model.cache.use.memory, model.cache.use.computed) == (3, 0)
    assert scores == losses(llava_next, "hired", {}, None)[0]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "another file"])
def test_a_damaged_file_is_made_again_with_a_warning(
    llava_next: tuple[Any, Any], tmp_path: Path, warnings: list[str], damage: str
) -> None:
    expected, _ = losses(llava_next, "hired", {}, EncodingStore(tmp_path, 100 * MIB))
    file = next(tmp_path.rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    if damage == "another file":
        save_file({"features": torch.zeros(2)}, file)
    else:
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[:-9], "flipped bit": bytes(content), "empty": b""}[damage])
    scores, model = losses(llava_next, "hired", {}, EncodingStore(tmp_path, 100 * MIB))
    assert scores == expected
    assert model.cache is not None
    assert (model.cache.use.computed, model.cache.use.disk) == (1, 2)
    assert [str(file) in w and "encoded again" in w for w in warnings] == [True]
    _, model = losses(llava_next, "hired", {}, EncodingStore(tmp_path, 100 * MIB))
    assert model.cache is not None
    assert model.cache.use.disk == 3


def test_the_folder_stays_within_its_limit_and_loses_the_oldest(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path, limit=10 * 5000, memory_limit=0)
    tensors = {"features": torch.zeros(1000)}
    for i in range(30):
        store.keep(f"model/{i}", tensors)
        assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) <= 10 * 5000
    assert store.on_disk("model/29") is not None
    assert store.on_disk("model/0") is None


def test_a_file_that_is_removed_while_it_is_read_counts_as_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EncodingStore(tmp_path, limit=MIB, memory_limit=0)
    store.keep("a", {"features": torch.zeros(1000)})

    map_file = torch.UntypedStorage.from_file

    def removed(name: str, *arguments: Any, **options: Any) -> Any:
        """The header is read; then another process makes room, before torch maps the file."""
        Path(name).unlink()
        return map_file(name, *arguments, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", removed)
    assert store.on_disk("a") is None


def test_processes_that_share_a_folder_stay_within_its_limit_together(tmp_path: Path) -> None:
    stores = [EncodingStore(tmp_path, limit=10 * 5000, memory_limit=0) for _ in range(4)]
    for i in range(40):
        for n, store in enumerate(stores):
            store.keep(f"{n}-{i}", {"features": torch.zeros(1000)})
    assert sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) <= 1.1 * 10 * 5000


def test_memory_stays_within_its_limit(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path, limit=MIB, memory_limit=10_000)
    for i in range(5):
        store.keep(f"model/{i}", {"features": torch.zeros(1000)})
    assert [store.in_memory(f"model/{i}") is not None for i in range(5)] == [False, False, False, True, True]


def test_the_folder_may_be_deleted_and_shared(tmp_path: Path) -> None:
    def work(number: int) -> None:
        store = EncodingStore(tmp_path / "cache", 20_000, memory_limit=0)
        for i in range(40):
            name = (i * 7 + number) % 10
            found = store.on_disk(f"model/{name}")
            assert found is None or found["features"].eq(name).all()
            store.keep(f"model/{name}", {"features": torch.full((500,), float(name))})
            if number == 0 and i % 10 == 9:
                for file in (tmp_path / "cache").rglob("*.safetensors"):
                    file.unlink(missing_ok=True)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [None] * 4
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_disk_that_cannot_be_written_is_a_warning(
    llava_next: tuple[Any, Any], tmp_path: Path, warnings: list[str]
) -> None:
    (tmp_path / "cache").mkdir()
    store = EncodingStore(tmp_path / "cache", MIB)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file where the folder was")
    scores, _ = losses(llava_next, "hired", {}, store)
    assert scores == losses(llava_next, "hired", {}, None)[0]
    assert "cannot be kept" in warnings[0]


def test_a_file_for_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"encoding_cache=.*is a file"):
        EncodingStore(tmp_path / "cache", MIB)


def test_other_weights_layers_processors_or_code_have_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny.llava_next()
    keys = {fingerprint(family_of(model), processor.image_processor)}
    assert fingerprint(family_of(tiny.llava_next()[0]), processor.image_processor) in keys
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding[0] += 1
    keys.add(fingerprint(family_of(model), processor.image_processor))
    model.config.vision_feature_layer = -3
    keys.add(fingerprint(family_of(model), processor.image_processor))
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    keys.add(fingerprint(family_of(model), processor.image_processor))
    keys.add(fingerprint(family_of(model.half()), processor.image_processor))
    model.config.image_grid_pinpoints = [[56, 112]]
    keys.add(fingerprint(family_of(model), processor.image_processor))
    monkeypatch.setattr("hired_eval.models.encoding_cache.find_code_reached", lambda roots: {"other": "code"})
    keys.add(fingerprint(family_of(model), processor.image_processor))
    assert len(keys) == 7
