"""The tape: nodes, edges between them, and the leaves where gradients are accumulated.

A node belongs to one call of an operator (or Function, or compiled graph). It turns cotangents of
that call's results into cotangents of its tensor arguments, and its `next_edges` say where those
go. Tensors refer to nodes, nodes to older nodes and to leaves, leaves only weakly to their
accumulator: no reference cycles. Knows nothing of rules, saving or the engine.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from plait.autograd.accumulate import accumulate
from plait.autograd.hooks import HookTable, LeafHooks, NodeHooks, RemovableHandle
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.dispatch.operator import Overload
    from plait.tensor.dtype import DType
    from plait.tensor.tensor import Tensor

__all__ = [
    "AccumulateGrad",
    "Edge",
    "Node",
    "ResultMeta",
    "accumulator",
    "attach",
    "is_differentiable",
    "leaf_hooks",
    "node_hooks",
    "result_meta",
    "set_history",
]

sequence = itertools.count()
# Leaves go first, as soon as their gradient is complete: it frees memory soonest.
_LEAVES_FIRST = 1 << 62

ResultMeta = tuple[tuple[Any, ...], "DType", Any]  # shape, dtype, device of a forward result


class Node:
    """One recorded call. Subclasses define :meth:`apply`.

    A subclass outside this package (a compiled backward, say) calls ``super().__init__(edges)``
    with one edge or None per gradient that ``apply`` returns, keeps tensors as
    :class:`~plait.autograd.saved.SavedTensor`, and is put on the tape by :func:`attach`.
    """

    __slots__ = (
        "__weakref__",
        "_metadata",
        "hooks",
        "next_edges",
        "op",
        "results",
        "seq",
        "source",
    )

    def __init__(self, edges: Sequence[Edge | None] = (), op: Overload | None = None) -> None:
        self.next_edges = edges
        self.op = op
        self.seq = next(sequence)
        self.results: Sequence[ResultMeta | None] = ()
        self.hooks: NodeHooks | None = None
        self.source: tuple[Any, ...] = ()
        self._metadata: dict[str, Any] | None = None
        describe = tls.node_source  # a tracer asks where the call came from
        if describe is not None:
            self.source = describe()

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        """Cotangents of the arguments (one per edge) from those of the results (None: zero)."""
        raise NotImplementedError

    def run(self, grads: list[Tensor | None], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """As ``apply``; ``wanted`` says which edges lead anywhere, None meaning all."""
        return self.apply(tuple(grads))

    def release(self) -> None:
        """Drop saved tensors; called after a backward that does not retain the graph."""

    def name(self) -> str:
        """The name shown to people, such as ``MulBackward0``."""
        return type(self).__name__

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The edges as PyTorch shows them: (node or None, result number)."""
        return tuple((None, 0) if edge is None else edge for edge in self.next_edges)

    @property
    def metadata(self) -> dict[str, Any]:
        """A dictionary for whatever users want to hang on the node."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def priority(self) -> int:
        """The engine runs ready nodes in ascending order of this: youngest first."""
        return -self.seq

    def result(self, number: int) -> ResultMeta | None:
        """Shape, dtype and device of result ``number`` of the forward call, if known."""
        return self.results[number] if number < len(self.results) else None

    def register_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(grad_inputs, grad_outputs)`` after the node; it may return grad_inputs."""
        return RemovableHandle(node_hooks(self).post, hook)

    def register_prehook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(grad_outputs)`` before the node; it may return grad_outputs."""
        return RemovableHandle(node_hooks(self).pre, hook)

    def tensor_hooks(self) -> dict[int, HookTable]:
        """Hooks of the tensors this node made, by result number."""
        return self.hooks.tensor if self.hooks is not None else {}

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


Edge = tuple[Node, int]


class AccumulateGrad(Node):
    """The end of the tape: adds what arrives to ``variable.grad``."""

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor) -> None:
        # Written out instead of super().__init__: every recorded call of a leaf may make one.
        self.next_edges = ()
        self.op = None
        self.seq = next(sequence)
        self.results = ()
        self.hooks = None
        self._metadata = None
        describe = tls.node_source
        self.source = () if describe is None else describe()
        self.variable = variable

    @property
    def priority(self) -> int:
        return -_LEAVES_FIRST - self.seq

    def result(self, number: int) -> ResultMeta | None:
        return result_meta(self.variable)

    def tensor_hooks(self) -> dict[int, HookTable]:
        hooks: LeafHooks | None = self.variable._hooks
        return {0: hooks.gradient} if hooks is not None else {}

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        return self.run(list(grads), None)

    def run(self, grads: list[Tensor | None], wanted: Sequence[bool] | None) -> Sequence[Any]:
        if grads[0] is None:
            return ()
        accumulate(self.variable, grads)
        hooks: LeafHooks | None = self.variable._hooks
        if hooks is not None:
            for hook in list(hooks.post_accumulate.values()):
                hook(self.variable)
        return ()


def accumulator(leaf: Any) -> AccumulateGrad:
    """The accumulator of ``leaf``: one while anything refers to it, held weakly by the leaf."""
    reference = leaf._accumulator
    node: AccumulateGrad | None = reference() if reference is not None else None
    if node is None:
        node = AccumulateGrad(leaf)
        leaf._accumulator = weakref.ref(node)
    return node


def node_hooks(node: Node) -> NodeHooks:
    """The hooks of ``node``, made when first asked for."""
    if node.hooks is None:
        node.hooks = NodeHooks()
    return node.hooks


def leaf_hooks(leaf: Tensor) -> LeafHooks:
    """The hooks of ``leaf``, made when first asked for."""
    if leaf._hooks is None:
        leaf._hooks = LeafHooks()
    hooks: LeafHooks = leaf._hooks
    return hooks


def is_differentiable(dtype: DType) -> bool:
    """Whether tensors of this type may require grad."""
    return dtype.is_floating or dtype.is_complex


def result_meta(t: Tensor) -> ResultMeta:
    """What the engine must know of a forward result to check and shape its cotangent."""
    return (t.shape, t._dtype, t._device)


def set_history(t: Tensor, node: Node, number: int) -> None:
    """Make ``t`` result ``number`` of ``node``, overwriting its history."""
    t._requires_grad = True
    t._grad_fn = node
    t._output_nr = number


def attach(outputs: Sequence[Any], node: Node) -> None:
    """Put ``node`` on the tape as the maker of ``outputs``.

    Position in ``outputs`` is the position of the cotangent in ``apply``'s argument. Entries that
    are not tensors, or of integer or bool type, get no history; their cotangent is None.
    """
    results: list[ResultMeta | None] = []
    for number, out in enumerate(outputs):
        if hasattr(out, "_keys") and is_differentiable(out._dtype):
            set_history(out, node, number)
            results.append(result_meta(out))
        else:
            results.append(None)
    node.results = results
