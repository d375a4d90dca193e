"""Which values a training program saves: the partitioner that chooses by a minimum cut.

Owns the choice; the flow is ``aot/mincut.py``, the bans and sizes ``aot/recompute.py``, the budget
``aot/budget.py``, the graphs ``aot/partition.py``. Must not know backends.

Note [Saving as a cut]. Every value that does not depend on tangents is an edge from being computed
to being there for the backward, and its capacity is what saving it costs. The source is what is
there anyway (inputs) or may not be computed again (bans); the sink is every call that the tangents
reach. A call done again ends on the side of the sink, which cuts an edge from the source to the
call: the time that it takes. So a cut is a set of values to save from which the backward can
compute all the rest, and its capacity is what that costs in all. Where only memory counts, time is
free. Of equal cuts the one nearest to the backward is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from plait.aot.budget import Choice, best_choice, frontier
from plait.aot.costs import Sizes, fuses, is_free, node_cost
from plait.aot.joint import JointGraph
from plait.aot.mincut import INFINITE, FlowNetwork
from plait.aot.partition import (
    Partition,
    PartitionReport,
    build_partition,
    default_partition,
    forward_needs,
)
from plait.aot.recompute import Level, asks_to_recompute, ban_reasons, tag_of
from plait.autograd.checkpoint import Recompute, RecomputeTag
from plait.base.errors import InvalidArgument, PartitionError
from plait.ir.effects import is_impure, is_view
from plait.ir.graph import IntType, Node, Value, values_in
from plait.ir.passes.cse import share_common_calls

__all__ = ["Partitioner", "choose_partitioner", "min_cut_partition"]

Partitioner = Callable[[JointGraph], Partition]
UNIT = 16  # capacities are integers: sixteenths of a byte moved
NEARNESS = 1.01  # of two values as large, the one nearer to the backward is saved
FARTHEST = 100
UNWRITTEN = 2  # factor for a value that nothing but saving would put in memory
LAST_RESORT = 1 << 80  # saving what may be written before the backward: if nothing else helps


def choose_partitioner(partitioner: str | Partitioner | None, memory_budget: float) -> Partitioner:
    """The partitioner that ``plait.compile`` was asked for: a name, a callable, or None."""
    if not 0.0 <= memory_budget <= 1.0:
        raise InvalidArgument(
            f"compile: argument 'memory_budget' is {memory_budget!r}; expected a number from 0 "
            "(save inputs alone) to 1 (save what makes the step fastest)."
        )
    if callable(partitioner):
        return partitioner
    if partitioner in (None, "min_cut"):
        return partial(min_cut_partition, memory_budget=memory_budget)
    if partitioner != "default":
        raise InvalidArgument(
            f"compile: argument 'partitioner' is {partitioner!r}; expected 'default', 'min_cut' or "
            "a callable from a joint graph to a partition."
        )
    if memory_budget < 1.0:
        raise InvalidArgument(
            f"compile: argument 'memory_budget' is {memory_budget!r} with the default partitioner, "
            "which computes nothing again; expected 1. Use partitioner='min_cut'."
        )
    return default_partition


def min_cut_partition(joint: JointGraph, memory_budget: float = 1.0) -> Partition:
    """Cut ``joint`` where saving costs least, computing the rest again in the backward.

    ``memory_budget`` 1 computes again only what does not make the step slower; below, at most that
    fraction of the bytes is saved, down to inputs alone (and what must be saved). Raises
    PartitionError where what the user marked cannot be had together.
    """
    shared = replace(joint, graph=share_common_calls(joint.graph))
    problem = _Problem(shared)
    kept = problem.cut(Level.FAST)
    reasons = problem.bans(Level.FAST)
    report = PartitionReport("min_cut", memory_budget)
    if memory_budget < 1.0:
        report.fastest_bytes = problem.owned_bytes(kept)
        report.limit = int(memory_budget * report.fastest_bytes)
        kept, reasons = problem.within(memory_budget, kept)
    return build_partition(shared, kept, report, reasons)


class _Problem:
    """One joint graph seen as what is there, what may be saved, and what the backward reads."""

    def __init__(self, joint: JointGraph) -> None:
        self.joint = joint
        graph = joint.graph
        count = joint.meta.num_forward_returns
        self.sizes = Sizes(joint.hint)
        self.forward = forward_needs(joint)
        self.returned = set(values_in(graph.outputs[:count]))
        self.given_away = set(values_in(graph.outputs[len(joint.meta.mutated_inputs) : count]))
        self.grads = set(values_in(graph.outputs[count:]))
        self._divide()
        self.nearness = self._distances()
        self._mark_boundaries()

    def _divide(self) -> None:
        """Calls into those that tangents reach and those before; who reads what."""
        graph = self.joint.graph
        reached = {v for v in graph.inputs if v.desc is not None and v.desc.is_tangent()}
        self.tangents = set(reached)
        self.before: list[Node] = []
        self.users: dict[Value, list[Node]] = {}
        self.read_in_backward: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            inputs = dict.fromkeys(node.inputs())
            acts_in_backward = is_impure(node.op) and node.origin == "backward"
            if acts_in_backward or any(v in reached for v in inputs):
                reached.update(node.results)
                for value in inputs:
                    if value not in reached:
                        self.read_in_backward.setdefault(value, []).append(node)
            else:
                self.before.append(node)
                for value in inputs:
                    self.users.setdefault(value, []).append(node)
        self.reached = reached

    def _distances(self) -> dict[Value, int]:
        """Calls between a value and the nearest one that tangents reach."""
        distance: dict[Value, int] = dict.fromkeys([*self.read_in_backward, *self.grads], 0)
        for node in reversed(self.before):
            nearest = min([distance.get(v, FARTHEST) for v in node.results], default=FARTHEST)
            for value in node.inputs():
                distance[value] = min(distance.get(value, FARTHEST), nearest + 1)
        return distance

    def _mark_boundaries(self) -> None:
        """What leaves a checkpointed region is kept, unless the user says otherwise.

        Else a row of checkpointed blocks would be computed again from its very beginning.
        """
        for node in self.before:
            tag = node.tag
            if tag is None or tag.policy is not Recompute.PREFER_RECOMPUTE or is_free(node):
                continue
            if self._leaves(node, tag.region):
                node.tag = RecomputeTag(Recompute.MUST_SAVE, tag.region)

    def _leaves(self, node: Node, region: int) -> bool:
        stack = list(node.results)
        while stack:
            value = stack.pop()
            if value in self.returned:
                return True
            for user in self.users.get(value, ()):
                if user.origin != "forward":
                    continue
                if user.tag is None or user.tag.region != region:
                    return True
                if is_view(user.op):
                    stack.extend(user.results)
        return False

    # ------------------------------------------------------------ the cut

    def bans(self, level: Level) -> dict[Node, str]:
        """Calls that are not done again at ``level``, with the reason."""
        return ban_reasons(
            self.before, self.forward, self.read_in_backward, self.users, self.sizes, level
        )

    def cut(self, level: Level) -> set[Value]:
        """The values to save when recomputation goes as far as ``level``."""
        network = FlowNetwork(2)
        source, sink = 0, 1
        banned = self.bans(level)
        vertex: dict[Value, int] = {}  # of being computed; the next one is being there
        for value in self.joint.graph.inputs:
            if value not in self.tangents and not isinstance(value.type, IntType):
                self._value(network, vertex, value)
                network.add_edge(source, vertex[value], INFINITE)
        for node in self.before:
            call = network.add_vertex()
            network.add_edge(source, call, INFINITE if node in banned else self.again(node, level))
            for value in dict.fromkeys(node.inputs()):
                if value in vertex:
                    network.add_edge(vertex[value] + 1, call, INFINITE)
            for result in node.results:
                self._value(network, vertex, result)
                network.add_edge(call, vertex[result], INFINITE)
        for value in vertex:
            if value in self.read_in_backward or value in self.grads:
                network.add_edge(vertex[value] + 1, sink, INFINITE)
        if network.solve(source, sink) >= INFINITE:
            raise self._contradiction(network.infinite_path(source, sink), vertex, banned)
        side = network.sink_side(sink)
        return {v for v, number in vertex.items() if side[number + 1] and not side[number]}

    def _value(self, network: FlowNetwork, vertex: dict[Value, int], value: Value) -> None:
        vertex[value] = network.add_vertex()
        network.add_vertex()
        network.add_edge(vertex[value], vertex[value] + 1, self.capacity(value))

    def again(self, node: Node, level: Level) -> int:
        """What doing ``node`` again costs; what the forward does not need is done only once."""
        if level is not Level.FAST or id(node) not in self.forward or asks_to_recompute(node):
            return 0
        return int(UNIT * node_cost(node, self.sizes))

    def capacity(self, value: Value) -> int:
        """What saving ``value`` costs."""
        node = value.producer
        if node is None:
            return self._input_capacity(value)
        if isinstance(value.type, IntType) or is_view(node.op):
            return INFINITE  # its base is saved instead
        if tag_of(node) is Recompute.MUST_RECOMPUTE:
            return INFINITE
        if value in self.given_away and not self._is_read(value):
            return LAST_RESORT  # eager keeps something else, so its user may write into it
        factor = 1 if self._is_written(value) else UNWRITTEN
        distance = min(max(self.nearness.get(value, FARTHEST), 1), FARTHEST)
        return max(1, int(UNIT * self.sizes.of(value) * factor * NEARNESS**distance))

    def _input_capacity(self, value: Value) -> int:
        number = self.joint.graph.inputs.index(value)
        infos = self.joint.meta.input_info
        if number < len(infos) and infos[number].mutates_data:
            return LAST_RESORT
        return 0  # its caller holds it anyway

    def _is_read(self, value: Value) -> bool:
        """Whether the backward as eager has it reads ``value``, maybe through views."""
        if value in self.read_in_backward or value in self.grads:
            return True
        for user in self.users.get(value, ()):
            if id(user) not in self.forward and not is_view(user.op):
                return True
            if is_view(user.op) and any(self._is_read(result) for result in user.results):
                return True
        return False

    def _is_written(self, value: Value) -> bool:
        """Whether the forward puts ``value`` in memory also if it is not saved."""
        node = value.producer
        if value in self.returned or node is None or not fuses(node.op):
            return True
        readers = [u for u in self.users.get(value, ()) if id(u) in self.forward]
        return len(readers) > 1 or any(not fuses(u.op) for u in readers)

    def _contradiction(
        self, path: list[int], vertex: dict[Value, int], banned: dict[Node, str]
    ) -> PartitionError:
        by_number = {number: value for value, number in vertex.items()}
        lines, seen = [], set()
        for number in path:
            value = by_number.get(number, by_number.get(number - 1))
            if value is None or value in seen or value.producer is None:
                continue
            seen.add(value)
            lines.append(_line(value, value.producer, banned))
        steps = "\n".join(lines)
        return PartitionError(
            "min_cut: what must be saved and what must be recomputed contradict each other; "
            "expected at least one value on the way from the first line to the backward that may "
            f"be saved. Give one of these calls another policy:\n{steps}"
        )

    # ------------------------------------------------------------ budgets

    def within(self, budget: float, fast: set[Value]) -> tuple[set[Value], dict[Node, str]]:
        """(values to save in at most ``budget`` of what ``fast`` takes, the reasons)."""
        always = self.cut(Level.ALL)
        required = self._owned(always)
        saved: list[frozenset[Value]] = []
        for cut in (fast, self.cut(Level.CHEAP)):
            items = sorted(self._owned(cut - always), key=lambda v: v.name)
            costs = [self._time_without(v, cut) for v in items]
            for found in frontier([self.sizes.of(v) for v in items], costs):
                saved.append(frozenset([*required, *(items[k] for k in found.kept)]))
        choices = [self._measured(number, kept) for number, kept in enumerate(saved)]
        limit = budget * self.owned_bytes(fast)
        (best,) = best_choice(choices, limit).kept
        reasons = self.bans(Level.ALL)
        for value in self._owned(saved[best]):
            assert value.producer is not None
            reasons.setdefault(value.producer, f"fits the memory budget of {budget:g}")
        return set(saved[best]), reasons

    def owned_bytes(self, values: Collection[Value]) -> int:
        """Bytes of ``values`` that saving keeps alive: inputs are there anyway."""
        return sum([self.sizes.of(v) for v in self._owned(values)])

    def _owned(self, values: Collection[Value]) -> list[Value]:
        return [v for v in values if v.producer is not None]

    def _chain(
        self, roots: Collection[Value], kept: Collection[Value]
    ) -> tuple[dict[Node, None], set[Value]]:
        """(the calls done to make ``roots`` from ``kept`` and inputs, the kept values read)."""
        chosen: dict[Node, None] = {}
        read: set[Value] = set()
        stack = list(roots)
        while stack:
            value = stack.pop()
            if value in kept:
                read.add(value)
                continue
            node = value.producer
            if node is not None and node not in chosen:
                chosen[node] = None
                stack.extend(node.inputs())
        return chosen, read

    def _time_without(self, value: Value, kept: set[Value]) -> int:
        """The time to make ``value`` again when everything else of ``kept`` is there."""
        nodes, _ = self._chain([value], kept - {value})
        return int(sum([node_cost(n, self.sizes) for n in nodes]))

    def _measured(self, number: int, kept: frozenset[Value]) -> Choice:
        """Bytes really saved, and time of what is done twice, when ``kept`` may be saved."""
        wanted = [v for v in (*self.read_in_backward, *self.grads) if v not in self.reached]
        nodes, read = self._chain(wanted, kept)
        time = int(sum([node_cost(n, self.sizes) for n in nodes if id(n) in self.forward]))
        saved = sum([self.sizes.of(v) for v in self._owned(read)])
        return Choice(frozenset([number]), saved, time)


def _line(value: Value, node: Node, banned: dict[Node, str]) -> str:
    where = f" at {node.source[-1][0]}:{node.source[-1][1]}" if node.source else ""
    tag = tag_of(node)
    marks = [banned[node]] if node in banned else []
    if tag is Recompute.MUST_RECOMPUTE:
        marks.append("marked must_recompute")
    if is_view(node.op):
        marks.append("a view, for which its base is saved")
    return f"  {value.name} = {node.op.qualname}{where}: {', '.join(marks) or 'between them'}"
