"""Integer expressions as machine integers: sizes, offsets and indices, scalar or by lane.

A `Frame` is one level of the loop nest being emitted: which symbols have values, which axis runs
over lanes, and what has been computed there. Must not know terms' meaning or memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.native.vector import Space, Value
from plait.symbolic.bounds import is_nonnegative
from plait.symbolic.expr import Expr, as_int, const

__all__ = ["I64", "Frame", "Place", "emit_expr", "emit_scalar", "growth", "lane_stride"]

I64 = ir.IntType(64)


class Place(NamedTuple):
    """A computed part of an offset, and the lanes where memory may be read (None: all)."""

    offset: Value
    readable: Value | None


class Frame:
    """One loop level; values found in a parent dominate this one."""

    __slots__ = (
        "axes", "bound", "exprs", "lanes", "mask", "parent", "places", "space", "terms", "vector"
    )  # fmt: skip

    def __init__(
        self,
        parent: Frame | None,
        space: Space,
        axes: dict[str, Any],
        *,
        vector: str | None = None,
        mask: Value | None = None,
    ) -> None:
        self.parent = parent
        self.space = space
        self.lanes = space.lanes
        self.axes = axes
        """Symbol -> i64; for the axis over lanes, its value in the first lane."""
        self.vector = vector
        self.mask = mask
        """Lanes that exist, or None for all."""
        self.terms: dict[int, Value] = {}
        self.exprs: dict[Expr, Any] = {}
        self.places: dict[int, Place] = {}
        """Places of gathers found here for loops inside."""
        inherited: frozenset[str] = parent.bound if parent else frozenset()
        self.bound: frozenset[str] = inherited | axes.keys()

    def symbol(self, name: str) -> Any:
        """The i64 of a symbol."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.axes:
                return frame.axes[name]
            frame = frame.parent
        raise KeyError(name)

    def find(self, term_id: int) -> Value | None:
        """A value computed at this level or outside it."""
        frame: Frame | None = self
        while frame is not None:
            found = frame.terms.get(term_id)
            if found is not None:
                return found
            frame = frame.parent
        return None

    def find_place(self, term_id: int) -> Place | None:
        """The place of a gather found at this level or outside it."""
        frame: Frame | None = self
        while frame is not None:
            if term_id in frame.places:
                return frame.places[term_id]
            frame = frame.parent
        return None

    def find_expr(self, expr: Expr) -> Any:
        """A scalar expression computed at this level or outside it, or None."""
        frame: Frame | None = self
        while frame is not None:
            found = frame.exprs.get(expr)
            if found is not None:
                return found
            frame = frame.parent
        return None

    def varies(self, names: frozenset[str]) -> bool:
        """Whether something that depends on these symbols differs between lanes."""
        return self.vector is not None and self.vector in names


def _names(expr: Expr) -> frozenset[str]:
    return frozenset(free.name for free in expr.free_symbols)


def emit_scalar(expr: Expr, frame: Frame) -> Any:
    """An expression as one i64: its value in the first lane."""
    number = as_int(expr)
    if number is not None:
        return I64(number)
    found = frame.find_expr(expr)
    if found is None:
        scalar = frame.space.with_lanes(1)
        found = frame.exprs[expr] = _polynomial(expr, frame, scalar).raw
    return found


def emit_expr(expr: Expr, frame: Frame) -> Value:
    """An expression as i64: scalar if it is the same in all lanes, else by lane."""
    scalar = frame.space.with_lanes(1)
    if not frame.varies(_names(expr)):
        return scalar.value(emit_scalar(expr, frame), "i64")
    stride = lane_stride(expr, frame)
    if stride is None:
        return _polynomial(expr, frame, frame.space)
    first = frame.space.splat(emit_scalar(expr, frame), "i64")
    step = frame.space.iota("i64")
    number = as_int(stride)
    if number != 1:
        step = step * frame.space.splat(emit_scalar(stride, frame), "i64")
    return first + step


def lane_stride(expr: Expr, frame: Frame) -> Expr | None:
    """What the expression grows by from lane to lane; None if that is not the same everywhere."""
    return growth(expr, frame.vector or "")


def growth(expr: Expr, name: str) -> Expr | None:
    """What an expression grows by when a symbol grows by one; None if that depends on the
    symbol.
    """
    for free in expr.free_symbols:
        if free.name == name:
            difference = expr.substitute({free: free + 1}) - expr
            return None if free in difference.free_symbols else difference
    return const(0)


def _polynomial(expr: Expr, frame: Frame, space: Space) -> Value:
    """Sum of products of atoms, in a space of one lane or of the frame's."""
    total: Value | None = None
    for monomial, coefficient in expr.terms.items():
        part: Value | None = None
        for atom in monomial:
            factor = _atom(atom, frame, space)
            part = factor if part is None else part * factor
        if part is None:
            part = space.const("i64", coefficient)
        elif coefficient != 1:
            part = part * coefficient
        total = part if total is None else total + part
    return space.const("i64", 0) if total is None else total


def _atom(atom: Expr, frame: Frame, space: Space) -> Value:
    scalar = space.lanes == 1
    if not scalar and not frame.varies(_names(atom)):
        return space.splat(emit_scalar(atom, frame), "i64")
    if atom.op == "Symbol":
        first = frame.symbol(str(atom))
        if scalar:
            return space.value(first, "i64")
        return space.splat(first, "i64") + space.iota("i64")
    args = [_polynomial(arg, frame, space) for arg in atom.args]
    if atom.op in ("FloorDiv", "Mod"):
        return _divide(atom, args[0], args[1])
    result = args[0]
    for arg in args[1:]:
        how = "<" if atom.op == "Min" else ">"
        result = result.compare(how, arg).where(result, arg)
    return result


def _divide(atom: Expr, left: Value, right: Value) -> Value:
    """Floor division or its remainder; unsigned where both operands are known not to be
    negative.
    """
    builder, space = left.space.builder, left.space
    is_quotient = atom.op == "FloorDiv"
    if all(is_nonnegative(arg) for arg in atom.args):
        return _unsigned_divide(left, right, is_quotient)
    quotient = space.value(builder.sdiv(left.raw, right.raw), "i64")
    remainder = left - quotient * right
    below = remainder.ne(0) & (remainder ^ right).lt(0)
    if is_quotient:
        return below.where(quotient - 1, quotient)
    return below.where(remainder + right, remainder)


def _unsigned_divide(left: Value, right: Value, is_quotient: bool) -> Value:
    builder, space = left.space.builder, left.space
    operation = builder.udiv if is_quotient else builder.urem
    return space.value(operation(left.raw, right.raw), "i64")
