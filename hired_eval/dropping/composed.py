"""Several stages as one method: at most one before the language model, any number inside it."""

from __future__ import annotations

from dataclasses import dataclass

from hired_eval.dropping.base import TokenDropper, VisionStage
from hired_eval.dropping.layer_stage import LayerStage, acting
from hired_eval.dropping.registry import build
from hired_eval.errors import UserError
from hired_eval.method_configs import FULL


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
        acting(self.inside)

    @property
    def vision(self) -> VisionStage:
        """The one before the language model; without one, nothing is dropped there."""
        before = [stage for stage in self.stages if isinstance(stage, VisionStage)]
        return before[0] if before else build(FULL).vision

    @property
    def inside(self) -> tuple[LayerStage, ...]:
        """Those inside the language model."""
        return tuple(layer for stage in self.stages for layer in stage.inside)
