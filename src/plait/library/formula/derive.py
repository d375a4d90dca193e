"""Differentiating a formula: another formula.

A conditional passes on the derivative of the branch that was chosen and nothing of the other, so
that a NaN or an infinity of the other one does not spoil it.
"""

from __future__ import annotations

from plait.library.formula.functions import FUNCTIONS
from plait.library.formula.terms import Term, name, number, ordered

__all__ = ["derivative"]


def derivative(root: Term, parameter: str, seed: Term | None = None) -> Term | None:
    """d root / d parameter, times ``seed``; None where it is zero everywhere."""
    slopes: dict[Term, Term | None] = {}
    wanted = name(parameter)
    for term in ordered(root):
        if term is wanted:
            slopes[term] = seed or number(1.0)
        elif term.fn is None:
            slopes[term] = None
        else:
            mine = [slopes[a] for a in term.args]
            known = any(s is not None for s in mine)
            slopes[term] = FUNCTIONS[term.fn].slope(term.args, term, mine) if known else None
    return slopes[root]
