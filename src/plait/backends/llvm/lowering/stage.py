"""Stages: what one value of a graph computes, as a function of its indices.

Lowering turns every graph value into a stage; scheduling decides which stages become buffers and
which are computed where they are read. A stage never says where it is stored. Must not know
operators.

| kind | meaning |
|---|---|
| input | memory given by the caller |
| map | `body(read, index)` is the element at `index` |
| view | the element of `inputs[0]` at `remap(index)`: index arithmetic only |
| reduce | `inputs[0]` reduced over `dims` (removed from the shape) |
| gemm | batched matrix product of `inputs[0]` and `inputs[1]` |
| assemble | a buffer written piece by piece (cat, scatter) |
| attention | `inputs` as one step; this is its first result |
| result | another result of the attention stage `inputs[0]` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from plait.backends.llvm.loop.indexing import contiguous, dense_order
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.plan import Check
from plait.symbolic.expr import Expr, product

__all__ = [
    "DEAR",
    "AttentionCall",
    "Body",
    "Index",
    "NotIndexable",
    "Piece",
    "Reader",
    "Stage",
    "map_stage",
    "rebased",
    "root_of",
    "view_stage",
]

Shape = tuple[Expr, ...]
# Every entry is an Expr, or a DynamicIndex, on which arithmetic fails: such an index can only be
# passed on (see NotIndexable). Any, so that index arithmetic reads plainly.
Index: TypeAlias = tuple[Any, ...]
Kind = Literal["input", "map", "view", "reduce", "gemm", "assemble", "attention", "result"]

DEAR = 8  # cost of a transcendental function, where an addition is 1


class NotIndexable(Exception):
    """A value cannot be computed at an index known only at run time: `stage` must be in memory."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.name)
        self.stage = stage


class Reader(Protocol):
    """Hands a body the elements of other stages; decides between loading and computing."""

    def __call__(self, stage: Stage, index: Index, mask: Term | None = None) -> Term:
        """The element of `stage` at `index`; only needed where `mask` holds."""

    def check(self, failure: Check) -> int:
        """A code of the kernel that reports `failure`."""


Body = Callable[[Reader, Index], Term]


class Piece(NamedTuple):
    """One write of an assembled stage: every element of `source` goes to `place` of its index."""

    source: Stage
    place: Callable[[Reader, Index], Index]
    kind: Literal["set", "put", "add", "sum"] = "set"
    """"set": disjoint places; "put" and "add": places may meet, in order; "sum": sums of what
    meets, and the places of rows meet within a chunk of them only.
    """
    reads: tuple[Stage, ...] = ()
    """Stages that `place` reads."""
    row: Callable[[Index], Expr] | None = None
    """Number of the row of an index, for "sum"."""
    chunk: int = 0
    """Rows of a chunk, for "sum"."""


class AttentionCall(NamedTuple):
    """What an attention stage is, beside its inputs: query, key, value, the mask if there is one,
    and (backward) grad_out, out, logsumexp.
    """

    backward: bool
    scale: float
    is_causal: bool
    has_mask: bool


class Stage:
    """One value. `strides` are those it gets when it is stored (dense).

    `is_copy`: a map that gives the elements of its input unchanged, at the same indices.
    `owner`: the memory of a complex number whose part this is, and which of the two.
    `parts`: where the last dimension holds complex numbers, their real and imaginary parts.
    """

    __slots__ = (
        "attention",
        "body",
        "cost",
        "dims",
        "dtype",
        "inputs",
        "is_copy",
        "kind",
        "name",
        "op",
        "owner",
        "parts",
        "pieces",
        "ragged",
        "reduction",
        "remap",
        "result",
        "shape",
        "strides",
    )

    def __init__(
        self,
        kind: Kind,
        name: str,
        op: str,
        shape: Sequence[Expr],
        dtype: str,
        inputs: Sequence[Stage] = (),
        *,
        strides: Sequence[Expr] | None = None,
        cost: int = 1,
    ) -> None:
        self.kind = kind
        self.name = name
        self.op = op
        self.shape: Shape = tuple(shape)
        self.dtype = dtype
        self.inputs = tuple(inputs)
        self.strides: Shape = contiguous(self.shape) if strides is None else tuple(strides)
        self.cost = cost
        self.body: Body | None = None
        self.remap: Callable[[Index], Index] | None = None
        self.reduction = ""
        self.dims: tuple[int, ...] = ()
        self.ragged: tuple[int, Callable[[Index], Expr]] | None = None
        self.pieces: tuple[Piece, ...] = ()
        self.is_copy = False
        self.attention: AttentionCall | None = None
        self.result = 0
        """Which result of its attention stage this is."""
        self.owner: tuple[Stage, int] | None = None
        self.parts: tuple[Stage, Stage] | None = None

    @property
    def numel(self) -> Expr:
        """Number of elements."""
        return product(self.shape)

    @property
    def order(self) -> tuple[int, ...]:
        """Dimensions from slowest to fastest in memory."""
        return dense_order(self.shape, self.strides)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"<{self.kind} {self.name}: {self.dtype}[{sizes}] {self.op}>"


def map_stage(
    name: str,
    op: str,
    shape: Sequence[Expr],
    dtype: str,
    inputs: Sequence[Stage],
    body: Body,
    *,
    strides: Sequence[Expr] | None = None,
    cost: int = 1,
) -> Stage:
    """An elementwise computation."""
    stage = Stage("map", name, op, shape, dtype, inputs, strides=strides, cost=cost)
    stage.body = body
    return stage


def view_stage(
    name: str,
    op: str,
    shape: Sequence[Expr],
    source: Stage,
    remap: Callable[[Index], Index],
    *,
    strides: Sequence[Expr] | None = None,
) -> Stage:
    """Another way to index `source`."""
    stage = Stage("view", name, op, shape, source.dtype, (source,), strides=strides, cost=0)
    stage.remap = remap
    return stage


def rebased(x: Stage, old: Stage, new: Stage) -> Stage:
    """The views that make up `x` over `old`, over `new` in its place."""
    if x is old:
        return new
    assert x.remap is not None
    source = rebased(x.inputs[0], old, new)
    return view_stage(x.name, x.op, x.shape, source, x.remap, strides=x.strides)


def root_of(stage: Stage) -> Stage:
    """The stage under any views."""
    while stage.kind == "view":
        stage = stage.inputs[0]
    return stage
