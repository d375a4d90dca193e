"""Running a plan with NumPy and the loop interpreter: the oracle of native entries.

Plain and slow; buffers are flat arrays over the memory of inputs, outputs and one arena.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.backends.llvm.attention_reference import attend, attend_backward
from plait.backends.llvm.loop.interpret import (
    ARRAY_DTYPES,
    NUMPY_DTYPES,
    CheckFailed,
    interpret,
)
from plait.backends.llvm.plan import (
    ATTENTION_MASK,
    ArenaRef,
    Attention,
    Binding,
    Check,
    Gemm,
    InputRef,
    KernelCall,
    Operand,
    Plan,
)
from plait.symbolic.expr import Expr

__all__ = ["InterpretedEntry"]

Array = np.ndarray[Any, Any]


class InterpretedEntry:
    """`entry(*inputs)` -> tuple of arrays, as the native entry does it."""

    def __init__(self, plan: Plan, raise_check: Callable[[Check], None]) -> None:
        self.plan = plan
        self.raise_check = raise_check

    def __call__(self, *inputs: Any) -> tuple[Array, ...]:
        """Run the plan on arrays and ints, in the order of `plan.inputs`."""
        return _Call(self.plan, inputs).run(self.raise_check)


class _Call:
    def __init__(self, plan: Plan, inputs: Sequence[Any]) -> None:
        self.plan = plan
        self.values = {
            s.name: int(inputs[s.input] if s.dim is None else inputs[s.input].shape[s.dim])
            for s in plan.symbols
        }
        self.inputs: list[Any] = [x if isinstance(x, int) else flat_memory(x) for x in inputs]
        self.shapes = [
            (tuple(map(self.size, o.shape)), tuple(map(self.size, o.strides))) for o in plan.outputs
        ]
        self.outputs = [
            np.zeros(int(np.prod(shape, dtype=np.int64)), ARRAY_DTYPES[spec.dtype])
            for (shape, _), spec in zip(self.shapes, plan.outputs)
        ]
        self.arena = np.zeros(self.size(plan.arena_bytes), np.uint8)

    def size(self, expr: Expr) -> int:
        """The value of a size expression."""
        return expr.evaluate(self.values)

    def run(self, raise_check: Callable[[Check], None]) -> tuple[Array, ...]:
        """All steps in order, then the outputs with their strides."""
        for step in self.plan.steps:
            if isinstance(step, Gemm):
                self.product(step)
            elif isinstance(step, Attention):
                self.attention(step)
            else:
                try:
                    self.kernel(step)
                except CheckFailed as failure:
                    raise_check(step.checks[failure.code])
                    raise
        return tuple(
            np.lib.stride_tricks.as_strided(
                memory, shape, [stride * memory.itemsize for stride in strides]
            )
            for memory, (shape, strides) in zip(self.outputs, self.shapes)
        )

    def memory(self, place: Binding, dtype: str) -> Array:
        """The flat array that starts at a binding."""
        if isinstance(place, ArenaRef):
            kind = NUMPY_DTYPES[dtype]
            rest = self.arena[self.size(place.offset) :]
            return rest[: len(rest) // kind.itemsize * kind.itemsize].view(kind)
        source: list[Any] = self.inputs if isinstance(place, InputRef) else self.outputs
        memory: Array = source[place.index]
        if memory.dtype.kind == "c":
            memory = memory.view(memory.real.dtype)
        return memory[self.size(place.offset) :]

    def kernel(self, step: KernelCall) -> None:
        """Interpret one kernel."""
        params = zip(step.buffers, step.kernel.buffers)
        buffers = [self.memory(place, param.dtype) for place, param in params]
        interpret(step.kernel, buffers, [self.size(size) for size in step.sizes])

    def product(self, step: Gemm) -> None:
        """One matrix product, maybe batched."""
        batch = tuple(map(self.size, step.batch))
        m, n, k = self.size(step.m), self.size(step.n), self.size(step.k)
        a = self.matrix(step.a, step.dtype, (*batch, m, k))
        b = self.matrix(step.b, step.dtype, (*batch, k, n))
        c = self.matrix(step.c, step.dtype, (*batch, m, n))
        result = step.alpha * np.matmul(a, b)
        c[...] = result + step.beta * c if step.beta else result

    def attention(self, step: Attention) -> None:
        """Attention of all heads, or its derivatives."""
        sizes = [self.size(size) for size in (step.batch, step.heads, step.queries, step.keys)]
        arrays: list[Array | None] = []
        for tensor, shape in zip(step.tensors, step.shapes(*sizes), strict=True):
            if tensor is None:
                arrays.append(None)
                continue
            dtype = "i1" if len(arrays) == ATTENTION_MASK and step.form.mask == "i1" else ""
            memory = self.memory(tensor.buffer, dtype or step.form.dtype)
            steps = [self.size(stride) * memory.itemsize for stride in tensor.strides]
            arrays.append(np.lib.stride_tricks.as_strided(memory, shape, steps))
        (attend_backward if step.form.backward else attend)(step.form, arrays)

    def matrix(self, operand: Operand, dtype: str, shape: tuple[int, ...]) -> Array:
        """An operand as a strided array."""
        memory = self.memory(operand.buffer, dtype)
        strides = (*operand.batch_strides, operand.row_stride, operand.col_stride)
        steps = [self.size(stride) * memory.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(memory, shape, steps)


def flat_memory(array: Array) -> Array:
    """All memory from the first element of `array` to its last, as one dimension."""
    extent = 1
    for size, stride in zip(array.shape, array.strides):
        if size == 0:
            return np.zeros(0, array.dtype)
        extent += (size - 1) * (stride // array.itemsize)
    return np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))
