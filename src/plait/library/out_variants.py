"""From a functional operator to the overload that writes its results into given memory.

Owns the matching of signatures; a memory planner asks it before it allocates a result.
"""

from __future__ import annotations

from plait.dispatch.dispatcher import packet
from plait.dispatch.operator import Overload
from plait.dispatch.schema import Argument, FunctionSchema

__all__ = ["out_variant"]


def out_variant(op: Overload) -> Overload | None:
    """The overload that computes what ``op`` does into its keyword-only tensors; None without one.

    Found by signature among the overloads of the name: the same arguments, and one written
    keyword-only tensor for each result, in their order.

    >>> import plait
    >>> from plait.dispatch.dispatcher import lookup
    >>> out_variant(lookup("aten::exp"))
    <Overload aten::exp.out>
    """
    if op.schema.is_mutable:
        return None
    if op.out is not None:
        return op.out
    overloads = packet(op.schema.packet_name).overloads.values()
    return next((o for o in overloads if _writes_results_of(op.schema, o.schema)), None)


def _writes_results_of(functional: FunctionSchema, other: FunctionSchema) -> bool:
    written = [a for a in other.arguments if a.is_write]
    if not written or not all(a.kwarg_only for a in written):
        return False
    same = [_plain(a) for a in other.arguments if not a.is_write] == [
        _plain(a) for a in functional.arguments
    ]
    return same and [a.type for a in written] == [r.type for r in functional.returns]


def _plain(a: Argument) -> tuple[object, ...]:
    return a.name, a.type, a.kwarg_only
