"""Matrix products as kernels: a function over items, each one block of one matrix of the batch.

    void gemm(ptr buffers {a, b, c}, ptr symbols, ptr status, i64 begin, i64 end)

Blocks are rows of the result, or columns where there are more of those; how many depends on the
shape alone. With a BLAS each item is one call of it, else three plain loops.

A product with an epilogue is cut by rows only. Its table of buffers goes on with the kernel's own
buffers, the kernel's sizes, and a count: the kernel's items for one row. Blocks of 256 rows stay in
a cache of the second level; smaller ones pack the other operand too often (128 rows cost 4 %, 64
rows 12 % more than no blocks at all).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.native.blas import Blas
from plait.backends.llvm.native.emit import KERNEL_TYPE
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar
from plait.backends.llvm.native.emit_memory import POINTER
from plait.backends.llvm.native.vector import Space, element_type
from plait.backends.llvm.plan import Gemm, Operand
from plait.symbolic.expr import Expr, as_int, const

__all__ = ["emit_blocks", "emit_gemm", "gemm_items"]

I1 = ir.IntType(1)
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112
SPLIT_WORK = 1 << 20
"""Multiply-adds from which a product is split into blocks."""
BLOCK = 512
"""Rows or columns of a block: smaller ones pack the other matrix too often."""
TILE = 256
"""Rows of a block that is followed by its epilogue."""


class _Shape(NamedTuple):
    """Sizes of one product as i64, and how it is cut."""

    m: Any
    n: Any
    k: Any
    by_rows: Any
    blocks: Any


def _shape(step: Gemm, frame: Frame, *, tiled: bool) -> _Shape:
    builder = frame.space.builder
    m, n, k = (emit_scalar(size, frame) for size in (step.m, step.n, step.k))
    by_rows = I1(1) if tiled else builder.icmp_signed(">=", m, n)
    work = builder.mul(builder.mul(m, n), k)
    longer = m if tiled else builder.select(by_rows, m, n)
    pieces = builder.sdiv(longer, I64(TILE if tiled else BLOCK))
    pieces = builder.select(builder.icmp_signed(">", pieces, I64(2)), pieces, I64(2))
    large = builder.icmp_signed(">=", work, I64(SPLIT_WORK))
    large = builder.and_(large, builder.icmp_signed(">=", longer, I64(128)))
    return _Shape(m, n, k, by_rows, builder.select(large, pieces, I64(1)))


def gemm_items(step: Gemm, frame: Frame, *, tiled: bool = False) -> tuple[Any, Any]:
    """(items, multiply-adds) of a product as i64; `tiled`: of one with an epilogue."""
    builder = frame.space.builder
    shape = _shape(step, frame, tiled=tiled)
    batch = emit_scalar(_product(step.batch), frame)
    work = builder.mul(builder.mul(shape.m, shape.n), shape.k)
    return builder.mul(batch, shape.blocks), builder.mul(batch, work)


def _product(sizes: tuple[Expr, ...]) -> Expr:
    total = const(1)
    for size in sizes:
        total = total * size
    return total


def emit_gemm(
    module: Any,
    step: Gemm,
    name: str,
    symbols: tuple[str, ...],
    blas: Blas | None,
    epilogue: Any = None,
) -> Any:
    """Add the function of a product to a module; `epilogue` is the kernel to run on each block."""
    function = ir.Function(module, KERNEL_TYPE, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    buffers, table, status, begin, end = function.args
    values = {
        symbol: builder.load(builder.gep(table, [I64(k)], source_etype=I64), typ=I64)
        for k, symbol in enumerate(symbols)
    }
    frame = Frame(None, Space(builder, 1), values)
    pointers = [
        builder.load(builder.gep(buffers, [I64(k)], source_etype=POINTER), typ=POINTER)
        for k in range(3 if epilogue is None else 6)
    ]
    product = _Product(step, frame, pointers[:3], blas, tiled=epilogue is not None)

    def item(number: Any) -> None:
        rows = product.item(number)
        if epilogue is not None:
            _follow(builder, epilogue, pointers[3:], status, rows)

    counted(builder, begin, end, item)
    builder.ret_void()
    return function


def _follow(
    builder: Any, epilogue: Any, pointers: list[Any], status: Any, rows: tuple[Any, Any]
) -> None:
    """Run an epilogue on (first row, rows); pointers: its buffers, its sizes, its items a row."""
    each = builder.load(pointers[2], typ=I64)
    first, last = builder.mul(rows[0], each), builder.mul(builder.add(*rows), each)
    builder.call(epilogue, [*pointers[:2], status, first, last])


def emit_blocks(
    module: Any, step: Gemm, name: str, made: tuple[Any, Any], epilogue: Any = None
) -> Any:
    """Add the function over blocks of rows of a product with packed code, as `emit_gemm` does.

    made: the declared function that multiplies rows, and how the product is cut. The second of the
    buffers is the packed operand.
    """
    multiply, cut = made
    function = ir.Function(module, KERNEL_TYPE, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    buffers, _, status, begin, end = function.args
    pointers = [
        builder.load(builder.gep(buffers, [I64(k)], source_etype=POINTER), typ=POINTER)
        for k in range(3 if epilogue is None else 6)
    ]
    element = element_type(step.dtype)
    m, n, k, row_a, column_a, row_c = (
        I64(as_int(x))
        for x in (step.m, step.n, step.k, step.a.row_stride, step.a.col_stride, step.c.row_stride)
    )
    stride = row_a if as_int(step.a.col_stride) == 1 else column_a

    def item(number: Any) -> None:
        start = builder.mul(number, I64(cut.rows))
        rest = builder.sub(m, start)
        count = builder.select(builder.icmp_signed("<", rest, I64(cut.rows)), rest, I64(cut.rows))
        a, c = (
            builder.gep(pointer, [builder.mul(start, step)], source_etype=element)
            for pointer, step in ((pointers[0], row_a), (pointers[2], row_c))
        )
        builder.call(multiply, [a, stride, pointers[1], c, row_c, count, n, k])
        if epilogue is not None:
            _follow(builder, epilogue, pointers[3:], status, (start, count))

    counted(builder, begin, end, item)
    builder.ret_void()
    return function


def counted(builder: Any, begin: Any, end: Any, body: Any) -> None:
    """for (i = begin; i < end; i++) body(i)."""
    before = builder.block
    check, inner, after = (builder.append_basic_block(n) for n in ("check", "inner", "after"))
    builder.branch(check)
    builder.position_at_end(check)
    index = builder.phi(I64)
    index.add_incoming(begin, before)
    builder.cbranch(builder.icmp_signed("<", index, end), inner, after)
    builder.position_at_end(inner)
    body(index)
    index.add_incoming(builder.add(index, I64(1)), builder.block)
    builder.branch(check)
    builder.position_at_end(after)


class _Product:
    """Emits one item of one product."""

    def __init__(
        self, step: Gemm, frame: Frame, pointers: list[Any], blas: Blas | None, *, tiled: bool
    ) -> None:
        self.step = step
        self.frame = frame
        self.builder = frame.space.builder
        self.pointers = pointers
        self.blas = blas
        self.element = element_type(step.dtype)
        self.shape = _shape(step, frame, tiled=tiled)

    def scalar(self, expr: Expr) -> Any:
        """A size or stride as i64."""
        return emit_scalar(expr, self.frame)

    def item(self, item: Any) -> tuple[Any, Any]:
        """Block `item % blocks` of matrix `item // blocks`; returns its (first row, rows)."""
        builder, shape = self.builder, self.shape
        number, block = builder.udiv(item, shape.blocks), builder.urem(item, shape.blocks)
        rows = self._range(block, shape.m, shape.by_rows)
        columns = self._range(block, shape.n, builder.not_(shape.by_rows))
        step = self.step
        a, b, c = (
            self._matrix(pointer, operand, number)
            for pointer, operand in zip(self.pointers, (step.a, step.b, step.c))
        )
        a = self._move(a, rows[0], step.a.row_stride)
        b = self._move(b, columns[0], step.b.col_stride)
        c = self._move(self._move(c, rows[0], step.c.row_stride), columns[0], step.c.col_stride)
        sizes = (rows[1], columns[1], shape.k)
        if self.blas is not None:
            self._call(sizes, a, b, c)
        else:
            self._loops(sizes, a, b, c)
        return rows

    def _range(self, block: Any, size: Any, is_cut: Any) -> tuple[Any, Any]:
        """(start, length) of a block of rows or columns; everything where it is not cut."""
        builder, blocks = self.builder, self.shape.blocks
        length = builder.sdiv(builder.add(size, builder.sub(blocks, I64(1))), blocks)
        length = builder.and_(builder.add(length, I64(15)), I64(-16))
        start = self._least(builder.mul(block, length), size)
        rest = self._least(builder.sub(size, start), length)
        return builder.select(is_cut, start, I64(0)), builder.select(is_cut, rest, size)

    def _least(self, left: Any, right: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def _move(self, pointer: Any, count: Any, stride: Expr) -> Any:
        offset = self.builder.mul(count, self.scalar(stride))
        return self.builder.gep(pointer, [offset], source_etype=self.element)

    def _matrix(self, pointer: Any, operand: Operand, number: Any) -> Any:
        """Where matrix `number` of the batch begins."""
        for size, stride in reversed(list(zip(self.step.batch, operand.batch_strides))):
            extent = self.scalar(size)
            pointer = self._move(pointer, self.builder.urem(number, extent), stride)
            number = self.builder.udiv(number, extent)
        return pointer

    def _layout(self, operand: Operand, rows: Any, columns: Any) -> tuple[int, Any]:
        """(transpose flag, leading dimension) of an operand with unit stride one way."""
        if as_int(operand.col_stride) == 1:
            flag, leading, least = NO_TRANSPOSE, operand.row_stride, columns
        else:
            flag, leading, least = TRANSPOSE, operand.col_stride, rows
        known = self.builder.select(
            self.builder.icmp_signed(">", self.scalar(leading), least), self.scalar(leading), least
        )
        return flag, self._at_least_one(known)

    def _call(self, sizes: tuple[Any, Any, Any], a: Any, b: Any, c: Any) -> None:
        """One call of the library: a matrix by a vector where a side is 1, else a product."""
        step = self.step
        if (as_int(step.k) or 0) > 0 and as_int(step.n) == 1:
            operand, inner, outer = step.a, step.b.row_stride, step.c.row_stride
            self._vector_call(operand, (sizes[0], sizes[2]), (a, b, c), (inner, outer))
        elif (as_int(step.k) or 0) > 0 and as_int(step.m) == 1:
            b_rows = Operand(step.b.buffer, step.b.col_stride, step.b.row_stride)
            strides = (step.a.col_stride, step.c.col_stride)
            self._vector_call(b_rows, (sizes[1], sizes[2]), (b, a, c), strides)
        else:
            self._matrix_call(sizes, a, b, c)

    def _vector_call(
        self,
        operand: Operand,
        sizes: tuple[Any, Any],
        pointers: tuple[Any, Any, Any],
        strides: tuple[Expr, Expr],
    ) -> None:
        """y = alpha M x + beta y with M of `sizes`; pointers are M, x, y; strides those of x, y."""
        step, flag = self.step, ir.IntType(32)
        rows, columns = sizes
        transpose, leading = self._layout(operand, rows, columns)
        stored = (rows, columns) if transpose == NO_TRANSPOSE else (columns, rows)
        steps = [self._integer(self._at_least_one(self.scalar(s))) for s in strides]
        matrix, x, y = pointers
        alpha, beta = self.element(step.alpha), self.element(step.beta)
        args = [flag(ROW_MAJOR), flag(transpose), *map(self._integer, stored), alpha, matrix]
        args += [self._integer(leading), x, steps[0], beta, y, steps[1]]
        self._library("gemv", args)

    def _library(self, name: str, args: list[Any]) -> None:
        module = self.builder.module
        full = f"plait_{name}_{self.step.dtype}"
        found = module.globals.get(full)
        if found is None:
            kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
            found = ir.Function(module, kind, full)
        self.builder.call(found, args)

    def _at_least_one(self, value: Any) -> Any:
        positive = self.builder.icmp_signed(">", value, I64(1))
        return self.builder.select(positive, value, I64(1))

    def _matrix_call(self, sizes: tuple[Any, Any, Any], a: Any, b: Any, c: Any) -> None:
        step = self.step
        m, n, k = sizes
        full = self.shape
        a_flag, a_leading = self._layout(step.a, full.m, full.k)
        b_flag, b_leading = self._layout(step.b, full.k, full.n)
        _, c_leading = self._layout(step.c, full.m, full.n)
        flag = ir.IntType(32)
        alpha, beta = self.element(step.alpha), self.element(step.beta)
        integers = [self._integer(v) for v in (m, n, k, a_leading, b_leading, c_leading)]
        args = [flag(ROW_MAJOR), flag(a_flag), flag(b_flag), *integers[:3], alpha]
        args += [a, integers[3], b, integers[4], beta, c, integers[5]]
        self._library("gemm", args)

    def _integer(self, value: Any) -> Any:
        assert self.blas is not None
        if self.blas.integer_bits == 64:
            return value
        return self.builder.trunc(value, ir.IntType(32))

    def _loops(self, sizes: tuple[Any, Any, Any], a: Any, b: Any, c: Any) -> None:
        """c = alpha a b + beta c, row by row: for machines without a BLAS."""
        builder, step = self.builder, self.step
        m, n, k = sizes

        def cell(row: Any, column: Any) -> None:
            place = self._move(self._move(c, row, step.c.row_stride), column, step.c.col_stride)
            with builder.goto_entry_block():
                total = builder.alloca(self.element)
            total.type = POINTER
            builder.store(self.element(0.0), total)

            def term(index: Any) -> None:
                left = self._move(self._move(a, row, step.a.row_stride), index, step.a.col_stride)
                right = self._move(
                    self._move(b, index, step.b.row_stride), column, step.b.col_stride
                )
                factors = [builder.load(p, typ=self.element) for p in (left, right)]
                sum_ = builder.fadd(builder.load(total, typ=self.element), builder.fmul(*factors))
                builder.store(sum_, total)

            counted(builder, I64(0), k, term)
            value = builder.fmul(builder.load(total, typ=self.element), self.element(step.alpha))
            if step.beta:
                old = builder.load(place, typ=self.element)
                value = builder.fadd(value, builder.fmul(old, self.element(step.beta)))
            builder.store(value, place)

        counted(builder, I64(0), m, lambda row: counted(builder, I64(0), n, lambda j: cell(row, j)))
