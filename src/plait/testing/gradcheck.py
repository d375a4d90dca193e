"""Gradients against finite differences, along random directions.

One inner product instead of a Jacobian: for a cotangent v of the results and a direction u of one
argument, <gradient, u> must be the derivative of <v, fn(x + t u)> at t = 0. Second order is the
same check of the function that returns the gradients. Of complex numbers, the inner product is the
real part of the usual one: real and imaginary parts are coordinates, which is PyTorch's convention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.autograd.functional import grad
from plait.base.errors import AutogradError, InvalidArgument, check
from plait.tensor import dtype as dtypes
from plait.tensor.tensor import Tensor, from_numpy

__all__ = ["gradcheck", "gradgradcheck"]

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]


def gradcheck(
    fn: Function,
    inputs: Any,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    directions: int = 2,
    seed: int = 0,
) -> bool:
    """Check the gradients of ``fn(*inputs)`` for every argument that requires grad; returns True.

    These arguments must be float64 or complex128; others are passed on. Results that do not require
    grad are left out. Raises AutogradError with the argument, both values and the bound where they
    disagree, and InvalidArgument for inputs that cannot be checked.

    >>> import plait
    >>> x = plait.tensor([0.5, 2.0], dtype=plait.float64, requires_grad=True)
    >>> gradcheck(lambda x: x.exp() * x, [x])
    True
    """
    arguments = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
    positions = _checked_positions(arguments)
    outs = _results(fn(*arguments))
    kept = [i for i, out in enumerate(outs) if out.requires_grad]
    if not kept:
        raise AutogradError(
            "gradcheck: no result of the function requires grad; got "
            f"{len(outs)} result(s) of {len(positions)} argument(s) that do."
        )
    for draw in range(directions):
        rng = np.random.default_rng((seed, draw))
        _check_direction(fn, arguments, positions, outs, kept, rng, eps, (rtol, atol))
    return True


def gradgradcheck(
    fn: Function,
    inputs: Any,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    directions: int = 2,
    seed: int = 0,
) -> bool:
    """Check the gradients of the gradients, by the arguments and by the cotangents; returns True.

    A gradient that does not require grad must be constant. Options and errors as for
    :func:`gradcheck`.
    """
    arguments = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
    positions = _checked_positions(arguments)
    rng = np.random.default_rng((seed, directions))
    outs = [out for out in _results(fn(*arguments)) if out.requires_grad]
    cotangents = [from_numpy(_random(rng, out)).requires_grad_() for out in outs]

    def gradients(*both: Any) -> tuple[Tensor, ...]:
        given, vs = both[: len(arguments)], both[len(arguments) :]
        results = [out for out in _results(fn(*given)) if out.requires_grad]
        wanted = [given[p] for p in positions]
        found = grad(results, wanted, vs, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    everything = (*arguments, *cotangents)
    found = list(gradients(*everything))
    kept = list(range(len(found)))
    at = _checked_positions(everything)
    for draw in range(directions):
        rng = np.random.default_rng((seed, draw))
        _check_direction(gradients, everything, at, found, kept, rng, eps, (rtol, atol))
    return True


def _check_direction(
    fn: Function,
    arguments: tuple[Any, ...],
    positions: list[int],
    outs: list[Tensor],
    kept: list[int],
    rng: np.random.Generator,
    eps: float,
    bounds: tuple[float, float],
) -> None:
    """Compare the gradients of the results ``kept``, for one cotangent and one direction each."""
    weights = [_random(rng, outs[i]) for i in kept]
    followed = [(outs[i], from_numpy(w)) for i, w in zip(kept, weights) if outs[i].requires_grad]
    found: Sequence[Tensor | None] = [None] * len(positions)
    if followed:
        found = grad(
            [out for out, _ in followed],
            [arguments[p] for p in positions],
            [w for _, w in followed],
            retain_graph=True,
            allow_unused=True,
        )

    def weighed(p: int, moved: Array) -> float:
        """<v, fn> with argument ``p`` replaced."""
        replaced = from_numpy(moved).requires_grad_()
        results = _results(fn(*arguments[:p], replaced, *arguments[p + 1 :]))
        return float(sum(_inner(w, _array(results[i])) for w, i in zip(weights, kept)))

    for p, g in zip(positions, found, strict=True):
        _compare(p, arguments[p], g, weighed, _random(rng, arguments[p]), eps, bounds)


def _checked_positions(arguments: Sequence[Any]) -> list[int]:
    """Where the arguments are whose gradients are checked."""
    positions = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]
    check(
        positions, InvalidArgument, lambda: "gradcheck: no argument requires grad; expected some."
    )
    for p in positions:
        dtype = arguments[p].dtype
        check(
            dtype in (dtypes.float64, dtypes.complex128),
            InvalidArgument,
            lambda: f"gradcheck: argument {p} is {dtype}; expected float64 or complex128.",  # noqa: B023 - called at once
        )
    return positions


def _compare(
    position: int,
    argument: Tensor,
    g: Tensor | None,
    weighed: Callable[[int, Array], float],
    u: Array,
    eps: float,
    bounds: tuple[float, float],
) -> None:
    """Raise unless <g, u> is the slope of ``weighed`` along ``u``."""
    x = _array(argument)
    analytic = 0.0 if g is None else _inner(_array(g), u)
    ahead, behind = _moved(x, eps * u), _moved(x, -eps * u)
    slope = (weighed(position, ahead) - weighed(position, behind)) / (2 * eps)
    bound = bounds[1] + bounds[0] * max(abs(slope), abs(analytic), float(np.linalg.norm(u)))
    if not abs(analytic - slope) <= bound:
        raise AutogradError(
            f"gradcheck: the gradient for argument {position} (shape {argument.shape}) is wrong; "
            f"along a random direction got {analytic!r}; finite differences give {slope!r}; "
            f"allowed difference {bound:.3g}."
        )


def _inner(a: Array, b: Array) -> float:
    """The sum of products of all coordinates."""
    return float(np.vdot(a, b).real)


def _moved(x: Array, step: Array) -> Array:
    """``x + step`` in the memory order of ``x``: some operators look at it."""
    moved = x.copy(order="K")
    moved += step
    return moved


def _results(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, list | tuple) else [out]


def _array(t: Tensor) -> Array:
    return t.numpy(force=True)


def _random(rng: np.random.Generator, like: Tensor) -> Array:
    values = rng.uniform(-1, 1, like.shape)
    if like.dtype.is_complex:
        values = values + 1j * rng.uniform(-1, 1, like.shape)
    return np.asarray(values, like.dtype.numpy)
