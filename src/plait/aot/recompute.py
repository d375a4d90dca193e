"""The policy of recomputation: what may be done again in the backward, and what may not.

Owns the bans and their wording. Must not know the cut or any backend: an operator is judged by its
tags and its kind.
"""

from __future__ import annotations

from enum import IntEnum

from plait.aot.costs import Sizes, fuses, is_draw, is_free
from plait.autograd.checkpoint import Recompute
from plait.dispatch.tags import Tag
from plait.ir.effects import is_impure, is_view
from plait.ir.graph import Node, Value

__all__ = ["Level", "asks_to_recompute", "ban_reasons", "tag_of"]

SHRINKS = 4  # a reduction to this fraction of its input is kept: it is small and took a pass
LONG_CHAIN = 100  # calls done again one after the other, at most


class Level(IntEnum):
    """How far recomputation goes."""

    FAST = 0  # only where the training step does not get slower
    CHEAP = 1  # whatever fuses
    ALL = 2  # whatever has no effect


def tag_of(node: Node | None) -> Recompute | None:
    """What the user asked of the results of ``node``."""
    return None if node is None or node.tag is None else node.tag.policy


def asks_to_recompute(node: Node) -> bool:
    """Whether the user wants the results of ``node`` computed again."""
    return tag_of(node) in (Recompute.PREFER_RECOMPUTE, Recompute.MUST_RECOMPUTE)


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
    if asks_to_recompute(node):
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
    if asks_to_recompute(node):
        return None
    stack = [(value, value) for value in reversed(node.results)]
    while stack:
        made, value = stack.pop()
        for reader in read_in_backward.get(value, ()):
            if not fuses(reader.op):
                return f"{made.name} is read whole by {reader.op.qualname} in the backward"
        for user in users.get(value, ()):
            if is_view(user.op):
                stack.extend((made, result) for result in user.results)
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
