"""`backward` and `grad`: the checks and defaults in front of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.autograd import arithmetic, engine
from plait.autograd.graph import Edge
from plait.autograd.views import gradient_edge, history_of, requires_grad
from plait.base.errors import ArgumentTypeError, AutogradError, InvalidArgument, ShapeMismatch
from plait.dispatch.keys import DispatchKey
from plait.tensor.tensor import Tensor

__all__ = ["backward", "grad"]

Tensors = Tensor | Sequence[Tensor]
OptionalTensors = Tensor | Sequence[Tensor | None] | None


def backward(
    tensors: Tensors,
    grad_tensors: OptionalTensors = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradients of ``tensors`` with respect to the leaves to the leaves' ``.grad``.

    ``grad_tensors``: cotangents; None stands for 1 where a tensor has one element. ``inputs``: only
    accumulate in these (leaves, or results whose gradient is then kept in ``.grad``).
    AutogradError if nothing requires grad, if a cotangent is missing or has the wrong shape, or if
    the graph was freed by an earlier call (pass ``retain_graph=True`` there).
    """
    keep_graph = create_graph if retain_graph is None else retain_graph
    roots = _roots(_tuple(tensors), grad_tensors, "backward", create_graph)
    if inputs is None:
        engine.run(roots, keep_graph=keep_graph, create_graph=create_graph)
        return
    wanted = _tuple(inputs)
    if not wanted:
        raise InvalidArgument(
            "backward: argument 'inputs' is empty; expected None or at least one tensor."
        )
    edges = _input_edges("backward", wanted)
    leaves = [edge[0] for edge, t in zip(edges, wanted, strict=True) if history_of(t) is None]
    captures = [edge for edge, t in zip(edges, wanted, strict=True) if history_of(t) is not None]
    computed = [t for t in wanted if history_of(t) is not None]
    found = engine.run(
        roots, keep_graph=keep_graph, create_graph=create_graph, captures=captures, leaves=leaves
    )
    for t, g in zip(computed, found, strict=True):
        if g is not None:
            t._grad = g if t._grad is None else arithmetic.add(t._grad, g)


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: OptionalTensors = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    *,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of the sum of ``outputs`` with respect to ``inputs``, as a tuple.

    An input that the outputs do not depend on raises AutogradError, or gives None with
    ``allow_unused``, or zeros with ``materialize_grads``.

    >>> import plait
    >>> x = plait.tensor([1.0, 2.0], requires_grad=True)
    >>> plait.autograd.grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    if materialize_grads and allow_unused is False:
        raise InvalidArgument(
            "grad: argument 'allow_unused' is False; expected True or nothing passed when "
            "materialize_grads=True, which gives unused inputs zeros."
        )
    wanted = _tuple(inputs)
    keep_graph = create_graph if retain_graph is None else retain_graph
    roots = _roots(_tuple(outputs), grad_outputs, "grad", create_graph)
    edges = _input_edges("grad", wanted)
    found = engine.run(roots, keep_graph=keep_graph, create_graph=create_graph, captures=edges)
    if materialize_grads:
        return tuple(
            arithmetic.zeros((t.shape, t._dtype, t._device)) if g is None else g
            for t, g in zip(wanted, found, strict=True)
        )
    for position, g in enumerate(found):
        if g is None and not allow_unused:
            raise AutogradError(
                f"grad: the differentiated Tensor at index {position} appears to not have been "
                "used in the graph. Pass allow_unused=True for None in its place, or "
                "materialize_grads=True for zeros."
            )
    return tuple(found)


def _tuple(tensors: Any) -> tuple[Any, ...]:
    return (tensors,) if hasattr(tensors, "_keys") else tuple(tensors)


def _input_edges(what: str, inputs: tuple[Any, ...]) -> list[Edge]:
    for position, t in enumerate(inputs):
        if not hasattr(t, "_keys"):
            raise ArgumentTypeError(
                f"{what}: argument 'inputs' holds a {type(t).__name__} at index {position}; "
                "expected tensors."
            )
        if not requires_grad(t) or gradient_edge(t) is None:
            raise AutogradError(
                f"{what}: One of the differentiated Tensors does not require grad: the one at "
                f"index {position} of 'inputs'. Call requires_grad_() on it before it is used."
            )
    return [edge for edge in map(gradient_edge, inputs) if edge is not None]


def _roots(
    outputs: tuple[Any, ...], cotangents: OptionalTensors, what: str, create_graph: bool
) -> list[tuple[Edge, Tensor]]:
    """Edges and cotangents to start from."""
    for out in outputs:
        if hasattr(out, "_keys") and out._keys & DispatchKey.BATCHED.mask:
            raise AutogradError(
                f"{what}: called inside vmap, on a batched tensor of shape {tuple(out.shape)}; "
                "expected a transform of plait.func there (grad, vjp, jacrev), or the call outside "
                "of the mapped function."
            )
    given = (None,) * len(outputs) if cotangents is None else _tuple(cotangents)
    if len(given) != len(outputs):
        raise AutogradError(
            f"{what}: got {len(outputs)} tensors and {len(given)} gradients; expected one gradient "
            "(or None) for each tensor."
        )
    roots = []
    for position, (out, cotangent) in enumerate(zip(outputs, given, strict=True)):
        edge = gradient_edge(out) if requires_grad(out) else None
        if edge is None:
            raise AutogradError(
                f"{what}: element {position} of tensors does not require grad and does not have a "
                "grad_fn; expected a tensor computed from one that requires grad."
            )
        start = _start(what, position, out) if cotangent is None else cotangent
        if start.shape != out.shape:
            raise ShapeMismatch(
                f"{what}: Mismatch in shape: grad_output[{position}] has a shape of "
                f"{tuple(start.shape)} and output[{position}] has a shape of {tuple(out.shape)}; "
                "expected the same shape."
            )
        roots.append((edge, start))
    return roots


def _start(what: str, position: int, out: Tensor) -> Tensor:
    """The implicit cotangent 1 of a tensor with one element."""
    if out.numel() != 1:
        raise AutogradError(
            f"{what}: grad can be implicitly created only for scalar outputs; got shape "
            f"{tuple(out.shape)} at index {position}; expected one element. Pass a gradient of "
            "that shape, or reduce the tensor first."
        )
    if out._dtype.is_complex:
        raise AutogradError(
            f"{what}: grad can be implicitly created only for real scalar outputs; got "
            f"{out._dtype}. Pass a gradient."
        )
    return arithmetic.ones_like(out)
