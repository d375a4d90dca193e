"""Bad input: the same exception class eager and compiled, at the user's line, state restored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import plait
from plait import nn
from plait.base.errors import (
    BackendCompilerFailed,
    CaptureError,
    DataDependentError,
    InvalidBackend,
)
from plait.dispatch.state import tls

X = plait.ones(2, 3)


@pytest.fixture(autouse=True)
def state_is_as_before() -> Any:
    def state() -> Any:
        return (tls.include, tls.exclude, tls.grad_enabled, tls.predispatch, tls.fake_mode,
                tls.proxy_mode, tls.functional_mode, tls.node_source, list(tls.modes))  # fmt: skip

    before = state()
    yield
    assert state() == before


MISTAKES: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("shapes of add", lambda x, y: x + y, (X, plait.ones(4))),
    ("shapes of mm", lambda x, y: x @ y, (X, X)),
    ("dtype of mean", lambda x: x.mean(), (plait.ones(3, dtype=plait.int64),)),
    ("dim out of range", lambda x: x.sum(5), (X,)),
    ("view of wrong size", lambda x: x.view(7), (X,)),
    ("wrong argument type", lambda x: x.sum("rows"), (X,)),
    ("index out of range", lambda x, i: plait.index_select(x, 0, i), (X, plait.tensor([0, 9]))),
    ("gather out of range", lambda x, i: plait.gather(x, 1, i), (X, plait.tensor([[0, 3]]))),
    (
        "target out of range",
        lambda x, t: nn.functional.cross_entropy(x, t),
        (X, plait.tensor([0, 7])),
    ),
    ("leaf written", lambda x: x.add_(1.0), (plait.ones(2, requires_grad=True),)),
    ("select out of range", lambda x: x[5], (X,)),
    ("subtract bools", lambda x: x - x, (X > 0,)),
    ("devices", lambda x, y: x + y, (X, plait.ones(2, 3, device="meta"))),
    ("split sizes", lambda x: x.split(-1), (X,)),
    ("concatenate shapes", lambda x, y: plait.cat([x, y], 0), (X, plait.ones(2, 4))),
]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
@pytest.mark.parametrize(("name", "fn", "args"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_same_class_as_eager(name: str, fn: Any, args: Any, backend: str) -> None:
    with pytest.raises(plait.PlaitError) as eager:
        fn(*args)
    compiled = plait.compile(fn, backend=backend)
    with pytest.raises(type(eager.value)):
        compiled(*args)


def test_native_index_errors_name_the_operator_and_later_calls_work() -> None:
    compiled = plait.compile(lambda x, i: plait.index_select(x, 0, i) * 2.0)
    assert compiled(X, plait.tensor([1, 0])).shape == (2, 3)
    with pytest.raises(IndexError, match="index_select"):
        compiled(X, plait.tensor([1, 2]))
    with pytest.raises(IndexError):
        compiled(X, plait.tensor([1, -1]))
    assert compiled(X, plait.tensor([0, 1])).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda x: x.item(), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: 1 if x.sum() > 0 else 2, "bool"),
        (lambda x: float(x.sum()), "float"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_data_reads_are_refused_at_the_users_line(read: Any, what: str) -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        read(y)
        return y

    with pytest.raises(DataDependentError, match=r"test_errors\.py:\d+") as error:
        plait.compile(f)(X.sum())
    assert what in str(error.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.register_hook(lambda g: g),
        lambda x: (x * x).sum().backward(),
        lambda x: x.grad,
        lambda x: (x * 1.0).retain_grad(),
    ],
    ids=["register_hook", "backward", "grad", "retain_grad"],
)
def test_what_hangs_on_the_tape_is_refused(use: Any) -> None:
    def f(x: Any) -> Any:
        use(x)
        return x * 2.0

    with pytest.raises(CaptureError, match=r"test_errors\.py:\d+"):
        plait.compile(f)(plait.ones(2, requires_grad=True))


def test_result_that_is_no_tensor_tree() -> None:
    with pytest.raises(CaptureError, match="result 1 of the function is a object"):
        plait.compile(lambda x: (x, object()))(X)


def test_backward_twice_and_create_graph() -> None:
    x = plait.ones(2, requires_grad=True)
    y = plait.compile(lambda x: (x * x).sum())(x)
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()
    y = plait.compile(lambda x: (x * x).sum())(x)
    with pytest.raises(RuntimeError, match="create_graph"):
        plait.autograd.grad(y, [x], create_graph=True)


def test_saved_input_written_before_backward() -> None:
    x, w = plait.ones(2, requires_grad=True), plait.ones(2)
    y = plait.compile(lambda x, w: (x * w).sum())(x, w)
    w.add_(1.0)
    with pytest.raises(RuntimeError, match="inplace"):
        y.backward()


def test_exception_in_the_function_restores_module_tensors() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight

    def f(x: Any) -> Any:
        model(x)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        plait.compile(f)(X)
    assert model.weight is weight and dict(model.named_parameters())["weight"] is weight


def test_assigning_a_module_tensor_is_refused_and_undone() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight

    def f(x: Any) -> Any:
        model._parameters["weight"] = model.weight * 2.0
        return model(x)

    with pytest.raises(CaptureError, match="weight"):
        plait.compile(f)(X)
    assert model.weight is weight


def test_a_fake_that_escapes_refuses_to_work() -> None:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        kept.append(x * 2.0)
        return x * 3.0

    plait.compile(f, backend="aot_eager")(X)
    with pytest.raises(CaptureError, match="outside the trace"):
        kept[0] + 1.0


def test_backends() -> None:
    with pytest.raises(InvalidBackend, match="llvm"):
        plait.compile(lambda x: x, backend="llwm")

    def failing(graph: Any, options: Any) -> Any:
        raise KeyError("inside")

    with pytest.raises(BackendCompilerFailed, match="failing") as error:
        plait.compile(lambda x: x * 2.0, backend=failing)(X)
    assert isinstance(error.value.inner, KeyError)
    no_callable: Any = 3
    with pytest.raises(BackendCompilerFailed, match="callable"):
        plait.compile(lambda x: x * 2.0, backend=lambda graph, options: no_callable)(X)
    with pytest.raises(plait.PlaitError, match="callable"):
        plait.compile(no_callable)
