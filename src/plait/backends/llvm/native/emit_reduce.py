"""Accumulators of reductions: their start, step, masked step and the final step over lanes."""

from __future__ import annotations

from typing import Any

from plait.backends.llvm.loop.terms import Term, is_float, is_signed
from plait.backends.llvm.native.emit_ops import BINARY
from plait.backends.llvm.native.vector import BITS, Space, Value

__all__ = ["Accumulators"]

_STEP = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
_FLOAT_LANES = {
    "sum": "llvm.vector.reduce.fadd", "prod": "llvm.vector.reduce.fmul",
    "max": "llvm.vector.reduce.fmaximum", "min": "llvm.vector.reduce.fminimum",
}  # fmt: skip


def neutral(kind: str, dtype: str) -> float | int:
    """What a reduction starts from."""
    if kind in ("sum", "any"):
        return 0
    if kind in ("prod", "all"):
        return 1
    low = kind in ("max", "argmax")
    if is_float(dtype):
        return float("-inf") if low else float("inf")
    if dtype == "i1":
        return 0 if low else 1
    bits = BITS[dtype]
    if is_signed(dtype):
        return -(1 << (bits - 1)) if low else (1 << (bits - 1)) - 1
    return 0 if low else (1 << bits) - 1


class Accumulators:
    """The carried values of reductions over one axis, run in one loop."""

    def __init__(self, group: list[Term], space: Space) -> None:
        self.group = group
        self.space = space.relaxed()

    def dtypes(self) -> list[str]:
        """Element types of the carried values."""
        kinds: list[str] = []
        for term in self.group:
            kinds.append(term.args[0].dtype)
            if term.attr[0] in ("argmax", "argmin"):
                kinds.append("i64")
        return kinds

    def results(self, carried: list[Any]) -> list[Any]:
        """Of as many things as there are carried values, those that are the results."""
        found = []
        remaining = list(carried)
        for term in self.group:
            first = remaining.pop(0)
            found.append(remaining.pop(0) if term.attr[0] in ("argmax", "argmin") else first)
        return found

    def start(self) -> list[Any]:
        """Initial LLVM values; a search carries its best value and where it was."""
        carried = []
        for term in self.group:
            kind, dtype = term.attr[0], term.args[0].dtype
            carried.append(self.space.const(dtype, neutral(kind, dtype)).raw)
            if kind in ("argmax", "argmin"):
                carried.append(self.space.const("i64", 0).raw)
        return carried

    def step(
        self, carried: list[Any], values: list[Value], index: Any, mask: Value | None, by_lane: bool
    ) -> list[Any]:
        """Carried values after one more vector of elements."""
        results: list[Any] = []
        remaining = list(carried)
        for term, value in zip(self.group, values):
            kind = term.attr[0]
            old = Value(self.space, remaining.pop(0), value.dtype)
            value = Value(self.space, value.raw, value.dtype)
            if kind in ("argmax", "argmin"):
                place = Value(self.space, remaining.pop(0), "i64")
                found = self._better(kind, value, old)
                found = found if mask is None else found & mask
                here = self.space.splat(index, "i64")
                here = here + self.space.iota("i64") if by_lane else here
                results += [found.where(value, old).raw, found.where(here, place).raw]
            else:
                new = BINARY[_STEP[kind]](old, value)
                results.append((new if mask is None else mask.where(new, old)).raw)
        return results

    def _better(self, kind: str, value: Value, best: Value) -> Value:
        found = value.gt(best) if kind == "argmax" else value.lt(best)
        if value.is_float:
            found = found | (value.is_nan() & ~best.is_nan())
        return found

    def finish(self, carried: list[Any], *, by_lane: bool) -> list[Value]:
        """The results; `by_lane`: the lanes hold partial results of one element each."""
        values: list[Value] = []
        remaining = list(carried)
        for term in self.group:
            kind, dtype = term.attr[0], term.args[0].dtype
            best = Value(self.space, remaining.pop(0), dtype)
            if kind in ("argmax", "argmin"):
                place = Value(self.space, remaining.pop(0), "i64")
                values.append(self._first_place(kind, best, place) if by_lane else place)
            else:
                values.append(self._over_lanes(kind, best) if by_lane else best)
        return values

    def _over_lanes(self, kind: str, partial: Value) -> Value:
        scalar, dtype = self.space.with_lanes(1), partial.dtype
        if not partial.is_float:
            return scalar.value(self._integer_lanes(kind, partial), dtype)
        args = [partial.raw]
        if kind in ("sum", "prod"):
            args.insert(0, scalar.const(dtype, -0.0 if kind == "sum" else 1.0).raw)
        flags = ("reassoc", "nsz") if kind in ("sum", "prod") else ("nsz",)
        over = [partial.raw.type]
        raw = self.space.intrinsic(_FLOAT_LANES[kind], scalar.type(dtype), args, over, flags)
        return scalar.value(raw, dtype)

    def _integer_lanes(self, kind: str, partial: Value) -> Any:
        sign = "s" if partial.is_signed else "u"
        name = {
            "sum": "add", "prod": "mul", "any": "or", "all": "and",
            "max": f"{sign}max", "min": f"{sign}min",
        }[kind]  # fmt: skip
        kind_of = partial.raw.type
        full = f"llvm.vector.reduce.{name}"
        return self.space.intrinsic(full, kind_of.element, [partial.raw], [kind_of])

    def _first_place(self, kind: str, best: Value, place: Value) -> Value:
        """The least index among the lanes that hold the extreme value."""
        winner = self._over_lanes("max" if kind == "argmax" else "min", best)
        spread = self.space.splat(winner.raw, best.dtype)
        holds = best.eq(spread)
        if best.is_float:
            holds = holds | (best.is_nan() & spread.is_nan())
        candidates = holds.where(place, (1 << 63) - 1)
        return self.space.with_lanes(1).value(self._integer_lanes("min", candidates), "i64")
