"""Several methods answered in one pass over the pictures: each encoded once, and no method sees another."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import pytest
import torch

from hired_eval.dropping import Layouts, SelectingDropper, TokenDropper, VisionEncoding
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.lmms.answerer import Answerer
from hired_eval.lmms.model import HiredVLM
from hired_eval.models.answering import DroppingVLM
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.family import Picture
from hired_eval.models.visual_tokens import Encoder
from hired_eval.records.replies import Reply, RequestKey
from tests import tiny
from tests.models.test_batching import PROMPT, memory_for, requests_for
from tests.models.test_reading import PICTURES, dataset, png, show, tower_passes

METHODS: list[TokenDropper] = [
    build("full"),
    build("hired", budget=0.4, alpha=0.1),
    build("hired", budget=0.3, initial_layer=1),
    build("prumerge_plus"),
    build("visionzip", budget=0.3),
    build("fastv", budget=0.8, layer=1),
]
"""They read nothing but features, CLS rows of two layers, keys of two layers; one acts inside the model."""


@pytest.fixture(scope="module")
def documents() -> datasets.Dataset:
    files = [png(picture) for picture in PICTURES]
    return dataset([*files, None, *files[::-1]])


def model_of(
    checkpoint: tuple[Any, Any],
    documents: datasets.Dataset,
    methods: list[TokenDropper],
    *,
    per_pass: int = 1,
    likelihood: bool = False,
    **options: Any,
) -> tuple[HiredVLM, list[Any]]:
    answerers = [
        Answerer(
            DroppingVLM(Checkpoint(*checkpoint), method, PROMPT, pictures_per_pass=per_pass),
            **{"batch_size": 3} | options,
        )
        for method in methods
    ]
    model = HiredVLM.around(answerers[0], answerers[1:])
    requests, _ = requests_for([{"question": question} for question in documents["question"]])
    for request in requests:
        context, generation, _, *which = request.args
        request.arguments = (context, " yes" if likelihood else generation, show, *which)
        request.request_type = "loglikelihood" if likelihood else request.request_type
    model.task_dict = {"task": {"test": documents}}
    return model, requests


def ask(model: HiredVLM, requests: list[Any]) -> list[dict[RequestKey, Reply]]:
    (model.loglikelihood if requests[0].request_type == "loglikelihood" else model.generate_until)(requests)
    return [answerer.replies for answerer in model.answerers]


def each_alone(
    checkpoint: tuple[Any, Any], documents: datasets.Dataset, methods: list[TokenDropper], **options: Any
) -> list[dict[RequestKey, Reply]]:
    return [ask(*model_of(checkpoint, documents, [method], **options))[0] for method in methods]


@pytest.mark.parametrize(("per_pass", "likelihood"), [(1, False), (1, True), (3, False)])
def test_methods_together_answer_as_each_alone_and_encode_once(
    llava_next: tuple[Any, Any], documents: datasets.Dataset, per_pass: int, likelihood: bool
) -> None:
    options: dict[str, Any] = {"per_pass": per_pass, "likelihood": likelihood}
    alone = each_alone(llava_next, documents, METHODS, **options)
    model, requests = model_of(llava_next, documents, METHODS, **options)
    with tower_passes(llava_next) as passes:
        assert ask(model, requests) == alone
    assert len(passes) == -(-len(PICTURES) // per_pass)
    assert len({str(replies) for replies in alone}) == len(METHODS)
    efforts = [answerer.effort for answerer in model.answerers]
    assert {effort.together for effort in efforts} == {len(METHODS)}
    assert all(len(effort.answered) == len(documents) and effort.seconds > 0 for effort in efforts)


@dataclass(frozen=True, kw_only=True)
class Failing(SelectingDropper):
    """Fails at the third picture."""

    error: Any
    seen: list[int] = field(default_factory=list)

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> torch.Tensor:
        self.seen.append(len(encoding.features))
        if len(self.seen) == 3:
            raise self.error
        return encoding.features.float().norm(dim=-1)


class FailingHere(Failing):
    """As if it were a method of this package."""

    __module__ = "hired_eval.dropping.pretended"


@pytest.mark.parametrize(
    ("kind", "error", "raised"),
    [
        (Failing, UserError("not this one"), UserError),
        (Failing, TypeError("no such thing"), UserError),
        (FailingHere, TypeError("no such thing"), TypeError),
    ],
)
def test_a_companion_that_fails_is_left_out_from_there_on(
    llava_next: tuple[Any, Any],
    documents: datasets.Dataset,
    kind: type[Failing],
    error: Exception,
    raised: type[Exception],
) -> None:
    methods = [METHODS[0], kind(error=error), METHODS[1]]
    first, failed, last = ask(*model_of(llava_next, documents, methods))
    assert [first, last] == each_alone(llava_next, documents, [METHODS[0], METHODS[1]])
    assert len(failed) < len(documents)
    alone, requests = model_of(llava_next, documents, [kind(error=error)])
    with pytest.raises(raised, match=str(error)):
        ask(alone, requests)
    assert failed == alone.replies
    assert bool(failed) == (raised is UserError), "what was prepared before it is answered"


def test_companions_are_answered_where_the_first_fails(
    llava_next: tuple[Any, Any], documents: datasets.Dataset
) -> None:
    model, requests = model_of(llava_next, documents, [Failing(error=UserError("not this one")), METHODS[1]])
    with pytest.raises(UserError, match="task document 2: not this one"):
        ask(model, requests)
    assert [model.answerers[1].replies] == each_alone(llava_next, documents, [METHODS[1]])


def test_where_memory_runs_out_each_method_has_its_own_batches(
    llava_next: tuple[Any, Any], documents: datasets.Dataset
) -> None:
    model, requests = model_of(llava_next, documents, METHODS[:2], batch_size=4)
    with memory_for(llava_next[0], 2):
        replies = ask(model, requests)
    assert replies == each_alone(llava_next, documents, METHODS[:2], batch_size=2)
    assert [[m.retried_with for m in a.effort.out_of_memory] for a in model.answerers] == [[2], [2]]


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
        tensors |= {"keys": encoding.keys} if encoding.recorded_keys is not None else {}
        tensors |= {"query": encoding.cls_query} if encoding.recorded_query is not None else {}
        received = encoding.received_attention.items()
        tensors |= {f"received {layer}": values for layer, values in received}
        self.shown.append({name: (x.clone(), x.stride(), x.dtype) for name, x in tensors.items()})
        scores = encoding.features.float().norm(dim=-1)
        for x in tensors.values():
            x.zero_()
        return scores


@dataclass(frozen=True, kw_only=True)
class SeeingAll(Seeing):
    reads: ClassVar = frozenset({"keys", "received_attention"})


@dataclass(frozen=True, kw_only=True)
class SeeingKeysOfFeatures(Seeing):
    reads: ClassVar = frozenset({"keys"})
    key_layer: ClassVar = "feature"


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen3_vl"])
def test_a_method_is_shown_the_same_alone_and_with_others(family: str) -> None:
    """Nor does it matter what others asked for, or what they did to what they were shown."""
    model, processor = getattr(tiny, family)()
    of_family = family_of(model, image_processor=processor.image_processor)
    has_cls = of_family.class_token
    picture: Picture = of_family.read(tiny.picture(100, 150), processor.image_processor)
    kinds = [Seeing(), *([SeeingAll(), SeeingKeysOfFeatures()] if has_cls else [])]
    kinds += [kind for layers in ((1,), (0, 3)) if has_cls for kind in (Seeing(layers=layers),)]

    def see(encoder: Encoder, method: Seeing) -> dict[str, Any]:
        method.shown.clear()
        method.select(encoder.encode([picture], method), Layouts((picture.layout,)))
        return dict(method.shown[0])

    alone = [see(Encoder(of_family, [method]), method) for method in kinds]
    shared = Encoder(of_family, [*kinds, *kinds])
    for _ in range(2):
        for method, expected in zip(kinds, alone, strict=True):
            found = see(shared, method)
            assert found.keys() == expected.keys()
            for name, (tensor, *form) in expected.items():
                assert found[name][0].equal(tensor), name
                assert list(found[name][1:]) == form
    if has_cls:
        assert alone[3].keys() == {"features", "-1", "2", "1"}, "None is the feature layer"


@dataclass(frozen=True, kw_only=True)
class ReadsLayer0(SelectingDropper):
    """Asks for one layer and reads another."""

    asks: int = 1

    def attention_layers(self, feature_layer: int) -> frozenset[int]:
        return frozenset({self.asks})

    def score(self, encoding: VisionEncoding, layouts: Layouts) -> torch.Tensor:
        return encoding.attention_at(0).sum(dim=1)


def test_what_one_method_may_not_have_is_refused_to_it_alone(
    llava_next: tuple[Any, Any], documents: datasets.Dataset
) -> None:
    """A layer that is recorded for others; one that is not there is refused before."""
    methods = [METHODS[1], ReadsLayer0()]
    model, requests = model_of(llava_next, documents, methods)
    assert ask(model, requests)[:1] == each_alone(llava_next, documents, METHODS[1:2])
    assert [str(a.stopped_by) for a in model.answerers[1:]] == [
        "task document 0: CLS-attention of layer 0 was not recorded; recorded layers: 1, 2 (a method names "
        "those that it reads in attention_layers)"
    ]
    with pytest.raises(UserError, match=r"^ReadsLayer0 asks for attention of layer 9"):
        model_of(llava_next, documents, [METHODS[1], ReadsLayer0(asks=9)])
