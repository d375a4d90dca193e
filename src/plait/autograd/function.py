"""User-defined differentiable functions: `autograd.Function`, its context and its node.

The forward runs with recording off; afterwards its results get one node whose backward is the
user's. What was marked dirty or non-differentiable, inputs returned as they are, and views made
inside are treated as PyTorch does.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from plait.autograd import arithmetic
from plait.autograd.grad_mode import no_grad
from plait.autograd.graph import Edge, Node, is_differentiable, result_meta, set_history
from plait.autograd.saved import SavedTensor, freed_error
from plait.autograd.views import check_inplace, gradient_edge, rebase_history, requires_grad
from plait.base.errors import ArgumentTypeError, AutogradError, InplaceError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import DispatchKey
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["Context", "Function", "FunctionNode", "once_differentiable"]

_BATCHED = DispatchKey.BATCHED.mask
_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask


class Context:
    """What ``forward`` and ``backward`` of one call share. Attributes may be set freely."""

    # What most calls leave as it is belongs to the class: a context is made for each call.
    _to_save: tuple[Any, ...] = ()
    _saved: list[SavedTensor | None] | None = None
    _dirty: tuple[Any, ...] = ()
    _non_differentiable: tuple[Any, ...] = ()
    _materialize = True
    _node: weakref.ref[FunctionNode] | None = None

    def __init__(self, function: type[Function], needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self._function = function

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep inputs, results or intermediates (or None) for ``backward``, with version checks."""
        for position, t in enumerate(tensors):
            if t is not None and not hasattr(t, "_keys"):
                raise ArgumentTypeError(
                    f"save_for_backward can only save variables, but argument {position} is of "
                    f"type {type(t).__name__}; set other values as attributes of ctx."
                )
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What was saved. InplaceError if it was written since; AutogradError once it is freed."""
        node = self._node() if self._node is not None else None
        if node is None:
            return self._to_save
        if self._saved is None:
            raise freed_error(node)
        return tuple(None if s is None else s.unpack(node) for s in self._saved)

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say which inputs ``forward`` wrote in place; each must be returned."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which results are not differentiable; their cotangents are zeros."""
        self._non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether undefined cotangents reach ``backward`` as zeros (the default) or as None."""
        self._materialize = value

    def _keep(self, node: FunctionNode, results: Sequence[Any]) -> None:
        """Save for real, once it is known which saved tensors are results of the node."""
        numbers = {id(t): i for i, t in enumerate(results)}
        self._saved = [
            None if t is None else SavedTensor(t, numbers.get(id(t), -1)) for t in self._to_save
        ]
        self._to_save = ()
        self._node = weakref.ref(node)

    def _keep_one(self, node: Any, result: Any) -> None:
        """As `_keep`, for a node with one result."""
        self._saved = [
            None if t is None else SavedTensor(t, 0 if t is result else -1) for t in self._to_save
        ]
        self._to_save = ()
        self._node = weakref.ref(node)


class FunctionNode(Node):
    """The tape node of one call of a :class:`Function`."""

    __slots__ = ("context", "function", "tensor_positions")

    def __init__(self, function: type[Function], context: Context, inputs: Sequence[Any]) -> None:
        self.tensor_positions = [i for i, t in enumerate(inputs) if hasattr(t, "_keys")]
        edges: list[Edge | None] = [
            gradient_edge(inputs[i]) if context.needs_input_grad[i] else None
            for i in self.tensor_positions
        ]
        super().__init__(edges)
        self.function = function
        self.context = context

    def name(self) -> str:
        return self.function.__name__ + "Backward"

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        if self.context._materialize:
            grads = tuple(self._defined(g, i) for i, g in enumerate(grads))
        results = self.function.backward(self.context, *grads)
        return self._checked(results if isinstance(results, tuple | list) else (results,))

    def _defined(self, g: Any, number: int) -> Any:
        meta = self.result(number)
        return arithmetic.zeros(meta) if g is None and meta is not None else g

    def _checked(self, results: Sequence[Any]) -> Sequence[Any]:
        """The results that belong to tensors, after checking number and kind."""
        expected = len(self.context.needs_input_grad)
        while len(results) > expected and results[-1] is None:
            results = results[:-1]
        if len(results) != expected:
            raise AutogradError(
                f"function {self.name()} returned an incorrect number of gradients (expected "
                f"{expected}, got {len(results)}); backward returns one for each argument of "
                "forward, None for those that are not tensors."
            )
        tensors = set(self.tensor_positions)
        for position, g in enumerate(results):
            if g is not None and position not in tensors:
                raise AutogradError(
                    f"function {self.name()} returned a gradient different from None at position "
                    f"{position}, but the corresponding forward input was not a Tensor."
                )
        needs = self.context.needs_input_grad
        return [results[i] if needs[i] else None for i in self.tensor_positions]

    def release(self) -> None:
        if self.context._saved:
            self.context._saved = None


class Function:
    """A differentiable function whose backward is written by hand.

    Subclass it, define static ``forward(ctx, *args)`` and ``backward(ctx, *grads)`` (or ``forward(
    *args)`` and ``setup_context(ctx, inputs, output)``), and call ``MyFunction.apply(...)``.

    >>> import plait
    >>> class Double(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return x * 2.0
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         return grad * 2.0
    >>> x = plait.tensor([1.0], requires_grad=True)
    >>> Double.apply(x).backward()
    >>> x.grad
    tensor([2.])
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    setup_context: Callable[..., Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AutogradError(
            f"{type(self).__name__}: a Function is never instantiated; call "
            f"{type(self).__name__}.apply(...)."
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("forward", "backward", "setup_context"):
            if name in cls.__dict__ and not isinstance(cls.__dict__[name], staticmethod):
                raise AutogradError(f"{cls.__name__}.{name}: expected a static method.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run ``forward`` and put ``backward`` on the tape if an argument requires grad.

        A mode in the PreDispatch slot that has ``__plait_function__(cls, args, run)`` is asked
        first; ``run(*args)`` goes on as without it.
        """
        if tls.vmap_levels and any(getattr(a, "_keys", 0) & _BATCHED for a in args):
            return tls.vmap_levels[-1].apply_function(cls, args)
        mode = tls.predispatch
        if mode is not None and not tls.exclude & _PRE_DISPATCH:
            handler = getattr(mode, "__plait_function__", None)
            if handler is not None:
                return handler(cls, args, functools.partial(_apply, cls))
        return _apply(cls, *args)


def _apply(cls: type[Function], *args: Any) -> Any:
    needs = tuple(hasattr(a, "_keys") and requires_grad(a) for a in args)
    context = Context(cls, needs)
    node = FunctionNode(cls, context, args) if tls.grad_enabled and any(needs) else None
    saved = tls.grad_enabled
    tls.grad_enabled = False
    try:
        if cls.setup_context is not None:
            output = cls.forward(*args)
            cls.setup_context(context, args, output)
        else:
            output = cls.forward(context, *args)
    finally:
        tls.grad_enabled = saved
    is_single = not isinstance(output, tuple | list)
    results = [output] if is_single else list(output)
    _check_dirty(cls, context, args, results)
    wrapped = _Wrapper(context, node, args, results).all()
    if node is not None:
        context._keep(node, wrapped)
    return wrapped[0] if is_single else tuple(wrapped)


def _check_dirty(cls: type[Function], context: Context, args: Any, results: list[Any]) -> None:
    for t in context._dirty:
        if not any(t is r for r in results):
            raise InplaceError(
                f"{cls.__name__}: some elements marked as dirty during the forward method were not "
                "returned as output. The inputs that are modified inplace must all be outputs."
            )
        if not any(t is a for a in args):
            raise InplaceError(
                f"{cls.__name__}: only input tensors should be given to ctx.mark_dirty(); got a "
                f"tensor of shape {tuple(t.shape)} that is no input."
            )


class _Wrapper:
    """Gives the results of a forward their history."""

    def __init__(
        self, context: Context, node: FunctionNode | None, args: Sequence[Any], results: list[Any]
    ) -> None:
        self.node = node
        self.name = context._function.__name__
        self.inputs = {id(a) for a in args if hasattr(a, "_keys")}
        self.dirty = {id(t) for t in context._dirty}
        self.fixed = {id(t) for t in context._non_differentiable}
        self.results = results

    def all(self) -> list[Any]:
        """The results to hand to the user, and the node's record of them."""
        metas = [result_meta(t) if self._follows(t) else None for t in self.results]
        if self.node is not None:
            self.node.results = metas
        wrapped: dict[int, Any] = {}
        for number, t in enumerate(self.results):
            if hasattr(t, "_keys") and id(t) not in wrapped:
                wrapped[id(t)] = self._one(t, number)
        out = [wrapped.get(id(t), t) for t in self.results]
        if self.node is not None:
            self._mark_views(out, several=sum(m is not None for m in metas) > 1)
        return out

    def _follows(self, t: Any) -> bool:
        return hasattr(t, "_keys") and is_differentiable(t._dtype) and id(t) not in self.fixed

    def _one(self, t: Any, number: int) -> Any:
        is_input, is_dirty = id(t) in self.inputs, id(t) in self.dirty
        if is_dirty and self.node is not None and self._follows(t):
            self._rebase(t, number)
            return t
        if is_input and not is_dirty:
            t = _alias(t, self._follows(t))
        if self.node is not None and self._follows_now(t, number):
            set_history(t, self.node, number)
        elif t._requires_grad and t._view is None and not is_dirty:
            t._requires_grad, t._grad_fn = False, None
        return t

    def _follows_now(self, t: Any, number: int) -> bool:
        return self.node is not None and self.node.result(number) is not None

    def _rebase(self, t: Any, number: int) -> None:
        assert self.node is not None
        if t._view is not None and len(self.results) > 1:
            raise InplaceError(
                f"{self.name}: if your Function modifies inplace an input that is a view of "
                "another Tensor, your Function cannot return more than one Tensor. Clone it first."
            )
        check_inplace(self.name, t)
        rebase_history(t, self.node, number)

    def _mark_views(self, out: Sequence[Any], several: bool) -> None:
        """Views that leave a Function may not be written: its backward would be by-passed."""
        for t in out:
            if hasattr(t, "_keys") and t._view is not None and id(t) not in self.dirty:
                t._view.creation = "multi_output" if several else "custom_function"


def _alias(t: Tensor, follow: bool) -> Any:
    """Another tensor for an input that was returned as it is."""
    with no_grad():
        return lookup("aten::alias" if follow else "aten::detach").call(t)


class _OnceDifferentiable(Node):
    """Stands where a second derivative would need one that was declared not to exist."""

    __slots__ = ("function",)

    def __init__(self, function: str, edges: Sequence[Edge | None]) -> None:
        super().__init__(edges)
        self.function = function

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        raise AutogradError(
            f"{self.function}: trying to differentiate twice a function that was marked with "
            "@once_differentiable. Write its backward in differentiable operators."
        )


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward that is not itself differentiable; differentiating it then raises."""

    @functools.wraps(backward)
    def once(ctx: Context, *grads: Any) -> Any:
        with no_grad():
            results = backward(ctx, *grads)
        if not tls.grad_enabled:
            return results
        node = ctx._node() if ctx._node is not None else None
        edges = list(node.next_edges) if node is not None else []
        edges += [gradient_edge(g) for g in grads if g is not None and requires_grad(g)]
        outputs = results if isinstance(results, tuple | list) else (results,)
        stop = _OnceDifferentiable(ctx._function.__name__, edges)
        fresh = [
            _alias(r, False) if hasattr(r, "_keys") and is_differentiable(r._dtype) else r
            for r in outputs
        ]
        stop.results = [result_meta(r) if hasattr(r, "_keys") else None for r in fresh]
        for number, r in enumerate(fresh):
            if hasattr(r, "_keys") and is_differentiable(r._dtype):
                set_history(r, stop, number)
        return tuple(fresh) if isinstance(results, tuple | list) else fresh[0]

    return once
