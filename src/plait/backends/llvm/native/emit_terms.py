"""Evaluation of terms inside a frame: each term once per frame, at the lowest number of lanes.

Owns which values are kept in scratch rows between passes. Reductions are handed to the loop
emitter; must not know how loops are laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llvmlite import ir

from plait.backends.llvm.loop.terms import GatherAttr, Term
from plait.backends.llvm.native.emit_index import Frame, Place, emit_expr
from plait.backends.llvm.native.emit_memory import Memory, widen
from plait.backends.llvm.native.emit_ops import apply, operation_cost
from plait.backends.llvm.native.vector import Value, memory_type
from plait.symbolic.expr import as_int

__all__ = ["Scratch", "Terms", "inside", "stack_row", "work"]


def inside(roots: Iterable[Term], prune: Callable[[Term], bool]) -> Iterator[Term]:
    """Terms under `roots`, operands first, not descending where `prune` holds (they are
    skipped).
    """
    done: set[int] = set()
    stack: list[tuple[Term, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        term, ready = stack.pop()
        if ready:
            yield term
        elif id(term) not in done:
            done.add(id(term))
            if not prune(term):
                stack.append((term, True))
                stack.extend((arg, False) for arg in reversed(term.args) if id(arg) not in done)


def work(roots: Iterable[Term], axis: str | None) -> int:
    """Rough number of instructions per vector of what depends on an axis (on anything, for
    None).
    """
    terms = inside(roots, lambda t: axis is not None and axis not in t.symbols)
    return sum(operation_cost(term.op) for term in terms)


class Scratch:
    """Values of one row kept between passes: term -> row buffer, indexed by the row axis."""

    __slots__ = ("axis", "rows", "written")

    def __init__(self, axis: str = "") -> None:
        self.axis = axis
        self.rows: dict[int, Any] = {}
        self.written: set[int] = set()


class Terms:
    """Emits terms over the memory of one kernel."""

    def __init__(self, memory: Memory, reduce: Callable[[Term, Frame], Value]) -> None:
        self.memory = memory
        self.reduce = reduce
        self.scratch = Scratch()
        self.inline = True
        """Whether math functions are expanded in place (not in tails, which run once)."""

    def evaluate(self, term: Term, frame: Frame) -> Value:
        """The value of a term; scalar where it is the same in all lanes."""
        known: dict[int, Value] = {}

        def is_known(part: Term) -> bool:
            found = frame.find(id(part)) or self._from_scratch(part, frame)
            if found is not None:
                known[id(part)] = found
            return found is not None

        for part in _reachable(term, is_known):
            value = self._compute(part, frame)
            frame.terms[id(part)] = known[id(part)] = value
            self._to_scratch(part, value, frame)
        return known[id(term)]

    def _compute(self, term: Term, frame: Frame) -> Value:
        if term.op == "reduce":
            return self.reduce(term, frame)
        leaf = getattr(self, f"_emit_{term.op}", None)
        if leaf is not None:
            result: Value = leaf(term, frame)
            return result
        args = [self._operand(arg, frame) for arg in term.args]
        lanes = max(arg.space.lanes for arg in args)
        space = (frame.space if lanes > 1 else frame.space.with_lanes(1)).relaxed()
        return apply(term.op, [widen(a, space) for a in args], term.dtype, inline=self.inline)

    def _operand(self, term: Term, frame: Frame) -> Value:
        found = frame.find(id(term))
        assert found is not None, f"{term} was not evaluated before its user"
        return found

    # Leaves --------------------------------------------------------------------------------------

    def _emit_const(self, term: Term, frame: Frame) -> Value:
        if term.dtype == "bf16":
            single = frame.space.with_lanes(1).const("f32", term.attr)
            return apply("cast", [single], "bf16")
        return frame.space.with_lanes(1).const(term.dtype, term.attr)

    def _emit_index(self, term: Term, frame: Frame) -> Value:
        return emit_expr(term.attr, frame)

    def _emit_load(self, term: Term, frame: Frame) -> Value:
        attr: Any = term.attr
        mask = self._operand(term.args[0], frame) if term.args else None
        return self.memory.load(attr[0], attr[1], frame, mask)

    def _emit_gather(self, term: Term, frame: Frame) -> Value:
        attr = term.attr
        assert isinstance(attr, GatherAttr)
        given = None
        if len(term.args) > len(attr.dims):
            given = self._operand(term.args[-1], frame)
        place = frame.find_place(id(term))
        if place is None:
            place = self._place_of(term, frame, given)
        return self.memory.load_moved(attr.buffer, attr.base, place, frame, given)

    def prepare_gather(self, term: Term, frame: Frame) -> None:
        """Find and check in this frame the place of a gather that a loop inside it runs along."""
        if frame.find_place(id(term)) is None:
            for arg in term.args:
                self.evaluate(arg, frame)
            frame.places[id(term)] = self._place_of(term, frame, None)

    def _place_of(self, term: Term, frame: Frame, given: Value | None) -> Place:
        """The computed part of a gather's offset, checked; places out of range become 0."""
        attr = term.attr
        assert isinstance(attr, GatherAttr)
        args = [self._operand(arg, frame) for arg in term.args[: len(attr.dims)]]
        lanes = max((a.space.lanes for a in (*args, *([given] if given else []))), default=1)
        space = frame.space if lanes > 1 else frame.space.with_lanes(1)
        existing = frame.mask if lanes > 1 else None
        if given is not None:
            wide = widen(given, space)
            existing = wide if existing is None else existing & wide
        total, inside_all = space.const("i64", 0), space.const("i1", 1)
        for index, dim in zip(args, attr.dims):
            index = widen(apply("cast", [index], "i64"), space)
            index, within = self.memory.checked(index, dim, frame)
            index = within.where(index, 0)
            inside_all = inside_all & within
            total = total + index * widen(emit_expr(dim.stride, frame), space)
        if attr.check is not None:
            failed = ~inside_all if existing is None else existing & ~inside_all
            self.memory.report(failed, attr.check)
        sizes = [as_int(dim.size) for dim in attr.dims]
        is_readable = all(size is not None and size > 0 for size in sizes)
        return Place(total, None if is_readable else inside_all)

    def _emit_philox(self, term: Term, frame: Frame) -> Value:
        seed, call = (self._operand(arg, frame) for arg in term.args)
        element = emit_expr(term.attr, frame)
        lanes = max(v.space.lanes for v in (seed, call, element))
        space = frame.space if lanes > 1 else frame.space.with_lanes(1)
        return philox(*(widen(v, space) for v in (seed, call, element)))

    # Scratch rows --------------------------------------------------------------------------------

    def _place(self, term: Term, frame: Frame) -> Any:
        row = self.scratch.rows.get(id(term))
        if row is None or self.scratch.axis not in frame.axes:
            return None
        element = memory_type(term.dtype)
        index = frame.symbol(self.scratch.axis)
        return frame.space.builder.gep(row, [index], source_etype=element)

    def _from_scratch(self, term: Term, frame: Frame) -> Value | None:
        if id(term) not in self.scratch.written:
            return None
        where = self._place(term, frame)
        if where is None:
            return None
        # Rows are padded to whole vectors, so a tail needs no mask.
        value = self.memory.load_vector(where, term.dtype, frame.space, None)
        frame.terms[id(term)] = value
        return value

    def _to_scratch(self, term: Term, value: Value, frame: Frame) -> None:
        if id(term) in self.scratch.rows and id(term) not in self.scratch.written:
            where = self._place(term, frame)
            if where is not None:
                self.memory.store_vector(where, widen(value, frame.space), None)


