"""Sample calls of operators that make tensors from nothing, or of the form of another."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import layouts

_SIZES = ((2, 3), (), (0, 4), (1,), (5,))
_DTYPES = (dt.float32, dt.float64, dt.float16, dt.int64, dt.int32, dt.int8, dt.uint8, dt.bool_)


@sampler("aten::zeros", "aten::ones", "aten::empty.memory_format")
def _sized() -> Iterator[SampleInput]:
    for size in _SIZES:
        yield SampleInput(size, name=str(size))
    for dtype in _DTYPES:
        yield SampleInput((2, 2), dtype=dtype, name=dtype.name)


@sampler("aten::zeros_like", "aten::ones_like", "aten::empty_like")
def _likes() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, name=name)
    for dtype in _DTYPES:
        yield SampleInput(make(2, dtype=dtype), name=f"of {dtype.name}")
        yield SampleInput(make(2, 2), dtype=dtype, name=f"as {dtype.name}")
    yield SampleInput(make(), name="0-d")


@sampler("aten::new_zeros", "aten::new_ones", "aten::new_empty")
def _news() -> Iterator[SampleInput]:
    for size in _SIZES:
        yield SampleInput(make(2), size, name=str(size))
    for dtype in _DTYPES:
        yield SampleInput(make(2, dtype=dtype), (2,), name=f"of {dtype.name}")
        yield SampleInput(make(2), (2,), dtype=dtype, name=f"as {dtype.name}")


@sampler("aten::empty_strided")
def _strided() -> Iterator[SampleInput]:
    yield SampleInput((2, 3), (1, 2), name="transposed")
    yield SampleInput((2, 3), (5, 1), name="gaps")
    yield SampleInput((2, 3), (0, 1), name="stretched")
    yield SampleInput((), (), dtype=dt.int64, name="0-d")


@sampler("aten::new_empty_strided")
def _new_strided() -> Iterator[SampleInput]:
    yield SampleInput(make(2, dtype=dt.int32), (2, 3), (1, 2), name="transposed")


_VALUES = (2, -1.5, True, math.inf, math.nan, 0)


@sampler("aten::full")
def _fulls() -> Iterator[SampleInput]:
    for size in _SIZES:
        yield SampleInput(size, 2.5, name=str(size))
    for value in _VALUES:
        yield SampleInput((2,), value, name=f"value {value}")
        yield SampleInput((2,), value, dtype=dt.float64, name=f"value {value} as float64")
    for dtype in _DTYPES:
        yield SampleInput((2,), 3, dtype=dtype, name=dtype.name)


@sampler("aten::full_like")
def _full_likes() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, 1.25, name=name)
    for dtype in _DTYPES:
        yield SampleInput(make(2, dtype=dtype), 3, name=f"of {dtype.name}")
        yield SampleInput(make(2), 1, dtype=dtype, name=f"as {dtype.name}")


@sampler("aten::new_full")
def _new_fulls() -> Iterator[SampleInput]:
    for dtype in _DTYPES:
        yield SampleInput(make(2, dtype=dtype), (2, 3), 1, name=f"of {dtype.name}")
    yield SampleInput(make(2), (0,), 1, dtype=dt.int64, name="empty")


@sampler("aten::scalar_tensor")
def _scalars() -> Iterator[SampleInput]:
    for value in _VALUES:
        yield SampleInput(value, name=f"value {value}")
    for dtype in _DTYPES:
        yield SampleInput(1, dtype=dtype, name=dtype.name)


@sampler("aten::arange")
def _ends() -> Iterator[SampleInput]:
    for end in (5, 0, 4.0, 2.5, 1e-3):
        yield SampleInput(end, name=str(end))
    for dtype in (dt.float32, dt.float64, dt.int32, dt.uint8, dt.int64):
        yield SampleInput(6, dtype=dtype, name=dtype.name)
    yield SampleInput(3.5, dtype=dt.int64, name="real end as int64")


@sampler("aten::arange.start")
def _starts() -> Iterator[SampleInput]:
    for start, end in ((2, 7), (-3, 3), (4, 4), (0.5, 3), (-1, 1.0)):
        yield SampleInput(start, end, name=f"{start} to {end}")


@sampler("aten::arange.start_step")
def _steps() -> Iterator[SampleInput]:
    for ramp in ((0, 10, 3), (0, 9, 3), (10, 0, -4), (0.0, 1, 0.1), (1, -1, -0.3), (5, 5, 2)):
        yield SampleInput(*ramp, name=str(ramp))
    yield SampleInput(0.5, 7.7, 2.2, dtype=dt.int64, name="truncated bounds")
    yield SampleInput(1, 2, 0.25, dtype=dt.float64, name="float64")


@sampler("aten::linspace")
def _linspaces() -> Iterator[SampleInput]:
    for steps in (0, 1, 2, 5, 10):
        yield SampleInput(-1, 2, steps, name=f"{steps} steps")
    yield SampleInput(0.0, 1.0, 7, dtype=dt.float64, name="float64")
    yield SampleInput(0, 10, 4, dtype=dt.int64, name="int64")
    yield SampleInput(3, -3.5, 6, name="downwards")


@sampler("aten::eye")
def _eyes() -> Iterator[SampleInput]:
    for n in (0, 1, 4):
        yield SampleInput(n, name=str(n))
    yield SampleInput(3, dtype=dt.bool_, name="bool")


@sampler("aten::eye.m")
def _rectangles() -> Iterator[SampleInput]:
    for n, m in ((2, 5), (5, 2), (0, 3)):
        yield SampleInput(n, m, name=f"{n}x{m}")
    yield SampleInput(2, 3, dtype=dt.int64, name="int64")
