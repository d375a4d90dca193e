"""Lowering of matrix products to batched gemm stages; vectors and integers to sums of products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.backends.llvm.loop.builder import cast, literal
from plait.backends.llvm.loop.indexing import reindex
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import (
    Context,
    broadcast,
    compute_dtype,
    lowers,
    scalar_term,
)
from plait.backends.llvm.lowering.pointwise import add, mul
from plait.backends.llvm.lowering.reduction import plain, reduce_stage
from plait.backends.llvm.lowering.stage import Index, Reader, Stage, map_stage, rebased, root_of
from plait.symbolic.expr import Expr, as_int, product

__all__ = ["gemm"]


def gemm(cx: Context, part: str, a: Stage, b: Stage) -> Stage:
    """a [..., m, k] @ b [..., k, n], batch dimensions equal."""
    batch, (m, k), n = a.shape[:-2], a.shape[-2:], b.shape[-1]
    dtype = cx.dtype()
    if as_int(k) == 0:
        zero = literal(0, dtype)
        return map_stage(cx.name(part), cx.op, (*batch, m, n), dtype, [], lambda read, i: zero)
    wide = compute_dtype(dtype)
    if wide not in ("f32", "f64"):
        return summed_products(cx, part, a, b)
    operands = [widened(cx, f"{part}_{k}", x, wide) for k, x in enumerate((a, b))]
    return Stage("gemm", cx.name(part), cx.op, (*batch, m, n), wide, operands)


def widened(cx: Context, part: str, x: Stage, dtype: str) -> Stage:
    """`x` as `dtype`: converted in the order in which it lies in memory, then viewed as before."""
    if x.dtype == dtype:
        return x
    root = root_of(x)
    if x is root or root.numel is not x.numel:
        return cx.part(part, lambda a: a, [x], dtype, like=x, cost=0)
    converted = cx.part(part, lambda a: a, [root], dtype, like=root, cost=0)
    return rebased(x, root, converted)


def summed_products(cx: Context, part: str, a: Stage, b: Stage) -> Stage:
    """The product as a reduction, for element types that BLAS lacks."""
    shape = (*a.shape[:-2], a.shape[-2], b.shape[-1], a.shape[-1])
    wide = compute_dtype(cx.dtype())

    def body(read: Reader, i: Index) -> Term:
        left = read(a, (*i[:-3], i[-3], i[-1]))
        right = read(b, (*i[:-3], i[-1], i[-2]))
        return mul(cast(left, wide), cast(right, wide))

    products = map_stage(cx.name(f"{part}_products"), cx.op, shape, wide, [a, b], body)
    return plain(cx, cx.name(part), "sum", products, [len(shape) - 1])


def renamed(cx: Context, x: Stage) -> Stage:
    """A stage as the node's result, of the result's type."""
    if x.kind == "gemm" and x.shape == cx.shape() and x.dtype == cx.dtype():
        x.name = cx.name()
        return x
    return cx.pointwise(lambda t: t, [x], x.dtype, cost=0)


@lowers("aten::mm", "aten::bmm")
def mm_rule(cx: Context, a: Stage, b: Stage) -> Stage:
    """A product, maybe batched."""
    return renamed(cx, gemm(cx, "product", a, b))


def combined(cx: Context, x: Stage, product_: Stage, beta: Any, alpha: Any) -> Stage:
    """beta*x + alpha*product."""
    dtype = compute_dtype(cx.dtype())
    if alpha == 0:  # a product that does not count may be NaN
        if beta == 0:
            return cx.result([], lambda read, i: literal(0, cx.dtype()), cost=0)
        return cx.pointwise(lambda c: mul(c, scalar_term(beta, dtype)), [x], dtype)

    def fn(p: Term, c: Term) -> Term:
        scaled = p if alpha == 1 else mul(p, scalar_term(alpha, dtype))
        if beta == 0:
            return scaled
        return add(scaled, c if beta == 1 else mul(c, scalar_term(beta, dtype)))

    return cx.pointwise(fn, [product_, x], dtype)


@lowers("aten::addmm", "aten::baddbmm")
def addmm_rule(cx: Context, x: Stage, a: Stage, b: Stage, beta: Any = 1, alpha: Any = 1) -> Stage:
    """beta*x + alpha*(a @ b)."""
    return combined(cx, x, gemm(cx, "product", a, b), beta, alpha)


def dotted(cx: Context, a: Stage, b: Stage, shape: Sequence[Expr]) -> Stage:
    """sum over the last dimension of a*b, both broadcast to `shape`."""
    wide = compute_dtype(cx.dtype())

    def body(read: Reader, i: Index) -> Term:
        left, right = read(a, broadcast(i, a.shape)), read(b, broadcast(i, b.shape))
        return mul(cast(left, wide), cast(right, wide))

    strides = a.strides if a.shape == tuple(shape) else None
    products = map_stage(cx.name("products"), cx.op, shape, wide, [a, b], body, strides=strides)
    return reduce_stage(cx, "sum", "sum", products, [len(shape) - 1])


@lowers("aten::dot", "aten::vdot", "aten::mv")
def dot_rule(cx: Context, a: Stage, b: Stage) -> Stage:
    """A product with a vector."""
    return renamed(cx, dotted(cx, a, b, a.shape))


@lowers("aten::matmul")
def matmul_rule(cx: Context, a: Stage, b: Stage) -> Stage:
    """Product of vectors, matrices and batches of them."""
    if len(b.shape) == 1:
        return renamed(cx, dotted(cx, a, b, a.shape))
    if len(a.shape) == 1:
        turned = (*b.shape[:-2], b.shape[-1], b.shape[-2])
        rows = cx.reindexed(b, turned, lambda i: (*i[:-2], i[-1], i[-2]))
        return renamed(cx, dotted(cx, rows, a, turned))
    return renamed(cx, matrices(cx, a, b))


def matrices(cx: Context, a: Stage, b: Stage) -> Stage:
    """A product of two operands with at least two dimensions."""
    if len(b.shape) == 2:
        return flat_rows(cx, a, b)
    batch = cx.shape()[:-2]
    left, right = (
        cx.reindexed(x, (*batch, *x.shape[-2:]), _broadcaster(x, len(batch))) for x in (a, b)
    )
    return gemm(cx, "product", left, right)


def _broadcaster(x: Stage, batch: int) -> Any:
    return lambda i: (*broadcast(i[:batch], x.shape[:-2]), *i[-2:])


def flat_rows(cx: Context, a: Stage, b: Stage) -> Stage:
    """a [..., k] @ b [k, n] as one product of prod(...) rows."""
    lead = a.shape[:-1]
    if len(lead) == 1:
        return gemm(cx, "product", a, b)
    rows = product(lead)
    flat = cx.reindexed(
        a,
        (rows, a.shape[-1]),
        lambda i: (*reindex((i[0],), (rows,), lead), i[1]),
    )
    result = gemm(cx, "product", flat, b)
    shape = (*lead, b.shape[-1])
    return cx.reindexed(
        result,
        shape,
        lambda i: (*reindex(i[:-1], lead, (rows,)), i[-1]),
    )


@lowers("aten::linear")
def linear_rule(cx: Context, x: Stage, weight: Stage, bias: Stage | None = None) -> Stage:
    """x @ weight.T + bias."""
    if len(x.shape) == 1 or len(weight.shape) == 1:
        return _vector_linear(cx, x, weight, bias)
    turned = (weight.shape[1], weight.shape[0])
    result = flat_rows(cx, x, cx.reindexed(weight, turned, lambda i: (i[1], i[0])))
    return renamed(cx, result) if bias is None else combined(cx, bias, result, 1, 1)


def _vector_linear(cx: Context, x: Stage, weight: Stage, bias: Stage | None) -> Stage:
    wide, narrow = (weight, x) if len(x.shape) == 1 else (x, weight)
    result = dotted(cx, wide, narrow, wide.shape)
    return renamed(cx, result) if bias is None else combined(cx, bias, result, 1, 1)