def _reachable(term: Term, is_known: Callable[[Term], bool]) -> Iterator[Term]:
    """Terms to compute for `term`, operands first; a reduction's body is left to the reduction."""
    done: set[int] = set()
    stack: list[tuple[Term, bool]] = [(term, False)]
    while stack:
        part, ready = stack.pop()
        if ready:
            yield part
        elif id(part) not in done:
            done.add(id(part))
            if not is_known(part):
                stack.append((part, True))
                if part.op != "reduce":
                    stack.extend((arg, False) for arg in reversed(part.args))


def philox(seed: Value, call: Value, element: Value) -> Value:
    """Word element%4 of Philox 4x32-10 with counter (element//4, call) and key seed, all i64."""
    space = seed.space
    counter = element.logical_right(2)
    c = [counter & 0xFFFFFFFF, counter.logical_right(32)]
    c += [call & 0xFFFFFFFF, call.logical_right(32)]
    k0, k1 = seed & 0xFFFFFFFF, seed.logical_right(32)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [
            p1.logical_right(32) ^ c[1] ^ k0,
            p1 & 0xFFFFFFFF,
            p0.logical_right(32) ^ c[3] ^ k1,
            p0 & 0xFFFFFFFF,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    word = element & 3
    low = (word & 1).eq(0)
    chosen = word.lt(2).where(low.where(c[0], c[1]), low.where(c[2], c[3]))
    raw = space.builder.trunc(chosen.raw, space.type("u32"))
    return space.value(raw, "u32")


def stack_row(builder: Any, entry: Any, size: int) -> Any:
    """Room for `size` bytes on the stack, allocated at function entry."""
    with builder.goto_block(entry):
        builder.position_at_start(entry)
        row = builder.alloca(ir.ArrayType(ir.IntType(8), size))
        row.align = 64
        row.type = ir.PointerType()  # llvmlite would keep the type of what it points to
        return row
