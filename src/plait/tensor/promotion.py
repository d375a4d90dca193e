"""Type promotion: the common element type of two types, and of the operands of a call.

PyTorch's rules. Knows element types and, of operands, only their dtype and number of dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from plait.base.errors import ArgumentTypeError, DtypeMismatch
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType

__all__ = ["can_cast", "promote", "result_type", "scalar_dtype"]


# PyTorch lets these meet floating types only.
_WIDE_UNSIGNED = (dtypes.uint16, dtypes.uint32, dtypes.uint64)


def _promote_integers(a: DType, b: DType) -> DType:
    """The common type of two integer types up to 64 bits, unsigned only as uint8."""
    if a.is_signed == b.is_signed:
        return a if a.itemsize >= b.itemsize else b
    signed = a if a.is_signed else b
    return dtypes.int16 if signed is dtypes.int8 else signed


def _promote(a: DType, b: DType) -> DType | None:
    """One entry of the table: the greater category wins, widths matter only within one."""
    if a is b:
        return a
    if a.category < b.category:
        a, b = b, a
    if (a in _WIDE_UNSIGNED or b in _WIDE_UNSIGNED) and not a.is_floating:
        return None
    if a.is_complex and b in (dtypes.float64, dtypes.complex128):
        return dtypes.complex128
    if a.category > b.category:
        return a
    if a.is_integral:
        return _promote_integers(a, b)
    if a.itemsize == b.itemsize:  # float16 and bfloat16: neither holds the other
        return dtypes.float32
    return a if a.itemsize > b.itemsize else b


_TABLE: dict[tuple[DType, DType], DType] = {
    (a, b): common
    for a in dtypes.ALL_DTYPES
    for b in dtypes.ALL_DTYPES
    if (common := _promote(a, b)) is not None
}


def promote(a: DType, b: DType) -> DType:
    """The smallest type that holds values of both, by PyTorch's table. Raises DtypeMismatch.

    >>> promote(dtypes.int64, dtypes.float16)
    plait.float16
    """
    if a is b:
        return a
    common = _TABLE.get((a, b))
    if common is None:
        raise DtypeMismatch(
            f"promote: no common type is defined for {a} and {b}; expected uint16, uint32 and "
            "uint64 to meet floating types only. Convert one operand with .to(dtype)."
        )
    return common


def scalar_dtype(value: Any) -> DType:
    """The type a Python number brings to a call: bool_, int64, or the default floating/complex.

    SymInts count as ints. Raises ArgumentTypeError for anything else.
    """
    if isinstance(value, bool):
        return dtypes.bool_
    if isinstance(value, int):
        return dtypes.int64
    if isinstance(value, float):
        return dtypes.get_default_dtype()
    if isinstance(value, complex):
        return dtypes.to_complex(dtypes.get_default_dtype())
    if hasattr(value, "__index__"):
        return dtypes.int64
    raise ArgumentTypeError(
        f"result_type: operands must be tensors or numbers; got {type(value).__name__}."
    )


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    """The result where `higher` comes from operands of greater rank: only a category can win."""
    if higher is None or lower is None:
        return higher or lower
    if higher.is_complex:
        return higher
    if higher.is_floating:
        return dtypes.to_complex(higher) if lower.is_complex else higher
    if lower.category > 1:
        return lower
    return promote(higher, lower) if higher.is_bool else higher


def result_type(*operands: Any) -> DType:
    """The type in which a call on `operands` computes: tensors (anything with dtype and shape) and
    Python numbers.

    Operands with dimensions decide; 0-d tensors, and after them numbers, matter only if their
    category (bool, integer, floating, complex) is greater.

    >>> result_type(1.5, 2)
    plait.float32
    """
    return result_type_of(
        (getattr(item, "dtype", None) or scalar_dtype(item), _rank(item)) for item in operands
    )


NUMBER = -1  # the rank of a Python number


def _rank(operand: Any) -> int:
    return len(operand.shape) if hasattr(operand, "shape") else NUMBER


def result_type_of(operands: Iterable[tuple[DType, int]]) -> DType:
    """`result_type` from (dtype, rank) pairs; rank NUMBER for Python numbers."""
    by_rank: list[DType | None] = [None, None, None]  # numbers, 0-d tensors, the others
    for dtype, rank in operands:
        place = 2 if rank > 0 else rank + 1
        known = by_rank[place]
        by_rank[place] = dtype if known is None else promote(known, dtype)
    result = _combine(by_rank[2], _combine(by_rank[1], by_rank[0]))
    if result is None:
        raise ArgumentTypeError("result_type: got no operands; expected at least one.")
    return result


def can_cast(source: DType, target: DType) -> bool:
    """Whether results of type `source` may be written into `target`: never to a lesser category.

    Integers may become any integers, but not bool; signed may become unsigned.
    """
    return source.category <= target.category
