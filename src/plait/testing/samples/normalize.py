"""Sample calls of normalisations and losses."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.tensor.tensor import Tensor
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import NAN, index, laid_out, layouts, of, special

_FLOATS = (dt.float32, dt.float64, dt.float16, dt.bfloat16)
_IGNORED = -100

# ---------------------------------------------------------------- softmax


def _rows() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        for dim in (0, -1):
            yield SampleInput(x, dim, name=f"{name} {dim}")
    for dtype in _FLOATS:
        yield SampleInput(make(4, 5, dtype=dtype), 1, name=dtype.name)
    yield SampleInput(special(), 1, name="special")
    yield SampleInput(special(), 0, name="special columns")
    yield SampleInput(of([[1000.0, 999.0], [-1000.0, 0.0]]), 1, name="large")
    yield SampleInput(make(), 0, name="0-d")
    yield SampleInput(make(0, 3), 1, name="no rows")
    yield SampleInput(make(3, 0), 1, name="no columns")
    yield SampleInput(make(3, 1), 1, name="one column")


@sampler("aten::_softmax", "aten::_log_softmax")
def _softmaxes() -> Iterator[SampleInput]:
    for sample in _rows():
        yield SampleInput(*sample.args, False, name=sample.name)


@sampler("aten::softmax.int", "aten::log_softmax.int")
def _softmax_composites() -> Iterator[SampleInput]:
    yield from _rows()
    yield SampleInput(make(4, 5), 1, dt.float64, name="dtype")
    yield SampleInput(make(4, 5, dtype=dt.int64), 1, dt.float32, name="ints")


# ---------------------------------------------------------------- layer norm


@sampler("aten::native_layer_norm")
def _layer_norms() -> Iterator[SampleInput]:
    w, b = make(4, seed=1), make(4, seed=2)
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, (4,), w, b, 1e-5, name=name)
    x = make(3, 2, 4)
    yield SampleInput(x, (4,), None, None, 1e-5, name="plain")
    yield SampleInput(x, (4,), w, None, 1e-5, name="weight")
    yield SampleInput(x, (4,), None, b, 1e-5, name="bias")
    yield SampleInput(x, (2, 4), make(2, 4, seed=1), make(2, 4, seed=2), 1e-3, name="two dims")
    yield SampleInput(x, (3, 2, 4), None, None, 1e-5, name="all dims")
    yield SampleInput(make(0, 4), (4,), w, b, 1e-5, name="no rows")
    yield SampleInput(special(), (3,), None, None, 1e-5, name="special")
    yield SampleInput(make(4, 3, dtype=dt.float64), (3,), None, None, 1e-5, name="float64")
    for dtype in _FLOATS[2:]:
        half, own = make(5, 4, dtype=dtype), make(4, dtype=dtype, seed=1)
        yield SampleInput(half, (4,), own, None, 1e-5, name=dtype.name)
        yield SampleInput(half, (4,), w, b, 1e-5, name=f"{dtype.name} mixed")


@sampler("aten::layer_norm")
def _layer_norm_composites() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 4), (4,), name="plain")
    yield SampleInput(make(3, 4), (4,), make(4, seed=1), make(4, seed=2), 1e-3, name="affine")


# ---------------------------------------------------------------- root mean square


@sampler("aten::_fused_rms_norm")
def _rms_norms() -> Iterator[SampleInput]:
    w = make(4, seed=1)
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, (4,), w, 1e-5, name=name)
    x = make(3, 2, 4)
    yield SampleInput(x, (4,), None, 1e-5, name="plain")
    yield SampleInput(make(3, 4, low=-1e-2, high=1e-2), (4,), w, None, name="own eps")
    yield SampleInput(x, (2, 4), make(2, 4, seed=1), 1e-3, name="two dims")
    yield SampleInput(x, (3, 2, 4), None, 1e-5, name="all dims")
    yield SampleInput(make(0, 4), (4,), w, 1e-5, name="no rows")
    yield SampleInput(special(), (3,), None, 1e-5, name="special")
    yield SampleInput(make(4, 3, dtype=dt.float64), (3,), None, None, name="float64")
    for dtype in _FLOATS[2:]:
        half, own = make(5, 4, dtype=dtype), make(4, dtype=dtype, seed=1)
        yield SampleInput(half, (4,), own, None, name=dtype.name)


@sampler("aten::rms_norm")
def _rms_norm_composites() -> Iterator[SampleInput]:
    yield SampleInput(make(3, 4), (4,), name="plain")
    yield SampleInput(make(3, 4), (4,), make(4, seed=1), 1e-3, name="affine")


# ---------------------------------------------------------------- losses


def _scores(*shape: int) -> Tensor:
    """Log-probabilities, more or less."""
    return make(*shape, low=-4.0, high=0.0)


@sampler("aten::nll_loss_forward")
def _nll_losses() -> Iterator[SampleInput]:
    targets, w = of([0, 2, 1, _IGNORED], dt.int64), of([1.0, 2.0, 3.0])
    for reduction in (0, 1, 2):
        for name, weight in (("plain", None), ("weight", w)):
            options = (weight, reduction, _IGNORED)
            yield SampleInput(_scores(4, 3), targets, *options, name=f"{name} {reduction}")
    for layout in ("transposed", "sliced", "expanded"):
        x = laid_out(layout, (4, 3))
        yield SampleInput(x, targets, None, 1, _IGNORED, name=layout)
    single = of(1, dt.int64)
    for reduction in (0, 1, 2):
        yield SampleInput(_scores(3), single, w, reduction, _IGNORED, name=f"one row {reduction}")
    nothing = of([_IGNORED] * 4, dt.int64)
    yield SampleInput(_scores(4, 3), nothing, None, 1, _IGNORED, name="all ignored mean")
    yield SampleInput(_scores(4, 3), nothing, w, 2, _IGNORED, name="all ignored sum")
    yield SampleInput(_scores(4, 3), of([0, 2, 1, 1], dt.int64), None, 1, 1, name="ignore 1")
    yield SampleInput(make(0, 3), of([], dt.int64), None, 1, _IGNORED, name="no rows")
    infinite = of([[0.0, float("-inf"), NAN], [1.0, 2.0, 3.0]])
    yield SampleInput(infinite, of([1, _IGNORED], dt.int64), None, 1, _IGNORED, name="infinite")
    yield SampleInput(make(4, 3, dtype=dt.float64), targets, None, 1, _IGNORED, name="float64")
    yield SampleInput(_scores(2, 3), of([0, 2], dt.uint8), None, 1, _IGNORED, name="uint8 target")


@sampler("aten::nll_loss_nd")
def _nll_composites() -> Iterator[SampleInput]:
    yield SampleInput(_scores(4, 3), index(4, below=3), name="rows")
    yield SampleInput(_scores(3), of(1, dt.int64), name="one row")
    for reduction in (0, 1, 2):
        x, t = _scores(2, 3, 5), index(2, 5, below=3)
        yield SampleInput(x, t, None, reduction, _IGNORED, name=f"3-d {reduction}")
    x, t = _scores(2, 3, 5, 2), index(2, 5, 2, below=3)
    yield SampleInput(x, t, make(3, low=0.5, seed=4), 1, 1, name="4-d weight ignore")


@sampler("aten::cross_entropy_loss")
def _cross_entropies() -> Iterator[SampleInput]:
    x, w = make(4, 3), of([1.0, 2.0, 3.0])
    classes, some = index(4, below=3), of([0, 2, _IGNORED, 1], dt.int64)
    likely = make(4, 3, low=0.0, high=1.0, seed=3)
    yield SampleInput(x, classes, name="classes")
    yield SampleInput(make(3), of(1, dt.int64), name="one row")
    yield SampleInput(make(2, 3, 4), index(2, 4, below=3), name="3-d")
    for reduction in (0, 1, 2):
        for smoothing in (0.0, 0.1):
            for name, weight in (("", None), (" weight", w)):
                label = f"{reduction} {smoothing}{name}"
                options = (weight, reduction, _IGNORED, smoothing)
                yield SampleInput(x, some, *options, name=f"classes {label}")
                yield SampleInput(x, likely, *options, name=f"probabilities {label}")
    grid, t = make(2, 3, 4), index(2, 4, below=3)
    yield SampleInput(grid, t, w, 1, 0, 0.1, name="3-d weight ignore smooth")


@sampler("aten::mse_loss")
def _squared_errors() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4)):
        for reduction in (0, 1, 2):
            yield SampleInput(x, make(3, 4, seed=1), reduction, name=f"{name} {reduction}")
    yield SampleInput(make(3, 4), make(4, seed=1), 0, name="broadcast")
    yield SampleInput(make(3, 4), make(3, 4, dtype=dt.float64, seed=1), name="promoted")
    yield SampleInput(make(0), make(0), name="empty")
