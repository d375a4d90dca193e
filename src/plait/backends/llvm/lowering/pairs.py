"""Complex values as pairs of real stages, complex memory as real memory in which pairs are kept.

Everything that is computed is real. A complex input is a real buffer with one more dimension of
size 2, of which both parts are views; a complex result is written to such a buffer. Must not know
operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plait.backends.llvm.loop.builder import cast, literal
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.context import Context, meta_of, short, sizes
from plait.backends.llvm.lowering.stage import (
    Index,
    Piece,
    Reader,
    Stage,
    map_stage,
    rebased,
    root_of,
    view_stage,
)
from plait.ir.graph import Node, Value
from plait.symbolic.expr import Expr, const
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta

__all__ = [
    "COMPLEX",
    "Complex",
    "PartContext",
    "has_complex",
    "in_whole",
    "interleaved",
    "is_complex",
    "is_complex_value",
    "part_of",
    "part_type",
    "pair_in_memory",
    "whole_of",
]

COMPLEX = {"c64": "f32", "c128": "f64"}
_PART_TYPES = {"complex64": "f32", "complex128": "f64"}
ONE, TWO = const(1), const(2)


@dataclass(frozen=True, slots=True)
class Complex:
    """A complex value: its parts, of one shape and type, and the memory of both if it has some."""

    re: Stage
    im: Stage
    whole: Stage | None = None

    @property
    def parts(self) -> tuple[Stage, Stage]:
        """The real and the imaginary part."""
        return self.re, self.im

    @property
    def shape(self) -> tuple[Expr, ...]:
        """Sizes of the complex value."""
        return self.re.shape


def part_type(dtype: DType) -> str:
    """The loop IR's type of the parts of a complex element, or of a real element itself."""
    return _PART_TYPES.get(dtype.name) or short(dtype)


def is_complex_value(value: Value) -> bool:
    """Whether a graph value is a complex tensor."""
    return isinstance(value.type, TensorMeta) and value.type.dtype.is_complex


def has_complex(node: Node) -> bool:
    """Whether a call takes or gives complex tensors."""
    return any(map(is_complex_value, (*node.inputs(), *node.results)))


def interleaved(strides: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Strides of complex elements as those of their parts, which are neighbours."""
    return (*(stride * 2 for stride in strides), ONE)


def pair_in_memory(whole: Stage) -> Complex:
    """The complex value in a buffer whose last dimension holds the parts."""
    if whole.parts is not None:
        return Complex(*whole.parts, whole)
    shape = whole.shape[:-1]

    def part(name: str, number: int) -> Stage:
        strides = tuple(stride // 2 for stride in whole.strides[:-1])
        return view_stage(
            f"{whole.name}_{name}", "view", shape, whole, lambda i: (*i, const(number)),
            strides=strides,
        )  # fmt: skip

    return Complex(part("re", 0), part("im", 1), whole)


def whole_of(value: Value, pair: Complex) -> Stage:
    """The memory of a complex value: that of an input seen through views, or written here."""
    if pair.whole is not None:
        return pair.whole
    meta = meta_of(value)
    shape, strides = (*pair.shape, TWO), interleaved(sizes(meta.strides))
    root = root_of(pair.re)
    seen = root.kind == "input" and root.parts is not None and root_of(pair.im) is root
    if seen and _follows(pair.re) and _follows(pair.im):
        return view_stage(value.name, "view", shape, root, _both(pair.re), strides=strides)
    stage = Stage("assemble", value.name, "pair", shape, pair.re.dtype, strides=strides)
    pieces = [_copy(f"{value.name}_{name}", x) for name, x in zip(("re", "im"), pair.parts)]
    stage.pieces = tuple(Piece(x, _placed(k)) for k, x in enumerate(pieces))
    stage.inputs, stage.parts = tuple(pieces), pair.parts
    pair.re.owner, pair.im.owner = (stage, 0), (stage, 1)
    return stage


def in_whole(stage: Stage) -> Stage:
    """A view of a part of a complex number as a view of the memory of both parts."""
    part = stage
    while part.kind == "view" and part.owner is None:
        part = part.inputs[0]
    if part.owner is None:
        return stage
    whole, number = part.owner
    there = view_stage(part.name, "view", part.shape, whole, lambda i: (*i, const(number)))
    return rebased(stage, part, there)


def _copy(name: str, x: Stage) -> Stage:
    return map_stage(name, "pair", x.shape, x.dtype, [x], lambda read, i: read(x, i), cost=0)


def _placed(number: int) -> Callable[[Reader, Index], Index]:
    return lambda read, i: (*i, const(number))


def _follows(part: Stage) -> bool:
    """Whether a part of an input is still that part: views of views of it."""
    while part.kind == "view":
        part = part.inputs[0]
    return part.kind == "input"


def _both(part: Stage) -> Callable[[Index], Index]:
    """Where both parts lie, from where the real one does."""

    def remap(i: Index) -> Index:
        stage, position = part, i[:-1]
        while stage.remap is not None:
            position, stage = stage.remap(position), stage.inputs[0]
        return (*position[:-1], i[-1])

    return remap


def is_complex(item: Any) -> bool:
    """Whether an operand is a complex tensor or number."""
    return isinstance(item, Complex | complex)


def part_of(cx: Context, item: Any, number: int) -> Any:
    """The real (0) or imaginary (1) part of an operand: tensors, numbers, and lists of them."""
    if isinstance(item, list | tuple):
        return [part_of(cx, x, number) for x in item]
    if isinstance(item, Complex):
        return item.parts[number]
    if number == 0:
        return item.real if isinstance(item, complex) else item
    if isinstance(item, Stage):
        zero = literal(0, item.dtype)
        return map_stage(cx.name("none"), "zeros", item.shape, item.dtype, [], lambda r, i: zero)
    return item.imag if isinstance(item, complex) else 0


class PartContext(Context):
    """What a rule for real tensors sees when it makes one part of a complex result."""

    def __init__(self, node: Node, number: int) -> None:
        super().__init__(node)
        self.number = number

    def dtype(self, result: int = 0) -> str:
        """Type of the parts of a result."""
        return part_type(self.meta(result).dtype)

    def name(self, part: str = "", result: int = 0) -> str:
        """A name that tells the parts apart."""
        name = f"{super().name('', result)}_{('re', 'im')[self.number]}"
        return f"{name}_{part}" if part else name

    def map(
        self,
        name: str,
        body: Callable[[Reader, Index], Term],
        inputs: Sequence[Stage],
        like: Stage,
        *,
        cost: int = 2,
    ) -> Stage:
        """An intermediate map of the parts' type with the shape of `like`."""
        return map_stage(
            self.name(name), self.op, like.shape, self.dtype(), inputs, body, cost=cost
        )

    def converted(self, x: Stage) -> Stage:
        """`x` in the type of the parts of the result."""
        dtype = self.dtype()
        if x.dtype == dtype:
            return x
        return self.part("as", lambda a: cast(a, dtype), [x], dtype, like=x, cost=0)
