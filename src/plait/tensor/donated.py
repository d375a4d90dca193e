"""Donated tensors: tensors whose memory was given to the results of a compiled function.

Owns the question whether a tensor's memory is its own, and the state after it was given away.
Knows NumPy's and Python's reference counts; must not know graphs or compiled functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from plait.base.errors import DonatedError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.tensor.layout import TensorMeta
from plait.tensor.storage import Storage
from plait.tensor.tensor import Tensor

__all__ = ["DonatedTensor", "give_away", "refuse_donated", "sharing"]

_OWN = 3  # references that a count sees: its argument, a local variable, and the owner's


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

    @property
    def storage(self) -> Storage:
        raise _error("storage")

    @property
    def _version(self) -> int:
        return -1  # of no saved tensor

    def __repr__(self) -> str:
        return f"<donated tensor of shape {tuple(self.shape)}, {self._dtype}>"


def _error(what: str) -> DonatedError:
    return DonatedError(
        f"{what}: got a tensor whose memory was donated to a compiled function, which put a result "
        "there; expected a tensor with memory. Use what that call returned, or leave the argument "
        "out of 'donate'."
    )


def sharing(tensors: Sequence[Tensor], numbers: Iterable[int]) -> list[int]:
    """Those of `numbers` whose tensors have memory that something else shows, or read-only memory.

    Something else is a view, a NumPy array made from the tensor, or the one it was made from, as
    far as references tell.
    """
    count = sys.getrefcount
    found = []
    for i in numbers:
        tensor = tensors[i]
        array = tensor._array
        if array is None or not array.flags.writeable:
            found.append(i)
        elif array.base is None and tensor._storage is None:  # fresh from a compiled function
            if count(array) > _OWN:
                found.append(i)
        elif not _owns(tensor, array):
            found.append(i)
    return found


def _owns(tensor: Tensor, array: np.ndarray[Any, Any]) -> bool:
    storage, base = tensor._storage, array.base
    expected = _OWN + 1  # the caller's variable
    span = 0
    if storage is not None:
        if sys.getrefcount(storage) > _OWN:
            return False
        span = int(storage._owner is not None)
        expected += int(storage._array is array)
    if base is None:
        return sys.getrefcount(array) <= expected + span
    if sys.getrefcount(array) > expected or not isinstance(base, np.ndarray):
        return False
    return base.base is None and sys.getrefcount(base) <= _OWN + span


def give_away(tensor: Tensor, meta: TensorMeta | None = None) -> None:
    """Make `tensor` refuse every use of its elements from now on; `meta` is its type, if known."""
    tensor._meta = tensor.meta if meta is None else meta
    tensor._storage = tensor._array = None
    tensor.__class__ = DonatedTensor


def refuse_donated(what: str, tensor: Any) -> None:
    """Raise DonatedError for a donated tensor."""
    if isinstance(tensor, DonatedTensor):
        raise _error(what)
