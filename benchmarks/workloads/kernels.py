"""Kernels over 2048 x 1024 float32 values: a pointwise chain, softmax, layer norm + GELU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "check", "prepare"]

ROWS, COLUMNS = 2048, 1024
UNIT = "ms"


def pointwise(ns: Any, x: Any, y: Any, _: Any) -> Any:
    """Seven operators, one of them a transcendental."""
    return ns.relu((x * y + y) * 0.5 - x) * ns.sigmoid(x) + y


def softmax(ns: Any, x: Any, _: Any, __: Any) -> Any:
    return ns.softmax(x, -1)


def layer_norm_gelu(ns: Any, x: Any, w: Any, b: Any) -> Any:
    functional = ns.nn.functional
    return functional.gelu(functional.layer_norm(x, (COLUMNS,), w, b))


WORKS = {"pointwise chain": pointwise, "softmax": softmax, "layer norm + GELU": layer_norm_gelu}


def arrays(work: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    second = draw(ROWS, COLUMNS) if work == "pointwise chain" else draw(COLUMNS)
    return [draw(ROWS, COLUMNS), second, draw(COLUMNS)]


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call of the work on the system, ready to be timed."""
    body, ns = WORKS[work], system.ns
    compiled = system.compile(lambda x, y, z: body(ns, x, y, z))
    x, y, z = (system.tensor(a) for a in arrays(work))
    return lambda: compiled(x, y, z)


def check(system: System, work: str) -> float:
    """Largest difference from float64 NumPy, inf where NaN or infinities come out differently."""
    body, ns = WORKS[work], system.ns
    inputs = arrays(work)
    inputs[0][0, 0], inputs[0][1, 1], inputs[0][2, 2] = np.nan, np.inf, -np.inf
    got = system.compile(lambda x, y, z: body(ns, x, y, z))(*(system.tensor(a) for a in inputs))
    got = system.array(got).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = REFERENCES[work](*(a.astype(np.float64) for a in inputs))
    if not np.array_equal(np.isnan(got), np.isnan(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite & ~np.isnan(got)], expected[~finite & ~np.isnan(expected)]):
        return float("inf")
    return float(np.abs(got[finite] - expected[finite]).max())


def _pointwise(x: Any, y: Any, _: Any) -> Any:
    return np.maximum((x * y + y) * 0.5 - x, 0) * (1 / (1 + np.exp(-x))) + y


def _softmax(x: Any, _: Any, __: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _layer_norm_gelu(x: Any, w: Any, b: Any) -> Any:
    from math import erf

    centred = x - x.mean(-1, keepdims=True)
    z = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b
    return z * 0.5 * (1 + np.vectorize(erf)(z / np.sqrt(2)))


REFERENCES = {
    "pointwise chain": _pointwise,
    "softmax": _softmax,
    "layer norm + GELU": _layer_norm_gelu,
}
