"""A linear layer with GELU, summed, and its three gradients: products with what follows them.

    loss = gelu(x @ w + b).sum(), with the gradients for x, w and b, all float32

`gelu_grads_*` asks each system for loss and gradients at once, as one compiled program where it has
one; `gelu_backward_*` is the eager-style form, `loss = f(x, w, b); loss.backward()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "check", "prepare"]

UNIT = "us"
SMALL, LARGE = (8, 16, 32), (128, 256, 512)
WORKS = {
    "gelu_grads_small": SMALL,
    "gelu_grads_large": LARGE,
    "gelu_backward_small": SMALL,
    "gelu_backward_large": LARGE,
}
HALF_SQRT, DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def arrays(work: str) -> list[np.ndarray[Any, Any]]:
    """x, w, b."""
    rows, inner, columns = WORKS[work]
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    return [draw(rows, inner), draw(inner, columns) / 16, draw(columns)]


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call that gives (loss, dx, dw, db), ready to be timed."""
    if system.package == "numba":
        return numba_call(system, arrays(work))
    if system.package == "onnxruntime":
        return onnx_call(system, arrays(work))
    if system.package == "jax":
        return jax_call(system, arrays(work))
    make = backward_call if "backward" in work else functional_call
    return make(system, arrays(work))


def loss_of(ns: Any, x: Any, w: Any, b: Any) -> Any:
    return ns.nn.functional.gelu(x @ w + b).sum()


def functional_call(system: System, inputs: list[Any]) -> Callable[[], Any]:
    """Loss and gradients as one function, compiled whole."""
    ns = system.ns
    body = lambda x, w, b: loss_of(ns, x, w, b)
    if system.package == "torch":
        joint = ns.func.grad_and_value(body, argnums=(0, 1, 2))
        program = lambda x, w, b: joint(x, w, b)[::-1]
    else:
        program = lambda x, w, b: ns.func.value_and_grad(body, argnums=(0, 1, 2))(x, w, b)
    compiled = system.compile(program)
    tensors = [system.tensor(a) for a in inputs]

    def call() -> Any:
        loss, grads = compiled(*tensors)
        return (loss, *grads)

    return call


def backward_call(system: System, inputs: list[Any]) -> Callable[[], Any]:
    """The forward is compiled, the gradients come by `backward()`."""
    compiled = system.compile(lambda x, w, b: loss_of(system.ns, x, w, b))
    x, w, b = (system.tensor(a, requires_grad=True) for a in inputs)

    def call() -> Any:
        x.grad = w.grad = b.grad = None
        loss = compiled(x, w, b)
        loss.backward()
        return loss, x.grad, w.grad, b.grad

    return call


def jax_call(system: System, inputs: list[Any]) -> Callable[[], Any]:
    from benchmarks.jax_names import value_and_grad

    compiled = system.compile(
        value_and_grad(lambda x, w, b: loss_of(system.ns, x, w, b), argnums=(0, 1, 2))
    )
    tensors = [system.tensor(a) for a in inputs]

    def call() -> Any:
        loss, grads = compiled(*tensors)
        return (loss, *grads)

    return call


def numba_call(system: System, inputs: list[Any]) -> Callable[[], Any]:
    """Forward and backward by hand: one loop between the products."""
    single = np.float32
    erf, exp = math.erf, math.exp

    def program(x: Any, w: Any, b: Any) -> Any:
        y = np.dot(x, w)
        slope, total, db = np.empty_like(y), 0.0, np.zeros_like(b)
        for i in range(y.shape[0]):
            for j in range(y.shape[1]):
                z = y[i, j] + b[j]
                phi = single(0.5) + single(0.5) * single(erf(z * single(HALF_SQRT)))
                total += z * phi
                slope[i, j] = phi + z * single(exp(single(-0.5) * z * z)) * single(DENSITY)
                db[j] += slope[i, j]
        return total, np.dot(slope, w.T), np.dot(x.T, slope), db

    compiled = system.ns.njit(program, fastmath=True)
    return lambda: compiled(*inputs)


def onnx_call(system: System, inputs: list[Any]) -> Callable[[], Any]:
    session = system.session(onnx_model([a.shape for a in inputs]))  # type: ignore[attr-defined]
    feed = dict(zip("xwb", inputs))
    return lambda: session.run(None, feed)


def onnx_model(shapes: list[tuple[int, ...]]) -> bytes:
    """Forward and backward as one ONNX graph."""
    from onnx import TensorProto, helper, numpy_helper

    (rows, inner), (_, columns), _ = shapes
    numbers = {"half": 0.5, "minus_half": -0.5, "scale": HALF_SQRT, "density": DENSITY}
    constants = [numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items()]
    constants.append(numpy_helper.from_array(np.array([0]), "first"))
    steps = [
        ("Gemm", "x w b", "z"),
        ("Mul", "z scale", "scaled"),
        ("Erf", "scaled", "erf"),
        ("Mul", "erf half", "half_erf"),
        ("Add", "half_erf half", "phi"),
        ("Mul", "z phi", "gelu"),
        ("ReduceSum", "gelu", "loss"),
        ("Mul", "z z", "square"),
        ("Mul", "square minus_half", "exponent"),
        ("Exp", "exponent", "exp"),
        ("Mul", "exp density", "normal"),
        ("Mul", "z normal", "z_normal"),
        ("Add", "phi z_normal", "slope"),
        ("Gemm", "slope w", "dx"),
        ("Gemm", "x slope", "dw"),
        ("ReduceSum", "slope first", "db"),
    ]
    options: dict[str, dict[str, int]] = {
        "loss": {"keepdims": 0}, "db": {"keepdims": 0}, "dx": {"transB": 1}, "dw": {"transA": 1},
    }  # fmt: skip
    nodes = [
        helper.make_node(op, args.split(), [out], **options.get(out, {})) for op, args, out in steps
    ]
    sizes = {"x": shapes[0], "w": shapes[1], "b": shapes[2]}
    results = {"loss": (), "dx": (rows, inner), "dw": (inner, columns), "db": (columns,)}
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in group.items()]
        for group in (sizes, results)
    ]
    graph = helper.make_graph(nodes, "gelu", *values, initializer=constants)
    opset = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return model


def check(system: System, work: str) -> float:
    """Largest difference of loss and gradients from float64 NumPy, relative to their size."""
    got = [system.array(t).astype(np.float64) for t in prepare(system, work)()]
    x, w, b = (a.astype(np.float64) for a in arrays(work))
    z = x @ w + b
    phi = 0.5 + 0.5 * np.vectorize(math.erf)(z * HALF_SQRT)
    slope = phi + z * np.exp(-0.5 * z * z) * DENSITY
    expected = [(z * phi).sum(), slope @ w.T, x.T @ slope, slope.sum(0)]
    return max(
        float(np.abs(g.reshape(np.shape(e)) - e).max() / max(1.0, np.abs(e).max()))
        for g, e in zip(got, expected)
    )
