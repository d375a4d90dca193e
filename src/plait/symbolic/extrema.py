"""Minimum and maximum. Owns their simplification, which drops every operand that another one
dominates.
"""

from __future__ import annotations

from plait.symbolic.bounds import is_nonnegative
from plait.symbolic.nodes import Expr, Max, Min, extremum

__all__ = ["maximum_of", "minimum_of"]


def minimum_of(*operands: Expr) -> Expr:
    """The least of the operands, without those that can be proved never to be needed."""
    return _extremum(Min, operands)


def maximum_of(*operands: Expr) -> Expr:
    """The greatest of the operands, without those that can be proved never to be needed."""
    return _extremum(Max, operands)


def _extremum(kind: type[Min] | type[Max], operands: tuple[Expr, ...]) -> Expr:
    kept: list[Expr] = []
    for operand in operands:
        for candidate in operand.args if type(operand) is kind else (operand,):
            if not any(_dominates(kind, other, candidate) for other in kept):
                kept = [other for other in kept if not _dominates(kind, candidate, other)]
                kept.append(candidate)
    return kept[0] if len(kept) == 1 else extremum(kind, frozenset(kept))


def _dominates(kind: type[Min] | type[Max], a: Expr, b: Expr) -> bool:
    """Whether b is never needed beside a."""
    return a is b or is_nonnegative(b - a if kind is Min else a - b)
