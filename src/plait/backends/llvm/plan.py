"""Plans: what one native entry does, in order, and where every buffer lives.

A plan is data handed from scheduling to code generation. It holds no Python fallback: a graph with
operators that cannot be lowered becomes several plans, joined by `compiler.py`. Offsets into the
arena are worked out here by liveness. Must not know operators or LLVM.

All `Expr` below are over the plan's size symbols, whose values are found as `symbols` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from plait.backends.llvm.loop.kernel import Kernel
from plait.symbolic.expr import Expr, as_int, const

__all__ = [
    "ATTENTION_MASK",
    "FEW",
    "ArenaRef",
    "Attention",
    "AttentionForm",
    "Binding",
    "Check",
    "Gemm",
    "InputRef",
    "InputSpec",
    "KernelCall",
    "Lifetime",
    "Operand",
    "OutputRef",
    "OutputSpec",
    "Plan",
    "Step",
    "Strided",
    "SymbolSource",
    "place_temporaries",
]


MANY = 32
"""Tensors from which arguments and outputs go by tables."""


class InputRef(NamedTuple):
    """Element `offset` (of a complex input: part) of the memory of plan input `index`."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a binding
    offset: Expr


class OutputRef(NamedTuple):
    """Element `offset` of the memory of plan output `index`."""

    index: int  # type: ignore[assignment]  # as above
    offset: Expr


class ArenaRef(NamedTuple):
    """Byte `offset` of the arena (a multiple of 64)."""

    offset: Expr


Binding: TypeAlias = InputRef | OutputRef | ArenaRef


class SymbolSource(NamedTuple):
    """Where the value of a size symbol is found: an integer input, or a size of a tensor input."""

    name: str
    input: int
    dim: int | None


class InputSpec(NamedTuple):
    """One argument: a tensor (dtype, sizes, strides in elements), or an integer (dtype "int")."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...]


class OutputSpec(NamedTuple):
    """One fresh tensor that the plan writes, with these (dense) strides in elements.

    Its dtype may be c64 or c128, which kernels write as pairs of parts.
    """

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...]


class Check(NamedTuple):
    """What a failed run-time check means."""

    operator: str
    message: str
    source: str


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Run `kernel` with its buffers and sizes bound. `kernel` is canonical and may be shared."""

    kernel: Kernel
    buffers: tuple[Binding, ...]
    sizes: tuple[Expr, ...]
    checks: tuple[Check, ...] = ()
    """Indexed by the check codes inside the kernel."""
    name: str = ""
    fused: tuple[str, ...] = ()
    """Names of the graph values computed, in order."""


class Operand(NamedTuple):
    """A matrix (or batch of them) inside a buffer; strides in elements, sizes from the product."""

    buffer: Binding
    row_stride: Expr
    col_stride: Expr
    batch_strides: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Gemm:
    """c[..., m, n] = alpha * a[..., m, k] @ b[..., k, n] + beta * c (c is not read when beta is 0).

    One stride of each matrix is 1 or its size is 1 (BLAS can express it); c has col_stride 1.
    """

    dtype: str
    batch: tuple[Expr, ...]
    m: Expr
    n: Expr
    k: Expr
    a: Operand
    b: Operand
    c: Operand
    alpha: float = 1.0
    beta: float = 0.0
    name: str = ""


ATTENTION_MASK = 3
"""Where the mask stands among the tensors of attention."""
FEW = 4
"""Queries of a head up to which they are taken one by one."""


class Strided(NamedTuple):
    """A tensor inside a buffer; strides in elements."""

    buffer: Binding
    strides: tuple[Expr, ...]


