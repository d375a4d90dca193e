"""Minimum cuts: a flow network on arrays, Dinic's algorithm, and the cut next to the sink.

Owns the flow and nothing else: vertices are numbers, capacities are integers. Must not know graphs
of operators, policies or backends.
"""

from __future__ import annotations

from collections import deque

__all__ = ["INFINITE", "FlowNetwork"]

INFINITE = 1 << 100
"""A capacity that no cut can afford. Real capacities are integers far below it."""


class FlowNetwork:
    """A directed network; edge ``2 k`` and its reverse ``2 k + 1`` are neighbours in the arrays.

    >>> net = FlowNetwork(4)
    >>> for u, v, capacity in [(0, 1, 3), (1, 2, 1), (2, 3, 5)]:
    ...     net.add_edge(u, v, capacity)
    >>> net.solve(0, 3), net.source_side(0)
    (1, [True, True, False, False])
    """

    def __init__(self, vertices: int = 0) -> None:
        self.edges_of: list[list[int]] = [[] for _ in range(vertices)]
        self.target: list[int] = []
        self.left: list[int] = []  # what an edge can still take
        self.capacity: list[int] = []

    def add_vertex(self) -> int:
        """A new vertex; its number."""
        self.edges_of.append([])
        return len(self.edges_of) - 1

    def add_edge(self, u: int, v: int, capacity: int) -> None:
        """An edge from ``u`` to ``v``."""
        assert capacity >= 0
        self.edges_of[u].append(len(self.target))
        self.edges_of[v].append(len(self.target) + 1)
        self.target += (v, u)
        self.left += (capacity, 0)
        self.capacity += (capacity, 0)

    def solve(self, source: int, sink: int) -> int:
        """The greatest flow from ``source`` to ``sink``; at least INFINITE if no cut is finite."""
        total = 0
        while total < INFINITE:
            levels = self._levels(source, sink)
            if levels[sink] < 0:
                break
            following = [0] * len(self.edges_of)
            while total < INFINITE:
                pushed = self._augment(source, sink, levels, following)
                if not pushed:
                    break
                total += pushed
        return total

    def _levels(self, source: int, sink: int) -> list[int]:
        """Distance of each vertex from the source along edges that can take more; -1: none."""
        levels = [-1] * len(self.edges_of)
        levels[source] = 0
        queue = deque([source])
        while queue:
            u = queue.popleft()
            for edge in self.edges_of[u]:
                v = self.target[edge]
                if self.left[edge] and levels[v] < 0:
                    levels[v] = levels[u] + 1
                    queue.append(v)
        return levels

    def _augment(self, source: int, sink: int, levels: list[int], following: list[int]) -> int:
        """Push flow along one path of ascending levels; 0 if there is none left.

        ``following`` is, per vertex, the edge to look at next: dead ends are seen once per phase.
        """
        path: list[int] = []
        u = source
        while u != sink:
            edge = self._usable(u, levels, following)
            if edge is not None:
                path.append(edge)
                u = self.target[edge]
            elif path:
                last = path.pop()
                u = self.target[last ^ 1]
                following[u] += 1
            else:
                return 0
        pushed = min([self.left[edge] for edge in path])
        for edge in path:
            self.left[edge] -= pushed
            self.left[edge ^ 1] += pushed
        return pushed

    def _usable(self, u: int, levels: list[int], following: list[int]) -> int | None:
        edges = self.edges_of[u]
        while following[u] < len(edges):
            edge = edges[following[u]]
            if self.left[edge] and levels[self.target[edge]] == levels[u] + 1:
                return edge
            following[u] += 1
        return None

    def source_side(self, source: int) -> list[bool]:
        """After ``solve``: the vertices that the source still reaches (the cut nearest to it)."""
        return [level >= 0 for level in self._levels(source, source)]

    def sink_side(self, sink: int) -> list[bool]:
        """After ``solve``: the vertices that still reach the sink (the cut nearest to it)."""
        seen = [False] * len(self.edges_of)
        seen[sink] = True
        queue = deque([sink])
        while queue:
            v = queue.popleft()
            for edge in self.edges_of[v]:
                u = self.target[edge]
                if self.left[edge ^ 1] and not seen[u]:
                    seen[u] = True
                    queue.append(u)
        return seen

    def infinite_path(self, source: int, sink: int) -> list[int]:
        """The vertices of a shortest path whose edges are all infinite; empty if there is none."""
        before: dict[int, int] = {source: source}
        queue = deque([source])
        while queue and sink not in before:
            u = queue.popleft()
            for edge in self.edges_of[u]:
                v = self.target[edge]
                if self.capacity[edge] >= INFINITE and v not in before:
                    before[v] = u
                    queue.append(v)
        if sink not in before:
            return []
        path = [sink]
        while path[-1] != source:
            path.append(before[path[-1]])
        return path[::-1]
