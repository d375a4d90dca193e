"""Sample calls of triangles, repetitions, shifts and outer products."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import layouts, of, special


@sampler("aten::tril", "aten::triu")
def _triangles() -> Iterator[SampleInput]:
    for name, x in layouts((2, 4, 5)):
        yield SampleInput(x, name=name)
    for diagonal in (-5, -1, 1, 2, 7):
        yield SampleInput(make(4, 5), diagonal, name=f"diagonal {diagonal}")
    yield SampleInput(special(), name="special")
    yield SampleInput(make(3, 0), name="empty")
    for dtype in (dt.int64, dt.bool_, dt.float64, dt.bfloat16):
        yield SampleInput(make(3, 3, dtype=dtype), name=dtype.name)


@sampler("aten::repeat")
def _repeats() -> Iterator[SampleInput]:
    for name, x in layouts((2, 3)):
        yield SampleInput(x, (2, 3), name=name)
    yield SampleInput(make(2, 3), (4, 1, 2), name="new dimension")
    yield SampleInput(make(2, 3), (1, 1), name="once")
    yield SampleInput(make(2, 3), (2, 0), name="never")
    yield SampleInput(make(), (3,), name="0-d")


@sampler("aten::repeat_interleave.self_int")
def _interleaved() -> Iterator[SampleInput]:
    for name, x in layouts((2, 3)):
        yield SampleInput(x, 2, 1, name=name)
        yield SampleInput(x, 3, name=f"{name} flat")
    yield SampleInput(make(2, 3), 0, 0, name="never")
    yield SampleInput(make(2, 3, 2), 2, -2, name="middle")


@sampler("aten::roll")
def _rolls() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        yield SampleInput(x, (1,), (0,), name=name)
        yield SampleInput(x, (-2, 5), (0, 1), name=f"{name} both")
        yield SampleInput(x, (3,), name=f"{name} flat")
    yield SampleInput(make(0, 2), (1,), (0,), name="empty")
    yield SampleInput(make(4), (0,), (0,), name="nothing")


@sampler("aten::outer")
def _outers() -> Iterator[SampleInput]:
    yield SampleInput(make(3), make(4, seed=1), name="plain")
    yield SampleInput(make(3, dtype=dt.int64), make(2, seed=1), name="promoted")
    yield SampleInput(make(0), make(2, seed=1), name="empty")


@sampler("aten::masked_fill.Tensor")
def _fills() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        yield SampleInput(x, make(3, 4, dtype=dt.bool_), of(2.5), name=name)
    yield SampleInput(make(4), make(3, 4, dtype=dt.bool_), of(2.5), name="broadcast")
    mask = make(3, 4, dtype=dt.bool_)
    yield SampleInput(make(3, 4), mask, of(2, dt.int64), name="int value")
    yield SampleInput(make(3, 4, dtype=dt.int64), mask, of(2, dt.int64), name="ints")
