"""Checkpoints: a function whose intermediate values are computed again for the backward.

Owns `checkpoint`, what it asks of recorded calls (:class:`RecomputeTag`), and the run of a
checkpointed region in eager mode. Must not know graphs or partitioners: they read the tags.

Note [A checkpoint in eager mode]. The region runs on the tape as usual, but what its calls save is
not kept: each saved tensor gets a number instead. The first one that the backward asks for makes
the region run once more, on the arguments and the random state of the first run, under a tape that
is thrown away; what that run saves, by number, is what was asked for. Leaves and arguments are kept
as they are, since somebody else holds them anyway.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import optree

from plait.autograd.grad_mode import enable_grad
from plait.autograd.graph import Node, set_history
from plait.autograd.saved import SavedTensor, modified_error
from plait.autograd.views import requires_grad
from plait.base import log
from plait.base.errors import AutogradError, InvalidArgument
from plait.dispatch.state import autocasting, tls
from plait.ops.random import default_generator
from plait.tensor.tensor import Tensor, shallow_copy

if TYPE_CHECKING:
    from plait.dispatch.operator import Overload

__all__ = ["Recompute", "RecomputeTag", "checkpoint"]


class Recompute(Enum):
    """What a checkpoint asks of the results of an operator."""

    MUST_SAVE = "must_save"  # never computed again
    PREFER_SAVE = "prefer_save"  # computed again only for a memory budget
    PREFER_RECOMPUTE = "prefer_recompute"  # computed again unless saving it is cheaper
    MUST_RECOMPUTE = "must_recompute"  # never saved


Policy = Callable[["Overload"], "Recompute | str | None"]


@dataclass(frozen=True, slots=True)
class RecomputeTag:
    """What is asked of one call, and the number of the checkpointed region around it."""

    policy: Recompute
    region: int


def checkpoint(
    fn: Callable[..., Any] | None = None, *, policy: Policy | Recompute | str | None = None
) -> Any:
    """``fn`` with its intermediate values computed again in the backward instead of kept.

    Gradients are the same; memory is traded for a second run of ``fn``. Without ``fn``, a decorator
    is returned. ``fn`` takes and returns any pytree, may read module parameters, and must do the
    same at each run; random draws are the same in the second run. Where no gradient is recorded it
    is simply called.

    ``policy``: one of "must_save", "prefer_save", "prefer_recompute" (the default) and
    "must_recompute", or a function from an operator to one of them or None. It steers compiled
    functions, where the results of ``fn`` itself are kept unless they must be recomputed. In eager
    mode everything inside is computed again. Raises AutogradError in the backward if the second run
    saves other tensors than the first, and InplaceError if an argument was written meanwhile.

    >>> import plait
    >>> w = plait.ones(3, 3, requires_grad=True)
    >>> block = plait.checkpoint(lambda x: (x @ w).sin().exp())
    >>> block(plait.ones(2, 3)).sum().backward()
    >>> w.grad.shape
    (3, 3)
    """
    if fn is None:
        return functools.partial(checkpoint, policy=policy)
    if not callable(fn):
        raise InvalidArgument(
            f"checkpoint: argument 'fn' is a {type(fn).__name__}; expected a callable."
        )
    if not callable(policy):
        _as_policy(policy)  # an unknown name is an error here, not in the first trace
    called: Callable[..., Any] = fn

    @functools.wraps(fn, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if tls.predispatch is not None:
            return _tagged(called, policy, args, kwargs)
        if not tls.grad_enabled:
            return called(*args, **kwargs)
        if tls.vmap_levels:
            reason = "checkpoint inside vmap keeps what it saves: samples cannot be run again alone"
            log.record("fallback", reason, function=getattr(called, "__name__", "function"))
            return called(*args, **kwargs)
        return _Frame(called, args, kwargs).run()

    return checkpointed


def _as_policy(policy: Recompute | str | None) -> Recompute:
    if policy is None:
        return Recompute.PREFER_RECOMPUTE
    try:
        return Recompute(policy)
    except ValueError:
        names = ", ".join(repr(r.value) for r in Recompute)
        raise InvalidArgument(
            f"checkpoint: argument 'policy' is {policy!r}; expected one of {names}, or a function "
            "from an operator to one of them."
        ) from None


# ---------------------------------------------------------------- while tracing

_regions = itertools.count(1)


class _Region:
    """A region being traced: tags the calls recorded inside."""

    def __init__(self, policy: Policy | Recompute | str | None) -> None:
        self.number = next(_regions)
        self.policy = policy

    def tag_of(self, op: Overload | None) -> RecomputeTag:
        """The tag of a call of ``op`` (None: a user's autograd.Function)."""
        policy = self.policy
        if callable(policy) and not isinstance(policy, Recompute):
            return RecomputeTag(_as_policy(None if op is None else policy(op)), self.number)
        return RecomputeTag(_as_policy(policy), self.number)


def _tagged(
    fn: Callable[..., Any], policy: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    outer, tls.checkpoint = tls.checkpoint, _Region(policy)
    try:
        return fn(*args, **kwargs)
    finally:
        tls.checkpoint = outer


# ---------------------------------------------------------------- eager

_History = tuple[Node, int]
_Found = tuple[Tensor, int]  # with the version at which the second run saved it


class _Frame:
    """One eager call of a checkpointed function: Note [A checkpoint in eager mode]."""

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.fn = fn
        self.args = (args, kwargs)
        tree: Any = self.args
        leaves, self.structure = optree.tree_flatten(tree, none_is_leaf=True)
        # Saved by the rules of a region around this one, if there is one.
        self.leaves = [SavedTensor(x) if isinstance(x, Tensor) else x for x in leaves]
        self.follows = [isinstance(x, Tensor) and requires_grad(x) for x in leaves]
        self.kept = {id(x) for x in leaves if isinstance(x, Tensor)}
        self.random_state = default_generator().get_state()
        self.autocast = tls.autocast_dtype
        self.dropped: list[_History | None] = []  # history of each dropped tensor, by number
        self.found: dict[int, _Found] = {}
        self.collecting: list[_Found] | None = None

    def run(self) -> Any:
        """The first run: what it saves is dropped."""
        args, kwargs = self.args
        self.args = ((), {})
        outer, tls.saving = tls.saving, self
        try:
            return self.fn(*args, **kwargs)
        finally:
            tls.saving = outer
            self.kept = set()

    def drop(self, saved: SavedTensor, tensor: Tensor) -> bool:
        """Asked by each SavedTensor that is made: True if it is not to keep ``tensor``."""
        if (tensor._requires_grad and tensor._grad_fn is None) or id(tensor) in self.kept:
            return False
        if self.collecting is not None:
            self.collecting.append((shallow_copy(tensor), tensor._version))
            return False  # the tape of the second run is thrown away
        history = None if tensor._grad_fn is None else (tensor._grad_fn, tensor._output_nr)
        # A result's history is its own node, which would be a cycle: the node restores it.
        saved.place = (self, len(self.dropped))
        self.dropped.append(history if saved.output_nr < 0 else None)
        return True

    def restore(self, number: int, node: Node) -> Tensor:
        """The tensor that was dropped as ``number``, from a second run."""
        if number not in self.found:
            self._run_again(node)
        tensor, version = self.found.pop(number)
        if tensor._version != version:  # the region writes what it saved: eager's error
            raise modified_error(node, tensor, version, -1)
        history = self.dropped[number]
        if history is not None and tls.grad_enabled:
            tensor._requires_grad = True
            tensor._grad_fn, tensor._output_nr = history
        return tensor

    def _run_again(self, node: Node) -> None:
        leaves = [
            self._argument(leaf.unpack(node), follows) if isinstance(leaf, SavedTensor) else leaf
            for leaf, follows in zip(self.leaves, self.follows, strict=True)
        ]
        tree: Any = optree.tree_unflatten(self.structure, leaves)
        args, kwargs = tree
        generator = default_generator()
        random_state = generator.get_state()
        outer, tls.saving = tls.saving, self
        self.kept = {id(x) for x in leaves if isinstance(x, Tensor)}
        self.collecting = []
        try:
            generator.set_state(self.random_state)
            with enable_grad(), autocasting(self.autocast, {}):
                self.fn(*args, **kwargs)
            found = self.collecting
        finally:
            generator.set_state(random_state)
            tls.saving = outer
            self.collecting = None
            self.kept = set()
        if len(found) != len(self.dropped):
            raise AutogradError(
                f"checkpoint: {getattr(self.fn, '__name__', 'the function')!r} saved {len(found)} "
                f"tensors in its second run; expected {len(self.dropped)}, as in its first. It "
                "must do the same at each run: move what changes out of it, or pass it in."
            )
        self.found = dict(enumerate(found))

    def _argument(self, tensor: Tensor, follows: bool) -> Tensor:
        """An argument cut off from its history, which the second run must not extend."""
        if not follows or tensor._grad_fn is None:
            return tensor
        copy = shallow_copy(tensor)
        set_history(copy, Node(), 0)  # not a leaf, as in the first run; this tape is never walked
        return copy
