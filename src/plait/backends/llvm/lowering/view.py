"""Lowering of views (index arithmetic), and of operators that put tensors together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.backends.llvm.loop.builder import DynamicIndex, binary, index, select
from plait.backends.llvm.loop.indexing import contiguous, dot, flatten, reindex
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import (
    ONE,
    ZERO,
    Context,
    Unsupported,
    broadcast,
    known_int,
    lowers,
    sizes,
)
from plait.backends.llvm.lowering.stage import (
    Index,
    NotIndexable,
    Piece,
    Reader,
    Stage,
    map_stage,
    view_stage,
)
from plait.symbolic.expr import Expr, as_int, expr_of, ge, lt, maximum, minimum, product

__all__: list[str] = []

Remap = Callable[[Index], Index]


def view(cx: Context, x: Stage, remap: Remap, at: int = 0) -> Stage:
    """Result `at` of the node as a view of `x`; an index that cannot be mapped asks for memory."""

    def guarded(position: Index) -> Index:
        try:
            return remap(position)
        except (TypeError, AttributeError, StopIteration, ValueError) as error:
            if any(isinstance(i, DynamicIndex) for i in position):
                raise NotIndexable(stage) from error
            raise

    stage = view_stage(cx.name(result=at), cx.op, cx.shape(at), x, guarded, strides=cx.strides(at))
    return stage


def wrap(dim: Any, rank: int) -> int:
    """A dimension counted from the front."""
    number = known_int(dim, "a dimension")
    return number + max(rank, 1) if number < 0 else number


def put(position: Index, dim: int, *new: Expr | DynamicIndex) -> Index:
    """`position` with the entry at `dim` replaced."""
    return (*position[:dim], *new, *position[dim + 1 :])


def regroup(position: Index, source: Sequence[Expr], target: Sequence[Expr]) -> Index:
    """A reshape of indices; a computed index passes where its dimension is not regrouped."""
    if tuple(source) == tuple(target):
        return position
    dynamic = [d for d, i in enumerate(position) if isinstance(i, DynamicIndex)]
    if not dynamic:
        return reindex(position, source, target)
    (dim,) = dynamic
    lead = [s for s in source[:dim] if s is not ONE]
    place = next(
        d
        for d in range(len(target))
        if target[d] is source[dim] and product(target[:d]) is product(lead)
    )
    fixed = [ZERO if d == dim else i for d, i in enumerate(position)]
    return put(reindex(fixed, source, target), place, position[dim])


# ---------------------------------------------------------------- one source, one result


@lowers("aten::alias", "aten::detach", "aten::lift_fresh", "aten::lift")
def alias_rule(cx: Context, x: Stage) -> Stage:
    """The same elements."""
    return view(cx, x, lambda i: i)


@lowers(
    "aten::view", "aten::reshape", "aten::_unsafe_view", "aten::flatten", "aten::unflatten",
    "aten::view_as", "aten::_reshape_alias",
)  # fmt: skip
def view_rule(cx: Context, x: Stage, *rest: Any, **options: Any) -> Stage:
    """Other sizes for the same elements in row-major order."""
    shape = cx.shape()
    return view(cx, x, lambda i: regroup(i, shape, x.shape))


@lowers("aten::expand", "aten::expand_as", "aten::broadcast_to")
def expand_rule(cx: Context, x: Stage, *rest: Any, **options: Any) -> Stage:
    """Sizes of 1 are repeated."""
    return view(cx, x, lambda i: broadcast(i, x.shape))


@lowers("aten::permute")
def permute_rule(cx: Context, x: Stage, dims: Sequence[Any]) -> Stage:
    """Dimensions in another order."""
    order = [wrap(d, len(x.shape)) for d in dims]
    return view(cx, x, lambda i: tuple(i[order.index(d)] for d in range(len(order))))


@lowers("aten::transpose")
def transpose_rule(cx: Context, x: Stage, dim0: Any, dim1: Any) -> Stage:
    """Two dimensions exchanged."""
    order = list(range(len(x.shape)))
    if order:
        a, b = wrap(dim0, len(order)), wrap(dim1, len(order))
        order[a], order[b] = order[b], order[a]
    return view(cx, x, lambda i: tuple(i[d] for d in order))


@lowers("aten::t", "aten::numpy_T", "aten::mT")
def t_rule(cx: Context, x: Stage) -> Stage:
    """A matrix transposed; vectors stay."""
    return view(cx, x, lambda i: (*i[:-2], i[-1], i[-2]) if len(i) > 1 else i)


@lowers("aten::unsqueeze")
def unsqueeze_rule(cx: Context, x: Stage, dim: Any) -> Stage:
    """A dimension of size 1 more."""
    place = wrap(dim, len(x.shape) + 1)
    return view(cx, x, lambda i: (*i[:place], *i[place + 1 :]))


@lowers("aten::squeeze")
def squeeze_rule(cx: Context, x: Stage, dim: Any = None) -> Stage:
    """Dimensions of size 1 less."""
    listed = range(len(x.shape)) if dim is None else dim if isinstance(dim, tuple | list) else [dim]
    gone = {d for d in (wrap(d, len(x.shape)) for d in listed) if x.shape and x.shape[d] is ONE}

    def remap(i: Index) -> Index:
        rest = iter(i)
        return tuple(ZERO if d in gone else next(rest) for d in range(len(x.shape)))

    return view(cx, x, remap)


@lowers("aten::select.int")
def select_rule(cx: Context, x: Stage, dim: Any, position: Any) -> Stage:
    """One index of a dimension."""
    d = wrap(dim, len(x.shape))
    place = position_in(position, x.shape[d])
    number = as_int(place)
    if x.parts is not None and number is not None and d == len(x.shape) - 1:
        return view(cx, x.parts[number], lambda i: i)
    return view(cx, x, lambda i: (*i[:d], place, *i[d:]))


def position_in(position: Any, size: Expr) -> Expr:
    """An index that may count from the end."""
    place = expr_of(position)
    known = lt(place, 0)
    if known is True:
        return place + size
    return place


def slice_start(start: Any, size: Expr) -> Expr:
    """The first index of a slice, clamped as Python does."""
    if start is None:
        return ZERO
    place = position_in(start, size)
    if ge(place, 0) is not True:
        place = maximum(place, 0)
    return place if ge(size - place, 0) is True else minimum(place, size)


@lowers("aten::slice")
def slice_rule(
    cx: Context, x: Stage, dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Stage:
    """A range of indices of a dimension."""
    d = wrap(dim, len(x.shape))
    first, stride = slice_start(start, x.shape[d]), expr_of(step)
    if first is ZERO and stride is ONE:
        return view(cx, x, lambda i: i)
    return view(cx, x, lambda i: put(i, d, i[d] * stride + first))


@lowers("aten::narrow")
def narrow_rule(cx: Context, x: Stage, dim: Any, start: Any, length: Any) -> Stage:
    """`length` indices of a dimension."""
    narrowed: Stage = slice_rule(cx, x, dim, start, None, 1)
    return narrowed


@lowers("aten::diagonal")
def diagonal_rule(cx: Context, x: Stage, offset: Any = 0, dim1: Any = 0, dim2: Any = 1) -> Stage:
    """Elements whose indices in two dimensions differ by `offset`."""
    a, b = wrap(dim1, len(x.shape)), wrap(dim2, len(x.shape))
    shift = known_int(offset, "offset")

    def remap(i: Index) -> Index:
        rest, along = iter(i[:-1]), i[-1]
        place = {a: along + max(-shift, 0), b: along + max(shift, 0)}
        return tuple(place[d] if d in place else next(rest) for d in range(len(x.shape)))

    return view(cx, x, remap)


@lowers("aten::as_strided")
def as_strided_rule(
    cx: Context, x: Stage, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None
) -> Stage:
    """Any strides over the memory of a dense tensor that starts its storage."""
    order = x.order
    dims = [x.shape[d] for d in order]
    dense = [x.strides[d] for d in order] == list(contiguous(dims))
    if x.kind == "view" or not dense or (x.kind == "input" and storage_offset is not None):
        raise Unsupported("as_strided of a tensor that is a view")
    strides, offset = sizes(stride), expr_of(storage_offset or 0)

    def remap(i: Index) -> Index:
        place = reindex((dot(i, strides) + offset,), (product(dims),), dims)
        return tuple(place[order.index(d)] for d in range(len(order)))

    return view(cx, x, remap)


# ---------------------------------------------------------------- one source, several results


@lowers("aten::split", "aten::split_with_sizes", "aten::chunk", "aten::tensor_split")
def split_rule(cx: Context, x: Stage, sections: Any, dim: Any = 0) -> tuple[Stage, ...]:
    """Consecutive ranges of a dimension."""
    d = wrap(dim, len(x.shape))
    results, start = [], ZERO
    for at in range(len(cx.node.results)):
        results.append(view(cx, x, _shifted(d, start), at))
        start = start + cx.shape(at)[d]
    return tuple(results)


def _shifted(dim: int, start: Expr) -> Remap:
    if start is ZERO:
        return lambda i: i
    return lambda i: put(i, dim, i[dim] + start)


@lowers("aten::unbind")
def unbind_rule(cx: Context, x: Stage, dim: Any = 0) -> tuple[Stage, ...]:
    """Every index of a dimension on its own."""
    d = wrap(dim, len(x.shape))

    def at(position: int) -> Remap:
        return lambda i: (*i[:d], expr_of(position), *i[d:])

    return tuple(view(cx, x, at(k), k) for k in range(len(cx.node.results)))


# ---------------------------------------------------------------- several sources


@lowers("aten::cat")
def cat_rule(cx: Context, tensors: Sequence[Stage], dim: Any = 0) -> Stage:
    """Tensors one after another along a dimension: each is written to its place."""
    rank = len(cx.shape())
    d = wrap(dim, rank)
    used = [x for x in tensors if len(x.shape) == rank and as_int(x.shape[d]) != 0]
    return assembled(cx, d, used)


@lowers("aten::stack")
def stack_rule(cx: Context, tensors: Sequence[Stage], dim: Any = 0) -> Stage:
    """Tensors along a new dimension."""
    d = wrap(dim, len(cx.shape()))
    shape = put(cx.shape(), d, ONE)
    return assembled(cx, d, [cx.reindexed(x, shape, _without(d)) for x in tensors])


def _without(dim: int) -> Remap:
    return lambda i: (*i[:dim], *i[dim + 1 :])


def assembled(cx: Context, dim: int, tensors: Sequence[Stage]) -> Stage:
    """The buffer that holds `tensors` one after another along `dim`."""
    stage = Stage("assemble", cx.name(), cx.op, cx.shape(), cx.dtype(), strides=cx.strides())
    pieces, start = [], ZERO
    for number, x in enumerate(tensors):
        copy = copied(cx, f"part{number}", x, stage.dtype)
        pieces.append(Piece(copy, _placed(dim, start)))
        start = start + x.shape[dim]
    stage.pieces = tuple(pieces)
    stage.inputs = tuple(piece.source for piece in pieces)
    return stage


def _placed(dim: int, start: Expr) -> Callable[[Reader, Index], Index]:
    shift = _shifted(dim, start)
    return lambda read, i: shift(i)


def copied(cx: Context, part: str, x: Stage, dtype: str) -> Stage:
    """The elements of `x` as `dtype`."""
    from plait.backends.llvm.loop.builder import cast

    return map_stage(
        cx.name(part), cx.op, x.shape, dtype, [x], lambda read, i: cast(read(x, i), dtype), cost=0
    )


# ---------------------------------------------------------------- a part replaced


Inside = Callable[[Index], tuple[Term, Index]]


def replaced(cx: Context, x: Stage, source: Stage, inside: Inside) -> Stage:
    """`x` with the elements of `source` where `inside` says so (a mask, and the index there)."""

    def body(read: Reader, position: Index) -> Term:
        from plait.backends.llvm.loop.builder import cast

        mask, there = inside(position)
        new = cast(read(source, there, mask), x.dtype)
        return select(mask, new, read(x, position))

    return cx.result([x, source], body, cost=2)


def in_range(position: Expr | DynamicIndex, start: Expr, count: Expr, step: Expr) -> Term:
    """Whether `position` is start + step*k with 0 <= k < count."""
    if isinstance(position, DynamicIndex):
        raise TypeError("a computed index")
    mask = binary("ge", index(position), index(start))
    mask = binary("and", mask, binary("lt", index(position), index(start + (count - 1) * step + 1)))
    if step is not ONE:
        mask = binary("and", mask, binary("eq", index((position - start) % step), index(ZERO)))
    return mask


@lowers("aten::slice_scatter")
def slice_scatter_rule(
    cx: Context,
    x: Stage,
    source: Stage,
    dim: Any = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Stage:
    """x with a slice of it replaced."""
    d = wrap(dim, len(x.shape))
    first, stride = slice_start(start, x.shape[d]), expr_of(step)
    count = source.shape[d]
    if count is x.shape[d]:
        return cx.pointwise(lambda a: a, [source], x.dtype, cost=0)

    def inside(i: Index) -> tuple[Term, Index]:
        mask = in_range(i[d], first, count, stride)
        return mask, put(i, d, (i[d] - first) // stride)

    return replaced(cx, x, source, inside)


@lowers("aten::select_scatter")
def select_scatter_rule(cx: Context, x: Stage, source: Stage, dim: Any, position: Any) -> Stage:
    """x with one index of a dimension replaced."""
    d = wrap(dim, len(x.shape))
    place = position_in(position, x.shape[d])

    def inside(i: Index) -> tuple[Term, Index]:
        mask = binary("eq", index(i[d]), index(place))
        return mask, (*i[:d], *i[d + 1 :])

    return replaced(cx, x, source, inside)


@lowers("aten::diagonal_scatter")
def diagonal_scatter_rule(
    cx: Context, x: Stage, source: Stage, offset: Any = 0, dim1: Any = 0, dim2: Any = 1
) -> Stage:
    """x with a diagonal replaced."""
    a, b = wrap(dim1, len(x.shape)), wrap(dim2, len(x.shape))
    shift = known_int(offset, "offset")

    def inside(i: Index) -> tuple[Term, Index]:
        along = i[a] - max(-shift, 0)
        mask = binary("eq", index(i[b] - i[a]), index(expr_of(shift)))
        return mask, (*(i[d] for d in range(len(i)) if d not in (a, b)), along)

    return replaced(cx, x, source, inside)


@lowers("aten::as_strided_scatter")
def as_strided_scatter_rule(
    cx: Context, x: Stage, source: Stage, size: Sequence[Any], stride: Sequence[Any],
    storage_offset: Any = None,
) -> Stage:  # fmt: skip
    """x with the elements that strides reach replaced; the strides must not meet."""
    strides, shape, start = sizes(stride), source.shape, expr_of(storage_offset or 0)
    order = sorted(range(len(shape)), key=lambda d: -(as_int(strides[d]) or 0))
    reach = 1
    for d in reversed(order):
        step, count = known_int(strides[d], "a stride"), known_int(shape[d], "a size")
        if count > 1 and step < reach:
            raise Unsupported("as_strided_scatter of strides that overlap")
        reach = max(reach, step * count)
    is_part = _is_part_of_input(x)
    if x.kind == "view" and not is_part:
        raise Unsupported("as_strided_scatter into a view")
    if (x.kind == "input" or is_part) and storage_offset is not None:
        raise Unsupported("as_strided_scatter into a view that may begin elsewhere")

    def inside(i: Index) -> tuple[Term, Index]:
        rest = dot(i, x.strides) - start
        mask, place = binary("ge", index(rest), index(ZERO)), {}
        for d in order:
            place[d] = ZERO if shape[d] is ONE else rest // strides[d]
            rest = rest - place[d] * strides[d]
            mask = binary("and", mask, binary("lt", index(place[d]), index(shape[d])))
        mask = binary("and", mask, binary("eq", index(rest), index(ZERO)))
        return mask, tuple(place[d] for d in range(len(shape)))

    return replaced(cx, x, source, inside)


def _is_part_of_input(x: Stage) -> bool:
    """Whether these are the real or the imaginary parts of a complex input, in its layout."""
    source = x.inputs[0] if x.kind == "view" else x
    return source.kind == "input" and source.parts is not None and any(x is p for p in source.parts)


@lowers("aten::constant_pad_nd")
def pad_rule(cx: Context, x: Stage, pad: Sequence[Any], value: Any = 0) -> Stage:
    """x inside a frame of `value`."""
    from plait.backends.llvm.lowering.context import scalar_term

    rank = len(x.shape)
    before = {rank - 1 - k: expr_of(pad[2 * k]) for k in range(len(pad) // 2)}

    def body(read: Reader, i: Index) -> Term:
        mask: Term | None = None
        for d, shift in before.items():
            here = in_range(i[d], shift, x.shape[d], ONE)
            mask = here if mask is None else binary("and", mask, here)
        there = tuple(i[d] - before.get(d, ZERO) for d in range(rank))
        inner = read(x, there, mask)
        return inner if mask is None else select(mask, inner, scalar_term(value, x.dtype))

    return cx.result([x], body, cost=2)


@lowers("aten::flip")
def flip_rule(cx: Context, x: Stage, dims: Sequence[Any]) -> Stage:
    """Dimensions read backwards."""
    turned = {wrap(d, len(x.shape)) for d in dims}

    def body(read: Reader, i: Index) -> Term:
        there = tuple(x.shape[d] - 1 - i[d] if d in turned else i[d] for d in range(len(i)))
        return read(x, there)

    return cx.result([x], body, cost=0)


def linear_position(i: Index, shape: Sequence[Expr]) -> Expr:
    """Row-major number of an element."""
    if any(isinstance(part, DynamicIndex) for part in i):
        raise TypeError("a computed index")
    return flatten(i, shape)
