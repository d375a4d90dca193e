"""Sample calls of the operators on complex numbers and their parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from plait.tensor import dtype as dt
from plait.tensor.tensor import from_numpy
from plait.testing.samples import SampleInput, make, sampler
from plait.testing.samples.inputs import NAN, layouts, of

_COMPLEX = (dt.complex64, dt.complex128)
_PARTS = (dt.float32, dt.float64)
_INF = float("inf")


@sampler("aten::view_as_real", "aten::imag", "aten::_conj_physical")
def _complex_only() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4), dtype=dt.complex64):
        yield SampleInput(x, name=name)
    yield SampleInput(make(5, dtype=dt.complex128), name="complex128")
    yield SampleInput(make(dtype=dt.complex64), name="0-d")
    yield SampleInput(make(0, 2, dtype=dt.complex64), name="empty")


@sampler(
    "aten::real", "aten::conj", "aten::conj_physical", "aten::resolve_conj", "aten::resolve_neg",
    "aten::isreal",
)  # fmt: skip
def _any_number() -> Iterator[SampleInput]:
    yield from _complex_only()
    for dtype in (dt.float32, dt.bfloat16, dt.int64, dt.bool_):
        yield SampleInput(make(4, dtype=dtype), name=dtype.name)


@sampler("aten::view_as_complex")
def _pairs() -> Iterator[SampleInput]:
    for dtype in _PARTS:
        yield SampleInput(make(3, 4, 2, dtype=dtype), name=dtype.name)
    turned = from_numpy(np.arange(24, dtype=np.float32).reshape(3, 4, 2).transpose(1, 0, 2))
    yield SampleInput(turned, name="transposed")
    yield SampleInput(make(2), name="0-d")
    yield SampleInput(make(0, 2), name="empty")


@sampler("aten::complex", "aten::polar")
def _parts() -> Iterator[SampleInput]:
    for name, x in layouts((3, 4), low=0.5):
        yield SampleInput(x, make(3, 4, seed=1), name=name)
    yield SampleInput(make(3, 1, low=0.5), make(4, seed=1), name="broadcast")
    yield SampleInput(
        make(3, dtype=dt.float64, low=0.5), make(3, dtype=dt.float64, seed=1), name="float64"
    )
    yield SampleInput(make(low=0.5), make(seed=1), name="0-d")


@sampler("aten::angle", "aten::sgn")
def _directions() -> Iterator[SampleInput]:
    for dtype in (*_COMPLEX, *_PARTS, dt.int64, dt.int8, dt.uint8, dt.bool_):
        yield SampleInput(make(3, 4, dtype=dtype), name=dtype.name)
    for name, x in layouts((3, 2, 4), dtype=dt.complex64):
        yield SampleInput(x, name=name)
    yield SampleInput(of([0, 1j, -1.0, 0.0], dt.complex64), name="zeros")
    yield SampleInput(of([0.0, -0.0, NAN, _INF, -_INF]), name="special")


@sampler("aten::adjoint")
def _matrices() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4), dtype=dt.complex64):
        yield SampleInput(x, name=name)
    yield SampleInput(make(3, 2), name="real")


@sampler("aten::vdot")
def _vectors() -> Iterator[SampleInput]:
    for dtype in (*_COMPLEX, *_PARTS):
        yield SampleInput(make(4, dtype=dtype), make(4, dtype=dtype, seed=1), name=dtype.name)
