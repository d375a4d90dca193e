"""What the choice of saved values is worth: bytes kept for the backward, and time of a step.

    python -m benchmarks.memory [seconds per figure] [--threads N]

A transformer block (forward and backward of a loss, 8×128 tokens, 128 wide, 4 heads) and a gated
MLP of two layers (256 rows, 512 wide), each compiled five ways: all kept that the backward reads,
the minimum cut, the cut with half and with none of its bytes, and checkpointed whole, which
computes everything again. The ways take turns; times are medians. --markdown prints the rows of the
table in docs/explain.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import plait
from plait import nn
from plait.aot.partition import PartitionReport
from plait.backends.llvm.native import pool

__all__ = ["MODELS", "WAYS", "main", "measure", "prepared"]

BATCH, LENGTH, WIDTH, HEADS = 8, 128, 128, 4
ROWS, HIDDEN, DEPTH = 256, 512, 2

Loss = Callable[[Any], Any]
WAYS: dict[str, dict[str, Any]] = {
    "everything kept": {"partitioner": "default"},
    "minimum cut": {},
    "cut, budget 0.5": {"memory_budget": 0.5},
    "cut, budget 0": {"memory_budget": 0.0},
    "everything again": {"checkpoint": "must_recompute"},
}


def tensor(*shape: int) -> Any:
    """float32 normal numbers."""
    return plait.tensor(np.random.default_rng(0).standard_normal(shape).astype("f"))


def block() -> tuple[nn.Module, Any]:
    """A transformer block and its input."""
    return nn.TransformerBlock(WIDTH, HEADS), tensor(BATCH, LENGTH, WIDTH)


class GatedMLP(nn.Module):
    """Layers of two products whose results gate each other, with a norm before each."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(HIDDEN) for _ in range(DEPTH)])
        self.gates = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN) for _ in range(DEPTH)])
        self.values = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN) for _ in range(DEPTH)])

    def forward(self, x: Any) -> Any:
        for norm, gate, value in zip(self.norms, self.gates, self.values, strict=True):
            h = norm(x)
            x = x + plait.sigmoid(gate(h)) * plait.tanh(value(h) * 0.5)
        return x


def mlp() -> tuple[nn.Module, Any]:
    """A gated MLP and its input."""
    return GatedMLP(), tensor(ROWS, HIDDEN)


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "transformer block": block,
    "gated MLP": mlp,
}


def prepared(name: str, way: str) -> tuple[Callable[[], Any], Callable[[], PartitionReport]]:
    """(one step of a model compiled in a way, what its partitioner says after the first step)."""
    plait.manual_seed(0)
    model, x = MODELS[name]()
    options = dict(WAYS[way])
    policy = options.pop("checkpoint", None)
    forward: Callable[[Any], Any] = (
        model if policy is None else plait.checkpoint(lambda x: model(x), policy=policy)
    )

    def loss(x: Any) -> Any:
        y = forward(x)
        return (y * y).mean()

    compiled = plait.compile(loss, **options)

    def step() -> Any:
        for p in model.parameters():
            p.grad = None
        result = compiled(x)
        result.backward()
        return result

    def report() -> PartitionReport:
        (entry,) = plait.explain(compiled)().entries
        assert entry.partition is not None
        return entry.partition

    return step, report


def measure(name: str, seconds: float) -> list[tuple[str, int, int, float]]:
    """(way, bytes saved, calls of the forward done again, milliseconds of a step) for each way."""
    made = {way: prepared(name, way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for step, _ in made.values():
        for _ in range(3):
            step()
    end = time.perf_counter() + seconds * len(WAYS)
    while time.perf_counter() < end or len(times["minimum cut"]) < 3:
        for way, (step, _) in made.items():
            start = time.perf_counter()
            step()
            times[way].append((time.perf_counter() - start) * 1e3)
    reports = {way: report() for way, (_, report) in made.items()}
    return [
        (way, r.saved_bytes, len(r.recomputed), statistics.median(times[way]))
        for way, r in reports.items()
    ]


def main() -> None:
    """Measure and print."""
    numbers = [a for a in sys.argv[1:] if a.replace(".", "", 1).isdigit()]
    seconds = float(numbers[0]) if numbers else 2.0
    if "--threads" in sys.argv:
        pool.set_num_threads(int(sys.argv[sys.argv.index("--threads") + 1]))
    for name in MODELS:
        rows = measure(name, seconds)
        base = rows[0]
        print(f"{name}: {pool.num_threads()} threads")
        for way, saved, again, ms in rows:
            share, pace = saved / base[1], ms / base[3]
            if "--markdown" in sys.argv:
                print(f"| {way} | {saved / 1024:.0f} KB | {share:.0%} | {again} | {ms:.2f} ms |")
            else:
                print(f"  {way:18} {saved / 1024:9.1f} KB ({share:4.0%}) {again:3} calls again "
                      f"{ms:8.2f} ms ({pace:.2f}x)")  # fmt: skip


if __name__ == "__main__":
    main()
