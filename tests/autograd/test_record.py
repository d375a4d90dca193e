"""How calls are recorded: rules analysed once, the generated form equal to the boxed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
from plait.autograd import Node, SavedTensor, attach
from plait.autograd.record import boxed, node_name
from plait.autograd.rules import rules_of
from plait.base.errors import AutogradError, InternalError, RegistrationError
from plait.dispatch import DispatchKey, Overload, define, lookup
from plait.dispatch.dispatcher import remove
from plait.dispatch.keyset import below
from plait.dispatch.modes import PreDispatchMode
from plait.dispatch.state import tls


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([1.0, 2.0, 3.0], requires_grad=True)


@pytest.fixture
def operator() -> Iterator[Callable[..., Overload]]:
    made: list[Overload] = []

    def make(schema: str, kernel: Any, vjp: Any = None) -> Overload:
        op = define(schema)
        op.vjp = vjp
        op.register(DispatchKey.CPU, kernel, calls_operators=True)
        made.append(op)
        return op

    yield make
    for op in made:
        remove(op)


def test_node_of_a_call(x: plait.Tensor) -> None:
    y = x * x
    z = y.exp()
    assert z.grad_fn.name() == "ExpBackward0"
    assert z.grad_fn.op is lookup("aten::exp")
    assert z.grad_fn.next_functions == ((y.grad_fn, 0),)
    assert z.grad_fn.seq > y.grad_fn.seq
    assert y.grad_fn.next_functions[0][0].variable is x
    z.grad_fn.metadata["mine"] = 1
    assert z.grad_fn.metadata == {"mine": 1}


def test_names() -> None:
    assert node_name(lookup("aten::add_.Tensor")) == "AddBackward0"
    assert node_name(lookup("aten::select.int")) == "SelectBackward0"


def test_rules_say_what_is_saved() -> None:
    rules = rules_of(lookup("aten::mul.Tensor"))
    for mask, saved in ((0b01, ["other"]), (0b10, ["self"]), (0b11, ["other", "self"])):
        assert sorted(name for name, _ in rules.plan(mask).tensors) == saved
    assert rules.plan(1) is rules.plan(1)


@pytest.mark.parametrize("name", ["aten::mul.Tensor", "aten::add.Tensor"])
@pytest.mark.parametrize("followed", [True, False])
def test_generated_form_equals_boxed_form(name: str, followed: bool) -> None:
    op = lookup(name)
    lower = op.resolve(below(DispatchKey.AUTOGRAD_CPU) & plait.Tensor._keys)
    kwargs = {a.name: a.default for a in op.schema.kwonly}
    results = []
    for call in (op.call, boxed(op, lower)):
        a = plait.tensor([1.0, 2.0], requires_grad=followed)
        b = plait.tensor([3.0, 4.0], requires_grad=True)
        out = call(a, b, **kwargs)
        out.sum().backward()
        results.append([t if t is None else t.tolist() for t in (out, a.grad, b.grad)])
        with plait.no_grad():
            assert not call(a, b, **kwargs).requires_grad
    assert results[0] == results[1]


def test_several_results_and_materialised_cotangents(operator: Any, x: plait.Tensor) -> None:
    seen: list[Any] = []

    def rule(g0: Any, g1: Any, factor: float, out1: Any, shape_of_t: Any, needs: Any) -> Any:
        seen.append((g0.tolist(), g1.tolist(), factor, out1.tolist(), shape_of_t, needs))
        return g0 * factor + g1

    op = operator(
        "test::pair(Tensor t, float factor, *, bool flag=True) -> (Tensor, Tensor)",
        lambda t, factor, flag: (t * factor, t + 1.0),
        {"t": rule},
    )
    first, _ = op(x, 2.0)
    first.sum().backward()
    assert seen == [([1.0] * 3, [0.0] * 3, 2.0, [2.0, 3.0, 4.0], (3,), {"t": True})]
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_undefined_cotangent_on_request(operator: Any, x: plait.Tensor) -> None:
    def rule(g0: Any = None, g1: Any = None) -> Any:
        assert g1 is None
        return g0

    op = operator(
        "test::maybe(Tensor t) -> (Tensor, Tensor)", lambda t: (t + 1.0, t + 2.0), {"t": rule}
    )
    op(x)[0].sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_optional_and_list_arguments(operator: Any, x: plait.Tensor) -> None:
    op = operator(
        "test::mixed(Tensor? a, Tensor[] parts, Tensor? b=None) -> Tensor",
        lambda a, parts, b: parts[0] * parts[1] if a is None else a * parts[0],
        {
            "a": lambda g, parts: g * parts[0],
            "parts": lambda g, a, parts: (
                [g * parts[1], g * parts[0]] if a is None else [g * a, None]
            ),
            "b": lambda g, b: g,
        },
    )
    other = plait.tensor([4.0, 5.0, 6.0], requires_grad=True)
    op(None, [x, other]).sum().backward()
    assert x.grad.tolist() == [4.0, 5.0, 6.0]
    assert other.grad.tolist() == [1.0, 2.0, 3.0]
    op(other, [x, other]).sum().backward()
    assert other.grad.tolist() == [2.0, 4.0, 6.0]


def test_missing_derivative_is_an_error_in_backward(operator: Any, x: plait.Tensor) -> None:
    op = operator("test::opaque(Tensor t) -> Tensor", lambda t: t * 2.0)
    y = op(x)
    assert y.requires_grad
    with pytest.raises(AutogradError, match="derivative for argument 't' is not implemented"):
        y.sum().backward()


def test_declared_non_differentiable(operator: Any, x: plait.Tensor) -> None:
    op = operator("test::constant(Tensor t) -> Tensor", lambda t: t * 2.0, {})
    assert not op(x).requires_grad
    op = operator(
        "test::half(Tensor t, Tensor u) -> Tensor",
        lambda t, u: t * u,
        {"t": lambda g, u: g * u, "u": None},
    )
    y = op(x, x.exp())
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx(x.exp().tolist())


def test_parameters_of_rules_are_checked(operator: Any, x: plait.Tensor) -> None:
    op = operator("test::typo(Tensor t) -> Tensor", lambda t: t * 2.0, {"t": lambda g, slef: g})
    with pytest.raises(RegistrationError, match="'slef' that means nothing"):
        op(x)


def test_kernel_that_returns_its_argument_is_found_out(operator: Any, x: plait.Tensor) -> None:
    op = operator("test::same(Tensor t) -> Tensor", lambda t: t, {"t": lambda g: g})
    with pytest.raises(InternalError, match="on the tape already"):
        op(x)


def test_gradients_take_shape_and_type_of_their_tensor(operator: Any) -> None:
    op = operator(
        "test::wide(Tensor t) -> Tensor",
        lambda t: t.double().expand(4, 3) * 1.0,
        {"t": lambda g: g},
    )
    t = plait.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    op(t).sum().backward()
    assert t.grad.dtype is plait.float32
    assert t.grad.tolist() == [[4.0, 4.0, 4.0]]


def test_node_that_is_running_is_told(operator: Any, x: plait.Tensor) -> None:
    seen: list[Any] = []

    def rule(g: Any) -> Any:
        seen.append(tls.backward_node)
        return g

    op = operator("test::watched(Tensor t) -> Tensor", lambda t: t * 1.0, {"t": rule})
    y = op(x)
    y.sum().backward()
    assert seen == [y.grad_fn]
    assert tls.backward_node is None


# ------------------------------------------------------------ nodes of other layers


class Compiled(Node):
    """A node as a compiled graph would attach it: one backward for several results."""

    def __init__(self, edges: Any, saved: Any) -> None:
        super().__init__(edges)
        self.saved = [SavedTensor(t) for t in saved]

    def apply(self, grads: Any) -> Any:
        (x,) = [s.unpack(self) for s in self.saved]
        total = None
        for g, factor in zip(grads, (2.0, 3.0, None), strict=True):
            if g is not None and factor is not None:
                part = g * factor * x
                total = part if total is None else total + part
        return (total, None)


def attached(x: Any) -> Any:
    from plait.autograd.views import gradient_edge

    with plait.no_grad():
        outputs = [x * x, x * x * 1.5, x > 0.0]
    node = Compiled((gradient_edge(x), None), [x])
    attach(outputs, node)
    return outputs


def test_attached_node(x: plait.Tensor) -> None:
    a, b, mask = attached(x)
    assert a.grad_fn is b.grad_fn
    assert not mask.requires_grad
    (a + b).sum().backward()
    assert x.grad.tolist() == [5.0, 10.0, 15.0]
    a, b, _ = attached(x)
    b.sum().backward()
    assert x.grad.tolist() == [8.0, 16.0, 24.0]


def test_attached_node_checks_versions(x: plait.Tensor) -> None:
    a, _, _ = attached(x)
    with plait.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="Compiled"):
        a.sum().backward()


# ------------------------------------------------------------ tracers


class Tracing(PreDispatchMode):
    """Ties each result to a number after the tape has seen it, as a capture does."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.unknown: list[str] = []

    def __plait_predispatch__(self, op: Any, args: Any, kwargs: Any, redispatch: Any) -> Any:
        for a in args:
            if isinstance(a, plait.Tensor) and a._trace is None:
                self.unknown.append(op.qualname)
        out = redispatch(*args, **kwargs)
        self.calls.append(op.qualname)
        out._trace = len(self.calls)
        return out


def test_a_walk_under_a_tracer_meets_only_values_it_knows(x: plait.Tensor) -> None:
    x._trace = 0
    with Tracing() as mode:
        y = x * x
        y.mul_(x)
        z = y.exp().sum()
        (g,) = plait.autograd.grad(z, x)
    assert mode.unknown == []
    assert mode.calls[:4] == ["aten::mul.Tensor", "aten::clone", "aten::mul_.Tensor", "aten::exp"]
    assert g._trace is not None
    values = x.detach()
    expected = (values * values * values).exp() * values * values * 3.0
    assert g.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_source_of_nodes_on_request(x: plait.Tensor) -> None:
    tls.node_source = lambda: ("file", 1, "f")
    try:
        y = x * x
    finally:
        tls.node_source = None
    assert y.grad_fn.source == ("file", 1, "f")
    assert (x * x).grad_fn.source == ()
