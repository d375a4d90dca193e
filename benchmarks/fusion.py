"""What fusion is worth: kernels and times of programs that are many operators and little work.

    python -m benchmarks.fusion [seconds per figure] [--inductor]

AdamW over 200 small tensors, the backward of layer norm, a gradient that is reduced over columns
besides, and mean with variance; on one and two threads. Beside PyTorch: its eager kernels, its
`foreach` and `fused` AdamW and, with --inductor, the same functions compiled by TorchInductor
(which needs a C++ compiler). Medians of many calls; the systems take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import plait
from plait.backends.llvm.native import pool

ROWS, COLUMNS, TENSORS = 2048, 1024, 200
LR, BETAS, EPS, DECAY = 1e-3, (0.9, 0.999), 1e-8, 1e-2
Run = Callable[[], Any]


def shapes() -> list[tuple[int, ...]]:
    """The parameters of a small model: matrices, biases and scales of many sizes."""
    return [
        ((64 + k, 16 + k % 7), (64 + k,), (k + 1,), (3, 3, 4, 1 + k % 9))[k % 4]
        for k in range(TENSORS)
    ]


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """float32 normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_turns(systems: dict[str, Run], seconds: float) -> dict[str, float]:
    """Median microseconds of a call of each, called one after the other for a while."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for run in systems.values():
        for _ in range(3):
            run()
    end = time.perf_counter() + seconds * len(systems)
    while time.perf_counter() < end or len(times[next(iter(times))]) < 7:
        for name, run in systems.items():
            run()  # wakes sleeping threads and touches the caches alike for everyone
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


# ---------------------------------------------------------------- plait


def compiled(name: str, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`fn` compiled for these arguments; prints the kernels and the time that it took."""
    function = plait.compile(fn, **options)
    start = time.perf_counter()
    result = function(*args)
    taken = time.perf_counter() - start
    kernels = function.kernels()
    print(f"  {name}: {len(kernels)} kernel(s), first call {taken * 1e3:.0f} ms")
    return function, result


