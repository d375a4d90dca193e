"""From anything to a tensor, sharing memory where that is possible: `as_tensor`, `asarray`.

Owns the order in which ways are tried. The ways themselves are in `tensor/`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.base.errors import InvalidArgument
from plait.ops import aten
from plait.tensor.dtype import FROM_NUMPY, DType, as_dtype
from plait.tensor.tensor import Tensor, from_dlpack, from_numpy, tensor

__all__ = ["as_tensor", "asarray"]


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``data`` as a tensor, sharing its memory if it has some of the right type, else a copy.

    A tensor of that type is returned itself, and the tape follows a conversion of its dtype. NumPy
    arrays, and arrays that speak DLPack or Python's buffer protocol, are shared; sequences and
    numbers are copied as by :func:`tensor`. Raises what :func:`tensor` raises.

    >>> as_tensor(np.arange(3))
    tensor([0, 1, 2])
    """
    if isinstance(data, Tensor):
        found = data
    else:
        shared = _shared(data)
        found = tensor(data, dtype) if shared is None else shared
    if dtype is not None and found.dtype is not as_dtype(dtype):
        found = aten.to.dtype(found, as_dtype(dtype))
    return found if device is None else found.to(device)


def asarray(
    obj: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``obj`` as a tensor that the tape does not connect to it.

    copy: True for memory of its own in any case, False for an InvalidArgument where memory cannot
    be shared, None for a copy only where it must be. Otherwise as :func:`as_tensor`.

    >>> asarray([1.0, 2.0], copy=True)
    tensor([1., 2.])
    """
    shared = obj.detach() if isinstance(obj, Tensor) else _shared(obj)
    fits = shared is not None and (dtype is None or shared.dtype is as_dtype(dtype))
    if copy is False and not fits:
        raise InvalidArgument(
            f"asarray: argument 'copy' = False asks for shared memory; got a "
            f"{type(obj).__name__} that cannot be shared as {dtype or 'a tensor'}. Leave copy out."
        )
    found = as_tensor(obj if shared is None else shared, dtype, device)
    if copy and fits:
        found = aten.clone.default(found)
    return found.requires_grad_() if requires_grad else found


def _shared(data: Any) -> Tensor | None:
    """A tensor over the memory of ``data``; None if it has none that a tensor can stand on."""
    if isinstance(data, np.ndarray):
        return from_numpy(data) if _can_stand_on(data) else None
    if isinstance(data, np.generic | list | tuple | int | float | complex):
        return None
    if hasattr(data, "__dlpack__"):
        return from_dlpack(data)
    if not (_has_buffer(data) or hasattr(data, "__array_interface__")):
        return None
    array = np.asarray(data)
    return from_numpy(array) if _can_stand_on(array) else None


def _has_buffer(data: Any) -> bool:
    """Whether ``data`` speaks Python's buffer protocol; text and bytes are no numbers here."""
    if isinstance(data, str | bytes):
        return False
    try:
        memoryview(data)
    except TypeError:
        return False
    return True


def _can_stand_on(array: np.ndarray[Any, Any]) -> bool:
    """Whether strides in elements describe it; what `from_numpy` refuses is copied instead."""
    known = FROM_NUMPY.get(array.dtype) is not None and array.dtype.isnative
    steps = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return known and array.flags.aligned and (steps or not array.size)
