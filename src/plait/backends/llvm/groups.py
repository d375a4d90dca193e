"""Units and groups: what scheduling puts together.

A *unit* is one stored computation: a map, a reduction, a piece of an assembled buffer, or a matrix
product, with the space that it walks and what it reads there. A *group* is units that become one
kernel. Must not know operators, terms' meaning, or LLVM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from plait.backends.llvm.loop.indexing import ZERO
from plait.backends.llvm.loop.terms import Axis
from plait.backends.llvm.lowering.stage import Piece, Stage
from plait.symbolic.expr import Expr, product

__all__ = ["Group", "Unit", "UnitKind"]

UnitKind = Literal["map", "row", "column", "sum", "scatter", "gemm", "attention"]
""""sum": a map whose elements are added to the partial sums of chunks of rows."""


@dataclass(eq=False, slots=True)
class Unit:
    """One stored computation and what it reads."""

    stage: Stage
    """The stage whose elements are computed (for a piece: its source)."""
    target: Stage
    """The stage whose buffer is written."""
    kind: UnitKind
    piece: Piece | None = None
    order: tuple[int, ...] = ()
    dims: tuple[Expr, ...] = ()
    """Extents of the points, slowest first in memory."""
    inner: tuple[Expr, ...] = ()
    """Extents reduced over, slowest first."""
    axes: tuple[Axis, ...] = ()
    reads: dict[Stage, list[Expr | None]] = field(default_factory=dict)
    """Stored stages read, with the flat positions in their memory; None: a computed position."""
    flat: Expr = ZERO
    """Flat position of a point."""
    full: Expr = ZERO
    """Flat position in the space including what is reduced over."""

    @property
    def points(self) -> Expr:
        """Number of points."""
        return product(self.dims)

    @property
    def space(self) -> Expr:
        """Number of points including what is reduced over."""
        return product((*self.dims, *self.inner))


class Group:
    """Units that become one kernel (or one product)."""

    __slots__ = ("ancestors", "deps", "number", "units")

    def __init__(self, number: int, unit: Unit) -> None:
        self.number = number
        self.units = [unit]
        self.deps: set[int] = set()
        self.ancestors: set[int] = set()

    @property
    def stages(self) -> set[Stage]:
        """What the group computes."""
        return {unit.stage for unit in self.units}

    @property
    def reductions(self) -> list[Unit]:
        """Its reducing units."""
        return [u for u in self.units if u.kind in ("row", "column")]
