"""Stages inside a language model, against a slow way that hides tokens instead of leaving them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLTextConfig,
    Qwen2VLTextModel,
    Qwen3VLTextConfig,
    Qwen3VLTextModel,
)

from hired_eval.dropping.dart import DART
from hired_eval.dropping.fastv import FastV
from hired_eval.dropping.layer_stage import LayerSignals, LayerStage
from hired_eval.dropping.pyramiddrop import PyramidDrop
from hired_eval.dropping.sparsevlm import SparseVLM
from hired_eval.errors import UserError
from hired_eval.models.inside import inside
from tests import tiny
from tests.models.layers import (
    DEPTH,
    KINDS,
    VISUAL,
    Steps,
    batch,
    language_model,
    slow,
    slow_answer,
    spread,
)

NEW = 5
ROWS = [(3, 12, 4), (1, 20, 3), (6, 0, 2), (2, 7, 5)]
"""Text, visual tokens, text; the third row has no image."""
STAGES: dict[str, list[LayerStage]] = {
    "fastv": [FastV()],
    "early and hard": [FastV(layer=1, keep=0.1)],
    "last layer": [FastV(layer=DEPTH - 1, keep=0.3)],
    "steps": [Steps()],
    "one layer after the other": [Steps(at=(1, 2, 3), shares=(0.7, 0.5, 0.1))],
    "two methods": [FastV(layer=4, keep=0.25), Steps(at=(1,), shares=(0.5,))],
    "all leave": [Steps(at=(2,), shares=(0.0,))],
    "ties": [Steps(at=(1, 3), shares=(0.7, 0.4), ties=True)],
    "more than are there": [Steps(at=(1, 3), shares=(0.3, 0.9))],
}
PUBLISHED: dict[str, list[LayerStage]] = {
    "pyramiddrop": [PyramidDrop()],
    "pyramiddrop, early": [PyramidDrop(at=(1, 2, 3), ratios=(0.9, 0.6, 0.2), positions="original")],
    "sparsevlm": [SparseVLM(at=(1, 3, 4), ratios=(0.6, 0.4, 0.2))],
    "sparsevlm, original": [SparseVLM(at=(1, 4), ratios=(0.5, 0.2), positions="original")],
    "sparsevlm, no merging": [SparseVLM(at=(2,), ratios=(0.4,), recycle=False)],
    "dart": [DART(keep=0.4, pivot_image=2, pivot_text=1)],
    "dart, by position": [DART(layer=1, keep=0.6, order="ascending", positions="compact")],
    "one of each": [
        FastV(layer=1, keep=0.8),
        SparseVLM(at=(2,), ratios=(0.7,)),
        PyramidDrop(at=(4,), ratios=(0.3,)),
    ],
}
FEW = ("fastv", "steps", "all leave")
NONE_DROPPED: list[LayerStage] = [
    FastV(layer=1, keep=1.0),
    DART(layer=2, keep=1.0),
    SparseVLM(at=(3,), ratios=(1.0,)),
    PyramidDrop(at=(4,), ratios=(1.0,)),
]


def generated(
    model: Any, ids: Tensor, mask: Tensor, stages: Sequence[LayerStage], **options: Any
) -> list[list[int]]:
    settings = {"max_new_tokens": NEW, "do_sample": False, **options}

    def tell(module: Any, args: Any, kwargs: Any) -> None:
        """Without a cache the model reads the prompts again for each token."""
        more = kwargs["inputs_embeds" if kwargs.get("input_ids") is None else "input_ids"].shape[1]
        if not settings.get("use_cache", True) and more > ids.shape[1]:
            visual = torch.nn.functional.pad(ids >= VISUAL, (0, more - ids.shape[1]))
            found.expect(visual, torch.full((len(ids),), ids.shape[1] - 1))

    first = model.get_decoder().register_forward_pre_hook(tell, with_kwargs=True)
    with first, inside(model, stages) as found:
        found.expect(ids >= VISUAL)
        output = model.generate(input_ids=ids, attention_mask=mask, **settings)
    return output[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def unpadded(ids: Tensor) -> list[Tensor]:
    return [row[row > 0] for row in ids]


@pytest.mark.parametrize(
    ("name", "kind", "attention"),
    [
        *((name, "llama", attention) for name in STAGES for attention in ("eager", "sdpa")),
        *(("steps", kind, attention) for kind in KINDS if kind != "llama" for attention in ("eager", "sdpa")),
        *((name, "llama", "sdpa") for name in PUBLISHED),
        *(("one of each", kind, "eager") for kind in ("llama", "qwen3")),
    ],
)
def test_answers_are_those_of_the_slow_way(name: str, kind: str, attention: str) -> None:
    model, stages = language_model(kind, attention), (STAGES | PUBLISHED)[name]
    ids, mask = batch(ROWS)
    expected = [slow_answer(model, row, stages, NEW) for row in unpadded(ids)]
    assert generated(model, ids, mask, stages) == expected
    alone = [generated(model, row[None], torch.ones_like(row[None]), stages)[0] for row in unpadded(ids)]
    assert alone == expected
    stock = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    differs = [a != b for a, b in zip(stock[:, ids.shape[1] :].tolist(), expected, strict=True)]
    assert any(differs), "a test that cannot fail"
    assert not differs[2], "no image in this row"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_where_nothing_is_dropped_answers_and_logits_are_the_stock_model_s(attention: str) -> None:
    model = language_model(attention=attention)
    ids, mask = batch(ROWS)
    stock = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert generated(model, ids, mask, NONE_DROPPED) == stock[:, ids.shape[1] :].tolist()
    assert generated(model, ids, mask, []) == stock[:, ids.shape[1] :].tolist()
    logits = model(input_ids=ids, attention_mask=mask).logits
    with inside(model, NONE_DROPPED) as found:
        found.expect(ids >= VISUAL)
        torch.testing.assert_close(
            model(input_ids=ids, attention_mask=mask).logits[mask.bool()], logits[mask.bool()]
        )
        assert found.counts == [[row[1]] * DEPTH for row in ROWS]


@pytest.mark.parametrize(
    ("attention", "name", "use_cache"),
    [
        *product(("eager", "sdpa"), FEW, (True, False)),
        *product(("sdpa",), ("pyramiddrop", "sparsevlm", "dart"), (True,)),
    ],
)
@torch.no_grad()
def test_logits_stand_in_the_columns_of_the_input(attention: str, name: str, use_cache: bool) -> None:
    """Prompts with answers of different lengths behind them, as where a likelihood is asked for."""
    model, stages = language_model(attention=attention), (STAGES | PUBLISHED)[name]
    ids, mask = batch(ROWS)
    behind = torch.tensor([0, 2, 1, 3])
    asking = ids.shape[1] - 1 - behind
    with inside(model, stages) as found:
        found.expect(ids >= VISUAL, asking)
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache}
        logits = model(**given).logits
        found.expect(ids >= VISUAL, asking)
        assert model(**given, logits_to_keep=4).logits.equal(logits[:, -4:])
        counts = found.counts
    model.set_attn_implementation("eager")
    for i, row in enumerate(unpadded(ids)):
        decoder = model.get_decoder()
        hidden, there, by_layer = slow(
            decoder, decoder.embed_tokens(row), row >= VISUAL, stages, len(row) - 1 - int(behind[i])
        )
        mine = logits[i, -len(row) :]
        torch.testing.assert_close(mine[there], model.lm_head(hidden[there]), rtol=1e-4, atol=1e-4)
        assert not mine[~there].any()
        assert counts[i] == by_layer


@torch.no_grad()
def test_the_prompt_s_end_asks_though_an_answer_stands_behind_it() -> None:
    model = language_model()
    ids, mask = batch(ROWS)
    answer = torch.tensor([[7, 8, 9]]).expand(len(ids), -1)
    with inside(model, [FastV()]) as found:
        found.expect(ids >= VISUAL)
        cache = DynamicCache()
        model(input_ids=ids, attention_mask=mask, past_key_values=cache)
        lengths = [layer.get_seq_length() for layer in cache.layers]
        all_, both = torch.cat([ids, answer], 1), torch.cat([mask, torch.ones_like(answer)], 1)
        for part in answer.split([1, 2], dim=1):
            step = {"attention_mask": both[:, : cache.get_seq_length() + part.shape[1]]}
            positions = torch.arange(part.shape[1])[None] + cache.get_seq_length()
            last = model(input_ids=part, past_key_values=cache, position_ids=positions, **step).logits
        visual = torch.cat([ids >= VISUAL, torch.zeros_like(answer, dtype=torch.bool)], 1)
        found.expect(visual, torch.full((len(ids),), ids.shape[1] - 1))
        together = model(input_ids=all_, attention_mask=both).logits
    torch.testing.assert_close(last, together[:, -2:], rtol=1e-4, atol=1e-4)
    longest = max(text + visual // 2 + end for text, visual, end in ROWS)
    assert lengths == [ids.shape[1]] * 2 + [longest] * (DEPTH - 2)


@torch.no_grad()
def test_rows_padded_on_the_right_too() -> None:
    model = language_model()
    ids, _ = batch(ROWS)
    rows = unpadded(ids)
    right = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    asking = torch.tensor([len(row) - 1 for row in rows])
    with inside(model, [Steps()]) as found:
        found.expect(right >= VISUAL, asking)
        logits = model(input_ids=right, attention_mask=(right > 0).long()).logits
        for i, row in enumerate(rows):
            found.expect(row[None] >= VISUAL)
            alone = model(input_ids=row[None]).logits
            torch.testing.assert_close(logits[i, : len(row)], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 20},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
        {"repetition_penalty": 1.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["fastv", "steps", "sparsevlm"])
def test_generation_with_a_cache_equals_one_without(name: str, options: dict[str, Any]) -> None:
    model = language_model()
    ids, mask = batch(ROWS)
    answers = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        answers.append(
            generated(model, ids, mask, (STAGES | PUBLISHED)[name], use_cache=use_cache, **options)
        )
    assert answers[0] == answers[1]
    torch.manual_seed(3)
    stock = model.generate(
        input_ids=ids, attention_mask=mask, **{"max_new_tokens": NEW, "do_sample": False, **options}
    )
    assert answers[0] != stock[:, ids.shape[1] :].tolist()


@torch.no_grad()
def test_a_beam_s_score_is_the_likelihood_of_the_slow_way() -> None:
    model, stages = language_model(), [Steps()]
    ids, mask = batch(ROWS)
    with inside(model, stages) as found:
        found.expect(ids >= VISUAL)
        output = model.generate(
            input_ids=ids, attention_mask=mask, num_beams=3, max_new_tokens=4, do_sample=False,
            length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert found.counts[1] == [20, 20, 12, 12, 6, 6]
    model.set_attn_implementation("eager")
    decoder = model.get_decoder()
    for row, answer, score in zip(
        unpadded(ids), output.sequences[:, ids.shape[1] :], output.sequences_scores, strict=True
    ):
        both = torch.cat([row, answer])
        visual = (both >= VISUAL) & (torch.arange(len(both)) < len(row))
        hidden, _, _ = slow(decoder, decoder.embed_tokens(both), visual, stages, len(row) - 1)
        likely = model.lm_head(hidden[len(row) - 1 : -1]).log_softmax(-1)
        torch.testing.assert_close(likely.gather(1, answer[:, None]).sum(), score, rtol=1e-4, atol=1e-4)


def test_decoding_that_takes_tokens_back() -> None:
    model = language_model()
    ids, _ = batch(ROWS)
    row = unpadded(ids)[0][None]
    mask = torch.ones_like(row)
    greedy = generated(model, row, mask, [FastV()], max_new_tokens=20)
    assert generated(model, row, mask, [FastV()], max_new_tokens=20, prompt_lookup_num_tokens=3) == greedy


@pytest.mark.parametrize("model", [tiny.llava_next, tiny.llava])
@torch.no_grad()
def test_a_stock_llava_model_with_pictures(model: Any) -> None:
    llava, processor = model()
    for name, parameter in llava.named_parameters():
        if "language_model" in name and ("q_proj" in name or "k_proj" in name):
            parameter.mul_(3)
    texts = ["<image>what?", "<image>" + "which" * 3]
    inputs = processor(
        images=[tiny.picture(120, 60), tiny.picture(60, 130, 1)], text=texts, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    stages, visual = [FastV(layer=1, keep=0.2)], inputs["input_ids"] == 4
    embeddings: list[Tensor] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            embeddings.append(kwargs["inputs_embeds"])

    with (
        inside(llava, stages) as found,
        llava.get_decoder().register_forward_pre_hook(note, with_kwargs=True),
    ):
        found.expect(visual)
        answers = llava.generate(**inputs, **settings)[:, visual.shape[1] :]
        assert found.counts == [[int(n), int(n) // 5] for n in visual.sum(1)]
    assert answers.tolist() != llava.generate(**inputs, **settings)[:, visual.shape[1] :].tolist()
    llava.set_attn_implementation("eager")
    decoder = llava.get_decoder()
    for i, answer in enumerate(answers):
        there = inputs["attention_mask"][i].bool()
        row = embeddings[0][i][there]
        for token in answer:
            places = torch.zeros(len(row), dtype=torch.bool)
            places[: int(there.sum())] = visual[i][there]
            hidden, _, _ = slow(decoder, row, places, stages, int(there.sum()) - 1)
            assert int(llava.lm_head(hidden[-1]).argmax()) == token
            row = torch.cat([row, decoder.embed_tokens(token)[None]])


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": DEPTH, "vocab_size": 200}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}


def rotary(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (Qwen2VLTextModel, Qwen2VLTextConfig(**SIZES, **HEADS, rope_parameters=rotary(1, 1, 2))),
        (Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig(**SIZES, **HEADS, rope_parameters=rotary(1, 1, 2))),
        (Qwen3VLTextModel, Qwen3VLTextConfig(**SIZES, **HEADS, head_dim=16, rope_parameters=rotary(4, 2, 2))),
    ],
)
@torch.no_grad()
def test_language_models_with_positions_in_two_dimensions(model: Any, config: Any) -> None:
    torch.manual_seed(0)
    decoder = model(config).eval()
    spread(decoder)
    embeddings = torch.randn(1, 22, 32)
    visual = (torch.arange(20) >= 3) & (torch.arange(20) < 15)
    positions = torch.arange(22).expand(3, 1, -1).clone()
    positions[1, 0, 3:15] = 3 + torch.arange(12) // 4
    positions[2, 0, 3:15] = 3 + torch.arange(12) % 4
    with inside(decoder, [Steps()]) as found:
        found.expect(visual[None])
        first = decoder(inputs_embeds=embeddings[:, :20], position_ids=positions[..., :20], use_cache=True)
        second = decoder(
            inputs_embeds=embeddings[:, 20:],
            position_ids=positions[..., 20:],
            past_key_values=first.past_key_values,
        )
        assert found.counts == [[12, 12, 7, 7, 3, 3]]
    decoder.set_attn_implementation("eager")
    visual = torch.cat([visual, torch.zeros(2, dtype=torch.bool)])
    expected, there, _ = slow(decoder, embeddings[0], visual, [Steps()], 19, positions)
    given = torch.cat([first.last_hidden_state, second.last_hidden_state], dim=1)[0]
    torch.testing.assert_close(given[there], expected[there], rtol=1e-4, atol=1e-4)


def test_flash_attention_cannot_take_gaps_between_positions_for_seams() -> None:
    from transformers.modeling_flash_attention_utils import _is_packed_sequence

    model = language_model()
    ids, _ = batch(ROWS[:1])
    packed: list[bool] = []
    seams = {"with_kwargs": True}
    with inside(model, [FastV()]) as found:
        found.expect(ids >= VISUAL)
        for layer in model.get_decoder().layers:
            layer.self_attn.register_forward_pre_hook(
                lambda module, args, kwargs: packed.append(
                    bool(_is_packed_sequence(kwargs["position_ids"], 1))
                ),
                **seams,
            )
        model.generate(input_ids=ids, max_new_tokens=2, do_sample=False)
    assert packed == [False] * 2 * DEPTH


def hooks_of(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_gone_behind_the_block_and_behind_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    ids, mask = batch(ROWS)
    stock = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    before = hooks_of(model)
    with inside(model, [FastV()]):
        assert hooks_of(model) > before
    assert hooks_of(model) == before
    with pytest.raises(ZeroDivisionError), inside(model, [FastV()]):
        raise ZeroDivisionError
    assert hooks_of(model) == before
    decoder = model.get_decoder()
    monkeypatch.setattr(decoder.norm, "register_forward_hook", lambda hook: 1 / 0)
    with pytest.raises(ZeroDivisionError), inside(model, [FastV()]):
        pass
    assert hooks_of(model) == before
    after = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert after.equal(stock)


def test_a_pass_that_failed_leaves_nothing_behind() -> None:
    model = language_model()
    ids, mask = batch(ROWS)
    expected = generated(model, ids, mask, [FastV()])
    with inside(model, [FastV()]) as found:
        found.expect(ids >= VISUAL)
        with (
            pytest.raises(ZeroDivisionError),
            model.get_decoder().layers[3].register_forward_pre_hook(lambda module, args: 1 / 0),
        ):
            model(input_ids=ids, attention_mask=mask)
        found.expect(ids >= VISUAL)
        output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert output[:, ids.shape[1] :].tolist() == expected


def enter(model: Any, stages: Sequence[LayerStage]) -> None:
    with inside(model, stages):
        pass


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            lambda: language_model("mistral", sliding_window=8),
            "visual tokens cannot leave inside this MistralModel, which attends within a window; take a "
            "model of full attention (no sliding_window)",
        ),
        (
            lambda: language_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=3),
            "visual tokens cannot leave inside this Qwen2Model, which attends within a window; take a model "
            "of full attention (no sliding_window)",
        ),
        (
            lambda: LlamaModel(LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)),
            "FastV acts at layer 2, and the language model has 2; choose one from 1 to 1",
        ),
    ],
)
def test_models_that_are_refused(model: Any, text: str) -> None:
    with pytest.raises(UserError) as refused:
        enter(model(), [FastV()])
    assert str(refused.value) == text


def test_unknown_layers_are_refused() -> None:
    from transformers import GPT2Config, GPT2Model

    with pytest.raises(UserError) as refused:
        enter(GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2)), [FastV()])
    assert str(refused.value).startswith(
        "visual tokens cannot leave inside GPT2Model, whose layers are not told; known are LlamaDecoderLayer"
    )


def prompts_and_cache(model: Any, ids: Tensor) -> Any:
    return model(input_ids=ids, use_cache=True).past_key_values


@torch.no_grad()
def test_calls_that_are_refused() -> None:
    model = language_model()
    ids, mask = batch([(3, 12, 4), (3, 12, 4)])
    length, visual = ids.shape[1], ids >= VISUAL
    stock = prompts_and_cache(model, ids)

    def refused(what: str, **call: Any) -> None:
        with pytest.raises(UserError) as error:
            model.generate(**call, max_new_tokens=2) if "cache_implementation" in call else model(**call)
        assert str(error.value) == what

    with inside(model, [FastV()]) as found:
        unknown = "where visual tokens are is not known; call expect(visual) before each batch"
        refused(unknown, input_ids=ids)
        for given in (ids[:1], ids[:, :-1], torch.cat([ids, ids[:, :1]], dim=1)):
            found.expect(visual)
            refused(
                f"expect was told of a batch of 2 rows of {length} columns, and the language model got "
                f"{len(given)} rows of {given.shape[1]} columns; tell it of each batch as the model gets it, "
                "padding included and in one piece",
                input_ids=given,
            )
        found.expect(visual)
        refused(
            "attention_mask must be (rows, columns) where visual tokens leave inside the language model",
            input_ids=ids,
            attention_mask=torch.ones(2, 1, length, length, dtype=torch.bool),
        )
        refused(
            "visual tokens cannot leave a KV cache of fixed size; take the default one (no "
            "cache_implementation)",
            input_ids=ids,
            attention_mask=mask,
            cache_implementation="static",
        )
        other = (
            "this KV cache is not of the prompts that the language model read last in this `with` block; "
            "start again without it"
        )
        refused(other, input_ids=ids[:, :1], past_key_values=stock)
        mine = prompts_and_cache(model, ids)
        refused(unknown, input_ids=ids)
        refused(other, input_ids=ids[:, :1], past_key_values=stock)
        refused(other, input_ids=ids[:1, :1], past_key_values=mine)
        found.expect(visual, torch.full((2,), 5))
        refused(
            "a prompt ends with a visual token, so that nothing asks for what stays; put the question behind "
            "the image",
            input_ids=ids,
        )


@torch.no_grad()
def test_features_added_behind_a_stage_are_refused() -> None:
    decoder = Qwen3VLTextModel(
        Qwen3VLTextConfig(**SIZES, **HEADS, head_dim=16, rope_parameters=rotary(4, 2, 2))
    ).eval()
    visual = torch.zeros(1, 9, dtype=torch.bool)
    visual[0, 2:6] = True
    given = {
        "inputs_embeds": torch.randn(1, 9, 32),
        "visual_pos_masks": visual,
        "deepstack_visual_embeds": [torch.randn(4, 32)] * 3,
    }
    with inside(decoder, [FastV()]) as found:
        found.expect(visual)
        with pytest.raises(UserError) as refused:
            decoder(**given)
    assert str(refused.value) == (
        "this language model adds to its visual tokens behind each of the first 3 layers; let them leave at "
        "layer 3 or later"
    )
    with inside(decoder, [FastV(layer=3)]) as found:
        found.expect(visual)
        decoder(**given)
        assert found.counts == [[4, 4, 4, 2, 2, 2]]


@torch.no_grad()
def test_scores_that_say_nothing_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain(Steps):
        wrong: bool = False

        def score(self, signals: LayerSignals) -> Tensor:
            scores = super().score(signals)
            return scores[:, :1] if self.wrong else scores * torch.nan

    model = language_model()
    ids, mask = batch(ROWS[:1])
    width = ids.shape[1]
    for stage, text in (
        (
            Plain(),
            "the score of Plain holds NaN; in a method of your own, look for a division by zero; elsewhere "
            "try another dtype, e.g. model.dtype=float32",
        ),
        (
            Plain(wrong=True),
            f"Plain.score must give one number for each column, (B, n) = (1, {width}); it gave (1, 1)",
        ),
    ):
        with inside(model, [stage]) as found:
            found.expect(ids >= VISUAL)
            with pytest.raises(UserError) as refused:
                model(input_ids=ids, attention_mask=mask)
        assert str(refused.value) == text


def test_positions_of_several_dimensions_are_not_numbered_anew() -> None:
    decoder = Qwen2VLTextModel(Qwen2VLTextConfig(**SIZES, **HEADS, rope_parameters=rotary(1, 1, 2)))
    with pytest.raises(UserError) as refused, inside(decoder, [PyramidDrop()]):
        pass
    assert str(refused.value) == (
        "PyramidDrop numbers positions anew, which the rotary embedding of this Qwen2VLTextModel does not "
        "allow; set positions=original"
    )
    with inside(decoder, [PyramidDrop(positions="original")]):
        pass
