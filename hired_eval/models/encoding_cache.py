"""Vision encodings kept between runs, so that a sweep over methods and budgets encodes each image once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hired_eval.code import find_code_reached
from hired_eval.dropping import VisionEncoding, VisionStage
from hired_eval.errors import UserError
from hired_eval.models.family import Family, Picture

GIB = 2**30
LOOK_AGAIN = 32  # times in the folder's limit that a process counts what others have written to it
CODE_THAT_ENCODES = ("hired_eval.models.families", "hired_eval.models.images")
VERSIONS_THAT_MATTER = ("torch", "torchvision", "transformers", "pillow")

Tensors = dict[str, Tensor]
"""`features`, `added`, `attention.LAYER`, `received.LAYER`, `keys.WHERE` and `query.WHERE`, on the CPU."""


@dataclass
class CacheUse:
    """Where the encodings of a run came from."""

    memory: int = 0
    disk: int = 0
    computed: int = 0


class EncodingStore:
    """Tensors by key, in memory and in a folder, both limited; what was used longest ago goes first.

    Several processes may share the folder, and it may be deleted at any time: files are put in place by
    renaming, and one that is missing or damaged counts as not there.

    Args:
        folder: made when the first tensors are kept.
        limit: bytes on disk.
        memory_limit: bytes in memory.

    Raises:
        UserError: the folder is a file.
    """

    def __init__(self, folder: Path, limit: int, memory_limit: int = 2 * GIB) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"encoding_cache={folder} is a file; name a folder")
        self.folder, self.limit, self.memory_limit = folder, limit, memory_limit
        self._memory: OrderedDict[str, Tensors] = OrderedDict()
        self._on_disk: int | None = None
        self._unseen = 0

    def in_memory(self, key: str) -> Tensors | None:
        """The tensors of a key, where they are in memory."""
        tensors = self._memory.get(key)
        if tensors is not None:
            self._memory.move_to_end(key)
        return tensors

    def on_disk(self, key: str) -> Tensors | None:
        """The tensors of a key, where they are on disk; a damaged file is removed, with a warning."""
        file = self._file(key)
        try:
            with safe_open(file, framework="pt") as opened:
                # safe_open is no mapping, and has no iterator
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                checksum = (opened.metadata() or {}).get("checksum")
            if checksum != _checksum(tensors):
                raise SafetensorError("its checksum is wrong")
            os.utime(file)
        except FileNotFoundError:
            return None
        except RuntimeError:
            # torch opens the file a second time, when another process may have removed it
            if file.exists():
                raise
            return None
        except (SafetensorError, OSError) as error:
            logger.warning(f"{file} is damaged ({error}); the image is encoded again")
            file.unlink(missing_ok=True)
            return None
        self._remember(key, tensors)
        return tensors

    def keep(self, key: str, tensors: Tensors) -> None:
        """Keep tensors in memory and on disk; a disk that cannot be written is a warning, not an error."""
        self._remember(key, tensors)
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
            os.close(handle)
            try:
                save_file(tensors, part, metadata={"checksum": _checksum(tensors)})
                Path(part).replace(file)
            finally:
                Path(part).unlink(missing_ok=True)
            size = file.stat().st_size
            self._unseen += size
            # other processes write too: look again before 32 of them could exceed the limit by much
            if self._on_disk is None or max(self._on_disk + size, LOOK_AGAIN * self._unseen) > self.limit:
                self._on_disk, self._unseen = self._make_room(), 0
            else:
                self._on_disk += size
        except (OSError, SafetensorError) as error:
            logger.warning(f"the vision encoding cannot be kept in {self.folder}: {error}")

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _remember(self, key: str, tensors: Tensors) -> None:
        self._memory[key] = tensors
        self._memory.move_to_end(key)
        while self._memory and sum(map(_bytes, self._memory.values())) > self.memory_limit:
            self._memory.popitem(last=False)

    def _make_room(self) -> int:
        """Remove the files used longest ago until nine tenths of the limit are not exceeded; bytes left."""
        files = []
        for file in self.folder.rglob("*.safetensors"):
            try:
                files.append((file.stat().st_mtime, file.stat().st_size, file))
            except FileNotFoundError:  # another process was first
                continue
        total = sum(size for _, size, _ in files)
        if total > self.limit:
            for _, size, file in sorted(files):
                if total <= 0.9 * self.limit:
                    break
                file.unlink(missing_ok=True)
                total -= size
        return total


class CachedEncoder:
    """A vision encoder that looks an image up before it encodes it.

    Args:
        family: of the model.
        image_processor: stock; its settings are part of the key.
        store: where encodings are kept; may be shared with other models.
    """

    def __init__(self, family: Family, image_processor: Any, store: EncodingStore) -> None:
        self.family, self.store = family, store
        self.use = CacheUse()
        self._of_keys = {"keys": "keys"} | ({"query": "cls_query"} if family.class_token else {})
        self._source = fingerprint(family, image_processor)

    def encode(self, key: str, read: Callable[[], Picture], stage: VisionStage) -> VisionEncoding:
        """The encoding of an image, from the cache where it holds all that the stage reads.

        HiRED's CLS rows, of the first and the feature layer, are recorded along with what is asked for,
        since they cost next to nothing and most methods of a sweep read them.

        Args:
            key: of the image.
            read: makes its partitions.
            stage: says what is read.
        """
        key = f"{self._source}/{key}"
        layers = self.family.layers_read(stage)
        received = self.family.received_read(stage)
        wanted = {"features", *(f"attention.{layer}" for layer in layers)}
        wanted |= {f"received.{layer}" for layer in received}
        if "keys" in stage.reads:
            wanted |= {f"{name}.{stage.key_layer}" for name in self._of_keys}
        known = self.store.in_memory(key)
        if known is not None and wanted <= known.keys():
            self.use.memory += 1
            return self._encoding(known, stage)
        known = self.store.on_disk(key)
        if known is not None and wanted <= known.keys():
            self.use.disk += 1
            return self._encoding(known, stage)
        self.use.computed += 1
        also = frozenset({0, self.family.feature_layer} if self.family.class_token else ())
        encoding = self.family.encode(read().pixels, stage, also=also)
        tensors = _tensors(encoding, stage)
        self.store.keep(key, {**(known or {}), **tensors})
        # what was recorded for others is not shown to this method
        return self._encoding(tensors, stage)

    def _encoding(self, tensors: Tensors, stage: VisionStage) -> VisionEncoding:
        """What the stage asks for, as copies: a method that works in place does not change the cache."""
        where = stage.key_layer

        def on_device(name: str) -> Tensor:
            return tensors[name].to(self.family.tower.device, copy=True)

        layers = sorted(self.family.layers_read(stage))
        return VisionEncoding(
            features=on_device("features"),
            cls_attention={layer: on_device(f"attention.{layer}") for layer in layers},
            **{
                field: on_device(f"{name}.{where}")
                for name, field in self._of_keys.items()
                if "keys" in stage.reads
            },
            feature_layer=self.family.feature_layer,
            received_attention={
                layer: on_device(f"received.{layer}") for layer in sorted(self.family.received_read(stage))
            },
            added=on_device("added") if "added" in tensors else None,
            heads=self.family.heads,
        )


def fingerprint(family: Family, image_processor: Any) -> str:
    """A hash of all that an image's encoding depends on.

    These are weights, processor, places of the tiles, libraries, the code that encodes, attention backend,
    kind of device, and how exact its products of matrices are.
    """
    content = hashlib.blake2b(digest_size=12)
    for name, weight in family.tower.state_dict().items():
        content.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        content.update(_content(weight))
    content.update(family.tower.config.to_json_string().encode())
    content.update(image_processor.to_json_string().encode())
    versions = [importlib.metadata.version(package) for package in VERSIONS_THAT_MATTER]
    device = family.tower.device
    settings = [
        family.feature_layer,
        getattr(family.config, "image_grid_pinpoints", None),
        getattr(family.config, "downsample_ratio", None),
        family.tower.config._attn_implementation,
        device.type,
        torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        torch.get_float32_matmul_precision(),
        versions,
        sorted(find_code_reached(CODE_THAT_ENCODES).items()),
    ]
    content.update(repr(settings).encode())
    return content.hexdigest()


def _tensors(encoding: VisionEncoding, stage: VisionStage) -> Tensors:
    tensors = {"features": encoding.features}
    tensors |= {} if encoding.added is None else {"added": encoding.added}
    tensors |= {f"attention.{layer}": rows for layer, rows in encoding.cls_attention.items()}
    tensors |= {f"received.{layer}": values for layer, values in encoding.received_attention.items()}
    of_keys = {"keys": encoding.keys, "query": encoding.cls_query}
    tensors |= {f"{name}.{stage.key_layer}": t for name, t in of_keys.items() if t is not None}
    # a copy, since some are views of larger tensors
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def _content(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _checksum(tensors: Tensors) -> str:
    content = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        content.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        content.update(_content(tensors[name]))
    return content.hexdigest()


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
