"""Choosing what to keep under a memory budget: a knapsack whose answers are monotone.

Owns the frontier of choices; must not know graphs. See Note [Monotone budgets].

Note [Monotone budgets]. The choices offered do not depend on the budget: they are one list, freed
of every choice that another beats in both memory and time. A budget takes the fastest choice that
fits it. So a smaller budget never saves more bytes, whatever the estimates are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Choice", "best_choice", "frontier"]

MOST_CHOICES = 128


class Choice(NamedTuple):
    """Items kept (by number), the bytes that they take, and the time that the others cost."""

    kept: frozenset[int]
    bytes: int
    time: int


def frontier(sizes: Sequence[int], times: Sequence[int]) -> list[Choice]:
    """Choices of items to keep that are best for their bytes, from nothing to everything.

    Item k takes ``sizes[k]`` bytes if kept and ``times[k]`` to make again if not. Exact while there
    are few choices; then thinned out evenly.

    >>> [(sorted(c.kept), c.bytes, c.time) for c in frontier([4, 4, 2], [9, 1, 1])]
    [([], 0, 11), ([2], 2, 10), ([0], 4, 2), ([0, 2], 6, 1), ([0, 1, 2], 10, 0)]
    """
    choices = [Choice(frozenset(), 0, sum(times))]
    for k, (size, time) in enumerate(zip(sizes, times, strict=True)):
        more = [Choice(c.kept | {k}, c.bytes + size, c.time - time) for c in choices]
        choices = _thinned(undominated([*choices, *more]))
    return choices


def undominated(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that no other beats in both bytes and time, by ascending bytes."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes, c.time, sorted(c.kept))):
        if not found or choice.time < found[-1].time:
            found.append(choice)
    return found


def _thinned(choices: list[Choice]) -> list[Choice]:
    if len(choices) <= MOST_CHOICES:
        return choices
    last = len(choices) - 1
    places = {round(k * last / (MOST_CHOICES - 1)) for k in range(MOST_CHOICES)}
    return [choices[k] for k in sorted(places)]


def best_choice(choices: Sequence[Choice], limit: float) -> Choice:
    """The fastest choice of at most ``limit`` bytes; the smallest one if none fits."""
    best = undominated(choices)
    fitting = [c for c in best if c.bytes <= limit]
    return fitting[-1] if fitting else best[0]
