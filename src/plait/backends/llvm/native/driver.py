"""The generated driver of a plan: argument reading, outputs, arena, steps, result.

    PyObject *entry(PyObject *on_failure, PyObject **args, Py_ssize_t count)

Must not know how kernels compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from plait.backends.llvm.loop.interpret import ARRAY_DTYPES
from plait.backends.llvm.native.attention_code import CompiledAttention
from plait.backends.llvm.native.blas import Blas
from plait.backends.llvm.native.emit import KERNEL_TYPE
from plait.backends.llvm.native.emit_attention import attention_items, attention_work
from plait.backends.llvm.native.emit_gemm import emit_blocks, emit_gemm, gemm_items
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar
from plait.backends.llvm.native.emit_packed import ROWS_TYPE
from plait.backends.llvm.native.kernels import CompiledKernel
from plait.backends.llvm.native.packed import Cut, cut
from plait.backends.llvm.native.packed_code import CompiledPacked
from plait.backends.llvm.native.python_abi import array_fields, type_number
from plait.backends.llvm.native.small_code import CompiledProduct
from plait.backends.llvm.native.tabled import Tabled, known_work
from plait.backends.llvm.native.tables import SIGNATURES as TABLE_SIGNATURES
from plait.backends.llvm.native.vector import BITS, Space
from plait.backends.llvm.plan import (
    ATTENTION_MASK,
    ArenaRef,
    Attention,
    Binding,
    Gemm,
    InputRef,
    KernelCall,
    OutputRef,
    OutputSpec,
    Plan,
)
from plait.symbolic.expr import Expr, as_int

__all__ = ["Driver"]

I8, I32, POINTER, VOID = ir.IntType(8), ir.IntType(32), ir.PointerType(), ir.VoidType()
NULL = ir.Constant(POINTER, None)

CHUNK_WORK = 1 << 20
"""Work (instructions by element) of one range of items: some 15 microseconds."""
PARALLEL_WORK = 1 << 21
GIL_WORK = 1 << 19
"""Work from which an entry lets go of the GIL."""
GEMM_WORK = 2
"""Work of one multiply-add, in the same units."""
PACK_WORK = 16
"""Work of packing one element."""
STACK_ARENA_BYTES = 1 << 14

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "PyTuple_New": (POINTER, [I64]),
    "PyTuple_SetItem": (I32, [POINTER, I64, POINTER]),
    "Py_DecRef": (VOID, [POINTER]),
    "PyLong_AsLongLong": (I64, [POINTER]),
    "PyLong_FromLongLong": (POINTER, [I64]),
    "PyErr_Occurred": (POINTER, []),
    "PyErr_SetString": (VOID, [POINTER, POINTER]),
    "PyObject_CallOneArg": (POINTER, [POINTER, POINTER]),
    "PyEval_SaveThread": (POINTER, []),
    "PyEval_RestoreThread": (VOID, [POINTER]),
    "PyArray_New": (POINTER, [POINTER, I32, POINTER, I32, POINTER, POINTER, I32, I32, POINTER]),
    "plait_parallel_for": (VOID, [POINTER, POINTER, POINTER, POINTER, I64, I64]),
    "plait_arena_take": (POINTER, [I64]),
    "plait_arena_give": (VOID, [POINTER]),
    "plait_blas_enter": (VOID, []),
    "plait_blas_leave": (VOID, []),
    **TABLE_SIGNATURES,
}


class Driver:
    """Emits the entry of one plan into a module."""

    def __init__(
        self,
        module: Any,
        plan: Plan,
        codes: Sequence[
            CompiledKernel | CompiledAttention | CompiledProduct | CompiledPacked | None
        ],
        blas: Blas | None,
    ) -> None:
        self.module = module
        self.plan = plan
        self.codes = codes
        self.tiles = dict(plan.tiles)
        self.blas = blas
        self.fields = array_fields()
        self.symbols = tuple(source.name for source in plan.symbols)
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.tabled = Tabled(self) if plan.is_tabled else None
        self.cuts: dict[int, Cut] = {
            number: cut(step, BITS[step.dtype] // 8)
            for number, (step, code) in enumerate(zip(plan.steps, codes))
            if isinstance(step, Gemm) and isinstance(code, CompiledPacked)
        }

    # Small pieces --------------------------------------------------------------------------------

    def imported_function(self, name: str) -> Any:
        """The declaration of an imported function."""
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, ir.FunctionType(*_SIGNATURES[name]), name)

    def call(self, name: str, *args: Any) -> Any:
        """Call an imported function."""
        return self.builder.call(self.imported_function(name), args)

    def imported(self, name: str) -> Any:
        """Address of an imported object."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, I8, name)
            found.type = POINTER
        return found

    def _field(self, base: Any, offset: int, kind: Any) -> Any:
        return self.builder.load(self.builder.gep(base, [I64(offset)], source_etype=I8), typ=kind)

    def table(self, values: list[Any], kind: Any) -> Any:
        """An array on the stack holding these values."""
        with self.builder.goto_entry_block():
            table = self.builder.alloca(ir.ArrayType(kind, max(len(values), 1)))
        table.type = POINTER
        for position, value in enumerate(values):
            where = self.builder.gep(table, [I64(position)], source_etype=kind)
            self.builder.store(value, where)
        return table

    def is_null(self, pointer: Any) -> Any:
        return self.builder.icmp_unsigned("==", self.builder.ptrtoint(pointer, I64), I64(0))

    def size(self, expr: Expr) -> Any:
        """A size expression as i64."""
        return emit_scalar(expr, self.frame)

    # The whole -----------------------------------------------------------------------------------

    def emit(self, name: str) -> None:
        """Add the entry function."""
        kind = ir.FunctionType(POINTER, [POINTER, POINTER, I64])
        function = ir.Function(self.module, kind, name)
        self.builder = builder = ir.IRBuilder(function.append_basic_block("entry"))
        body = function.append_basic_block("body")
        builder.branch(body)
        builder.position_at_end(body)
        self.failed = function.append_basic_block("failed")
        self.on_failure, args, count = function.args
        self.frame = Frame(None, Space(builder, 1), {})
        self._check_count(count)
        self._read_inputs(args)
        self._make_outputs()
        self._run_steps()
        builder.ret(self.result)

    def _check_count(self, count: Any) -> None:
        wrong = self.builder.icmp_signed("!=", count, I64(len(self.plan.inputs)))
        with self.builder.if_then(wrong, likely=False):
            self._type_error(f"{self.plan.name}: takes {len(self.plan.inputs)} inputs")

    def _type_error(self, message: str) -> None:
        text = bytearray(message.encode() + b"\0")
        constant = ir.Constant(ir.ArrayType(I8, len(text)), text)
        name = self.module.get_unique_name("message")
        cell = ir.GlobalVariable(self.module, constant.type, name)
        cell.linkage, cell.global_constant, cell.initializer = "internal", True, constant
        cell.type = POINTER
        self.call("PyErr_SetString", self.imported("plait_type_error"), cell)
        self.builder.ret(NULL)

    # Inputs --------------------------------------------------------------------------------------

    def _read_inputs(self, args: Any) -> None:
        def given(position: int) -> Any:
            where = self.builder.gep(args, [I64(position)], source_etype=POINTER)
            return self.builder.load(where, typ=POINTER)

        numbers: dict[int, Any] = {}
        if self.tabled is not None:
            self.tabled.read_inputs(args)
        for position, spec in enumerate(self.plan.inputs):
            if spec.dtype == "int":
                numbers[position] = self._integer(given(position))
            elif self.tabled is None:
                value = given(position)
                self._require_array(value, spec.name)
                self.inputs.append(self._field(value, self.fields.data, POINTER))
                continue
            self.inputs.append(None)
        for source in self.plan.symbols:
            if source.dim is None:
                self.frame.axes[source.name] = numbers[source.input]
            else:
                dims = self._field(given(source.input), self.fields.dimensions, POINTER)
                self.frame.axes[source.name] = self._field(dims, 8 * source.dim, I64)
        self.frame.bound = frozenset(self.frame.axes)

    def _integer(self, value: Any) -> Any:
        builder = self.builder
        number = self.call("PyLong_AsLongLong", value)
        with builder.if_then(builder.icmp_signed("==", number, I64(-1)), likely=False):
            failed = builder.not_(self.is_null(self.call("PyErr_Occurred")))
            with builder.if_then(failed):
                builder.ret(NULL)
        return number

    def _require_array(self, value: Any, name: str) -> None:
        builder = self.builder
        kind = self._field(value, self.fields.object_type, POINTER)
        expected = builder.ptrtoint(self.imported("PyArray_Type"), I64)
        wrong = builder.icmp_unsigned("!=", builder.ptrtoint(kind, I64), expected)
        with builder.if_then(wrong, likely=False):
            self._type_error(f"{self.plan.name}: input {name!r} must be a NumPy array")

    # Outputs -------------------------------------------------------------------------------------

    def _make_outputs(self) -> None:
        builder = self.builder
        self.result = self.call("PyTuple_New", I64(len(self.plan.outputs)))
        with builder.if_then(self.is_null(self.result), likely=False):
            builder.ret(NULL)
        if self.tabled is not None and self.tabled.make_outputs(self.result):
            return
        for position, spec in enumerate(self.plan.outputs):
            array = self._new_array(spec)
            with builder.if_then(self.is_null(array), likely=False):
                self.call("Py_DecRef", self.result)
                builder.ret(NULL)
            self.call("PyTuple_SetItem", self.result, I64(position), array)
            data = self._field(array, self.fields.data, POINTER)
            self.outputs.append(data)
            if self.tabled is not None:
                self.tabled.keep_output(position, data)

    def _new_array(self, spec: OutputSpec) -> Any:
        sizes = [self.size(size) for size in spec.shape]
        dims = self.table(sizes, I64)
        strides = NULL
        if not _is_contiguous(spec):
            itemsize = ARRAY_DTYPES[spec.dtype].itemsize
            strides = self.table([self.size(s * itemsize) for s in spec.strides], I64)
        number = I32(type_number(ARRAY_DTYPES[spec.dtype]))
        rank, zero = I32(len(sizes)), I32(0)
        kind = self.imported("PyArray_Type")
        return self.call("PyArray_New", kind, rank, dims, number, strides, NULL, zero, zero, NULL)

    # Steps ---------------------------------------------------------------------------------------

    def _run_steps(self) -> None:
        builder = self.builder
        self.status = self.table([I64(0)], I64)
        total = self._total_work()
        release = builder.icmp_signed(">=", total, I64(GIL_WORK))
        state = self._optional(release, lambda: self.call("PyEval_SaveThread"))
        self._take_arena()
        self.symbol_table = self.table([self.frame.axes[name] for name in self.symbols], I64)
        joined = self.tabled.batches() if self.tabled is not None else {}
        stop = 0
        for number, step in enumerate(self.plan.steps):
            if number < stop:
                continue  # done with its batch or product
            if number in joined:
                stop = joined[number].emit()
            elif isinstance(step, KernelCall):
                self._kernel(number, step)
            elif isinstance(step, Attention):
                self._attention(number, step)
            elif isinstance(self.codes[number], CompiledProduct):
                self._small(number, step)
            elif number in self.cuts:
                self._packed(number, step)
                stop = self.tiles.get(number, 0)
            else:
                self._gemm(number, step)
                stop = self.tiles.get(number, 0)
        builder.branch(self.failed)
        self._finish(release, state)

    def _optional(self, condition: Any, make: Any) -> Any:
        """The pointer that `make` emits where the condition holds, else null."""
        builder = self.builder
        before = builder.block
        with builder.if_then(condition):
            made = make()
            inside = builder.block
        merged = builder.phi(POINTER)
        merged.add_incoming(NULL, before)
        merged.add_incoming(made, inside)
        return merged

    def _finish(self, release: Any, state: Any) -> None:
        """Give everything back; then return, or report what `failed` was reached with."""
        builder = self.builder
        builder.position_at_end(self.failed)
        code = builder.load(self.status, typ=I64)
        if self.arena_is_taken:
            self.call("plait_arena_give", self.arena)
        with builder.if_then(release):
            self.call("PyEval_RestoreThread", state)
        with builder.if_then(builder.icmp_signed("!=", code, I64(0)), likely=False):
            self.call("Py_DecRef", self.result)
            number = self.call("PyLong_FromLongLong", code)
            self.call("PyObject_CallOneArg", self.on_failure, number)
            self.call("Py_DecRef", number)
            builder.ret(NULL)

    def _take_arena(self) -> None:
        packed = max((cut.nbytes for cut in self.cuts.values()), default=0)
        self.room = (self.plan.arena_bytes + 63) // 64 * 64  # packed operands lie behind the rest
        total = self.room + packed if packed else self.plan.arena_bytes
        size = as_int(total)
        self.arena_is_taken = size is None or size > STACK_ARENA_BYTES
        self.arena = NULL
        if self.arena_is_taken:
            self.arena = self.call("plait_arena_take", self.size(total))
        elif size:
            with self.builder.goto_entry_block():
                self.arena = self.builder.alloca(ir.ArrayType(I8, size))
            self.arena.align, self.arena.type = 64, POINTER
        if self.tabled is not None:
            self.tabled.keep_arena(self.arena)

    def _pointer(self, binding: Binding, dtype: str) -> Any:
        """Address that a binding stands for."""
        if isinstance(binding, ArenaRef):
            return self.builder.gep(self.arena, [self.size(binding.offset)], source_etype=I8)
        assert isinstance(binding, InputRef | OutputRef)
        offset = self.size(binding.offset * max(BITS[dtype] // 8, 1))
        if self.tabled is not None:
            return self.builder.gep(self.tabled.base(binding), [offset], source_etype=I8)
        table = self.inputs if isinstance(binding, InputRef) else self.outputs
        return self.builder.gep(table[binding.index], [offset], source_etype=I8)

    def _kernel(self, number: int, step: KernelCall) -> None:
        code = self.codes[number]
        assert isinstance(code, CompiledKernel)
        function = self.kernel_function(code)
        args, inner = self._arguments(step)
        items = emit_scalar(code.layout.items, inner)
        work = emit_scalar(code.layout.work, inner)
        if code.layout.serial:
            self.builder.call(function, [*args, I64(0), items])
        else:
            self._launch(function, args, items, work, code.layout.grain)
        if step.checks:
            self._leave_on_failure(number)

    def _arguments(self, step: KernelCall) -> tuple[tuple[Any, Any, Any], Frame]:
        """The first arguments of a kernel, and a frame with its sizes."""
        buffers = [
            self._pointer(b, parameter.dtype)
            for b, parameter in zip(step.buffers, step.kernel.buffers)
        ]
        sizes = [self.size(size) for size in step.sizes]
        args = (self.table(buffers, POINTER), self.table(sizes, I64), self.status)
        return args, Frame(None, self.frame.space, dict(zip(step.kernel.sizes, sizes)))

    def kernel_function(self, code: CompiledKernel | CompiledAttention | CompiledProduct) -> Any:
        """The declaration of code of its own."""
        return self._declared(code.name, KERNEL_TYPE)

    def _launch(
        self, function: Any, args: tuple[Any, ...], items: Any, work: Any, step: int
    ) -> None:
        """Run items here, or over the pool where there is enough work to share."""
        builder = self.builder
        large = builder.icmp_signed(">=", work, I64(PARALLEL_WORK))
        with builder.if_else(large) as (then, otherwise):
            with then:
                per_item = builder.sdiv(work, items)
                per_item = builder.add(per_item, I64(1))
                grain = builder.add(builder.sdiv(I64(CHUNK_WORK), per_item), I64(step))
                grain = builder.and_(grain, I64(-step))
                address = builder.bitcast(function, POINTER)
                self.call("plait_parallel_for", address, *args, items, grain)
            with otherwise:
                builder.call(function, [*args, I64(0), items])

    def _attention(self, number: int, step: Attention) -> None:
        code = self.codes[number]
        assert isinstance(code, CompiledAttention)
        buffers = [
            NULL if tensor is None else self._pointer(tensor.buffer, self._dtype(step, position))
            for position, tensor in enumerate(step.tensors)
        ]
        sizes = [self.size(size) for size in step.sizes]
        function = self.kernel_function(code)
        args = (self.table(buffers, POINTER), self.table(sizes, I64), self.status)
        items, work = self.size(attention_items(step)), self.size(attention_work(step))
        self._launch(function, args, items, work, 1)

    def _dtype(self, step: Attention, position: int) -> str:
        return step.form.mask if position == ATTENTION_MASK else step.form.dtype

    def _small(self, number: int, step: Gemm) -> None:
        code = self.codes[number]
        assert isinstance(code, CompiledProduct)
        buffers = [self._pointer(x.buffer, step.dtype) for x in (step.a, step.b, step.c)]
        p = code.product
        items = math.prod(p.batch)
        work = I64(items * p.m * p.n * p.k * GEMM_WORK)
        args = (self.table(buffers, POINTER), self.symbol_table, self.status)
        self._launch(self.kernel_function(code), args, I64(items), work, 1)

    def _gemm(self, number: int, step: Gemm) -> None:
        """A product by the library, with the kernel that is its epilogue if it has one."""
        epilogue, extra = self._epilogue(number + 1, step) if number in self.tiles else (None, [])
        name = f"gemm{number}"
        function = emit_gemm(self.module, step, name, self.symbols, self.blas, epilogue)
        operands = (step.a, step.b, step.c)
        buffers = [self._pointer(operand.buffer, step.dtype) for operand in operands]
        items, _ = gemm_items(step, self.frame, tiled=epilogue is not None)
        address = self.builder.bitcast(function, POINTER)
        args = (self.table([*buffers, *extra], POINTER), self.symbol_table, self.status)
        self.call("plait_blas_enter")
        self.call("plait_parallel_for", address, *args, items, I64(1))
        self.call("plait_blas_leave")

    def _packed(self, number: int, step: Gemm) -> None:
        """A product by packed code: the right operand is packed, then blocks of rows are made."""
        code, made = self.codes[number], self.cuts[number]
        assert isinstance(code, CompiledPacked)
        epilogue, extra = self._epilogue(number + 1, step) if number in self.tiles else (None, [])
        a, b, c = (self._pointer(x.buffer, step.dtype) for x in (step.a, step.b, step.c))
        room = self.builder.gep(self.arena, [self.size(self.room)], source_etype=I8)
        stride = step.b.row_stride if as_int(step.b.col_stride) == 1 else step.b.col_stride
        sizes = [self.size(size) for size in (step.n, step.k, stride)]
        work = I64(PACK_WORK * (as_int(step.n * step.k) or 0))
        args = (self.table([b, room], POINTER), self.table(sizes, I64), self.status)
        self._launch(self._declared(code.pack, KERNEL_TYPE), args, I64(made.panels), work, 1)
        multiply = self._declared(code.rows, ROWS_TYPE)
        function = emit_blocks(self.module, step, f"gemm{number}", (multiply, made), epilogue)
        address = self.builder.bitcast(function, POINTER)
        args = (self.table([a, room, c, *extra], POINTER), self.symbol_table, self.status)
        self.call("plait_parallel_for", address, *args, I64(made.blocks), I64(1))

    def _declared(self, name: str, kind: Any) -> Any:
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, kind, name)

    def _epilogue(self, number: int, product: Gemm) -> tuple[Any, list[Any]]:
        """A kernel as epilogue: its function, and what the product's table goes on with."""
        builder, step, code = self.builder, self.plan.steps[number], self.codes[number]
        assert isinstance(step, KernelCall) and isinstance(code, CompiledKernel)
        (buffers, sizes, _), inner = self._arguments(step)
        items, rows = emit_scalar(code.layout.items, inner), self.size(product.m)
        rows = builder.select(builder.icmp_signed(">", rows, I64(1)), rows, I64(1))
        each = self.table([builder.sdiv(items, rows)], I64)
        return self.kernel_function(code), [buffers, sizes, each]

    def _leave_on_failure(self, number: int) -> None:
        builder = self.builder
        code = builder.load(self.status, typ=I64)
        going_on = builder.append_basic_block("next")
        leaving = builder.append_basic_block("leaving")
        builder.cbranch(builder.icmp_signed("!=", code, I64(0)), leaving, going_on)
        builder.position_at_end(leaving)
        builder.store(builder.or_(code, I64(number << 32)), self.status)
        builder.branch(self.failed)
        builder.position_at_end(going_on)

    def _total_work(self) -> Any:
        builder = self.builder
        total: Any = I64(0)
        total_known = 0
        for step, code in zip(self.plan.steps, self.codes):
            if isinstance(step, Gemm):
                _, work = gemm_items(step, self.frame)
                work = builder.mul(work, I64(GEMM_WORK))
            elif isinstance(step, Attention):
                work = self.size(attention_work(step))
            else:
                assert isinstance(step, KernelCall) and isinstance(code, CompiledKernel)
                known = known_work(step, code)
                if known is not None:
                    total_known += known
                    continue
                values = {
                    name: self.size(size) for name, size in zip(step.kernel.sizes, step.sizes)
                }
                work = emit_scalar(code.layout.work, Frame(None, self.frame.space, values))
            total = builder.add(total, work)
        return builder.add(total, I64(total_known))


def _is_contiguous(spec: OutputSpec) -> bool:
    """Whether strides are row-major; they are passed to NumPy otherwise."""
    step: Expr | int = 1
    for size, stride in zip(reversed(spec.shape), reversed(spec.strides)):
        if stride != step and as_int(size) != 1:
            return False
        step = size * step
    return True
