"""Conversions between element types, as C and PyTorch make them; NaN and infinities included."""

from __future__ import annotations

import platform
import warnings
from typing import Any

import numpy as np
import pytest

import plait
from plait.tensor import dtype as dt
from plait.testing import compare

WHOLE = [
    0, 1, 127, 128, 200, 255, 256, 40000, 70000, 2**31, 2**33 + 5, 2**63 - 1, -1, -129, -40000,
]  # fmt: skip
REAL = [
    1.5, -1.5, 0.99, -0.99, 127.6, 128.4, 255.5, 300.0, -129.0, 40000.0, 65520.0, 3e9, -3e9, 1e-300,
    -0.0, 1e30,
]  # fmt: skip
OUTSIDE = [float("nan"), float("inf"), -float("inf"), 1e19, -1e19, 1e300]
TYPES = pytest.mark.parametrize("source", dt.ALL_DTYPES, ids=lambda d: d.name)


def _values(source: dt.DType) -> Any:
    """Numbers at the edges of types, wrapped around where the type is narrower."""
    if source.is_bool:
        return np.array([True, False])
    if source.is_integral:
        return np.array([v % 2**64 for v in WHOLE], np.uint64).astype(source.numpy)
    with np.errstate(all="ignore"):
        values = np.array(REAL + OUTSIDE).astype(source.numpy)
        return values + 1j * np.ones(len(values)) if source.is_complex else values


@TYPES
@pytest.mark.skipif(platform.machine() != "x86_64", reason="what does not fit is up to the machine")
def test_conversions_are_pytorchs(torch: Any, source: dt.DType) -> None:
    x = plait.from_numpy(_values(source).astype(source.numpy))
    theirs = compare.to_torch(torch, x)
    for target in dt.ALL_DTYPES:
        if source.is_complex and target is dt.uint32:
            continue  # PyTorch converts single complex numbers by another instruction
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, of imaginary parts
            wanted = theirs.to(compare.to_torch(torch, target))
        for got in (x.to(target), plait.empty(x.shape, dtype=target).copy_(x)):
            assert got.dtype is target
            compare.assert_close(got, wanted, rtol=0, atol=0, label=f"to {target}")


def test_methods_that_convert() -> None:
    x = plait.tensor([1.5, -2.0])
    names = {
        "half": plait.float16, "bfloat16": plait.bfloat16, "float": plait.float32,
        "double": plait.float64, "cfloat": plait.complex64, "cdouble": plait.complex128,
        "long": plait.int64, "int": plait.int32, "short": plait.int16, "char": plait.int8,
        "byte": plait.uint8, "bool": plait.bool_,
    }  # fmt: skip
    for name, dtype in names.items():
        converted = getattr(x, name)()
        assert converted.dtype is dtype and getattr(converted, name)() is converted
    assert x.to(np.float16).dtype is plait.float16 and x.to("bfloat16").dtype is plait.bfloat16
    assert x.to(float).dtype is plait.float32 and x.to(int).dtype is plait.int64


def test_gradients_come_back_in_the_arguments_type() -> None:
    for dtype in (plait.float16, plait.bfloat16, plait.float64, plait.complex64):
        x = plait.ones(3, dtype=dtype, requires_grad=True)
        (x.to(plait.complex128) * 2).real.sum().backward()
        assert x.grad.dtype is dtype and x.grad.tolist() == [2, 2, 2]
