"""The checkpoint and the vision encodings that the runs of a process share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hired_eval.errors import UserError

if TYPE_CHECKING:
    from hired_eval.models.checkpoint import Checkpoint
    from hired_eval.models.encoding_cache import EncodingStore
    from hired_eval.runs.options import ModelOptions

LOADING = (
    "revision", "dtype", "device_map", "attention", "quantization", "weights", "feature_layer", "min_pixels",
    "max_pixels", "square",
)  # fmt: skip


class Models:
    """Keeps the last checkpoint and the last cache of vision encodings, so that a sweep loads them once."""

    def __init__(self) -> None:
        self._asked: tuple[dict[str, Any], str | None] | None = None
        self._named: dict[str, str] = {}
        self._loaded: Checkpoint | None = None
        self._cache: tuple[Path, float] | None = None
        self._encodings: EncodingStore | None = None

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

    def encodings(self, folder: Path | None, gib: float) -> EncodingStore | None:
        """The cache of vision encodings; None where no folder is named.

        Args:
            folder: where it lies on disk.
            gib: its limit on disk in GiB.

        Raises:
            UserError: the folder is a file.
        """
        if folder is None:
            return None
        from hired_eval.models.encoding_cache import GIB, EncodingStore

        if self._encodings is None or self._cache != (folder, gib):
            self._encodings = EncodingStore(folder, int(gib * GIB))
            self._cache = (folder, gib)
        return self._encodings
