"""One call of an operator at one level, with the level peeled off: what batching rules are given.

A rule is ``rule(call) -> (results, their batch dims)``; a dim of None says that a result is the
same for all samples. Knows no operator in particular.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from plait.dispatch.dispatcher import lookup
from plait.dispatch.operator import Overload
from plait.tensor.layout import wrap_dim
from plait.tensor.tensor import Tensor
from plait.transforms.batching.tensor import BatchedTensor, Level, expanded_at, move_dim

__all__ = ["Call", "Rule", "run", "slices"]

Rule = Callable[["Call"], tuple[Any, Any]]


def run(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call the ATen operator ``name``."""
    return lookup(f"aten::{name}").call(*args, **kwargs)


class Call:
    """The arguments of ``op`` in the calling convention of kernels, without ``level``.

    ``in_dims`` holds, for each positional argument, its batch dim or None (for a list of tensors, a
    list of them).
    """

    def __init__(
        self, op: Overload, level: Level, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.op, self.level = op, level
        self.outer_args, self.outer_kwargs = args, kwargs
        self.args, self.in_dims = self._peeled(args)
        peeled = {name: self._one(value) for name, value in kwargs.items()}
        self.kwargs = {name: value for name, (value, _) in peeled.items()}
        self.keyword_dims = {name: dim for name, (_, dim) in peeled.items()}

    def _peeled(self, values: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        pairs = [self._one(value) for value in values]
        return tuple([v for v, _ in pairs]), tuple([d for _, d in pairs])

    def _one(self, value: Any) -> tuple[Any, Any]:
        if isinstance(value, BatchedTensor) and value.level is self.level:
            return value.value, value.bdim
        if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
            values, dims = self._peeled(value)
            return values, list(dims)
        return value, None

    @property
    def size(self) -> Any:
        """How many samples there are."""
        return self.level.batch_size

    def is_batched(self, i: int) -> bool:
        """Whether argument ``i`` is a tensor with samples."""
        return self.in_dims[i] is not None

    def rank(self, i: int) -> int:
        """Dims of one sample of tensor ``i``."""
        return len(self.args[i].shape) - (self.in_dims[i] is not None)

    def front(self, i: int) -> Tensor:
        """Tensor ``i`` with its samples along dim 0; as it is if it has none."""
        value, dim = self.args[i], self.in_dims[i]
        return value if dim is None else move_dim(value, dim, 0)

    def batched(self, i: int) -> Tensor:
        """Tensor ``i`` with samples along dim 0, expanded if it has none."""
        value, dim = self.args[i], self.in_dims[i]
        return expanded_at(value, 0, self.size) if dim is None else move_dim(value, dim, 0)

    def wrapped(self, dim: int, i: int = 0) -> int:
        """``dim`` of a sample of tensor ``i`` as a dim of its front form. IndexOutOfRange."""
        return wrap_dim(dim, self.rank(i), self.op.name) + 1


def slices(call: Call) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The arguments of each sample."""
    for k in range(int(call.size)):
        args = [_sample(v, d, k) for v, d in zip(call.args, call.in_dims, strict=True)]
        yield args, {n: _sample(v, call.keyword_dims[n], k) for n, v in call.kwargs.items()}


def _sample(value: Any, dim: Any, k: int) -> Any:
    if isinstance(dim, list):
        return tuple([_sample(v, d, k) for v, d in zip(value, dim, strict=True)])
    return value if dim is None else run("select.int", value, dim, k)
