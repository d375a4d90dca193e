"""The flow, the knapsack and the cut, each against the simplest thing that is surely right."""

from __future__ import annotations

import itertools
import random

import pytest

from plait.aot.budget import MOST_CHOICES, best_choice, frontier
from plait.aot.mincut import INFINITE, FlowNetwork


def brute_force_cut(vertices: int, edges: list[tuple[int, int, int]]) -> int:
    """The cheapest cut between the first and the last vertex, over all of them."""
    inner = range(1, vertices - 1)
    best = None
    for count in range(len(inner) + 1):
        for chosen in itertools.combinations(inner, count):
            side = {0, *chosen}
            cost = sum(c for u, v, c in edges if u in side and v not in side)
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(60))
def test_flow_equals_the_cheapest_of_all_cuts_of_a_random_dag(seed: int) -> None:
    rng = random.Random(seed)
    vertices = rng.randint(2, 9)
    edges = [
        (u, v, rng.choice([0, 1, 2, 3, 7, 50]))
        for u in range(vertices)
        for v in range(u + 1, vertices)
        if rng.random() < 0.55
    ]
    network = FlowNetwork(vertices)
    for u, v, capacity in edges:
        network.add_edge(u, v, capacity)
    flow = network.solve(0, vertices - 1)
    assert flow == brute_force_cut(vertices, edges)
    near_source = network.source_side(0)
    near_sink = [not reaches for reaches in network.sink_side(vertices - 1)]
    for side in (near_source, near_sink):
        assert side[0] and not side[-1]
        assert sum(c for u, v, c in edges if side[u] and not side[v]) == flow
    assert all(b for a, b in zip(near_source, near_sink, strict=True) if a)


def test_an_infinite_path_is_found_and_named_in_order() -> None:
    network = FlowNetwork(5)
    for u, v, capacity in [(0, 1, INFINITE), (1, 2, 3), (1, 3, INFINITE), (3, 4, INFINITE)]:
        network.add_edge(u, v, capacity)
    assert network.solve(0, 4) >= INFINITE
    assert network.infinite_path(0, 4) == [0, 1, 3, 4]
    assert network.infinite_path(2, 4) == []


@pytest.mark.parametrize("seed", range(25))
def test_frontier_holds_the_best_choice_for_every_limit(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(0, 7)
    sizes = [rng.randint(1, 9) for _ in range(count)]
    times = [rng.randint(0, 9) for _ in range(count)]
    choices = frontier(sizes, times)
    for limit in range(sum(sizes) + 1):
        subsets = itertools.chain.from_iterable(
            itertools.combinations(range(count), k) for k in range(count + 1)
        )
        fitting = [s for s in subsets if sum(sizes[k] for k in s) <= limit]
        fastest = min(sum(times) - sum(times[k] for k in s) for s in fitting)
        assert best_choice(choices, limit).time == fastest


def test_many_items_give_few_choices_and_stay_monotone() -> None:
    rng = random.Random(1)
    sizes = [rng.randint(1, 1 << 30) for _ in range(60)]
    times = [rng.randint(1, 1 << 30) for _ in range(60)]
    choices = frontier(sizes, times)
    assert len(choices) <= 2 * MOST_CHOICES
    taken = [best_choice(choices, sum(sizes) * k / 50).bytes for k in range(51)]
    assert taken == sorted(taken) and taken[0] == 0 and taken[-1] == sum(sizes)
