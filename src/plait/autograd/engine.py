"""The walk over the tape: nodes in order, cotangents added up, hooks, captures.

The core is three steps, repeated: take the youngest node whose cotangents are complete, ask it for
those of its arguments, add them to the nodes these came from (:meth:`GraphTask.step`). Everything
it computes itself goes through operators, in the grad mode `create_graph`, so a walk is traced and
differentiated like any other program. State belongs to the call; there is no global queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from plait.autograd import arithmetic
from plait.autograd.graph import AccumulateGrad, Edge, Node, result_meta
from plait.autograd.hooks import run_tensor_hooks
from plait.base.errors import AutogradError
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["GraphTask", "run"]


def run(
    roots: Sequence[tuple[Edge, Tensor]],
    *,
    keep_graph: bool,
    create_graph: bool,
    captures: Sequence[Edge] = (),
    leaves: Iterable[Node] | None = None,
) -> list[Tensor | None]:
    """Walk from ``roots`` (edge, cotangent) and return what arrives at ``captures``.

    Without captures, gradients are accumulated in all leaves, or only in ``leaves`` if given.
    """
    saved = tls.grad_enabled
    tls.grad_enabled = create_graph
    try:
        if len(roots) == 1 and not captures and leaves is None:
            (node, number), grad = roots[0]
            if _is_star(node):
                _run_star(node, number, grad, keep_graph)
                return []
        task = GraphTask(keep_graph, captures, leaves)
        task.start(roots)
        while task.ready:
            task.step()
    finally:
        tls.grad_enabled = saved
    return [task.captured.get(edge) for edge in captures]


def _is_star(node: Node) -> bool:
    """Whether a node leads to different leaves only, and nobody hung a hook on any of them."""
    if node.hooks is not None or not node.next_edges:
        return False
    leaves = []
    for edge in node.next_edges:
        if edge is not None:
            leaf = edge[0]
            if leaf.__class__ is not AccumulateGrad or leaf.hooks is not None:
                return False
            if leaf.variable._hooks is not None:
                return False
            leaves.append(leaf)
    return len(leaves) == 1 or len(set(leaves)) == len(leaves)


def _run_star(node: Node, number: int, grad: Any, keep_graph: bool) -> None:
    """The walk over one node and its leaves: :class:`GraphTask` without the bookkeeping.

    It is what the backward of a compiled function comes to.
    """
    grads: list[Any] = [None] * max(len(node.results), number + 1)
    meta = node.result(number)
    grads[number] = grad if meta is None else arithmetic.conform(grad, meta, None, number)
    del grad
    outer = tls.backward_node
    tls.backward_node = node
    try:
        results = _results(node, grads, None, keep_graph)
        _check_count(node, results)
        found: list[tuple[int, AccumulateGrad, list[Any]]] = []
        for position, edge in enumerate(node.next_edges):
            if edge is not None and results[position] is not None:
                leaf = edge[0]
                assert isinstance(leaf, AccumulateGrad)
                meta = result_meta(leaf.variable)
                box: list[Any] = [arithmetic.conform(results[position], meta, node, position)]
                found.append((-leaf.seq, leaf, box))
        del results
        found.sort()
        for _, leaf, box in found:
            tls.backward_node = leaf
            leaf.run(box, None)
    finally:
        tls.backward_node = outer


def _results(
    node: Node, grads: list[Any], wanted: Sequence[bool] | None, keep_graph: bool
) -> Sequence[Any]:
    """What a node makes of its cotangents; its saved tensors go unless the graph is kept."""
    try:
        results = node.run(grads, wanted)
    except Exception as error:
        if not isinstance(node, AccumulateGrad):
            error.add_note(f"while running the backward of {node.name()}")
        raise
    if not keep_graph:
        node.release()
    return results


class GraphTask:
    """One walk: which nodes it runs, what has arrived at each, and who is ready."""

    def __init__(
        self, keep_graph: bool, captures: Sequence[Edge], leaves: Iterable[Node] | None
    ) -> None:
        self.keep_graph = keep_graph
        self.capture_points: dict[Node, set[int]] = {}
        for node, number in captures:
            self.capture_points.setdefault(node, set()).add(number)
        self.captured: dict[Edge, Tensor | None] = {}
        self.leaves = None if leaves is None else set(leaves)
        self.needed: set[Node] | None = None  # nodes that lead to what is wanted; None: all
        self.running: set[Node] = set()  # needed nodes that run, not only receive
        self.waiting: dict[Node, int] = {}  # edges into a node not yet walked
        self.arrived: dict[Node, list[Any]] = {}
        self.ready: list[tuple[int, int, Node]] = []

    def start(self, roots: Sequence[tuple[Edge, Tensor]]) -> None:
        """Find the nodes of the walk and make those ready that nothing leads to."""
        tops = [edge[0] for edge, _ in roots]
        order = self._discover(tops)
        if self.capture_points or self.leaves is not None:
            self._select(order)
        for (node, number), grad in roots:
            if self._takes_part(node):
                self._add(node, number, grad, None, number)
        for node in dict.fromkeys(tops):
            if self._takes_part(node) and not self.waiting.get(node):
                self._make_ready(node)

    def step(self) -> None:
        """Run the youngest ready node and pass its results on."""
        node = heapq.heappop(self.ready)[2]
        outer = tls.backward_node
        tls.backward_node = node
        try:
            self._visit(node, self.arrived.pop(node))
        finally:
            tls.backward_node = outer

    def _visit(self, node: Node, grads: list[Any]) -> None:
        self._before(node, grads)
        if self.needed is not None and node not in self.running:
            return
        wanted = None if self.needed is None else [self._wants(edge) for edge in node.next_edges]
        results = self._evaluate(node, grads, wanted)
        for position, edge in enumerate(node.next_edges):
            if edge is not None and (wanted is None or wanted[position]):
                self._pass_on(node, position, edge, results[position])

    # -------------------------------------------------------- which nodes

    def _discover(self, tops: Iterable[Node]) -> list[Node]:
        """All nodes below ``tops``, each after those it leads to; counts the edges into each."""
        order: list[Node] = []
        seen: set[Node] = set()
        stack: list[tuple[Node, bool]] = [(node, False) for node in tops]
        waiting = self.waiting
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            for edge in node.next_edges:
                if edge is not None:
                    waiting[edge[0]] = waiting.get(edge[0], 0) + 1
                    stack.append((edge[0], False))
        return order

    def _select(self, order: list[Node]) -> None:
        """Keep only the nodes that lead to a capture point or to a wanted leaf."""
        needed: set[Node] = set()
        for node in order:
            leads = any(edge is not None and edge[0] in needed for edge in node.next_edges)
            accumulates = self.leaves is not None and node in self.leaves
            if leads or accumulates:
                self.running.add(node)
            if leads or accumulates or node in self.capture_points:
                needed.add(node)
        self.needed = needed

    def _takes_part(self, node: Node) -> bool:
        return self.needed is None or node in self.needed

    def _wants(self, edge: Edge | None) -> bool:
        return edge is not None and self._takes_part(edge[0])

    # -------------------------------------------------------- cotangents

    def _make_ready(self, node: Node) -> None:
        if node not in self.arrived:
            self.arrived[node] = [None] * max(len(node.results), 1)
        heapq.heappush(self.ready, (node.priority, node.seq, node))

    def _pass_on(self, node: Node, position: int, edge: Edge, grad: Any) -> None:
        """Hand one result to the node it belongs to, which may become ready."""
        target, number = edge
        if grad is not None:
            self._add(target, number, grad, node, position)
        self.waiting[target] -= 1
        if not self.waiting[target]:
            self._make_ready(target)

    def _add(
        self, node: Node, number: int, grad: Any, producer: Node | None, position: int
    ) -> None:
        meta = node.result(number)
        if meta is not None:
            grad = arithmetic.conform(grad, meta, producer, position)
        arrived = self.arrived.get(node)
        if arrived is None:
            arrived = self.arrived[node] = [None] * max(len(node.results), number + 1)
        before = arrived[number]
        arrived[number] = grad if before is None else arithmetic.add(before, grad)

    # -------------------------------------------------------- one node

    def _before(self, node: Node, grads: list[Any]) -> None:
        """Run the hooks of the node's tensors, keep retained gradients, capture."""
        for number, table in node.tensor_hooks().items():
            if number < len(grads) and grads[number] is not None:
                grads[number] = run_tensor_hooks(table, grads[number])
        if node.hooks is not None:
            for number, reference in node.hooks.retained.items():
                _retain(reference(), grads[number])
        for number in self.capture_points.get(node, ()):
            self.captured[(node, number)] = grads[number]

    def _evaluate(self, node: Node, grads: list[Any], wanted: Sequence[bool] | None) -> Any:
        """The node's results, with the node's own hooks around it."""
        hooks = node.hooks
        if hooks is not None:
            for hook in list(hooks.pre.values()):
                _replace(grads, hook(tuple(grads)))
        given = tuple(grads) if hooks is not None and hooks.post else ()
        results = _results(node, grads, wanted, self.keep_graph)
        if hooks is not None and hooks.post:
            results = list(results)
            for hook in list(hooks.post.values()):
                _replace(results, hook(tuple(results), given))
        _check_count(node, results)
        return results


def _check_count(node: Node, results: Sequence[Any]) -> None:
    if len(results) < len(node.next_edges):
        raise AutogradError(
            f"{node.name()} returned an incorrect number of gradients; got {len(results)}; "
            f"expected {len(node.next_edges)}."
        )


def _replace(values: list[Any], changed: Any) -> None:
    """Take over what a node hook returned: None, one tensor, or one value for each place."""
    if changed is None:
        return
    if hasattr(changed, "_keys"):
        changed = (changed,)
    if len(changed) != len(values):
        raise AutogradError(
            f"a node hook returned {len(changed)} gradients; expected {len(values)}, or None."
        )
    values[:] = changed


def _retain(tensor: Any, grad: Any) -> None:
    """Store the gradient of a tensor that called retain_grad."""
    if tensor is not None and grad is not None:
        kept = arithmetic.clone(grad)
        tensor._grad = kept if tensor._grad is None else arithmetic.add(tensor._grad, kept)
