"""The core types that every dropping method works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hired_eval.errors import UserError

Signal = Literal["cls_attention", "received_attention", "keys"]
"""What a stage may read of the vision tower in addition to features: CLS rows, the attention that each token
receives, or keys and the CLS query."""


class ByLayer(dict[int, Tensor]):
    """A signal by layer, where a layer that a method has not asked for is an error of one line.

    Args:
        what: the signal, in words.
        asked_by: where a method names the layers that it reads.
        recorded: by layer.
    """

    def __init__(self, what: str, asked_by: str, recorded: Mapping[int, Tensor]) -> None:
        super().__init__(recorded)
        self.what, self.asked_by = what, asked_by

    def __missing__(self, layer: int) -> Tensor:
        known = ", ".join(str(i) for i in sorted(self)) or "none"
        raise UserError(
            f"{self.what} of layer {layer} was not recorded; recorded layers: {known} (a method names those "
            f"that it reads in {self.asked_by})"
        )


def not_asked_for(what: str, signal: Signal) -> UserError:
    """The error where a method reads a signal that the vision tower was not asked for."""
    return UserError(
        f"this dropping method needs {what}, and the encoding has none; add {signal!r} to what the method's "
        f"class reads, e.g. reads = frozenset({{{signal!r}}})"
    )


@dataclass(frozen=True)
class VisionEncoding:
    """B images through the vision tower in one pass: S partitions in all, N patches each, C channels.

    The partitions of an image follow each other. NaN is looked for without waiting for the device: what must
    not hold any is named by `forbid_nan`, and the error comes with the pass's one copy to the host.

    Attributes:
        features: (S, N, C) output of the feature layer, before the projector, CLS removed.
        cls_attention: layer -> (S, heads, N): the CLS row of the attention, softmax over CLS and
            patches, the CLS column removed afterwards (so a row sums to less than 1).
        recorded_keys: see `keys`; None where no method asks for them.
        recorded_query: see `cls_query`; None likewise, and where there is no CLS token.
        feature_layer: the layer whose output feeds the projector, counted from 0: what None as a layer means.
        received_attention: layer -> (S, N): the attention that each patch receives, mean over heads and over
            all queries, that of CLS included where there is one.
        recorded_relevance: see `relevance`; None where no method asks for it.
        added: (S, N, k * D) what the language model adds to each token behind its first k layers, with which
            methods have nothing to do (DeepStack of Qwen3-VL); None for nothing.
        heads: attention heads in a layer of the vision tower; None: not told.
        nan_flags: what must not hold NaN in this pass, and on the device whether it does.
    """

    features: Tensor
    cls_attention: Mapping[int, Tensor]
    recorded_keys: Tensor | None = None
    recorded_query: Tensor | None = None
    feature_layer: int | None = None
    received_attention: Mapping[int, Tensor] = field(default_factory=dict)
    recorded_relevance: Tensor | None = None
    added: Tensor | None = None
    heads: int | None = None
    nan_flags: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, recorded in (
            ("cls_attention", ByLayer("CLS-attention", "attention_layers", self.cls_attention)),
            ("received_attention", ByLayer("attention received", "received_layers", self.received_attention)),
        ):
            object.__setattr__(self, name, recorded)

    def attention_at(self, layer: int | None) -> Tensor:
        """CLS attention (S, heads, N) of `layer`, None meaning the feature layer; it must not hold NaN.

        In an encoding made by hand that does not name its feature layer, it is the highest recorded one.

        Raises:
            UserError: the layer was not recorded.
        """
        return self._recorded("cls_attention", layer)

    def received_at(self, layer: int | None) -> Tensor:
        """Attention received (S, N) in `layer`, None as in `attention_at`; it must not hold NaN.

        Raises:
            UserError: the layer was not recorded.
        """
        return self._recorded("received_attention", layer)

    def _recorded(self, signal: Signal, layer: int | None) -> Tensor:
        recorded: ByLayer = getattr(self, signal)
        if not recorded:
            raise not_asked_for(recorded.what, signal)
        if layer is None:
            layer = max(recorded) if self.feature_layer is None else self.feature_layer
        values = recorded[layer]
        self.forbid_nan(f"{recorded.what} of layer {layer}", values)
        return values

    @property
    def keys(self) -> Tensor:
        """Key projections (S, 1 + N, C), CLS first, of the layer that the method names (`key_layer`).

        They are (S, N, C) where there is no CLS token.

        Raises:
            UserError: they were not recorded.
        """
        if self.recorded_keys is None:
            raise not_asked_for("keys", "keys")
        return self.recorded_keys

    @property
    def cls_query(self) -> Tensor:
        """Query projection (S, C) of CLS in the layer of `keys`.

        Raises:
            UserError: it was not recorded.
        """
        if self.recorded_query is None:
            raise not_asked_for("the CLS query", "keys")
        return self.recorded_query

    def keys_of_patches(self) -> Tensor:
        """Keys (S, N, C), that of CLS left out.

        Raises:
            UserError: they were not recorded.
        """
        return self.keys[:, -self.features.shape[1] :]

    @property
    def relevance(self) -> Tensor:
        """How like the question each patch is, (S, N), from -1 to 1; it must not hold NaN.

        Raises:
            UserError: it is not there.
        """
        if self.recorded_relevance is None:
            raise UserError(
                "this dropping method reads the question, and nothing here says what it is; set "
                "text_tower=null, or give your method a question_tower"
            )
        self.forbid_nan("the similarity of patches to the question", self.recorded_relevance)
        return self.recorded_relevance

    def forbid_nan(self, what: str, values: Tensor) -> None:
        """Have the pass end with an error if values that decide what is kept are not numbers.

        Args:
            what: their name in the message.
            values: of any shape.
        """
        self.nan_flags[what] = torch.isnan(values).any()

    def copy_to_host(self, numbers: Tensor) -> list[int]:
        """The one copy to the host that a pass makes: whole numbers (n,), and with them what is NaN.

        Raises:
            UserError: naming what holds NaN.
        """
        flagged, flags = list(self.nan_flags), list(self.nan_flags.values())
        self.nan_flags.clear()
        found: list[int] = torch.cat([numbers, *(flag.to(numbers)[None] for flag in flags)]).tolist()
        for what, nan in zip(flagged, found[len(numbers) :], strict=True):
            if nan:
                raise holds_nan(what)
        return found[: len(numbers)]


def refuse_nan(what: str, values: Tensor) -> None:
    """Stop where numbers that decide what is kept are not numbers; this waits for the device.

    Raises:
        UserError: naming what holds NaN.
    """
    if bool(torch.isnan(values).any()):
        raise holds_nan(what)


def holds_nan(what: str) -> UserError:
    """The error where numbers are none."""
    return UserError(
        f"{what} holds NaN; in a method of your own, look for a division by zero; elsewhere try another "
        "dtype, e.g. model.dtype=float32"
    )


def require_scores(method: object, scores: object, shape: Sequence[int], of: str) -> None:
    """Refuse what a method's `score` gave where it is not one number each.

    Args:
        method: that gave it.
        scores: what it gave.
        shape: that a tensor of scores has.
        of: what it has a number for, with the names of its dimensions.

    Raises:
        UserError: it is no tensor, or of another shape.
    """
    if isinstance(scores, Tensor) and scores.shape == tuple(shape):
        return
    gave = tuple(scores.shape) if isinstance(scores, Tensor) else f"{type(scores).__name__}, not a tensor"
    raise UserError(
        f"{type(method).__name__}.score must give one number for each {of} = {tuple(shape)}; it gave {gave}"
    )


@dataclass(frozen=True)
class KeptTokens:
    """What a method keeps of each of the S partitions of a pass, padded to K tokens a partition.

    Column j of row s counts where j < counts[s]; what is behind has no meaning.

    Attributes:
        indices: (S, K) int64 token positions in the partition, row-major; for a merged token the position
            of its centre; -1 for a token made of many.
        features: (S, K, C), in the order of `indices`.
        counts: (S,) int64 tokens kept, at most K.
        by_index: `features` are (S, N, C), all tokens of each partition, and those at `indices` are kept:
            nothing has to be copied before it is known how much stays.
    """

    indices: Tensor
    features: Tensor
    counts: Tensor
    by_index: bool = False


def take_tokens(features: Tensor, indices: Tensor) -> Tensor:
    """(S, K, C): tokens (S, N, C) at positions (S, K) of their partition."""
    partitions, tokens, channels = features.shape
    start = torch.arange(partitions, device=indices.device)[:, None] * tokens
    return features.flatten(0, 1).index_select(0, (start + indices).flatten()).view(*indices.shape, channels)


def pad_partitions(indices: Sequence[Tensor], features: Sequence[Tensor]) -> KeptTokens:
    """Kept tokens of S partitions whose numbers the host knows.

    Args:
        indices: (n_i,) of each partition.
        features: (n_i, C) of each.
    """
    counts = torch.tensor([len(index) for index in indices])
    return KeptTokens(
        pad_sequence(list(indices), batch_first=True),
        pad_sequence(list(features), batch_first=True),
        counts.to(indices[0].device, non_blocking=True),
    )
