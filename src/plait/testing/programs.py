"""Sample programs: what every compile must survive, each run eagerly and compiled.

A program is a function of tensors and the inputs to call it with. Expected values are made by
running it eagerly, never typed in. ``check_program`` compares outputs, gradients, aliasing and the
inputs after the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import optree

import plait
from plait.tensor.tensor import Tensor

__all__ = ["PROGRAMS", "Program", "check_program", "program"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Program:
    """One sample program; ``inputs(rows)`` makes fresh arguments whose leading size is ``rows``."""

    name: str
    fn: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]]
    tolerance: float = 1e-5


PROGRAMS: list[Program] = []


def program(
    *shapes: Any, grad: str = "all", seed: int = 0, tolerance: float = 1e-5
) -> Callable[[F], F]:
    """Register the decorated function; a shape holds "n" where the leading size goes.

    ``grad`` is "all", "none", or the positions of the arguments that require grad ("02").
    """

    def register(fn: F) -> F:
        def inputs(rows: int) -> tuple[Any, ...]:
            rng = np.random.default_rng(seed)
            made = []
            for i, shape in enumerate(shapes):
                if not isinstance(shape, tuple):
                    made.append(shape)
                    continue
                data = rng.standard_normal([rows if s == "n" else s for s in shape]).astype(
                    np.float32
                )
                t = plait.tensor(data)
                if grad == "all" or str(i) in grad:
                    t.requires_grad_(True)
                made.append(t)
            return tuple(made)

        PROGRAMS.append(Program(fn.__name__, fn, inputs, tolerance))
        return fn

    return register


# --- pointwise, reductions, products --------------------------------------------------------------


@program(("n", 8), (8, 5), (5,))
def relu_linear_sum(x: Any, w: Any, b: Any) -> Any:
    return plait.relu(x @ w + b).sum()


@program(("n", 7), ("n", 7))
def pointwise_chain(x: Any, y: Any) -> Any:
    return (x * y + x.sin() * 2.0 - (y * y + 1.0).log()).tanh() / (1.0 + x.exp())


@program(("n", 6), (6,), ("n", 1))
def broadcasting(x: Any, row: Any, column: Any) -> Any:
    return x * row + column / 3.0


@program(("n", 33))
def softmax_rows(x: Any) -> Any:
    return plait.softmax(x, -1)


@program(("n", 9), grad="none")
def argmax_and_count(x: Any) -> Any:
    return x.argmax(1), (x > 0).sum()


@program(("n", 16), (16,), (16,))
def layer_norm_gelu(x: Any, w: Any, b: Any) -> Any:
    return plait.gelu(plait.layer_norm(x, (16,), w, b))


@program(("n", 12))
def variance_and_mean(x: Any) -> Any:
    return x.var(1), x.mean(0), x.sum(), x.amax(1)


@program(("n", 6), (6, 4))
def two_outputs_share_work(x: Any, w: Any) -> Any:
    y = (x @ w).exp()
    return y.sum(0), y.mean(1)


@program(("n", 3, 4), ("n", 4, 5))
def batched_product(x: Any, y: Any) -> Any:
    return x.matmul(y).relu()


@program(("n", 6))
def product_with_itself_transposed(x: Any) -> Any:
    return x.t() @ x


@program(("n", 8), (8, 5), grad="1")
def only_weights_need_grad(x: Any, w: Any) -> Any:
    return (x @ w).sigmoid().mean()


@program(("n", 4), ("n", 4))
def where_and_comparison(x: Any, y: Any) -> Any:
    return plait.where(x > y, x * 2.0, y - 1.0)


# --- views ----------------------------------------------------------------------------------------


@program(("n", 4, 6))
def transposes_and_reshapes(x: Any) -> Any:
    return (x.permute(2, 0, 1) * 2.0).reshape(6, -1).t().contiguous()


@program(("n", 8))
def slices(x: Any) -> Any:
    return x[:, 2:6] * x[:, :4] + x[:, 7].unsqueeze(1)


@program((5, 8))
def every_other(x: Any) -> Any:
    return x[::2, 1::3].exp().sum(1)


@program(("n", 6))
def concatenated(x: Any) -> Any:
    return plait.cat([x * 2.0, x.sin()], 1).sum(1)


@program(("n", 3))
def stacked(x: Any) -> Any:
    return plait.stack([x, x * x], 0).sum()


@program(("n", 6))
def split_parts(x: Any) -> Any:
    a, b = x.split(3, 1)
    return a * b


@program((1, 6), ("n", 6))
def expanded(x: Any, y: Any) -> Any:
    return (x.expand(y.shape[0], 6) * y).sum(0)


# --- outputs that alias ---------------------------------------------------------------------------


@program(("n", 4))
def output_is_input(x: Any) -> Any:
    return x, x * 2.0


@program(("n", 4))
def output_views_input(x: Any) -> Any:
    return x.view(-1), x.t()


@program(("n", 4))
def lone_view_of_intermediate(x: Any) -> Any:
    return (x * 2.0).view(-1)


@program(("n", 4))
def output_repeats_elements(x: Any) -> Any:
    return (x * 2.0)[1:2].expand(3, 4)


@program(("n", 8))
def output_has_gaps(x: Any) -> Any:
    return x.sin()[1:, ::2].t()


@program(("n", 4))
def two_views_of_one_intermediate(x: Any) -> Any:
    y = x * 2.0
    return y.view(-1), y.t()


@program(("n", 4))
def view_and_its_base(x: Any) -> Any:
    y = x.sin()
    return y, y[1:]


@program(("n", 4))
def base_after_its_view(x: Any) -> Any:
    y = x.sin()
    return y[1:], y


@program(("n", 4))
def same_output_twice(x: Any) -> Any:
    y = x * 3.0
    return y, y


@program(("n", 4))
def detached_beside(x: Any) -> Any:
    y = x * 3.0
    return y, y.detach()


# --- mutation -------------------------------------------------------------------------------------


@program(("n", 4), ("n", 4), grad="1")
def input_written(x: Any, y: Any) -> Any:
    x.add_(1.0)
    return x * y


@program(("n", 4), grad="none")
def written_input_returned(x: Any) -> Any:
    x.mul_(2.0)
    return x


@program(("n", 4), grad="none")
def view_of_written_input(x: Any) -> Any:
    x.add_(1.0)
    return x[1:]


@program(("n", 4), grad="none")
def write_through_a_view(x: Any) -> Any:
    x[:, 1].mul_(5.0)
    return x.sum(0)


@program(("n", 4))
def intermediate_written(x: Any) -> Any:
    y = x * 2.0
    y.add_(x)
    y[:, 0].zero_()
    return y


@program(("n", 4))
def intermediate_written_through_views(x: Any) -> Any:
    y = x * 3.0
    z = y.t()[1:3]
    z.mul_(x.t()[1:3])
    return y.sum(0), z.sum()


@program(("n", 4))
def written_under_no_grad(x: Any) -> Any:
    y = x * 2.0
    with plait.no_grad():
        x.add_(1.0)
    return y + x


# --- structure, constants, gradients inside -------------------------------------------------------


@program(("n", 4))
def nested_structure(x: Any) -> Any:
    return {"a": x + 1.0, "b": [x * 2.0, (3, None, "text")], "c": True}


@program(("n", 4), 2.5, grad="0")
def python_number(x: Any, factor: Any) -> Any:
    return x * factor


@program(("n", 4))
def integer_output(x: Any) -> Any:
    return x * 2.0, (x > 0).sum(1)


@program(("n", 4), ("n", 4))
def unused_input(x: Any, y: Any) -> Any:
    return x * 2.0


@program(("n", 4))
def part_without_grad(x: Any) -> Any:
    with plait.no_grad():
        y = x * 2.0
    return y * x


@program(("n", 4))
def gradient_inside(x: Any) -> Any:
    y = (x * x).sum()
    (g,) = plait.autograd.grad(y, [x], create_graph=True)
    return (g * x).sum()


@program((), ())
def zero_dimensional(x: Any, y: Any) -> Any:
    return x * y + x.exp()


@program((0, 4))
def empty(x: Any) -> Any:
    return (x * 2.0).sum(0), x + 1.0


def check_program(p: Program, compiled: Callable[..., Any], rows: int) -> None:
    """AssertionError unless ``compiled`` does what ``p.fn`` does eagerly, for fresh inputs."""
    expected_in, got_in = p.inputs(rows), p.inputs(rows)
    expected, got = p.fn(*expected_in), compiled(*got_in)
    _compare_trees(p, "output", expected, got)
    _compare_aliasing(p, (expected_in, expected), (got_in, got))
    for i, (a, b) in enumerate(zip(expected_in, got_in, strict=True)):
        if isinstance(a, Tensor):
            _compare(p, f"input {i} after the call", a, b)
    expected_grads, got_grads = _gradients(expected, expected_in), _gradients(got, got_in)
    for i, (g, h) in enumerate(zip(expected_grads, got_grads, strict=True)):
        assert (g is None) == (h is None), f"{p.name}: gradient {i}: eager {g}, compiled {h}"
        if g is not None:
            _compare(p, f"gradient {i}", g, h)


def _tensors(tree: Any) -> list[Any]:
    return [t for t in optree.tree_leaves(tree, none_is_leaf=True) if isinstance(t, Tensor)]


def _compare_trees(p: Program, what: str, expected: Any, got: Any) -> None:
    flat_e, spec_e = optree.tree_flatten(expected, none_is_leaf=True)
    flat_g, spec_g = optree.tree_flatten(got, none_is_leaf=True)
    assert spec_e == spec_g, f"{p.name}: {what}: structure {spec_g}, expected {spec_e}"
    for i, (a, b) in enumerate(zip(flat_e, flat_g, strict=True)):
        if isinstance(a, Tensor):
            assert a.requires_grad == b.requires_grad, (
                f"{p.name}: {what} {i}: requires_grad {b.requires_grad}"
            )
            _compare(p, f"{what} {i}", a, b)
            assert tuple(b.stride()) == tuple(a.stride()), (
                f"{p.name}: {what} {i}: strides {b.stride()}, expected {a.stride()}"
            )
        else:
            assert type(a) is type(b) and a == b, f"{p.name}: {what} {i}: {b!r}, expected {a!r}"


def _compare(p: Program, what: str, expected: Any, got: Any) -> None:
    assert got.dtype is expected.dtype, (
        f"{p.name}: {what}: dtype {got.dtype}, expected {expected.dtype}"
    )
    assert tuple(got.shape) == tuple(expected.shape), f"{p.name}: {what}: shape {got.shape}"
    np.testing.assert_allclose(
        got.detach().numpy(),
        expected.detach().numpy(),
        rtol=p.tolerance,
        atol=p.tolerance,
        err_msg=f"{p.name}: {what}",
    )


def _compare_aliasing(p: Program, expected: Any, got: Any) -> None:
    """The same tensors share memory, and the same are one object."""

    def pattern(tree: Any) -> list[tuple[int, int]]:
        found = _tensors(tree)
        storages = [id(t.storage) for t in found]
        objects = [id(t) for t in found]
        return [
            (storages.index(s), objects.index(o)) for s, o in zip(storages, objects, strict=True)
        ]

    assert pattern(expected) == pattern(got), (
        f"{p.name}: aliasing {pattern(got)}, expected {pattern(expected)}"
    )


def _gradients(outputs: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """Gradients of all differentiable outputs, weighted so that each counts differently."""
    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    outs = [t for t in _tensors(outputs) if t.requires_grad and not any(t is i for i in inputs)]
    outs = list({id(t): t for t in outs}.values())
    if not outs or not wanted:
        return []
    seeds = []
    for k, t in enumerate(outs):
        values = np.linspace(0.5, 1.5 + k, max(1, t.numel()), dtype=np.float32)[: t.numel()]
        seeds.append(plait.tensor(values.reshape(tuple(t.shape))))
    return list(plait.autograd.grad(outs, wanted, seeds, allow_unused=True))
