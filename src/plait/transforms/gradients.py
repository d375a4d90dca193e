"""Gradients over pytrees: `value_and_grad`, `grad`, `vjp`.

Built from the tape alone: the function is run on fresh leaves that share the arguments' memory, and
the tape is walked with `autograd.grad`. So it works in eager and is simply traced under capture.
Nests: where an argument (or anything else that the result depends on) requires grad, results stay
connected to it. Inside vmap the tape lies below the batched tensors: the arguments get samples of
their own first, so that each sample has its own gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optree

from plait.autograd import functional
from plait.autograd.grad_mode import enable_grad, is_grad_enabled
from plait.autograd.graph import Node, is_differentiable
from plait.autograd.views import history_of, requires_grad
from plait.base.errors import ArgumentTypeError, AutogradError, InvalidArgument, ShapeMismatch
from plait.dispatch.dispatcher import lookup
from plait.tensor.tensor import Tensor
from plait.transforms.autocast import forget
from plait.transforms.batching.tensor import (
    as_levels_of,
    at_levels,
    expanded_to_levels,
    physical,
)

__all__ = ["grad", "named_after", "positions", "pull_back_of", "value_and_grad", "vjp"]


def value_and_grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns ``(f(*args), gradients)``.

    ``f`` returns a tensor with one element, or with ``has_aux`` a pair of it and any pytree, and
    then the result is ``((value, aux), gradients)``. Gradients have the structure of the argument
    ``argnums`` (of a tuple of them for a tuple); its leaves must be floating tensors. An unused
    leaf gets zeros.

    >>> import plait
    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> params = {"w": plait.tensor([1.0, 2.0])}
    >>> plait.func.value_and_grad(loss)(params, plait.tensor([3.0, 4.0]))
    (tensor(11.), {'w': tensor([3., 4.])})
    """

    def with_gradients(*args: Any, **kwargs: Any) -> Any:
        numbers = positions(argnums, len(args))
        chosen = args[numbers[0]] if isinstance(argnums, int) else tuple(args[i] for i in numbers)
        leaves, structure = _leaves(chosen, "value_and_grad")
        fresh = [_fresh(leaf) for leaf in leaves]
        replaced = optree.tree_unflatten(structure, fresh)
        call = list(args)
        for i, new in zip(numbers, (replaced,) if isinstance(argnums, int) else replaced):
            call[i] = new
        output = _run(f, call, kwargs, fresh)
        value = _value(output, has_aux)
        keep = is_grad_enabled() and _depends_on_others(value, fresh)
        found = _gradients((value,), fresh, None, keep=keep)
        _end(fresh)
        if not keep:
            output = optree.tree_map(_detached, output)
        return output, optree.tree_unflatten(structure, found)

    return named_after(f, with_gradients)


def named_after(f: Callable[..., Any], transformed: Callable[..., Any]) -> Callable[..., Any]:
    """``transformed`` with the name, signature and documentation of ``f``, if it has them."""
    if hasattr(f, "__name__"):
        functools.update_wrapper(transformed, f, updated=())
    return transformed


def grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradients of ``f``; with ``has_aux``, ``(gradients, aux)``.

    See :func:`value_and_grad`.
    """
    both = value_and_grad(f, argnums, has_aux)

    def gradients(*args: Any, **kwargs: Any) -> Any:
        output, found = both(*args, **kwargs)
        return (found, output[1]) if has_aux else found

    return named_after(f, gradients)


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """``(f(*primals), pull)``: ``pull(cotangents)`` gives the gradients of all primals as a tuple.

    Cotangents have the structure and shapes of the output. With ``has_aux``, ``f`` returns
    ``(output, aux)`` and the result is ``(output, pull, aux)``.
    """
    return pull_back_of(f, primals, has_aux, ())[0]


def pull_back_of(
    f: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool, own: Sequence[Tensor]
) -> tuple[Any, list[Tensor]]:
    """(what :func:`vjp` returns, the leaves that stand for the primals).

    ``own`` are leaves of the caller: results need not stay connected to them.
    """
    leaves, structure = _leaves(primals, "vjp")
    fresh = [_fresh(leaf) for leaf in leaves]
    hidden = [*fresh, *own]
    again: Any = optree.tree_unflatten(structure, fresh)
    output = _run(f, again, {}, fresh)
    aux: Any = None
    if has_aux:
        output, aux = output
    outputs, out_structure = optree.tree_flatten(output)

    def pull(cotangents: Any) -> Any:
        given, given_structure = optree.tree_flatten(cotangents)
        if given_structure != out_structure:
            raise ShapeMismatch(
                f"vjp: cotangents have the structure {given_structure}; expected {out_structure}, "
                "that of the output."
            )
        pairs = [(o, c) for o, c in zip(outputs, given, strict=True) if requires_grad(o)]
        keep = is_grad_enabled() and any(
            requires_grad(c) or _depends_on_others(o, hidden) for o, c in pairs
        )
        found = _gradients([o for o, _ in pairs], fresh, [c for _, c in pairs], keep=keep)
        return optree.tree_unflatten(structure, found)

    cut = _detached_unless(hidden)
    shown = optree.tree_map(cut, output)
    if has_aux:
        aux = optree.tree_map(cut, aux)
    _end(fresh)
    return ((shown, pull, aux) if has_aux else (shown, pull)), fresh


def positions(argnums: int | tuple[int, ...], count: int) -> list[int]:
    """The positions of ``argnums`` among ``count`` arguments; negative ones from the end."""
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    for number in numbers:
        if not -count <= number < count:
            raise InvalidArgument(
                f"value_and_grad: argument 'argnums' = {number} is out of range; got {count} "
                f"positional arguments; expected {-count} <= argnums < {count}."
            )
    return [number % count for number in numbers]


def _leaves(tree: Any, what: str) -> tuple[list[Tensor], Any]:
    paths, leaves, structure = optree.tree_flatten_with_path(tree)
    for path, leaf in zip(paths, leaves, strict=True):
        if not isinstance(leaf, Tensor) or not is_differentiable(leaf._dtype):
            got = f"a tensor of {leaf._dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ArgumentTypeError(
                f"{what}: the argument to differentiate holds {got} at {list(path)}; expected "
                "floating or complex tensors only. Pass other values in another argument."
            )
    return leaves, structure


def _fresh(leaf: Tensor) -> Tensor:
    """A tensor for the same memory that requires grad, connected to ``leaf`` if followed."""
    leaf = expanded_to_levels(leaf)
    if is_grad_enabled() and requires_grad(leaf):
        alias: Tensor = lookup("aten::alias").call(leaf)
        return alias
    fresh: Tensor = lookup("aten::detach").call(leaf)
    fresh._requires_grad = True
    return fresh


def _has_ended(leaf: Tensor) -> bool:
    return "transform_has_ended" in vars(leaf)


def _run(f: Callable[..., Any], args: Any, kwargs: Any, fresh: list[Tensor]) -> Any:
    try:
        with enable_grad():
            return f(*args, **kwargs)
    finally:
        forget(fresh)


def _end(fresh: list[Tensor]) -> None:
    """Mark the leaves of a transform that has what it wants of them."""
    for t in fresh:
        vars(physical(t))["transform_has_ended"] = True


def _value(output: Any, has_aux: bool) -> Tensor:
    if has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise ArgumentTypeError(
            f"value_and_grad: with has_aux=True the function returns a pair (value, aux); got "
            f"{type(output).__name__}."
        )
    value = output[0] if has_aux else output
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ShapeMismatch(
            f"value_and_grad: the function must return a tensor with one element; got {got}. "
            "Reduce it, or return more with has_aux=True."
        )
    return value


def _gradients(
    outputs: Sequence[Tensor], inputs: list[Tensor], cotangents: Any, *, keep: bool
) -> list[Tensor]:
    """Gradients with zeros for unused inputs; ``keep`` leaves them and the graph differentiable."""
    given = [None] * len(outputs) if cotangents is None else cotangents
    pairs = [(o, c) for o, c in zip(outputs, given, strict=True) if requires_grad(o)]
    if not pairs or not inputs:
        return [lookup("aten::zeros_like").call(t) for t in inputs]
    found = functional.grad(
        [physical(o) for o, _ in pairs],
        [physical(t) for t in inputs],
        [at_levels(_start(o) if c is None else c, o) for o, c in pairs],
        retain_graph=keep or cotangents is not None,
        create_graph=keep,
        materialize_grads=True,
    )
    return [as_levels_of(g, t) for g, t in zip(found, inputs, strict=True)]


def _start(value: Tensor) -> Tensor:
    """The cotangent 1 of a value that is differentiated."""
    if value._dtype.is_complex:
        raise AutogradError(
            f"grad: grad can be implicitly created only for real scalar outputs; got "
            f"{value._dtype}. Use vjp, with a cotangent."
        )
    one: Tensor = lookup("aten::ones_like").call(value)
    return one


def _depends_on_others(value: Tensor, fresh: list[Tensor]) -> bool:
    """Whether the tape below ``value`` reaches a leaf that is not one of ``fresh``.

    Leaves of transforms that have ended do not count: nobody differentiates by them any more.
    """
    own = {id(physical(t)) for t in fresh}
    value = physical(value)
    top = history_of(value)
    if top is None:
        return requires_grad(value) and id(value) not in own and not _has_ended(value)
    stack: list[Node] = [top]
    seen: set[Node] = {top}
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in own and not _has_ended(variable):
            return True
        for edge in node.next_edges:
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return False


def _detached(t: Any) -> Any:
    if isinstance(t, Tensor) and requires_grad(t):
        return lookup("aten::detach").call(t)
    return t


def _detached_unless(fresh: list[Tensor]) -> Callable[[Any], Any]:
    """Cuts a result off from the fresh leaves, unless it depends on something else as well."""

    def cut(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        return t if is_grad_enabled() and _depends_on_others(t, fresh) else _detached(t)

    return cut
