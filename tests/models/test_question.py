"""A CLIP reads the question: how like it each patch is, and what a method then keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from hired_eval import CDPruner, VisionEncoding
from hired_eval.dropping import TokenDropper
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.families import family_of
from hired_eval.models.question import QuestionTower
from tests import tiny

QUESTIONS = ("what is it?", "which colour has the largest square?")


def save_clip(folder: Path, width: int = 32, **options: Any) -> str:
    """A tiny random CLIP that reads nine tokens at once."""
    letters = ["<pad>", "<unk>", *tiny.WORDS, "<s>", "</s>"]
    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(letters)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    shape = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {
        "vocab_size": len(letters),
        "max_position_embeddings": 9,
        "eos_token_id": len(letters) - 1,
    }
    vision = shape | {"image_size": tiny.SIZE, "patch_size": tiny.PATCH}
    torch.manual_seed(3)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.normal_()
    clip.save_pretrained(folder, **options)
    tokens.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


def answering(parts: tuple[Any, Any], dropper: TokenDropper) -> DroppingVLM:
    return DroppingVLM(Checkpoint(*parts), dropper, "U:{images}\n{question} A:")


@torch.no_grad()
def test_patches_are_compared_in_the_space_of_clip(llava_next: tuple[Any, Any], clip: str) -> None:
    features = torch.randn(3, tiny.SIDE**2, 32, generator=torch.Generator().manual_seed(0))
    tower = QuestionTower(clip, family_of(llava_next[0]))
    stock, text = CLIPModel.from_pretrained(clip), QUESTIONS[1]
    found = tower.compare(VisionEncoding(features, {}), text).relevance
    patches = stock.visual_projection(stock.vision_model.post_layernorm(features))
    segments = [text[i : i + 7] for i in range(0, len(text), 7)]
    assert len(segments) == 6
    expected = []
    for segment in segments:
        ids = torch.tensor([tower.tokenizer(f"<s>{segment}</s>").input_ids])
        assert ids.shape[1] == 2 + len(segment)
        embedding = stock.get_text_features(input_ids=ids).pooler_output
        expected.append(cosine_similarity(patches, embedding[0], dim=-1))
    assert found is not None
    torch.testing.assert_close(found, torch.stack(expected).mean(dim=0), atol=1e-5, rtol=1e-4)


def test_what_is_kept_depends_on_the_question(llava_next: tuple[Any, Any], clip: str) -> None:
    picture = tiny.picture(80, 80)
    reading = answering(llava_next, CDPruner(budget=0.3, text_tower=clip, theta=None))
    blind = answering(llava_next, CDPruner(budget=0.3))
    assert (reading.share_prefix, blind.share_prefix) == (False, True)

    def kept(llava: DroppingVLM, text: str) -> list[int]:
        (tokens,) = llava.prepare(Question(text, (picture,))).images
        assert tokens.counts.allowed is not None
        assert tokens.counts.kept <= tokens.counts.allowed
        return (tokens.packed.partition * 100 + tokens.packed.index).tolist()

    # one after the other, so that what was remembered of the first must not serve the second
    first, second = (kept(reading, text) for text in QUESTIONS)
    assert first != second
    again = answering(llava_next, CDPruner(budget=0.3, text_tower=clip, theta=None))
    assert [kept(again, text) for text in reversed(QUESTIONS)] == [second, first]
    assert kept(reading, QUESTIONS[0]) == first
    assert kept(blind, QUESTIONS[0]) == kept(blind, QUESTIONS[1])


def test_answers_do_not_depend_on_the_batch(llava_next: tuple[Any, Any], clip: str) -> None:
    llava = answering(llava_next, CDPruner(budget=0.3, text_tower=clip))
    batch = [llava.prepare(Question(text, (tiny.picture(80, 80),))) for text in QUESTIONS]
    together = llava.answer(batch, {"max_new_tokens": 4})
    assert together == [llava.answer([one], {"max_new_tokens": 4})[0] for one in batch]


def test_a_vision_tower_that_is_no_clip_is_refused(llava_onevision: tuple[Any, Any], clip: str) -> None:
    with pytest.raises(UserError, match="and the vision tower is SiglipVisionModel; set text_tower=null"):
        QuestionTower(clip, family_of(llava_onevision[0]))


def test_towers_that_do_not_fit_are_refused(llava_next: tuple[Any, Any], clip: str, tmp_path: Path) -> None:
    family = family_of(llava_next[0])
    wide = save_clip(tmp_path / "wide", 64)
    with pytest.raises(UserError, match="its patches have 64 channels, and those of the model 32"):
        QuestionTower(wide, family)
    (tmp_path / "wide" / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        QuestionTower(wide, family)
    part = CLIPModel.from_pretrained(clip)
    weights = {name: value for name, value in part.state_dict().items() if "text_projection" not in name}
    part.save_pretrained(tmp_path / "part", state_dict=weights)
    QuestionTower(clip, family).tokenizer.save_pretrained(tmp_path / "part")
    with pytest.raises(UserError, match="is not a whole CLIP: it lacks text_projection"):
        QuestionTower(str(tmp_path / "part"), family)


def test_a_call_on_the_model_does_not_say_what_the_question_is(
    llava_next: tuple[Any, Any], clip: str
) -> None:
    model, processor = llava_next
    inputs = processor(images=[tiny.picture(80, 80)], text=["a<image>b"], return_tensors="pt")
    with (
        pytest.raises(UserError, match="reads the question, and nothing here says what it is"),
        CDPruner(text_tower=clip)(model),
    ):
        model.generate(**inputs, max_new_tokens=1)
