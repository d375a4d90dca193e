"""Tensors of many layouts, and index tensors, for the samples of several families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.dtype import DType
from plait.tensor.layout import Layout
from plait.tensor.tensor import Tensor, from_numpy, wrap_view
from plait.testing.samples import make

__all__ = ["LAYOUTS", "NAN", "index", "laid_out", "layouts", "of", "special"]

NAN, INF = float("nan"), float("inf")

LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")


def of(data: Any, dtype: DType = dt.float32) -> Tensor:
    """A tensor of the given nested lists."""
    return from_numpy(np.array(data, dtype.numpy))


def special(dtype: DType = dt.float32) -> Tensor:
    """Rows of shape (6, 3) with NaN, infinities and zeros of both signs in different places."""
    rows = [
        [NAN, 1.0, 2.0],
        [1.0, INF, -2.0],
        [-INF, -INF, -INF],
        [0.0, -0.0, 0.0],
        [INF, -INF, NAN],
        [2.0, 2.0, 1.0],
    ]
    return of(rows, dtype)


def index(*shape: int, below: int, dtype: DType = dt.int64, seed: int = 0) -> Tensor:
    """Valid indices for a dimension of size ``below``."""
    return make(*shape, dtype=dtype, low=0, high=below - 1, seed=seed)


def laid_out(layout: str, shape: Sequence[int], **options: Any) -> Tensor:
    """A tensor of ``shape`` that lies in memory as ``layout`` says.

    transposed: dimensions reversed; sliced: an offset, a gap between rows and every second element
    of the last dimension; expanded: the first dimension repeats.
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
