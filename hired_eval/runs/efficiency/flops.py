"""How much arithmetic and memory traffic a LLaVA model needs, counted from shapes.

A multiplication with its addition counts as 2 FLOPs. Matrix products and the patch convolution are counted;
normalisations, activations and softmax are not: that is what PyTorch's FlopCounterMode counts, and the
formulas agree with it exactly. Attention is counted as full S x S, as the kernels of a causal
mask may or may not skip half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hired_eval.dropping import PartitionLayout
from hired_eval.models.family import Family
from hired_eval.models.memory import head_dimension


@dataclass(frozen=True)
class Work:
    """What a phase needs.

    Attributes:
        flops: floating-point operations.
        weight_bytes: weights read; once for a batch.
        cache_bytes: KV cache read or written.
    """

    flops: int
    weight_bytes: int
    cache_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.cache_bytes + other.cache_bytes,
        )


@dataclass(frozen=True)
class Tower:
    """Shapes of a vision transformer and its projector.

    Attributes:
        channels: C.
        inner: width of the feed-forward part.
        patches: of a partition.
        patch_values: numbers in a patch, 3 * p * p.
        layers: all of them.
        output: D, width of the language model.
        class_token: 1 where a CLS token stands in front of the patches, else 0.
        merged: patches that the projector gets as one token.
        matrices: of the feed-forward part.
        pairs: tokens that attend to each other in each layer; all T^2 of them if not given.
        between: width between the projector's two layers, that of the language model if not given.
        stacked: further projectors, which run on all tokens.
    """

    channels: int
    inner: int
    patches: int
    patch_values: int
    layers: int
    output: int
    class_token: int = 1
    merged: int = 1
    matrices: int = 2
    pairs: tuple[int, ...] = ()
    between: int | None = None
    stacked: int = 0

    @classmethod
    def of(cls, family: Family, layout: PartitionLayout) -> Tower:
        """Shapes of a family's model.

        Args:
            family: of the model.
            layout: of a picture, which has as many patches a partition.
        """
        vision = family.config.vision_config
        height, width = _pair(vision.patch_size)
        frames = getattr(vision, "temporal_patch_size", 1)
        return cls(
            vision.hidden_size,
            vision.intermediate_size,
            layout.tokens_per_partition * family.merge**2,
            3 * frames * height * width,
            vision.num_hidden_layers,
            family.config.text_config.hidden_size,
            int(family.class_token),
            family.merge**2,
            **family.count_parts(layout),
        )

    @property
    def tokens(self) -> int:
        """Tokens of a partition that the projector gets, N."""
        return self.patches // self.merged

    @property
    def length(self) -> int:
        """T, tokens of a partition in the tower."""
        return self.class_token + self.patches

    def layer_weights(self) -> int:
        """Weights of a layer: q, k, v and output projection, and two or three of the feed-forward part."""
        return 4 * self.channels**2 + self.matrices * self.channels * self.inner

    def encode(self, partitions: int, layers: int, bytes_a_weight: int) -> Work:
        """Patches and `layers` layers over the T tokens of each partition.

        2 T (4 C^2 + 2 C F) + 4 T^2 C a layer and partition, 2 n (3 p^2) C for the n patches. Where a layer
        attends within windows, the sum of their squares takes the place of T^2.
        """
        pairs = sum(self.pairs[:layers]) if self.pairs else layers * self.length**2
        products = 2 * layers * self.length * self.layer_weights() + 4 * pairs * self.channels
        patches = 2 * self.patches * self.patch_values * self.channels
        weights = layers * self.layer_weights() + self.patch_values * self.channels
        work = Work(partitions * (patches + products), weights * bytes_a_weight)
        for _ in range(self.stacked):
            work += self.project(partitions * self.tokens, bytes_a_weight)
        return work

    def cls_rows(self, partitions: int, layers: int) -> Work:
        """The CLS row of the attention: 2 T C a layer and partition."""
        return Work(2 * partitions * layers * self.length * self.channels, 0)

    def received(self, partitions: int, layers: int) -> Work:
        """The attention that each token receives: 2 T^2 C a layer and partition."""
        return Work(2 * partitions * layers * self.length**2 * self.channels, 0)

    def keys(self, partitions: int, bytes_a_weight: int) -> Work:
        """Queries and keys of a layer that is left behind them: 4 T C^2 a partition."""
        weights = 2 * self.channels**2
        return Work(2 * partitions * self.length * weights, weights * bytes_a_weight)

    def project(self, tokens: int, bytes_a_weight: int) -> Work:
        """The projector's two layers: 2 n (m C W + W D), m patches a token and W wide between the two."""
        between = self.output if self.between is None else self.between
        weights = self.merged * self.channels * between + between * self.output
        return Work(2 * tokens * weights, weights * bytes_a_weight)


