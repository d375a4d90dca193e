"""What each kind of fusion is worth: the same program with the kind left out, and with it.

    python -m benchmarks.fusion_kinds [--only views,epilogues] [--threads 1,2] [--seconds 1]
                                      [--json PATH]

"before" is compiled under PLAIT_FUSION_OFF=kind, "after" with everything; both run in turns, and
a figure is the best of their times, since other work on the machine only ever adds. Before they
are timed their results are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree

import plait
from plait.backends.llvm.native import pool
from plait.backends.llvm.switches import FUSIONS
from plait.base.config import config

functional = plait.nn.functional
ROWS, COLUMNS = 2048, 1024
Arrays = list[np.ndarray[Any, Any]]


class Program(NamedTuple):
    """A function, the shapes of its arguments, and the parameters that it may overwrite."""

    kind: str
    name: str
    fn: Callable[..., Any]
    shapes: list[Any]
    donate: tuple[str, ...] = ()


def turned(x: Any, y: Any) -> Any:
    """A transposed operand and a broadcast column."""
    return plait.tanh(x.t()) * y + y[:, :1].expand(y.shape)


def softmax(x: Any) -> Any:
    return plait.softmax(x * 0.5, -1)


def columns(x: Any, y: Any) -> Any:
    """A reduction over the slow axis of something computed."""
    return (x * y + x).sum(0)


def middle(x: Any) -> Any:
    """A reduction over the middle axis of three."""
    return plait.exp(x.reshape(64, 32, COLUMNS)).sum(1)


def swish(x: Any) -> Any:
    """A result and the two values that its derivative needs."""
    s = plait.sigmoid(x)
    return x * s, s, s + x * s * (1 - s)


def gelu_linear(x: Any, w: Any, b: Any) -> Any:
    return functional.gelu(functional.linear(x, w, b))


def moments(x: Any) -> Any:
    return x.mean(1), x.var(1, correction=0), x.amax(1)


def bias_gradient(x: Any, g: Any) -> Any:
    """A gradient, and its sum over rows."""
    d = g * (x > 0)
    return d, d.sum(0)


def momentum(p: Any, g: Any, v: Any) -> None:
    """An update in place."""
    v.mul_(0.9).add_(g)
    p.sub_(v, alpha=0.1)


def small_shapes() -> list[tuple[int, ...]]:
    """Parameters of a small model: matrices, biases and scales."""
    return [
        ((64 + k, 16 + k % 7), (64 + k,), (k + 1,), (3, 3, 4, 1 + k % 9))[k % 4] for k in range(200)
    ]


def adamw(params: Any, grads: Any, means: Any, squares: Any) -> Any:
    """AdamW over many tensors."""
    return [adamw_of_one(*four) for four in zip(params, grads, means, squares, strict=True)]


def adamw_of_one(p: Any, g: Any, m: Any, v: Any) -> Any:
    m = m * 0.9 + g * 0.1
    v = v * 0.999 + g * g * 0.001
    return p * 0.99999 - 0.001 * m / (v.sqrt() + 1e-8), m, v


FULL = (ROWS, COLUMNS)
PROGRAMS = [
    Program("views", "tanh(x.t()) * y + column", turned, [(COLUMNS, ROWS), FULL]),
    Program("reductions", "softmax of rows", softmax, [FULL]),
    Program("reductions", "sum of columns of x y + x", columns, [FULL, FULL]),
    Program("reductions", "sum over the middle axis", middle, [FULL]),
    Program("outputs", "swish and its derivative", swish, [FULL]),
    Program("epilogues", "gelu(linear)", gelu_linear, [(ROWS, 512), (512, 512), (512,)]),
    Program("siblings", "mean, variance, maximum", moments, [FULL]),
    Program("siblings", "a gradient and its column sums", bias_gradient, [FULL, FULL]),
    Program("in_place", "momentum, written in place", momentum, [FULL, FULL, FULL]),
    Program("horizontal", "AdamW of 200 tensors", adamw, [small_shapes()] * 4),
    Program("in_place", "AdamW of 200 tensors, donated", adamw, [small_shapes()] * 4,
            ("params", "means", "squares")),
]  # fmt: skip


class Compiled:
    """A program compiled for its arguments, with some kinds of fusion left out."""

    def __init__(self, program: Program, off: frozenset[str]) -> None:
        self.arguments = tensors(program)
        self.owns = bool(program.donate)
        self.fn = plait.compile(program.fn, donate=program.donate)
        with config.override(fusion_off=off):
            start = time.perf_counter()
            self.first = self()
            self.first_ms = (time.perf_counter() - start) * 1e3
        self.steps = len(self.fn.kernels())

    def __call__(self) -> Any:
        result = self.fn(*self.arguments)
        if self.owns:  # what was given away comes back as results
            params, means, squares = map(list, zip(*result, strict=True))
            self.arguments = [params, self.arguments[1], means, squares]
        return result


def tensors(program: Program) -> list[Any]:
    """Arguments: positive numbers, so that roots are real and updates do not grow."""
    rng = np.random.default_rng(0)

    def one(shape: Any) -> Any:
        if isinstance(shape, list):
            return [one(s) for s in shape]
        return plait.tensor(rng.random(shape, dtype=np.float32))

    return [one(shape) for shape in program.shapes]


def compare(before: Compiled, after: Compiled) -> None:
    """Stop where the two disagree."""
    pairs = ((before.first, after.first), (before.arguments, after.arguments))
    for left, right in pairs:
        leaves = zip(optree.tree_leaves(left), optree.tree_leaves(right), strict=True)
        for a, b in leaves:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=1e-4)


def best_in_turns(runs: list[Callable[[], Any]], seconds: float) -> list[float]:
    """The best time of each in microseconds."""
    best = [float("inf")] * len(runs)
    end = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < end or count < 7:
        count += 1
        for k, run in enumerate(runs):
            run()  # wakes sleeping threads and touches the caches alike for both
            start = time.perf_counter()
            run()
            best[k] = min(best[k], (time.perf_counter() - start) * 1e6)
    return best


def measure(program: Program, threads: list[int], seconds: float) -> list[dict[str, Any]]:
    """A row for each number of threads."""
    before, after = Compiled(program, frozenset({program.kind})), Compiled(program, frozenset())
    compare(before, after)
    rows = []
    for count in threads:
        pool.set_num_threads(count)
        slow, fast = best_in_turns([before, after], seconds)
        rows.append({
            "kind": program.kind, "program": program.name, "threads": count,
            "kernels before": before.steps, "kernels after": after.steps,
            "first call ms before": before.first_ms, "first call ms after": after.first_ms,
            "us before": slow, "us after": fast, "ratio": slow / fast,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| kind | program | threads | kernels | first call, ms | before, µs | after, µs | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        kernels = f"{r['kernels before']} -> {r['kernels after']}"
        figures = f"{r['us before']:.0f} | {r['us after']:.0f} | {r['ratio']:.2f}"
        first = f"{r['first call ms before']:.0f} -> {r['first call ms after']:.0f}"
        cells = (r["kind"], r["program"], r["threads"], kernels, first, figures)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"kinds: {', '.join(FUSIONS)}")
    parser.add_argument("--threads", default="1,2", type=lambda t: [int(n) for n in t.split(",")])
    parser.add_argument("--seconds", default=1.0, type=float, help="for each figure")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    if only - FUSIONS.keys():
        parser.error(f"--only: expected some of {', '.join(FUSIONS)}")
    rows = []
    for program in PROGRAMS:
        if not only or program.kind in only:
            rows += measure(program, options.threads, options.seconds)
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
