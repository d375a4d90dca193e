"""What an entry does by tables: reading many arguments, making many outputs, running batches.

The code of these does not grow with the number of tensors; the tables are constants beside it. All
data pointers of a call lie in one array, `bases`: inputs, then outputs, then the arena.
Must not know how kernels compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from plait.backends.llvm.loop.interpret import ARRAY_DTYPES
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.kernels import CompiledKernel
from plait.backends.llvm.native.python_abi import type_number
from plait.backends.llvm.native.tables import Segment, constant_table, segments
from plait.backends.llvm.native.vector import BITS
from plait.backends.llvm.plan import ArenaRef, Binding, InputRef, KernelCall, OutputSpec
from plait.symbolic.expr import as_int

if TYPE_CHECKING:
    from plait.backends.llvm.native.driver import Driver

__all__ = ["Tabled", "known_work"]

I8, POINTER = ir.IntType(8), ir.PointerType()
NULL = ir.Constant(POINTER, None)
UNITS = 8
"""Units of a batch that a thread takes at once."""
PARALLEL_WORK = 1 << 21


def known_work(step: KernelCall, code: CompiledKernel) -> int | None:
    """The work of a kernel whose sizes are known."""
    values = known_sizes(step)
    return None if values is None else code.layout.work.evaluate(values)


def known_sizes(step: KernelCall) -> dict[str, int] | None:
    """The sizes of a kernel by name; None if one is not known before the call."""
    sizes = [as_int(size) for size in step.sizes]
    if any(size is None for size in sizes):
        return None
    return {name: size for name, size in zip(step.kernel.sizes, sizes) if size is not None}


class Tabled:
    """The parts of one driver that go by tables."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.plan = driver.plan
        self.arena_at = len(self.plan.inputs) + len(self.plan.outputs)

    @property
    def builder(self) -> Any:
        """Where the driver is being written."""
        return self.driver.builder

    def _base_at(self, position: int) -> Any:
        return self.builder.gep(self.bases, [I64(position)], source_etype=POINTER)

    def _position(self, binding: Binding) -> int:
        if isinstance(binding, ArenaRef):
            return self.arena_at
        first = 0 if isinstance(binding, InputRef) else len(self.plan.inputs)
        return first + binding.index

    def base(self, binding: Binding) -> Any:
        """The data pointer that a binding counts from."""
        return self.builder.load(self._base_at(self._position(binding)), typ=POINTER)

    # Arguments and outputs -----------------------------------------------------------------------

    def read_inputs(self, args: Any) -> None:
        """Data pointers of all arrays; TypeError for an argument that is not one."""
        builder, driver = self.builder, self.driver
        with builder.goto_entry_block():
            self.bases = builder.alloca(ir.ArrayType(POINTER, self.arena_at + 1))
        self.bases.type = POINTER
        kinds = [int(spec.dtype != "int") for spec in self.plan.inputs]
        table = constant_table(driver.module, "kinds", kinds, I8)
        wrong = driver.call("plait_read_arrays", args, table, I64(len(kinds)), self.bases)
        with builder.if_then(builder.icmp_signed(">=", wrong, I64(0)), likely=False):
            text, starts = bytearray(), []
            for spec in self.plan.inputs:
                starts.append(len(text))
                message = f"{self.plan.name}: input {spec.name!r} must be a NumPy array"
                text += message.encode() + b"\0"
            places = constant_table(driver.module, "messages_at", starts)
            place = builder.gep(places, [wrong], source_etype=I64)
            start = builder.load(place, typ=I64)
            messages = constant_table(driver.module, "messages", list(text), I8)
            message = builder.gep(messages, [start], source_etype=I8)
            driver.call("PyErr_SetString", driver.imported("plait_type_error"), message)
            builder.ret(NULL)

    def make_outputs(self, result: Any) -> bool:
        """Fresh arrays for all outputs; False (and nothing done) if some size is not known."""
        specs: list[int] = []
        numbers: list[int] = []
        for output in self.plan.outputs:
            known = _numbers_of(output)
            if known is None:
                return False
            sizes, strides = known
            dtype = ARRAY_DTYPES[output.dtype]
            specs += [len(sizes), type_number(dtype), len(numbers), len(numbers) + len(sizes)]
            numbers += [*sizes, *(stride * dtype.itemsize for stride in strides)]
        driver, count = self.driver, len(self.plan.outputs)
        tables = [
            constant_table(driver.module, name, table)
            for name, table in (("outputs", specs), ("numbers", numbers))
        ]
        place = self._base_at(len(self.plan.inputs))
        failed = driver.call("plait_make_arrays", result, *tables, I64(count), place)
        builder = self.builder
        with builder.if_then(builder.icmp_signed("!=", failed, I64(0)), likely=False):
            driver.call("Py_DecRef", result)
            builder.ret(NULL)
        return True

    def keep_output(self, position: int, data: Any) -> None:
        """Note the data pointer of an output that was made one by one."""
        self.builder.store(data, self._base_at(len(self.plan.inputs) + position))

    def keep_arena(self, arena: Any) -> None:
        """Note where temporaries are."""
        self.builder.store(arena, self._base_at(self.arena_at))

    # Batches -------------------------------------------------------------------------------------

    def batches(self) -> dict[int, Batch]:
        """By their first step, the batches whose buffers are at known places."""
        found = {}
        for start, stop in self.plan.batches:
            steps = [step for step in self.plan.steps[start:stop] if isinstance(step, KernelCall)]
            refs = [self._ref(step, k) for step in steps for k in range(len(step.buffers))]
            known = [ref for ref in refs if ref is not None]
            if len(known) == len(refs):
                found[start] = Batch(self.driver, self.bases, start, steps, known)
        return found

    def _ref(self, step: KernelCall, number: int) -> tuple[int, int] | None:
        binding, dtype = step.buffers[number], step.kernel.buffers[number].dtype
        offset = as_int(binding.offset)
        if offset is None:
            return None
        size = 1 if isinstance(binding, ArenaRef) else max(BITS[dtype] // 8, 1)
        return self._position(binding), offset * size


def _numbers_of(output: OutputSpec) -> tuple[list[int], list[int]] | None:
    """(sizes, strides) of an output, if all are known."""
    sizes, strides = map(as_int, output.shape), map(as_int, output.strides)
    found = [n for n in sizes if n is not None], [n for n in strides if n is not None]
    return found if len(found[0]) == len(found[1]) == len(output.shape) else None


class Batch:
    """One batch of a plan, with its kernels and buffers known."""

    def __init__(
        self,
        driver: Driver,
        bases: Any,
        start: int,
        steps: list[KernelCall],
        refs: list[tuple[int, int]],
    ) -> None:
        self.driver = driver
        self.bases = bases
        self.start = start
        self.steps = steps
        self.refs = refs
        codes = driver.codes[start : start + len(steps)]
        self.codes = [code for code in codes if isinstance(code, CompiledKernel)]
        assert len(self.codes) == len(steps)

    def emit(self) -> int:
        """Run the batch; returns the step after it."""
        driver, builder = self.driver, self.driver.builder
        functions = list({code.name: code for code in self.codes}.values())
        sizes: list[int] = []
        table, work = self._segments([code.name for code in functions], sizes)
        context = driver.table(
            [
                constant_table(driver.module, "segments", [n for s in table for n in s]),
                driver.table(
                    [builder.bitcast(driver.kernel_function(f), POINTER) for f in functions],
                    POINTER,
                ),
                self._pointers(),
                constant_table(driver.module, "sizes", sizes),
            ],
            POINTER,
        )
        units = I64(table[-1].first)
        if work >= PARALLEL_WORK:
            run = driver.imported_function("plait_run_batch")
            address = builder.bitcast(run, POINTER)
            args = (address, context, NULL, driver.status, units, I64(UNITS))
            driver.call("plait_parallel_for", *args)
        else:
            driver.call("plait_run_batch", context, NULL, driver.status, I64(0), units)
        return self.start + len(self.steps)

    def _segments(self, names: list[str], sizes: list[int]) -> tuple[list[Segment], int]:
        """The table of segments, and all work; fills `sizes`."""
        calls, total, pointers = [], 0, 0
        for step, code in zip(self.steps, self.codes):
            values = known_sizes(step)
            assert values is not None
            items, work = code.layout.items.evaluate(values), code.layout.work.evaluate(values)
            number = names.index(code.name)
            calls.append((number, pointers, len(sizes), items, work, code.layout.grain))
            sizes.extend(values.values())
            pointers += len(step.buffers)
            total += work
        return segments(calls), total

    def _pointers(self) -> Any:
        """Addresses of all buffers, one after another."""
        driver, builder, count = self.driver, self.driver.builder, len(self.refs)
        with builder.goto_entry_block():
            pointers = builder.alloca(ir.ArrayType(POINTER, count))
        pointers.type = POINTER
        flat = [number for ref in self.refs for number in ref]
        table = constant_table(driver.module, "refs", flat)
        driver.call("plait_bind", self.bases, table, I64(count), pointers)
        return pointers
