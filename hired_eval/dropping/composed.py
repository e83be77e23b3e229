"""Several stages as one method: at most one before the language model, any number inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hired_eval.dropping.base import TokenDropper, VisionStage
from hired_eval.dropping.layer_stage import LayerStage, acting
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.method_configs import FULL

DEEP = 10**6
"""A depth at which layers meet only where they are named by number; of a model, its own depth counts."""


@dataclass(frozen=True)
class Composed(TokenDropper):
    """Stages that act one after the other, each on what the one before it left.

    Attributes:
        stages: methods of one stage or of several.

    Raises:
        UserError: two of them drop tokens before the language model, or two at one of its layers.
    """

    stages: tuple[TokenDropper, ...]

    def __post_init__(self) -> None:
        """See that the stages go together."""
        before = [type(stage).__name__ for stage in self.stages if isinstance(stage, VisionStage)]
        if len(before) > 1:
            raise UserError(
                f"{' and '.join(before)} both choose tokens before the language model; combine one of them "
                "with stages inside it"
            )
        acting(self.inside, DEEP)

    @property
    def vision(self) -> VisionStage:
        """The one before the language model; without one, nothing is dropped there."""
        before = [stage for stage in self.stages if isinstance(stage, VisionStage)]
        return before[0] if before else build(FULL).vision

    @property
    def inside(self) -> tuple[LayerStage, ...]:
        """Those inside the language model."""
        return tuple(layer for stage in self.stages for layer in stage.inside)


def takes_budget(methods: Mapping[str, type[TokenDropper]]) -> str | None:
    """Whose option the budget of a composition is: of the last method inside the language model that has one.

    It is the mean over the layers, which a method before the language model does not know.

    Args:
        methods: by name, in the order in which they act.
    """
    for name, method in reversed(list(methods.items())):
        if issubclass(method, LayerStage) and any(field.name == "budget" for field in fields(method)):
            return name
    return None
