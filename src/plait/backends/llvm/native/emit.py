"""Emission of one kernel: an LLVM function over a range of its items.

    void kernel(ptr buffers, ptr sizes, ptr status, i64 begin, i64 end)

An *item* is what threads share out: a row (a point of the outer axes), or one element of a kernel
with a single axis over which it is a plain vector loop. Results do not depend on how items are
grouped, as long as groups of elements begin at multiples of `Emitted.grain`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.loop.kernel import Kernel, Store
from plait.backends.llvm.loop.terms import Axis, walk
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar, growth
from plait.backends.llvm.native.emit_loops import TILE, Nest
from plait.backends.llvm.native.emit_memory import POINTER, Memory
from plait.backends.llvm.native.emit_ops import operation_cost
from plait.backends.llvm.native.emit_terms import inside, work
from plait.backends.llvm.native.rename import share_axes
from plait.backends.llvm.native.target import host
from plait.backends.llvm.native.vector import Space
from plait.symbolic.expr import Expr, as_int, const

__all__ = ["KERNEL_TYPE", "Layout", "emit_kernel", "layout_of"]

KERNEL_TYPE = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER, I64, I64])
MEMORY_WORK = 5
"""What a load or store of one element counts for when work is weighed."""
ELEMENT_GRAIN = 256
"""Items of a single-axis kernel are handed out in multiples of this: whole vectors of any width."""


COLUMN_GRAIN = 512
"""The same where each element is a reduction down a column: enough to read contiguously."""


class Layout(NamedTuple):
    """How a kernel is laid out over items; expressions are over the kernel's size symbols."""

    outer: int
    """Leading axes that are flattened into items."""
    by_element: bool
    """Items are elements of the only axis."""
    items: Expr
    work: Expr
    """Rough number of instructions for all items, counted in vectors' lanes."""
    grain: int
    serial: bool


def layout_of(kernel: Kernel) -> Layout:
    """Decide what the items of a kernel are and how much work they hold."""
    axes = kernel.axes
    rows = _rows(kernel)
    by_element = rows == len(axes) - 1 == 0 and not _has_row_values(kernel, 0)
    outer = 0 if by_element else rows
    counted = axes[:1] if by_element else axes[:outer]
    items = const(1)
    for axis in counted:
        items = items * axis.extent
    grain = TILE if _is_tiled(kernel, outer) else 1
    if by_element:
        is_deep = any(term.op == "reduce" for term in walk(*kernel.roots()))
        grain = COLUMN_GRAIN if is_deep else ELEMENT_GRAIN
    grain = max([grain, *(store.run.length for store in kernel.stores if store.run)])
    return Layout(outer, by_element, items, _work(kernel), grain, kernel.is_serial)


def _rows(kernel: Kernel) -> int:
    """Leading axes that make up a row: all but the one that runs over lanes."""
    depth, count = kernel.row_depth, len(kernel.axes)
    if depth < count or count == 0:
        return depth
    return count if _reduces_along_rows(kernel) else count - 1


def _has_row_values(kernel: Kernel, depth: int) -> bool:
    return any(store.depth <= depth for store in kernel.stores) or kernel.row_depth <= depth


def _reduces_along_rows(kernel: Kernel) -> bool:
    """Whether reductions read contiguously along their own axis rather than along the last one."""
    last = kernel.axes[-1].name
    own = other = found = 0
    for term in walk(*kernel.roots()):
        if term.op != "reduce":
            continue
        found += 1
        axis: Axis = term.attr[1]
        if last in {free.name for free in axis.extent.free_symbols}:
            return True
        for load in walk(term.args[0]):
            if load.op == "load":
                offset = load.attr[1]
                own += _stride(offset, axis.name) == 1
                other += _stride(offset, last) == 1
    return found > 0 and own >= other


def _stride(offset: Expr, name: str) -> int | None:
    step = growth(offset, name)
    return None if step is None else as_int(step)


def _work(kernel: Kernel) -> Expr:
    total = const(0)
    for store in kernel.stores:
        extent = const(1)
        for axis in kernel.axes[: store.depth]:
            extent = extent * axis.extent
        total = total + extent * (MEMORY_WORK + _own_work(store))
    for term in walk(*kernel.roots()):
        if term.op == "reduce":
            axis = term.attr[1]
            extent = axis.extent
            for outer in kernel.axes:
                if outer.name in term.symbols:
                    extent = extent * outer.extent
            total = total + extent * (1 + work([term.args[0]], axis.name))
    return _without_axes(total, kernel)


