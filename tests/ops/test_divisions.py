"""Divisions that round, remainders and shifts: by 0, past the width, at the ends of a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import DivisionByZero
from plait.ops import aten
from plait.tensor import dtype as dt

INTEGERS = [d for d in dt.ALL_DTYPES if d.is_integral]
DIVISIONS: dict[str, Callable[[Any, Any], Any]] = {
    "floor_divide": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
    "fmod": lambda x, y: (
        aten.fmod.Tensor(x, y) if isinstance(y, plait.Tensor) else aten.fmod.Scalar(x, y)
    ),
}
BY_NAME = pytest.mark.parametrize("name", DIVISIONS)
EAGER_AND_COMPILED = pytest.mark.parametrize("compiled", [False, True])
BY_TYPE = pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)


@BY_NAME
@EAGER_AND_COMPILED
@pytest.mark.parametrize("as_tensor", [False, True])
def test_integers_are_not_divided_by_0(name: str, compiled: bool, as_tensor: bool) -> None:
    call = plait.compile(DIVISIONS[name]) if compiled else DIVISIONS[name]
    x = plait.tensor([7, -7, 0])
    for error in (DivisionByZero, ZeroDivisionError, RuntimeError):
        with pytest.raises(error, match=f"{name}: argument 'other' is 0"):
            call(x, plait.tensor([2, 0, 1]) if as_tensor else 0)


@BY_NAME
@EAGER_AND_COMPILED
def test_floating_numbers_are(name: str, compiled: bool) -> None:
    call = plait.compile(DIVISIONS[name]) if compiled else DIVISIONS[name]
    found = call(plait.tensor([7.0, -7.0, 0.0]), 0).tolist()
    infinity = float("inf")
    expected = [infinity, -infinity] if name == "floor_divide" else [np.nan, np.nan]
    np.testing.assert_array_equal(found, [*expected, np.nan])


def _ends(dtype: dt.DType) -> tuple[plait.Tensor, plait.Tensor]:
    info = np.iinfo(dtype.numpy)
    values = [info.min, info.min + 1, info.max, 0, 1, 7, info.max // 2]
    divisors = [1, 2, 3, info.max] + ([-1, -2, info.min] if info.min else [])
    x, y = np.meshgrid(np.array(values, dtype.numpy), np.array(divisors, dtype.numpy))
    return plait.from_numpy(x.copy()), plait.from_numpy(y.copy())


@BY_TYPE
@BY_NAME
def test_the_ends_of_a_type(name: str, dtype: dt.DType) -> None:
    """Against Python's own numbers, which do not end; the least number by -1 wraps around."""
    x, y = _ends(dtype)
    found = DIVISIONS[name](x, y)
    assert found.dtype is dtype
    bits, signed = dtype.itemsize * 8, dtype.is_signed

    def expected(a: int, b: int) -> int:
        if name == "fmod":
            return abs(a) % abs(b) * (-1 if a < 0 else 1)
        value = a // b if name == "floor_divide" else a % b
        value %= 1 << bits
        return value - (1 << bits) if signed and value >> (bits - 1) else value

    wanted = [[expected(a, b) for a, b in zip(r, s)] for r, s in zip(x.tolist(), y.tolist())]
    assert found.tolist() == wanted


@BY_TYPE
@EAGER_AND_COMPILED
def test_numbers_that_are_not_0_divide_natively(dtype: dt.DType, compiled: bool) -> None:
    x = _ends(dtype)[0]
    plain = [lambda x, n=n: (x // n, x % n, aten.fmod.Scalar(x, n)) for n in (1, 2, 3, 7)]
    for call in plain:
        got = plait.compile(call)(x) if compiled else call(x)
        assert [t.tolist() for t in got] == [t.tolist() for t in call(x)]


@BY_TYPE
@EAGER_AND_COMPILED
def test_shifts_past_the_width_leave_nothing(dtype: dt.DType, compiled: bool) -> None:
    info, bits = np.iinfo(dtype.numpy), dtype.itemsize * 8

    def both(x: Any, n: Any) -> tuple[Any, Any]:
        return x << n, x >> n

    call = plait.compile(both) if compiled else both
    x = plait.tensor([info.min, info.max, 5, 0], dtype=dtype)
    for n in (0, 1, bits - 1, bits, bits + 1, 100):
        by = plait.full((4,), n, dtype=dtype)
        left, right = call(x, by)
        numbers = x.tolist()
        assert right.tolist() == [a >> n for a in numbers]
        mask = (1 << bits) - 1
        assert [a & mask for a in left.tolist()] == [a << n & mask for a in numbers]
        assert [t.tolist() for t in both(x, n)] == [left.tolist(), right.tolist()]


def test_in_place_and_gradients() -> None:
    x = plait.tensor([7, -7, 9])
    x //= 2
    x <<= 3
    x >>= 1
    x %= 5
    assert x.tolist() == [2, 4, 1]
    a = plait.tensor([5.5, -5.5], requires_grad=True)
    b = plait.tensor([2.0, 2.0], requires_grad=True)
    found = plait.autograd.grad([(a % b).sum()], [a, b])
    assert [t.tolist() for t in found] == [[1, 1], [-2, 3]]


NUMBER_ON_THE_LEFT = {
    "//": lambda n, x: n // x, "%": lambda n, x: n % x, "<<": lambda n, x: n << x,
    ">>": lambda n, x: n >> x,
}  # fmt: skip


LEFT_CALLS = [
    (name, number, dtype)
    for name in NUMBER_ON_THE_LEFT
    for number in (7, -7, 2.5)
    for dtype in ("int8", "uint8", "int32", "int64", "float32", "float64")
    if name in ("//", "%") or ("float" not in dtype and number != 2.5)
]


@pytest.mark.parametrize(("name", "number", "dtype"), LEFT_CALLS)
def test_a_number_may_stand_on_the_left(torch, name, number, dtype):
    call = NUMBER_ON_THE_LEFT[name]
    for values in ([1, 2, 3, 5], 3):
        wanted = call(number, torch.tensor(values, dtype=getattr(torch, dtype)))
        x = plait.tensor(values, dtype=getattr(plait, dtype))
        found = call(number, x)
        assert str(found.dtype).split(".")[-1] == str(wanted.dtype).split(".")[-1]
        assert found.tolist() == wanted.tolist()
        assert plait.compile(lambda x: call(number, x))(x).tolist() == wanted.tolist()
