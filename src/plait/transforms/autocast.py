"""Autocast: matrix products in half precision, what needs its digits in float32.

Owns the switch (`autocast`), the cast lists, which are those of PyTorch's CPU autocast, and the
layer at the AUTOCAST_CPU key that casts by them. A list names operators, the only place of this
layer that does; every other operator takes its arguments as they come.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from plait.base.errors import ArgumentTypeError, InvalidArgument
from plait.dispatch.dispatcher import lookup, register_fallback
from plait.dispatch.entry import find_kernel
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.state import set_autocast, tls
from plait.tensor.dtype import DType, bfloat16, float16, float32, float64
from plait.tensor.promotion import promote
from plait.tensor.tensor import Tensor

__all__ = [
    "FP32",
    "LOWER_PRECISION",
    "PROMOTE",
    "autocast",
    "forget",
    "get_autocast_dtype",
    "is_autocast_enabled",
    "kernel_of",
]

F = TypeVar("F", bound=Callable[..., Any])

LOWER_PRECISION = frozenset((
    "aten::mm", "aten::bmm", "aten::addmm", "aten::matmul", "aten::linear",
    "aten::scaled_dot_product_attention",
))  # fmt: skip
"""Operators whose floating arguments are cast to the dtype of autocast."""

FP32 = frozenset((
    "aten::view_as_complex", "aten::polar", "aten::prod", "aten::prod.dim_int", "aten::nll_loss",
    "aten::cross_entropy_loss", "aten::mse_loss",
))  # fmt: skip
"""Operators whose floating arguments are cast to float32."""

PROMOTE = frozenset(("aten::cat", "aten::stack"))
"""Operators whose floating arguments are cast to the widest type among them."""

_KEY = DispatchKey.AUTOCAST_CPU
_ALLOWED = (bfloat16, float16)
_HIDDEN = DispatchKey.BATCHED.mask | DispatchKey.PYTHON.mask


class autocast:
    """Inside, chosen operators compute in ``dtype``: a context manager, and a decorator.

    Matrix products, linear layers and attention take their float32 arguments as ``dtype``, losses
    and products take half types as float32, joins take the widest type given; see the lists in
    `plait.transforms.autocast`. float64 is never cast. All else follows type promotion. A float32
    leaf that requires grad is cast once, until it is written or the outermost autocast ends;
    ``cache_enabled=False`` casts at each use. Nested blocks may change the dtype or, with
    ``enabled=False``, switch it off. Take gradients outside of the block.

    device_type: "cpu"; tensors on other devices are left as they are.
    dtype: bfloat16 (also None) or float16.

    InvalidArgument for another device type or dtype.

    >>> import plait
    >>> w = plait.ones(2, 2)
    >>> with plait.autocast("cpu"):
    ...     y = w @ w
    ...     z = plait.nn.functional.mse_loss(y, w)
    >>> y.dtype, z.dtype
    (plait.bfloat16, plait.float32)
    """

    def __init__(
        self,
        device_type: str = "cpu",
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool = True,
    ) -> None:
        _require_cpu("autocast", device_type)
        dtype = bfloat16 if dtype is None else dtype
        if enabled and dtype not in _ALLOWED:
            raise InvalidArgument(
                f"autocast: argument 'dtype' is {dtype!r}; expected plait.bfloat16 or "
                "plait.float16. For full precision, pass enabled=False."
            )
        self.dtype = dtype if enabled else None
        self.cache_enabled = cache_enabled

    def __enter__(self) -> autocast:
        tls.autocast_states.append((tls.autocast_dtype, tls.autocast_cache))
        cache = tls.autocast_cache if tls.autocast_cache is not None else {}
        set_autocast(self.dtype, cache if self.cache_enabled else None)
        return self

    def __exit__(self, *exc: object) -> None:
        set_autocast(*tls.autocast_states.pop())

    def __call__(self, function: F) -> F:
        """Make ``function`` run inside."""
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise ArgumentTypeError(
                f"autocast: cannot decorate {function.__qualname__}, which is a generator or "
                "coroutine: its body runs after the decorator returned. Use a with-statement "
                "inside it."
            )

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside  # type: ignore[return-value]


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether autocast is on in this thread."""
    _require_cpu("is_autocast_enabled", device_type)
    return tls.autocast_dtype is not None


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """What autocast casts to in this thread; what it would cast to by default while it is off."""
    _require_cpu("get_autocast_dtype", device_type)
    return tls.autocast_dtype or bfloat16