@dataclass(frozen=True)
class Decoder:
    """Shapes of a Llama-like language model.

    Attributes:
        hidden: D.
        inner: width of the feed-forward part.
        layers: number of layers.
        heads: number of query heads.
        kv_heads: number of key and value heads.
        head: numbers in a head.
        vocabulary: rows of the output layer.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """Shapes of a LLaVA config."""
        text = config.text_config
        return cls(
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            head_dimension(text),
            text.vocab_size,
        )

    def layer_weights(self) -> int:
        """q and output projections D H d, k and v projections D H_kv d, three of feed-forward D F."""
        attention = 2 * self.hidden * self.heads * self.head + 2 * self.hidden * self.kv_heads * self.head
        return attention + 3 * self.hidden * self.inner

    def forward(self, batch: int, new: Sequence[int], lengths: Sequence[int], bytes_a_number: int) -> Work:
        """One pass over new tokens of each row that attend to all there are, logits of the last one alone.

        2 S W + 4 S K H d a layer and row for S new tokens and K attended ones, and 2 D V for the logits.

        Args:
            batch: rows.
            new: S of each layer.
            lengths: K of each layer.
            bytes_a_number: of weights and cache.
        """
        layers = sum(
            2 * some * self.layer_weights() + 4 * some * length * self.heads * self.head
            for some, length in zip(new, lengths, strict=True)
        )
        logits = 2 * self.hidden * self.vocabulary
        weights = self.layers * self.layer_weights() + self.hidden * self.vocabulary
        cached = 2 * self.kv_heads * self.head * sum(lengths)
        return Work(batch * (layers + logits), weights * bytes_a_number, batch * cached * bytes_a_number)

    def prefill(self, batch: int, lengths: Sequence[int], bytes_a_number: int) -> Work:
        """The prompt, up to the first new token; `lengths` of each layer."""
        return self.forward(batch, lengths, lengths, bytes_a_number)

    def decode(self, batch: int, lengths: Sequence[int], new_tokens: int, bytes_a_number: int) -> Work:
        """All new tokens but the first, one pass each; `lengths` of the prompt in each layer."""
        work = Work(0, 0)
        for i in range(1, new_tokens):
            attended = [length + i for length in lengths]
            work += self.forward(batch, [1] * len(lengths), attended, bytes_a_number)
        return work

    def rows(self, batch: int, asking: int, length: int) -> Work:
        """The attention of some tokens, made again beside the layer's own: q of these, k of all, and q k."""
        queries = asking * self.hidden * self.heads * self.head
        keys = length * self.hidden * self.kv_heads * self.head
        return Work(2 * batch * (queries + keys + asking * length * self.heads * self.head), 0)

    def keys(self, batch: int, length: int) -> Work:
        """The keys of a layer, made again beside its own."""
        return Work(2 * batch * length * self.hidden * self.kv_heads * self.head, 0)


def _pair(size: int | Sequence[int]) -> Sequence[int]:
    """(height, width), for which some towers have one number."""
    return (size, size) if isinstance(size, int) else size
