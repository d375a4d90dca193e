"""`SymInt`: a size while a function is traced. It computes like an int and remembers how.

Owns the int protocol over an expression; what a comparison or a conversion *means* for the trace
is decided by the environment, which is handed in. Must not know how guards are recorded.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any, Protocol

from plait.base.errors import InvalidArgument
from plait.symbolic.expr import (
    Const,
    Expr,
    const,
    eq,
    expr_of,
    le,
    lt,
    maximum,
    minimum,
    ne,
)
from plait.symbolic.relation import BoolExpr, Condition

__all__ = ["IntLike", "ShapeEnvLike", "SymInt", "sym_max", "sym_min", "wrap_expr"]


class ShapeEnvLike(Protocol):
    """What a SymInt asks of the trace it belongs to."""

    def evaluate(self, condition: BoolExpr) -> bool:
        """The truth of a condition in this trace; a guard is recorded."""
        ...

    def specialize(self, expression: Expr) -> int:
        """The value of an expression in this trace; a guard that pins it is recorded."""
        ...

    def hint(self, expression: Expr) -> int:
        """The value of an expression for the example inputs; no guard is recorded."""
        ...


class SymInt:
    """An integer not known while tracing; not a subclass of int, but a registered `Integral`.

    `+ - * // % ** abs divmod` with ints and other SymInts give a SymInt, or an int where the result
    is constant. Comparisons and `bool()` give a bool and may guard. Whatever needs the very value
    (`int()`, `range`, `/`, floats, bit operations) pins it, with a guard. Hashes as its expression
    does, so a SymInt finds itself in a dictionary, but not the int it happens to equal.
    """

    __slots__ = ("env", "expr")

    def __init__(self, expr: Expr, env: ShapeEnvLike) -> None:
        self.expr = expr
        self.env = env

    # Arithmetic -----------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return self if other == 0 else SymInt(self.expr + other, self.env)
        return self._with(other, operator.add)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if type(other) is int:
            return SymInt(self.expr * other, self.env) if other else 0
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        if type(other) is int:
            return self if other == 0 else SymInt(self.expr + -other, self.env)
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, operator.sub, reverse=True)

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv, reverse=True)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, operator.mod)

    def __rmod__(self, other: Any) -> Any:
        return self._with(other, operator.mod, reverse=True)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        if type(exponent) is int and exponent >= 0 and modulus is None:
            return wrap_expr(self.expr**exponent, self.env)
        return pow(int(self), exponent, modulus)

    def __rpow__(self, base: Any) -> Any:
        return base ** int(self)

    def __neg__(self) -> Any:
        return SymInt(-self.expr, self.env)

    def __pos__(self) -> SymInt:
        return self

    def __abs__(self) -> Any:
        return wrap_expr(maximum(self.expr, -self.expr), self.env)

    def _with(
        self, other: Any, function: Callable[[Any, Any], Any], *, reverse: bool = False
    ) -> Any:
        """`function` on the expressions; on the pinned value where `other` is no integer."""
        expression = self._expression_of(other)
        if expression is None:
            if isinstance(other, (float, complex)):
                value = int(self)
                return function(other, value) if reverse else function(value, other)
            return NotImplemented
        a, b = (expression, self.expr) if reverse else (self.expr, expression)
        if b.op == "Const" or function not in (operator.floordiv, operator.mod):
            return wrap_expr(function(a, b), self.env)
        if self._holds(eq(b, 0)):
            raise ZeroDivisionError("integer division or modulo by zero")
        return wrap_expr(function(a, b), self.env)

    def _expression_of(self, other: Any) -> Expr | None:
        if type(other) is int:
            return const(other)
        if type(other) is SymInt:
            if other.env is not self.env:
                raise InvalidArgument(
                    f"SymInt: sizes of two traces meet, '{self}' and '{other}'. "
                    "A size must not outlive its trace."
                )
            return other.expr
        return expr_of(other) if isinstance(other, (Expr, numbers.Integral)) else None

    # Comparison -----------------------------------------------------------------------------------

    def __eq__(self, other: object) -> Any:
        return self._compare(other, eq, operator.eq)

    def __ne__(self, other: object) -> Any:
        return self._compare(other, ne, operator.ne)

    def __lt__(self, other: Any) -> Any:
        return self._compare(other, lt, operator.lt)

    def __le__(self, other: Any) -> Any:
        return self._compare(other, le, operator.le)

    def __gt__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: lt(b, a), operator.gt)

    def __ge__(self, other: Any) -> Any:
        return self._compare(other, lambda a, b: le(b, a), operator.ge)

    def _compare(
        self,
        other: Any,
        relation: Callable[[Expr, Expr], Condition],
        plain: Callable[[Any, Any], Any],
    ) -> Any:
        expression = self._expression_of(other)
        if expression is not None:
            return self._holds(relation(self.expr, expression))
        return plain(int(self), other) if isinstance(other, float) else NotImplemented

    def _holds(self, condition: Condition) -> bool:
        return condition if isinstance(condition, bool) else self.env.evaluate(condition)

    def __bool__(self) -> bool:
        return self._holds(ne(self.expr, 0))

    def __hash__(self) -> int:
        return hash(self.expr.value if isinstance(self.expr, Const) else self.expr)

    # Where the very value is needed ---------------------------------------------------------------

    def __int__(self) -> int:
        if isinstance(self.expr, Const):
            return self.expr.value
        return self.env.specialize(self.expr)

    __index__ = __trunc__ = __floor__ = __ceil__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __complex__(self) -> complex:
        return complex(int(self))

    def __round__(self, digits: int | None = None) -> Any:
        return self if digits is None or digits >= 0 else round(int(self), digits)

    def __truediv__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else int(self) / _plain(other)

    def __rtruediv__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else _plain(other) / int(self)

    def __lshift__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else self * (1 << int(other))

    def __rlshift__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else other << int(self)

    def __rshift__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else self // (1 << int(other))

    def __rrshift__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else other >> int(self)

    def __and__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else int(self) & int(other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else int(self) | int(other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> Any:
        return NotImplemented if self._is_foreign(other) else int(self) ^ int(other)

    __rxor__ = __xor__

    def __invert__(self) -> Any:
        return -self - 1

    @staticmethod
    def _is_foreign(other: Any) -> bool:
        """Whether `other` is no number, and is to be asked itself."""
        return not isinstance(other, (int, float, complex, numbers.Integral))

    def bit_length(self) -> int:
        """As for int; pins the value."""
        return int(self).bit_length()

    @property
    def real(self) -> SymInt:
        """Itself."""
        return self

    @property
    def imag(self) -> int:
        """0."""
        return 0

    @property
    def numerator(self) -> SymInt:
        """Itself."""
        return self

    @property
    def denominator(self) -> int:
        """1."""
        return 1

    def conjugate(self) -> SymInt:
        """Itself."""
        return self

    def __str__(self) -> str:
        return str(self.expr)

    __repr__ = __str__

    def __copy__(self) -> SymInt:
        return self

    def __deepcopy__(self, memo: object) -> SymInt:
        return self

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


numbers.Integral.register(SymInt)

IntLike = int | Expr | SymInt


def wrap_expr(expr: Expr, env: ShapeEnvLike) -> int | SymInt:
    """The int of a constant expression, else a SymInt."""
    return expr.value if isinstance(expr, Const) else SymInt(expr, env)


def sym_min(*values: int | SymInt) -> int | SymInt:
    """The least value as an expression, without a guard; `min` compares, and so guards."""
    env = _environment(values)
    return min(map(int, values)) if env is None else wrap_expr(minimum(*map(expr_of, values)), env)


def sym_max(*values: int | SymInt) -> int | SymInt:
    """The greatest value as an expression, without a guard; `max` compares, and so guards."""
    env = _environment(values)
    return max(map(int, values)) if env is None else wrap_expr(maximum(*map(expr_of, values)), env)


def _environment(values: tuple[int | SymInt, ...]) -> ShapeEnvLike | None:
    return next((value.env for value in values if isinstance(value, SymInt)), None)


def _plain(other: Any) -> Any:
    return int(other) if isinstance(other, numbers.Integral) else other
