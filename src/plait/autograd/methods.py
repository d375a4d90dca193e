"""Attaches the tape to `Tensor`: its properties that need views, and its methods.

The properties replace those of the tensor layer, which knows no history of views.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from plait.autograd import functional
from plait.autograd.graph import leaf_hooks, node_hooks
from plait.autograd.hooks import RemovableHandle
from plait.autograd.views import history_of, requires_grad
from plait.base.errors import AutogradError, InplaceError
from plait.tensor.tensor import Tensor

__all__: list[str] = []

_plain_requires_grad: Any = Tensor.__dict__["requires_grad"]


def _set_requires_grad(self: Tensor, value: bool) -> None:
    if bool(value) != requires_grad(self):
        _plain_requires_grad.__set__(self, value)


def _is_leaf(self: Tensor) -> bool:
    return not requires_grad(self) or history_of(self) is None


def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of this tensor to the ``.grad`` of the leaves it was computed from.

    See :func:`plait.autograd.backward`.
    """
    functional.backward(self, gradient, retain_graph, create_graph, inputs=inputs)


def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call ``hook(grad)`` when the gradient of this tensor is computed; it may return another.

    AutogradError if the tensor does not require grad.
    """
    if not requires_grad(self):
        raise AutogradError(
            "register_hook: cannot register a hook on a tensor that doesn't require gradient."
        )
    node = history_of(self)
    if node is None:
        return RemovableHandle(leaf_hooks(self).gradient, hook)
    return RemovableHandle(node_hooks(node).tensor.setdefault(self._output_nr, {}), hook)


def register_post_accumulate_grad_hook(
    self: Tensor, hook: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call ``hook(leaf)`` after a gradient was added to the leaf's ``.grad``."""
    if not requires_grad(self) or history_of(self) is not None:
        raise AutogradError(
            "register_post_accumulate_grad_hook: expected a leaf that requires grad; use "
            "register_hook for computed tensors."
        )
    return RemovableHandle(leaf_hooks(self).post_accumulate, hook)


def retain_grad(self: Tensor) -> None:
    """Keep the gradient of this computed tensor in ``.grad``; leaves do so anyway."""
    if not requires_grad(self):
        raise AutogradError(
            "retain_grad: can't retain_grad on Tensor that has requires_grad=False."
        )
    node = history_of(self)
    if node is not None:
        node_hooks(node).retained[self._output_nr] = weakref.ref(self)


def retains_grad(self: Tensor) -> bool:
    """Whether this is a computed tensor whose gradient is kept in ``.grad``."""
    node = history_of(self)
    if node is None or node.hooks is None:
        return False
    reference = node.hooks.retained.get(self._output_nr)
    return reference is not None and reference() is self


def detach_(self: Tensor) -> Tensor:
    """Cut this tensor off from its history, in place. InplaceError for views."""
    if self._view is not None:
        raise InplaceError("detach_: can't detach views in-place. Use detach() instead.")
    self._requires_grad = False
    self._grad_fn = None
    self._output_nr = 0
    return self


def _attach() -> None:
    described: dict[str, Any] = {
        "requires_grad": property(
            requires_grad, _set_requires_grad, doc=_plain_requires_grad.__doc__
        ),
        "grad_fn": property(
            history_of, doc="The tape node that made this tensor; None for leaves."
        ),
        "is_leaf": property(_is_leaf, doc="Whether the tensor was not made by the tape."),
        "retains_grad": property(retains_grad),
        "_accumulator": None,  # weak reference to the leaf's AccumulateGrad
    }
    for method in (
        backward,
        register_hook,
        register_post_accumulate_grad_hook,
        retain_grad,
        detach_,
    ):
        described[method.__name__] = method
    for name, value in described.items():
        setattr(Tensor, name, value)


_attach()
