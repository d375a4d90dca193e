"""Native loops over tables, so that the code of an entry does not grow with its tensors.

    i64  plait_read_arrays(ptr args, ptr kinds, i64 count, ptr bases)
             data pointers of arguments into `bases`; the number of the first that should be an
             array and is not, else -1
    i64  plait_make_arrays(ptr tuple, ptr specs, ptr numbers, i64 count, ptr bases)
             fresh arrays into a tuple and their data pointers into `bases`; 0, or 1 on failure
    void plait_bind(ptr bases, ptr refs, i64 count, ptr pointers)
             pointers[k] = bases[refs[k].base] + refs[k].offset
    void plait_run_batch(ptr context, ptr, ptr status, i64 begin, i64 end)
             units begin..end of a batch: a range for `plait_parallel_for`

A batch is a table of segments (see `Segment`), one for each kernel call. A *unit* is a run of items
of one segment worth a thread's while; units are numbered through all segments. Must not know plans.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.native import python_abi
from plait.backends.llvm.native.jit import new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.pool import called_as

__all__ = ["CONTEXT", "SIGNATURES", "Segment", "constant_table", "segments", "table_functions"]

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER, VOID = ir.PointerType(), ir.VoidType()
NULL = ir.Constant(POINTER, None)

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "plait_read_arrays": (I64, [POINTER, POINTER, I64, POINTER]),
    "plait_make_arrays": (I64, [POINTER, POINTER, POINTER, I64, POINTER]),
    "plait_bind": (VOID, [POINTER, POINTER, I64, POINTER]),
    "plait_run_batch": (VOID, [POINTER, POINTER, POINTER, I64, I64]),
}
CONTEXT = ("segments", "functions", "pointers", "sizes")
"""What the context of a batch points to, in order."""
UNIT_WORK = 1 << 17
"""Work of one unit, unless its segment has less: two microseconds."""


class Segment(NamedTuple):
    """One kernel call of a batch; everything is a number, tables are indexed."""

    function: int
    pointers: int
    """Where its buffers begin among the pointers."""
    sizes: int
    """Where its sizes begin."""
    items: int
    grain: int
    """Items of a unit."""
    first: int
    """Its first unit."""


def segments(calls: Sequence[tuple[int, int, int, int, int, int]]) -> list[Segment]:
    """The table of a batch, with a last segment that only says how many units there are.

    `calls` are (function, pointers, sizes, items, work of all items, multiple of items).
    """
    table: list[Segment] = []
    unit = 0
    for function, pointers, sizes, items, work, step in calls:
        per_item = work // max(items, 1) + 1
        grain = -(-max(UNIT_WORK // per_item, 1) // step) * step
        table.append(Segment(function, pointers, sizes, items, grain, unit))
        unit += -(-items // grain)
    table.append(Segment(0, 0, 0, 0, 1, unit))
    return table


def constant_table(module: Any, name: str, numbers: Sequence[int], kind: Any = I64) -> Any:
    """A constant array in the module; returns its address."""
    values = list(numbers) or [0]
    array = ir.ArrayType(kind, len(values))
    table = ir.GlobalVariable(module, array, module.get_unique_name(name))
    table.linkage, table.global_constant = "internal", True
    if kind is I8:
        table.initializer = ir.Constant(array, bytearray(values))
    else:
        table.initializer = ir.Constant(array, values)
    table.type = POINTER  # llvmlite would keep the type of what it points to
    return table


# ---------------------------------------------------------------- the functions


class _Code:
    """A function being emitted, with what all of them need."""

    def __init__(self, module: Any, name: str) -> None:
        self.function = ir.Function(module, ir.FunctionType(*SIGNATURES[name]), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self.module = module

    def at(self, table: Any, index: Any, kind: Any = I64) -> Any:
        """Address of an entry."""
        return self.builder.gep(table, [index], source_etype=kind)

    def word(self, table: Any, index: Any, kind: Any = I64) -> Any:
        """An entry of a table."""
        return self.builder.load(self.at(table, index, kind), typ=kind)

    def byte(self, base: Any, offset: Any) -> Any:
        """An address some bytes further."""
        return self.builder.gep(base, [offset], source_etype=I8)

    def object(self, name: str) -> Any:
        """Address of an imported object."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, I8, name)
            found.type = POINTER
        return found

    def each(self, count: Any, body: Any) -> None:
        """Call `body` with 0, 1, ... below count."""
        builder = self.builder
        before = builder.block
        head, inside, after = (self.function.append_basic_block(n) for n in ("head", "in", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(I64(0), before)
        builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
        builder.position_at_end(inside)
        body(index)
        index.add_incoming(builder.add(index, I64(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)


def _define_read(module: Any) -> None:
    code = _Code(module, "plait_read_arrays")
    builder, fields = code.builder, python_abi.array_fields()
    args, kinds, count, bases = code.function.args
    array_type = builder.ptrtoint(code.object("PyArray_Type"), I64)

    def one(index: Any) -> None:
        is_array = builder.icmp_unsigned("!=", code.word(kinds, index, I8), I8(0))
        with builder.if_then(is_array):
            value = code.word(args, index, POINTER)
            kind = code.word(code.byte(value, I64(fields.object_type)), I64(0))
            with builder.if_then(builder.icmp_unsigned("!=", kind, array_type), likely=False):
                builder.ret(index)
            data = code.word(code.byte(value, I64(fields.data)), I64(0), POINTER)
            builder.store(data, code.at(bases, index, POINTER))

    code.each(count, one)
    builder.ret(I64(-1))


def _define_make(module: Any) -> None:
    code = _Code(module, "plait_make_arrays")
    builder, fields = code.builder, python_abi.array_fields()
    result, specs, numbers, count, bases = code.function.args
    new = [POINTER, I32, POINTER, I32, POINTER, POINTER, I32, I32, POINTER]
    make = ir.Function(module, ir.FunctionType(POINTER, new), "PyArray_New")
    put = ir.Function(module, ir.FunctionType(I32, [POINTER, I64, POINTER]), "PyTuple_SetItem")

    def one(index: Any) -> None:
        spec = code.at(specs, builder.mul(index, I64(4)))
        rank, number, dims, strides = (code.word(spec, I64(k)) for k in range(4))
        given = builder.icmp_signed(">=", strides, I64(0))
        steps = builder.select(given, code.at(numbers, strides), NULL)
        sizes = code.at(numbers, dims)
        rank, number = builder.trunc(rank, I32), builder.trunc(number, I32)
        kind = code.object("PyArray_Type")
        array = builder.call(make, [kind, rank, sizes, number, steps, NULL, I32(0), I32(0), NULL])
        failed = builder.icmp_unsigned("==", builder.ptrtoint(array, I64), I64(0))
        with builder.if_then(failed, likely=False):
            builder.ret(I64(1))
        builder.call(put, [result, index, array])
        data = code.word(code.byte(array, I64(fields.data)), I64(0), POINTER)
        builder.store(data, code.at(bases, index, POINTER))

    code.each(count, one)
    builder.ret(I64(0))


def _define_bind(module: Any) -> None:
    code = _Code(module, "plait_bind")
    bases, refs, count, pointers = code.function.args

    def one(index: Any) -> None:
        ref = code.at(refs, code.builder.mul(index, I64(2)))
        base = code.word(bases, code.word(ref, I64(0)), POINTER)
        place = code.byte(base, code.word(ref, I64(1)))
        code.builder.store(place, code.at(pointers, index, POINTER))

    code.each(count, one)
    code.builder.ret_void()


def _define_run(module: Any) -> None:
    code = _Code(module, "plait_run_batch")
    builder, width = code.builder, I64(len(Segment._fields))
    context, _, status, begin, end = code.function.args
    table, functions, pointers, sizes = (
        code.word(context, I64(k), POINTER) for k in range(len(CONTEXT))
    )
    start = builder.block
    names = ("find", "check", "run", "skip", "done")
    find, look, run, skip, done = (code.function.append_basic_block(n) for n in names)
    builder.branch(find)
    builder.position_at_end(find)
    number, unit = builder.phi(I64), builder.phi(I64)
    number.add_incoming(I64(0), start)
    unit.add_incoming(begin, start)
    builder.cbranch(builder.icmp_signed("<", unit, end), look, done)
    builder.position_at_end(look)
    segment = code.at(table, builder.mul(number, width))
    function, buffers, own_sizes, items, grain, first = (
        code.word(segment, I64(k)) for k in range(len(Segment._fields))
    )
    stop = code.word(segment, I64(2 * len(Segment._fields) - 1))
    builder.cbranch(builder.icmp_signed("<", unit, stop), run, skip)
    builder.position_at_end(run)
    last = builder.select(builder.icmp_signed("<", end, stop), end, stop)
    from_item = builder.mul(builder.sub(unit, first), grain)
    to_item = builder.mul(builder.sub(last, first), grain)
    to_item = builder.select(builder.icmp_signed("<", to_item, items), to_item, items)
    args = [code.at(pointers, buffers, POINTER), code.at(sizes, own_sizes), status]
    kind = ir.FunctionType(VOID, [POINTER, POINTER, POINTER, I64, I64])
    kernel = called_as(code.word(functions, function, POINTER), kind)
    builder.call(kernel, [*args, from_item, to_item])
    builder.branch(skip)
    builder.position_at_end(skip)
    reached = builder.phi(I64)
    reached.add_incoming(unit, look)
    reached.add_incoming(last, run)
    number.add_incoming(builder.add(number, I64(1)), skip)
    unit.add_incoming(reached, skip)
    builder.branch(find)
    builder.position_at_end(done)
    builder.ret_void()


def _build() -> Any:
    module = new_module("tables")
    _define_read(module)
    _define_make(module)
    _define_bind(module)
    _define_run(module)
    return module


@functools.cache
def table_functions() -> dict[str, int]:
    """Addresses of the functions."""
    facts = {"python": python_abi.identity()}
    unit = Unit("loops over tables", "tables", tuple(SIGNATURES), _build, 1, facts)
    return load_units([unit], python_abi.imports())
