"""Sample calls of matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import NAN, laid_out, layouts, of

_DTYPES = (dt.float32, dt.float64, dt.float16, dt.bfloat16, dt.uint8, dt.int32, dt.int64)


@sampler("aten::mm")
def _products() -> Iterator[SampleInput]:
    for left, a in layouts((3, 4)):
        for right, b in layouts((4, 5), seed=1):
            yield SampleInput(a, b, name=f"{left} {right}")
    for m, k, n in ((0, 4, 3), (2, 0, 3), (2, 4, 0), (1, 1, 1), (40, 70, 30)):
        yield SampleInput(make(m, k), make(k, n, seed=1), name=f"{m}x{k}x{n}")
    for dtype in _DTYPES:
        a, b = make(3, 4, dtype=dtype), make(4, 2, dtype=dtype, seed=1)
        yield SampleInput(a, b, name=dtype.name)
    yield SampleInput(of([[NAN, 1.0], [0.0, 1.0]]), of([[0.0], [2.0]]), name="nan")


@sampler("aten::bmm")
def _batched_products() -> Iterator[SampleInput]:
    for left, a in layouts((2, 3, 4)):
        for right, b in layouts((2, 4, 5), seed=1):
            yield SampleInput(a, b, name=f"{left} {right}")
    yield SampleInput(make(0, 3, 4), make(0, 4, 2), name="no matrices")
    yield SampleInput(make(2, 3, 0), make(2, 0, 2), name="no terms")
    for dtype in _DTYPES:
        a, b = make(2, 3, 4, dtype=dtype), make(2, 4, 2, dtype=dtype, seed=1)
        yield SampleInput(a, b, name=dtype.name)


@sampler("aten::mv")
def _matrix_vector() -> Iterator[SampleInput]:
    for name, a in layouts((3, 4)):
        yield SampleInput(a, make(4, seed=1), name=name)
    yield SampleInput(make(3, 4), laid_out("sliced", (4,)), name="strided vector")
    yield SampleInput(make(3, 0), make(0), name="no terms")
    yield SampleInput(make(3, 4, dtype=dt.int64), make(4, dtype=dt.int64), name="int64")


@sampler("aten::dot")
def _dots() -> Iterator[SampleInput]:
    yield SampleInput(make(5), make(5, seed=1), name="contiguous")
    yield SampleInput(laid_out("sliced", (5,)), make(5, seed=1), name="strided")
    yield SampleInput(make(0), make(0), name="empty")
    yield SampleInput(make(5, dtype=dt.int32), make(5, dtype=dt.int32, seed=1), name="int32")


@sampler("aten::addmm")
def _sums_with_products() -> Iterator[SampleInput]:
    for name, c in layouts((3, 5), seed=2):
        yield SampleInput(c, make(3, 4), make(4, 5, seed=1), name=name)
    for shape in ((5,), (1, 5), (3, 1), ()):
        yield SampleInput(make(*shape), make(3, 4), make(4, 5, seed=1), name=f"self {shape}")
    for name, b in layouts((4, 5), seed=1):
        yield SampleInput(make(5), make(3, 4), b, name=f"mat2 {name}")
    a, b, c = make(3, 4), make(4, 5, seed=1), make(5, seed=2)
    yield SampleInput(c, a, b, beta=2, alpha=0.5, name="factors")
    yield SampleInput(of([NAN] * 5), a, b, beta=0, name="beta 0 ignores nan")
    yield SampleInput(c, of([[NAN] * 4] * 3), b, alpha=0, name="alpha 0 ignores nan")
    yield SampleInput(c, make(3, 0), make(0, 5), beta=2, name="no terms")
    ints = make(2, 3, dtype=dt.int64), make(3, 2, dtype=dt.int64, seed=1)
    yield SampleInput(make(2, dtype=dt.int64), *ints, beta=1.5, name="int64 cuts beta")


@sampler("aten::matmul")
def _matmuls() -> Iterator[SampleInput]:
    # fmt: off
    for first, second in [
        ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 3)), ((2, 3), (3, 4)), ((2, 3, 4), (4,)),
        ((2, 3, 4), (4, 5)), ((4,), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((6, 1, 3, 4), (2, 4, 5)), ((6, 1, 3, 4), (1, 2, 4, 5)), ((0, 3, 4), (4, 2)),
        ((2, 3, 0), (0, 2)), ((4,), (3, 2, 4, 5)),
    ]:
        yield SampleInput(make(*first), make(*second, seed=1), name=f"{first} {second}")
    # fmt: on
    for name, x in layouts((2, 3, 4)):
        yield SampleInput(x, make(4, 5, seed=1), name=f"{name} left")
        yield SampleInput(make(5, 3, seed=1), laid_out(name, (2, 3, 4)), name=f"{name} right")


@sampler("aten::linear")
def _linears() -> Iterator[SampleInput]:
    # fmt: off
    for size, weight, bias_size in [
        ((4,), (3, 4), (3,)), ((2, 4), (3, 4), (3,)), ((2, 5, 4), (3, 4), (3,)),
        ((2, 5, 4), (3, 4), None), ((2, 4), (4,), None), ((4,), (4,), None), ((2, 4), (3, 4), (1,)),
        ((2, 4), (3, 4), (2, 3)), ((0, 4), (3, 4), (3,)), ((6, 2, 5, 4), (3, 4), (3,)),
    ]:
        bias = None if bias_size is None else make(*bias_size, seed=2)
        name = f"{size} {weight} {bias_size}"
        yield SampleInput(make(*size), make(*weight, seed=1), bias, name=name)
    # fmt: on
    for name, x in layouts((2, 5, 4)):
        yield SampleInput(x, make(3, 4, seed=1), make(3, seed=2), name=name)
