"""What the runs of a process share: the checkpoint, and what one of them answered for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hired_eval.errors import UserError

if TYPE_CHECKING:
    from hired_eval.models.checkpoint import Checkpoint
    from hired_eval.runs.options import ModelOptions, RunConfig
    from hired_eval.runs.plan import Plan

LOADING = (
    "revision", "dtype", "device_map", "attention", "quantization", "weights", "feature_layer", "min_pixels",
    "max_pixels", "square",
)  # fmt: skip


class Models:
    """Keeps the last checkpoint, so that a sweep loads it once, and what its runs answer for each other.

    Attributes:
        following: the runs of a sweep that come after the one that is measured.
        ahead: those of them that are answered.
    """

    def __init__(self) -> None:
        self.following: Sequence[RunConfig] = ()
        self.ahead: list[Plan] = []
        self._asked: tuple[dict[str, Any], str | None] | None = None
        self._named: dict[str, str] = {}
        self._loaded: Checkpoint | None = None

    def get(
        self,
        source: str,
        model: ModelOptions,
        device: str,
        seed: int,
        content: str | None = None,
        *,
        fixed_grid: bool = False,
    ) -> Checkpoint:
        """The checkpoint of a model config.

        Args:
            source: a folder, or an id on the hub.
            model: its config.
            device: 'auto', or a torch device.
            seed: of dummy weights.
            content: a fingerprint of the checkpoint; where it is another one at the same place, it is loaded.
            fixed_grid: every picture on one grid.

        Raises:
            UserError: `model.path` was another model in this sweep; or see `load_checkpoint`.
        """
        from hired_eval.models.checkpoint import load_checkpoint  # seconds, and not every command needs it

        first = self._named.setdefault(source, model.name)
        if first != model.name and source == str(model.path):
            raise UserError(
                f"model.path={source} is {first} in this sweep, and cannot be {model.name} too; run one "
                "model at a time, each with its own model.path"
            )

        asked = {"source": source, "device": device, **{k: getattr(model, k) for k in LOADING}}
        asked["fixed_grid"] = fixed_grid
        if model.weights == "dummy":
            asked["seed"] = seed
        if self._loaded is None or (asked, content) != self._asked:
            self._loaded = None  # its memory is free before the next one needs it
            self._loaded = load_checkpoint(**asked)
            self._asked = asked, content
        return self._loaded

    def take_ahead(self, config: RunConfig) -> Plan | None:
        """The plan of a run that is answered already, once; None for one that is not."""
        found = next((plan for plan in self.ahead if plan.config == config), None)
        self.ahead = [plan for plan in self.ahead if plan is not found]
        return found
