"""The way from graph nodes to stages: the table of rules, element types, and shared helpers.

A rule is a function of (context, arguments in the schema's order) returning one stage or a tuple of
stages. Tensor arguments arrive as stages, sizes as `Expr` or int. A rule that cannot lower a call
raises `Unsupported` with the reason; the call then runs eagerly. Must not know scheduling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from plait.backends.llvm.loop import builder as b
from plait.backends.llvm.loop.indexing import dense_or_contiguous
from plait.backends.llvm.loop.terms import Term, is_half
from plait.backends.llvm.lowering.stage import Body, Index, Reader, Stage, map_stage, view_stage
from plait.base.errors import RegistrationError
from plait.ir.graph import Node, Value
from plait.symbolic.expr import Expr, as_int, const, expr_of
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta

__all__ = [
    "RULES",
    "SHORT",
    "Context",
    "Decomposed",
    "Rule",
    "Unsupported",
    "broadcast",
    "compute_dtype",
    "lowers",
    "meta_of",
    "scalar_term",
    "short",
    "sizes",
]

Rule = Callable[..., Any]
ZERO, ONE = const(0), const(1)

# fmt: off
SHORT: dict[str, str] = {
    "bool_": "i1", "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64",
}
# fmt: on


class Unsupported(Exception):
    """This call cannot be lowered; the text says why."""


class Decomposed(Exception):
    """This call is lowered by its decomposition."""


RULES: dict[str, Rule] = {}


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators ("aten::sum": all overloads; "aten::sum.dim_IntList": one)."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise RegistrationError(f"{name}: two lowering rules; expected one.")
            RULES[name] = rule
        return rule

    return register


def short(dtype: DType) -> str:
    """The loop IR's name of an element type. Raises Unsupported."""
    name = SHORT.get(dtype.name)
    if name is None:
        raise Unsupported(f"element type {dtype.name} is not compiled")
    return name


def compute_dtype(dtype: str) -> str:
    """The type in which arithmetic on `dtype` is done."""
    return "f32" if is_half(dtype) else dtype


def sizes(values: Iterable[Any]) -> tuple[Expr, ...]:
    """A shape as expressions."""
    return tuple(expr_of(value) for value in values)


def meta_of(value: Value) -> TensorMeta:
    """The tensor type of a value."""
    assert isinstance(value.type, TensorMeta)
    return value.type


def broadcast(index: Index, shape: Sequence[Expr]) -> Index:
    """The index of an operand of `shape` inside a result of at least its rank."""
    tail = index[len(index) - len(shape) :]
    return tuple(ZERO if size is ONE and not _checks(i) else i for i, size in zip(tail, shape))


def _checks(i: Any) -> bool:
    """Whether an index must be kept, although 0 is all it may be: it may be wrong."""
    return isinstance(i, b.DynamicIndex) and i.size is ONE


def scalar_term(value: Any, dtype: str) -> Term:
    """A Python number or integer expression as a term of `dtype`."""
    if isinstance(value, Expr):
        return b.cast(b.index(value), dtype)
    if isinstance(value, complex):
        raise Unsupported("complex numbers are not compiled")
    return b.literal(value, dtype)


class Context:
    """What rules see: the node, its metadata, and constructors of stages."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.counter = itertools.count()

    @property
    def op(self) -> str:
        """The operator's short name."""
        return self.node.op.name.rsplit("::", 1)[-1]

    @property
    def source(self) -> str:
        """Where the user called the operator."""
        if not self.node.source:
            return ""
        file, line, function = self.node.source[-1]
        return f"{file}:{line} in {function}"

    def meta(self, result: int = 0) -> TensorMeta:
        """Type of a result."""
        return meta_of(self.node.results[result])

    def shape(self, result: int = 0) -> tuple[Expr, ...]:
        """Sizes of a result."""
        return sizes(self.meta(result).shape)

    def dtype(self, result: int = 0) -> str:
        """Element type of a result."""
        return short(self.meta(result).dtype)

    def strides(self, result: int = 0) -> tuple[Expr, ...]:
        """Strides of a result."""
        return sizes(self.meta(result).strides)

    def name(self, part: str = "", result: int = 0) -> str:
        """A name for a stage of this node."""
        base = self.node.results[result].name
        return f"{base}_{part}" if part else base

    def result(self, inputs: Sequence[Stage], body: Body, *, cost: int = 1, at: int = 0) -> Stage:
        """A map that is result `at` of the node."""
        shape, strides = self.shape(at), dense_or_contiguous(self.shape(at), self.strides(at))
        name, dtype = self.name(result=at), self.dtype(at)
        return map_stage(name, self.op, shape, dtype, inputs, body, strides=strides, cost=cost)

    def pointwise(
        self,
        fn: Callable[..., Term],
        operands: Sequence[Any],
        dtype: str,
        *,
        cost: int = 1,
        at: int = 0,
    ) -> Stage:
        """`fn` over the broadcast operands, each cast to `dtype`, as result `at`."""
        tensors = [x for x in operands if isinstance(x, Stage)]
        result = self.dtype(at)

        def body(read: Reader, index: Index) -> Term:
            terms = [operand_term(read, index, x, dtype) for x in operands]
            return b.cast(fn(*terms), result)

        return self.result(tensors, body, cost=cost, at=at)

    def part(
        self,
        name: str,
        fn: Callable[..., Term],
        operands: Sequence[Any],
        dtype: str,
        *,
        like: Stage,
        cost: int = 1,
    ) -> Stage:
        """An intermediate map with the shape of `like`; operands are cast to `dtype`."""
        tensors = [x for x in operands if isinstance(x, Stage)]

        def body(read: Reader, index: Index) -> Term:
            return b.cast(fn(*(operand_term(read, index, x, dtype) for x in operands)), dtype)

        strides = dense_or_contiguous(like.shape, like.strides)
        return map_stage(
            self.name(name), self.op, like.shape, dtype, tensors, body, strides=strides, cost=cost
        )

    def reindexed(
        self, source: Stage, shape: Sequence[Expr], remap: Callable[[Index], Index]
    ) -> Stage:
        """An anonymous view of `source`."""
        return view_stage(f"{source.name}_v{next(self.counter)}", "view", shape, source, remap)


def operand_term(read: Reader, index: Index, operand: Any, dtype: str) -> Term:
    """An operand, tensor or number, at the index of the result."""
    if isinstance(operand, Stage):
        return b.cast(read(operand, broadcast(index, operand.shape)), dtype)
    return scalar_term(operand, dtype)


def known_int(value: Any, what: str) -> int:
    """A size that must be a number. Raises Unsupported."""
    number = as_int(expr_of(value))
    if number is None:
        raise Unsupported(f"{what} is symbolic: {value}")
    return number
