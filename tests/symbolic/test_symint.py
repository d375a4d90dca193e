import copy
import math
import numbers
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.base.errors import InvalidArgument
from plait.symbolic.expr import BoolExpr, Expr, expr_of, symbol
from plait.symbolic.symint import SymInt, sym_max, sym_min, wrap_expr


class Env:
    """A shape environment that knows all values and writes down what it is asked."""

    def __init__(self, **values: int) -> None:
        self.values = values
        self.guards: list[str] = []
        self.pinned: list[str] = []

    def evaluate(self, condition: BoolExpr) -> bool:
        self.guards.append(str(condition))
        return condition.evaluate(self.values)

    def specialize(self, expression: Expr) -> int:
        self.pinned.append(str(expression))
        return expression.evaluate(self.values)

    def hint(self, expression: Expr) -> int:
        return expression.evaluate(self.values)

    def size(self, name: str, lower: int | None = None) -> SymInt:
        return SymInt(symbol(name, lower), self)


def plain(value):
    """The int behind a result, found without asking the environment."""
    if isinstance(value, SymInt):
        return value.env.hint(value.expr)
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, divmod]
COMPARE = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
PINNING = [operator.truediv, operator.and_, operator.or_, operator.xor]
UNARY = [operator.neg, operator.pos, abs, operator.invert, bool, int, float, complex, round]
UNARY += [math.trunc, math.floor, math.ceil, operator.index]
SMALL = st.integers(-40, 40)


def outcome(function, *args):
    try:
        return plain(function(*args))
    except ZeroDivisionError:
        return ZeroDivisionError


@settings(max_examples=300)
@given(st.sampled_from(ARITHMETIC + COMPARE + PINNING), SMALL, SMALL)
def test_binary_operators_are_those_of_int(function, a, b):
    env = Env(a=a, b=b)
    x, y = env.size("a"), env.size("b")
    expected = outcome(function, a, b)
    for left, right in ((x, y), (x, b), (a, y)):
        got = outcome(function, left, right)
        assert got == expected and type(got) is type(expected)
    assert outcome(function, x, np.int64(b)) == expected


@given(st.sampled_from(UNARY), SMALL)
def test_unary_operators_are_those_of_int(function, a):
    got = plain(function(Env(a=a).size("a")))
    assert got == function(a) and type(got) is type(function(a))


@given(SMALL, st.integers(0, 6))
def test_shifts_and_powers(a, b):
    env = Env(a=a, b=b)
    x, y = env.size("a"), env.size("b")
    assert plain(x << b) == a << b and plain(x >> b) == a >> b and plain(x**b) == a**b
    assert plain(x << y) == a << b and plain(a >> y) == a >> b and plain(a << y) == a << b
    assert a**y == a**b and pow(x, b, 7) == pow(a, b, 7)
    if a:
        assert x**-1 == a**-1
    assert x.bit_length() == a.bit_length() and round(x, -1) == round(a, -1)


def test_arithmetic_asks_nothing_and_constants_become_ints():
    env = Env(s=6, t=4)
    s, t = env.size("s", 2), env.size("t", 2)
    area = s * t + 2 * s - 1
    assert isinstance(area, SymInt) and str(area) == f"{area}" == repr(area) == "s*t + 2*s - 1"
    assert type(s - s) is int and (s * t) // t == s and type(s * 0) is int
    assert (s * t + s) % s == 0
    assert env.guards == env.pinned == []


def test_comparisons_guard_only_what_bounds_leave_open():
    env = Env(s=6)
    s = env.size("s", 2)
    assert s != 1 and s >= 2 and s + 1 > s and s and env.guards == []
    assert s == 6 and not s > 10 and s > 3
    assert env.guards == ["s == 6", "11 <= s", "4 <= s"]
    assert env.pinned == []


def test_what_needs_the_value_pins_it():
    env = Env(s=6)
    s = env.size("s", 2)
    assert list(range(s))[-1] == 5 and [0] * (s) == [0] * 6 and (1, 2, 3)[s - 4] == 3
    assert s / 4 == 1.5 and 3.0 / s == 0.5 and s * 0.5 == 3.0 and 0.5 + s == 6.5 and s < 6.5
    assert math.sqrt(s + 3) == 3.0 and np.zeros(s).shape == (6,)
    assert set(env.pinned) == {"s", "s - 4", "s + 3"} and env.guards == []


def test_division_by_a_size_guards_that_it_is_not_zero():
    env = Env(s=3, z=0)
    s, z = SymInt(symbol("s"), env), SymInt(symbol("z"), env)
    assert plain(10 // s) == 3 and plain(10 % s) == 1
    assert env.guards == ["s == 0", "s == 0"]
    with pytest.raises(ZeroDivisionError):
        s // z
    with pytest.raises(ZeroDivisionError):
        s % 0


def test_hash_and_identity():
    env = Env(s=6)
    s = env.size("s", 2)
    assert {s: "rows"}[env.size("s", 2)] == "rows" and env.guards == []
    assert hash(SymInt(expr_of(5), env)) == hash(5) and SymInt(expr_of(5), env) == 5


def test_it_is_an_integral_but_no_int():
    s = Env(s=6).size("s")
    assert copy.copy(s) is copy.deepcopy(s) is s
    assert isinstance(s, numbers.Integral) and not isinstance(s, int)
    assert s.real is s.numerator is s.conjugate() is s and s.imag == 0 and s.denominator == 1


def test_foreign_operands():
    env = Env(s=6)
    s = env.size("s")
    assert (s == "6") is False and (s != None) is True  # noqa: E711
    for function in (operator.add, operator.truediv, operator.lt, operator.and_, operator.lshift):
        with pytest.raises(TypeError):
            function(s, "6")
    assert str(s + symbol("t")) == "s + t" and str(symbol("t") + s) == "s + t"
    with pytest.raises(InvalidArgument, match="two traces"):
        s + Env(s=6).size("s")


def test_minimum_and_maximum_without_guard():
    env = Env(s=6, t=4)
    s, t = env.size("s", 2), env.size("t", 2)
    assert str(sym_min(s, t, 5)) == "min(s, t, 5)" and sym_max(1, 2) == 2 and sym_min(s, 1) == 1
    assert plain(sym_max(s, t)) == 6 and env.guards == []
    assert wrap_expr(expr_of(3), env) == 3 and type(wrap_expr(expr_of(3), env)) is int
