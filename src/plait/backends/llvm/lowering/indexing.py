"""Lowering of reads and writes at computed indices.

Reads become gathers that check their index against the size and report the operator; writes that
may meet become adding stores, which run in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from plait.backends.llvm.loop.builder import DynamicIndex, binary, cast, literal, select
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import (
    Context,
    Unsupported,
    compute_dtype,
    lowers,
    scalar_term,
)
from plait.backends.llvm.lowering.stage import Index, Piece, Reader, Stage, map_stage
from plait.backends.llvm.lowering.view import copied, put, wrap
from plait.backends.llvm.plan import Check
from plait.symbolic.expr import Expr

__all__ = ["Looker", "out_of_range"]

Looker = Callable[[Reader, Index], DynamicIndex]


def out_of_range(cx: Context) -> Check:
    """The error of an index that is too large, or negative."""
    message = f"{cx.op}: argument 'index' is out of range (index out of range in self)"
    return Check(cx.node.op.qualname, message, cx.source)


def looker(cx: Context, indices: Stage, size: Expr, pick: Callable[[Index], Index]) -> Looker:
    """Reads `indices` at `pick(position)` as an index below `size`."""
    failure = out_of_range(cx)

    def look(read: Reader, position: Index) -> DynamicIndex:
        value = cast(read(indices, pick(position)), "i64")
        return DynamicIndex(value, size, wraps=False, check=read.check(failure))

    return look


@lowers("aten::index_select")
def index_select_rule(cx: Context, x: Stage, dim: Any, indices: Stage) -> Stage:
    """Slices of x at computed positions of one dimension."""
    if not x.shape:
        raise Unsupported("index_select of a 0-d tensor")
    d = wrap(dim, len(x.shape))
    look = looker(cx, indices, x.shape[d], lambda i: (i[d],) if indices.shape else ())
    return cx.result([x, indices], lambda read, i: read(x, put(i, d, look(read, i))), cost=2)


@lowers("aten::gather")
def gather_rule(
    cx: Context, x: Stage, dim: Any, indices: Stage, sparse_grad: bool = False
) -> Stage:
    """x with the index in one dimension read from `indices`."""
    if not x.shape or not indices.shape:
        raise Unsupported("gather of a 0-d tensor")
    d = wrap(dim, len(x.shape))
    look = looker(cx, indices, x.shape[d], lambda i: i)
    return cx.result([x, indices], lambda read, i: read(x, put(i, d, look(read, i))), cost=2)


@lowers("aten::embedding")
def embedding_rule(cx: Context, weight: Stage, indices: Stage, *rest: Any) -> Stage:
    """Rows of a table."""
    look = looker(cx, indices, weight.shape[0], lambda i: i[:-1])
    return cx.result(
        [weight, indices], lambda read, i: read(weight, (look(read, i), i[-1])), cost=2
    )


@lowers("aten::index.Tensor")
def index_rule(cx: Context, x: Stage, indices: Sequence[Stage | None]) -> Stage:
    """Advanced indexing by one integer tensor (negative indices count from the end)."""
    used = [(d, t) for d, t in enumerate(indices) if t is not None]
    if len(used) != 1 or used[0][1].dtype == "i1":
        raise Unsupported("indexing by several tensors or by a mask")
    d, picked = used[0]
    rank, failure, size = len(picked.shape), out_of_range(cx), x.shape[d]

    def body(read: Reader, i: Index) -> Term:
        value = cast(read(picked, i[d : d + rank]), "i64")
        place = DynamicIndex(value, size, wraps=True, check=read.check(failure))
        return read(x, (*i[:d], place, *i[d + rank :]))

    return cx.result([x, picked], body, cost=2)


# ---------------------------------------------------------------- writes


def scattered(
    cx: Context,
    base: Stage,
    source: Stage,
    place: Callable[[Reader, Index], Index],
    reads: Stage,
    kind: Literal["put", "add"] = "add",
) -> Stage:
    """`base` with the elements of `source` added (or put) at their places, in order.

    In the type of `source`: halves are added in f32, and rounded when all are.
    """
    is_wide = source.dtype != cx.dtype()
    name = cx.name("sums") if is_wide else cx.name()
    stage = Stage("assemble", name, cx.op, cx.shape(), source.dtype, strides=cx.strides())
    start = Piece(copied(cx, "start", base, stage.dtype), lambda read, i: i)
    stage.pieces = (start, Piece(source, place, kind, (reads,)))
    stage.inputs = (start.source, source, reads)
    return cx.pointwise(lambda total: total, [stage], source.dtype, cost=0) if is_wide else stage


@lowers("aten::scatter_add")
def scatter_add_rule(cx: Context, x: Stage, dim: Any, indices: Stage, source: Stage) -> Stage:
    """x[.., index, ..] += source, for every element of `indices`."""
    if not x.shape:
        raise Unsupported("scatter_add of a 0-d tensor")
    d = wrap(dim, len(x.shape))
    look = looker(cx, indices, x.shape[d], lambda i: i)
    wide = compute_dtype(x.dtype)
    values = map_stage(
        cx.name("values"), cx.op, indices.shape, wide, [source],
        lambda read, i: cast(read(source, i), wide),
    )  # fmt: skip
    return scattered(cx, x, values, lambda read, i: put(i, d, look(read, i)), indices)


@lowers("aten::scatter.src")
def scatter_rule(cx: Context, x: Stage, dim: Any, indices: Stage, source: Stage) -> Stage:
    """x[.., index, ..] = source, for every element of `indices`; the last one stays."""
    values = map_stage(
        cx.name("values"), cx.op, indices.shape, x.dtype, [source], lambda read, i: read(source, i)
    )
    return _replaced(cx, x, dim, indices, values)


@lowers("aten::scatter.value")
def scatter_value_rule(cx: Context, x: Stage, dim: Any, indices: Stage, value: Any) -> Stage:
    """x[.., index, ..] = value, for every element of `indices`."""
    term = scalar_term(value, x.dtype)
    values = map_stage(
        cx.name("values"), cx.op, indices.shape, x.dtype, [], lambda read, i: term, cost=0
    )
    return _replaced(cx, x, dim, indices, values)


def _replaced(cx: Context, x: Stage, dim: Any, indices: Stage, values: Stage) -> Stage:
    if not x.shape:
        raise Unsupported("scatter into a 0-d tensor")
    d = wrap(dim, len(x.shape))
    look = looker(cx, indices, x.shape[d], lambda i: i)
    return scattered(cx, x, values, lambda read, i: put(i, d, look(read, i)), indices, "put")


@lowers("aten::index_add")
def index_add_rule(
    cx: Context, x: Stage, dim: Any, indices: Stage, source: Stage, alpha: Any = 1
) -> Stage:
    """Slices of `source` added to x at computed positions of one dimension."""
    if not x.shape:
        raise Unsupported("index_add of a 0-d tensor")
    d = wrap(dim, len(x.shape))
    look = looker(cx, indices, x.shape[d], lambda i: (i[d],) if indices.shape else ())

    def body(read: Reader, i: Index) -> Term:
        value = cast(read(source, i if source.shape else ()), wide)
        times = "and" if wide == "i1" else "mul"
        return value if alpha == 1 else binary(times, value, scalar_term(alpha, wide))

    wide = compute_dtype(x.dtype)
    shape = source.shape or (x.shape[d] - x.shape[d] + 1,)
    values = map_stage(cx.name("values"), cx.op, shape, wide, [source], body)
    return scattered(cx, x, values, lambda read, i: put(i, d, look(read, i)), indices)


@lowers("aten::embedding_dense_backward")
def embedding_backward_rule(
    cx: Context, g: Stage, indices: Stage, rows: Any, padding_idx: Any = -1, scale: bool = False
) -> Stage:
    """The gradient of a table: rows of g added where they were read."""
    if scale:
        raise Unsupported("scale_grad_by_freq")
    look = looker(cx, indices, cx.shape()[0], lambda i: i[:-1])
    dtype = compute_dtype(cx.dtype())
    zeros = map_stage(
        cx.name("zeros"), cx.op, cx.shape(), dtype, [], lambda read, i: literal(0, dtype), cost=0
    )

    def body(read: Reader, i: Index) -> Term:
        skipped = binary("eq", cast(read(indices, i[:-1]), "i64"), scalar_term(padding_idx, "i64"))
        return select(skipped, literal(0, dtype), cast(read(g, i), dtype))

    keeps = padding_idx is None or padding_idx == -1
    values = map_stage(
        cx.name("values"), cx.op, g.shape, dtype, [g] if keeps else [g, indices],
        (lambda read, i: cast(read(g, i), dtype)) if keeps else body,
    )  # fmt: skip
    return scattered(cx, zeros, values, lambda read, i: (look(read, i), i[-1]), indices)
