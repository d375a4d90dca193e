"""Reading formulas: what the subset holds, and errors that name the construct and its line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import FormulaError
from plait.library import pointwise_op
from plait.library.formula.parse import read_formula

SCALE = 3.0
TABLE = [1.0, 2.0]


def formula(fn: Callable[..., Any], *parameters: str) -> str:
    return str(read_formula(fn, list(parameters)).root)


def test_assignments_arithmetic_and_choices_become_one_expression() -> None:
    half = 0.5

    def f(x, y):  # type: ignore[no-untyped-def]
        """Ignored."""
        a = x * SCALE
        a += half
        b: float = -a if x < 0 <= y and not y > 9 else +a
        return max(a, b, y) ** 2 - math.pi / np.exp(b)

    found = formula(f, "x", "y")
    a = "((x * 3.0) + 0.5)"
    b = f"((-{a}) if (((x < 0) and (0 <= y)) and (not (y > 9))) else {a})"
    assert found == f"((max(max({a}, {b}), y) ** 2) - (3.141592653589793 / exp({b})))"


def test_numbers_of_the_source_are_computed_when_it_is_read() -> None:
    def f(x):  # type: ignore[no-untyped-def]
        return x * (2 * 3 - 1) + math.inf * 0.5 + 1 / 0

    assert formula(f, "x") == "(((x * 5) + inf) + inf)"


def loop(x):  # type: ignore[no-untyped-def]
    for _ in range(3):
        x = x * 2
    return x


def statement(x):  # type: ignore[no-untyped-def]
    if x > 0:
        return x
    return -x


def subscript(x):  # type: ignore[no-untyped-def]
    return x * TABLE[0]


def unknown_call(x):  # type: ignore[no-untyped-def]
    return x + plait.matmul(x, x)


def own_call(x):  # type: ignore[no-untyped-def]
    return loop(x)


def method(x):  # type: ignore[no-untyped-def]
    return x.exp()


def unknown_name(x):  # type: ignore[no-untyped-def]
    return x * print


def not_a_number(x):  # type: ignore[no-untyped-def]
    return x * TABLE


def modulo(x):  # type: ignore[no-untyped-def]
    return x % 2


def text(x):  # type: ignore[no-untyped-def]
    return x + "1"


def several(x):  # type: ignore[no-untyped-def]
    a, b = x, x
    return a + b


def no_return(x):  # type: ignore[no-untyped-def]
    y = x + 1  # noqa: F841


def keyword(x):  # type: ignore[no-untyped-def]
    return plait.clamp(x, min=0)


def count(x):  # type: ignore[no-untyped-def]
    return math.exp(x, x)  # type: ignore[call-arg]


def identity(x):  # type: ignore[no-untyped-def]
    return x if x is not None else 0


@pytest.mark.parametrize(
    ("fn", "line", "construct"),
    [
        (loop, 1, "a `for` loop"),
        (statement, 1, "an `if` statement"),
        (subscript, 1, "a subscript"),
        (unknown_call, 1, "calls 'matmul'"),
        (own_call, 1, "calls 'loop'"),
        (method, 1, "the attribute 'exp'"),
        (unknown_name, 1, "reads 'print', which is neither"),
        (not_a_number, 1, "reads 'TABLE' from outside, a list"),
        (modulo, 1, "the operator Mod"),
        (text, 1, "uses a str"),
        (several, 1, "assigns to a tuple"),
        (no_return, 1, "ends with something else"),
        (keyword, 1, "with keywords"),
        (count, 1, "with 2 arguments; expected 1"),
        (identity, 1, "compares with IsNot"),
    ],
)
def test_what_formulas_do_not_have_is_named_with_its_line(
    fn: Any, line: int, construct: str
) -> None:
    with pytest.raises(FormulaError) as caught:
        pointwise_op("tests::bad", fn)
    assert construct in str(caught.value)
    assert str(caught.value).startswith(f"{__file__}:{fn.__code__.co_firstlineno + line}: ")
    with pytest.raises(ValueError, match="formula"):
        pointwise_op("tests::bad", fn)


def test_only_functions_with_a_source_are_read() -> None:
    scope: dict[str, Any] = {}
    exec("def f(x):\n    return x + 1\n", scope)
    with pytest.raises(FormulaError, match=r"the source of f cannot be read.*in a file"):
        pointwise_op("tests::bad", scope["f"])
    with pytest.raises(FormulaError, match="expected a function written with `def`"):
        pointwise_op("tests::bad", lambda x: x)
    with pytest.raises(FormulaError, match="expected a function written with `def`"):
        pointwise_op("tests::bad", math.exp)


def test_parameters_are_tensors_then_numbers() -> None:
    def unused(x, y):  # type: ignore[no-untyped-def]
        return x + 1

    def positional_number(x, scale: float):  # type: ignore[no-untyped-def]
        return x * scale

    def untyped_number(x, *, scale):  # type: ignore[no-untyped-def]
        return x * scale

    with pytest.raises(FormulaError, match="does not use its parameter 'y'"):
        pointwise_op("tests::bad", unused)
    with pytest.raises(FormulaError, match=r"'scale' of positional_number.*after `\*`"):
        pointwise_op("tests::bad", positional_number)
    with pytest.raises(FormulaError, match="'scale' of untyped_number"):
        pointwise_op("tests::bad", untyped_number)
