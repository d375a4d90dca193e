"""Tensors of many layouts and contents for samples, from fixed seeds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.dtype import DType
from plait.tensor.layout import Layout
from plait.tensor.tensor import Tensor, from_numpy, wrap_view

__all__ = ["FLOATS", "INTEGERS", "LAYOUTS", "index", "laid_out", "layouts", "make", "of"]

FLOATS = (dt.float32, dt.float64)
INTEGERS = (dt.uint8, dt.int8, dt.int16, dt.int32, dt.int64)


def _generator(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def make(
    *shape: int,
    dtype: DType = dt.float32,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    special: bool = False,
) -> Tensor:
    """A contiguous tensor: normal floats, small integers, or uniform in [low, high).

    ``special`` puts NaN, infinities and zeros of both signs among floats.
    """
    rng = _generator(shape, dtype.name, seed, low, high)
    array: Any
    if dtype.is_bool:
        array = rng.integers(0, 2, shape).astype(np.bool_)
    elif dtype.is_integral:
        least = 0 if dtype.name.startswith("u") else -5
        array = rng.integers(int(least if low is None else low), int(high or 6), shape)
    elif low is None:
        array = rng.standard_normal(shape) * 2
    else:
        array = rng.uniform(low, 1.0 if high is None else high, shape)
    array = np.asarray(array).astype(dtype.numpy)
    if special and array.size and not dtype.is_bool and not dtype.is_integral:
        values = [np.nan, np.inf, -np.inf, 0.0, -0.0]
        array.reshape(-1)[:: max(1, array.size // 5)] = np.resize(
            values, len(array.reshape(-1)[:: max(1, array.size // 5)])
        )
    return from_numpy(array)


def of(data: Any, dtype: DType = dt.float32) -> Tensor:
    """A tensor of the given nested lists."""
    return from_numpy(np.array(data, dtype.numpy))


def index(*shape: int, below: int, dtype: DType = dt.int64, seed: int = 0) -> Tensor:
    """Valid indices below ``below``."""
    return make(*shape, dtype=dtype, seed=seed, low=0, high=below)


LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")


def laid_out(layout: str, shape: Sequence[int], **options: Any) -> Tensor:
    """A tensor of ``shape`` that lies in memory as ``layout`` says.

    transposed: dimensions reversed; sliced: an offset, a gap at the end and every second element of
    the last dimension; expanded: the first dimension repeats.
    """
    shape = tuple(shape)
    if layout == "contiguous" or not shape:
        return make(*shape, **options)
    if layout == "transposed":
        base = make(*shape[::-1], **options)
        return wrap_view(base, lay.permute(base.layout, tuple(range(len(shape)))[::-1]))
    if layout == "sliced":
        base = make(*(size + 1 for size in shape[:-1]), 2 * shape[-1] + 1, **options)
        found = base.layout
        for dim, size in enumerate(shape[:-1]):
            found = lay.slice_(found, dim, 1, size + 1)
        found = lay.slice_(found, len(shape) - 1, 1, 2 * shape[-1] + 1, 2)
        return wrap_view(base, found)
    base = make(1, *shape[1:], **options)
    strides = (0, *base.layout.strides[1:])
    return wrap_view(base, Layout(shape, strides, base.layout.offset))


def layouts(shape: Sequence[int], **options: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) for each layout."""
    for name in LAYOUTS:
        yield name, laid_out(name, shape, **options)
