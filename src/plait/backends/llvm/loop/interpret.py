"""What a kernel means: its evaluation over NumPy arrays, all points at once.

Every axis, also those of reductions, gets a dimension of its own and terms broadcast over them.
Slow and plain; the oracle of native code. Element types are NumPy's; integer overflow wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from plait.backends.llvm.loop.kernel import Kernel, Store
from plait.backends.llvm.loop.reference import BINARY, UNARY, philox_words, reduction
from plait.backends.llvm.loop.terms import Axis, GatherAttr, Term, walk
from plait.symbolic.expr import Expr

__all__ = ["ARRAY_DTYPES", "NUMPY_DTYPES", "CheckFailed", "interpret"]

Array = np.ndarray[Any, Any]

# fmt: off
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind) for name, kind in {
        "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
        "i1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
        "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    }.items()
}
# fmt: on
# Of arrays that come in and go out: kernels see a complex one as its parts.
ARRAY_DTYPES = NUMPY_DTYPES | {"c64": np.dtype(np.complex64), "c128": np.dtype(np.complex128)}


class CheckFailed(Exception):
    """A run-time check of a kernel failed; `code` says which."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def interpret(kernel: Kernel, buffers: Sequence[Array], sizes: Sequence[int]) -> None:
    """Run `kernel` on flat arrays (one per buffer) with the values of its size symbols.

    Raises CheckFailed when an index is out of range (nothing promised about what was written).
    """
    with np.errstate(all="ignore"):
        run = _Run(kernel, buffers, sizes)
        if any(run.extents[axis.name] == 0 for axis in kernel.axes):
            return
        values = [run.store_operands(store) for store in kernel.stores]
        for store, operands in zip(kernel.stores, values):
            run.write(store, *operands)


