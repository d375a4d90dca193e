"""Lowering of reductions. Large reductions to few elements are done in two stages split by shape.

Chunks depend on sizes only, never on the number of threads, so results do not either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.backends.llvm.loop.builder import binary, cast, index, kept, literal, unary
from plait.backends.llvm.loop.indexing import dense_or_contiguous
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import (
    ONE,
    Context,
    Unsupported,
    compute_dtype,
    lowers,
)
from plait.backends.llvm.lowering.pointwise import nonzero
from plait.backends.llvm.lowering.stage import DEAR, Index, Reader, Stage, map_stage
from plait.backends.llvm.lowering.view import wrap
from plait.symbolic.expr import Expr, as_int, const, minimum, product

__all__ = ["keep", "reduce_dims", "reduce_stage"]

CHUNK = 8192  # elements that one point of a first stage reduces
LARGE = 32768  # reductions of fewer elements are done at once
ROWS = 64  # enough independent rows to feed vectors and threads


def reduce_dims(dim: Any, rank: int) -> tuple[int, ...]:
    """The dimensions that a `dim` argument means (None or empty: all)."""
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(rank))
    listed = dim if isinstance(dim, tuple | list) else [dim]
    return tuple(sorted(wrap(d, rank) for d in listed)) if rank else ()


def plain(cx: Context, name: str, kind: str, x: Stage, dims: Sequence[int]) -> Stage:
    """One reduction over `dims`, which leave the shape."""
    shape = [x.shape[d] for d in range(len(x.shape)) if d not in dims]
    dtype = "i64" if kind.startswith("arg") else x.dtype
    stage = Stage("reduce", name, cx.op, shape, dtype, [x])
    stage.reduction, stage.dims = kind, tuple(dims)
    return stage


def reduce_stage(cx: Context, part: str, kind: str, x: Stage, dims: Sequence[int]) -> Stage:
    """`x` reduced over `dims` (removed), in two stages where one would starve vectors, threads."""
    name = cx.name(part)
    dims = tuple(dims)
    if not dims:
        return x
    kept = as_int(product(s for d, s in enumerate(x.shape) if d not in dims))
    total = as_int(product(x.shape[d] for d in dims))
    small = total is not None and (total < LARGE or kind.startswith("arg"))
    enough = kept is None or kept >= 4 * ROWS
    if small or (enough and kept != 1):
        return plain(cx, name, kind, x, dims)
    return _staged(cx, part, kind, x, dims, kept)


def _staged(
    cx: Context, part: str, kind: str, x: Stage, dims: tuple[int, ...], kept: int | None
) -> Stage:
    """First stage over the innermost reduced dimensions, or over chunks of one; then the rest."""
    name = cx.name(part)
    order = [d for d in x.order if d in dims]
    outer: list[int] = []
    for d in order[:-1]:
        if (as_int(product(x.shape[o] for o in outer)) or 0) >= ROWS:
            break
        outer.append(d)
    inner = tuple(sorted(d for d in dims if d not in outer))
    rows = as_int(product(x.shape[d] for d in outer))
    if outer and (rows is None or rows >= ROWS) and (rows or ROWS) <= 4 * LARGE:
        return _twice(cx, f"{name}_rows", name, kind, x, dims, inner)
    split = order[0] if kept not in (None, 1) else order[-1]
    chunked, parts = _chunked(cx, x, split)
    first = tuple(d if d < split else d + 1 for d in dims)
    partial = plain(cx, f"{name}_chunks", kind, chunked, first)
    extent = x.shape[split]
    at = sum(1 for d in range(split) if d not in dims)
    length = _chunk(extent)
    partial.ragged = (split + 1, lambda i: minimum(length, extent - i[at] * length))
    assert parts is partial.shape[at]
    return plain(cx, name, kind, partial, (at,))


def _twice(
    cx: Context,
    first: str,
    name: str,
    kind: str,
    x: Stage,
    dims: tuple[int, ...],
    inner: tuple[int, ...],
) -> Stage:
    rows = plain(cx, first, kind, x, inner)
    left = [d for d in range(len(x.shape)) if d not in inner]
    return plain(cx, name, kind, rows, [left.index(d) for d in dims if d not in inner])


def _chunk(extent: Expr) -> Expr:
    """Length of a chunk of a dimension: CHUNK, or a 32nd of dimensions that are not large."""
    known = as_int(extent)
    return const(CHUNK if known is None or known >= 32 * CHUNK else max(known // 32, 1))


def _chunked(cx: Context, x: Stage, split: int) -> tuple[Stage, Expr]:
    """`x` with dimension `split` cut into (chunks, positions); the last chunk may be short."""
    extent = x.shape[split]
    length = _chunk(extent)
    parts = (extent + length - 1) // length
    shape = (*x.shape[:split], parts, length, *x.shape[split + 1 :])

    def remap(i: Index) -> Index:
        position = i[split] * length + i[split + 1]
        return (*i[:split], position, *i[split + 2 :])

    stage = cx.reindexed(x, shape, remap)
    stage.strides = _chunked_strides(x, split, length)
    return stage, parts


def _chunked_strides(x: Stage, split: int, length: Expr) -> tuple[Expr, ...]:
    step = x.strides[split]
    return (*x.strides[:split], step * length, step, *x.strides[split + 1 :])


def keep(cx: Context, reduced: Stage, x: Stage, dims: Sequence[int]) -> Stage:
    """A reduction with its dimensions back as sizes of 1."""
    shape = [ONE if d in dims else s for d, s in enumerate(x.shape)]
    left = [d for d in range(len(shape)) if d not in dims]
    return cx.reindexed(reduced, shape, lambda i: tuple(i[d] for d in left))


def finish(
    cx: Context,
    reduced: Stage,
    x: Stage,
    dims: Sequence[int],
    *,
    at: int = 0,
    fn: Callable[[Term], Term] = lambda t: t,
    cost: int = 1,
) -> Stage:
    """The node's result from a reduction: keepdim, a last function, the result's type."""
    shape, dtype = cx.shape(at), cx.dtype(at)
    left = [d for d in range(len(x.shape)) if d not in dims]
    kept = len(shape) == len(x.shape) and bool(dims)

    def body(read: Reader, i: Index) -> Term:
        place = tuple(i[d] for d in left) if kept else i
        return cast(fn(read(reduced, place)), dtype)

    return cx.result([reduced], body, cost=cost, at=at)


def accumulated(cx: Context, x: Stage, dtype: str) -> Stage:
    """`x` in the type in which it is summed."""
    wide = compute_dtype(dtype)
    return x if x.dtype == wide else cx.part("wide", lambda a: a, [x], wide, like=x, cost=0)


def rounded(cx: Context, x: Stage) -> Stage:
    """`x` in its compute type, rounded to its own: what picks an element must see equal ones."""
    wide = compute_dtype(x.dtype)
    if x.dtype == wide:
        return x
    strides = dense_or_contiguous(x.shape, x.strides)
    return map_stage(
        cx.name("wide"), cx.op, x.shape, wide, [x], lambda read, i: cast(kept(read(x, i)), wide),
        strides=strides, cost=0,
    )  # fmt: skip


@lowers("aten::sum", "aten::nansum")
def sum_rule(
    cx: Context, x: Stage, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Stage:
    """Sum over dimensions."""
    dims = reduce_dims(dim, len(x.shape))
    wide = accumulated(cx, x, cx.dtype())
    return finish(cx, reduce_stage(cx, "sum", "sum", wide, dims), x, dims, cost=0)


@lowers("aten::prod")
def prod_rule(
    cx: Context, x: Stage, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Stage:
    """Product over dimensions."""
    dims = reduce_dims(dim, len(x.shape))
    wide = accumulated(cx, x, cx.dtype())
    return finish(cx, reduce_stage(cx, "prod", "prod", wide, dims), x, dims, cost=0)


def element_count(x: Stage, dims: Sequence[int]) -> Expr:
    """How many elements a reduction joins."""
    return product(x.shape[d] for d in dims)


def number(count: Expr, dtype: str) -> Term:
    """A count as a value."""
    known = as_int(count)
    return literal(known, dtype) if known is not None else cast(index(count), dtype)


@lowers("aten::mean")
def mean_rule(
    cx: Context, x: Stage, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Stage:
    """Mean over dimensions."""
    dims = reduce_dims(dim, len(x.shape))
    wide = accumulated(cx, x, cx.dtype())
    total = reduce_stage(cx, "sum", "sum", wide, dims)
    count = element_count(x, dims)
    return finish(cx, total, x, dims, fn=lambda t: binary("div", t, number(count, t.dtype)), cost=2)


def _extreme(kind: str) -> Callable[..., Stage]:
    def rule(cx: Context, x: Stage, dim: Any = None, keepdim: bool = False) -> Stage:
        dims = reduce_dims(dim, len(x.shape))
        x = accumulated(cx, x, x.dtype)
        return finish(cx, reduce_stage(cx, kind, kind, x, dims), x, dims, cost=0)

    return rule


lowers("aten::amax", "aten::max")(_extreme("max"))
lowers("aten::amin", "aten::min")(_extreme("min"))


@lowers("aten::max.dim", "aten::min.dim")
def extreme_dim_rule(cx: Context, x: Stage, dim: Any, keepdim: bool = False) -> tuple[Stage, Stage]:
    """The extreme and its position along one dimension."""
    dims = reduce_dims(dim, len(x.shape))
    kind, x = cx.op, rounded(cx, x)
    value = finish(cx, plain(cx, cx.name("value"), kind, x, dims) if dims else x, x, dims, cost=0)
    if not dims:
        return value, zeros_like(cx, 1)
    where = plain(cx, cx.name("where"), f"arg{kind}", x, dims)
    return value, finish(cx, where, x, dims, at=1, cost=0)


def zeros_like(cx: Context, at: int) -> Stage:
    """Result `at`, all zero."""
    dtype = cx.dtype(at)
    return cx.result([], lambda read, i: literal(0, dtype), at=at, cost=0)


def _arg(kind: str) -> Callable[..., Stage]:
    def rule(cx: Context, x: Stage, dim: Any = None, keepdim: bool = False) -> Stage:
        if not x.shape:
            return zeros_like(cx, 0)
        x = rounded(cx, x)
        if dim is not None:
            dims = reduce_dims(dim, len(x.shape))
            return finish(cx, plain(cx, cx.name("where"), kind, x, dims), x, dims, cost=0)
        from plait.backends.llvm.lowering.view import regroup

        flat_shape = (product(x.shape),)
        flat = cx.reindexed(x, flat_shape, lambda i: regroup(i, flat_shape, x.shape))
        where = plain(cx, cx.name("where"), kind, flat, (0,))
        return cx.result([where], lambda read, i: read(where, ()), cost=0)

    return rule


lowers("aten::argmax")(_arg("argmax"))
lowers("aten::argmin")(_arg("argmin"))


def _truth(kind: str) -> Callable[..., Stage]:
    def rule(cx: Context, x: Stage, dim: Any = None, keepdim: bool = False) -> Stage:
        none = dim is not None and dim == () and cx.node.op.schema.overload == "dims"
        dims = () if none else reduce_dims(dim, len(x.shape))
        truth = x if x.dtype == "i1" else map_stage(
            cx.name("truth"), cx.op, x.shape, "i1", [x], lambda read, i: nonzero(read(x, i))
        )  # fmt: skip
        return finish(cx, reduce_stage(cx, kind, kind, truth, dims), x, dims, cost=0)

    return rule


lowers("aten::any")(_truth("any"))
lowers("aten::all")(_truth("all"))


SHORT_SCAN = 128


@lowers("aten::cumsum")
def cumsum_rule(cx: Context, x: Stage, dim: Any, dtype: Any = None) -> Stage:
    """Running sums along a short dimension: every element is a sum of its own."""
    if not x.shape:
        return cx.pointwise(lambda a: a, [x], cx.dtype(), cost=0)
    d = wrap(dim, len(x.shape))
    length = as_int(x.shape[d])
    if length is None or length > SHORT_SCAN:
        raise Unsupported(f"cumsum over {x.shape[d]} elements")
    wide = accumulated(cx, x, cx.dtype())
    shape = (*x.shape[: d + 1], *x.shape[d:])
    pairs = cx.reindexed(wide, shape, lambda i: (*i[:d], *i[d + 1 :]))
    total = plain(cx, cx.name("sum"), "sum", pairs, [d + 1])
    total.ragged = (d + 1, lambda i: i[d] + 1)
    return cx.pointwise(lambda a: a, [total], wide.dtype, cost=0)


# ---------------------------------------------------------------- composed reductions


def mean_of(cx: Context, part: str, x: Stage, dims: Sequence[int]) -> Stage:
    """The mean over `dims`, kept as sizes of 1, as a stage of its own."""
    total = reduce_stage(cx, f"{part}_sum", "sum", x, dims)
    count = element_count(x, dims)
    mean = cx.part(
        part, lambda t: binary("div", t, number(count, t.dtype)), [total], x.dtype, like=total
    )
    return keep(cx, mean, x, dims)


def variance(
    cx: Context, part: str, x: Stage, dims: Sequence[int], correction: float
) -> tuple[Stage, Stage]:
    """(variance with dims removed, mean kept): the mean first, then squared distances."""
    mean = mean_of(cx, f"{part}_mean", x, dims)

    def squared(a: Term, m: Term) -> Term:
        distance = binary("sub", a, m)
        return binary("mul", distance, distance)

    square = cx.part(f"{part}_sq", squared, [x, mean], x.dtype, like=x, cost=2)
    total = reduce_stage(cx, f"{part}_var", "sum", square, dims)
    count = element_count(x, dims)

    def divide(t: Term) -> Term:
        n = number(count, t.dtype)
        if correction:
            n = binary("max", binary("sub", n, literal(correction, t.dtype)), literal(0, t.dtype))
        return binary("div", t, n)

    return cx.part(part, divide, [total], x.dtype, like=total), mean


@lowers("aten::var.correction", "aten::std.correction")
def var_rule(
    cx: Context, x: Stage, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> Stage:
    """Variance, or its root."""
    dims = reduce_dims(dim, len(x.shape))
    wide = accumulated(cx, x, cx.dtype())
    spread, _ = variance(cx, "var", wide, dims, 1 if correction is None else correction)
    if cx.op == "std":
        return finish(cx, spread, x, dims, fn=lambda t: unary("sqrt", t), cost=4)
    return finish(cx, spread, x, dims, cost=0)


@lowers("aten::logsumexp")
def logsumexp_rule(cx: Context, x: Stage, dim: Any, keepdim: bool = False) -> Stage:
    """log(sum(exp(x))) without overflow."""
    dims = reduce_dims(dim, len(x.shape))
    wide = accumulated(cx, x, cx.dtype())
    top = reduce_stage(cx, "max", "max", wide, dims)
    inf = literal(float("inf"), wide.dtype)

    def bounded(t: Term) -> Term:
        from plait.backends.llvm.loop.builder import select

        return select(binary("eq", unary("abs", t), inf), literal(0.0, t.dtype), t)

    safe = cx.part("safe", bounded, [top], wide.dtype, like=top)
    shifted = cx.part(
        "exp",
        lambda a, m: unary("exp", binary("sub", a, m)),
        [wide, keep(cx, safe, wide, dims)],
        wide.dtype,
        like=wide,
        cost=DEAR,
    )
    total = reduce_stage(cx, "sum", "sum", shifted, dims)
    log = cx.part(
        "log", lambda t, m: binary("add", unary("log", t), m), [total, safe], wide.dtype,
        like=total, cost=DEAR,
    )  # fmt: skip
    return finish(cx, log, x, dims, cost=0)
