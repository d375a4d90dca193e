"""Views on the tape: their lazily renewed history, and what writing into them does to their base.

Follows PyTorch: a differentiable view knows its base (never itself a view) and how to be made again
from it. Writing through a view makes the base's history a :class:`CopySlices`; the history of every
view of that base is then out of date, and is made anew when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plait.autograd import arithmetic
from plait.autograd.graph import (
    Edge,
    Node,
    accumulator,
    is_differentiable,
    node_hooks,
    result_meta,
    set_history,
)
from plait.base.errors import AutogradError, InplaceError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import DispatchKey
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor
    from plait.tensor.view import ViewInfo

__all__ = [
    "CopySlices",
    "check_inplace",
    "gradient_edge",
    "history_of",
    "rebase_history",
    "requires_grad",
]

_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask


def requires_grad(t: Tensor) -> bool:
    """Whether the tape follows ``t``: itself, or the base that it is a view of."""
    if t._requires_grad:
        return True
    view = t._view
    return view is not None and view.base._requires_grad and is_differentiable(t._dtype)


def history_of(t: Tensor) -> Node | None:
    """The node that made ``t``; for a view of a base that was written since, a new one."""
    view = t._view
    if view is None or (t._grad_fn is None and not view.base._requires_grad):
        node: Node | None = t._grad_fn
        return node
    if view.version != t._version:
        _renew(t, view)
    current: Node | None = t._grad_fn
    return current


def gradient_edge(t: Tensor) -> Edge | None:
    """Where the gradient of ``t``, which requires grad, goes.

    None for a view that was made under no_grad: it requires grad through its base only, and nothing
    flows back through it.
    """
    node = t._grad_fn if t._view is None else history_of(t)
    if node is not None:
        return (node, t._output_nr)
    return (accumulator(t), 0) if t._requires_grad else None


def _renew(t: Tensor, view: ViewInfo) -> None:
    """Give the view ``t`` the history of the same view made from its base as it is now."""
    if view.creation != "default":
        raise InplaceError(_view_message(t, view, "its base or another view of its base has been"))
    saved_mode, saved_exclude = tls.grad_enabled, tls.exclude
    tls.grad_enabled, tls.exclude = True, saved_exclude | _PRE_DISPATCH
    try:
        again = view.replay(view.base)
    finally:
        tls.grad_enabled, tls.exclude = saved_mode, saved_exclude
    move_retained(t, t._grad_fn, again._grad_fn)
    t._requires_grad = again._requires_grad
    t._grad_fn, t._output_nr = again._grad_fn, again._output_nr
    view.version = t._version


# ------------------------------------------------------------ writing in place


def check_inplace(operator: str, t: Tensor) -> None:
    """Raise InplaceError if ``t`` may not be written by a recorded call of ``operator``."""
    view = t._view
    if view is not None:
        if view.creation != "default":
            raise InplaceError(f"{operator}: " + _view_message(t, view, "is being"))
        if requires_grad(t) and view.base._requires_grad and view.base._grad_fn is None:
            raise InplaceError(
                f"{operator}: a view of a leaf Variable that requires grad is being used in an "
                f"in-place operation; got a view of shape {tuple(t.shape)}; expected a view of a "
                "computed tensor. Write under no_grad(), or use the out-of-place form."
            )
    if requires_grad(t) and history_of(t) is None:
        raise InplaceError(
            f"{operator}: a leaf Variable that requires grad is being used in an in-place "
            f"operation; got a leaf of shape {tuple(t.shape)}; expected a computed tensor. Write "
            "under no_grad(), or use the out-of-place form."
        )


_WHY_FORBIDDEN = {
    "no_grad": "Given that this use case is ambiguous and error-prone, it is forbidden. Move both "
    "the view and the in-place operation inside the no_grad block (if the write should not be "
    "recorded) or both outside (if it should).",
    "multi_output": "This view is the output of a function that returns multiple views. Such "
    "functions do not allow the output views to be modified inplace. Replace the in-place "
    "operation by an out-of-place one.",
    "custom_function": "This view was created inside a custom Function (or because an input was "
    "returned as-is), and view-and-in-place logic would override the custom backward. Clone the "
    "output of the custom Function.",
}


def _view_message(t: Tensor, view: ViewInfo, what: str) -> str:
    node: Node | None = t._grad_fn
    if node is not None:
        head = f"Output {t._output_nr} of {node.name()} is a view and {what} modified inplace."
    else:
        mode = "no_grad mode" if view.creation == "no_grad" else view.creation
        head = f"A view was created in {mode} and {what} modified inplace with grad mode enabled."
    return f"{head} {_WHY_FORBIDDEN[view.creation]}"


def rebase_history(t: Tensor, node: Node, number: int = 0) -> None:
    """Make ``node`` the maker of ``t`` after a recorded write into it.

    Through a view it is the base that gets a history, with the write applied to the viewed part.
    ``node``'s first edge must be that of ``t`` before the write.
    """
    view = t._view
    if view is None:
        before = t._grad_fn
        set_history(t, node, number)
        move_retained(t, before, node)
        return
    if len(node.results) != 1:
        raise InplaceError(
            f"{node.name()}: functions that modify a view in place must return a single tensor; "
            f"got {len(node.results)} results. Clone the view first."
        )
    base = view.base
    before = base._grad_fn
    slices = CopySlices(base, view, node)
    set_history(base, slices, 0)
    move_retained(base, before, slices)
    t._output_nr = 0
    history_of(t)


def move_retained(t: Tensor, before: Node | None, after: Node | None) -> None:
    """A tensor whose ``.grad`` is wanted takes that wish to its new node; other hooks stay."""
    if before is None or after is None or before is after or before.hooks is None:
        return
    for number, reference in list(before.hooks.retained.items()):
        if reference() is t:
            del before.hooks.retained[number]
            node_hooks(after).retained[0] = reference


class CopySlices(Node):
    """The history of a base that was written through a view by the call of ``inner``.

    The gradient of the viewed part passes through ``inner``; the rest passes by.
    """

    __slots__ = ("inner", "layout", "steps")

    def __init__(self, base: Tensor, view: ViewInfo, inner: Node) -> None:
        edge = gradient_edge(base) if base._requires_grad else None
        super().__init__((edge, *inner.next_edges[1:]), inner.op)
        self.inner = inner
        self.steps = view.steps
        # Only as_strided looks at the memory of what it is applied to.
        strided = any(step[0].qualname == "aten::as_strided" for step in view.steps)
        self.layout = base.layout if strided else None
        self.results = (result_meta(base),)

    def name(self) -> str:
        return "CopySlices"

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        return self.run(list(grads), None)

    def run(self, grads: list[Tensor | None], wanted: Sequence[bool] | None) -> Sequence[Any]:
        grad = grads[0]
        if grad is None:
            return (None,) * len(self.next_edges)
        if self.layout is not None and grad.layout != self.layout:
            grad = arithmetic.laid_out(grad, self.layout)
        pieces = [grad]  # the gradient seen through ever more steps of the view
        for op, args, kwargs in self.steps:
            pieces.append(_replayed(op)(pieces[-1], *args, **kwargs))
        inner = list(self.inner.run([pieces[-1]], wanted))
        if wanted is None or wanted[0]:
            inner[0] = self._put_back(pieces, inner[0])
        return inner

    def _put_back(self, pieces: list[Any], part: Any) -> Any:
        """The gradient of the base before the write: ``part`` in place of the viewed part."""
        meta = self.inner.result(0)
        assert meta is not None
        if part is None:
            part = arithmetic.zeros(meta)
        part = arithmetic.conform(part, result_meta(pieces[-1]), self.inner, 0)
        for whole, (op, args, kwargs) in zip(pieces[-2::-1], reversed(self.steps), strict=True):
            if op.view_inverse is None:
                raise AutogradError(
                    f"{op.qualname}: has no inverse, so a write through this view cannot be "
                    "differentiated. Use the out-of-place form of the operator that wrote."
                )
            part = op.view_inverse(whole, part, *args, **kwargs)
        return part

    def release(self) -> None:
        self.inner.release()


def _replayed(op: Any) -> Any:
    """A view of a gradient need not share memory, and its strides are its own: reshape for view."""
    return lookup("aten::reshape") if op.qualname == "aten::view" else op
