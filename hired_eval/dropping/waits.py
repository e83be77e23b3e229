"""Calls that make the host wait for the device: what a method must not do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS_DATA = frozenset({aten._local_scalar_dense, aten.equal, aten.is_nonzero})
SIZED_BY_DATA = frozenset(
    {aten.nonzero, aten.masked_select, aten.bincount, aten._unique, aten._unique2, aten.unique_dim,
     aten.unique_consecutive, aten.unique_dim_consecutive}
)  # fmt: skip
COPIES = frozenset({Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__})


@contextmanager
def note_waits() -> Iterator[list[str]]:
    """The names of all calls in the block that would wait on a GPU, on whatever device they run."""
    waits: list[str] = []
    with _Calls(waits), _Operations(waits):
        yield waits


class _Calls(TorchFunctionMode):
    """Notes what copies numbers to the host without an operation that could be seen on the CPU."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in COPIES:
            self.waits.append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that read numbers, or whose result has a size that depends on them."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = function.overloadpacket
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        repeats = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        repeats = repeats and function is not aten.repeat_interleave.self_int
        if packet in READS_DATA or packet in SIZED_BY_DATA or by_mask or repeats:
            self.waits.append(str(packet))
        return function(*args, **kwargs)
