"""Entries: what one compiled function has been compiled for, and why each new one was needed.

An entry is guards plus a list of segments (one, until data reads cut graphs). Owns the choice of
dynamic sizes: a size that failed its guard becomes a symbol in the next entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plait.base.account import Account
from plait.base.errors import InvalidArgument, check
from plait.capture.guards import GuardFailure, GuardSet
from plait.capture.signature import Leaf
from plait.capture.tracer import CapturedProgram
from plait.symbolic.symint import SymInt
from plait.tensor.layout import wrap_dim
from plait.tensor.tensor import Tensor

__all__ = ["Entry", "Recompile", "Segment", "SizeHistory", "mark_dynamic", "nearest_failure"]


@dataclass(slots=True)
class Segment:
    """A stretch of the function without data reads: ``run(inputs)`` gives its flat outputs.

    ``run`` None: this stretch runs eagerly, for the reason in the event log.
    """

    run: Callable[[list[Any]], Any] | None
    compiled: Any  # what the layers above keep: graphs, kernels, times


@dataclass(slots=True)
class Entry:
    """One specialisation of a compiled function."""

    number: int
    guards: GuardSet
    program: CapturedProgram
    segments: list[Segment]
    finish: Callable[[Any], Any]  # flat outputs -> the function's result
    run: Callable[[list[Any]], Any] | None = None  # of the only segment
    account: Account = field(default_factory=Account)  # of compiling it, without its backward
    calls: int = 0


def nearest_failure(
    entries: Sequence[Entry], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Recompile | None:
    """Of entries that do not answer a call, the one of which most conditions hold, and why not.

    None if there are no entries, or one of them answers.
    """
    found: Recompile | None = None
    for entry in entries:
        failure = entry.guards.explain(args, kwargs)
        if failure is None:
            return None
        if found is None or failure.passed > found.failure.passed:
            found = Recompile(entry.number, failure)
    return found


@dataclass(frozen=True, slots=True)
class Recompile:
    """Why an entry was added: what failed in the entry that came nearest to answering."""

    entry: int
    failure: GuardFailure

    def __str__(self) -> str:
        return f"entry {self.entry}: {self.failure}"


class SizeHistory:
    """The sizes seen at each argument, to tell which vary.

    ``dynamic`` True makes every size symbolic, False none, None those that were seen to vary.
    """

    def __init__(self, dynamic: bool | None) -> None:
        self.dynamic = dynamic
        self._seen: dict[str, tuple[int | SymInt, ...]] = {}
        self._varies: set[tuple[str, int]] = set()

    def observe(self, leaves: list[Leaf]) -> None:
        """Note the sizes of one call's tensors."""
        for leaf in leaves:
            if not isinstance(leaf.value, Tensor):
                continue
            shape = tuple(leaf.value.shape)
            marked = leaf.value.__dict__.get("_dynamic_dims", ())
            self._varies.update((leaf.access, dim) for dim in marked)
            seen = self._seen.get(leaf.access)
            if seen is None or len(seen) != len(shape):
                self._seen[leaf.access] = shape
                continue
            for dim, (before, now) in enumerate(zip(seen, shape, strict=True)):
                if before != now:
                    self._varies.add((leaf.access, dim))

    def is_dynamic(self, access: str, dim: int, size: int) -> bool:
        """Whether this size becomes a symbol."""
        if self.dynamic is not None:
            return self.dynamic
        return (access, dim) in self._varies


def mark_dynamic(tensor: Tensor, *dims: int) -> Tensor:
    """Say that these sizes of ``tensor`` vary, and return it.

    A function compiled for it (unless with ``dynamic=False``) has symbols there from its first
    entry on, where otherwise a second entry would be compiled for the second size that is met.
    Raises InvalidArgument for a size of 0 or 1, which never becomes a symbol, and IndexOutOfRange
    for a dimension that the tensor has not.

    >>> import plait
    >>> double = plait.compile(lambda x: x + x)
    >>> first = double(plait.mark_dynamic(plait.ones(3), 0))
    >>> [double(plait.ones(n)).shape for n in (5, 9)], len(double.entries)
    ([(5,), (9,)], 1)
    """
    marked = {wrap_dim(dim, tensor.ndim, "mark_dynamic") for dim in dims}
    for dim in marked:
        check(
            tensor.shape[dim] > 1,
            InvalidArgument,
            lambda dim=dim: (  # type: ignore[misc]
                f"mark_dynamic: argument 'dims' names dimension {dim} of size "
                f"{tensor.shape[dim]}; expected at least 2. Sizes 0 and 1 are compiled for "
                "themselves: begin with a longer tensor."
            ),
        )
    tensor.__dict__["_dynamic_dims"] = frozenset(marked) | tensor.__dict__.get(
        "_dynamic_dims", frozenset()
    )
    return tensor
