"""Native kernels by themselves: what generated code takes for the two rows that have gates.

    python benchmarks/native_kernels.py [rounds]

Layer norm + GELU(erf) and softmax of 2048x1024 float32, on one and two threads, taking turns with
PyTorch's eager kernels if it is installed; and a call of a two-op graph on 4 elements. Medians.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from plait.backends.llvm.loop import builder as B
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, Store
from plait.backends.llvm.loop.terms import Axis, Term
from plait.backends.llvm.native import pool
from plait.backends.llvm.native.entry import build_entry
from plait.backends.llvm.native.target import host
from plait.backends.llvm.plan import InputRef, InputSpec, KernelCall, OutputRef, OutputSpec, Plan
from plait.base import log
from plait.symbolic.expr import Expr, const

ROWS, COLUMNS = 2048, 1024
GATES = {
    ("layer norm + gelu", 1): 1.7,
    ("layer norm + gelu", 2): 0.9,
    ("softmax", 1): 1.1,
    ("softmax", 2): 0.7,
}
ZERO = const(0)


def number(value: float) -> Term:
    return B.literal(value, "f32")


def axes() -> tuple[Axis, Axis, Axis]:
    return Axis("i0", const(ROWS)), Axis("i1", const(COLUMNS)), Axis("r0", const(COLUMNS))


def softmax() -> Kernel:
    i, j, r = axes()

    def shifted(a: Axis) -> Term:
        x = B.load(0, i.symbol * COLUMNS + a.symbol, "f32")
        return B.unary("exp", B.binary("sub", x, top))

    top = B.reduce("max", r, B.load(0, i.symbol * COLUMNS + r.symbol, "f32"))
    total = B.unary("recip", B.reduce("sum", r, shifted(r)))
    return rows("softmax", 1, B.binary("mul", shifted(j), total))


def layer_norm_gelu() -> Kernel:
    i, j, r = axes()

    def x(a: Axis) -> Term:
        return B.load(0, i.symbol * COLUMNS + a.symbol, "f32")

    def mean_of(value: Term) -> Term:
        return B.binary("mul", B.reduce("sum", r, value), number(1 / COLUMNS))

    mean = mean_of(x(r))
    apart = B.binary("sub", x(r), mean)
    variance = mean_of(B.binary("mul", apart, apart))
    scale = B.unary("rsqrt", B.binary("add", variance, number(1e-5)))
    y = B.binary("mul", B.binary("sub", x(j), mean), scale)
    y = B.binary("mul", y, B.load(1, j.symbol, "f32"))
    y = B.binary("add", y, B.load(2, j.symbol, "f32"))
    phi = B.binary("add", B.unary("erf", B.binary("mul", y, number(0.5**0.5))), number(1.0))
    return rows("layer_norm_gelu", 3, B.binary("mul", B.binary("mul", y, number(0.5)), phi))


def rows(name: str, inputs: int, value: Term) -> Kernel:
    i, j, _ = axes()
    parameters = (*(BufferParam("f32", "in"),) * inputs, BufferParam("f32", "out"))
    store = Store(inputs, i.symbol * COLUMNS + j.symbol, value, 2)
    return Kernel(name, parameters, (), (i, j), (store,))


def plan(kernel: Kernel, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> Plan:
    inputs = tuple(InputSpec(f"x{k}", "f32", sizes(s), strides(s)) for k, s in enumerate(shapes))
    bindings = (*(InputRef(k, ZERO) for k in range(len(shapes))), OutputRef(0, ZERO))
    outputs = (OutputSpec("y", "f32", sizes(out), strides(out)),)
    return Plan(kernel.name, inputs, outputs, (), (KernelCall(kernel, bindings, ()),), ZERO)


def sizes(shape: tuple[int, ...]) -> tuple[Expr, ...]:
    return tuple(map(const, shape))


def strides(shape: tuple[int, ...]) -> tuple[Expr, ...]:
    return tuple(const(int(np.prod(shape[k + 1 :]))) for k in range(len(shape)))


def entry(
    kernel: Kernel, shapes: list[tuple[int, ...]], out: tuple[int, ...]
) -> Callable[..., Any]:
    log.clear()
    start = time.perf_counter()
    call = build_entry(plan(kernel, shapes, out), print).call
    total = (time.perf_counter() - start) * 1e3
    llvm = [float(str(event.fields["ms"])) for event in log.events("native_compile")]
    parts = ", ".join(f"{t:.1f}" for t in llvm)
    print(f"{kernel.name}: built in {total:.1f} ms, of which LLVM {parts}")
    return call


def in_turns(systems: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, one call of every system a round."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            run()  # wakes sleeping threads and touches the caches alike for everyone
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def eager(name: str, x: Any, w: Any, threads: int) -> Callable[[], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    tensor, weight = torch.from_numpy(x), torch.from_numpy(w)
    if name == "softmax":
        return lambda: torch.softmax(tensor, -1)
    norm, gelu = torch.nn.functional.layer_norm, torch.nn.functional.gelu
    return lambda: gelu(norm(tensor, (COLUMNS,), weight, weight))


def small_call() -> float:
    """Microseconds of a native call with its output: exp(a + b) on 4 elements."""
    i = Axis("i0", const(4))
    value = B.unary("exp", B.binary("add", *(B.load(k, i.symbol, "f32") for k in (0, 1))))
    parameters = (*(BufferParam("f32", "in"),) * 2, BufferParam("f32", "out"))
    kernel = Kernel("small", parameters, (), (i,), (Store(2, i.symbol, value, 1),))
    call = entry(kernel, [(4,), (4,)], (4,))
    a = np.ones(4, np.float32)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(10_000):
            call(a, a)
        best = min(best, time.perf_counter() - start)
    return best * 100


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    w = random.standard_normal(COLUMNS).astype(np.float32)
    print(host().cpu, f"{host().vector_bits}-bit vectors")
    vector = (COLUMNS,)
    norm = entry(layer_norm_gelu(), [x.shape, vector, vector], x.shape)
    soft = entry(softmax(), [x.shape], x.shape)
    systems = {"layer norm + gelu": lambda: norm(x, w, w), "softmax": lambda: soft(x)}
    print(f"small call: {small_call():.2f} us")
    for threads in (1, 2):
        pool.set_num_threads(threads)
        for name, run in systems.items():
            pair = {"plait": run}
            other = eager(name, x, w, threads)
            if other is not None:
                pair["torch eager"] = other
            found = in_turns(pair, rounds)
            line = ", ".join(f"{who} {ms:.3f} ms" for who, ms in found.items())
            print(f"{name}, {threads} thread(s): {line} (gate {GATES[name, threads]})")


if __name__ == "__main__":
    main()
