"""Lowering of random numbers with explicit seed and call number: Philox words made on reading.

Draws use IEEE operations that are never contracted, so that they equal the eager ones bit for bit.
"""

from __future__ import annotations

from typing import Any

from plait.backends.llvm.loop.builder import (
    binary,
    cast,
    kept,
    literal,
    philox,
    select,
    unary,
)
from plait.backends.llvm.loop.terms import Term, make_term
from plait.backends.llvm.lowering.context import Context, lowers, scalar_term
from plait.backends.llvm.lowering.stage import Index, Reader, Stage
from plait.backends.llvm.lowering.view import linear_position
from plait.ops.normal_draw import normal_from_word

__all__: list[str] = []

COST = 24


@lowers("plait::philox_uniform")
def philox_uniform_rule(cx: Context, size: Any, seed: Any, call: Any, **options: Any) -> Stage:
    """Uniform in [0, 1): float32 (word >> 8) * 2**-24, float64 word * 2**-32."""
    dtype, shape = cx.dtype(), cx.shape()

    def body(read: Reader, i: Index) -> Term:
        word = philox(scalar_term(seed, "i64"), scalar_term(call, "i64"), linear_position(i, shape))
        if dtype == "f64":
            return binary("strict_mul", cast(word, "f64"), literal(2.0**-32, "f64"))
        high = cast(binary("shr", word, literal(8, "u32")), "f32")
        return kept(cast(binary("strict_mul", high, literal(2.0**-24, "f32")), dtype))

    return cx.result([], body, cost=COST)


class _Terms:
    """The arithmetic of loop terms, for formulas written once over an abstract arithmetic."""

    def op(self, name: str, *args: Term) -> Term:
        if name == "select":
            return select(*args)
        return unary(name, *args) if len(args) == 1 else binary(name, *args)

    def literal(self, value: float, dtype: str) -> Term:
        return literal(value, dtype)

    def cast(self, value: Term, dtype: str) -> Term:
        return cast(value, dtype)

    def bitcast(self, value: Term, dtype: str) -> Term:
        return make_term("bitcast", dtype, (value,))


@lowers("plait::philox_normal")
def philox_normal_rule(cx: Context, size: Any, seed: Any, call: Any, **options: Any) -> Stage:
    """Standard normal, by the formula that eager execution uses."""
    dtype, shape = cx.dtype(), cx.shape()

    def body(read: Reader, i: Index) -> Term:
        word = philox(scalar_term(seed, "i64"), scalar_term(call, "i64"), linear_position(i, shape))
        return kept(cast(normal_from_word(_Terms(), word, dtype), dtype))

    return cx.result([], body, cost=4 * COST)
