"""How tensors are shown, in PyTorch's way: `tensor([1., 2.])`.

Knows the fields of a tensor and reads its array; runs no operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from plait.base.errors import InvalidArgument
from plait.tensor import dtype as dtypes
from plait.tensor.device import CPU

if TYPE_CHECKING:
    from plait.tensor.dtype import DType
    from plait.tensor.tensor import Tensor

__all__ = ["options", "print_options", "tensor_repr"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Format: TypeAlias = Callable[[Any], str]


class PrintOptions:
    """What `repr` of a tensor obeys: PyTorch's names and defaults."""

    __slots__ = ("edgeitems", "linewidth", "precision", "sci_mode", "threshold")

    def __init__(self) -> None:
        self.precision = 4  # digits after the point
        self.threshold = 1000  # tensors with more elements are summarised
        self.edgeitems = 3  # elements shown at each end of a summarised dimension
        self.linewidth = 80
        self.sci_mode: bool | None = None  # None: as the values need


options = PrintOptions()


@contextmanager
def print_options(**changes: Any) -> Iterator[None]:
    """Change options inside a with-statement: precision, threshold, edgeitems, linewidth, sci_mode.

    Raises InvalidArgument for other names.
    """
    for name in changes:
        if name not in PrintOptions.__slots__:
            raise InvalidArgument(
                f"print_options: unknown option {name!r}; expected one of "
                f"{', '.join(PrintOptions.__slots__)}."
            )
    saved = {name: getattr(options, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(options, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(options, name, value)


def tensor_repr(tensor: Tensor, name: str | None = None) -> str:
    """The text of `repr(tensor)`. `name` stands before the bracket: "tensor", or the subclass."""
    kind = type(tensor).__name__
    prefix = (name or ("tensor" if kind == "Tensor" else kind)) + "("
    indent = len(prefix)
    suffixes = [] if tensor.device == CPU else [f"device='{tensor.device}'"]
    if tensor.is_fake:
        body = "..."
        suffixes += _size_and_dtype(tensor)
    elif tensor.numel() == 0:
        body = "[]"
        suffixes += _size_and_dtype(tensor)[1 if tensor.ndim == 1 else 0 :]
    else:
        body = _body(tensor._read_data("repr"), indent)
        if not _is_told_by_values(tensor.dtype):
            suffixes.append(f"dtype={tensor.dtype}")
    suffixes += _tape_suffix(tensor)
    return _joined(prefix + body, suffixes, indent)


def _size_and_dtype(tensor: Tensor) -> list[str]:
    """What must be said where no values are shown."""
    size = ", ".join(map(str, tensor.shape)) + ("," if tensor.ndim == 1 else "")
    is_default = tensor.dtype is dtypes.get_default_dtype()
    return [f"size=({size})"] + ([] if is_default else [f"dtype={tensor.dtype}"])


def _is_told_by_values(dtype: DType) -> bool:
    """Whether the values, read as Python, would get this type again."""
    default = dtypes.get_default_dtype()
    return dtype in (default, dtypes.to_complex(default), dtypes.int64, dtypes.bool_)


def _tape_suffix(tensor: Tensor) -> list[str]:
    try:
        grad_fn = tensor.grad_fn
    except RuntimeError:  # a view whose history an in-place write has made invalid
        return ["grad_fn=<Invalid>"]
    if grad_fn is not None:
        named = getattr(grad_fn, "name", None)
        return [f"grad_fn=<{named() if callable(named) else type(grad_fn).__name__}>"]
    return ["requires_grad=True"] if tensor.requires_grad else []


def _joined(text: str, suffixes: list[str], indent: int) -> str:
    """Add the suffixes, each on a new line where the last one is full."""
    line = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if line + len(suffix) + 2 > options.linewidth:
            text += ",\n" + " " * indent + suffix
            line = indent + len(suffix)
        else:
            text += ", " + suffix
            line += len(suffix) + 2
    return text + ")"


# ---------------------------------------------------------------- values


def _body(array: Array, indent: int) -> str:
    if array.dtype.kind == "V":  # bfloat16: every value is a float32
        array = array.astype(np.float32)
    summarise = array.size > options.threshold
    shown = _edges(array) if summarise else array
    if array.dtype.kind == "c":
        show, width = _complex_format(shown)
    elif array.dtype.kind == "f":
        show, width = _float_format(shown)
    else:
        width = max((len(str(value)) for value in shown.reshape(-1).tolist()), default=1)
        show = lambda value: str(value).rjust(width)
    return _rows(array, indent, summarise, show, width)


def _edges(array: Array) -> Array:
    """The elements that a summary shows; widths are measured on them."""
    edge = options.edgeitems
    for dim, size in enumerate(array.shape):
        if size > 2 * edge:
            kept = [*range(edge), *range(size - edge, size)]
            array = np.take(array, kept, axis=dim)
    return array


def _float_format(array: Array) -> tuple[Format, int]:
    """How to show floating values so that they line up, and how wide that is."""
    precision = options.precision
    values = array.reshape(-1).astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    if values.size == 0:
        return _whole, 1
    magnitudes = np.abs(values)
    largest, smallest = float(magnitudes.max()), float(magnitudes.min())
    scientific = options.sci_mode
    if scientific is None:
        scientific = largest > 1000.0 * smallest or largest > 1.0e8 or smallest < 1.0e-4
    spec = f".{precision}{'e' if scientific else 'f'}"
    show: Format = lambda value: format(value, spec)
    if not scientific and bool((values == np.ceil(values)).all()):
        show = _whole
    width = max(len(show(value)) for value in values.tolist())
    return lambda value: show(value).rjust(width), width


def _whole(value: float) -> str:
    """A number without fraction: the point alone tells that it is floating."""
    return f"{value:.0f}" + ("." if math.isfinite(value) else "")


def _complex_format(array: Array) -> tuple[Format, int]:
    real, real_width = _float_format(array.real)
    imaginary, imaginary_width = _float_format(array.imag)

    def show(value: complex) -> str:
        tail = imaginary(value.imag).lstrip() + "j"
        return real(value.real) + (tail if tail[0] in "+-" else "+" + tail)

    return show, real_width + imaginary_width + 1


def _rows(array: Array, indent: int, summarise: bool, show: Format, width: int) -> str:
    """Nested brackets around the values, wrapped at the line width."""
    if array.ndim == 0:
        return show(array.item())
    edge = options.edgeitems
    is_cut = summarise and array.shape[0] > 2 * edge
    if array.ndim == 1:
        values = [show(value) for value in array.tolist()] if not is_cut else _cut(array, show)
        per_line = max(1, (options.linewidth - indent) // (width + 2))
        lines = [", ".join(values[i : i + per_line]) for i in range(0, len(values), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    count = array.shape[0]
    places = [*range(edge), None, *range(count - edge, count)] if is_cut else [*range(count)]
    rows = [
        "..." if place is None else _rows(array[place], indent + 1, summarise, show, width)
        for place in places
    ]
    separator = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + separator.join(rows) + "]"


def _cut(array: Array, show: Format) -> list[str]:
    """The two ends of a long row."""
    edge = options.edgeitems
    if not edge:
        return ["..."]
    return [
        *(show(value) for value in array[:edge].tolist()),
        " ...",
        *(show(value) for value in array[-edge:].tolist()),
    ]
