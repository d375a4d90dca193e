"""From a scheduled graph to a plan: steps bound to inputs, outputs and the arena.

Must not know operators or LLVM.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from plait.backends.llvm.attention import Attended, attended, place_attention
from plait.backends.llvm.batching import LEAST, runs
from plait.backends.llvm.build import BuiltKernel, build_kernel
from plait.backends.llvm.groups import Group
from plait.backends.llvm.layouts import Layout, blas_strides, product_layout
from plait.backends.llvm.loop.general import lengthless
from plait.backends.llvm.loop.indexing import ONE, ZERO
from plait.backends.llvm.loop.interpret import NUMPY_DTYPES
from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.lowering.stage import Stage
from plait.backends.llvm.plan import (
    ArenaRef,
    Attention,
    Binding,
    Gemm,
    InputRef,
    InputSpec,
    KernelCall,
    Lifetime,
    Operand,
    OutputRef,
    OutputSpec,
    Plan,
    Step,
    SymbolSource,
    place_temporaries,
)
from plait.backends.llvm.schedule import Schedule
from plait.backends.llvm.switches import is_off, off_reason
from plait.backends.llvm.tiling import is_worth_blocks, takes_rows
from plait.symbolic.expr import Expr, as_int

__all__ = ["Assembled", "Interface", "assemble"]


@dataclass(frozen=True, slots=True)
class Interface:
    """What the caller passes and gets: input stages by position, and stages that become outputs."""

    name: str
    inputs: tuple[InputSpec, ...]
    symbols: tuple[SymbolSource, ...]
    input_stages: dict[Stage, int]
    outputs: dict[Stage, OutputSpec]
    """What is written for the caller, in order."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A plan, and what each kernel of it computes."""

    plan: Plan
    built: tuple[BuiltKernel | Gemm | Attention, ...]
    no_epilogue: dict[int, str]
    """Why a kernel that follows a product does not run on blocks of it, by its number."""
    no_batch: dict[int, str]
    """Why a kernel is no part of a batch, where a batch could be."""


def assemble(schedule: Schedule, interface: Interface) -> Assembled:
    """Build every group and bind buffers."""
    parts = _lengthless([_build(group, schedule) for group in schedule.groups])
    batches, no_batch = _batches(parts, schedule)
    tiles, no_epilogue = _tiles(parts, batches, schedule.reuse.taken)
    bindings = _Bindings(interface, parts, (*batches, *tiles), schedule.reuse.taken)
    steps: list[Step] = []
    built: list[BuiltKernel | Gemm | Attention] = []
    for part in parts:
        if isinstance(part, BuiltKernel):
            steps.append(bindings.kernel(part))
            built.append(part)
        else:
            step = bindings.gemm(part) if isinstance(part, _Product) else bindings.attention(part)
            steps.append(step)
            built.append(step)
    plan = Plan(
        interface.name,
        interface.inputs,
        tuple(interface.outputs.values()),
        interface.symbols,
        tuple(steps),
        bindings.arena_bytes,
        batches=batches,
        tiles=tiles,
    )
    return Assembled(plan, tuple(built), no_epilogue, no_batch)


@dataclass(frozen=True, slots=True)
class _Product:
    """A gemm stage with its operands as strided memory of stored stages."""

    stage: Stage
    batch: tuple[Expr, ...]
    operands: tuple[Layout, ...]
    result: tuple[Expr, ...]


_Part = BuiltKernel | _Product | Attended


def _build(group: Group, schedule: Schedule) -> _Part:
    if group.units[0].kind == "attention":
        return attended(group.units[0].stage, schedule.realised, schedule.stored)
    if group.units[0].kind != "gemm":
        return build_kernel(group, schedule)
    stage = group.units[0].stage
    layout = product_layout(stage, schedule.realised)
    operands = tuple(found for found in layout.operands if found is not None)
    assert len(operands) == 2
    return _Product(stage, layout.batch, operands, layout.result)


def _lengthless(parts: list[_Part]) -> list[_Part]:
    """Kernels that differ in their length only become one, which takes the length."""
    forms: dict[int, tuple[Kernel, Expr]] = {}
    lengths: dict[Kernel, set[Expr]] = {}
    for number, part in enumerate(parts):
        form = lengthless(replace(part.kernel, name="")) if isinstance(part, BuiltKernel) else None
        if form is not None:
            forms[number] = form
            lengths.setdefault(form[0], set()).add(form[1])
    result = list(parts)
    for number, (kernel, length) in forms.items():
        part = parts[number]
        if isinstance(part, BuiltKernel) and len(lengths[kernel]) > 1:
            named = replace(kernel, name=part.kernel.name)
            result[number] = replace(part, kernel=named, sizes=(length,))
    return result


Ranges: TypeAlias = tuple[tuple[int, int], ...]


def _batches(parts: Sequence[_Part], schedule: Schedule) -> tuple[Ranges, dict[int, str]]:
    """Ranges of steps that are one batch, and why other kernels are in none."""
    why = {k: _no_batch(part) for k, part in enumerate(parts) if isinstance(part, BuiltKernel)}
    if len(why) < LEAST:
        return (), {}
    batches = runs(schedule.groups, [why.get(k) == "" for k in range(len(parts))])
    joined = {number for start, stop in batches for number in range(start, stop)}
    few = f"fewer than {LEAST} kernels that do not need each other follow one another"
    return batches, {k: reason or few for k, reason in why.items() if k not in joined}