class _Run:
    """One evaluation: the position of every axis as an array along its own dimension."""

    def __init__(self, kernel: Kernel, buffers: Sequence[Array], sizes: Sequence[int]) -> None:
        self.kernel = kernel
        self.buffers = buffers
        self.axes = _all_axes(kernel)
        self.rank = len(self.axes)
        self.dims = {axis.name: dim for dim, axis in enumerate(self.axes)}
        self.values: dict[str, Any] = dict(zip(kernel.sizes, map(int, sizes), strict=True))
        self.extents: dict[str, int] = {}
        self.ragged: dict[str, Array] = {}
        self.results: dict[int, Array] = {}
        for axis in self.axes:
            self._place(axis)

    def _place(self, axis: Axis) -> None:
        extent = self.integers(axis.extent)
        if isinstance(extent, np.ndarray) and extent.ndim:
            self.ragged[axis.name] = extent
            extent = extent.max(initial=0)
        self.extents[axis.name] = int(extent)
        shape = [1] * self.rank
        shape[self.dims[axis.name]] = int(extent)
        self.values[axis.name] = np.arange(int(extent)).reshape(shape)

    def integers(self, expr: Expr) -> Any:
        """The value of an integer expression at every point."""
        return _evaluate(expr, self.values)

    def term(self, term: Term) -> Array:
        """The value of a term at every point it depends on."""
        for part in walk(term):
            if id(part) not in self.results:
                self.results[id(part)] = self._compute(part)
        return self.results[id(term)]

    def _compute(self, term: Term) -> Array:
        args = [self.results[id(arg)] for arg in term.args]
        dtype = NUMPY_DTYPES[term.dtype]
        special: Callable[..., Array] | None = getattr(self, f"_{term.op}", None)
        if special is not None:
            return special(term, *args)
        table: dict[str, Callable[..., Any]] = UNARY if len(args) == 1 else BINARY
        return np.asarray(table[term.op](*args)).astype(dtype, copy=False)

    def _const(self, term: Term) -> Array:
        return np.full((1,) * self.rank, term.attr, NUMPY_DTYPES[term.dtype])

    def _index(self, term: Term) -> Array:
        return self._shaped(self.integers(term.attr))

    def _shaped(self, value: Any) -> Array:
        array = np.asarray(value, np.int64)
        return array if array.ndim == self.rank else array.reshape((1,) * self.rank)

    def _load(self, term: Term, mask: Array | None = None) -> Array:
        buffer, offset = term.attr
        return self._read(buffer, self._shaped(self.integers(offset)), term, mask)

    def _gather(self, term: Term, *args: Array) -> Array:
        attr = term.attr
        assert isinstance(attr, GatherAttr)
        mask = args[len(attr.dims)] if len(args) > len(attr.dims) else None
        position = self._shaped(self.integers(attr.base))
        for value, dim in zip(args, attr.dims):
            stride, size = self.integers(dim.stride), self.integers(dim.size)
            position = position + self._checked(value, size, dim.wraps, attr.check, mask) * stride
        return self._read(attr.buffer, position, term, mask)

    def _checked(
        self, value: Array, size: Any, wraps: bool, code: int | None, mask: Array | None
    ) -> Array:
        """An index after wrapping; CheckFailed if it is outside its size at a point that counts."""
        value = value.astype(np.int64)
        if wraps:
            value = np.where(value < 0, value + size, value)
        bad = (value < 0) | (value >= size)
        if mask is not None:
            bad = bad & mask
        if bad.any() and code is not None:
            raise CheckFailed(code)
        return np.where(bad, 0, value)

    def _read(self, buffer: int, position: Array, term: Term, mask: Array | None) -> Array:
        memory = self.buffers[buffer]
        outside = term.symbols & self.ragged.keys()
        if mask is not None or outside:
            position = np.clip(position, 0, max(memory.size - 1, 0))
        if memory.size == 0:
            return np.zeros(position.shape, NUMPY_DTYPES[term.dtype])
        value = memory[position]
        return value if mask is None else np.where(mask, value, np.zeros((), value.dtype))

    def _cast(self, term: Term, value: Array) -> Array:
        return value.astype(NUMPY_DTYPES[term.dtype])

    def _bitcast(self, term: Term, value: Array) -> Array:
        return value.view(NUMPY_DTYPES[term.dtype])

    def _select(self, term: Term, condition: Array, if_true: Array, if_false: Array) -> Array:
        return np.where(condition, if_true, if_false)

    def _fma(self, term: Term, a: Array, b: Array, c: Array) -> Array:
        wide = a.astype(np.longdouble) * b + c
        return wide.astype(NUMPY_DTYPES[term.dtype])

    def _philox(self, term: Term, seed: Array, call: Array) -> Array:
        element = self._shaped(self.integers(term.attr))
        return philox_words(seed, call, element)

    def _reduce(self, term: Term, body: Array) -> Array:
        kind, axis = term.attr
        dim, extent = self.dims[axis.name], self.extents[axis.name]
        shape = list(body.shape)
        if axis.name in self.ragged:
            shape = list(np.broadcast_shapes(tuple(shape), self.ragged[axis.name].shape))
        shape[dim] = extent
        body = np.broadcast_to(body, shape)
        inside = None
        if axis.name in self.ragged:
            inside = np.broadcast_to(self.values[axis.name] < self.ragged[axis.name], shape)
        return reduction(kind, body, dim, inside, NUMPY_DTYPES[term.dtype])

    def store_operands(self, store: Store) -> tuple[Array, Array]:
        """(positions, values) of a store, over its axes."""
        position = self._shaped(self.integers(store.offset))
        for index in store.indices:
            value, dim = self.term(index.term), index.dim
            size, stride = self.integers(dim.size), self.integers(dim.stride)
            position = position + self._checked(value, size, dim.wraps, store.check, None) * stride
        value = self.term(store.value)
        shape = [1] * self.rank
        for axis in self.kernel.axes[: store.depth]:
            shape[self.dims[axis.name]] = self.extents[axis.name]
        return np.broadcast_to(position, shape), np.broadcast_to(value, shape)

    def write(self, store: Store, position: Array, value: Array) -> None:
        """Carry out a store."""
        if store.kind == "add":
            if store.run is not None:  # each place is set by the first row that comes to it
                self.buffers[store.buffer][position] = 0
            np.add.at(self.buffers[store.buffer], position.ravel(), value.ravel())
        else:
            self.buffers[store.buffer][position] = value


def _all_axes(kernel: Kernel) -> list[Axis]:
    """Parallel axes, then those of reductions, each name once."""
    axes = {axis.name: axis for axis in kernel.axes}
    for term in walk(*kernel.roots()):
        if term.op == "reduce":
            axis: Axis = term.attr[1]
            axes.setdefault(axis.name, axis)
    return list(axes.values())


def _evaluate(expr: Expr, values: dict[str, Any]) -> Any:
    """`expr` where symbols stand for ints or arrays."""
    total: Any = 0
    for monomial, coefficient in expr.terms.items():
        part: Any = coefficient
        for atom in monomial:
            part = part * _atom(atom, values)
        total = total + part
    return total


def _atom(atom: Expr, values: dict[str, Any]) -> Any:
    if atom.op == "Symbol":
        return values[str(atom)]
    args = [_evaluate(arg, values) for arg in atom.args]
    if atom.op == "FloorDiv":
        return np.floor_divide(*args)
    if atom.op == "Mod":
        return np.mod(*args)
    fold = np.minimum if atom.op == "Min" else np.maximum
    result = args[0]
    for arg in args[1:]:
        result = fold(result, arg)
    return result
