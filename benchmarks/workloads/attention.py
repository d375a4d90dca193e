"""Scaled dot product attention by itself, float32: forward, and forward with three gradients.

Heads come as views of a projection's result, as they do in models. `attention_512` is 4 sequences
of 512 positions in 8 heads of 64 numbers, `attention_2048` one sequence of 2048; `causal` hides
what is still to come. JAX has no such operator under a shared name and is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "check", "prepare"]

UNIT = "us"


class Work(NamedTuple):
    """One setting of attention: sizes, causal or not, with gradients or without."""

    batch: int
    heads: int
    length: int
    width: int
    is_causal: bool
    with_gradients: bool


SIZES = {"attention_512": (4, 8, 512, 64), "attention_2048": (1, 8, 2048, 64)}
WORKS = {
    name + "_causal" * causal + "_grads" * grads: Work(*sizes, causal, grads)
    for name, sizes in SIZES.items()
    for causal in (False, True)
    for grads in (False, True)
}


def arrays(work: Work) -> list[np.ndarray[Any, Any]]:
    """Projections [batch, length, heads * width] for query, key, value; the result's gradient."""
    rng = np.random.default_rng(0)
    shape = (work.batch, work.length, work.heads * work.width)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(4)]


def attention(ns: Any, work: Work) -> Callable[..., Any]:
    """(query, key, value) -> out, each [batch, length, heads * width]."""
    shape = (work.batch, work.length, work.heads, work.width)

    def run(*projected: Any) -> Any:
        q, k, v = (x.reshape(*shape).transpose(1, 2) for x in projected)
        attend = ns.nn.functional.scaled_dot_product_attention
        out = attend(q, k, v, is_causal=work.is_causal)
        return out.transpose(1, 2).reshape(work.batch, work.length, work.heads * work.width)

    return run


def prepare(system: System, name: str) -> Callable[[], Any]:
    """A call of the work on the system, ready to be timed."""
    work = WORKS[name]
    compiled = system.compile(attention(system.ns, work))
    *inputs, grad = arrays(work)
    tensors = [system.tensor(a, requires_grad=work.with_gradients) for a in inputs]
    if not work.with_gradients:
        return lambda: compiled(*tensors)
    seed = system.tensor(grad)

    def step() -> Any:
        for tensor in tensors:
            tensor.grad = None
        compiled(*tensors).backward(seed)
        return [tensor.grad for tensor in tensors]

    return step


def check(system: System, name: str) -> float:
    """Largest difference from float64 NumPy, relative to the largest element."""
    work = WORKS[name]
    got = prepare(system, name)()
    results = got if work.with_gradients else [got]
    expected = numpy_gradients(work) if work.with_gradients else [numpy_forward(work)["out"]]
    return max(
        float(np.abs(system.array(a) - joined(b)).max() / np.abs(b).max())
        for a, b in zip(results, expected, strict=True)
    )


def joined(x: Any) -> Any:
    """[batch, heads, length, width] -> [batch, length, heads * width]."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch, length, heads * width)


def numpy_forward(work: Work) -> dict[str, Any]:
    """Heads of the inputs, weights and result in float64."""
    shape = (work.batch, work.length, work.heads, work.width)
    heads = [a.astype(np.float64).reshape(shape).swapaxes(1, 2) for a in arrays(work)]
    found = dict(zip(("q", "k", "v", "grad"), heads))
    scores = found["q"] @ found["k"].swapaxes(2, 3) / work.width**0.5
    if work.is_causal:
        scores += np.triu(np.full((work.length, work.length), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    found["p"] = weights / weights.sum(-1, keepdims=True)
    found["out"] = found["p"] @ found["v"]
    return found


def numpy_gradients(work: Work) -> list[Any]:
    """Gradients of query, key and value."""
    v = numpy_forward(work)
    slopes = v["grad"] @ v["v"].swapaxes(2, 3)
    slopes = v["p"] * (slopes - (slopes * v["p"]).sum(-1, keepdims=True)) / work.width**0.5
    by_key = slopes.swapaxes(2, 3)
    return [slopes @ v["k"], by_key @ v["q"], v["p"].swapaxes(2, 3) @ v["grad"]]
