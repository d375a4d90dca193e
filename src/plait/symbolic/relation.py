"""Conditions on integers: =, !=, <, <= between expressions, joined by and, or.

Owns `BoolExpr`. A condition that bounds decide is a Python bool and never a node. The others have
one form each: terms that are subtracted stand on the other side, common factors are divided out,
and integers turn a < b + 1 into a <= b, so that equal guards are one object. There is no node for
not: `not_` turns the condition round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from plait.base.errors import ArgumentTypeError
from plait.symbolic.bounds import is_negative, is_nonnegative
from plait.symbolic.codegen import source
from plait.symbolic.nodes import Const, Expr, Symbol, Terms, from_terms, remember

__all__ = [
    "And",
    "BoolExpr",
    "Condition",
    "Eq",
    "Le",
    "Lt",
    "Ne",
    "Or",
    "and_",
    "at_least_zero",
    "is_zero",
    "not_",
    "or_",
]

_interned: dict[tuple[str, tuple[Any, ...]], Any] = {}
_signs: dict[Expr, Condition] = {}
_zeros: dict[Expr, Condition] = {}


class BoolExpr:
    """A condition; immutable and interned. `args` are two Expr, or for And and Or two or more
    BoolExpr.
    """

    __slots__ = ("args",)

    op: ClassVar[str] = ""
    args: tuple[Any, ...]

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        """The symbols in it."""
        return frozenset().union(*(arg.free_symbols for arg in self.args))

    def evaluate(self, values: Mapping[str, int]) -> bool:
        """The truth under `values` (symbol name -> int); InvalidArgument if a symbol is missing."""
        return _MEANINGS[self.op](self.args, values)

    def substitute(self, replacements: Mapping[Expr, Expr | int]) -> Condition:
        """Replace symbols, all at once; a bool if that decides the condition."""
        return _REBUILD[self.op](*(arg.substitute(replacements) for arg in self.args))

    def __and__(self, other: Condition) -> Condition:
        return and_(self, other)

    def __or__(self, other: Condition) -> Condition:
        return or_(self, other)

    def __invert__(self) -> Condition:
        return not_(self)

    def __str__(self) -> str:
        return source(self)

    def __repr__(self) -> str:
        return str(self)

    def __bool__(self) -> bool:
        raise ArgumentTypeError(
            f"BoolExpr: the truth of '{self}' is not known. Ask a shape environment."
        )

    def __copy__(self) -> BoolExpr:
        return self

    def __deepcopy__(self, memo: object) -> BoolExpr:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (self.op, self.args)


Condition = BoolExpr | bool


class Eq(BoolExpr):
    """args[0] == args[1]"""

    __slots__ = ()
    op = "Eq"


class Ne(BoolExpr):
    """args[0] != args[1]"""

    __slots__ = ()
    op = "Ne"


class Lt(BoolExpr):
    """args[0] < args[1]"""

    __slots__ = ()
    op = "Lt"


class Le(BoolExpr):
    """args[0] <= args[1]"""

    __slots__ = ()
    op = "Le"


class And(BoolExpr):
    """All of args."""

    __slots__ = ()
    op = "And"


class Or(BoolExpr):
    """Any of args."""

    __slots__ = ()
    op = "Or"


def at_least_zero(e: Expr) -> Condition:
    """The condition e >= 0, from which < and <= are made."""
    known = _signs.get(e)
    return remember(_signs, e, _at_least_zero(e)) if known is None else known


def is_zero(e: Expr) -> Condition:
    """The condition e == 0, from which == and != are made."""
    known = _zeros.get(e)
    return remember(_zeros, e, _is_zero(e)) if known is None else known


def not_(condition: Condition) -> Condition:
    """The condition that holds exactly where this one does not."""
    if isinstance(condition, bool):
        return not condition
    a, b = condition.args[0], condition.args[1]
    if isinstance(condition, (Eq, Ne)):
        return _node(Ne if isinstance(condition, Eq) else Eq, (a, b))
    if isinstance(condition, (Lt, Le)):
        return at_least_zero(a - b if isinstance(condition, Lt) else a - b - 1)
    negated = [not_(part) for part in condition.args]
    return or_(*negated) if isinstance(condition, And) else and_(*negated)


def and_(*conditions: Condition) -> Condition:
    """True where all conditions are; True for none."""
    return _joined(And, conditions, neutral=True)


def or_(*conditions: Condition) -> Condition:
    """True where any condition is; False for none."""
    return _joined(Or, conditions, neutral=False)


def _joined(kind: type[BoolExpr], conditions: tuple[Condition, ...], *, neutral: bool) -> Condition:
    parts: dict[BoolExpr, None] = {}
    for condition in conditions:
        if isinstance(condition, bool):
            if condition is not neutral:
                return not neutral
        else:
            parts.update(dict.fromkeys(condition.args if type(condition) is kind else (condition,)))
    if any(not_(part) in parts for part in parts):
        return not neutral
    if not parts:
        return neutral
    return next(iter(parts)) if len(parts) == 1 else _node(kind, tuple(sorted(parts, key=str)))


def _node(kind: type[BoolExpr], args: tuple[Any, ...]) -> BoolExpr:
    key = (kind.op, args)
    node: BoolExpr | None = _interned.get(key)
    return _interned.setdefault(key, kind(args)) if node is None else node


def _at_least_zero(e: Expr) -> Condition:
    if is_nonnegative(e):
        return True
    if is_negative(e):
        return False
    g = _content(e)
    if g > 1:
        e = from_terms({m: c // g for m, c in e.terms.items() if c // g})
    positive, negative, constant = _sides(e)
    if constant >= 0:
        return _node(Le, (negative, positive + constant))
    if constant == -1 and not isinstance(negative, Const):
        return _node(Lt, (negative, positive))
    return _node(Le, (negative - constant, positive))


def _is_zero(e: Expr) -> Condition:
    if isinstance(e, Const):
        return e.value == 0
    g = _content(e)
    if e.terms.get((), 0) % g or is_nonnegative(e - 1) or is_negative(e):
        return False
    if next(iter(e.terms.values())) < 0:
        g = -g
    positive, negative, constant = _sides(from_terms({m: c // g for m, c in e.terms.items()}))
    if isinstance(positive, Const):
        positive, negative, constant = negative, positive, -constant
    return _node(Eq, (positive + max(constant, 0), negative + max(-constant, 0)))


def _content(e: Expr) -> int:
    """The greatest common divisor of all coefficients but the constant."""
    return math.gcd(*(c for m, c in e.terms.items() if m))


def _sides(e: Expr) -> tuple[Expr, Expr, int]:
    """(a, b, c) with e = a - b + c, where a and b have no negative coefficient and no constant."""
    positive: Terms = {m: c for m, c in e.terms.items() if m and c > 0}
    negative: Terms = {m: -c for m, c in e.terms.items() if m and c < 0}
    return from_terms(positive), from_terms(negative), e.terms.get((), 0)


_MEANINGS: dict[str, Callable[[tuple[Any, ...], Mapping[str, int]], bool]] = {
    "Eq": lambda args, values: args[0].evaluate(values) == args[1].evaluate(values),
    "Ne": lambda args, values: args[0].evaluate(values) != args[1].evaluate(values),
    "Lt": lambda args, values: args[0].evaluate(values) < args[1].evaluate(values),
    "Le": lambda args, values: args[0].evaluate(values) <= args[1].evaluate(values),
    "And": lambda args, values: all(arg.evaluate(values) for arg in args),
    "Or": lambda args, values: any(arg.evaluate(values) for arg in args),
}

_REBUILD: dict[str, Callable[..., Condition]] = {
    "Eq": lambda a, b: is_zero(a - b),
    "Ne": lambda a, b: not_(is_zero(a - b)),
    "Lt": lambda a, b: at_least_zero(b - a - 1),
    "Le": lambda a, b: at_least_zero(b - a),
    "And": and_,
    "Or": or_,
}


def _rebuild(op: str, args: tuple[Any, ...]) -> Condition:
    """What unpickling calls: the same condition, interned in this process."""
    return _REBUILD[op](*args)
