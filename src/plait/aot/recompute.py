"""The policy of recomputation: what may be done again in the backward, what it costs, what is not.

Owns the bans and their wording, the sizes and the costs. Must not know the cut or any backend: an
operator is judged by its tags and its kind.

Note [What recomputing costs]. An operator that fuses (pointwise, views, reductions, normalisations,
constants, draws) is done again inside a kernel that runs anyway, at the price of reading its
inputs. Everything else (products, sorts, scatters, what is not known) is a step of its own.
A random operator reaches this place in its explicit form, a pure function of (seed, call number):
doing it again gives the same draws bit for bit. It takes some thirty integer operations an element,
which costs more than reading the mask back, so it is kept unless memory is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum

from plait.autograd.checkpoint import Recompute
from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ir.effects import is_impure, is_view
from plait.ir.graph import IntType, Node, Value
from plait.symbolic.expr import Expr

__all__ = [
    "Level",
    "Sizes",
    "ban_reasons",
    "fuses",
    "is_draw",
    "is_free",
    "node_cost",
    "tag_of",
]

Hint = Callable[[Expr], int]

_FUSING_KINDS = frozenset({"creation", "elementwise", "normalize", "random", "reduction", "view"})
_FUSING_NAMES = frozenset(
    {
        "aten::cat",
        "aten::embedding",
        "aten::flip",
        "aten::gather",
        "aten::index_select",
        "aten::slice_scatter",
        "aten::select_scatter",
        "aten::diagonal_scatter",
    }
)
SHRINKS = 4  # a reduction to this fraction of its input is kept: it is small and took a pass
LONG_CHAIN = 100  # calls done again one after the other, at most
PRODUCT_COST = 16  # of an element that is summed over, where moving a byte costs 1
OTHER_COST = 64  # per byte of results, of a step that neither fuses nor is a product


class Level(IntEnum):
    """How far recomputation goes."""

    FAST = 0  # only where the training step does not get slower
    CHEAP = 1  # whatever fuses
    ALL = 2  # whatever has no effect


@functools.lru_cache(maxsize=4096)
def fuses(op: Overload) -> bool:
    """Whether doing ``op`` again can be part of a kernel that runs anyway."""
    if Tag.POINTWISE in op.tags or Tag.REDUCTION in op.tags or is_view(op):
        return True
    return op.kind in _FUSING_KINDS or op.qualname.partition(".")[0] in _FUSING_NAMES


def is_free(node: Node) -> bool:
    """Whether doing ``node`` again costs nothing: a view, or a constant."""
    return is_view(node.op) or (not node.inputs() and not is_impure(node.op))


def is_draw(node: Node) -> bool:
    """Whether ``node`` is a random operator in its explicit form."""
    return node.op.kind == "random" and not is_impure(node.op)


def tag_of(node: Node | None) -> Recompute | None:
    """What the user asked of the results of ``node``."""
    return None if node is None or node.tag is None else node.tag.policy


class Sizes:
    """Bytes of values; symbolic sizes count as in the example."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint
        self._bytes: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        """Bytes of ``value``; an int counts as nothing."""
        known = self._bytes.get(value)
        if known is None:
            known = self._bytes[value] = self._measure(value)
        return known

    def _measure(self, value: Value) -> int:
        if isinstance(value.type, IntType):
            return 0
        return self.numel(value) * value.type.dtype.itemsize

    def numel(self, value: Value) -> int:
        """Number of elements of ``value``."""
        if isinstance(value.type, IntType):
            return 1
        count = 1
        for size in value.type.shape:
            count *= self._hint(size) if isinstance(size, Expr) else int(size)
        return count

    def last(self, value: Value, dim: int) -> int:
        """Size of ``value`` at ``dim``."""
        assert not isinstance(value.type, IntType)
        size = value.type.shape[dim]
        return self._hint(size) if isinstance(size, Expr) else int(size)


def node_cost(node: Node, sizes: Sizes) -> int:
    """An estimate of the time that ``node`` takes, in bytes moved."""
    if is_free(node) and not is_draw(node):
        return 0
    made = sum([sizes.of(v) for v in node.results])
    if fuses(node.op):
        draws = 8 * sizes.numel(node.results[0]) if is_draw(node) else 0
        return made + draws + sum([sizes.of(v) for v in dict.fromkeys(node.inputs())])
    matrices = [v for v in node.inputs() if getattr(v.type, "shape", ())]
    if node.op.kind == "matmul" and len(matrices) >= 2:
        return PRODUCT_COST * sizes.numel(node.results[0]) * sizes.last(matrices[-2], -1)
    return OTHER_COST * made


