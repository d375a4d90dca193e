"""Forward mode and whole Jacobians: `jvp`, `linearize`, `jacrev`, `jacfwd`, `hessian`.

Forward mode is the transpose of the transpose: the pull-back of a function is linear in the
cotangent, so pulling back through the pull-back pushes a tangent forward. It needs no rule beyond
the derivatives of the operators, and is as exact as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree

from plait.autograd.grad_mode import enable_grad
from plait.autograd.graph import is_differentiable
from plait.base.errors import ArgumentTypeError, ShapeMismatch
from plait.dispatch.dispatcher import lookup
from plait.tensor.tensor import Tensor
from plait.transforms.gradients import named_after, positions, pull_back_of, vjp
from plait.transforms.vmap import vmap

__all__ = ["hessian", "jacfwd", "jacrev", "jvp", "linearize"]


def jvp(f: Callable[..., Any], primals: Any, tangents: Any, *, has_aux: bool = False) -> Any:
    """``(f(*primals), tangents of the result)``: the derivative of ``f`` along ``tangents``.

    ``primals`` and ``tangents`` are tuples of the same structure and shapes, floating or complex.
    With ``has_aux``, ``f`` returns ``(output, aux)`` and the result is ``(output, tangents, aux)``.
    Raises ArgumentTypeError for other values and ShapeMismatch for tangents that do not fit.

    >>> import plait
    >>> plait.func.jvp(plait.sin, (plait.tensor([0.0]),), (plait.tensor([2.0]),))
    (tensor([0.]), tensor([2.]))
    """
    for what, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple) or not given:
            raise ArgumentTypeError(
                f"jvp: Expected {what} to be a tuple, with at least one value; got "
                f"{type(given).__name__}. Write jvp(f, (x,), (t,))."
            )
    found = _linearized(f, primals, has_aux)
    return (found[0], found[1](*tangents), *found[2:])


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``(f(*primals), push)``: ``push(*tangents)`` is the derivative along ``tangents``.

    ``f`` runs once; ``push`` may be called many times, also inside vmap.

    >>> import plait
    >>> out, push = plait.func.linearize(lambda x: x * x, plait.tensor([3.0]))
    >>> push(plait.tensor([1.0]))
    tensor([6.])
    """
    out, push = _linearized(f, primals, False)
    return out, push


