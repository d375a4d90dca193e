"""A small GPT's forward pass: 2 layers, 128 wide, attention by its parts. What the starts compile.

A function of a dictionary of weights, so that it runs on plait and PyTorch as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["check", "prepare"]

WIDTH, LAYERS, HEADS, WORDS, LENGTH, BATCH = 128, 2, 4, 256, 64, 2
Weights = dict[str, Any]


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    found = {"words": matrix(WORDS, WIDTH), "places": matrix(LENGTH, WIDTH)}
    shapes = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH)}
    shapes |= {"up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            found[f"{layer}.{name}"] = matrix(*shape)
            found[f"{layer}.{name}.bias"] = matrix(shape[0])
    for norm in [f"{layer}.norm{k}" for layer in range(LAYERS) for k in (1, 2)] + ["norm"]:
        found[norm], found[f"{norm}.bias"] = 1 + matrix(WIDTH), matrix(WIDTH)
    found["head"], found["head.bias"] = matrix(WORDS, WIDTH), matrix(WORDS)
    return found


def _inputs() -> tuple[np.ndarray[Any, Any], ...]:
    ids = np.random.default_rng(1).integers(0, WORDS, (BATCH, LENGTH))
    mask = np.triu(np.full((LENGTH, LENGTH), -1e9, np.float32), 1)
    return ids, np.arange(LENGTH), mask


def forward(ns: Any) -> Callable[..., Any]:
    """(weights, ids, places, mask) -> logits, in the operators of `ns`."""
    F = ns.nn.functional

    def linear(w: Weights, name: str, x: Any) -> Any:
        return F.linear(x, w[name], w[f"{name}.bias"])

    def norm(w: Weights, name: str, x: Any) -> Any:
        return F.layer_norm(x, (WIDTH,), w[name], w[f"{name}.bias"])

    def heads(x: Any) -> Any:
        return x.reshape(BATCH, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)

    def attention(w: Weights, layer: int, x: Any, mask: Any) -> Any:
        q, k, v = (heads(linear(w, f"{layer}.{name}", x)) for name in "qkv")
        scores = q @ k.transpose(2, 3) * (1 / math.sqrt(WIDTH // HEADS)) + mask
        mixed = ns.softmax(scores, -1) @ v
        return linear(w, f"{layer}.o", mixed.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))

    def run(w: Weights, ids: Any, places: Any, mask: Any) -> Any:
        x = ns.embedding(w["words"], ids) + ns.embedding(w["places"], places)
        for layer in range(LAYERS):
            x = x + attention(w, layer, norm(w, f"{layer}.norm1", x), mask)
            hidden = F.gelu(linear(w, f"{layer}.up", norm(w, f"{layer}.norm2", x)))
            x = x + linear(w, f"{layer}.down", hidden)
        return linear(w, "head", norm(w, "norm", x))

    return run


def _tensors(system: System) -> tuple[Any, ...]:
    weights = {name: system.tensor(array) for name, array in _weights().items()}
    return weights, *map(system.tensor, _inputs())


def prepare(system: System) -> Callable[[], Any]:
    """The compiled forward pass on its inputs; nothing is compiled before the first call."""
    arguments = _tensors(system)
    function = system.compile(forward(system.ns))
    return lambda: function(*arguments)


def check(system: System, found: Any) -> float:
    """The largest difference from the same operators run one by one."""
    expected = forward(system.ns)(*_tensors(system))
    return float(np.abs(system.array(found) - system.array(expected)).max())
