"""Programs run twice, on plait and on PyTorch: results, gradients and raised errors must agree."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import plait

Program = Callable[[Any, Any, Any], list[Any]]
PROGRAMS: list[Program] = []
ERRORS: list[Program] = []


def agrees(program: Program) -> Program:
    PROGRAMS.append(program)
    return program


def fails(program: Program) -> Program:
    ERRORS.append(program)
    return program


def inputs(m: Any) -> tuple[Any, Any]:
    values = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3) / 4
    x = m.tensor(values.tolist(), requires_grad=True)
    w = m.tensor((values[::-1] + 0.5).tolist(), requires_grad=True)
    return x, w


def as_numpy(result: Any) -> Any:
    if result is None or isinstance(result, bool | int | str):
        return result
    return np.asarray(result.detach().tolist())


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_agrees(program: Program, torch: ModuleType) -> None:
    ours = [as_numpy(r) for r in program(plait, *inputs(plait))]
    theirs = [as_numpy(r) for r in program(torch, *inputs(torch))]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert a == b


@pytest.mark.parametrize("program", ERRORS, ids=lambda p: p.__name__)
def test_raises_where_pytorch_does(program: Program, torch: ModuleType) -> None:
    with pytest.raises(RuntimeError):
        program(torch, *inputs(torch))
    with pytest.raises(RuntimeError) as caught:
        program(plait, *inputs(plait))
    assert isinstance(caught.value, plait.PlaitError)


# ------------------------------------------------------------ plain programs


@agrees
def product_and_exponential(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w + x.exp()).sum().backward()
    return [x.grad, w.grad]


@agrees
def one_tensor_used_twice(m: Any, x: Any, w: Any) -> list[Any]:
    (x * x + x).sum().backward()
    return [x.grad, w.grad]


@agrees
def broadcast_gradients_are_summed(m: Any, x: Any, w: Any) -> list[Any]:
    row = m.tensor([1.0, 2.0, 3.0], requires_grad=True)
    column = m.tensor([[1.0], [2.0]], requires_grad=True)
    scalar = m.tensor(2.0, requires_grad=True)
    (x * row * column * scalar).sum().backward()
    return [row.grad, column.grad, scalar.grad, x.grad]


@agrees
def accumulation_over_two_backwards(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w).sum().backward()
    (x * x).sum().backward()
    return [x.grad, w.grad]


@agrees
def retained_graph(m: Any, x: Any, w: Any) -> list[Any]:
    loss = (x * w).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return [x.grad, w.grad]


@agrees
def second_backward_without_saved_tensors(m: Any, x: Any, w: Any) -> list[Any]:
    loss = (x + w).sum()
    loss.backward()
    loss.backward()
    return [x.grad]


@agrees
def cotangent_given(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w).backward(w.detach())
    return [x.grad, w.grad]


@agrees
def double_backward(m: Any, x: Any, w: Any) -> list[Any]:
    (g,) = m.autograd.grad((x * x * w).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return [g, x.grad, w.grad]


@agrees
def triple_derivative(m: Any, x: Any, w: Any) -> list[Any]:
    y = (x * x * x * x).sum()
    results = []
    for _ in range(3):
        (y,) = m.autograd.grad(y.sum(), x, create_graph=True)
        results.append(y)
    return results


@agrees
def backward_with_create_graph(m: Any, x: Any, w: Any) -> list[Any]:
    (x * x * w).sum().backward(create_graph=True)
    first = x.grad.detach().clone()
    penalty = (x.grad * x.grad).sum()
    x.grad = None
    penalty.backward()
    return [first, x.grad, w.grad]


@agrees
def grad_of_an_intermediate(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    z = (y * y).sum()
    return [*m.autograd.grad(z, [y, x], retain_graph=True), x.grad]


@agrees
def grad_unused_and_materialised(m: Any, x: Any, w: Any) -> list[Any]:
    y = (x * x).sum()
    a, b = m.autograd.grad(y, [x, w], allow_unused=True, retain_graph=True)
    c, d = m.autograd.grad(y, [x, w], materialize_grads=True)
    return [a, b, c, d]


@agrees
def backward_for_some_inputs(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    (y * y).sum().backward(inputs=[w, y])
    return [x.grad, w.grad, y.grad]


@agrees
def several_roots(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    m.autograd.backward([y.sum(), (y * x).sum()], [None, m.tensor(2.0)])
    return [x.grad, w.grad]


@agrees
def root_below_another_root(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    return list(m.autograd.grad([(y * y).sum(), y.sum()], [x, y]))


@agrees
def detached_branch(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    (y.detach() * y).sum().backward()
    return [x.grad, w.grad, y.detach().requires_grad]


@agrees
def nothing_recorded_under_no_grad(m: Any, x: Any, w: Any) -> list[Any]:
    with m.no_grad():
        y = x * w
        with m.enable_grad():
            z = x * w
    return [y.requires_grad, y.is_leaf, z.requires_grad, z.is_leaf]


@agrees
def integer_results_do_not_require_grad(m: Any, x: Any, w: Any) -> list[Any]:
    mask = x > 0.6
    return [mask.requires_grad, mask.is_leaf, (x * mask).requires_grad]


@agrees
def mixed_types(m: Any, x: Any, w: Any) -> list[Any]:
    y = (x.double() * w.double()).sum()
    y.backward()
    return [x.grad, str(x.grad.dtype).endswith("float32")]


@agrees
def concatenation(m: Any, x: Any, w: Any) -> list[Any]:
    (m.cat([x, w, x], 0) * m.cat([w, w, x], 0)).sum().backward()
    return [x.grad, w.grad]


@agrees
def concatenation_with_a_constant(m: Any, x: Any, w: Any) -> list[Any]:
    m.cat([x, w.detach()], 0).exp().sum().backward()
    return [x.grad, w.grad]


# ------------------------------------------------------------ in place


@agrees
def inplace_keeps_the_product_rule(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    y.mul_(w)
    y.add_(x)
    y.sum().backward()
    return [y, x.grad, w.grad]


@agrees
def inplace_makes_a_constant_follow(m: Any, x: Any, w: Any) -> list[Any]:
    y = m.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    before = y.requires_grad
    y.mul_(w)
    (y * x).sum().backward()
    return [before, y.requires_grad, y.is_leaf, w.grad, x.grad]


@agrees
def inplace_result_saved(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    y.exp_()
    y.sum().backward()
    return [y, x.grad]


@agrees
def inplace_zero_cuts_history(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    y.zero_()
    y.add_(x)
    y.sum().backward()
    return [x.grad, w.grad]


@agrees
def inplace_copy(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    y.copy_(w * w)
    (y * x).sum().backward()
    return [x.grad, w.grad]


@agrees
def leaf_written_under_no_grad(m: Any, x: Any, w: Any) -> list[Any]:
    with m.no_grad():
        x.mul_(2.0)
    (x * w).sum().backward()
    return [x, x.grad, w.grad, x._version]


@agrees
def versions_are_shared_by_views(m: Any, x: Any, w: Any) -> list[Any]:
    y = m.tensor([1.0, 2.0])
    view = y.view(2, 1)
    alias = y.detach()
    y.add_(1.0)
    view.add_(1.0)
    return [y._version, view._version, alias._version]


@agrees
def write_that_backward_does_not_need(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    z = y + w
    y.add_(1.0)
    (z + y).sum().backward()
    return [x.grad, w.grad]


# ------------------------------------------------------------ in place through views


@agrees
def write_through_a_view(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    y[0].mul_(3.0)
    (y * y).sum().backward()
    return [y, x.grad, w.grad]


@agrees
def write_a_tensor_through_a_view(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 2.0
    y[1].mul_(w[0])
    y[0].copy_(w[1] * w[1])
    (y * x).sum().backward()
    return [y, x.grad, w.grad]


@agrees
def write_through_a_chain_of_views(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    y.view(3, 2).t()[0].add_(w[0])
    (y * y).sum().backward()
    return [y, x.grad, w.grad]


@agrees
def view_sees_write_to_its_base(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    view = y[1]
    y.mul_(x)
    view.sum().backward()
    return [view, x.grad, w.grad]


@agrees
def view_sees_write_to_another_view(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    first, flat = y[0], y.view(-1)
    first.mul_(w[1])
    (flat * flat).sum().backward()
    return [flat, x.grad, w.grad]


@agrees
def constant_base_becomes_followed(m: Any, x: Any, w: Any) -> list[Any]:
    y = m.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    view = y.view(-1)
    before = view.requires_grad
    y[0].mul_(w[1])
    (view * view).sum().backward()
    return [before, view.requires_grad, y.requires_grad, y.is_leaf, view.is_leaf, w.grad]


@agrees
def view_and_base_after_view_of_view(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    a = y.view(6)
    b = a.view(3, 2)
    b[0].zero_()
    return [*m.autograd.grad((a * y.view(6)).sum(), x), y, a, b]


@agrees
def expanded_view_is_read(m: Any, x: Any, w: Any) -> list[Any]:
    y = (x * w)[0]
    (y.expand(4, 3) * 2.0).sum().backward()
    return [x.grad, w.grad]


@agrees
def all_views_written_without_grad(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    view = y[0]
    with m.no_grad():
        view.mul_(0.0)
    (y + view).sum().backward()
    return [y, x.grad, w.grad]


@agrees
def double_backward_through_a_view_write(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * x
    y[0].mul_(w[0])
    (g,) = m.autograd.grad((y * y).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return [g, x.grad, w.grad]


@agrees
def unbound_parts_are_read(m: Any, x: Any, w: Any) -> list[Any]:
    a, b = (x * w).unbind(0)
    (a * a).sum().backward()
    return [x.grad, w.grad, b.requires_grad]


# ------------------------------------------------------------ errors


@fails
def backward_twice(m: Any, x: Any, w: Any) -> list[Any]:
    loss = (x * w).sum()
    loss.backward()
    loss.backward()
    return []


@fails
def backward_of_a_matrix(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w).backward()
    return []


@fails
def cotangent_of_wrong_shape(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w).backward(m.tensor([1.0, 2.0]))
    return []


@fails
def backward_of_a_constant(m: Any, x: Any, w: Any) -> list[Any]:
    (x.detach() * 2.0).sum().backward()
    return []


@fails
def grad_of_an_unused_input(m: Any, x: Any, w: Any) -> list[Any]:
    m.autograd.grad((x * x).sum(), [x, w])
    return []


@fails
def grad_with_respect_to_a_constant(m: Any, x: Any, w: Any) -> list[Any]:
    m.autograd.grad((x * x).sum(), [w.detach()])
    return []


@fails
def saved_argument_was_written(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    z = y * w
    y.add_(1.0)
    z.sum().backward()
    return []


@fails
def saved_result_was_written(m: Any, x: Any, w: Any) -> list[Any]:
    y = x.exp()
    y.add_(1.0)
    y.sum().backward()
    return []


@fails
def saved_argument_was_written_through_a_view(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * 1.0
    z = y * w
    y[0].zero_()
    z.sum().backward()
    return []


@fails
def saved_leaf_was_written_under_no_grad(m: Any, x: Any, w: Any) -> list[Any]:
    z = x * w
    with m.no_grad():
        x.add_(1.0)
    z.sum().backward()
    return []


@fails
def leaf_written(m: Any, x: Any, w: Any) -> list[Any]:
    x.add_(1.0)
    return []


@fails
def view_of_leaf_written(m: Any, x: Any, w: Any) -> list[Any]:
    x[0].add_(1.0)
    return []


@fails
def view_made_without_grad_written(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    with m.no_grad():
        view = y[0]
    view.add_(1.0)
    return []


@fails
def view_made_without_grad_read_after_base_was_written(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    with m.no_grad():
        view = y[0]
    y.add_(1.0)
    return [view.grad_fn]


@fails
def unbound_part_written(m: Any, x: Any, w: Any) -> list[Any]:
    a, _ = (x * w).unbind(0)
    a.add_(1.0)
    return []


@fails
def unbound_part_read_after_base_was_written(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    a, _ = y.unbind(0)
    y.add_(1.0)
    return [(a * 2.0).sum().backward()]


@fails
def out_variant_of_followed_tensors(m: Any, x: Any, w: Any) -> list[Any]:
    m.mul(x, w, out=m.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    return []


@fails
def flag_of_a_computed_tensor(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w).requires_grad_(False)
    return []


@fails
def integer_tensor_cannot_require_grad(m: Any, x: Any, w: Any) -> list[Any]:
    m.tensor([1, 2]).requires_grad_()
    return []


@fails
def view_detached_in_place(m: Any, x: Any, w: Any) -> list[Any]:
    (x * w)[0].detach_()
    return []


@fails
def gradient_assigned_of_wrong_shape(m: Any, x: Any, w: Any) -> list[Any]:
    x.grad = m.tensor([1.0])
    return []


@fails
def hook_on_a_constant(m: Any, x: Any, w: Any) -> list[Any]:
    x.detach().register_hook(lambda g: g)
    return []


@fails
def hook_changes_the_shape(m: Any, x: Any, w: Any) -> list[Any]:
    y = x * w
    y.register_hook(lambda g: g[0])
    y.sum().backward()
    return []


@fails
def array_of_a_followed_tensor(m: Any, x: Any, w: Any) -> list[Any]:
    x.numpy()
    return []