def _own_work(store: Store) -> int:
    outside = inside([store.value], lambda term: term.op == "reduce")
    return sum(operation_cost(t.op) + MEMORY_WORK * (t.op == "load") for t in outside)


def _without_axes(total: Expr, kernel: Kernel) -> Expr:
    """Ragged extents mention outer axes: count them as at the first point."""
    names = {axis.name for axis in kernel.axes}
    first: dict[Expr, Expr | int] = {free: 0 for free in total.free_symbols if free.name in names}
    return total.substitute(first) if first else total


def emit_kernel(module: Any, kernel: Kernel, name: str) -> Any:
    """Add the function of a kernel to a module; returns the LLVM function."""
    kernel = share_axes(kernel)
    layout = layout_of(kernel)
    function = ir.Function(module, KERNEL_TYPE, name)
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    buffers, sizes, status, begin, end = function.args
    dtypes = [parameter.dtype for parameter in kernel.buffers]
    pointers = [_element(builder, buffers, k, POINTER) for k in range(len(dtypes))]
    symbols = {size: _element(builder, sizes, k, I64) for k, size in enumerate(kernel.sizes)}
    pairs = frozenset(k for k, parameter in enumerate(kernel.buffers) if parameter.pairs)
    memory = Memory(builder, pointers, dtypes, status, pairs)
    nest = Nest(kernel, memory, symbols, host().vector_bits)
    root = Frame(None, Space(builder, 1), symbols)
    if layout.by_element:
        nest.elements(root, begin, end)
    else:
        _rows_loop(nest, root, layout, begin, end)
    nest.finish()
    builder.ret_void()
    return function


def _element(builder: Any, table: Any, position: int, kind: Any) -> Any:
    where = builder.gep(table, [I64(position)], source_etype=kind)
    return builder.load(where, typ=kind)


def _rows_loop(nest: Nest, root: Frame, layout: Layout, begin: Any, end: Any) -> None:
    axes = nest.kernel.axes[: layout.outer]
    nest.hoist_above(root, axes)

    def row(item: Any) -> Frame:
        return Frame(root, root.space, _unflatten(nest.builder, item, axes, root))

    def point(item: Any, _mask: Any, _carried: list[Any]) -> list[Any]:
        nest.point(row(item), layout.outer, nest.kernel.stores)
        return []

    def tile(item: Any, _mask: Any, _carried: list[Any]) -> list[Any]:
        builder = nest.builder
        stop = builder.add(item, I64(TILE))
        stop = builder.select(builder.icmp_signed("<", stop, end), stop, end)
        nest.tile(row, nest.kernel.axes[-1], item, stop, root)
        return []

    if _is_tiled(nest.kernel, layout.outer):
        nest.loop(begin, end, TILE, [], tile)
    else:
        nest.loop(begin, end, 1, [], point)


def _is_tiled(kernel: Kernel, outer: int) -> bool:
    """Whether rows should be done together: some load runs along them and strides over the row."""
    if outer != len(kernel.axes) - 1 or outer == 0:
        return False
    if any(store.depth <= outer or store.kind == "add" or store.indices for store in kernel.stores):
        return False
    terms = list(walk(*kernel.roots()))
    if any(term.op == "reduce" for term in terms):
        return False
    across, along = kernel.axes[-1].name, kernel.axes[-2].name
    offsets = [term.attr[1] for term in terms if term.op == "load"]
    return any(_stride(o, across) not in (0, 1) and _stride(o, along) == 1 for o in offsets)


def _unflatten(builder: Any, item: Any, axes: tuple[Axis, ...], frame: Frame) -> dict[str, Any]:
    """Values of the outer axes from a flat item number."""
    values: dict[str, Any] = {}
    for position, axis in reversed(list(enumerate(axes))):
        if position == 0:
            values[axis.name] = item
        else:
            extent = emit_scalar(axis.extent, frame)
            values[axis.name] = builder.urem(item, extent)
            item = builder.udiv(item, extent)
    return values
