"""A family's stock model as the reference: full execution is equal to it."""

from typing import Any

import torch

from hired_eval.dropping.registry import build


def generate(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
    """The last six tokens of each row (B, 6), after greedy decoding."""
    with torch.inference_mode():
        answers: torch.Tensor = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    return answers[:, -6:]


def assert_full_is_stock(model: Any, inputs: Any, **told: Any) -> None:
    """Answers are equal and logits close.

    Args:
        model: stock.
        inputs: as its processor makes them.
        told: more that may be said to full execution, which changes nothing.
    """
    stock = generate(model, inputs)
    with torch.inference_mode():
        logits = model(**inputs).logits
    with build("full")(model):
        assert generate(model, inputs).equal(stock)
        assert generate(model, inputs, **told).equal(stock)
        with torch.inference_mode():
            torch.testing.assert_close(model(**inputs).logits, logits)
