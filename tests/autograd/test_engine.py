"""The short walk over one node and its leaves does what the general one does."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.autograd import engine
from plait.base.errors import AutogradError


def leaves(*shapes):
    return [plait.from_numpy(np.ones(s, np.float32)).requires_grad_() for s in shapes]


@pytest.fixture
def short_walks(monkeypatch):
    """The nodes that the short walk was used for."""
    seen = []
    plain = engine._run_star

    def counted(node, *args):
        seen.append(node.name())
        plain(node, *args)

    monkeypatch.setattr(engine, "_run_star", counted)
    return seen


def test_one_node_over_leaves_takes_the_short_walk(short_walks):
    x, y = leaves((2, 3), (3,))
    (x * y).backward(plait.from_numpy(np.full((2, 3), 2.0, np.float32)))
    assert len(short_walks) == 1
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))
    np.testing.assert_array_equal(y.grad.numpy(), np.full(3, 4.0))


def test_compiled_backward_takes_the_short_walk_and_accumulates(short_walks):
    x, w = leaves((2, 3), (3, 4))
    f = plait.compile(lambda x, w: (x @ w).sum(), fullgraph=True)
    for _ in range(2):
        f(x, w).backward()
    assert short_walks == ["CompiledBackward"] * 2
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 8.0))
    np.testing.assert_array_equal(w.grad.numpy(), np.full((3, 4), 4.0))


def test_a_leaf_met_twice_takes_the_general_walk(short_walks):
    (x,) = leaves((3,))
    (x * x).sum().backward()
    assert short_walks == []
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 2.0))


@pytest.mark.parametrize("where", ["leaf", "node", "accumulator"])
def test_hooks_run(where, short_walks):
    x, y = leaves((3,), (3,))
    calls = []
    if where == "leaf":
        x.register_hook(lambda g: calls.append(1) or g * 2)
    out = x + y
    if where == "node":
        out.grad_fn.register_hook(lambda inputs, outputs: calls.append(1))
    if where == "accumulator":
        x.register_post_accumulate_grad_hook(lambda t: calls.append(1))
    out.backward(plait.from_numpy(np.ones(3, np.float32)))
    assert calls == [1]
    assert short_walks == []


def test_saved_tensors_are_freed_unless_kept():
    x, y = leaves((3,), (3,))
    out = x * y
    one = plait.from_numpy(np.ones(3, np.float32))
    out.backward(one, retain_graph=True)
    out.backward(one)
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 2.0))
    with pytest.raises(AutogradError, match="second time"):
        out.backward(one)


def test_implicit_cotangent_has_the_shape_of_the_loss():
    (x,) = leaves((1, 1))
    (x * 3).backward()
    assert x.grad.shape == (1, 1)


def test_gradients_do_not_share_memory():
    x, y = leaves((3,), (3,))
    (x + y).backward(plait.from_numpy(np.ones(3, np.float32)))
    x.grad.add_(1.0)
    np.testing.assert_array_equal(y.grad.numpy(), np.ones(3))
