"""What tiny random models of each family keep and answer: a release of transformers that changes it is seen.

`python -m tests.models.test_fixed_answers` prints the table after a change that is meant to change it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hired_eval.dropping.registry import build
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import Checkpoint
from tests import tiny

KNOWN = Path(__file__).with_name("fixed_answers.json")
FAMILIES = ("llava", "llava_next", "llava_onevision", "internvl", "qwen2_5_vl", "qwen3_vl")
METHODS: dict[str, dict[str, Any]] = {"full": {}, "random": {"budget": 0.4}, "divprune": {"budget": 0.3}}
SIZES = [(100, 60), (60, 150), (300, 240)]


def observe(family: str) -> dict[str, Any]:
    """A hash of the places of kept tokens and the answers, by method."""
    checkpoint = Checkpoint(*getattr(tiny, family)())
    questions = [
        Question("what?", tuple(tiny.picture(w, h, seed=w) for w, h in sizes))
        for sizes in ([SIZES[0]], [SIZES[1]], SIZES[1:], [])
    ]
    found = {}
    for method, options in METHODS.items():
        answering = DroppingVLM(checkpoint, build(method, **options), "a:{images}{question}")
        prepared = [answering.prepare(question) for question in questions]
        places = [
            [image.packed.partition.tolist(), image.packed.index.tolist()]
            for one in prepared
            for image in one.images
        ]
        answers = [answer.text for answer in answering.answer(prepared, {"max_new_tokens": 6})]
        digest = hashlib.blake2b(json.dumps(places).encode(), digest_size=6).hexdigest()
        found[method] = {"kept": digest, "answers": answers}
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens_and_answers_are_those_that_are_known(family: str) -> None:
    assert observe(family) == json.loads(KNOWN.read_text())[family]


if __name__ == "__main__":
    print(json.dumps({family: observe(family) for family in FAMILIES}, indent=1))