def adamw() -> dict[str, Run]:
    """New parameters and state as fresh tensors, in the memory of donated ones, and in place."""
    optimizer = plait.optim.AdamW(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    params = [plait.tensor(random(shape)) for shape in shapes()]
    grads = [plait.tensor(random(shape, 1)) for shape in shapes()]
    state = optimizer.init(params)
    functional, _ = compiled("functional", optimizer.update, params, grads, state)
    runs: dict[str, Run] = {"plait, functional": lambda: functional(params, grads, state)}
    if hasattr(functional, "donations"):
        own = [plait.tensor(random(shape)) for shape in shapes()]
        donating, held = compiled(
            "donated", optimizer.update, own, grads, optimizer.init(own), donate=("params", "state")
        )
        box = [held]

        def step() -> None:
            box[0] = donating(box[0][0], grads, box[0][1])

        runs["plait, donated"] = step
    return runs


def norm_backward(x: Any, g: Any, w: Any, mean: Any, rstd: Any) -> Any:
    """Gradients of layer norm by its input, its scale and its shift."""
    normal = (x - mean) * rstd
    scaled = g * w
    first = scaled.mean(-1, keepdim=True)
    second = (scaled * normal).mean(-1, keepdim=True)
    return (scaled - first - normal * second) * rstd, (g * normal).sum(0), g.sum(0)


def bias_gradient(x: Any, g: Any) -> Any:
    """The gradient of relu(x + b) by x, and by b: its sum over rows."""
    d = g * (x > 0)
    return d, d.sum(0)


def moments(x: Any) -> Any:
    """Mean and variance of columns."""
    return x.mean(0), x.var(0, correction=0)


def both_sums(x: Any, g: Any) -> Any:
    """Column sums of two tensors and of their product."""
    return x.sum(0), g.sum(0), (x * g).sum(0)


PROGRAMS: dict[str, tuple[Callable[..., Any], int]] = {
    "layer norm backward": (norm_backward, 5),
    "bias gradient": (bias_gradient, 2),
    "mean and var of columns": (moments, 1),
    "three column sums": (both_sums, 2),
}


def arguments(count: int) -> list[np.ndarray[Any, Any]]:
    """x, g, w, mean, rstd, of which a program takes the first `count`."""
    x, g, w = random((ROWS, COLUMNS)), random((ROWS, COLUMNS), 1), random((COLUMNS,), 2)
    mean = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return [x, g, w, mean, rstd][:count]


def program(name: str) -> dict[str, Run]:
    """One of PROGRAMS, compiled."""
    fn, count = PROGRAMS[name]
    tensors = [plait.tensor(array) for array in arguments(count)]
    function, _ = compiled("plait", fn, *tensors)
    return {"plait": lambda: function(*tensors)}


# ---------------------------------------------------------------- PyTorch


def torch_adamw(torch: Any, inductor: bool) -> dict[str, Run]:
    """torch.optim.AdamW's two fast forms, and a functional update compiled."""
    runs: dict[str, Run] = {}
    for kind in ("foreach", "fused"):
        params = [torch.nn.Parameter(torch.from_numpy(random(s))) for s in shapes()]
        for p, s in zip(params, shapes(), strict=True):
            p.grad = torch.from_numpy(random(s, 1))
        settings: dict[str, Any] = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
        runs[f"torch {kind}"] = torch.optim.AdamW(params, **settings, **{kind: True}).step
    if inductor:
        params = [torch.from_numpy(random(s)) for s in shapes()]
        grads = [torch.from_numpy(random(s, 1)) for s in shapes()]
        means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
        update = torch.compile(torch_update)
        steps = torch.ones(())
        start = time.perf_counter()
        update(params, grads, means, squares, steps)
        print(f"  inductor: first call {(time.perf_counter() - start) * 1e3:.0f} ms")
        runs["inductor, functional"] = lambda: update(params, grads, means, squares, steps)
    return runs


def torch_update(params: Any, grads: Any, means: Any, squares: Any, step: Any) -> Any:
    """The same update as plait.optim.AdamW's, in PyTorch's operators."""
    first, second = 1 - BETAS[0] ** step, (1 - BETAS[1] ** step).sqrt()
    found = []
    for p, g, m, v in zip(params, grads, means, squares, strict=True):
        m, v = m * BETAS[0] + g * (1 - BETAS[0]), v * BETAS[1] + g * g * (1 - BETAS[1])
        found.append((p * (1 - LR * DECAY) - m / (v.sqrt() / second + EPS) * (LR / first), m, v))
    return found, step + 1


def torch_program(torch: Any, name: str, inductor: bool) -> dict[str, Run]:
    """One of PROGRAMS by PyTorch."""
    fn, count = PROGRAMS[name]
    tensors = [torch.from_numpy(array) for array in arguments(count)]
    runs: dict[str, Run] = {"torch eager": lambda: fn(*tensors)}
    if name == "layer norm backward":
        x, g, w, mean, rstd = tensors
        native = torch.ops.aten.native_layer_norm_backward
        mask = [True, True, True]
        runs["torch's own kernel"] = lambda: native(g, x, [COLUMNS], mean, rstd, w, w, mask)
    if inductor:
        function = torch.compile(fn)
        start = time.perf_counter()
        function(*tensors)
        print(f"  inductor: first call {(time.perf_counter() - start) * 1e3:.0f} ms")
        runs["inductor"] = lambda: function(*tensors)
    return runs


def optional_torch() -> Any:
    """PyTorch, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def main() -> None:
    numbers = [float(a) for a in sys.argv[1:] if not a.startswith("-")]
    seconds, inductor = numbers[0] if numbers else 1.0, "--inductor" in sys.argv
    torch = optional_torch()
    for name in (f"AdamW, {TENSORS} tensors", *PROGRAMS):
        print(name)
        systems = program(name) if name in PROGRAMS else adamw()
        if torch is not None:
            more = (
                torch_program(torch, name, inductor)
                if name in PROGRAMS
                else torch_adamw(torch, inductor)
            )
            systems |= more
        for threads in (1, 2):
            pool.set_num_threads(threads)
            if torch is not None:
                torch.set_num_threads(threads)
            found = in_turns(systems, seconds)
            line = ", ".join(f"{who} {us:.0f}" for who, us in found.items())
            print(f"  {threads} thread(s), us: {line}")


if __name__ == "__main__":
    main()
