"""What is wrong with the files of a local checkpoint that transformers could not load."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError

from hired_eval.errors import UserError, first_line

GIT_LFS = b"version https://git-lfs"
PARTS = {
    "config": ("config.json",),
    "weights": ("*.safetensors", "*.bin"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.*"),
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}
"""Of a checkpoint, and the files that they may be in."""


def explain(folder: Path, error: Exception) -> str:
    """Why a checkpoint could not be loaded and what to do, in one line.

    Args:
        folder: of the checkpoint.
        error: that the loader ended with.
    """
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            with file.open("rb") as stream:
                if stream.read(len(GIT_LFS)) == GIT_LFS:
                    return f"{file.name} is a pointer of Git LFS, not the file; fetch it with git lfs pull"
            named = _shards(file) if file.suffix == ".json" else set()
        except (OSError, ValueError) as broken:
            return f"{file.name} cannot be read ({first_line(broken)}); copy it again"
        if missing := sorted(name for name in named if not (folder / name).is_file()):
            return f"{file.name} names {missing[0]}, which is not there; copy the checkpoint again, whole"
    for part, names in PARTS.items():
        # a text tower needs no image processor
        wanted = part != "image processor" or part in str(error)
        if wanted and not any(any(folder.glob(name)) for name in names):
            return f"it has no {part} ({' or '.join(names)}); copy the checkpoint again, whole"
    said = first_line(error).split(". ")[0].rstrip(".")
    if isinstance(error, SafetensorError):
        return f"its weights are damaged ({said}); copy them again"
    if isinstance(error, OSError | ValueError):
        return f"{said}; copy it again, whole"
    return f"its files do not fit together ({said}); copy it again, whole"


def _shards(file: Path) -> set[str]:
    """The files of weights that an index names; none of another file.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    read = json.loads(file.read_bytes())
    if not isinstance(read, dict):
        raise ValueError("not a JSON object")
    return set(read.get("weight_map", {}).values())


def refuse_pickles(folder: Path, allowed: bool) -> None:
    """Refuse a local checkpoint whose weights are pickles alone: loading one can run code; or damaged ones.

    Args:
        folder: of the checkpoint; on the hub, where there is none.
        allowed: they are read, and nothing but tensors from them.

    Raises:
        UserError: naming the two ways out, or the file.
    """
    pickles = [] if any(folder.glob("*.safetensors")) else sorted(folder.glob("*.bin"))
    if pickles and not allowed:
        raise UserError(
            f"{folder} holds its weights as pickle (*.bin), which can run code when it is loaded; convert "
            "them to safetensors, or, in python -m hired_eval, set model.weights=pickle if you trust them"
        )
    for file in pickles:
        # what torch.load says of others is an error of any kind
        with file.open("rb") as stream:
            if stream.read(1) != b"\x80" and not zipfile.is_zipfile(file):
                raise UserError(f"{file} is damaged: it is not a file of torch.save; copy it again")
