"""Sample calls of reductions."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import layouts, of, special

_SHAPE = (3, 2, 4)
_FLOATS = (dt.float32, dt.float64, dt.float16, dt.bfloat16)
_INTEGERS = (dt.bool_, dt.uint8, dt.int8, dt.int32, dt.int64)


def _name(dtype: dt.DType) -> str:
    return dtype.name.rstrip("_")


@sampler("aten::sum", "aten::prod")
def _full_sums() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, name=name)
    for dtype in (*_FLOATS[:2], *_INTEGERS):
        yield SampleInput(make(5, 3, dtype=dtype, low=1, high=2), name=_name(dtype))
    yield SampleInput(make(), name="0-d")
    yield SampleInput(make(0), name="empty")
    yield SampleInput(make(2, 3, dtype=dt.int32, high=3), dtype=dt.float64, name="dtype")
    yield SampleInput(of([1.0, float("nan"), 2.0]), name="nan")


@sampler("aten::mean")
def _full_means() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, name=name)
    for dtype in _FLOATS[:2]:
        yield SampleInput(make(5, 3, dtype=dtype), name=_name(dtype))
    yield SampleInput(make(), name="0-d")
    yield SampleInput(make(0), name="empty")
    yield SampleInput(make(2, 3, dtype=dt.int32), dtype=dt.float64, name="dtype")


def _over_dims(dtypes: tuple[dt.DType, ...]) -> Iterator[SampleInput]:
    """Calls with a list of dimensions: every layout, several choices, keepdim, edge shapes."""
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, (1,), name=f"{name} dim 1")
        yield SampleInput(x, (0, -1), True, name=f"{name} dims 0 -1 keepdim")
    yield SampleInput(make(*_SHAPE), (), name="no dims")
    yield SampleInput(make(*_SHAPE), (2,), True, name="last keepdim")
    yield SampleInput(make(*_SHAPE), (0, 1, 2), True, name="all keepdim")
    yield SampleInput(make(), (0,), name="0-d")
    yield SampleInput(make(), (-1,), True, name="0-d keepdim")
    yield SampleInput(make(1, 4), (0,), name="size 1")
    yield SampleInput(make(3, 0), (0,), name="empty result")
    yield SampleInput(special(), (1,), name="special rows")
    yield SampleInput(special(), (0,), name="special columns")
    for dtype in dtypes:
        yield SampleInput(make(4, 3, dtype=dtype), (1,), name=_name(dtype))


@sampler("aten::sum.dim_IntList")
def _sums() -> Iterator[SampleInput]:
    yield from _over_dims(_FLOATS[:2] + _INTEGERS)
    yield SampleInput(make(*_SHAPE), None, name="dim None")
    yield SampleInput(make(0, 3), (0,), name="empty reduced")
    yield SampleInput(make(4, 3), (1,), dtype=dt.float64, name="dtype float64")
    yield SampleInput(make(4, 3), (1,), dtype=dt.int32, name="dtype int32")
    yield SampleInput(make(6000, 3, low=0), (0,), name="many rows")


@sampler("aten::mean.dim")
def _means() -> Iterator[SampleInput]:
    yield from _over_dims(_FLOATS)
    yield SampleInput(make(*_SHAPE), None, name="dim None")
    yield SampleInput(make(0, 3), (0,), name="empty reduced")
    yield SampleInput(make(4, 3, dtype=dt.int64), (1,), dtype=dt.float32, name="dtype")


@sampler("aten::prod.dim_int")
def _products() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, 1, name=name)
        yield SampleInput(x, -1, True, name=f"{name} keepdim")
    yield SampleInput(of([[0.0, 2, 3], [0, 0, 4], [1, 2, 3]]), 1, name="zeros")
    yield SampleInput(make(0, 3), 0, name="empty reduced")
    yield SampleInput(make(), 0, name="0-d")
    for dtype in _FLOATS[:2] + _INTEGERS:
        yield SampleInput(make(4, 3, dtype=dtype, low=1), 1, name=_name(dtype))


@sampler("aten::amax", "aten::amin")
def _extrema() -> Iterator[SampleInput]:
    yield from _over_dims(_FLOATS + _INTEGERS)
    yield SampleInput(make(*_SHAPE), name="defaults")
    yield SampleInput(of([[1.0, 3, 3], [2, 2, 2]]), (1,), name="ties")


@sampler("aten::max", "aten::min")
def _full_extrema() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, name=name)
    for dtype in _FLOATS + _INTEGERS:
        yield SampleInput(make(4, 3, dtype=dtype), name=_name(dtype))
    yield SampleInput(make(), name="0-d")
    yield SampleInput(of([1.0, 3, 3, 1]), name="ties")
    yield SampleInput(of([1.0, float("nan"), 3, float("nan")]), name="nan")


@sampler("aten::max.dim", "aten::min.dim")
def _extrema_with_positions() -> Iterator[SampleInput]:
    yield from _positions(_FLOATS + _INTEGERS)


@sampler("aten::argmax", "aten::argmin")
def _positions_of_extrema() -> Iterator[SampleInput]:
    yield from _positions(_FLOATS + _INTEGERS[1:])
    yield SampleInput(make(*_SHAPE), name="full")
    yield SampleInput(make(*_SHAPE), None, True, name="full keepdim")
    yield SampleInput(make(), name="0-d full")
    yield SampleInput(of([1.0, float("nan"), 3, float("nan")]), name="nan full")


def _positions(dtypes: tuple[dt.DType, ...]) -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, 1, name=name)
        yield SampleInput(x, -1, True, name=f"{name} keepdim")
    yield SampleInput(make(), 0, name="0-d")
    yield SampleInput(make(3, 0), 0, name="empty result")
    yield SampleInput(of([[1.0, 3, 3], [2, 2, 2]]), 1, name="ties")
    yield SampleInput(special(), 1, name="special")
    for dtype in dtypes:
        # Equal extrema in integers are found in no fixed order by the oracle: no ties here.
        x = of([[1, 0], [0, 1]], dtype)
        yield SampleInput(x, 1, name=_name(dtype))


@sampler("aten::any", "aten::all")
def _full_logic() -> Iterator[SampleInput]:
    for dtype in _FLOATS[:2] + _INTEGERS:
        yield SampleInput(make(4, 3, dtype=dtype, low=0, high=1), name=_name(dtype))
    yield SampleInput(make(0), name="empty")
    yield SampleInput(of([0.0, float("nan")]), name="nan")
    yield SampleInput(make(), name="0-d")


@sampler("aten::any.dim", "aten::all.dim")
def _logic() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE, dtype=dt.bool_):
        yield SampleInput(x, 1, name=name)
        yield SampleInput(x, -1, True, name=f"{name} keepdim")
    for dtype in _FLOATS[:2] + _INTEGERS:
        yield SampleInput(make(4, 3, dtype=dtype, low=0, high=1), 0, name=_name(dtype))
    yield SampleInput(make(0, 2), 0, name="empty reduced")


@sampler("aten::any.dims", "aten::all.dims")
def _logic_over_dims() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE, dtype=dt.bool_):
        yield SampleInput(x, (0, 2), name=name)
    yield SampleInput(make(*_SHAPE, dtype=dt.bool_), None, True, name="None keepdim")
    yield SampleInput(make(*_SHAPE, dtype=dt.bool_), (), name="no dims")
    yield SampleInput(make(*_SHAPE, dtype=dt.uint8), (1,), name="uint8")


@sampler("aten::var.correction")
def _variances() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        yield SampleInput(x, (1,), name=name)
        yield SampleInput(x, (0, -1), keepdim=True, correction=0, name=f"{name} keepdim")
    yield SampleInput(make(*_SHAPE), name="defaults")
    yield SampleInput(make(5), (0,), correction=1.5, name="correction 1.5")
    yield SampleInput(make(5, dtype=dt.float64), (0,), correction=2, name="float64")
    yield SampleInput(special(), (1,), name="special")


@sampler("aten::logsumexp")
def _logsumexps() -> Iterator[SampleInput]:
    for sample in _over_dims(_FLOATS[:2] + _INTEGERS):
        if sample.name != "no dims":  # PyTorch reduces nothing there, and then fails
            yield sample
    yield SampleInput(make(0, 3), (0,), name="empty reduced")
    yield SampleInput(of([[1000.0, 1000.0], [-1000.0, 0.0]]), (1,), name="large")


@sampler("aten::cumsum")
def _running_sums() -> Iterator[SampleInput]:
    for name, x in layouts(_SHAPE):
        for dim in (0, -1):
            yield SampleInput(x, dim, name=f"{name} {dim}")
    for dtype in _FLOATS[:2] + _INTEGERS:
        yield SampleInput(make(4, 3, dtype=dtype), 1, name=_name(dtype))
    yield SampleInput(make(), 0, name="0-d")
    yield SampleInput(make(0, 3), 0, name="empty")
    yield SampleInput(special(), 1, name="special")
    yield SampleInput(make(4, 3), 0, dtype=dt.int32, name="dtype")
