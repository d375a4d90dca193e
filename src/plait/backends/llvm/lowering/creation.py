"""Lowering of tensors made from nothing: constants and ramps, computed where they are read."""

from __future__ import annotations

from typing import Any

from plait.backends.llvm.loop.builder import binary, cast, index, literal, select
from plait.backends.llvm.loop.indexing import dense_or_contiguous
from plait.backends.llvm.loop.terms import Term, is_float
from plait.backends.llvm.lowering.context import Context, Unsupported, lowers, scalar_term
from plait.backends.llvm.lowering.stage import Index, Reader, Stage
from plait.symbolic.expr import Expr

__all__: list[str] = []


def filled(cx: Context, value: Any) -> Stage:
    """Every element is `value`."""
    term = scalar_term(value, cx.dtype())
    return cx.result([], lambda read, i: term, cost=0)


@lowers(
    "aten::zeros", "aten::zeros_like", "aten::new_zeros", "aten::empty", "aten::empty_like",
    "aten::new_empty", "aten::zero",
)  # fmt: skip
def zeros_rule(cx: Context, *rest: Any, **options: Any) -> Stage:
    """Zero; memory that may hold anything is zero too."""
    return filled(cx, 0)


@lowers("aten::empty_strided", "aten::new_empty_strided")
def strided_rule(cx: Context, *rest: Any, **options: Any) -> Stage:
    """Zero, in memory without gaps."""
    if dense_or_contiguous(cx.shape(), cx.strides()) != cx.strides():
        raise Unsupported("memory with gaps or repeats")
    return filled(cx, 0)


@lowers("aten::ones", "aten::ones_like", "aten::new_ones")
def ones_rule(cx: Context, *rest: Any, **options: Any) -> Stage:
    """One."""
    return filled(cx, 1)


@lowers("aten::full", "aten::full_like", "aten::fill.Scalar")
def full_rule(cx: Context, like: Any, value: Any, **options: Any) -> Stage:
    """A number."""
    return filled(cx, value)


@lowers("aten::new_full")
def new_full_rule(cx: Context, x: Any, size: Any, value: Any, **options: Any) -> Stage:
    """A number."""
    return filled(cx, value)


@lowers("aten::fill.Tensor")
def fill_tensor_rule(cx: Context, x: Stage, value: Stage) -> Stage:
    """A 0-d tensor, everywhere."""
    return cx.pointwise(lambda a: a, [value], value.dtype, cost=0)


@lowers("aten::scalar_tensor")
def scalar_tensor_rule(cx: Context, value: Any, **options: Any) -> Stage:
    """A number as a 0-d tensor."""
    return filled(cx, value)


@lowers("aten::arange", "aten::arange.start", "aten::arange.start_step")
def arange_rule(cx: Context, *bounds: Any, **options: Any) -> Stage:
    """start + step*i."""
    start, step = (0, 1) if len(bounds) == 1 else (bounds[0], bounds[2] if len(bounds) > 2 else 1)
    dtype = cx.dtype()
    if dtype == "i64":
        start, step = (int(b) if isinstance(b, float) else b for b in (start, step))
    if not is_float(dtype) and isinstance(start, int | Expr) and isinstance(step, int | Expr):
        return cx.result([], lambda read, i: cast(index(i[0] * step + start), dtype), cost=0)

    def body(read: Reader, i: Index) -> Term:
        ramp = binary("mul", cast(index(i[0]), "f64"), scalar_term(step, "f64"))
        return cast(binary("add", scalar_term(start, "f64"), ramp), dtype)

    return cx.result([], body, cost=2)


@lowers("aten::eye", "aten::eye.m")
def eye_rule(cx: Context, *rest: Any, **options: Any) -> Stage:
    """One where both indices agree."""
    dtype = cx.dtype()

    def body(read: Reader, i: Index) -> Term:
        same = binary("eq", index(i[0]), index(i[1]))
        return select(same, literal(1, dtype), literal(0, dtype))

    return cx.result([], body)


def _triangle(comparison: str) -> Any:
    def rule(cx: Context, x: Stage, diagonal: Any = 0) -> Stage:
        if isinstance(diagonal, float):
            raise Unsupported("a fractional diagonal")

        def body(read: Reader, i: Index) -> Term:
            inside = binary(comparison, index(i[-1] - i[-2]), scalar_term(diagonal, "i64"))
            return select(inside, read(x, i), literal(0, x.dtype))

        return cx.result([x], body)

    return rule


lowers("aten::tril")(_triangle("le"))
lowers("aten::triu")(_triangle("ge"))