def _linearized(f: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``(output, push, aux...)``."""
    with enable_grad():
        (output, pull, *aux), fresh = pull_back_of(f, primals, has_aux, ())
    leaves, structure = optree.tree_flatten(output)
    dummies = optree.tree_unflatten(
        structure, [lookup("aten::zeros_like").call(t) for t in leaves if _require_tensor(t)]
    )
    smooth = [t for t in leaves if is_differentiable(t._dtype)]
    shape = optree.tree_structure(_tree(primals))

    def pull_back(*cotangents: Any) -> Any:
        whole = iter(cotangents)
        filled = [
            next(whole) if is_differentiable(t._dtype) else t for t in optree.tree_leaves(dummies)
        ]
        return pull(optree.tree_unflatten(structure, filled))

    with enable_grad():
        zeros = tuple([lookup("aten::zeros_like").call(t) for t in smooth])
        (_, push_all), _ = pull_back_of(pull_back, zeros, False, fresh)

    def push(*tangents: Any) -> Any:
        _check_tangents(primals, tangents, shape)
        moved = iter(push_all(tangents))
        found = [
            next(moved) if is_differentiable(t._dtype) else lookup("aten::zeros_like").call(t)
            for t in leaves
        ]
        return optree.tree_unflatten(structure, found)

    return (output, push, *aux)


def _tree(values: Any) -> Any:
    """``values``, whose type as a tree is not inferred."""
    return values


def _require_tensor(t: Any) -> bool:
    if not isinstance(t, Tensor):
        raise ArgumentTypeError(
            f"jvp: the function returned a {type(t).__name__}; expected tensors only, in tuples, "
            "lists or dicts. Return other values with has_aux=True."
        )
    return True


def _check_tangents(primals: Any, tangents: Any, structure: Any) -> None:
    given = optree.tree_structure(tangents)
    if given != structure:
        raise ShapeMismatch(
            f"jvp: Expected primals and tangents to have the same python structure; got "
            f"{structure} and {given}."
        )
    for p, t in zip(optree.tree_leaves(primals), optree.tree_leaves(tangents), strict=True):
        if not isinstance(t, Tensor) or tuple(t.shape) != tuple(p.shape):
            got = f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
            raise ShapeMismatch(
                f"jvp: a tangent has {got}; expected a tensor of shape {tuple(p.shape)}, that of "
                "its primal."
            )


# ---------------------------------------------------------------- whole Jacobians


def jacrev(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of ``f`` by reverse mode: one pull-back for each element of the result.

    For each tensor of the result, the structure of the argument ``argnums`` with tensors of shape
    ``(*result, *argument)``. ``chunk_size`` bounds how many rows are computed at a time.

    >>> import plait
    >>> plait.func.jacrev(lambda x: x * x)(plait.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        chosen, of_chosen = _chosen(f, argnums, args, kwargs)
        output, pull, *aux = vjp(of_chosen, *chosen, has_aux=has_aux)
        leaves, structure = optree.tree_flatten(output)
        rows = vmap(pull, chunk_size=chunk_size)(
            optree.tree_unflatten(structure, _basis(leaves, "jacrev"))
        )
        wanted = _only(rows, argnums)
        counts = [t.numel() for t in leaves]
        parts, inner = optree.tree_flatten(wanted)
        cut = [_unfolded(part, counts, leaves) for part in parts]
        per_output = [optree.tree_unflatten(inner, list(column)) for column in zip(*cut)]
        found = optree.tree_unflatten(structure, per_output)
        return (found, *aux) if has_aux else found

    return named_after(f, jacobian)


def jacfwd(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of ``f`` by forward mode: one push for each element of the argument.

    The same result as :func:`jacrev`; cheaper where the result has more elements than the argument.

    >>> import plait
    >>> plait.func.jacfwd(lambda x: x * x)(plait.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        chosen, of_chosen = _chosen(f, argnums, args, kwargs)
        _, push, *aux = _linearized(of_chosen, chosen, has_aux)
        leaves, structure = optree.tree_flatten(_tree(chosen))
        tangents = optree.tree_unflatten(structure, _basis(leaves, "jacfwd"))
        columns = vmap(push, out_dims=-1, randomness=randomness, chunk_size=chunk_size)(*tangents)
        counts = [t.numel() for t in leaves]

        def split(column: Any) -> Any:
            pieces = lookup("aten::split_with_sizes").call(column, counts, -1)
            shaped = [
                lookup("aten::reshape").call(piece, (*piece.shape[:-1], *leaf.shape))
                for piece, leaf in zip(pieces, leaves, strict=True)
            ]
            return _only(optree.tree_unflatten(structure, shaped), argnums)

        found = optree.tree_map(split, columns)
        return (found, *aux) if has_aux else found

    return named_after(f, jacobian)


def hessian(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Second derivatives of ``f``: forward mode over reverse mode.

    >>> import plait
    >>> plait.func.hessian(lambda x: (x * x * x).sum())(plait.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return jacfwd(jacrev(f, argnums), argnums)


def _chosen(
    f: Callable[..., Any], argnums: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """(the arguments ``argnums``, ``f`` as a function of these alone)."""
    numbers = positions(argnums, len(args))

    def of_chosen(*chosen: Any) -> Any:
        call = list(args)
        for i, new in zip(numbers, chosen, strict=True):
            call[i] = new
        return f(*call, **kwargs)

    return tuple([args[i] for i in numbers]), of_chosen


def _only(tree: Any, argnums: Any) -> Any:
    return tree[0] if isinstance(argnums, int) else tree


def _basis(leaves: list[Any], what: str) -> list[Tensor]:
    """For each tensor, its unit vectors among those of all: shape ``(elements of all, *shape)``."""
    for t in leaves:
        if not isinstance(t, Tensor) or not is_differentiable(t._dtype):
            got = f"a tensor of {t._dtype}" if isinstance(t, Tensor) else type(t).__name__
            raise ArgumentTypeError(
                f"{what}: got {got}; expected the function to take and return only floating "
                "tensors. (Expected all inputs and outputs to be Tensors)"
            )
    counts = [t.numel() for t in leaves]
    total = sum(counts)
    made, start = [], 0
    for t, count in zip(leaves, counts, strict=True):
        rows = lookup("aten::eye").call(total, dtype=t._dtype)
        own = lookup("aten::slice.Tensor").call(rows, 1, start, start + count, 1)
        made.append(lookup("aten::reshape").call(own, (total, *t.shape)))
        start += count
    return made


def _unfolded(part: Tensor, counts: list[Any], leaves: list[Tensor]) -> list[Tensor]:
    """Rows for all elements of all results, as one Jacobian for each result."""
    pieces = lookup("aten::split_with_sizes").call(part, counts, 0)
    return [
        lookup("aten::reshape").call(piece, (*leaf.shape, *piece.shape[1:]))
        for piece, leaf in zip(pieces, leaves, strict=True)
    ]
