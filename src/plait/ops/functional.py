"""The functions exported as ``plait.add``, ``plait.sum``, ``plait.zeros``, ...

Most are an operator's own call path. Written out here are those whose Python signature is wider
than a schema: sizes given as separate numbers, dimensions that choose an overload, defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from plait.base.errors import ArgumentTypeError
from plait.dispatch.dispatcher import packets_of
from plait.ops import aten, families
from plait.ops.calling import callable_of, is_number
from plait.tensor.device import Device
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor

# `plait.__init__` re-exports `__all__`; names of operators join it at the end of this module.
__all__: list[str] = []

FUNCTIONS: dict[str, Callable[..., Any]] = {}  # every exported function by name
METHOD_NAMES: list[str] = []  # those that are methods of Tensor under the same name

_Dim = int | Sequence[int] | None


def _export(*, method: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Export a function, and make it a method of Tensor unless told otherwise."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[function.__name__] = function
        if method:
            METHOD_NAMES.append(function.__name__)
        return function

    return register


def _sizes(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes given one by one, or as one sequence."""
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        return tuple(sizes[0])
    return sizes


def _dims(dim: _Dim) -> tuple[int, ...]:
    return (dim,) if isinstance(dim, int) else tuple(dim or ())


# ---------------------------------------------------------------- reductions


class ValuesIndices(NamedTuple):
    """What a search along one dimension returns."""

    values: Tensor
    indices: Tensor


