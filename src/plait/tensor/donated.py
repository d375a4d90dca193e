"""Donated tensors: tensors whose memory was given to the results of a compiled function.

Owns the question whether a tensor's memory is its own, and the state after it was given away.
Knows NumPy's and Python's reference counts; must not know graphs or compiled functions.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from plait.base.errors import DonatedError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.tensor.storage import Storage
from plait.tensor.tensor import Tensor

__all__ = ["DonatedTensor", "give_away", "owns_memory", "refuse_donated"]

_HERE = 2  # references that a count sees by itself: the argument and a local variable


class DonatedTensor(Tensor):
    """A tensor after its memory was given away: it still has a shape, a dtype and strides."""

    _keys = CPU_TENSOR_KEYS | DispatchKey.PYTHON.mask

    @classmethod
    def __plait_dispatch__(
        cls, op: Any, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        raise _error(op.qualname)

    def _read_data(self, what: str) -> np.ndarray[Any, Any]:
        raise _error(what)

    def __repr__(self) -> str:
        return f"<donated tensor of shape {tuple(self.shape)}, {self._dtype}>"


def _error(what: str) -> DonatedError:
    return DonatedError(
        f"{what}: got a tensor whose memory was donated to a compiled function, which put a result "
        "there; expected a tensor with memory. Use what that call returned, or leave the argument "
        "out of 'donate'."
    )


def owns_memory(tensor: Tensor) -> bool:
    """Whether nothing else shows the memory of `tensor`, as far as references tell.

    No view, no NumPy array made from it or that it was made from; and it may be written.
    """
    array, storage = tensor._array, tensor._storage
    if array is None or not array.flags.writeable:
        return False
    expected = _HERE + 1  # the tensor's own
    span = 0
    if storage is not None:
        if sys.getrefcount(storage) > expected:
            return False
        span = int(storage._owner is not None)
        expected += int(storage._array is array)
    base = array.base
    if base is None:
        return sys.getrefcount(array) <= expected + span
    if sys.getrefcount(array) > expected or not isinstance(base, np.ndarray):
        return False
    return base.base is None and sys.getrefcount(base) <= _HERE + 1 + span


def give_away(tensor: Tensor) -> None:
    """Make `tensor` refuse every use of its elements from now on."""
    tensor._meta = tensor.meta
    storage = Storage(None, tensor._device, 0)
    storage.version = tensor._version + 1  # a tape that saved it will notice
    tensor._storage, tensor._offset, tensor._array = storage, 0, None
    tensor.__class__ = DonatedTensor


def refuse_donated(what: str, tensor: Any) -> None:
    """Raise DonatedError for a donated tensor."""
    if isinstance(tensor, DonatedTensor):
        raise _error(what)
