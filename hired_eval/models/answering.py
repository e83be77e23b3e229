"""Questions about images in, answers out, with visual tokens dropped on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch
from loguru import logger
from PIL import Image
from torch import Tensor

from hired_eval.dropping import TokenDropper
from hired_eval.dropping.layer_stage import acting, counts_by_layer, mean_allowed
from hired_eval.errors import UserError
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.decoding import OF_SAMPLING, make_sampler, read_decoding
from hired_eval.models.families import family_of
from hired_eval.models.generation import can_answer_together, can_share_prefixes, looks_at_rows_alone
from hired_eval.models.inside import inside
from hired_eval.models.memory import batch_bytes, count_row_bytes, free_bytes
from hired_eval.models.pictures import Pictures
from hired_eval.models.prefix import Prefix, PrefixCaches, pad_left, positions
from hired_eval.models.prompt import PromptWriter
from hired_eval.models.reading import ReadQuestion
from hired_eval.models.static_cache import StaticCaches, round_up
from hired_eval.models.visual_tokens import TokenCounts, VisualTokens


@dataclass(frozen=True)
class Question:
    """A question about any number of images, none included."""

    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the language model is shown of a question's images.

    Attributes:
        counts: visual tokens of each image.
        images: digest of each image.
        by_layer: visual tokens that each layer of the language model sees, where some leave inside it.
        allowed: their mean that a budget allows; None for a method without one.
    """

    counts: tuple[TokenCounts, ...]
    images: tuple[str, ...]
    by_layer: tuple[int, ...] = ()
    allowed: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer(Shown):
    """The generated text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Likelihood(Shown):
    """How likely a continuation is.

    Attributes:
        loss: mean negative log-likelihood per token of the continuation, in nats.
        greedy: whether greedy decoding would produce the continuation.
    """

    loss: float
    greedy: bool


@dataclass(frozen=True)
class Prepared:
    """A question ready for a batch.

    Attributes:
        input_ids: prompt and continuation, each image's placeholders as many as its kept tokens.
        scored: how many tokens at the end are the continuation's.
        images: visual tokens of each image.
        digests: digest of each image.
        shared: length of the prompt up to and including the last image, whose KV cache questions about the
            same images can share; 0: nothing to share.
        positions: (planes, tokens) of a family whose positions are not those of a count.
        by_layer, allowed: as of an answer.
    """

    input_ids: list[int]
    scored: int
    images: tuple[VisualTokens, ...]
    digests: tuple[str, ...]
    shared: int = 0
    positions: Tensor | None = None
    by_layer: tuple[int, ...] = ()
    allowed: float | None = None

    @property
    def total(self) -> int:
        """P * N, summed over the images."""
        return sum(image.layout.total_tokens for image in self.images)

    @property
    def prefix(self) -> Prefix:
        """The part of the prompt that can be shared."""
        own = None if self.positions is None else self.positions[:, : self.shared]
        return Prefix(tuple(self.input_ids[: self.shared]), self.digests, self.images, own)

    @property
    def counts(self) -> tuple[TokenCounts, ...]:
        """Visual tokens of each image, counted."""
        return tuple(image.counts for image in self.images)

    @property
    def shown(self) -> dict[str, Any]:
        """The fields of `Shown`."""
        of_images = {"counts": self.counts, "images": self.digests}
        return of_images | {"by_layer": self.by_layer, "allowed": self.allowed}


class DroppingVLM:
    """A LLaVA checkpoint that answers questions with a dropping method.

    Args:
        checkpoint: stock model and processor.
        dropper: the dropping method.
        prompt: template with `{images}` and `{question}`.
        share_prefix: prefill the prompt up to the question once for all questions about the same images,
            where the language model allows it.
        pictures_per_pass: see `Pictures`.
        decoding: 'eager', or 'static': with a KV cache of fixed size, for which transformers compiles
            decoding on a GPU; eagerly all the same where the language model or the method does not allow it.

    Raises:
        UserError: the model cannot be used with token dropping, it lacks a layer at which a stage acts, or
            the prompt lacks a place.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dropper: TokenDropper,
        prompt: str,
        *,
        share_prefix: bool = True,
        pictures_per_pass: int | Literal["auto"] = "auto",
        decoding: Literal["eager", "static"] = "eager",
    ) -> None:
        self.model: Any = checkpoint.model
        self.processor: Any = checkpoint.processor
        self.tokenizer = self.processor.tokenizer
        self.dropper = dropper
        self.family = family_of(checkpoint.model, image_processor=self.processor.image_processor)
        self._prompts = PromptWriter(
            self.processor,
            prompt,
            self.family.config.image_token_id,
            self.family.placeholder(self.processor),
        )
        self.pictures = Pictures(checkpoint, self.family, dropper.vision, pictures_per_pass)
        config = checkpoint.model.config
        self._depth = int(config.get_text_config(decoder=True).num_hidden_layers)
        acting(dropper.inside, self._depth)
        # what stays inside the language model depends on the question, as does what a text tower chooses
        blind = not dropper.inside and dropper.vision.question_tower is None
        self.share_prefix = share_prefix and can_share_prefixes(config) and blind
        self._together = can_answer_together(config)
        self._static = None
        if decoding == "static" and can_share_prefixes(config) and not dropper.inside:
            self._static = StaticCaches(checkpoint.model)
        elif decoding == "static":
            reason = "drops tokens inside it" if dropper.inside else "has layers that attend to a part alone"
            logger.warning(
                f"decoding=static needs one length of all layers of the language model, which {reason}; "
                "decoding eagerly"
            )
        self.prefixes = PrefixCaches(self.family)

    @torch.inference_mode()
    def prepare(self, question: Question | ReadQuestion, continuation: str = "") -> Prepared:
        """Encode a question's images, drop tokens, and expand its placeholders to the kept tokens.

        Args:
            question: with its images, read or not.
            continuation: text behind the prompt whose likelihood is asked for, e.g. ' yes'.

        Raises:
            UserError: an image cannot be used, the method refuses it, the continuation has no tokens, or
                the prompt is longer than the model's context.
        """
        if isinstance(question, Question):
            question = self.pictures.read_question(question.text, question.images)
        images = tuple(self.pictures.visual_tokens(p, question.text) for p in question.pictures)
        image_token_id = self._prompts.image_token_id
        ids, scored = self._prompts.write(question.text, len(images), continuation, question.turns)
        kept = iter([image.counts.kept for image in images])
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (next(kept) if token == image_token_id else 1))
        shared = 0
        if self.share_prefix and image_token_id in expanded:
            behind_images = expanded[::-1].index(image_token_id)
            # the last token of the shared part must not be the one whose logits are wanted
            shared = len(expanded) - behind_images if behind_images > scored else 0
        context = getattr(self.family.config.get_text_config(), "max_position_embeddings", None)
        placed = self.family.find_positions(ids, images)
        length = len(expanded) if placed is None else max(len(expanded), int(placed.max()) + 1)
        if context is not None and length > context:
            raise UserError(
                f"the prompt has {length} tokens, visual tokens included, and the model's context "
                f"holds {context}"
            )
        digests = tuple(picture.digest for picture in question.pictures)
        prepared = Prepared(expanded, scored, images, digests, shared, placed)
        return self._planned(prepared) if self.dropper.inside else prepared

    def release(self) -> None:
        """Free the memory of remembered images and KV caches."""
        self.pictures.release()
        self.prefixes.clear()
        if self._static is not None:
            self._static.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def count_rows_that_fit(self, tokens: int) -> int:
        """How many sequences of so many tokens fit into four fifths of the memory that is free now."""
        free = free_bytes(self.model.device)
        if self._static is not None:
            free, tokens = free + self._static.nbytes, round_up(tokens)
        return batch_bytes(free) // count_row_bytes(self.family.config, tokens, self.model.dtype)

    @property
    def _pad(self) -> int:
        """Id of the padding token."""
        pad: int | None = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _batch(self, prepared: Sequence[Prepared], *, share: bool) -> dict[str, Any]:
        """Model inputs of a left-padded batch; with a KV cache where all rows have a prefix to share.

        With a cache of length L, rows are padded twice, before the prefix and between prefix and question,
        and `input_ids` hold both parts, as `generate` expects.
        """
        device = self.model.get_input_embeddings().weight.device
        prefixes = [p.prefix for p in prepared]
        if not (share and all(p.shared for p in prepared) and self.prefixes.fit(prefixes)):
            ids, mask = pad_left([p.input_ids for p in prepared], self._pad)
            images = self.family.inputs([image.embeddings for p in prepared for image in p.images])
            return self._with_positions({"input_ids": ids, "attention_mask": mask}, prepared, device) | images
        cache, ids, mask = self.prefixes.batch(prefixes, self._pad)
        own_ids, own_mask = pad_left([p.input_ids[p.shared :] for p in prepared], self._pad)
        inputs = {
            "input_ids": torch.cat([ids, own_ids], dim=1),
            "attention_mask": torch.cat([mask, own_mask], dim=1),
        }
        return self._with_positions(inputs, prepared, device) | {"past_key_values": cache}

    def _with_positions(
        self, inputs: dict[str, Tensor], prepared: Sequence[Prepared], device: torch.device
    ) -> dict[str, Any]:
        """Inputs on the device, with the position of each column."""
        placed = positions(inputs["attention_mask"], [p.positions for p in prepared])
        return {name: value.to(device) for name, value in (inputs | {"position_ids": placed}).items()}

    def _planned(self, prepared: Prepared) -> Prepared:
        """With the visual tokens that each layer of the language model sees.

        Raises:
            UserError: a budget is too small for its method.
            RuntimeError: the layers see more in the mean than the budget allows.
        """
        stages, total = self.dropper.inside, prepared.total
        given = sum(count.kept for count in prepared.counts)
        limits = [count.allowed for count in prepared.counts]
        limit = sum(n for n in limits if n is not None) if limits and None not in limits else None
        shown = len(prepared.images)
        by_layer = counts_by_layer(stages, given, self._depth, total, shown)
        allowed = mean_allowed(stages, limit, self._depth, total, shown)
        if allowed is not None and fmean(by_layer) > allowed:
            raise RuntimeError(f"{self.dropper}: layers see {by_layer} visual tokens, {allowed} are allowed")
        return replace(prepared, by_layer=tuple(by_layer), allowed=allowed)

    @contextmanager
    def _dropping_inside(self, input_ids: Tensor, batch: Sequence[Prepared]) -> Iterator[None]:
        """The stages inside the language model, for one batch.

        Args:
            input_ids: (B, L) left-padded.
            batch: the questions, what is scored behind them included.
        """
        if not self.dropper.inside:
            yield
            return
        last = input_ids.shape[1] - 1 - torch.tensor([p.scored for p in batch], device=input_ids.device)
        with inside(self.model, self.dropper.inside) as stages:
            places = input_ids == self.family.config.image_token_id
            stages.expect(places, last, [p.total for p in batch], [len(p.images) for p in batch])
            yield

    @torch.inference_mode()
    def answer(
        self, batch: Sequence[Prepared], generation: dict[str, Any], seeds: Sequence[int] | None = None
    ) -> list[Answer]:
        """Answer a batch of questions together, left-padded.

        One at a time where the language model or an option of generation, the checkpoint's own included,
        would make an answer depend on the others.

        Args:
            batch: prepared questions.
            generation: options as `read_decoding` reads them, e.g. max_new_tokens; `until` holds texts
                to stop at.
            seeds: one for each question, where answers are sampled; by default drawn.

        Raises:
            UserError: a generation option that is not kept.
        """
        asked = read_decoding(generation)
        settings = {
            **asked.settings,
            "num_return_sequences": 1,
            "return_dict_in_generate": False,
            "pad_token_id": self._pad,
            # greedy decoding must not read what a checkpoint says of sampling
            "do_sample": False,
            **dict.fromkeys(OF_SAMPLING),
        }
        if asked.sampling is not None and seeds is None:
            seeds = torch.randint(2**62, (len(batch),)).tolist()
        alone = not looks_at_rows_alone(self.model.generation_config, settings)
        if len(batch) > 1 and (alone or not self._together):
            return [
                answer
                for i, question in enumerate(batch)
                for answer in self.answer([question], generation, seeds and seeds[i : i + 1])
            ]
        if asked.sampling is not None and seeds is not None:
            settings["logits_processor"] = make_sampler(asked.sampling, self.model.generation_config, seeds)
        inputs = self._batch(batch, share=not alone)
        if self._static is not None and not alone:
            self._static.put_into(inputs, settings["max_new_tokens"])
        with self._dropping_inside(inputs["input_ids"], batch):
            output: Tensor = self.model.generate(**inputs, **settings, tokenizer=self.tokenizer)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [Answer(text=_cut(text, asked.until), **p.shown) for text, p in zip(texts, batch, strict=True)]

    @torch.inference_mode()
    def likelihood(self, batch: Sequence[Prepared]) -> list[Likelihood]:
        """How likely each continuation is as the answer to its question, in one left-padded batch.

        One at a time where the language model would make a likelihood depend on the others.

        Args:
            batch: questions prepared with a continuation.
        """
        if len(batch) > 1 and not self._together:
            return [likely for question in batch for likely in self.likelihood([question])]
        inputs = self._batch(batch, share=True)
        if "past_key_values" in inputs:
            cached = inputs["past_key_values"].get_seq_length()
            inputs.update({name: inputs[name][..., cached:] for name in ("input_ids", "position_ids")})
        longest = max(p.scored for p in batch)
        with self._dropping_inside(inputs["input_ids"], batch):
            logits: Tensor = self.model(**inputs, logits_to_keep=longest + 1).logits
        measured = []
        for row, ids, p in zip(logits, inputs["input_ids"], batch, strict=True):
            log_probabilities = row[-p.scored - 1 : -1].float().log_softmax(-1)
            target = ids[-p.scored :].to(row.device)
            loss = -log_probabilities.gather(1, target[:, None]).mean()
            greedy = (log_probabilities.argmax(-1) == target).all()
            measured.append(torch.stack([loss, greedy.to(loss)]))
        # the device is waited for once a batch
        numbers = torch.stack(measured).tolist()
        return [
            Likelihood(loss=loss, greedy=bool(greedy), **p.shown)
            for (loss, greedy), p in zip(numbers, batch, strict=True)
        ]


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
