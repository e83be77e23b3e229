"""The checkpoint that the runs of a process share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hired_eval.llava.checkpoint import Checkpoint

LOADING = ("revision", "dtype", "device_map", "attention", "quantization", "weights", "feature_layer")


class Models:
    """Loads checkpoints and keeps the last one, so that a sweep loads its model once."""

    def __init__(self) -> None:
        self._asked: dict[str, Any] | None = None
        self._loaded: Checkpoint | None = None

    def get(self, source: str, model: dict[str, Any], device: str, seed: int) -> Checkpoint:
        """The checkpoint of a model config.

        Args:
            source: a folder, or an id on the hub.
            model: the config's group `model`.
            device: 'auto', or a torch device.
            seed: of dummy weights.

        Raises:
            UserError: see `load_checkpoint`.
        """
        from hired_eval.llava.checkpoint import load_checkpoint  # seconds, and not every command needs it

        asked = {"source": source, "device": device, "seed": seed, **{k: model[k] for k in LOADING}}
        if self._loaded is None or asked != self._asked:
            self._loaded = None  # its memory is free before the next one needs it
            self._loaded = load_checkpoint(**asked)
            self._asked = asked
        return self._loaded
