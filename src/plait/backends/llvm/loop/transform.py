"""Rewrites of whole kernels: merging loops that walk memory together, and canonical names.

Both keep the meaning. Must not know graphs or LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from plait.backends.llvm.loop.indexing import ONE, ZERO, linear_coefficients, rename
from plait.backends.llvm.loop.kernel import Kernel, ScatterIndex, Store
from plait.backends.llvm.loop.terms import (
    Axis,
    GatherAttr,
    GatherDim,
    Term,
    expressions_of,
    make_term,
    walk,
)
from plait.symbolic.expr import Expr, symbol

__all__ = ["canonical", "collapse"]

Names = Mapping[str, Expr]


class Rewriter:
    """Replaces symbols by name, axes of reductions and buffer numbers in terms."""

    def __init__(
        self,
        names: Names,
        axes: Mapping[str, Axis | None] | None = None,
        buffers: Mapping[int, int] | None = None,
    ) -> None:
        self.names = names
        self.axes = axes or {}
        self.buffers = buffers
        self.memo: dict[int, Term] = {}

    def expr(self, expr: Expr) -> Expr:
        """An integer expression with names replaced."""
        return rename(expr, self.names)

    def axis(self, axis: Axis) -> Axis | None:
        """The replacement of the axis of a reduction; None drops the reduction."""
        if axis.name in self.axes:
            return self.axes[axis.name]
        return Axis(axis.name, self.expr(axis.extent))

    def buffer(self, number: int) -> int:
        """The new number of a buffer."""
        return number if self.buffers is None else self.buffers[number]

    def term(self, root: Term) -> Term:
        """A term with everything under it rewritten."""
        for term in walk(root):
            if id(term) not in self.memo:
                args = tuple(self.memo[id(arg)] for arg in term.args)
                self.memo[id(term)] = self._rebuild(term, args)
        return self.memo[id(root)]

    def _rebuild(self, term: Term, args: tuple[Term, ...]) -> Term:
        attr = term.attr
        if term.op == "reduce":
            kind, old = attr
            axis = self.axis(old)
            return args[0] if axis is None else make_term(term.op, term.dtype, args, (kind, axis))
        if term.op == "load":
            number, offset = attr
            attr = (self.buffer(number), self.expr(offset))
        elif term.op in ("index", "philox"):
            attr = self.expr(attr)
        elif isinstance(attr, GatherAttr):
            dims = tuple(self.dim(dim) for dim in attr.dims)
            attr = GatherAttr(self.buffer(attr.buffer), self.expr(attr.base), dims, attr.check)
        return make_term(term.op, term.dtype, args, attr)

    def dim(self, dim: GatherDim) -> GatherDim:
        """How a computed index addresses, rewritten."""
        return GatherDim(self.expr(dim.stride), self.expr(dim.size), dim.wraps)

    def store(self, store: Store, depth: int) -> Store:
        """A store at a new depth."""
        indices = tuple(ScatterIndex(self.term(i.term), self.dim(i.dim)) for i in store.indices)
        return store._replace(
            buffer=self.buffer(store.buffer),
            offset=self.expr(store.offset),
            value=self.term(store.value),
            depth=depth,
            indices=indices,
            run=store.run and store.run._replace(row=self.expr(store.run.row)),
        )


def reductions(kernel: Kernel) -> dict[str, Axis]:
    """Axes of reductions by name, in the order of evaluation."""
    found: dict[str, Axis] = {}
    for term in walk(*kernel.roots()):
        if term.op == "reduce":
            axis: Axis = term.attr[1]
            found.setdefault(axis.name, axis)
    return found


def expressions(kernel: Kernel) -> Iterator[Expr]:
    """Every integer expression that may mention an axis, extents left out."""
    for term in walk(*kernel.roots()):
        yield from expressions_of(term.op, term.attr)
    for store in kernel.stores:
        yield store.offset
        if store.run is not None:
            yield store.run.row
        for index in store.indices:
            yield from (index.dim.stride, index.dim.size)


# ---------------------------------------------------------------- collapsing


def collapse(kernel: Kernel) -> Kernel:
    """Merge neighbouring axes that every expression walks as one; drop axes of extent 1."""
    kernel = _drop_ones(kernel)
    position = len(kernel.axes) - 2
    while position >= 0:
        kernel = _merge_parallel(kernel, position)
        position = min(position - 1, len(kernel.axes) - 2)
    changed = True
    while changed:
        kernel, changed = _merge_reductions(kernel)
    return kernel


def _drop_ones(kernel: Kernel) -> Kernel:
    ones = {axis.name for axis in kernel.axes if axis.extent is ONE}
    inner = {name for name, axis in reductions(kernel).items() if axis.extent is ONE}
    inner -= _positional(kernel)
    if not ones and not inner:
        return kernel
    rewriter = Rewriter(dict.fromkeys(ones | inner, ZERO), dict.fromkeys(inner, None))
    kept = [axis for axis in kernel.axes if axis.name not in ones]
    stores = []
    for store in kernel.stores:
        gone = sum(axis.name in ones for axis in kernel.axes[: store.depth])
        stores.append(rewriter.store(store, store.depth - gone))
    axes = tuple(Axis(axis.name, rewriter.expr(axis.extent)) for axis in kept)
    return replace(kernel, axes=axes, stores=tuple(stores))


def _positional(kernel: Kernel) -> set[str]:
    """Axes of reductions whose result is a position."""
    return {
        term.attr[1].name
        for term in walk(*kernel.roots())
        if term.op == "reduce" and term.attr[0] in ("argmax", "argmin")
    }


def _walks_together(kernel: Kernel, outer: Axis, inner: Axis) -> bool:
    """Whether everything depends on outer*extent(inner) + inner only."""
    names = {outer.name, inner.name}
    for axis in (*kernel.axes, *reductions(kernel).values()):
        if names & {s.name for s in axis.extent.free_symbols}:
            return False
    pair = (outer.symbol, inner.symbol)
    for expr in set(expressions(kernel)):
        if expr.free_symbols.isdisjoint(pair):
            continue
        linear = linear_coefficients(expr, pair)
        if linear is None or linear[0][0] is not linear[0][1] * inner.extent:
            return False
    return True


def _joined(outer: Axis, inner: Axis) -> Axis:
    return Axis(inner.name, outer.extent * inner.extent)


def _merge_parallel(kernel: Kernel, at: int) -> Kernel:
    outer, inner = kernel.axes[at], kernel.axes[at + 1]
    between = any(store.depth == at + 1 for store in kernel.stores)
    if between or not _walks_together(kernel, outer, inner):
        return kernel
    joined = _joined(outer, inner)
    rewriter = Rewriter({outer.name: ZERO, inner.name: joined.symbol})
    stores = tuple(rewriter.store(s, s.depth - (s.depth > at)) for s in kernel.stores)
    return replace(kernel, axes=(*kernel.axes[:at], joined, *kernel.axes[at + 2 :]), stores=stores)


def _merge_reductions(kernel: Kernel) -> tuple[Kernel, bool]:
    for outer, inner in _nested(kernel):
        if _walks_together(kernel, outer, inner):
            joined = _joined(outer, inner)
            rewriter = Rewriter(
                {outer.name: ZERO, inner.name: joined.symbol},
                {outer.name: None, inner.name: joined},
            )
            stores = tuple(rewriter.store(s, s.depth) for s in kernel.stores)
            return replace(kernel, stores=stores), True
    return kernel, False


def _nested(kernel: Kernel) -> list[tuple[Axis, Axis]]:
    """Pairs of axes of reductions that only occur directly inside each other, of one kind."""
    inside: dict[str, set[tuple[str, str]]] = {}
    around: dict[str, set[tuple[str, str]]] = {}
    axes = reductions(kernel)
    parents: dict[int, list[Term]] = {}
    terms = list(walk(*kernel.roots()))
    for term in terms:
        for arg in term.args:
            parents.setdefault(id(arg), []).append(term)
    roots = {id(root) for root in kernel.roots()}
    for term in terms:
        if term.op != "reduce":
            continue
        kind, axis = term.attr
        inside.setdefault(axis.name, set()).add(_link(kind, term.args[0]))
        users = parents.get(id(term), [])
        links = {_link(kind, user) for user in users} | ({("", "")} if id(term) in roots else set())
        around.setdefault(axis.name, set()).update(links)
    pairs = []
    for name, links in inside.items():
        if len(links) == 1:
            ((_, inner),) = links
            if inner and {link[1] for link in around.get(inner, set())} == {name}:
                pairs.append((axes[name], axes[inner]))
    return pairs


def _link(kind: str, term: Term) -> tuple[str, str]:
    if term.op == "reduce" and term.attr[0] == kind and not kind.startswith("arg"):
        return kind, term.attr[1].name
    return "", ""


# ---------------------------------------------------------------- canonical names


def canonical(kernel: Kernel) -> tuple[Kernel, tuple[str, ...]]:
    """The kernel with axes i0.., r0.. and sizes n0..; and the old names of the sizes in order.

    Kernels that differ only in names become equal. Buffers keep their order.
    """
    inner = reductions(kernel)
    order = _sizes_in_order(kernel, inner)
    names: dict[str, Expr] = {old: symbol(f"n{k}", 0) for k, old in enumerate(order)}
    axes, places = [], {}
    for k, axis in enumerate(kernel.axes):
        new = Axis(f"i{k}", rename(axis.extent, names))
        names[axis.name] = new.symbol
        axes.append(new)
    for k, axis in enumerate(inner.values()):
        places[axis.name] = Axis(f"r{k}", rename(axis.extent, names))
        names[axis.name] = places[axis.name].symbol
    rewriter = Rewriter(names, places)
    stores = tuple(rewriter.store(store, store.depth) for store in kernel.stores)
    sizes = tuple(f"n{k}" for k in range(len(order)))
    return replace(kernel, sizes=sizes, axes=tuple(axes), stores=stores), order


def _sizes_in_order(kernel: Kernel, inner: Mapping[str, Axis]) -> tuple[str, ...]:
    bound = {axis.name for axis in kernel.axes} | set(inner)
    found: dict[str, None] = {}
    visit: Callable[[Expr], None] = lambda expr: found.update(
        dict.fromkeys(sorted(s.name for s in expr.free_symbols if s.name not in bound))
    )
    for axis in (*kernel.axes, *inner.values()):
        visit(axis.extent)
    for expr in expressions(kernel):
        visit(expr)
    return tuple(found)