def _no_batch(part: BuiltKernel) -> str:
    """Why a kernel may not be part of a batch; empty if it may."""
    if is_off("horizontal"):
        return off_reason("horizontal")
    if part.kernel.is_serial:
        return "it writes to computed places, in order"
    if part.checks:
        return "it checks indices"
    if any(as_int(size) is None for size in part.sizes):
        return "its sizes are known only when it runs"
    return ""


def _tiles(
    parts: Sequence[_Part], batches: Ranges, reused: Mapping[Stage, Stage]
) -> tuple[Ranges, dict[int, str]]:
    """Ranges of steps: a product, and the kernel that runs on each block of its rows; and why
    other kernels that follow a product do not.
    """
    joined = {number for start, stop in batches for number in range(start, stop)}
    found: list[tuple[int, int]] = []
    why: dict[int, str] = {}
    for number, (part, after) in enumerate(itertools.pairwise(parts)):
        if not isinstance(part, _Product) or not isinstance(after, BuiltKernel):
            continue
        reason = _no_epilogue(part, after, reused)
        if number + 1 in joined:
            reason = "it runs in a batch of independent kernels"
        if reason:
            why[number + 1] = reason
        else:
            found.append((number, number + 2))
    return tuple(found), why


def _no_epilogue(part: _Product, after: BuiltKernel, reused: Mapping[Stage, Stage]) -> str:
    """Why a kernel does not run on each block of a product's rows; empty if it does."""
    stage, roots = part.stage, [root for root, _, _ in part.operands]
    m, k = part.stage.inputs[0].shape[-2:]
    if is_off("epilogues"):
        return off_reason("epilogues")
    if part.batch:
        return "it is a batch of products"
    if part.result != (stage.shape[-1], ONE):
        return "its rows do not lie one after another in memory"
    if not is_worth_blocks(m, stage.shape[-1], k):
        return f"with {m} rows it is not cut into blocks of rows"
    # A block's kernel writes before the next block's product reads.
    if any(reused.get(written) in roots for written in after.buffers):
        return "the result is written into memory that the product reads"
    if not takes_rows(after, stage):
        return "the kernel does not walk its rows one by one, reading each where it stands"
    return ""


def _touched(part: _Part) -> list[Stage]:
    if isinstance(part, BuiltKernel):
        return list(part.buffers)
    if isinstance(part, Attended):
        return part.touched
    return [part.stage, *(root for root, _, _ in part.operands)]


class _Bindings:
    """Where every stored stage lives."""

    def __init__(
        self,
        interface: Interface,
        parts: Sequence[_Part],
        batches: Sequence[tuple[int, int]],
        reused: Mapping[Stage, Stage],
    ) -> None:
        self.places: dict[Stage, Binding] = {}
        for stage, position in interface.input_stages.items():
            self.places[stage] = InputRef(position, ZERO)
        for position, stage in enumerate(interface.outputs):
            self.places[stage] = OutputRef(position, ZERO)
        for stage, place in reused.items():
            self.places[stage] = InputRef(interface.input_stages[place], ZERO)
        lives: dict[Stage, tuple[int, int]] = {}
        times = list(range(len(parts)))
        for start, stop in batches:  # whose steps run at once
            times[start:stop] = [start] * (stop - start)
        for number, part in zip(times, parts):
            for stage in _touched(part):
                if stage not in self.places:
                    lives[stage] = (lives.get(stage, (number, number))[0], number)
        lifetimes = [
            Lifetime(stage.numel * NUMPY_DTYPES[stage.dtype].itemsize, *lives[stage])
            for stage in lives
        ]
        offsets, self.arena_bytes = place_temporaries(lifetimes)
        for stage, offset in zip(lives, offsets):
            self.places[stage] = ArenaRef(offset)

    def kernel(self, part: BuiltKernel) -> KernelCall:
        """A bound kernel."""
        return KernelCall(
            part.kernel,
            tuple(self.places[stage] for stage in part.buffers),
            part.sizes,
            part.checks,
            part.kernel.name,
            part.fused,
        )

    def gemm(self, part: _Product) -> Gemm:
        """A bound product."""
        stage, (a, b) = part.stage, part.operands
        left, right = (x.shape for x in stage.inputs)
        return Gemm(
            stage.dtype,
            part.batch,
            stage.shape[-2],
            stage.shape[-1],
            left[-1],
            self._operand(a, left),
            self._operand(b, right),
            self._operand((stage, part.result, ZERO), stage.shape),
            name=stage.name,
        )

    def attention(self, part: Attended) -> Attention:
        """Bound attention."""
        return place_attention(part, lambda layout: self._moved(layout[0], layout[2]))

    def _moved(self, root: Stage, offset: Expr) -> Binding:
        """Where element `offset` of a stored stage is."""
        place = self.places[root]
        if isinstance(place, ArenaRef):
            itemsize = NUMPY_DTYPES[root.dtype].itemsize
            return ArenaRef(place.offset + offset * itemsize)
        return place._replace(offset=place.offset + offset)

    def _operand(self, layout: Layout, shape: tuple[Expr, ...]) -> Operand:
        root, strides, offset = layout
        matrix = blas_strides(strides, shape)
        assert matrix is not None
        return Operand(self._moved(root, offset), *matrix, strides[:-2])
