"""Lowering of softmax, normalisations and losses into maps and row reductions.

Written so that all reductions of one operator run over the same rows: scheduling then makes one
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.backends.llvm.loop.builder import DynamicIndex, binary, cast, literal, select, unary
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import (
    Context,
    Unsupported,
    broadcast,
    compute_dtype,
    lowers,
)
from plait.backends.llvm.lowering.indexing import out_of_range
from plait.backends.llvm.lowering.pointwise import add, div, exp, like, log, mul, sub
from plait.backends.llvm.lowering.reduction import (
    accumulated,
    element_count,
    finish,
    keep,
    number,
    reduce_stage,
    variance,
)
from plait.backends.llvm.lowering.stage import DEAR, Index, Reader, Stage, map_stage
from plait.backends.llvm.lowering.view import wrap

__all__: list[str] = []


def shifted_exp(cx: Context, x: Stage, dims: Sequence[int]) -> tuple[Stage, Stage, Stage]:
    """(max, exp(x - max), sum of it); max and sum keep their dimensions as 1."""
    top = keep(cx, reduce_stage(cx, "max", "max", x, dims), x, dims)
    e = cx.part("exp", lambda a, m: exp(sub(a, m)), [x, top], x.dtype, like=x, cost=DEAR)
    return top, e, keep(cx, reduce_stage(cx, "sum", "sum", e, dims), x, dims)


@lowers("aten::_softmax", "aten::softmax.int")
def softmax_rule(cx: Context, x: Stage, dim: Any, *rest: Any, **options: Any) -> Stage:
    """exp(x - max) * (1 / sum)."""
    dtype = compute_dtype(cx.dtype())
    if not x.shape:
        return cx.pointwise(lambda a: select(unary("isnan", a), a, like(a, 1)), [x], dtype)
    wide = accumulated(cx, x, dtype)
    _, e, total = shifted_exp(cx, wide, [wrap(dim, len(x.shape))])
    # One division a row instead of one an element.
    scale = cx.part("scale", lambda s: unary("recip", s), [total], dtype, like=total, cost=3)
    return cx.pointwise(mul, [e, scale], dtype)


@lowers("aten::_log_softmax", "aten::log_softmax.int")
def log_softmax_rule(cx: Context, x: Stage, dim: Any, *rest: Any, **options: Any) -> Stage:
    """x - max - log(sum(exp(x - max)))."""
    dtype = compute_dtype(cx.dtype())
    if not x.shape:
        return cx.pointwise(lambda a: sub(a, a), [x], dtype)
    wide = accumulated(cx, x, dtype)
    top, _, total = shifted_exp(cx, wide, [wrap(dim, len(x.shape))])
    logs = cx.part("log", log, [total], dtype, like=total, cost=DEAR)
    return cx.pointwise(lambda a, m, s: sub(sub(a, m), s), [wide, top, logs], dtype, cost=2)


@lowers("aten::_softmax_backward_data")
def softmax_backward_rule(cx: Context, g: Stage, y: Stage, dim: Any, *rest: Any) -> Stage:
    """y * (g - sum(g*y))."""
    dtype = compute_dtype(cx.dtype())
    if not y.shape:
        return cx.pointwise(lambda a, b: mul(b, sub(a, mul(a, b))), [g, y], dtype)
    dims = [wrap(dim, len(y.shape))]
    gy = cx.part("gy", mul, [g, y], dtype, like=y)
    total = keep(cx, reduce_stage(cx, "sum", "sum", gy, dims), y, dims)
    return cx.pointwise(lambda a, b, s: mul(b, sub(a, s)), [g, y, total], dtype, cost=2)


@lowers("aten::_log_softmax_backward_data")
def log_softmax_backward_rule(cx: Context, g: Stage, y: Stage, dim: Any, *rest: Any) -> Stage:
    """g - exp(y) * sum(g)."""
    dtype = compute_dtype(cx.dtype())
    if not y.shape:
        return cx.pointwise(lambda a, b: sub(a, mul(exp(b), a)), [g, y], dtype)
    dims = [wrap(dim, len(y.shape))]
    total = keep(cx, reduce_stage(cx, "sum", "sum", accumulated(cx, g, dtype), dims), y, dims)
    return cx.pointwise(lambda a, b, s: sub(a, mul(exp(b), s)), [g, y, total], dtype, cost=DEAR + 2)


# ---------------------------------------------------------------- layer norm


def inner_dims(x: Stage, normalized_shape: Sequence[Any]) -> list[int]:
    """The trailing dimensions that are normalised."""
    rank = len(x.shape)
    return list(range(rank - len(normalized_shape), rank))


@lowers("aten::native_layer_norm")
def native_layer_norm_rule(
    cx: Context, x: Stage, shape: Sequence[Any], weight: Any, bias: Any, eps: float
) -> tuple[Stage, Stage, Stage]:
    """(normalised, mean, 1/std)."""
    dtype = compute_dtype(cx.dtype())
    dims = inner_dims(x, shape)
    wide = accumulated(cx, x, dtype)
    out, mean, rstd = normalised(cx, wide, dims, (weight, bias), eps)
    return out, saved(cx, mean, x, dims, 1), saved(cx, rstd, x, dims, 2)


@lowers("aten::layer_norm")
def layer_norm_rule(
    cx: Context, x: Stage, shape: Sequence[Any], weight: Any = None, bias: Any = None,
    eps: float = 1e-5, *rest: Any,
) -> Stage:  # fmt: skip
    """The normalised values only."""
    wide = accumulated(cx, x, compute_dtype(cx.dtype()))
    return normalised(cx, wide, inner_dims(x, shape), (weight, bias), eps)[0]


def normalised(
    cx: Context, x: Stage, dims: Sequence[int], affine: tuple[Any, Any], eps: float
) -> tuple[Stage, Stage, Stage]:
    """((x - mean) * rstd * weight + bias, mean kept, rstd without the dimensions)."""
    spread, mean = variance(cx, "var", x, dims, 0)
    rstd = cx.part(
        "rstd", lambda v: unary("rsqrt", add(v, like(v, eps))), [spread], x.dtype, like=spread,
        cost=4,
    )  # fmt: skip
    weight, bias = affine
    present = [t for t in (weight, bias) if t is not None]

    def fn(a: Term, m: Term, r: Term, *rest: Term) -> Term:
        more = list(rest)
        y = mul(sub(a, m), r)
        if weight is not None:
            y = mul(y, more.pop(0))
        return y if bias is None else add(y, more.pop(0))

    kept = keep(cx, rstd, x, dims)
    return cx.pointwise(fn, [x, mean, kept, *present], x.dtype, cost=4), mean, rstd


def saved(cx: Context, stage: Stage, x: Stage, dims: Sequence[int], at: int) -> Stage:
    """A row statistic as result `at` (sizes of 1 kept)."""
    left = [d for d in range(len(x.shape)) if d not in dims]
    dtype = cx.dtype(at)

    def body(read: Reader, i: Index) -> Term:
        if len(stage.shape) == len(x.shape):
            return cast(read(stage, broadcast(i, stage.shape)), dtype)
        return cast(read(stage, tuple(i[d] for d in left)), dtype)

    return cx.result([stage], body, cost=0, at=at)


@lowers("aten::native_layer_norm_backward")
def native_layer_norm_backward_rule(
    cx: Context, g: Stage, x: Stage, shape: Sequence[Any], mean: Stage, rstd: Stage, weight: Any,
    bias: Any, mask: Sequence[bool],
) -> tuple[Stage, Stage, Stage]:  # fmt: skip
    """Gradients of x, weight and bias."""
    if not all(mask) or weight is None:
        raise Unsupported("layer norm backward without all gradients")
    dtype = compute_dtype(cx.dtype())
    dims = inner_dims(x, shape)
    outer = [d for d in range(len(x.shape)) if d not in dims]
    xhat = cx.part(
        "xhat", lambda a, m, r: mul(sub(a, m), r), [x, mean, rstd], dtype, like=x, cost=2
    )
    gw = cx.part("gw", mul, [g, weight], dtype, like=x)
    gwx = cx.part("gwx", mul, [gw, xhat], dtype, like=x)
    s1 = keep(cx, reduce_stage(cx, "s1", "sum", gw, dims), x, dims)
    s2 = keep(cx, reduce_stage(cx, "s2", "sum", gwx, dims), x, dims)
    count = element_count(x, dims)

    def fn(a: Term, h: Term, t1: Term, t2: Term, r: Term) -> Term:
        n = number(count, a.dtype)
        return mul(r, sub(a, div(add(t1, mul(h, t2)), n)))

    gx = cx.pointwise(fn, [gw, xhat, s1, s2, rstd], dtype, cost=6)
    g_xhat = cx.part("gxhat", mul, [g, xhat], dtype, like=x)
    g_weight = reduce_stage(cx, "gweight", "sum", g_xhat, outer)
    g_bias = reduce_stage(cx, "gbias", "sum", accumulated(cx, g, dtype), outer)
    return (
        gx,
        finish(cx, g_weight, x, outer, at=1, cost=0),
        finish(cx, g_bias, x, outer, at=2, cost=0),
    )


# ---------------------------------------------------------------- losses

NONE, MEAN, SUM = 0, 1, 2
_MODES = {"none": NONE, "mean": MEAN, "sum": SUM}


def mode_of(reduction: Any) -> int:
    """The number of a reduction mode."""
    return _MODES[reduction] if isinstance(reduction, str) else int(reduction)


@lowers("aten::mse_loss")
def mse_loss_rule(cx: Context, x: Stage, target: Stage, reduction: Any = MEAN) -> Stage:
    """Squared distance, reduced."""

    def squared(a: Term, t: Term) -> Term:
        distance = sub(a, t)
        return mul(distance, distance)

    mode, dtype = mode_of(reduction), compute_dtype(cx.dtype())
    if mode == NONE:
        return cx.pointwise(squared, [x, target], dtype, cost=2)
    wide = x if len(x.shape) >= len(target.shape) else target
    return totalled(cx, cx.part("sq", squared, [x, target], dtype, like=wide, cost=2), mode)


def totalled(cx: Context, x: Stage, mode: int) -> Stage:
    """Sum or mean over everything."""
    dims = tuple(range(len(x.shape)))
    total = reduce_stage(cx, "total", "sum", x, dims)
    count = element_count(x, dims)
    fn: Callable[[Term], Term] = lambda t: t if mode == SUM else div(t, number(count, t.dtype))
    return finish(cx, total, x, dims, fn=fn, cost=1)


@lowers("aten::nll_loss_forward")
def nll_loss_forward_rule(
    cx: Context, x: Stage, target: Stage, weight: Any, reduction: Any, ignore_index: Any
) -> tuple[Stage, Stage]:
    """(loss, total weight) of log-probabilities and class indices."""
    if len(x.shape) > 2:
        raise Unsupported("nll_loss of images")
    mode, dtype = mode_of(reduction), compute_dtype(cx.dtype())
    losses, weights = nll_rows(cx, x, target, weight, ignore_index, dtype)
    if mode == NONE and len(x.shape) == 2:
        empty = cx.result([], lambda read, i: literal(0, cx.dtype(1)), at=1, cost=0)
        return cx.pointwise(lambda a: a, [losses], dtype, cost=0), empty
    dims = tuple(range(len(target.shape)))
    loss = reduce_stage(cx, "loss", "sum", losses, dims)
    total = reduce_stage(cx, "weight", "sum", weights, dims)
    weight_sum = finish(cx, total, target, dims, at=1, cost=0)
    if mode != MEAN:
        return finish(cx, loss, target, dims, cost=0), weight_sum
    return cx.pointwise(div, [loss, total], dtype, cost=3), weight_sum


@lowers("aten::nll_loss_nd", "aten::nll_loss")
def nll_loss_rule(
    cx: Context, x: Stage, target: Stage, weight: Any = None, reduction: Any = MEAN,
    ignore_index: Any = -100,
) -> Stage:  # fmt: skip
    """The loss alone."""
    mode, dtype = mode_of(reduction), compute_dtype(cx.dtype())
    if len(x.shape) > 2:
        raise Unsupported("nll_loss of images")
    losses, weights = nll_rows(cx, x, target, weight, ignore_index, dtype)
    if mode == NONE:
        return cx.pointwise(lambda a: a, [losses], dtype, cost=0)
    dims = tuple(range(len(target.shape)))
    loss = reduce_stage(cx, "loss", "sum", losses, dims)
    if mode == SUM:
        return finish(cx, loss, target, dims, cost=0)
    total = reduce_stage(cx, "weight", "sum", weights, dims)
    return cx.pointwise(div, [loss, total], dtype, cost=3)


def nll_rows(
    cx: Context, x: Stage, target: Stage, weight: Any, ignore_index: Any, dtype: str
) -> tuple[Stage, Stage]:
    """(loss, weight) of every row; ignored rows count zero."""
    failure = out_of_range(cx)._replace(
        message=f"{cx.op}: argument 'target' is out of bounds (Target is out of bounds.)"
    )
    classes = x.shape[-1]

    def looked(read: Reader, i: Index) -> tuple[Term, DynamicIndex]:
        value = cast(read(target, i), "i64")
        counts = binary("ne", value, literal(ignore_index, "i64"))
        safe = select(counts, value, literal(0, "i64"))
        return counts, DynamicIndex(safe, classes, wraps=False, check=read.check(failure))

    def row_weight(read: Reader, i: Index) -> Term:
        counts, place = looked(read, i)
        one = literal(1, dtype) if weight is None else cast(read(weight, (place,)), dtype)
        return select(counts, one, literal(0, dtype))

    def row_loss(read: Reader, i: Index) -> Term:
        counts, place = looked(read, i)
        loss = unary("neg", cast(read(x, (*i, place)), dtype))
        if weight is not None:
            loss = mul(loss, cast(read(weight, (place,)), dtype))
        return select(counts, loss, literal(0, dtype))

    inputs = [target] if weight is None else [target, weight]
    rows = map_stage(cx.name("rows"), cx.op, target.shape, dtype, [x, *inputs], row_loss, cost=3)
    weights = map_stage(cx.name("weights"), cx.op, target.shape, dtype, inputs, row_weight, cost=2)
    return rows, weights


@lowers("aten::nll_loss_backward")
def nll_loss_backward_rule(
    cx: Context, g: Stage, x: Stage, target: Stage, weight: Any, reduction: Any, ignore_index: Any,
    total: Stage,
) -> Stage:  # fmt: skip
    """-g * weight at the target's class, else 0."""
    from plait.backends.llvm.loop.builder import index

    if len(x.shape) > 2:
        raise Unsupported("nll_loss of images")
    mode, dtype = mode_of(reduction), cx.dtype()

    def body(read: Reader, i: Index) -> Term:
        value = cast(read(target, i[:-1]), "i64")
        hit = binary("eq", value, index(i[-1]))
        hit = binary("and", hit, binary("ne", value, literal(ignore_index, "i64")))
        slope = unary("neg", read(g, i[:-1] if mode == NONE else ()))
        if mode == MEAN:
            slope = div(slope, read(total, ()))
        if weight is not None:
            slope = mul(slope, read(weight, (i[-1],)))
        return select(hit, slope, literal(0, dtype))

    inputs = [s for s in (g, target, weight, total) if s is not None]
    return cx.result(inputs, body, cost=4)
