"""The front door of integer expressions: how to make them, compare them and ask for their value.

Owns the functions below and the wiring of the rules; the nodes are in `nodes`, the rules in
`divide` and `extrema`, conditions in `relation`. `//` and `%` are Python's: rounded down, remainder
with the divisor's sign.

    >>> i, s = symbol("i", 0, 8), symbol("s", 2)
    >>> j = symbol("j", 0, s)                       # an axis: 0 <= j < s
    >>> (i*s + j) // s, (i*s + j) % s, (2*i + 2*j)*3, lt(j, s), lt(s, 5)
    (i, j, 6*i + 6*j, True, s <= 4)
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import ArgumentTypeError
from plait.symbolic import divide, extrema, nodes
from plait.symbolic.bounds import bounds
from plait.symbolic.nodes import (
    Add,
    Const,
    Expr,
    FloorDiv,
    Max,
    Min,
    Mod,
    Mul,
    Symbol,
    as_int,
    const,
    symbol,
)
from plait.symbolic.relation import (
    And,
    BoolExpr,
    Condition,
    Eq,
    Le,
    Lt,
    Ne,
    Or,
    and_,
    at_least_zero,
    is_zero,
    not_,
    or_,
)

__all__ = [
    "Add",
    "And",
    "BoolExpr",
    "Condition",
    "Const",
    "Eq",
    "Expr",
    "FloorDiv",
    "Le",
    "Lt",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Ne",
    "Or",
    "Symbol",
    "and_",
    "as_int",
    "bounds",
    "const",
    "eq",
    "expr_of",
    "ge",
    "gt",
    "le",
    "lt",
    "maximum",
    "minimum",
    "ne",
    "not_",
    "or_",
    "product",
    "symbol",
]

nodes.install(
    floordiv=divide.floordiv,
    mod=divide.mod,
    recombine=divide.recombine,
    rebuild={
        "FloorDiv": lambda a, b: a // b,
        "Mod": lambda a, b: a % b,
        "Min": extrema.minimum_of,
        "Max": extrema.maximum_of,
    },
)


def expr_of(value: Any) -> Expr:
    """The expression of an int, an Expr or a SymInt; ArgumentTypeError for anything else."""
    if isinstance(value, Expr):
        return value
    held = getattr(value, "expr", None)
    if isinstance(held, Expr):
        return held
    try:
        return const(value)
    except TypeError:
        raise ArgumentTypeError(
            f"expr_of: argument 'value' is a {type(value).__name__}; expected int, Expr or SymInt."
        ) from None


def minimum(*values: Expr | int) -> Expr:
    """The least of one or more values."""
    return extrema.minimum_of(*map(expr_of, values))


def maximum(*values: Expr | int) -> Expr:
    """The greatest of one or more values."""
    return extrema.maximum_of(*map(expr_of, values))


def product(values: Any) -> Expr:
    """The product of the values of an iterable: the number of elements of a shape."""
    result: Expr = nodes.ONE
    for value in values:
        result = result * expr_of(value)
    return result


def eq(a: Expr | int, b: Expr | int) -> Condition:
    """a == b; a bool where that is decided."""
    return is_zero(expr_of(a) - b)


def ne(a: Expr | int, b: Expr | int) -> Condition:
    """a != b; a bool where that is decided."""
    return not_(eq(a, b))


def lt(a: Expr | int, b: Expr | int) -> Condition:
    """a < b; a bool where that is decided."""
    return at_least_zero(expr_of(b) - a - 1)


def le(a: Expr | int, b: Expr | int) -> Condition:
    """a <= b; a bool where that is decided."""
    return at_least_zero(expr_of(b) - a)


def gt(a: Expr | int, b: Expr | int) -> Condition:
    """a > b; a bool where that is decided."""
    return lt(b, a)


def ge(a: Expr | int, b: Expr | int) -> Condition:
    """a >= b; a bool where that is decided."""
    return le(b, a)
