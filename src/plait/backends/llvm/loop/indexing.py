"""Integer arithmetic of iteration spaces: flat positions, splitting, refinement, linear forms.

Sizes and positions are `Expr`. Must not know terms or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plait.symbolic.expr import Expr, as_int, const

__all__ = [
    "contiguous",
    "dense_or_contiguous",
    "dense_order",
    "dot",
    "flatten",
    "linear_coefficients",
    "refine",
    "reindex",
    "rename",
    "unflatten",
]

Dims = tuple[Expr, ...]
ZERO, ONE = const(0), const(1)


def contiguous(shape: Sequence[Expr]) -> Dims:
    """Row-major strides."""
    strides: list[Expr] = []
    step = ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def dot(indices: Sequence[Expr], strides: Sequence[Expr]) -> Expr:
    """Sum of the products."""
    total = ZERO
    for position, stride in zip(indices, strides):
        total = total + position * stride
    return total


def flatten(indices: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """Row-major position of `indices` in `shape`."""
    return dot(indices, contiguous(shape))


def unflatten(position: Expr, shape: Sequence[Expr]) -> Dims:
    """Indices of a row-major `position` in `shape` (known to lie inside)."""
    indices: list[Expr] = []
    remaining = [(dim, size) for dim, size in enumerate(shape) if size is not ONE]
    strides = contiguous(shape)
    found: dict[int, Expr] = {}
    for rank, (dim, size) in enumerate(remaining):
        quotient = position // strides[dim] if strides[dim] is not ONE else position
        found[dim] = quotient if rank == 0 else quotient % size
    for dim in range(len(shape)):
        indices.append(found.get(dim, ZERO))
    return tuple(indices)


def reindex(indices: Sequence[Expr], source: Sequence[Expr], target: Sequence[Expr]) -> Dims:
    """`indices` into shape `source` as indices into shape `target` of as many elements.

    Matches equal runs of dimensions first, so that only what is really regrouped is divided.
    """
    result: list[Expr] = []
    for old, new in _blocks(source, target):
        if [source[d] for d in old] == [target[d] for d in new]:
            result.extend(indices[d] for d in old)
        else:
            position = flatten([indices[d] for d in old], [source[d] for d in old])
            result.extend(unflatten(position, [target[d] for d in new]))
    return tuple(result)


def _blocks(source: Sequence[Expr], target: Sequence[Expr]) -> list[tuple[range, range]]:
    """Smallest runs of dimensions with equal products, in order; what is left over are ones."""
    blocks: list[tuple[range, range]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        i0, j0, a, b = i, j, source[i], target[j]
        i, j = i + 1, j + 1
        while a is not b:
            if i < len(source) and (j == len(target) or _divide(b, a) is not None):
                a, i = a * source[i], i + 1
            elif j < len(target):
                b, j = b * target[j], j + 1
            else:
                return [*blocks, *_unproven(source, target, i0, j0)]
        blocks.append((range(i0, i), range(j0, j)))
    return [*blocks, (range(i, len(source)), range(j, len(target)))]


def _unproven(
    source: Sequence[Expr], target: Sequence[Expr], i: int, j: int
) -> list[tuple[range, range]]:
    """One block of what cannot be matched (a guard may say that s == 8), then equal last sizes."""
    m, n = len(source), len(target)
    last: list[tuple[range, range]] = []
    while m > i + 1 and n > j + 1 and source[m - 1] is target[n - 1]:
        m, n = m - 1, n - 1
        last.insert(0, (range(m, m + 1), range(n, n + 1)))
    return [(range(i, m), range(j, n)), *last]


def refine(a: Sequence[Expr], b: Sequence[Expr]) -> Dims | None:
    """The coarsest dims of which both `a` and `b` are runs; None if there are none (or unknown)."""
    result: list[Expr] = []
    left, right = [s for s in a if s is not ONE], [s for s in b if s is not ONE]
    while left and right:
        x, y = left.pop(), right.pop()
        if x is y:
            result.append(x)
            continue
        m, n = as_int(x), as_int(y)
        if m is not None and n is not None and m and n and (m % n == 0 or n % m == 0):
            result.append(const(min(m, n)))
            if m > n:
                left.append(const(m // n))
            else:
                right.append(const(n // m))
            continue
        quotient = _divide(x, y)
        if quotient is not None:
            result.append(y)
            left.append(quotient)
            continue
        quotient = _divide(y, x)
        if quotient is None:
            return None
        result.append(x)
        right.append(quotient)
    return None if left or right else tuple(reversed(result))


def _divide(x: Expr, y: Expr) -> Expr | None:
    """x / y where that is exact."""
    if y is ZERO:
        return None
    quotient = x // y
    return quotient if quotient * y is x else None


def linear_coefficients(
    expr: Expr, symbols: Sequence[Expr]
) -> tuple[tuple[Expr, ...], Expr] | None:
    """(coefficients, rest) with expr = sum(coefficient * symbol) + rest; None if it is not so."""
    nothing: dict[Expr, Expr | int] = dict.fromkeys(symbols, ZERO)
    rest = expr.substitute(nothing)
    coefficients = []
    total = rest
    for s in symbols:
        coefficient = expr.substitute({**nothing, s: ONE}) - rest
        coefficients.append(coefficient)
        total = total + coefficient * s
    return (tuple(coefficients), rest) if total is expr else None


def rename(expr: Expr, names: Mapping[str, Expr]) -> Expr:
    """`expr` with symbols replaced by name."""
    free: dict[Expr, Expr | int] = {s: names[s.name] for s in expr.free_symbols if s.name in names}
    return expr.substitute(free) if free else expr


def dense_order(shape: Sequence[Expr], strides: Sequence[Expr]) -> tuple[int, ...]:
    """Dimensions from slowest to fastest in memory, if the layout is dense; else in index order.

    Symbolic strides that cannot be ranked count as row-major.
    """
    dims = [d for d in range(len(shape)) if shape[d] is not ONE]
    order: list[int] = []
    expected = ONE
    left = list(dims)
    while left:
        found = next((d for d in reversed(left) if strides[d] is expected), None)
        if found is None:
            return tuple(range(len(shape)))
        order.append(found)
        left.remove(found)
        expected = expected * shape[found]
    order.reverse()
    ones = [d for d in range(len(shape)) if shape[d] is ONE]
    return (*ones, *order)


def dense_or_contiguous(shape: Sequence[Expr], strides: Sequence[Expr]) -> tuple[Expr, ...]:
    """`strides` where they are a dense permutation, else row-major ones."""
    expected = ONE
    left = [d for d in range(len(shape)) if shape[d] is not ONE]
    while left:
        found = next((d for d in reversed(left) if strides[d] is expected), None)
        if found is None:
            return contiguous(shape)
        left.remove(found)
        expected = expected * shape[found]
    return tuple(strides)
