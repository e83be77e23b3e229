"""Generation options of tasks: kept, left out with a word, or refused; draws depend on their seed alone."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from hired_eval import Full
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from hired_eval.models.decoding import Noise, make_sampler, read_decoding
from tests import tiny

WARM = {"max_new_tokens": 12, "temperature": 5.0}


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {"max_new_tokens": 1024, "num_beams": 1}),
        (
            {"max_new_tokens": 16.0, "temperature": 0, "top_p": None, "do_sample": False},
            {"max_new_tokens": 16},
        ),
        ({"num_beams": 3, "length_penalty": -1.0}, {"num_beams": 3, "length_penalty": -1.0}),
        ({"suppress_tokens": [0, 1]}, {"suppress_tokens": [0, 1]}),
        (
            {"repetition_penalty": 1.1, "max_new_tokens": None},
            {"repetition_penalty": 1.1, "max_new_tokens": 1024},
        ),
    ],
)
def test_options_reach_generate_in_its_own_words(options: dict[str, Any], settings: dict[str, Any]) -> None:
    read = read_decoding(options)
    assert read.settings == {"max_new_tokens": 1024, "num_beams": 1} | settings
    assert (read.sampling, read.remarks) == (None, ())


@pytest.mark.parametrize(
    ("options", "sampling", "remark"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, ""),
        ({"temperature": 0.5, "do_sample": True, "top_k": 3}, {"temperature": 0.5, "top_k": 3}, ""),
        ({"temperature": 0, "do_sample": True}, None, "do_sample=true without a temperature above 0"),
        ({"do_sample": True}, None, "do_sample=true without a temperature above 0"),
        ({"temperature": 0.2, "do_sample": False}, None, "do_sample=false with temperature=0.2"),
        (
            {"image_aspect_ratio": "pad", "modality": "image", "fps": None},
            None,
            "image_aspect_ratio='pad', modality=",
        ),
        (
            {"stop_sequences": ["x"]},
            None,
            "generation options for other models are left out: stop_sequences=['x']",
        ),
    ],
)
def test_what_an_option_cannot_do_is_said(options: dict[str, Any], sampling: Any, remark: str) -> None:
    read = read_decoding(options)
    assert read.sampling == sampling
    assert len(read.remarks) == bool(remark)
    assert remark in "".join(read.remarks)


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({"until": "a"}, ("a",)),
        ({"until": ["a", "", "b"]}, ("a", "b")),
        ({"until": None}, ()),
        ({"until": []}, ()),
    ],
)
def test_texts_that_end_an_answer(options: dict[str, Any], stops: tuple[str, ...]) -> None:
    assert read_decoding(options).until == stops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": 3}, "until must be a text or a list of texts, got 3"),
        ({"until": [1]}, "until must be a text or a list of texts, got [1]"),
        ({"do_sample": "false"}, "do_sample must be true or false, got 'false'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number of at least 1, got 1.5"),
        ({"num_beams": True}, "num_beams must be a whole number of at least 1, got True"),
        ({"temperature": -1}, "temperature must be a number of at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0, got nan"),
        ({"top_p": "0.9"}, "top_p must be a number of at least 0, got '0.9'"),
        ({"top_p": 2}, "top_p must be from 0 to 1, got 2.0"),
        ({"suppress_tokens": [-1]}, "suppress_tokens must be a list of token ids, got [-1]"),
        ({"length_penalty": "x"}, "length_penalty must be a number, got 'x'"),
        ({"temperature": 1, "num_beams": 2}, "sampling with num_beams=2 is not offered"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 is not kept here; take it out of the task's"),
        ({"max_length": 20}, "max_length=20 is not kept here"),
        ({"stop_strings": ["a"]}, "stop_strings=['a'] is not kept here"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_decoding(options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    drawn = Noise(range(20_000))(torch.zeros(0), logits).argmax(dim=1)
    torch.testing.assert_close(drawn.bincount() / 20_000, torch.tensor([0.5, 0.3, 0.2]), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("sampling", "own", "left"),
    [
        ({"temperature": 1.0}, {}, 50),
        ({"temperature": 1.0, "top_k": 0}, {}, 60),
        ({"temperature": 1.0, "top_k": 7}, {"top_k": 9}, 7),
        ({"temperature": 1.0}, {"top_k": 9}, 9),
        ({"temperature": 1.0, "top_p": 0.5}, {}, 25),
        ({"temperature": 1e9, "top_k": 2}, {}, 2),
    ],
)
def test_the_distribution_is_that_of_generate(
    sampling: dict[str, Any], own: dict[str, Any], left: int
) -> None:
    """Without noise: how many tokens can be drawn, of 60 that are nearly equally likely."""
    *warpers, noise = make_sampler(sampling, GenerationConfig(**own), [0])
    assert isinstance(noise, Noise)
    scores = LogitsProcessorList(warpers)(torch.zeros(1, 1), torch.linspace(0, 1e-4, 60)[None])
    assert int(scores.isfinite().sum()) == left


def test_a_draw_depends_on_its_seed_alone() -> None:
    llava = DroppingVLM(Checkpoint(*tiny.llava_next()), Full(), "U:{images}\n{question} A:")
    prepared = [llava.prepare(Question(f"{'a' * i}?", (tiny.picture(60, 60, seed=i),))) for i in range(3)]
    together = [a.text for a in llava.answer(prepared, WARM, [5, 6, 7])]
    torch.manual_seed(1)
    alone = [llava.answer([p], WARM, [seed])[0].text for p, seed in zip(prepared, (5, 6, 7), strict=True)]
    assert together == alone
    assert len({a.text for a in llava.answer([prepared[0]] * 4, WARM, [1, 2, 3, 4])}) == 4
    assert len({a.text for a in llava.answer([prepared[0]] * 4, WARM)}) == 4, (
        "seeds are drawn where none are given"
    )
