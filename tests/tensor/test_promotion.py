"""The promotion table and `result_type`, whole, against PyTorch."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import pytest

from plait.base.errors import ArgumentTypeError, DtypeMismatch
from plait.tensor import dtype as dt
from plait.tensor.layout import TensorMeta
from plait.tensor.promotion import can_cast, promote, result_type, scalar_dtype

torch: ModuleType = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")

PAIRS = list(itertools.product(dt.ALL_DTYPES, repeat=2))
each_dtype = pytest.mark.parametrize("a", dt.ALL_DTYPES, ids=lambda dtype: dtype.name)
NUMBERS = (True, 3, 2.5, 1j)


def theirs(dtype: dt.DType) -> Any:
    return getattr(torch, dtype.name.rstrip("_"))


def ours(dtype: Any) -> dt.DType:
    """Our type of PyTorch's; its complex32, which we lack, becomes complex64."""
    name = str(dtype).removeprefix("torch.")
    return dt.complex64 if name == "complex32" else dt.by_name(name)


def expected_or_none(compute: Any) -> dt.DType | None:
    try:
        return ours(compute())
    except RuntimeError:
        return None


@each_dtype
def test_promote(a: dt.DType) -> None:
    for b in dt.ALL_DTYPES:
        expected = expected_or_none(lambda b=b: torch.promote_types(theirs(a), theirs(b)))
        if expected is None:
            with pytest.raises(DtypeMismatch, match=f"{a} and {b}"):
                promote(a, b)
        else:
            assert promote(a, b) is expected, b


def test_can_cast() -> None:
    for a, b in PAIRS:
        assert can_cast(a, b) == torch.can_cast(theirs(a), theirs(b)), (a, b)


@each_dtype
def test_result_type_of_tensors(a: dt.DType) -> None:
    for b, shape_a, shape_b in itertools.product(dt.ALL_DTYPES, [(2,), ()], [(2,), ()]):
        x, y = torch.empty(shape_a, dtype=theirs(a)), torch.empty(shape_b, dtype=theirs(b))
        operands = TensorMeta(shape_a, a), TensorMeta(shape_b, b)
        expected = expected_or_none(lambda x=x, y=y: torch.result_type(x, y))
        if expected is None:
            with pytest.raises(DtypeMismatch):
                result_type(*operands)
        else:
            assert result_type(*operands) is expected, operands


@each_dtype
@pytest.mark.parametrize("number", NUMBERS)
def test_result_type_with_numbers(a: dt.DType, number: Any) -> None:
    for shape in ((2,), ()):
        x = torch.empty(shape, dtype=theirs(a))
        expected = expected_or_none(lambda x=x: torch.result_type(x, number))
        if expected is not None:
            assert result_type(TensorMeta(shape, a), number) is expected
            assert result_type(number, TensorMeta(shape, a)) is expected


def test_result_type_of_numbers_follows_the_default_type() -> None:
    for a, b in itertools.product(NUMBERS, repeat=2):
        assert result_type(a, b) is ours(torch.result_type(a, b))
    dt.set_default_dtype(dt.float64)
    try:
        assert result_type(TensorMeta((), dt.int64), 2.5) is dt.float64
        assert scalar_dtype(1j) is dt.complex128
        assert result_type(TensorMeta((), dt.float32), 2.5) is dt.float32
    finally:
        dt.set_default_dtype(dt.float32)


def test_three_ranks_at_once() -> None:
    vector, scalar = TensorMeta((3,), dt.int8), TensorMeta((), dt.float64)
    assert result_type(vector, scalar, 1j) is dt.complex128
    assert result_type(vector, TensorMeta((), dt.int64), 5) is dt.int8


def test_errors() -> None:
    with pytest.raises(ArgumentTypeError, match="got str"):
        result_type("a")
    with pytest.raises(ArgumentTypeError, match="no operands"):
        result_type()
