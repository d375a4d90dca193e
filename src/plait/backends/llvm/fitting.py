"""Fitting: whether two groups of units can be one kernel, and if not, why.

The law: `why_apart` is None exactly where the units walk one space and read each other only where
they stand; otherwise it is one line for people. Must not know operators, terms' meaning, or LLVM.

Note [Aligned reads]. Let u read v. Both have a flat position in their own memory order. If v is a
row statistic of the group, u must read it at its row; if v is an element of the full space, at its
own flat position. Positions are canonical integer expressions, so the test is identity.
"""

from __future__ import annotations

from plait.backends.llvm.groups import Group, Unit
from plait.backends.llvm.loop.indexing import ONE, ZERO, refine
from plait.backends.llvm.switches import is_off, off_reason
from plait.symbolic.expr import Expr, as_int, product

__all__ = ["common_dims", "why_apart"]

LARGE_MAP = 4096  # elements of a map that one thread may walk besides a reduction to one element


def why_apart(a: Group, b: Group) -> str | None:
    """Why the groups cannot be one kernel, or None: the units of both fit together."""
    units = [*a.units, *b.units]
    reason = _special(units) or _switched_off(a, b)
    if reason is not None:
        return reason
    rows = [u for u in units if u.kind == "row"]
    columns = [u for u in units if u.kind == "column"]
    if rows and columns:
        return f"rows are reduced by {_names(rows)}, columns by {_names(columns)}"
    reducing = rows or columns
    first = reducing[0] if reducing else units[0]
    points, space = first.points, (first.space if reducing else first.points)
    if space is ZERO and reducing:
        return "there are no elements, so no rows to share"
    allowed = (points, space) if rows or not columns else (points,)
    stranger = next((u for u in units if u.points not in allowed), None)
    if stranger is None:
        stranger = next((u for u in reducing if (u.points, u.space) != (points, space)), None)
    if stranger is not None:
        if _space(first) == _space(stranger):
            return f"different spaces {_reduction(first)} and {_reduction(stranger)}"
        return f"different spaces {_space(first)} and {_space(stranger)}"
    if any(u.points is ONE and u.space is not ONE for u in rows) and _large_map(units, space):
        return "everything is reduced to one element, which one thread does; the map is too large"
    if common_dims(units) is None:
        return f"shapes {_space(a.units[0])} and {_space(b.units[0])} have no common refinement"
    return _misaligned(units, points, space)


def _special(units: list[Unit]) -> str | None:
    """Products and ordered writes are kernels of their own."""
    for unit in units:
        if unit.kind == "gemm":
            return f"{unit.stage.name} is a matrix product"
        if unit.kind == "attention":
            return f"{unit.stage.name} is attention"
        if unit.kind == "scatter":
            return f"{unit.target.name} is written at computed places, which may meet"
    return None


def _switched_off(a: Group, b: Group) -> str | None:
    """What `PLAIT_FUSION_OFF` keeps apart."""
    if is_off("views") and any(u.stage.kind == "view" for u in (*a.units, *b.units)):
        return off_reason("views")
    reducing = bool(a.reductions), bool(b.reductions)
    if any(reducing) and not all(reducing) and is_off("reductions"):
        return off_reason("reductions")
    if all(reducing):
        kind = "reductions" if _needs(a, b) or _needs(b, a) else "siblings"
        if is_off(kind):
            return off_reason(kind)
    if not any(reducing) and is_off("outputs"):
        return off_reason("outputs")
    return None


def _needs(a: Group, b: Group) -> bool:
    """Whether `a` reads what `b` makes."""
    made = {unit.target for unit in b.units}
    return any(read in made for unit in a.units for read in unit.reads)


def _names(units: list[Unit]) -> str:
    return ", ".join(dict.fromkeys(u.stage.name for u in units))


def _space(unit: Unit) -> str:
    """The shape that a unit walks, in memory order."""
    sizes = ", ".join(map(str, (*unit.dims, *unit.inner)))
    return f"({sizes})"


def _reduction(unit: Unit) -> str:
    """The same, apart: what a unit has elements for, and what it reduces over for each."""
    if not unit.inner:
        return _space(unit)
    over = f"reduced over ({', '.join(map(str, unit.inner))})"
    return f"({', '.join(map(str, unit.dims))}) {over}" if unit.dims else f"one element {over}"


def _large_map(units: list[Unit], space: Expr) -> bool:
    """A stored map over everything that is reduced to one element would run on one thread."""
    size = as_int(space)
    return (size is None or size > LARGE_MAP) and any(
        u.kind == "map" and u.points is space for u in units
    )


def common_dims(units: list[Unit]) -> tuple[tuple[Expr, ...], tuple[Expr, ...]] | None:
    """(dims of a row statistic, dims reduced over or walked inside a row) common to all units."""
    first = next((u for u in units if u.inner), units[0])
    outer, inner = first.dims, first.inner
    for unit in units:
        if unit.points is product(outer) and not (unit.kind in ("map", "sum") and unit.inner):
            refined = refine(outer, unit.dims)
            if refined is None:
                return None
            outer = refined
        elif unit.kind in ("map", "sum"):
            refined = refine((*outer, *inner), unit.dims)
            if refined is None:
                return None
            split = _boundary(refined, product(outer))
            outer, inner = refined[:split], refined[split:]
        if unit.inner:
            again = refine(inner, unit.inner)
            if again is None:
                return None
            inner = again
    return outer, inner


def _boundary(dims: tuple[Expr, ...], points: Expr) -> int:
    total, k = ONE, 0
    while total is not points:
        total, k = total * dims[k], k + 1
    return k


def _misaligned(units: list[Unit], points: Expr, space: Expr) -> str | None:
    """Note [Aligned reads]."""
    made = {u.stage: u for u in units if u.piece is None}
    written = {u.target for u in units if u.piece is not None}
    for u in units:
        for read, positions in u.reads.items():
            if read in written:
                return f"{u.stage.name} reads {read.name}, which is written piece by piece"
            v = made.get(read)
            if v is not None and v is not u:
                wanted = _wanted(u, v, points, space)
                if any(position is not wanted for position in positions):
                    return _misread(u, v, points, space)
    return None


def _misread(u: Unit, v: Unit, points: Expr, space: Expr) -> str:
    if v.kind in ("row", "column") and u.space is space:
        return f"{u.stage.name} would need {v.stage.name} before its {v.kind} is finished"
    return f"{u.stage.name} reads {v.stage.name} elsewhere than where it is computed"


def _wanted(u: Unit, v: Unit, points: Expr, space: Expr) -> Expr | None:
    """Where u must read v."""
    if v.points is space and v.points is not points:
        return u.full if u.space is space else None
    if u.points is points:
        return u.flat
    return u.full // (space // points)
