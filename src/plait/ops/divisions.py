"""Divisions that round, their remainders, and shifts of bits.

Integers divided by 0 are an error, as in PyTorch; floating numbers give infinities and NaN. Shifts
by less than 0 or by at least the width leave nothing: 0, or -1 of a negative number shifted right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.base.errors import DivisionByZero, check
from plait.ops import aten
from plait.ops.define import Array, Rule
from plait.ops.elementwise import FLOATS, REAL, elementwise
from plait.tensor import dtype as dtypes

__all__: list[str] = []


# ---------------------------------------------------------------- divisions


def _guarded(name: str, ufunc: np.ufunc) -> Rule:
    """``ufunc``, refusing integers divided by 0."""

    def divide(a: Array, b: Any) -> Any:
        is_whole = np.asarray(a).dtype.kind in "iu" and np.asarray(b).dtype.kind in "iu"
        check(
            not is_whole or not np.size(a) or bool(np.all(b)),
            DivisionByZero,
            lambda: (
                f"{name}: argument 'other' is 0 (ZeroDivisionError); expected other integers."
                " Convert to a floating dtype for infinities."
            ),
        )
        return ufunc(a, b)

    return divide


def _remainder_vjp(g: Any, self: Any, other: Any) -> Any:
    """The remainder is self - quotient * other, and the quotient goes by steps."""
    return -g * aten.floor_divide.default(self.detach(), other.detach())


def _fmod_vjp(g: Any, self: Any, other: Any) -> Any:
    return -g * aten.trunc.default(self / other)


floor_divide = elementwise(
    "aten::floor_divide(Tensor self, Tensor other) -> Tensor",
    _guarded("floor_divide", np.floor_divide),
    takes=REAL,
    fast=FLOATS,
    out="out",
    inplace="Tensor",
)
floor_divide_scalar = elementwise(
    "aten::floor_divide.Scalar(Tensor self, Scalar other) -> Tensor",
    _guarded("floor_divide", np.floor_divide),
    takes=REAL,
    fast=FLOATS,
)
remainder = elementwise(
    "aten::remainder.Tensor(Tensor self, Tensor other) -> Tensor",
    _guarded("remainder", np.remainder),
    takes=REAL,
    fast=FLOATS,
    vjp={"self": lambda g: g, "other": _remainder_vjp},
)
remainder_scalar = elementwise(
    "aten::remainder.Scalar(Tensor self, Scalar other) -> Tensor",
    _guarded("remainder", np.remainder),
    takes=REAL,
    fast=FLOATS,
    vjp={"self": lambda g: g},
)
fmod = elementwise(
    "aten::fmod.Tensor(Tensor self, Tensor other) -> Tensor",
    _guarded("fmod", np.fmod),
    takes=REAL,
    fast=FLOATS,
    vjp={"self": lambda g: g, "other": _fmod_vjp},
)
fmod_scalar = elementwise(
    "aten::fmod.Scalar(Tensor self, Scalar other) -> Tensor",
    _guarded("fmod", np.fmod),
    takes=REAL,
    fast=FLOATS,
    vjp={"self": lambda g: g},
)


# ---------------------------------------------------------------- shifts

_WHOLE = frozenset(d for d in dtypes.ALL_DTYPES if d.is_integral)


def _shift(name: str, ufunc: np.ufunc) -> tuple[Any, Any]:
    return (
        elementwise(
            f"aten::{name}.Tensor(Tensor self, Tensor other) -> Tensor", ufunc, takes=_WHOLE
        ),
        elementwise(
            f"aten::{name}.Tensor_Scalar(Tensor self, Scalar other) -> Tensor", ufunc, takes=_WHOLE
        ),
    )


left_shift, left_shift_scalar = _shift("bitwise_left_shift", np.left_shift)
right_shift, right_shift_scalar = _shift("bitwise_right_shift", np.right_shift)