class AttentionForm(NamedTuple):
    """What machine code for attention depends on; sizes and strides are told when it runs."""

    backward: bool
    dtype: str
    width: int
    """Numbers of one query, key or value."""
    scale: float
    is_causal: bool
    mask: str
    """Element type of the mask: "i1" (true takes part) or a number to add; "" for none."""
    mask_by_query: bool
    """Whether the mask differs between queries (its stride is not known to be 0)."""
    mask_is_dense: bool
    """Whether the mask's stride from key to key is 1."""
    few: bool | None
    """Whether there are few queries, to be taken one by one; None where sizes will tell."""
    wanted: tuple[bool, ...]
    """Which results are stored."""

    @property
    def tile(self) -> tuple[int, int]:
        """Queries of a block, and keys of a tile: what is held of the scores at once."""
        return (64, 48) if self.backward else (128, 96)


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(query key^T scale + mask) value for every head, or its derivatives.

    Tensors are [batch, head, query or key, number], the last stride 1. In order: query, key, value,
    mask, then (forward) out, logsumexp, or (backward) grad_out, out, logsumexp, grad_query,
    grad_key, grad_value. None: no mask, or a result that nobody reads. A row whose keys are all
    masked gives zeros, and 0 as logsumexp.
    """

    form: AttentionForm
    batch: Expr
    heads: Expr
    queries: Expr
    keys: Expr
    tensors: tuple[Strided | None, ...]
    name: str = ""

    def shapes(self, b: int, h: int, length: int, keys: int) -> list[tuple[int, ...]]:
        """The shapes of the tensors for these sizes."""
        width = self.form.width
        query, key = (b, h, length, width), (b, h, keys, width)
        first = [query, key, key, (b, h, length, keys)]
        if not self.form.backward:
            return [*first, query, (b, h, length)]
        return [*first, query, query, (b, h, length), query, key, key]

    @property
    def sizes(self) -> tuple[Expr, ...]:
        """What the code is told: four sizes, then the outer strides of every tensor present."""
        outer: list[Expr] = [self.batch, self.heads, self.queries, self.keys]
        for position, tensor in enumerate(self.tensors):
            if tensor is not None:
                is_mask = position == ATTENTION_MASK
                outer += tensor.strides if is_mask else tensor.strides[:3]
        return tuple(outer)


Step: TypeAlias = KernelCall | Gemm | Attention


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps run in order over inputs, outputs and an arena.

    `batches` are ranges of steps (first, past the last): kernels without checks, of known sizes,
    that do not need each other and may run in any order and at once. `tiles` are ranges too: a
    product, and a kernel that may run on each block of its rows as soon as the block is made.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    symbols: tuple[SymbolSource, ...]
    steps: tuple[Step, ...]
    arena_bytes: Expr
    notes: dict[str, str] = field(default_factory=dict)
    batches: tuple[tuple[int, int], ...] = ()
    tiles: tuple[tuple[int, int], ...] = ()

    @property
    def is_tabled(self) -> bool:
        """Whether the entry reads its arguments and runs its batches by tables."""
        return bool(self.batches) or len(self.inputs) + len(self.outputs) > MANY


class Lifetime(NamedTuple):
    """A temporary: its size in bytes, and the first and last step that touch it."""

    nbytes: Expr
    first: int
    last: int


def place_temporaries(lifetimes: Sequence[Lifetime]) -> tuple[list[Expr], Expr]:
    """(byte offset of each temporary, size of the arena); no two alive at once overlap.

    Sizes known now are packed first-fit; symbolic ones follow, and share a slot only where they are
    equal.
    """
    offsets: list[Expr] = [const(0)] * len(lifetimes)
    order = sorted(range(len(lifetimes)), key=lambda k: -(as_int(lifetimes[k].nbytes) or 0))
    placed: list[tuple[int, int, Lifetime]] = []
    for k in order:
        size = as_int(lifetimes[k].nbytes)
        if size is not None:
            start = _first_fit(placed, lifetimes[k], _aligned(size))
            placed.append((start, start + _aligned(size), lifetimes[k]))
            offsets[k] = const(start)
    end: Expr = const(max((stop for _, stop, _ in placed), default=0))
    slots: list[tuple[Expr, Expr, list[Lifetime]]] = []
    for k, life in enumerate(lifetimes):
        if as_int(life.nbytes) is not None:
            continue
        slot = next((s for s in slots if s[1] is life.nbytes and _is_free(s[2], life)), None)
        if slot is None:
            slot = (end, life.nbytes, [])
            slots.append(slot)
            end = end + (life.nbytes + 63) // 64 * 64
        slot[2].append(life)
        offsets[k] = slot[0]
    return offsets, end


def _aligned(size: int) -> int:
    return max(-(-size // 64) * 64, 64)


def _is_free(users: Sequence[Lifetime], life: Lifetime) -> bool:
    return all(u.last < life.first or life.last < u.first for u in users)


def _first_fit(placed: Sequence[tuple[int, int, Lifetime]], life: Lifetime, size: int) -> int:
    start = 0
    for low, high, _ in sorted(p[:2] + (0,) for p in placed if not _is_free([p[2]], life)):
        if start + size <= low:
            break
        start = max(start, high)
    return start
