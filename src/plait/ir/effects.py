"""Does an operator alias, mutate, or draw random numbers? Its schema and tags answer."""

from __future__ import annotations

import functools

from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag

__all__ = ["is_functional", "is_impure", "is_random", "is_view", "mutated_positions"]


def is_view(op: Overload) -> bool:
    """Whether a result aliases an argument without writing it."""
    return op.schema.is_view


def is_random(op: Overload) -> bool:
    """Whether the operator draws from the default generator."""
    return Tag.NONDETERMINISTIC_SEEDED in op.tags


def is_functional(op: Overload) -> bool:
    """Whether the operator writes none of its arguments."""
    return not op.schema.is_mutable


@functools.lru_cache(maxsize=4096)  # asked of every call by every pass; the answer never changes
def is_impure(op: Overload) -> bool:
    """Whether dropping an unused call would change what the program does."""
    return op.schema.is_mutable or is_random(op) or Tag.EFFECTFUL in op.tags


def mutated_positions(op: Overload) -> tuple[int, ...]:
    """Positions, among all arguments, of those that are written."""
    return tuple(i for i, a in enumerate(op.schema.arguments) if a.is_write)