def ban_reasons(
    nodes: list[Node],
    forward: set[int],
    read_in_backward: dict[Value, list[Node]],
    users: dict[Value, list[Node]],
    sizes: Sizes,
    level: Level,
) -> dict[Node, str]:
    """Why each of ``nodes`` must not be done again at ``level``; those without a reason may be.

    ``nodes`` are in order and do not depend on tangents; ``forward`` are ids of those that the
    forward runs anyway: the others may be done in the backward alone. ``read_in_backward`` are the
    calls that the tangents reach and that read a value. Tags of the user win over everything but
    effects.
    """
    reasons: dict[Node, str] = {}
    far = _far_uses(nodes, forward, users) if level is Level.FAST else {}
    depth: dict[Value, int] = {}
    for node in nodes:
        reason: str | None = "it has an effect" if is_impure(node.op) else None
        if id(node) in forward:
            reason = reason or _reason(node, sizes, level) or far.get(node)
        if level is Level.FAST and not reason and id(node) in forward and not is_free(node):
            reason = _materialised(node, read_in_backward, users)
            steps = 1 + max([depth.get(v, 0) for v in node.inputs()], default=0)
            if not reason and steps > LONG_CHAIN:
                reason = f"the end of a chain of {LONG_CHAIN} calls"
        if reason:
            reasons[node] = reason
        steps = 0 if reason else max([depth.get(v, 0) for v in node.inputs()], default=0)
        for value in node.results:
            depth[value] = steps + (not reason and not is_free(node))
    return reasons


def _reason(node: Node, sizes: Sizes, level: Level) -> str | None:
    """The ban that ``node`` has by itself."""
    tag = tag_of(node)
    if tag in (Recompute.PREFER_RECOMPUTE, Recompute.MUST_RECOMPUTE):
        return None
    if tag is Recompute.MUST_SAVE:
        return "marked must_save"
    if level is Level.ALL or is_free(node):
        return None
    if not fuses(node.op):
        return "a matrix product" if node.op.kind == "matmul" else "a step of its own"
    if tag is Recompute.PREFER_SAVE:
        return "marked prefer_save"
    if level is Level.CHEAP:
        return None
    if is_draw(node):
        return "a random draw, dearer than its mask"
    return f"a reduction to 1/{SHRINKS} or less" if _shrinks(node, sizes) else None


def _shrinks(node: Node, sizes: Sizes) -> bool:
    if Tag.REDUCTION not in node.op.tags and node.op.kind != "normalize":
        return False
    read = sum([sizes.of(v) for v in dict.fromkeys(node.inputs())])
    return read >= SHRINKS * sum([sizes.of(v) for v in node.results])


def _materialised(
    node: Node, read_in_backward: dict[Value, list[Node]], users: dict[Value, list[Node]]
) -> str | None:
    """A value that a step of its own reads in the backward has to be in memory there."""
    if tag_of(node) in (Recompute.PREFER_RECOMPUTE, Recompute.MUST_RECOMPUTE):
        return None
    stack = list(node.results)
    while stack:
        value = stack.pop()
        for reader in read_in_backward.get(value, ()):
            if not fuses(reader.op):
                return f"read whole by {reader.op.qualname} in the backward"
        for user in users.get(value, ()):
            if is_view(user.op):
                stack.extend(user.results)
    return None


def _far_uses(
    nodes: list[Node], forward: set[int], users: dict[Value, list[Node]]
) -> dict[Node, str]:
    """Calls that could have fused with the maker of a value but come after a step that cannot.

    Doing them again would keep the value alive, or need it read again, far from where it is made.
    """
    order = {id(node): k for k, node in enumerate(nodes)}
    found: dict[Node, str] = {}
    for node in nodes:
        if id(node) not in forward or not fuses(node.op):
            continue
        for value in node.results:
            uses = [u for u in users.get(value, ()) if id(u) in forward and id(u) in order]
            walls = [order[id(u)] for u in uses if not fuses(u.op)]
            wall = min(walls, default=len(nodes))
            for user in uses:
                if order[id(user)] > wall and fuses(user.op) and tag_of(user) is None:
                    if not is_free(user):
                        found[user] = f"reads {value.name} far from where it is made"
    return found
