"""Between Python numbers, tensors and ndarrays: casting, fitting and making memory for results.

Owns what kernels share and knows no operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from plait.base.errors import DtypeMismatch
from plait.ops.quiet import QUIET, loud, quiet
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor

__all__ = [
    "Array",
    "Rule",
    "cast_operand",
    "check_number",
    "checked_scalar",
    "convert",
    "convertible",
    "empty_array",
    "fit",
    "run_quietly",
    "widened",
]

Array = np.ndarray[Any, Any]
Rule = Callable[..., Any]

_ndarray = np.ndarray


def widened(array: Array) -> Array:
    """The half types as float32, in which sums and products are made; other arrays as they are."""
    is_half = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return array.astype(np.float32) if is_half else array


def convert(out: Array, source: Array) -> None:
    """Copy ``source`` into ``out`` as C converts numbers."""
    np.copyto(out, convertible(source, out.dtype), casting="unsafe")


def convertible(source: Array, dtype: np.dtype[Any]) -> Array:
    """Complex numbers without what ``dtype`` cannot hold: real parts, or whether they are zero."""
    if source.dtype.kind != "c" or dtype.kind == "c":
        return source
    return source != 0 if dtype.kind == "b" else source.real


def fit(result: Any, meta: TensorMeta) -> Array:
    """``result`` as an array with exactly the dtype and strides of ``meta``; copies if it must."""
    dtype = meta.dtype.numpy
    array: Array = result if result.__class__ is _ndarray else np.asarray(result)
    size = dtype.itemsize
    if array.dtype == dtype and array.strides == tuple([s * size for s in meta.strides]):
        return array
    out = empty_array(meta)
    np.copyto(out, array, casting="unsafe")
    return out


def empty_array(meta: TensorMeta) -> Array:
    """Uninitialised memory of the meta's shape, dtype and (dense) strides."""
    dtype = meta.dtype.numpy
    strides = meta.strides
    array: Array = np.empty(meta.shape, dtype)
    wanted = tuple([s * dtype.itemsize for s in strides])
    if array.strides == wanted:
        return array
    return np.ndarray(meta.shape, dtype, buffer=array, strides=wanted)


def run_quietly(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``fn(*args, **kwargs)`` with NumPy's floating-point warnings off."""
    token = quiet(QUIET)
    try:
        return fn(*args, **kwargs)
    finally:
        loud(token)


def cast_operand(operand: Any, dtype: DType) -> Any:
    """An operand (tensor or number) as an array of ``dtype``; integers wrap around as in C."""
    if isinstance(operand, Tensor):
        array = operand._array
        return array if operand._dtype is dtype else array.astype(dtype.numpy)  # type: ignore[union-attr]
    try:
        return np.asarray(operand).astype(dtype.numpy)
    except (OverflowError, TypeError) as error:
        raise DtypeMismatch(
            f"a number does not fit its tensor; got {operand!r}; expected a value of {dtype}."
            " (value cannot be converted without overflow)"
        ) from error


def checked_scalar(name: str, value: Any, dtype: DType, argument: str = "value") -> Any:
    """A Python number as a 0-d array of ``dtype``, truncated but never wrapped around.

    A negative integer may be stored in an unsigned type, as its complement. Raises DtypeMismatch
    where the number does not fit.
    """
    if not run_quietly(_holds, dtype, value):
        raise DtypeMismatch(
            f"{name}: argument {argument!r} does not fit; got {value!r}; expected a value of "
            f"{dtype}. (value cannot be converted without overflow)"
        )
    if dtype.is_integral:
        value = int(value)
        if value < 0 and not dtype.is_signed:
            value += 1 << 8 * dtype.itemsize
    return (
        np.asarray(value).astype(dtype.numpy) if dtype.is_bool else np.asarray(value, dtype.numpy)
    )


def check_number(name: str, argument: str, value: Any, dtype: DType) -> None:
    """Raise DtypeMismatch for a Python number that ``dtype`` cannot store; others pass."""
    if value.__class__ in (int, float, complex):
        checked_scalar(name, value, dtype, argument)


def _holds(dtype: DType, value: Any) -> bool:
    """Whether ``dtype`` can store ``value``, perhaps truncated or rounded."""
    if dtype.is_bool:
        return True
    if isinstance(value, complex):
        return dtype.is_complex
    if dtype.is_integral:
        limits = np.iinfo(dtype.name)
        if isinstance(value, float):
            return math.isfinite(value) and limits.min <= value <= limits.max
        lowest = limits.min if dtype.is_signed else -limits.max
        return bool(lowest <= int(value) <= limits.max)
    if dtype.is_floating:
        return bool(np.isinf(value) or not np.isinf(np.asarray(value, dtype.numpy)))
    return True
