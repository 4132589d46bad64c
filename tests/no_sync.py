"""Finds what would wait for a GPU, on CPU tensors: such an operation cannot be part of a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense,  # item(), bool(), float(), an index that lies on the device
    aten.equal,
    aten.is_nonzero,
    aten.lift_fresh,  # torch.tensor(...): a copy from memory that isn't pinned
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
LEAVING = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__}
"""What an operation on the CPU does not show: there it is no operation at all."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        assert packet not in WAITING, f"{func} waits for the device"
        if packet is aten.repeat_interleave:
            assert (kwargs or {}).get("output_size") is not None, f"{func} without output_size waits for the device"
        if packet in INDEXING:
            masked = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masked, f"{func} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in LEAVING, f"{func.__name__} waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def forbid_sync() -> Iterator[None]:
    """Within, an operation that waits for the device or copies to the host raises an AssertionError."""
    with _Methods(), _Operations():
        yield