@_export()
def sum(
    input: Tensor, dim: _Dim = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Sum of all elements, or along ``dim``; integers and bools sum to int64."""
    if dim is None and not keepdim:
        return aten.sum.default(input, dtype=dtype)  # type: ignore[no-any-return]
    return aten.sum.dim_IntList(input, _dims(dim), keepdim, dtype=dtype)  # type: ignore[no-any-return]


@_export()
def mean(
    input: Tensor, dim: _Dim = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Mean of all elements, or along ``dim``; floating tensors only."""
    if dim is None and not keepdim:
        return aten.mean.default(input, dtype=dtype)  # type: ignore[no-any-return]
    return aten.mean.dim(input, _dims(dim), keepdim, dtype=dtype)  # type: ignore[no-any-return]


@_export()
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Product of all elements, or along ``dim``."""
    if dim is None:
        return aten.prod.default(input, dtype=dtype)  # type: ignore[no-any-return]
    return aten.prod.dim_int(input, dim, keepdim, dtype=dtype)  # type: ignore[no-any-return]


def _logic(name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, dim: _Dim = None, keepdim: bool = False) -> Tensor:
        operator = getattr(aten, name)
        if dim is None and not keepdim:
            return operator.default(input)  # type: ignore[no-any-return]
        if isinstance(dim, int):
            return operator.dim(input, dim, keepdim)  # type: ignore[no-any-return]
        return operator.dims(input, dim, keepdim)  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Whether {name} of the elements (along ``dim``) are true."
    return function


_export()(_logic("any"))
_export()(_logic("all"))


def _extreme(name: str, pointwise: str) -> Callable[..., Any]:
    def function(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return getattr(aten, name).default(input)
        if isinstance(dim, Tensor):
            return getattr(aten, pointwise).default(input, dim)
        return ValuesIndices(*getattr(aten, name).dim(input, dim, keepdim))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"The {name} of all elements; with ``dim`` (values, indices) along it; with a tensor in "
        f"its place {pointwise}."
    )
    return function


_export()(_extreme("max", "maximum"))
_export()(_extreme("min", "minimum"))


@_export()
def var(
    input: Tensor,
    dim: _Dim = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Variance with ``correction`` degrees of freedom taken off (1; 0 if ``unbiased`` is False)."""
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    dims = None if dim is None else _dims(dim)
    return aten.var.correction(input, dims, correction=correction, keepdim=keepdim)  # type: ignore[no-any-return]


@_export()
def std(
    input: Tensor,
    dim: _Dim = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Standard deviation; see :func:`var`."""
    return aten.sqrt.default(var(input, dim, unbiased, keepdim, correction=correction))  # type: ignore[no-any-return]


@_export()
def logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) along ``dim``, without overflow."""
    return aten.logsumexp.default(input, _dims(dim), keepdim)  # type: ignore[no-any-return]


def _softmax(name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
        return getattr(aten, name).int(input, dim, dtype)  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} along ``dim``; ``dtype`` converts the input first."
    return function


_export()(_softmax("softmax"))
_export()(_softmax("log_softmax"))

# ---------------------------------------------------------------- shapes


@_export()
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in another shape: a view if possible, else a copy. One size may be -1."""
    return aten.reshape.default(input, _sizes(shape))  # type: ignore[no-any-return]


@_export()
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in another order."""
    return aten.permute.default(input, _sizes(dims))  # type: ignore[no-any-return]


@_export()
def flip(input: Tensor, *dims: Any) -> Tensor:
    """The elements in reverse order along ``dims``, as a copy."""
    return aten.flip.default(input, _sizes(dims))  # type: ignore[no-any-return]


@_export()
def squeeze(input: Tensor, dim: _Dim = None) -> Tensor:
    """Without the dimensions of size 1 (those among ``dim``, if given)."""
    if dim is None:
        return aten.squeeze.default(input)  # type: ignore[no-any-return]
    if isinstance(dim, int):
        return aten.squeeze.dim(input, dim)  # type: ignore[no-any-return]
    return aten.squeeze.dims(input, tuple(dim))  # type: ignore[no-any-return]


@_export()
def split(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of ``split_size`` positions each along ``dim``, or of the sizes in a sequence."""
    if isinstance(split_size, list | tuple):
        return tuple(aten.split_with_sizes.default(input, split_size, dim))
    return tuple(aten.split.Tensor(input, split_size, dim))


def view(input: Tensor, *size: Any) -> Tensor:
    """The same memory in another shape; one size may be -1. Raises where that needs a copy."""
    return aten.view.default(input, _sizes(size))  # type: ignore[no-any-return]


def expand(input: Tensor, *size: Any) -> Tensor:
    """Dimensions of size 1 stretched without a copy; -1 keeps a size."""
    return aten.expand.default(input, _sizes(size))  # type: ignore[no-any-return]


def reverse_dims(input: Tensor) -> Tensor:
    """The dimensions in reverse order."""
    return aten.permute.default(input, tuple(range(input.ndim))[::-1])  # type: ignore[no-any-return]


# ---------------------------------------------------------------- choosing and powers


@_export(method=False)
def where(condition: Tensor, input: Any, other: Any) -> Tensor:
    """``input`` where the condition holds, ``other`` elsewhere; either may be a number."""
    chosen = {
        (False, False): "self",
        (True, False): "ScalarSelf",
        (False, True): "ScalarOther",
        (True, True): "Scalar",
    }[is_number(input), is_number(other)]
    return getattr(aten.where, chosen)(condition, input, other)  # type: ignore[no-any-return]


@_export()
def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``; one of them may be a number."""
    if is_number(input):
        return aten.pow.Scalar(input, exponent)  # type: ignore[no-any-return]
    overload = "Tensor_Tensor" if isinstance(exponent, Tensor) else "Tensor_Scalar"
    return getattr(aten.pow, overload)(input, exponent)  # type: ignore[no-any-return]


@_export()
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Elements below ``min`` and above ``max`` replaced by these: numbers or tensors."""
    if not (isinstance(min, Tensor) or isinstance(max, Tensor)):
        return aten.clamp.default(input, min, max)  # type: ignore[no-any-return]
    for name, bound in (("maximum", min), ("minimum", max)):
        if isinstance(bound, Tensor):
            input = getattr(aten, name).default(input, bound)
        elif bound is not None:
            input = aten.clamp.default(input, **{"min" if bound is min else "max": bound})
    return input


# ---------------------------------------------------------------- new tensors


def _requiring(out: Tensor, requires_grad: bool) -> Tensor:
    return out.requires_grad_() if requires_grad else out


def _from_sizes(name: str, what: str) -> Callable[..., Tensor]:
    def function(
        *size: Any,
        dtype: DType | None = None,
        device: Device | str | None = None,
        requires_grad: bool = False,
        generator: Any = None,
    ) -> Tensor:
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        if generator is not None:
            options["generator"] = generator
        overload = "memory_format" if name == "empty" else "default"
        out = getattr(getattr(aten, name), overload)(_sizes(size), **options)
        return _requiring(out, requires_grad)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"A tensor of the given sizes {what}."
    return function


for _name, _what in {
    "empty": "with whatever the memory holds",
    "zeros": "filled with 0",
    "ones": "filled with 1",
    "rand": "with uniform draws from [0, 1)",
    "randn": "with normal draws",
}.items():
    _export(method=False)(_from_sizes(_name, _what))


@_export(method=False)
def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: DType | None = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of the given sizes filled with ``fill_value``, which decides the default dtype."""
    out = aten.full.default(_sizes((size,)), fill_value, dtype=dtype, device=device)
    return _requiring(out, requires_grad)


@_export(method=False)
def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: DType | None = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below ``end``; ``arange(end)`` starts at 0."""
    if end is None:
        start, end = 0, start
    out = aten.arange.start_step(start, end, step, dtype=dtype, device=device)
    return _requiring(out, requires_grad)


@_export(method=False)
def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: DType | None = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """The n x m matrix (n x n) with 1 on the diagonal."""
    if m is None:
        out = aten.eye.default(n, dtype=dtype, device=device)
    else:
        out = aten.eye.m(n, m, dtype=dtype, device=device)
    return _requiring(out, requires_grad)


@_export(method=False)
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension."""
    return aten.cat.default(tensors, dim)  # type: ignore[no-any-return]


@_export(method=False)
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    return aten.stack.default(tensors, dim)  # type: ignore[no-any-return]


def _new(name: str) -> Callable[..., Tensor]:
    def method(input: Tensor, *size: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
        return getattr(aten, f"new_{name}").default(input, _sizes(size), dtype=dtype, device=device)  # type: ignore[no-any-return]

    method.__name__ = method.__qualname__ = f"new_{name}"
    method.__doc__ = f"{name} of the given sizes with this tensor's dtype and device."
    return method


@_export(method=False)
def is_tensor(value: object) -> bool:
    """Whether ``value`` is a tensor."""
    return isinstance(value, Tensor)


@_export(method=False)
def is_floating_point(input: Tensor) -> bool:
    """Whether the tensor's element type is floating."""
    if not isinstance(input, Tensor):
        raise ArgumentTypeError(
            f"is_floating_point: expected a Tensor; got {type(input).__name__}."
        )
    return input.dtype.is_floating


@_export(method=False)
def is_complex(input: Tensor) -> bool:
    """Whether the tensor's element type is complex."""
    if not isinstance(input, Tensor):
        raise ArgumentTypeError(f"is_complex: expected a Tensor; got {type(input).__name__}.")
    return input.dtype.is_complex


# ---------------------------------------------------------------- all the others

# Methods only: their names mean something else, or nothing, as functions.
_METHODS_ONLY = {"view", "expand", "slice", "copy", "fill", "zero", "to", "alias", "expand_as"}


def _collect() -> None:
    """Export every public operator that is not written out above."""
    for name, function in (("view", view), ("expand", expand)):
        FUNCTIONS[name] = function
        METHOD_NAMES.append(name)
    operators = {packet.name.partition("::")[2] for packet in packets_of("aten")}
    for name in sorted(operators):
        if name.startswith("new_"):
            FUNCTIONS[name] = _new(name.removeprefix("new_"))
        elif not name.startswith("_") and name not in FUNCTIONS:
            FUNCTIONS[name] = callable_of(name)
    for name, function in FUNCTIONS.items():
        if not (name in _METHODS_ONLY or name.startswith("new_") or name.endswith("_")):
            __all__.append(name)
            globals()[name] = function


assert families.MODULES  # every operator is defined before they are collected
_collect()
