"""Sample calls of every operator: one module per family, made anew and alike at each request.

``samples("aten::add.Tensor")`` gives the calls; ``sampled()`` the operators that have any. A family
module registers a function for each operator with :func:`sampler`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from plait.base.errors import InvalidArgument, RegistrationError
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor, from_numpy

__all__ = [
    "SampleInput",
    "expanded",
    "make",
    "offset",
    "sampled",
    "sampler",
    "samples",
    "transposed",
]


class SampleInput:
    """One call of an operator: its arguments, and a name that says what is special about it."""

    __slots__ = ("args", "kwargs", "name")

    def __init__(self, *args: Any, name: str = "", **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs
        self.name = name

    def tensors(self) -> Iterator[Tensor]:
        """The tensors among the arguments, also inside lists, in order."""
        for value in (*self.args, *self.kwargs.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Tensor):
                    yield item

    def replaced(self, fn: Callable[[Any], Any]) -> SampleInput:
        """The call with ``fn`` applied to every argument, and to the items of lists."""

        def one(value: Any) -> Any:
            return [fn(v) for v in value] if isinstance(value, list | tuple) else fn(value)

        positional = [one(v) for v in self.args]  # in the order of `tensors`
        changed = {key: one(value) for key, value in self.kwargs.items()}
        return SampleInput(*positional, name=self.name, **changed)

    def __repr__(self) -> str:
        return f"SampleInput({self.name})"


Sampler = Callable[[], Iterable[SampleInput]]

_SAMPLERS: dict[str, Sampler] = {}
_LOADED: list[str] = []


def sampler(*qualnames: str) -> Callable[[Sampler], Sampler]:
    """Register a function that yields the sample calls of the operators named."""

    def register(fn: Sampler) -> Sampler:
        for qualname in qualnames:
            if qualname in _SAMPLERS:
                raise RegistrationError(f"samples: {qualname} has a sampler already.")
            _SAMPLERS[qualname] = fn
        return fn

    return register


def _load() -> None:
    """Import every family module, once."""
    if not _LOADED:
        for found in pkgutil.iter_modules(__path__):
            _LOADED.append(found.name)
            importlib.import_module(f"{__name__}.{found.name}")


def samples(qualname: str) -> list[SampleInput]:
    """Fresh sample calls of an operator. Raises InvalidArgument where there are none."""
    _load()
    if qualname not in _SAMPLERS:
        raise InvalidArgument(f"samples: there are none for {qualname!r}; register a sampler.")
    return list(_SAMPLERS[qualname]())


def sampled(family: str | None = None) -> list[str]:
    """The operators that have samples (of one family module, "pointwise"), as registered."""
    _load()
    home = f"{__name__}.{family}"
    return [q for q, fn in _SAMPLERS.items() if family is None or fn.__module__ == home]


# ---------------------------------------------------------------- making tensors


def make(
    *shape: Any,
    dtype: DType = dtypes.float32,
    low: float = -3.0,
    high: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """A contiguous tensor of values from [low, high], the same at each call with the same seed."""
    rng = np.random.default_rng((seed, *shape))
    array: Any
    if dtype.is_bool:
        array = rng.integers(0, 2, shape).astype(np.bool_)
    elif dtype.is_integral:
        start = low if dtype.is_signed else max(low, 0)
        array = rng.integers(int(start), int(high), shape, endpoint=True)
    else:
        array = rng.uniform(low, high, shape)
        if dtype.is_complex:
            array = array + 1j * rng.uniform(-2.0, 2.0, shape)
    return from_numpy(np.array(array, dtype.numpy))


def transposed(*shape: int, **options: Any) -> Tensor:
    """A tensor of ``shape`` whose memory order is reversed."""
    source = make(*shape[::-1], **options)
    return from_numpy(_array(source).T)


def offset(*shape: int, **options: Any) -> Tensor:
    """A tensor of ``shape`` cut out of a larger one: gaps between rows, and an offset."""
    source = make(*[size + 2 for size in shape], **options)
    view = _array(source)[tuple(slice(1, size + 1) for size in shape)]
    return from_numpy(view)


def expanded(*shape: int, **options: Any) -> Tensor:
    """A tensor of ``shape`` whose first dimension is stretched over the same elements."""
    return from_numpy(np.broadcast_to(_array(make(1, *shape[1:], **options)), shape).view())


def _array(source: Tensor) -> Any:
    assert source._array is not None
    return source._array
