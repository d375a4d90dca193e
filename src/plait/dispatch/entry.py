"""The computed dispatch table: which kernel an operator runs for a keyset.

Owns the precedence of kernels, one numbered function (:func:`kernel_for_key`), and the composition
of fallbacks into one callable per keyset (:func:`compute`). Knows no thread state and no tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plait.base.errors import DeviceMismatch, MissingKernel
from plait.dispatch.keys import AliasKey as A
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import AUTOGRAD_KEYS, BACKEND_KEYS, FULL, KeySet, below, highest
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.dispatch.operator import Overload

__all__ = ["FALLBACKS", "FALLTHROUGH", "Kernel", "Specialiser", "compute", "kernel_for_key"]

# A fallback is a specialiser: given the operator and the keys below its own, it returns the
# callable for that operator and keyset, or None to fall through.
Specialiser = Callable[["Overload", int], "Callable[..., Any] | None"]

FALLBACKS: dict[DispatchKey, Specialiser] = {}

_BACKEND_OF_AUTOGRAD = {
    DispatchKey.AUTOGRAD_CPU: DispatchKey.CPU,
    DispatchKey.AUTOGRAD_CUDA: DispatchKey.CUDA,
    DispatchKey.AUTOGRAD_META: DispatchKey.META,
}
_ABOVE_BACKENDS = FULL & ~BACKEND_KEYS & ~DispatchKey.PYTHON_DISPATCHER.mask


class Kernel:
    """A registered kernel: its function and place, and whether it issues operators."""

    __slots__ = ("calls_operators", "fn", "location")

    def __init__(self, fn: Callable[..., Any], calls_operators: bool, location: str) -> None:
        self.fn = fn
        self.calls_operators = calls_operators
        self.location = location


def _fall_through(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a fallthrough kernel is skipped, never called")


FALLTHROUGH = Kernel(_fall_through, False, "built in")


def kernel_for_key(op: Overload, key: DispatchKey) -> Kernel | None:
    """The kernel of ``op`` at ``key`` by registration, before fallbacks; None if there is none."""
    kernels = op.kernels
    # 1. A kernel registered for this very key.
    if key in kernels:
        return kernels[key]
    is_backend = bool(BACKEND_KEYS & key.mask)
    is_autograd = bool(AUTOGRAD_KEYS & key.mask)
    # 2. Composite kernels that own their gradient serve every backend, non-functional ones first.
    if is_backend:
        for alias in (A.COMPOSITE_EXPLICIT_AUTOGRAD_NON_FUNCTIONAL, A.COMPOSITE_EXPLICIT_AUTOGRAD):
            if alias in kernels:
                return kernels[alias]
    # 3. A composite kernel made of operators serves backends and autograd, unless a backend kernel
    #    or an explicit composite owns the operator there.
    if (is_backend or is_autograd) and A.COMPOSITE_IMPLICIT_AUTOGRAD in kernels:
        backend = _BACKEND_OF_AUTOGRAD.get(key)
        owned = A.COMPOSITE_EXPLICIT_AUTOGRAD in kernels or (
            backend in kernels if backend is not None else False
        )
        if not (is_autograd and owned):
            return kernels[A.COMPOSITE_IMPLICIT_AUTOGRAD]
    # 4. The Autograd alias.
    if is_autograd and A.AUTOGRAD in kernels:
        return kernels[A.AUTOGRAD]
    return None


def compute(op: Overload, keyset: int) -> Callable[..., Any]:
    """Compose the callable that ``op`` runs for ``keyset``; MissingKernel if there is none."""
    if (keyset & BACKEND_KEYS).bit_count() > 1:
        return _device_mismatch(op)
    remaining = keyset
    while (key := highest(remaining)) is not None:
        remaining = keyset & below(key)
        kernel = kernel_for_key(op, key)
        if kernel is FALLTHROUGH:
            continue
        if kernel is not None:
            return _below_autograd(kernel) if key.mask & BACKEND_KEYS else kernel.fn
        # 5. The fallback of the key, which may fall through.
        specialiser = FALLBACKS.get(key)
        specialised = specialiser(op, remaining) if specialiser is not None else None
        if specialised is not None:
            return specialised
        if key.mask & BACKEND_KEYS:
            break
    raise MissingKernel(missing_message(op, keyset))


def _device_mismatch(op: Overload) -> Callable[..., Any]:
    """What an operator runs for tensors of several backends: the error, naming each argument."""

    def mismatch(*args: Any, **kwargs: Any) -> Any:
        placed = []
        for name, value in op.bind(args, kwargs).items():
            items = value if isinstance(value, list | tuple) else (value,)
            placed += [f"{name!r} on {t.device}" for t in items if hasattr(t, "_keys")]
        raise DeviceMismatch(
            f"{op.qualname}: the tensors lie on different devices; got {', '.join(placed)}; "
            "expected all on one. Make them on the same device."
        )

    return mismatch


def _below_autograd(kernel: Kernel) -> Callable[..., Any]:
    """A backend kernel that issues operators does so below autograd and above nothing."""
    if not kernel.calls_operators:
        return kernel.fn
    fn = kernel.fn

    def call(*args: Any, **kwargs: Any) -> Any:
        saved = tls.exclude
        tls.exclude = saved | _ABOVE_BACKENDS
        try:
            return fn(*args, **kwargs)
        finally:
            tls.exclude = saved

    return call


def missing_message(op: Overload, keyset: int) -> str:
    """Why there is no kernel, and what to do."""
    backends = KeySet(keyset & BACKEND_KEYS)
    if not keyset & BACKEND_KEYS:
        return (
            f"{op.qualname}: no tensor argument and no device chose a backend "
            f"(keyset {KeySet(keyset)}); pass a tensor or a 'device' argument."
        )
    known = ", ".join(k.name for k in op.kernels) or "none"
    return (
        f"{op.qualname}: no kernel for {backends}; kernels are registered for: {known}. "
        "Register one for this backend, or move the tensors to a backend that has one."
    )
