"""`BatchedTensor`: a tensor of one sample that holds all samples, and moves between levels.

Owns how a batched tensor stands on the tensor below it. The tape lies below every level: a batched
tensor has no history of its own and shows that of the tensor that it holds. Knows no operator's
rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from plait.base.errors import DataDependentError, TransformError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import DispatchKey
from plait.dispatch.state import tls
from plait.tensor.layout import TensorMeta
from plait.tensor.storage import Storage
from plait.tensor.tensor import Tensor

__all__ = [
    "BatchedTensor",
    "Level",
    "add_level",
    "as_levels_of",
    "at_levels",
    "entered",
    "expanded_to_levels",
    "lowered_to",
    "move_dim",
    "physical",
    "remove_level",
]

BATCHED = DispatchKey.BATCHED.mask


class Level:
    """One vmap that is running: how deep it is, how many samples it has, how it draws."""

    __slots__ = ("batch_size", "is_running", "number", "randomness")

    apply_function: ClassVar[Callable[[Any, Any], Any]]
    """Applies an autograd.Function to batched tensors; set by the module that does."""

    def __init__(self, number: int, batch_size: Any, randomness: str) -> None:
        self.number = number
        self.batch_size = batch_size
        self.randomness = randomness
        self.is_running = True


def _forwarded(name: str) -> Any:
    """A field of the tape, kept by the tensor that is held."""

    def read(self: BatchedTensor) -> Any:
        return getattr(self.value, name)

    def write(self: BatchedTensor, value: Any) -> None:
        setattr(self.value, name, value)

    return property(read, write)


class BatchedTensor(Tensor):
    """One sample as the mapped function sees it; ``value`` holds all, along its dim ``bdim``."""

    value: Tensor
    bdim: int
    level: Level

    _requires_grad = _forwarded("_requires_grad")
    _grad_fn = _forwarded("_grad_fn")
    _output_nr = _forwarded("_output_nr")
    _grad = _forwarded("_grad")
    _view = _forwarded("_view")
    _hooks = _forwarded("_hooks")

    def __init__(self, value: Tensor, bdim: int, level: Level) -> None:
        self.value, self.bdim, self.level = value, bdim, level
        shape, strides = value.shape, value.strides
        self._dtype, self._device = value._dtype, value._device
        self._meta = TensorMeta(
            (*shape[:bdim], *shape[bdim + 1 :]),
            value._dtype,
            value._device,
            (*strides[:bdim], *strides[bdim + 1 :]),
        )
        self._keys = value._keys | BATCHED

    @property
    def storage(self) -> Storage:
        """The memory of all samples."""
        return self.value.storage

    def storage_offset(self) -> Any:
        """Where the first sample starts, in elements."""
        return self.value.storage_offset()

    @property
    def _version(self) -> int:
        return self.value._version

    def _read_data(self, what: str) -> Any:
        seen = (
            "attempting to use a Tensor in some data-dependent control flow"
            if what == "bool"
            else "calling .item() on a Tensor"
        )
        raise DataDependentError(
            f"vmap: {what} reads the value of a batched tensor of shape {tuple(self.shape)}, which "
            f"differs from sample to sample; expected no read of data inside vmap. Keep the "
            "decision in operators (where, masks), or read the value outside of vmap. (vmap: It "
            f"looks like you're {seen})"
        )

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Refused: it would set the flag of the caller's tensor. TransformError."""
        raise TransformError(
            "requires_grad_: called on a batched tensor inside vmap; expected the transforms of "
            "plait.func there (grad, vjp, jacrev), or the call outside of the mapped function."
        )

    def __repr__(self) -> str:
        return f"BatchedTensor(level={self.level.number}, bdim={self.bdim}, value={self.value!r})"


# ---------------------------------------------------------------- the running levels


def _set_levels(levels: tuple[Level, ...]) -> None:
    tls.vmap_levels = levels
    tls.include = tls.include | BATCHED if levels else tls.include & ~BATCHED


