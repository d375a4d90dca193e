"""A transformer block, forward and training step, and AdamW over many small tensors. All float32.

The block is the usual one: layer norm, causal attention of 4 heads, residual, layer norm, two
linear layers with GELU between, residual; 8 sequences of 128 positions, 256 wide. Its training step
is loss = mean of squares of the result, gradients, and plain gradient descent. AdamW updates 200
tensors of 64 x 32 from given gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "check", "prepare"]

UNIT = "us"
BATCH, LENGTH, WIDTH, HEADS = 8, 128, 256, 4
TENSORS, SHAPE = 200, (64, 32)
RATE = 0.01
STEPS = 3
WORKS = {
    "transformer_block_forward": "forward",
    "transformer_block_step": "step",
    "adamw_200_tensors": "adamw",
}
Arrays = dict[str, np.ndarray[Any, Any]]


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call of the work on the system; steps go on from the parameters of the one before."""
    if WORKS[work] == "adamw":
        return ADAMW[system.package](system)
    make = FORWARD if WORKS[work] == "forward" else STEP
    return make.get(system.package, shared_forward)(system)


# The block ---------------------------------------------------------------------------------------


def block_arrays() -> tuple[Arrays, np.ndarray[Any, Any]]:
    """Weights by name, and the input."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: (rng.standard_normal(shape) * 0.06).astype(np.float32)
    shapes = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH)}
    shapes |= {"up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}
    weights = {name: draw(*shape) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": draw(shape[0]) for name, shape in shapes.items()}
    for norm in ("first", "second"):
        weights[norm], weights[f"{norm}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    return weights, rng.standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)


def mask_array() -> np.ndarray[Any, Any]:
    """What is added to the scores: nothing, or minus infinity where a position is still to come."""
    return np.triu(np.full((LENGTH, LENGTH), -np.inf, np.float32), 1)


def block(ns: Any, w: Any, x: Any, mask: Any) -> Any:
    """The block in the operators of `ns`; fused attention where it has that."""
    functional = ns.nn.functional
    batch, length, width = x.shape
    linear = lambda name, x: functional.linear(x, w[name], w[f"{name}.bias"])
    norm = lambda name, x: functional.layer_norm(x, (width,), w[name], w[f"{name}.bias"])

    def swap(x: Any, first: int, second: int) -> Any:
        """JAX has it under NumPy's name only, plait under PyTorch's."""
        return getattr(x, "swapaxes", x.transpose)(first, second)

    def heads(x: Any) -> Any:
        return swap(x.reshape(batch, length, HEADS, width // HEADS), 1, 2)

    joint = linear("qkv", norm("first", x))
    q, k, v = (heads(joint[..., i * width : (i + 1) * width]) for i in range(3))
    fused = getattr(functional, "scaled_dot_product_attention", None)
    if fused is not None:
        mixed = fused(q, k, v, is_causal=True)
    else:
        scores = q @ swap(k, 2, 3) * (1 / math.sqrt(width // HEADS)) + mask
        mixed = ns.softmax(scores, -1) @ v
    x = x + linear("out", swap(mixed, 1, 2).reshape(batch, length, width))
    return x + linear("down", functional.gelu(linear("up", norm("second", x))))


def loss_of(ns: Any, w: Any, x: Any, mask: Any) -> Any:
    return (block(ns, w, x, mask) ** 2).mean()


def block_tensors(system: System, requires_grad: bool = False) -> tuple[dict[str, Any], Any, Any]:
    weights, x = block_arrays()
    owned = {name: system.tensor(a, requires_grad=requires_grad) for name, a in weights.items()}
    return owned, system.tensor(x), system.tensor(mask_array())


def shared_forward(system: System) -> Callable[[], Any]:
    compiled = system.compile(lambda w, x, mask: block(system.ns, w, x, mask))
    w, x, mask = block_tensors(system)
    return lambda: compiled(w, x, mask)


def torch_forward(system: System) -> Callable[[], Any]:
    call = shared_forward(system)

    def without_tape() -> Any:
        with system.ns.no_grad():
            return call()

    return without_tape


def descended(system: System, value_and_grad: Callable[..., Any]) -> Callable[[], Any]:
    """The step as one function from weights to (loss, new weights)."""

    def program(w: Any, x: Any, mask: Any) -> Any:
        loss, grads = value_and_grad(lambda w: loss_of(system.ns, w, x, mask))(w)
        return loss, {name: p - grads[name] * RATE for name, p in w.items()}

    compiled = system.compile(program)
    w, x, mask = block_tensors(system)

    def step() -> Any:
        nonlocal w
        loss, w = compiled(w, x, mask)
        return loss

    return step


def eager_step(system: System) -> Callable[[], Any]:
    """backward() and an update in place."""
    w, x, mask = block_tensors(system, requires_grad=True)
    compiled = system.compile(lambda w, x, mask: loss_of(system.ns, w, x, mask))

    def step() -> Any:
        loss = compiled(w, x, mask)
        loss.backward()
        with system.ns.no_grad():
            for p in w.values():
                p -= p.grad * RATE
                p.grad = None
        return loss

    return step


def plait_step(system: System) -> Callable[[], Any]:
    if not system.is_compiled:
        return eager_step(system)
    return descended(system, system.ns.func.value_and_grad)


def jax_step(system: System) -> Callable[[], Any]:
    from benchmarks.jax_names import value_and_grad

    return descended(system, value_and_grad)


# PyTorch compiles the step as people write it: a forward, a backward, an update in place.
FORWARD = {"torch": torch_forward}
STEP = {"plait": plait_step, "torch": eager_step, "jax": jax_step}

# AdamW -------------------------------------------------------------------------------------------


def adamw_arrays() -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """Parameters and gradients."""
    rng = np.random.default_rng(0)
    draw = lambda: [rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(TENSORS)]
    return draw(), draw()


def adamw_tensors(system: System) -> tuple[list[Any], list[Any]]:
    params, grads = adamw_arrays()
    return [system.tensor(p) for p in params], [system.tensor(g) for g in grads]


def plait_adamw(system: System) -> Callable[[], Any]:
    optimizer = system.ns.optim.AdamW(lr=RATE)
    params, grads = adamw_tensors(system)
    state = optimizer.init(params)
    compiled = system.compile(lambda p, g, s: optimizer.update(p, g, s))

    def step() -> Any:
        nonlocal params, state
        params, state = compiled(params, grads, state)
        return params[0]

    return step


def torch_adamw(system: System) -> Callable[[], Any]:
    torch = system.ns
    params, grads = adamw_tensors(system)
    for p, g in zip(params, grads):
        p.grad = g
    optimizer = torch.optim.AdamW(params, lr=RATE)
    update = optimizer.step
    if system.is_compiled:
        update = torch.compile(lambda: optimizer.step())

    def step() -> Any:
        update()
        return params[0]

    return step


def jax_adamw(system: System) -> Callable[[], Any]:
    from benchmarks.jax_names import adamw

    params, grads = adamw_tensors(system)
    state = ([p * 0 for p in params], [p * 0 for p in params], 0)
    compiled = system.compile(lambda p, g, s: adamw(p, g, s, RATE))

    def step() -> Any:
        nonlocal params, state
        params, state = compiled(params, grads, state)
        return params[0]

    return step


ADAMW = {"plait": plait_adamw, "torch": torch_adamw, "jax": jax_adamw}

# Checks ------------------------------------------------------------------------------------------


def check(system: System, work: str) -> float:
    """Largest difference from float64 NumPy, relative; of the loss after a few steps."""
    call = prepare(system, work)
    kind = WORKS[work]
    count = 1 if kind == "forward" else STEPS
    for _ in range(count - 1):
        call()
    got = system.array(call()).astype(np.float64)
    if kind == "forward":
        weights = {name: a.astype(np.float64) for name, a in block_arrays()[0].items()}
        expected = numpy_forward(weights)["out"]
    elif kind == "adamw":
        expected = numpy_adamw(count)
    else:
        return loss_difference(float(got))
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def loss_difference(got: float) -> float:
    """Relative difference of the loss after STEPS steps."""
    weights = {name: a.astype(np.float64) for name, a in block_arrays()[0].items()}
    expected = 0.0
    for _ in range(STEPS):
        expected, grads = numpy_gradients(weights)
        weights = {name: p - RATE * grads[name] for name, p in weights.items()}
    return abs(got - expected) / abs(expected)


def numpy_norm(x: Any, w: Any, b: Any) -> tuple[Any, Any, Any]:
    """(result, normalised, reciprocal deviation)."""
    scale = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    flat = (x - x.mean(-1, keepdims=True)) * scale
    return flat * w + b, flat, scale


def numpy_forward(w: Arrays) -> dict[str, Any]:
    """Every value that the derivatives need, by name."""
    x = block_arrays()[1].astype(np.float64)
    split = lambda t: t.reshape(BATCH, LENGTH, HEADS, -1).swapaxes(1, 2)
    v: dict[str, Any] = {"x": x}
    v["a"], v["a_flat"], v["a_scale"] = numpy_norm(x, w["first"], w["first.bias"])
    joint = np.split(v["a"] @ w["qkv"].T + w["qkv.bias"], 3, axis=-1)
    v["q"], v["k"], v["v"] = map(split, joint)
    scores = v["q"] @ v["k"].swapaxes(2, 3) / math.sqrt(WIDTH // HEADS) + mask_array()
    e = np.exp(scores - scores.max(-1, keepdims=True))
    v["p"] = e / e.sum(-1, keepdims=True)
    v["mixed"] = (v["p"] @ v["v"]).swapaxes(1, 2).reshape(x.shape)
    v["y"] = x + v["mixed"] @ w["out"].T + w["out.bias"]
    v["c"], v["c_flat"], v["c_scale"] = numpy_norm(v["y"], w["second"], w["second.bias"])
    v["u"] = v["c"] @ w["up"].T + w["up.bias"]
    v["phi"] = 0.5 + 0.5 * np.vectorize(math.erf)(v["u"] * math.sqrt(0.5))
    v["h"] = v["u"] * v["phi"]
    v["out"] = v["y"] + v["h"] @ w["down"].T + w["down.bias"]
    return v


def numpy_gradients(w: Arrays) -> tuple[float, Arrays]:
    """The loss, and its gradient for each weight."""
    v, grads = numpy_forward(w), {}
    g = 2 * v["out"] / v["out"].size

    def linear(name: str, g: Any, x: Any) -> Any:
        grads[name] = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        grads[f"{name}.bias"] = g.reshape(-1, g.shape[-1]).sum(0)
        return g @ w[name]

    def norm(name: str, g: Any, flat: Any, scale: Any) -> Any:
        grads[name], grads[f"{name}.bias"] = (g * flat).sum((0, 1)), g.sum((0, 1))
        g = g * w[name]
        return scale * (g - g.mean(-1, keepdims=True) - flat * (g * flat).mean(-1, keepdims=True))

    density = np.exp(-0.5 * v["u"] ** 2) / math.sqrt(2 * math.pi)
    gu = linear("down", g, v["h"]) * (v["phi"] + v["u"] * density)
    gy = g + norm("second", linear("up", gu, v["c"]), v["c_flat"], v["c_scale"])
    mixed = linear("out", gy, v["mixed"]).reshape(BATCH, LENGTH, HEADS, -1).swapaxes(1, 2)
    gp = mixed @ v["v"].swapaxes(2, 3)
    gs = v["p"] * (gp - (gp * v["p"]).sum(-1, keepdims=True)) / math.sqrt(WIDTH // HEADS)
    parts = gs @ v["k"], gs.swapaxes(2, 3) @ v["q"], v["p"].swapaxes(2, 3) @ mixed
    joint = [t.swapaxes(1, 2).reshape(BATCH, LENGTH, WIDTH) for t in parts]
    ga = linear("qkv", np.concatenate(joint, -1), v["a"])
    norm("first", ga, v["a_flat"], v["a_scale"])
    return float((v["out"] ** 2).mean()), grads


def numpy_adamw(steps: int) -> np.ndarray[Any, Any]:
    """The first parameter after some steps."""
    params, grads = adamw_arrays()
    p, g = params[0].astype(np.float64), grads[0].astype(np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step in range(1, steps + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = np.sqrt(v / (1 - 0.999**step)) + 1e-8
        p = p * (1 - RATE * 0.01) - RATE * m / (1 - 0.9**step) / root
    return p
