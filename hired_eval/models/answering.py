"""Questions about images in, answers out, with visual tokens dropped on the way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
from hired_eval.models.configs import IMAGES
from hired_eval.models.decoding import OF_SAMPLING, make_sampler, read_decoding
from hired_eval.models.encoding_cache import CachedEncoder, EncodingStore
from hired_eval.models.families import family_of
from hired_eval.models.family import Picture
from hired_eval.models.generation import can_answer_together, can_share_prefixes, looks_at_rows_alone
from hired_eval.models.images import as_rgb, digest, pad_to_square
from hired_eval.models.inside import inside
from hired_eval.models.memory import count_row_bytes, free_bytes, is_out_of_memory
from hired_eval.models.prefix import Prefix, PrefixCaches, pad_left, positions
from hired_eval.models.prompt import (
    Turn,
    check_template,
    continue_prompt,
    count_marked_places,
    find_special_tokens,
    render,
    render_chat,
    tokenize,
)
from hired_eval.models.question import QuestionTower
from hired_eval.models.reading import ReadPicture, ReadQuestion
from hired_eval.models.visual_tokens import (
    PICTURES_A_PASS,
    TokenCounts,
    VisualTokens,
    drop_tokens,
    make_visual_tokens,
)

IMAGES_REMEMBERED = 16


@dataclass(frozen=True)
class Question:
    """A question about any number of images, none included.

    Attributes:
        text: the question.
        images: in the order of the prompt.
        turns: a conversation that asks it, rendered by the processor's chat template in place of the prompt.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model says.

    Attributes:
        text: the generated text.
        counts: visual tokens of each image.
        images: digest of each image.
        by_layer: visual tokens that each layer of the language model sees, where some leave inside it.
        allowed: their mean that a budget allows; None for a method without one.
    """

    text: str
    counts: tuple[TokenCounts, ...]
    images: tuple[str, ...]
    by_layer: tuple[int, ...] = ()
    allowed: float | None = None


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        loss: mean negative log-likelihood per token of the continuation, in nats.
        greedy: whether greedy decoding would produce the continuation.
        counts: visual tokens of each image.
        images: digest of each image.
        by_layer, allowed: as of an answer.
    """

    loss: float
    greedy: bool
    counts: tuple[TokenCounts, ...]
    images: tuple[str, ...]
    by_layer: tuple[int, ...] = ()
    allowed: float | None = None


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


