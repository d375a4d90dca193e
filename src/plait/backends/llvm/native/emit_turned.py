"""Loads that run along the rows of a tile: transposed in registers, through a block on the stack.

A transposed operand lies with its rows where the result has its columns. Taken element by element
it costs an instruction and a cache line each; taken as square blocks it costs a load and a few
shuffles a vector. Must not know loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from plait.backends.llvm.loop.kernel import Store
from plait.backends.llvm.loop.terms import Axis, Term
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar, growth
from plait.backends.llvm.native.emit_memory import Memory
from plait.backends.llvm.native.emit_terms import inside, stack_row
from plait.backends.llvm.native.vector import BITS, Space, memory_type
from plait.symbolic.expr import as_int

__all__ = ["Turned", "turned_loads"]

SQUARE = ("f32", "f64", "i32", "i64", "u32", "u64")
"""Types of which a vector is a whole register or two."""
MOST = 4
"""Operands that are transposed at once; their blocks share the cache with everything else."""


def turned_loads(stores: Sequence[Store], across: Axis, along: Axis, memory: Memory) -> list[Term]:
    """Loads whose neighbours in memory are neighbours along the rows."""
    found = [
        term
        for term in inside([store.value for store in stores], lambda term: term.op == "reduce")
        if term.op == "load" and not term.args and _is_turned(term, across, along, memory)
    ]
    return found[:MOST]


def _is_turned(term: Term, across: Axis, along: Axis, memory: Memory) -> bool:
    buffer, offset = term.attr
    step, stride = growth(offset, along.name), growth(offset, across.name)
    if memory.dtypes[buffer] not in SQUARE or buffer in memory.pairs:
        return False
    return step is not None and as_int(step) == 1 and stride is not None and as_int(stride) != 0


class Turned:
    """The blocks of a tile: filled for one vector of the row axis, then read row by row."""

    def __init__(self, memory: Memory, loads: Sequence[Term], entry: Any, rows: int) -> None:
        self.memory = memory
        self.builder = memory.builder
        self.loads = loads
        self.rows = rows
        self._entry = entry
        self._blocks: list[Any] = []

    def fill(
        self, row: Callable[[Any], Frame], start: Any, across: Axis, index: Any, lanes: int
    ) -> None:
        """Transpose `rows` by `lanes` elements of every operand, from row `start` on."""
        if not self._blocks:
            sizes = [self.rows * lanes * BITS[self._dtype(term)] // 8 for term in self.loads]
            self._blocks = [stack_row(self.builder, self._entry, size) for size in sizes]
        for first in range(0, self.rows, lanes):
            at = Frame(
                row(self.builder.add(start, I64(first))),
                Space(self.builder, 1),
                {across.name: index},
            )
            for term, block in zip(self.loads, self._blocks, strict=True):
                self._square(term, at, across, lanes, self._at(block, term, I64(first * lanes)))

    def _square(self, term: Term, at: Frame, across: Axis, lanes: int, block: Any) -> None:
        """`lanes` columns, each one vector of memory, to as many rows of a block."""
        (buffer, offset), builder, dtype = term.attr, self.builder, self._dtype(term)
        stride = growth(offset, across.name)
        assert stride is not None
        kind = ir.VectorType(memory_type(dtype), lanes)
        place = self.memory.address(buffer, emit_scalar(offset, at))
        columns = []
        for lane in range(lanes):
            where = builder.gep(
                place, [emit_scalar(stride * lane, at)], source_etype=memory_type(dtype)
            )
            column = builder.load(where, typ=kind)
            column.align = BITS[dtype] // 8
            columns.append(column)
        for number, line in enumerate(_transposed(builder, columns)):
            where = builder.gep(block, [I64(number * lanes)], source_etype=memory_type(dtype))
            builder.store(line, where, align=BITS[dtype] // 8)

    def bind(self, frame: Frame, number: Any, lanes: int) -> None:
        """Let the operands be, in `frame`, what row `number` of the tile holds."""
        for term, block in zip(self.loads, self._blocks, strict=True):
            where = self._at(block, term, self.builder.mul(number, I64(lanes)))
            frame.terms[id(term)] = self.memory.load_vector(
                where, self._dtype(term), frame.space, None
            )

    def _dtype(self, term: Term) -> str:
        dtype: str = self.memory.dtypes[term.attr[0]]
        return dtype

    def _at(self, block: Any, term: Term, number: Any) -> Any:
        return self.builder.gep(block, [number], source_etype=memory_type(self._dtype(term)))


def _transposed(builder: Any, lines: list[Any]) -> list[Any]:
    """The transpose of a square of vectors: pairs of lines trade halves, quarters, and so on."""
    count = len(lines)
    step = 1
    while step < count:
        lower = [k if not k & step else count + k - step for k in range(count)]
        upper = [k + step if not k & step else count + k for k in range(count)]
        for k in range(count):
            if not k & step:
                pair = lines[k], lines[k | step]
                lines[k] = builder.shuffle_vector(*pair, _mask(lower))
                lines[k | step] = builder.shuffle_vector(*pair, _mask(upper))
        step *= 2
    return lines


def _mask(order: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
