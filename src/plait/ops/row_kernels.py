"""Softmax and normalisation over ndarrays, a block of rows at a time.

A block stays in the cache from the first pass over it to the last, so that a row costs one trip
through memory. The half types are computed in float32. Knows nothing of tensors or operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from plait.ops.arrays import widened

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 16  # elements of a block


def _wide_type(array: Array) -> np.dtype[Any]:
    return np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype


def _blocks(rows: int, width: int) -> Iterator[slice]:
    height = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, height):
        yield slice(start, start + height)


def _as_rows(array: Array, width: int) -> Array:
    return array.reshape(array.size // width if width else 0, width)


def _along(array: Array, dim: int, finish: Callable[[Array, int], None]) -> Array:
    """``finish(x - max, axis)`` applied along ``dim``: by blocks of rows where it is the last."""
    if array.ndim > 1 and dim not in (-1, array.ndim - 1):
        wide = widened(array)
        shifted: Array = np.subtract(wide, np.maximum.reduce(wide, axis=dim, keepdims=True))
        finish(shifted, dim)
        return shifted
    given = _as_rows(array, array.shape[-1] if array.ndim else 1)
    out: Array = np.empty(given.shape, _wide_type(array))
    for block in _blocks(*given.shape):
        part = widened(given[block])
        np.subtract(part, np.maximum.reduce(part, axis=1, keepdims=True), out=out[block])
        finish(out[block], 1)
    return out.reshape(array.shape)


def _exponentials(part: Array, axis: int) -> None:
    np.exp(part, out=part)
    part /= np.add.reduce(part, axis=axis, keepdims=True)


def _logarithms(part: Array, axis: int) -> None:
    part -= np.log(np.add.reduce(np.exp(part), axis=axis, keepdims=True))


def softmax(array: Array, dim: int) -> Array:
    """exp(x - max) over its sum along ``dim``."""
    return _along(array, dim, _exponentials)


def log_softmax(array: Array, dim: int) -> Array:
    """x - max - log(sum(exp(x - max))) along ``dim``."""
    return _along(array, dim, _logarithms)


def _affine(part: Array, weight: Array | None, bias: Array | None) -> None:
    if weight is not None:
        part *= weight
    if bias is not None:
        part += bias


def _flat(parameter: Array | None) -> Array | None:
    return None if parameter is None else widened(parameter).reshape(-1)


def layer_norm(
    given: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """(normalised, mean, 1/std) of the rows of a matrix; the statistics are columns."""
    dtype = _wide_type(given)
    out: Array = np.empty(given.shape, dtype)
    mean: Array = np.empty((len(given), 1), dtype)
    rstd: Array = np.empty((len(given), 1), dtype)
    weight, bias = _flat(weight), _flat(bias)
    for block in _blocks(*given.shape):
        wide, part = widened(given[block]), out[block]
        np.add.reduce(wide, axis=1, keepdims=True, out=mean[block])
        mean[block] /= dtype.type(given.shape[1] or 1)
        np.subtract(wide, mean[block], out=part)
        _inverse_root(part, eps, rstd[block])
        part *= rstd[block]
        _affine(part, weight, bias)
    return out, mean, rstd


def rms_norm(given: Array, weight: Array | None, eps: float) -> tuple[Array, Array]:
    """(x over its root mean square, 1/root mean square) of the rows of a matrix."""
    dtype = _wide_type(given)
    out: Array = np.empty(given.shape, dtype)
    rstd: Array = np.empty((len(given), 1), dtype)
    weight = _flat(weight)
    for block in _blocks(*given.shape):
        wide = widened(given[block])
        _inverse_root(wide, eps, rstd[block])
        np.multiply(wide, rstd[block], out=out[block])
        _affine(out[block], weight, None)
    return out, rstd


def _inverse_root(part: Array, eps: float, out: Array) -> None:
    """Write 1 / sqrt(mean of squares + eps) of each row."""
    squares = np.vecdot(part, part)[:, None] / part.dtype.type(part.shape[1])
    np.sqrt(squares + part.dtype.type(eps), out=out)
    np.reciprocal(out, out=out)