class DroppingVLM:
    """A checkpoint of any family that answers questions with a dropping method.

    Args:
        checkpoint: stock model and processor.
        dropper: the dropping method.
        prompt: template with `{images}` and `{question}`.
        share_prefix: prefill the prompt up to the question once for all questions about the same images,
            where the language model allows it.
        encodings: where vision encodings are kept for other runs.
        pictures_per_pass: pictures that `encode` gives the vision tower together; 'auto': 16 on a GPU, 1 on
            the CPU, whose sums differ with it in the last digits. With `encodings`, and where a text tower
            reads the question, always 1.

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
        encodings: EncodingStore | None = None,
        pictures_per_pass: int | Literal["auto"] = "auto",
    ) -> None:
        self.model: Any = checkpoint.model
        self.processor: Any = checkpoint.processor
        self.square = checkpoint.square
        self.tokenizer = self.processor.tokenizer
        self.dropper = dropper
        self.family = family_of(checkpoint.model, image_processor=self.processor.image_processor)
        self._placeholder = self.family.placeholder(self.processor)
        # a chat template has the marks around an image in it, which here belong to each image
        with_marks = self._placeholder.replace(self.processor.image_token, IMAGES)
        self.prompt = check_template(prompt.replace(with_marks, IMAGES))
        self.cache = None
        if encodings is not None:
            self.cache = CachedEncoder(self.family, self.processor.image_processor, encodings)
        usual = 1 if self.family.tower.device.type == "cpu" else PICTURES_A_PASS
        self.pictures_per_pass: int = usual if pictures_per_pass == "auto" else pictures_per_pass
        reader = dropper.vision.question_tower
        self._question_tower = None if reader is None else QuestionTower(reader, self.family)
        if self.cache or self._question_tower:
            self.pictures_per_pass = 1
        config = checkpoint.model.config
        self._depth = int(config.get_text_config(decoder=True).num_hidden_layers)
        acting(dropper.inside, self._depth)
        # what stays inside the language model depends on the question, as does what a text tower chooses
        blind = not dropper.inside and reader is None
        self.share_prefix = share_prefix and can_share_prefixes(config) and blind
        self._together = can_answer_together(config)
        special = find_special_tokens(self.tokenizer, self.processor.image_token)
        of_text = {self.tokenizer.unk_token_id, self.family.config.image_token_id}
        self._control_ids = set(self.tokenizer.convert_tokens_to_ids(sorted(special))) - of_text
        self._control_tokens: dict[tuple[int, tuple[Turn, ...]], list[int]] = {}
        self._told_of_marks = False
        self._prefixes = PrefixCaches(self.family)
        self._remembered: OrderedDict[str, VisualTokens] = OrderedDict()
        self._images_remembered = IMAGES_REMEMBERED

    def read(self, image: Image.Image, among: int = 1) -> Picture:
        """An RGB image as the vision tower gets it, where its prompt has that many images."""
        return self.family.read(self._framed(image), self.processor.image_processor, among)

    def _framed(self, image: Image.Image) -> Image.Image:
        """An RGB image as it is, or on a square where all are."""
        if self.square is None:
            return image
        mean: Sequence[float] = self.processor.image_processor.image_mean
        return pad_to_square(image, self.square, [round(255 * value) for value in mean])

    def read_question(
        self, question: Question, known: MutableMapping[str, ReadPicture] | None = None
    ) -> ReadQuestion:
        """Read a question's images. The model computes nothing here, so that threads may do it ahead.

        Args:
            question: with its images.
            known: pictures read before by their keys, which are not read again; new ones are added.

        Raises:
            UserError: an image cannot be used.
        """
        known = {} if known is None else known
        among = len(question.images)
        pictures = []
        for image in question.images:
            rgb = self._framed(as_rgb(image))
            name = digest(rgb)
            key = name if among == 1 else f"{name}-of-several"
            if key not in known:
                known[key] = self._read_picture(rgb, name, key, among)
            pictures.append(known[key])
        return ReadQuestion(question.text, tuple(pictures), question.turns)

    def _read_picture(self, image: Image.Image, name: str, key: str, among: int) -> ReadPicture:
        """A picture with its partitions; without them where its tokens are, or may be, known already."""
        layout = self.family.layout((image.height, image.width), among)
        if self.cache or key in self._remembered:
            pixels = 3 * image.width * image.height
            return ReadPicture(name, key, layout, partial(self.read, image, among), pixels)
        picture = self.read(image, among)
        picture = replace(picture, pixels=picture.pixels.to(self.family.tower.dtype))
        return ReadPicture(name, key, layout, lambda: picture, picture.pixels.nbytes)

    @torch.inference_mode()
    def encode(self, questions: Sequence[ReadQuestion]) -> None:
        """Encode questions' pictures ahead of `prepare`, up to `pictures_per_pass` in one pass.

        They are remembered until the next call at least. A pass that fails is left to `prepare`, which
        encodes one picture at a time and says whose picture cannot be used. Where memory ran out, passes are
        half as large from then on.
        """
        wanted = {picture.key: picture for question in questions for picture in question.pictures}
        self._images_remembered = max(IMAGES_REMEMBERED, len(wanted))
        unknown = [picture for key, picture in wanted.items() if key not in self._remembered]
        while unknown and self.pictures_per_pass > 1:
            part = unknown[: self.pictures_per_pass]
            try:
                pictures = [replace(picture.read(), layout=picture.layout) for picture in part]
                tokens = make_visual_tokens(self.family, pictures, self.dropper.vision, per_pass=len(part))
            except UserError:
                tokens = []
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.pictures_per_pass = max(1, len(part) // 2)
                logger.warning(
                    f"memory ran out with {len(part)} pictures in a pass of the vision tower; going on with "
                    f"{self.pictures_per_pass}"
                )
                continue
            for picture, kept in zip(part, tokens, strict=False):
                self._remember(picture.key, kept)
            unknown = unknown[len(part) :]

    def _visual_tokens(self, picture: ReadPicture, question: str) -> VisualTokens:
        """Visual tokens of a picture; the last few are remembered, as questions about one come together."""
        key = picture.key if self._question_tower is None else f"{picture.key} {question}"
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        stage = self.dropper.vision
        if self.cache is None:
            encoding = self.family.encode(picture.read().pixels, stage)
        else:
            encoding = self.cache.encode(picture.key, picture.read, stage)
        if self._question_tower is not None:
            encoding = self._question_tower.compare(encoding, question)
        (tokens,) = drop_tokens(self.family, encoding, [picture.layout], stage)
        self._remember(key, tokens)
        return tokens

    def _remember(self, key: str, tokens: VisualTokens) -> None:
        self._remembered[key] = tokens
        if len(self._remembered) > self._images_remembered:
            self._remembered.popitem(last=False)

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
        read = self.read_question(question) if isinstance(question, Question) else question
        images = tuple(self._visual_tokens(picture, read.text) for picture in read.pictures)
        image_token, image_token_id = self.processor.image_token, self.family.config.image_token_id
        text = self._render(read)
        ids = tokenize(self.tokenizer, continue_prompt(text, continuation, self.tokenizer, image_token))
        self._check_text(read, ids)
        if ids.count(image_token_id) != len(images):
            raise UserError(
                f"the tokenizer makes {ids.count(image_token_id)} placeholders of {len(images)} images; "
                f"its image token must be {image_token!r} with id {image_token_id}"
            )
        scored = 0
        if continuation:
            scored = len(ids) - _common_prefix(tokenize(self.tokenizer, text), ids)
            if scored == 0:
                raise UserError(f"the continuation {continuation!r} has no tokens to score")
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
        if context is not None and len(expanded) > context:
            raise UserError(
                f"the prompt has {len(expanded)} tokens, visual tokens included, and the model's context "
                f"holds {context}"
            )
        placed = self.family.find_positions(ids, images)
        digests = tuple(picture.digest for picture in read.pictures)
        prepared = Prepared(expanded, scored, images, digests, shared, placed)
        return self._planned(prepared) if self.dropper.inside else prepared

    def _render(self, read: ReadQuestion) -> str:
        """The prompt of a question."""
        if read.turns:
            return render_chat(read.turns, self.processor, self._placeholder)
        of_prompt = (self.tokenizer, self.processor.image_token, self._placeholder)
        return render(self.prompt, read.text, len(read.pictures), *of_prompt)

    def _check_text(self, read: ReadQuestion, ids: list[int]) -> None:
        """Say where a question's marks for images are text, and refuse control tokens from a question.

        Raises:
            UserError: the tokenizer makes a control token of text, e.g. by normalizing it.
        """
        question, images = read.text, len(read.pictures)
        marks = 0 if read.turns else count_marked_places(question, self.processor.image_token)
        if images and marks not in (0, images) and not self._told_of_marks:
            self._told_of_marks = True
            logger.warning(
                f"a question marks {marks} places for its {images} images: the marks are read as text and "
                "the images are put in front, here and wherever the numbers differ"
            )
        turns = tuple(
            Turn(turn.role, tuple(None if part is None else "a" for part in turn.parts))
            for turn in read.turns
        )
        form = images, turns
        if form not in self._control_tokens:
            plain = self._render(replace(read, text="a", turns=turns))
            self._control_tokens[form] = self._controls(tokenize(self.tokenizer, plain))
        if self._controls(ids) != self._control_tokens[form]:
            raise UserError(f"the tokenizer makes control tokens of text in the question {question[:80]!r}")

    def _controls(self, ids: list[int]) -> list[int]:
        """The control tokens among ids, in their order; placeholders are counted elsewhere."""
        return [i for i in ids if i in self._control_ids]

    def release(self) -> None:
        """Free the memory of remembered images and KV caches."""
        self._remembered.clear()
        self._prefixes.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def count_rows_that_fit(self, tokens: int) -> int:
        """How many sequences of so many tokens fit into four fifths of the memory that is free now."""
        free = 4 * free_bytes(self.model.device) // 5
        return free // count_row_bytes(self.family.config, tokens, self.model.dtype)

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
        if not (share and all(p.shared for p in prepared) and self._prefixes.fit(prefixes)):
            ids, mask = pad_left([p.input_ids for p in prepared], self._pad)
            images = self.family.inputs([image.embeddings for p in prepared for image in p.images])
            return self._with_positions({"input_ids": ids, "attention_mask": mask}, prepared, device) | images
        cache, ids, mask = self._prefixes.batch(prefixes, self._pad)
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
        by_layer = counts_by_layer(stages, given, self._depth, total)
        allowed = mean_allowed(stages, limit, self._depth, total)
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
            stages.expect(places, last, [p.total for p in batch])
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
        with self._dropping_inside(inputs["input_ids"], batch):
            output: Tensor = self.model.generate(**inputs, **settings, tokenizer=self.tokenizer)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Answer(_cut(text, asked.until), p.counts, p.digests, p.by_layer, p.allowed)
            for text, p in zip(texts, batch, strict=True)
        ]

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
        results = []
        for row, p in zip(logits, batch, strict=True):
            log_probabilities = row[-p.scored - 1 : -1].float().log_softmax(-1)
            target = torch.tensor(p.input_ids[-p.scored :], device=row.device)
            loss = -log_probabilities.gather(1, target[:, None]).mean().item()
            greedy = bool((log_probabilities.argmax(-1) == target).all())
            results.append(Likelihood(loss, greedy, p.counts, p.digests, p.by_layer, p.allowed))
        return results


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _common_prefix(first: list[int], second: list[int]) -> int:
    """How many leading ids two sequences share."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
