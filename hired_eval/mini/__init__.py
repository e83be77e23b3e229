"""The bundled small LLaVA-Next and the eight mini benchmarks, for machines without hub and GPU.

``checkpoint_path`` is a model to load with ``from_pretrained``; ``write_data_files`` makes what
lmms-eval's tasks read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import PIL

from hired_eval.errors import UserError
from hired_eval.paths import home_folder

if TYPE_CHECKING:
    from hired_eval.mini.benchmarks import Content

HERE = Path(__file__).parent
CHECKPOINTS = ("mini", "mini_1_5")
HASHES = HERE / "hashes.json"
"""Of each benchmark as the bundled results have it, and the libraries that drew it."""
THUMBNAILS = HERE / "thumbnails.npz"
"""Of each benchmark its pictures in small, and the hash of its text."""
TOLERANCE = 3
"""Grey levels by which a thumbnail may differ: other versions shade the edges of letters otherwise."""

__all__ = ["checkpoint_path", "write_data_files"]


def default_cache() -> Path:
    """A folder of the user's, one per version of the generator's content."""
    version = hashlib.sha256(HASHES.read_bytes()).hexdigest()[:10]
    return (home_folder() or Path(tempfile.gettempdir())) / ".cache" / "hired_eval" / f"mini-{version}"


def checkpoint_path(name: str = "mini", cache_dir: Path | None = None) -> Path:
    """The folder of a bundled checkpoint.

    Args:
        name: "mini" is a LlavaNextForConditionalGeneration; "mini_1_5" has the same weights as a
            single-partition LlavaForConditionalGeneration and is written to the cache on first use.
        cache_dir: instead of the user's cache folder.

    Raises:
        UserError: for another name.
    """
    if name == "mini":
        return HERE / "checkpoint"
    if name == "mini_1_5":
        from hired_eval.mini.single import write_single_partition

        weights = hashlib.sha256((HERE / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()[:10]
        target = (cache_dir or default_cache()) / f"mini_1_5-{weights}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=target.parent, prefix="part-"))
            write_single_partition(HERE / "checkpoint", part)
            _publish(part, target)
        return target
    raise UserError(f"no bundled checkpoint {name!r}: choose one of {', '.join(CHECKPOINTS)}")


def _nearly_the_same(task: str, found: Content) -> bool:
    """Whether the text of a benchmark is as known, and its pictures are within the tolerance."""
    with numpy.load(THUMBNAILS) as known:
        text, thumbnails = str(known[f"{task} text"]), known[task].astype(int)
    same = found.text == text and found.thumbnails.shape == thumbnails.shape
    return same and bool(numpy.abs(found.thumbnails - thumbnails).max() <= TOLERANCE)


def _publish(part: Path, target: Path) -> None:
    """Rename a finished folder into place; if another process was first, its folder stays."""
    try:
        part.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(part)


def write_data_files(task: str, cache_dir: Path | None = None) -> dict[str, str]:
    """The parquet files of a mini benchmark: the split that lmms-eval reads, and where it is.

    The file is drawn on first use (seconds) and kept. Two processes may race: both write, the last wins.

    Args:
        task: vqav2, scienceqa, textvqa, docvqa, ocrbench, mme, pope or chartqa.
        cache_dir: instead of the user's cache folder.

    Raises:
        UserError: for another task, or if this machine draws other pictures than the bundled results'.
    """
    from hired_eval.mini.benchmarks import SPLITS, write

    if task not in SPLITS:
        raise UserError(
            f"no mini benchmark {task!r}: choose one of {', '.join(SPLITS)}, or set data=hub or "
            "data.path=FOLDER"
        )
    folder = cache_dir or default_cache()
    path = folder / f"{task}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{task}.{os.getpid()}.part"
        found, known = write(task, part), json.loads(HASHES.read_text())
        if found.whole != known[task] and not _nearly_the_same(task, found):
            part.unlink()
            raise UserError(
                f"mini benchmark {task}: this machine draws other documents (pillow {PIL.__version__}, numpy "
                f"{numpy.__version__}), so that results would not compare; install pillow=={known['pillow']} "
                f"and numpy=={known['numpy']}"
            )
        part.replace(path)
    return {SPLITS[task]: str(path)}
