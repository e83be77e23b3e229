"""The training script's stages on a handful of pages, and what they feed on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from hired_eval.errors import UserError
from hired_eval.mini.canvas import PATCH, SIDE
from hired_eval.mini.pages import KINDS
from hired_eval.mini.seeds import page_rng
from hired_eval.mini.single import write_single_partition
from hired_eval.mini.vocabulary import GROUP_NAMES, GROUPS, POST_PROMPTS, VALUES
from training.data import GRID, TOKENS, labels, partitions, token_order
from training.language import Batcher, forward
from training.lookup import lookup_page
from training.model import build_image_processor, build_model, build_tokenizer
from training.recipe import SMOKE, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The work folder and the checkpoint of a smoke run."""
    work = tmp_path_factory.mktemp("work")
    train(work, work / "checkpoint", SMOKE, processes=1)
    return work, work / "checkpoint"


def test_a_smoke_run_writes_a_stock_checkpoint(trained: tuple[Path, Path]) -> None:
    _, checkpoint = trained
    model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint)
    processor = LlavaNextProcessor.from_pretrained(checkpoint)
    assert (checkpoint / "model.safetensors").stat().st_size < 12e6
    page = KINDS["form"](page_rng("held-out", "smoke", 0))
    prompt = "USER: <image>\nWhat is the name? ASSISTANT:"
    inputs = processor(images=page.image, text=prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_a_finished_run_is_not_repeated(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    work, checkpoint = trained
    before = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").unlink()
    capsys.readouterr()
    train(work, checkpoint, SMOKE, processes=1)
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert "loss" not in capsys.readouterr().out


def test_stages_of_another_recipe_are_not_gone_on_from(trained: tuple[Path, Path]) -> None:
    work, checkpoint = trained
    with pytest.raises(UserError, match="holds stages of another recipe; name another --work, or delete it"):
        train(work, checkpoint, replace(SMOKE, joint_steps=4), processes=1)


def test_an_interrupted_stage_goes_on(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    work, checkpoint = trained
    (work / "joint" / "model.safetensors").unlink()
    train(work, checkpoint, SMOKE, processes=1)
    assert "joint: going on from step 3" in capsys.readouterr().out


def test_a_finished_checkpoint_is_trained_on(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The vision tower and the token embeddings stay; the language model learns."""
    _, checkpoint = trained
    train(tmp_path, tmp_path / "checkpoint", SMOKE, processes=1, start=checkpoint)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "compare", "joint", "recipe.json"]
    before, after = (load_file(f / "model.safetensors") for f in (checkpoint, tmp_path / "checkpoint"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name or "embed_tokens" in name for name in changed)
    assert sum("language_model" in name for name in changed) > 20


def test_single_partition_weights_are_the_same(trained: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    _, checkpoint = trained
    write_single_partition(checkpoint, tmp_path)
    single = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    weights = LlavaNextForConditionalGeneration.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in single.state_dict().items())
    page = KINDS["signs"](page_rng("held-out", "smoke", 1))
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(images=page.image, text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert single(**inputs).logits.isfinite().all()


def test_every_word_and_every_ending_is_one_token() -> None:
    tokenizer = build_tokenizer(pages=10)
    for members in GROUPS.values():
        for word in members:
            assert len(tokenizer(f" {word}").input_ids) == 1, word
    for ending in POST_PROMPTS.values():
        assert len(tokenizer(ending).input_ids) == bool(ending)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_token_order_is_that_of_stock_packing(kind: str) -> None:
    model = build_model(build_tokenizer(pages=5))
    for index in range(8):
        page = KINDS[kind](page_rng("held-out", kind, index))
        width, height = page.image.size
        parts = len(partitions(page.image, build_image_processor()))
        marks = torch.arange(parts * TOKENS, dtype=torch.float32).reshape(parts, TOKENS, 1) + 1
        packed, _ = model.model.pack_image_features(
            [marks], torch.tensor([[height, width]]), "default", image_newline=torch.zeros(1)
        )
        stock = packed[0].flatten()
        order, row = token_order((height, width))
        assert torch.equal(stock[stock > 0] - 1, torch.from_numpy(order).float())
        assert (len(order) - TOKENS) % row == 0


def test_labels_lie_where_the_words_are() -> None:
    """A sub-image's patch that shows a value has more ink contrast than the page's blank patches."""
    inked, blank = [], []
    for index in range(10):
        page = KINDS["form"](page_rng("held-out", "ink", index))
        pixels = partitions(page.image, build_image_processor()).astype(float).mean(1)
        shown, letters = labels(page)
        patches = pixels.reshape(-1, GRID, PATCH, GRID, PATCH).transpose(0, 1, 3, 2, 4)
        spread = patches.reshape(len(pixels), TOKENS, -1).std(-1)
        value, marker = GROUP_NAMES.index("value"), GROUP_NAMES.index("marker")
        inked.append(spread[1:][shown[1:, :, value] > 0])
        blank.append(spread[1:][shown[1:, :, marker] == GROUPS["marker"].index("blank") + 1])
        assert not letters[0].any()
    assert np.median(np.concatenate(inked)) > 4 * np.median(np.concatenate(blank))


def test_lookup_pages_hold_their_answers() -> None:
    rng = np.random.default_rng(0)
    value = GROUP_NAMES.index("value")
    asked = set()
    for lines in (2, 5, 16) * 20:
        example = lookup_page(rng, lines)
        words = {VALUES[i - 1] for i in example.labels[:, value] if i}
        asked |= {sort.split()[0] for _, _, sort in example.questions}
        reading = [q for q in example.questions if q[2] in ("docvqa", "textvqa")]
        assert {answer for _, answer, _ in reading} <= words
    assert asked == set(POST_PROMPTS)


def test_pages_for_comparing_ask_mostly_whether_words_agree() -> None:
    rng = np.random.default_rng(0)
    sorts = [q[2] for _ in range(60) for q in lookup_page(rng, 6, most=2, compare=True).questions]
    assert sum(sort.startswith("mme") for sort in sorts) > len(sorts) / 2
    assert {"mme posters", "mme code_reasoning", "mme numerical_calculation"} <= set(sorts)


def test_questions_of_a_page_do_not_see_each_other() -> None:
    """The block mask: an answer's logits do not depend on the other questions packed beside it."""
    tokenizer = build_tokenizer(pages=10)
    model = build_model(tokenizer).eval()
    batcher = Batcher(model, tokenizer)
    example = lookup_page(np.random.default_rng(1), 4)
    together = batcher([example], noise=0.0)
    alone = [
        batcher([type(example)(example.labels, example.newline, [question])], noise=0.0)
        for question in example.questions
    ]
    with torch.no_grad():
        packed = forward(model, together)
        single = torch.cat([forward(model, batch) for batch in alone])
    torch.testing.assert_close(packed, single, atol=0.05, rtol=0.05)
