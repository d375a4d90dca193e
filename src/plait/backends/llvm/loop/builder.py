"""Building terms: one function per operation, with the simplifications that are always right.

Folding keeps IEEE meaning: x*1 and x+(-0.0) vanish, x*0 and x-x do not. Must not know graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from plait.backends.llvm.loop.terms import (
    COMPARISONS,
    Axis,
    GatherAttr,
    GatherDim,
    Term,
    is_float,
    is_half,
    make_term,
)
from plait.base.errors import InternalError, check
from plait.symbolic.expr import Expr, as_int, expr_of

__all__ = [
    "DynamicIndex",
    "binary",
    "cast",
    "gather",
    "index",
    "kept",
    "literal",
    "load",
    "logical_and",
    "philox",
    "reduce",
    "select",
    "unary",
]

Number = bool | int | float

_FOLDS: dict[str, Callable[[Number, Number], Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
}
_SMALL = frozenset(range(-128, 129))  # numbers that every floating type holds
_ON_BOOLS = {"add": "or", "mul": "and", "max": "or", "min": "and"}
_BITS = {"i8": 8, "u8": 8, "i16": 16, "u16": 16, "i32": 32, "u32": 32, "i64": 64, "u64": 64}


def literal(value: Number, dtype: str) -> Term:
    """A constant of `dtype`; the number is converted as PyTorch converts a scalar operand."""
    if dtype == "i1":
        return make_term("const", dtype, (), bool(value))
    if is_float(dtype):
        return make_term("const", dtype, (), float(value))
    if isinstance(value, float) and not math.isfinite(value):
        return make_term("const", dtype, (), -(1 << 63) if dtype == "i64" else 0)
    return make_term("const", dtype, (), _wrapped(int(value), dtype))


def _wrapped(value: int, dtype: str) -> int:
    """`value` modulo the width of the integer type."""
    bits = _BITS[dtype]
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype[0] == "i" and value >> (bits - 1) else value


def index(expr: Expr) -> Term:
    """An integer expression as a value (i64)."""
    known = as_int(expr)
    return make_term("index", "i64", (), expr) if known is None else literal(known, "i64")


def load(buffer: int, offset: Expr, dtype: str, mask: Term | None = None) -> Term:
    """Element `offset` of a buffer; zero and unread where `mask` is false."""
    if mask is not None and mask.op == "const":
        if not mask.attr:
            return literal(0, dtype)
        mask = None
    return make_term("load", dtype, () if mask is None else (mask,), (buffer, offset))


class DynamicIndex:
    """An index computed at run time: a term, the size it must stay below, and the failing check."""

    __slots__ = ("check", "size", "term", "wraps")

    def __init__(self, term: Term, size: Expr, *, wraps: bool, check: int | None) -> None:
        self.term = term
        self.size = size
        self.wraps = wraps
        self.check = check

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DynamicIndex) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (id(self.term), self.size, self.wraps, self.check)


def gather(
    buffer: int,
    base: Expr,
    indices: Sequence[tuple[DynamicIndex, Expr]],
    dtype: str,
    mask: Term | None = None,
) -> Term:
    """buffer[base + sum(index * stride)] for (index, stride) pairs."""
    dims = tuple(GatherDim(stride, i.size, i.wraps) for i, stride in indices)
    codes = {i.check for i, _ in indices} - {None}
    check(len(codes) <= 1, InternalError, lambda: "gather: its indices report different checks")
    args = tuple(i.term for i, _ in indices)
    if mask is not None and not (mask.op == "const" and mask.attr):
        args = (*args, mask)
    attr = GatherAttr(buffer, base, dims, codes.pop() if codes else None)
    return make_term("gather", dtype, args, attr)


def philox(seed: Term, call: Term, element: Expr) -> Term:
    """The random word (u32) of one element of a numbered random call."""
    return make_term("philox", "u32", (seed, call), element)


def reduce(kind: str, axis: Axis, body: Term) -> Term:
    """`body` reduced over `axis`; argmax and argmin give the first position (i64)."""
    dtype = "i64" if kind in ("argmax", "argmin") else body.dtype
    if kind in ("any", "all", "max", "min") and axis.name not in body.symbols:
        if (as_int(axis.extent) or 0) > 0:
            return body
    return make_term("reduce", dtype, (body,), (kind, axis))


def cast(value: Term, dtype: str) -> Term:
    """`value` converted to `dtype`; f32 rounded to half precision and read as f32 stays as it was.

    Use `kept` for a rounding that must happen.
    """
    if value.dtype == dtype:
        return value
    if value.op == "const":
        number = value.attr
        assert isinstance(number, bool | int | float)
        is_exact = value.dtype not in ("f16", "bf16", "f32") or number in _SMALL
        if is_exact and dtype != "f32" and not is_half(dtype):
            return literal(number, dtype)
    if is_half(value.dtype) and dtype == "f32":
        wide = _unrounded(value)
        if wide is not None:
            return wide
    return make_term("cast", dtype, (value,))


def _unrounded(value: Term) -> Term | None:
    """The f32 behind a half-precision term that was computed here, if any."""
    if value.op == "cast" and value.attr is None and value.args[0].dtype == "f32":
        return value.args[0]
    if value.op == "select":
        condition, *choices = value.args
        found = [_unrounded(choice) for choice in choices]
        if found != [None, None]:
            pairs = zip(found, choices)
            return select(condition, *(f if f is not None else cast(c, "f32") for f, c in pairs))
    return None


def kept(value: Term) -> Term:
    """`value` with its rounding to half precision, if it has one, made to happen."""
    if value.op == "select" and is_half(value.dtype):
        return select(value.args[0], kept(value.args[1]), kept(value.args[2]))
    if value.op == "cast" and is_half(value.dtype) and value.attr is None:
        return make_term("cast", value.dtype, value.args, "kept")
    return value


def unary(op: str, value: Term) -> Term:
    """A unary operation that keeps the dtype, or gives i1 (isnan, isinf, not on i1)."""
    if op == "not" and value.op == "not":
        return value.args[0]
    if op in ("isnan", "isinf"):
        return make_term(op, "i1", (value,)) if is_float(value.dtype) else literal(False, "i1")
    if op in ("floor", "ceil", "trunc", "round") and not is_float(value.dtype):
        return value
    return make_term(op, value.dtype, (value,))


def binary(op: str, left: Term, right: Term) -> Term:
    """A binary operation on operands of one dtype; comparisons give i1."""
    check(
        left.dtype == right.dtype,
        InternalError,
        lambda: f"{op}: operands have dtypes {left.dtype} and {right.dtype}; expected one dtype.",
    )
    if left.dtype == "i1":
        op = _ON_BOOLS.get(op, op)
    dtype = "i1" if op in COMPARISONS else left.dtype
    folded = _fold(op, left, right, dtype)
    return make_term(op, dtype, (left, right)) if folded is None else folded


def _fold(op: str, left: Term, right: Term, dtype: str) -> Term | None:
    if left.op == "const" and right.op == "const" and op in _FOLDS:
        exact = left.dtype in ("f64", "i64", "i1")
        if exact:
            return literal(_FOLDS[op](left.attr, right.attr), dtype)
    if op in ("mul", "div") and _is(right, 1) and op != "and":
        return left
    if op == "mul" and _is(left, 1):
        return right
    if op in ("and", "or") and dtype == "i1":
        for a, b in ((left, right), (right, left)):
            if a.op == "const":
                return b if bool(a.attr) == (op == "and") else a
    if not is_float(dtype):
        if op in ("add", "sub") and _is(right, 0):
            return left
        if op == "add" and _is(left, 0):
            return right
    return None


def _is(term: Term, number: int) -> bool:
    return term.op == "const" and term.attr == number and term.dtype != "i1"


def select(condition: Term, if_true: Term, if_false: Term) -> Term:
    """`if_true` where `condition` (i1) holds, else `if_false`."""
    if condition.op == "const":
        return if_true if condition.attr else if_false
    if if_true is if_false:
        return if_true
    check(
        if_true.dtype == if_false.dtype and condition.dtype == "i1",
        InternalError,
        lambda: f"select: got {condition.dtype}, {if_true.dtype}, {if_false.dtype}.",
    )
    return make_term("select", if_true.dtype, (condition, if_true, if_false))


def logical_and(left: Term | None, right: Term | None) -> Term | None:
    """Both masks hold; None stands for true."""
    if left is None or right is None:
        return right if left is None else left
    return binary("and", left, right)


def as_exprs(items: Sequence[object]) -> tuple[Expr, ...]:
    """Every size as an expression."""
    return tuple(expr_of(item) for item in items)
