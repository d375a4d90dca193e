"""Sample calls of operators with index tensors."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import index, layouts, of

_DTYPES = (dt.float32, dt.float64, dt.bool_, dt.uint8, dt.int32, dt.int64)


@sampler("aten::index_select")
def _selections() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        yield SampleInput(x, 0, of([0, 2, 0], dt.int64), name=name)
        yield SampleInput(x, -1, index(5, below=4), name=f"{name} last")
    for dtype in _DTYPES:
        yield SampleInput(make(3, 4, dtype=dtype), 0, index(2, below=3), name=dtype.name)
    yield SampleInput(make(3, 4), 0, of([1], dt.int32), name="int32 index")
    yield SampleInput(make(3, 4), 1, of(2, dt.int64), name="0-d index")
    yield SampleInput(make(), 0, of([0], dt.int64), name="0-d")
    yield SampleInput(make(3, 4), 0, of([], dt.int64), name="no indices")
    yield SampleInput(make(0, 3), 0, of([], dt.int64), name="empty")


@sampler("aten::gather")
def _gathers() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        yield SampleInput(x, 1, index(3, 2, below=4), name=name)
        yield SampleInput(x, 0, index(2, 4, below=3), name=f"{name} rows")
        yield SampleInput(x, -1, index(2, 6, below=4), name=f"{name} corner")
    for name, i in layouts((3, 4), dtype=dt.int64, low=0, high=3):
        yield SampleInput(make(3, 4), 1, i, name=f"index {name}")
    for dtype in _DTYPES:
        yield SampleInput(make(3, 4, dtype=dtype), 1, index(3, 1, below=4), name=dtype.name)
    yield SampleInput(make(3, 4), 1, index(3, 1, below=4, dtype=dt.int32), name="int32 index")
    yield SampleInput(make(), 0, of(0, dt.int64), name="0-d")
    yield SampleInput(make(), 0, of([0, 0], dt.int64), name="0-d vector")
    yield SampleInput(make(3, 4), 1, of([], dt.int64), name="no indices")


def _targets(*, low: int = 0) -> Iterator[SampleInput]:
    """(self, dim, index) for all scatters; no place twice."""
    places = of([[0, 1], [2, 3]], dt.int64)
    for name, x in layouts((3, 4)):
        yield SampleInput(x, 1, places, name=name)
    yield SampleInput(make(4, 3), 0, places, name="rows")
    for dtype in _DTYPES:
        yield SampleInput(make(3, 4, dtype=dtype, low=low), -1, places, name=dtype.name)
    yield SampleInput(make(3, 4), 1, of([[0, 1], [2, 3]], dt.int32), name="int32 index")
    yield SampleInput(make(), 0, of(0, dt.int64), name="0-d")
    yield SampleInput(make(3, 4), 1, of([], dt.int64), name="no indices")


def _with_source(sample: SampleInput, *, larger: bool = False) -> SampleInput:
    x, dim, places = sample.args
    shape = [size + 1 for size in places.shape] if larger else places.shape
    src = make(*shape, dtype=x.dtype, low=0, seed=5)
    name = sample.name + (" larger src" if larger else "")
    return SampleInput(x, dim, places, src, name=name)


@sampler("aten::scatter.src")
def _scatters() -> Iterator[SampleInput]:
    for sample in _targets():
        yield _with_source(sample)
    yield _with_source(next(_targets()), larger=True)


@sampler("aten::scatter.value")
def _value_scatters() -> Iterator[SampleInput]:
    for sample in _targets():
        yield SampleInput(*sample.args, 2, name=sample.name)
    yield SampleInput(*next(_targets()).args, float("nan"), name="nan")
    yield SampleInput(make(3, 4, dtype=dt.int64), 1, index(2, 2, below=4), 2.7, name="cut off")


@sampler("aten::scatter_add")
def _sum_scatters() -> Iterator[SampleInput]:
    for sample in _targets():
        yield _with_source(sample)
    yield _with_source(next(_targets()), larger=True)
    yield SampleInput(
        make(3, 4), 1, index(3, 4, below=2), make(3, 4, seed=1), name="places met twice"
    )


@sampler("aten::index_add")
def _index_sums() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        yield SampleInput(x, 0, of([0, 2, 0], dt.int64), make(3, 4, seed=1), name=name)
        yield SampleInput(x, 1, of([3, 1], dt.int64), make(3, 2, seed=1), name=f"{name} columns")
    for name, y in layouts((2, 4)):
        yield SampleInput(make(3, 4), 0, of([2, 2], dt.int64), y, name=f"source {name}")
    for dtype in _DTYPES:
        x, y = make(3, 4, dtype=dtype), make(2, 4, dtype=dtype, seed=1)
        yield SampleInput(x, -2, index(2, below=3), y, name=dtype.name)
    yield SampleInput(make(3, 2), 0, index(4, below=3), make(4, 2), alpha=2, name="alpha")
    yield SampleInput(make(), 0, of([0], dt.int64), make(seed=1), name="0-d")
    yield SampleInput(make(3, 4), 0, of([1], dt.int32), make(1, 4), name="int32 index")
    yield SampleInput(make(3, 4), 0, of([], dt.int64), make(0, 4), name="no indices")


@sampler("aten::embedding")
def _embeddings() -> Iterator[SampleInput]:
    for name, w in layouts((5, 3)):
        yield SampleInput(w, index(4, below=5), name=name)
    for name, i in layouts((2, 3), dtype=dt.int64, low=0, high=4):
        yield SampleInput(make(5, 3), i, name=f"indices {name}")
    yield SampleInput(make(5, 3), of([0, 2, 0, 4], dt.int64), 0, name="padding 0")
    yield SampleInput(make(5, 3), of([0, 2, 0, 4], dt.int64), 4, True, name="by frequency")
    yield SampleInput(make(5, 3), of([1, 2], dt.int32), name="int32")
    yield SampleInput(make(5, 3), of(1, dt.int64), name="0-d")
    yield SampleInput(make(5, 3), of([], dt.int64), name="no indices")