@contextmanager
def entered(level: Level) -> Iterator[None]:
    """The body of a vmap runs inside of ``level``, which ends with it."""
    saved = tls.vmap_levels
    _set_levels((*saved, level))
    try:
        yield
    finally:
        level.is_running = False
        _set_levels(saved)


@contextmanager
def lowered_to(number: int) -> Iterator[None]:
    """Only the levels outside of level ``number`` act: what a batching rule issues is theirs."""
    saved = tls.vmap_levels
    _set_levels(tuple([level for level in saved if level.number < number]))
    try:
        yield
    finally:
        _set_levels(saved)


# ---------------------------------------------------------------- dims and levels


def move_dim(t: Tensor, source: int, destination: int) -> Tensor:
    """A view of ``t`` with one dim elsewhere; ``t`` itself if it is there already."""
    if source == destination:
        return t
    order = [d for d in range(len(t.shape)) if d != source]
    order.insert(destination, source)
    moved: Tensor = lookup("aten::permute").call(t, order)
    return moved


def expanded_at(t: Tensor, dim: int, size: Any) -> Tensor:
    """A view of ``t`` with a new dim of ``size`` equal slices."""
    stretched = lookup("aten::unsqueeze").call(t, dim)
    shape = list(stretched.shape)
    shape[dim] = size
    made: Tensor = lookup("aten::expand").call(stretched, shape)
    return made


def add_level(t: Tensor, bdim: int, level: Level) -> BatchedTensor:
    """``t`` batched at ``level``; levels inside of it stay outermost wrappers."""
    if isinstance(t, BatchedTensor) and t.level.number > level.number:
        inner = add_level(move_dim(t.value, t.bdim, 0), bdim + 1, level)
        return BatchedTensor(inner, 0, t.level)
    return BatchedTensor(t, bdim, level)


def remove_level(t: Tensor, level: Level, dim: int) -> Tensor:
    """``t`` without ``level``, whose samples lie along ``dim``; a view, expanded if need be."""
    if isinstance(t, BatchedTensor) and t.level.number >= level.number:
        if t.level is level:
            return move_dim(t.value, t.bdim, dim)
        inner = remove_level(move_dim(t.value, t.bdim, 0), level, dim + 1)
        return BatchedTensor(inner, 0, t.level)
    return expanded_at(t, dim, level.batch_size)


def physical(t: Tensor) -> Tensor:
    """The tensor below all levels, which is what the tape knows."""
    while isinstance(t, BatchedTensor):
        t = t.value
    return t


def at_levels(t: Tensor, like: Tensor) -> Tensor:
    """``t``, of the shape of ``like``, as it stands beside ``physical(like)``.

    Levels that ``like`` has not stay on it.
    """
    while isinstance(like, BatchedTensor):
        t, like = remove_level(t, like.level, like.bdim), like.value
    return t


def as_levels_of(t: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`at_levels`: ``t`` stands beside ``physical(like)``."""
    if not isinstance(like, BatchedTensor):
        return t
    return add_level(as_levels_of(t, like.value), like.bdim, like.level)


def expanded_to_levels(t: Tensor) -> Tensor:
    """``t`` with samples of its own at every running level, so that each has its own gradient."""
    for level in tls.vmap_levels:
        if not _has_level(t, level):
            t = add_level(remove_level(t, level, 0), 0, level)
    return t


def _has_level(t: Tensor, level: Level) -> bool:
    while isinstance(t, BatchedTensor):
        if t.level is level:
            return True
        t = t.value
    return False


def check_running(t: BatchedTensor) -> None:
    """Raise TransformError for a batched tensor whose vmap has ended."""
    if not t.level.is_running:
        raise TransformError(
            f"vmap: a batched tensor of shape {tuple(t.shape)} is used after its vmap has ended; "
            "expected it to stay inside. Return it from the mapped function instead of storing it."
        )
