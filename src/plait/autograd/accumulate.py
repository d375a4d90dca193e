"""How a gradient becomes `leaf.grad`: kept, copied, or added to what is there.

Note [Stealing gradients]. The first gradient of a leaf is usually a fresh tensor that nobody else
refers to; copying it would cost one pass over memory for each parameter. It is kept as it is when
nobody else can see its memory: no storage was asked for (so no views, aliases or copies exist),
NumPy's array owns its data, and the reference counts are those of an unshared object. Python
versions count temporary references differently, so the expected counts are measured once, through
the very functions that measure the real ones. A count that is too high only costs the copy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from plait.autograd import arithmetic
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["accumulate"]


def accumulate(leaf: Tensor, box: list[Any]) -> None:
    """Add the gradient in ``box[0]`` to ``leaf.grad``; the box is the engine's only reference.

    With grad mode on (create_graph) the sum is a new tensor, so that the old one's history lives;
    otherwise it is written in place.
    """
    if leaf._grad is None:
        leaf._grad = box[0] if _may_keep(leaf, box) else _kept_copy(leaf, box[0])
    elif tls.grad_enabled:
        leaf._grad = arithmetic.add(leaf._grad, box[0])
    else:
        arithmetic.add_(leaf._grad, box[0])


def _kept_copy(leaf: Tensor, grad: Tensor) -> Tensor:
    return arithmetic.clone(grad) if tls.grad_enabled else arithmetic.like(grad, leaf)


def _may_keep(leaf: Tensor, box: list[Any]) -> bool:
    """See Note [Stealing gradients]."""
    if tls.grad_enabled or _references(box) > _ALONE:
        return False
    grad = box[0]
    array = grad._array
    if array is None or grad._storage is not None or grad._view is not None:
        return False
    flags = array.flags
    if array.base is not None or not flags.writeable:
        return False
    own = leaf._array
    same = flags.c_contiguous and own is not None and own.flags.c_contiguous
    del array, flags
    return _array_references(grad) <= _ARRAY_ALONE and (same or grad.strides == leaf.strides)


def _references(box: list[Any]) -> int:
    return sys.getrefcount(box[0])


def _array_references(holder: Any) -> int:
    return sys.getrefcount(holder._array)


class _Probe:
    def __init__(self) -> None:
        self._array = object()


_ALONE = _references([_Probe()])
_ARRAY_ALONE = _array_references(_Probe())