def _require_cpu(what: str, device_type: Any) -> None:
    if device_type != "cpu":
        raise InvalidArgument(
            f"{what}: argument 'device_type' is {device_type!r}; expected 'cpu', the only device "
            "type that computes."
        )


# ---------------------------------------------------------------- casts


def _is_eligible(value: Any) -> bool:
    """Whether autocast may cast ``value``: a floating tensor of the CPU, float64 excepted."""
    if not isinstance(value, Tensor) or value._device.type != "cpu":
        return False
    return value._dtype.is_floating and value._dtype is not float64


def _cast(value: Any, dtype: DType) -> Any:
    """``value``, and the tensors in it, as ``dtype`` where autocast may cast them."""
    if isinstance(value, tuple | list):
        return tuple([_cast(item, dtype) for item in value])
    if not _is_eligible(value) or value._dtype is dtype:
        return value
    if (
        dtype is float32
        or tls.autocast_cache is None
        or value._dtype is not float32
        or not value._requires_grad
        or not value.is_leaf
        or value._keys & _HIDDEN
    ):
        return lookup("aten::_to_copy").call(value, dtype=dtype)
    return _cached(value, dtype)


def _cached(leaf: Tensor, dtype: DType) -> Tensor:
    """The cast of a leaf, made once for each of its values.

    Without grad mode the cast has no history, so that it is another one.
    """
    _, casts = tls.autocast_cache.setdefault(id(leaf), (leaf, {}))
    key = dtype, tls.grad_enabled
    version, cast = casts.get(key, (None, None))
    if version != leaf._version:
        cast = lookup("aten::_to_copy").call(leaf, dtype=dtype)
        casts[key] = leaf._version, cast
    return cast  # type: ignore[no-any-return]


def forget(leaves: Iterable[Tensor]) -> None:
    """Drop the casts of leaves that nobody will use again."""
    if tls.autocast_cache:
        for leaf in leaves:
            tls.autocast_cache.pop(id(leaf), None)


def _widest(values: Iterable[Any]) -> DType:
    """The type to which the floating arguments promote."""
    found = [
        item._dtype
        for value in values
        for item in (value if isinstance(value, tuple | list) else (value,))
        if _is_eligible(item)
    ]
    return functools.reduce(promote, found) if found else float32


# ---------------------------------------------------------------- the layer


def _with_casts(op: Overload, choose: Callable[[Any], DType]) -> Callable[..., Any]:
    """The kernel that casts the arguments and calls ``op`` again, below autocast."""

    def autocast_kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = choose((*args, *kwargs.values()))
        saved = tls.exclude
        tls.exclude = saved | _KEY.mask
        try:
            cast_args = [_cast(a, dtype) for a in args]
            return op.call(*cast_args, **{k: _cast(v, dtype) for k, v in kwargs.items()})
        finally:
            tls.exclude = saved

    return autocast_kernel


def _below_autocast(op: Overload) -> Callable[..., Any]:
    """Users' kernels compute as they are written, in eager mode and compiled."""

    def shielded(*args: Any, **kwargs: Any) -> Any:
        saved = tls.exclude
        tls.exclude = saved | _KEY.mask
        try:
            return op.call(*args, **kwargs)
        finally:
            tls.exclude = saved

    return shielded


def kernel_of(op: Overload) -> Callable[..., Any] | None:
    """What ``op`` runs inside autocast, if not just the layers below."""
    registered = find_kernel(op, _KEY)
    if registered is not None:
        return registered.kernel.fn
    if op.qualname in LOWER_PRECISION:
        return _with_casts(op, lambda _: tls.autocast_dtype)
    if op.qualname in FP32:
        return _with_casts(op, lambda _: float32)
    if op.qualname in PROMOTE:
        return _with_casts(op, _widest)
    return _below_autocast(op) if op.kind == "custom" else None


def _autocast_fallback(op: Overload, lower: int) -> Callable[..., Any] | None:
    kernel = kernel_of(op)
    if kernel is None and op.is_composite:
        return op.composite_body  # whose operators may be on a list
    return kernel


register_fallback(_KEY, _autocast_fallback)
