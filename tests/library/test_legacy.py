"""The older interface: old calls work and warn once; every misuse is refused where it is made."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor
from plait.base.errors import (
    AutogradError,
    DispatchError,
    InvalidArgument,
    MissingKernel,
    RegistrationError,
    SchemaError,
)
from plait.library import Library, legacy


def declared(name: str = "cube", **options: Any) -> legacy.CustomOp:
    """``tests::cube(Tensor x, float factor=1.0) -> Tensor``, without kernels."""

    def cube(x: Tensor, factor: float = 1.0) -> Tensor:
        """Power of three."""
        raise AssertionError("the body is no kernel")

    cube.__name__ = name
    with pytest.warns(DeprecationWarning, match="plait.library.custom_op"):
        return legacy.custom_op(f"tests::{name}", **options)(cube)


def with_kernel() -> legacy.CustomOp:
    op = declared()

    @op.impl("cpu")
    def cube_cpu(x: Tensor, factor: float) -> Tensor:
        return plait.from_numpy(np.power(x.numpy(), 3) * np.float32(factor))

    @op.impl_abstract()
    def cube_abstract(x: Tensor, factor: float) -> Tensor:
        return plait.empty_like(x)

    return op


def with_gradient() -> legacy.CustomOp:
    op = with_kernel()

    @op.impl_save_for_backward()
    def save(inputs: Any, output: Any) -> Any:
        return {"x": inputs.x, "factor": inputs.factor}

    @op.impl_backward()
    def backward(ctx: Any, saved: Any, g: Tensor) -> Any:
        return {"x": g * 3 * saved["x"] ** 2 * saved["factor"]}

    return op


@pytest.mark.spec("A11")
def test_old_calls_work_and_warn_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decorate = legacy.custom_op("tests::twice")
        assert [w.category for w in caught] == [DeprecationWarning]
        assert caught[0].filename == __file__

        @decorate
        def twice(x: Tensor) -> Tensor: ...

        op: Any = twice
        op.impl(["cpu"])(lambda x: plait.from_numpy(x.numpy() * 2))
        assert op(plait.ones(2)).tolist() == [2.0, 2.0]
        assert len(caught) == 1
    assert (op.__name__, op.__module__) == ("twice", __name__)
    assert repr(op) == '<CustomOp(op="tests::twice")>'
    assert legacy.get_op("tests::twice") is op.op
    assert legacy.global_registry["tests::twice"] is op
    op._destroy()
    assert "tests::twice" not in legacy.global_registry
    with pytest.raises(ValueError, match="no operator is called"):
        legacy.get_op("tests::twice")
    with pytest.raises(DispatchError, match="could not find"):
        legacy.find_ophandle_or_throw("tests::twice")


@pytest.mark.spec("A11")
def test_gradients_and_compiled_code() -> None:
    op = with_gradient()
    assert op.__doc__ == "Power of three."
    for fn in (op, plait.compile(lambda x: op(x, 2.0)), lambda x: op(x, factor=2.0)):
        x = plait.tensor([1.0, 2.0], requires_grad=True)
        fn(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == ([3.0, 12.0] if fn is op else [6.0, 24.0])
    assert op(plait.empty(2, 3, device="meta")).shape == (2, 3)
    assert legacy.get_abstract_impl("tests::cube").__name__ == "cube_abstract"


@pytest.mark.spec("A11")
def test_a_second_registration_shows_both_places() -> None:
    op = with_gradient()
    registrations = {
        "impl('cpu')": op.impl("cpu"), "impl_abstract": op.impl_abstract(),
        "impl_save_for_backward": op.impl_save_for_backward(), "impl_backward": op.impl_backward(),
    }  # fmt: skip

    def again(*args: Any) -> Any: ...

    for what, register in registrations.items():
        with pytest.raises(RegistrationError) as caught:
            register(again)
        text = str(caught.value)
        assert what in text
        assert text.count(f"{__file__}:") == 2
        assert f"{__file__}:{again.__code__.co_firstlineno}" in text


def test_a_kernel_registered_past_the_object_is_seen() -> None:
    op = declared()
    lib = Library("tests", "FRAGMENT")
    lib.impl(op.op, lambda x, factor: x.clone(), "CPU")
    with pytest.raises(RegistrationError, match=rf"CPU stands there, registered at {__file__}:"):
        op.impl("cpu")(lambda x, factor: x)
    lib.destroy()
    lib = Library("tests", "FRAGMENT")
    lib.impl(op.op, lambda x, factor: x.clone(), "Autograd")
    with pytest.raises(RegistrationError, match="AUTOGRAD owns the gradient"):
        op.impl_backward()(lambda ctx, saved, g: {})
    lib.destroy()


def test_operators_without_tensors_have_a_factory() -> None:
    with pytest.warns(DeprecationWarning):

        @legacy.custom_op("tests::some")
        def some(n: int) -> Tensor: ...

    op: Any = some
    with pytest.raises(MissingKernel, match=r"impl_factory\(\)"):
        op(3)
    op.impl_factory()(lambda n: plait.zeros(n))
    assert op(3).shape == (3,)


@pytest.mark.parametrize(
    ("qualname", "error"),
    [
        ("aten::cube", "reserved"), ("torch::cube", "reserved"), ("cube", "namespace::name"),
        ("a.b::cube", "namespace::name"), ("tests::other", "is called 'cube'"),
    ],
)  # fmt: skip
def test_names_are_checked(qualname: str, error: str) -> None:
    def cube(x: Tensor) -> Tensor: ...

    with pytest.warns(DeprecationWarning), pytest.raises(InvalidArgument, match=error):
        legacy.custom_op(qualname)(cube)


def test_stubs_and_schemas_are_checked() -> None:
    def plain(x, *, flag): ...  # type: ignore[no-untyped-def]
    def nothing(x: Tensor) -> None: ...
    def with_self(self: Tensor) -> Tensor: ...
    def annotated(x: Tensor, *, flag: bool) -> Tensor: ...
    def defaulted(x, *, flag=True): ...  # type: ignore[no-untyped-def]
    def starred(*x): ...  # type: ignore[no-untyped-def]

    def declare(stub: Any, schema: str | None = None) -> Any:
        name = getattr(stub, "__name__", "x")
        with pytest.warns(DeprecationWarning):
            return legacy.custom_op(f"tests::{name}", schema)(stub)

    schema = "(Tensor x, *, bool flag) -> Tensor"
    assert str(declare(plain, schema).schema) == f"tests::plain{schema}"
    for stub, text, error in (
        (plain, "(Tensor y, *, bool flag) -> Tensor", r"\['x'\].*\['y'\]"),
        (plain, "(Tensor x, *, bool flag=True) -> Tensor", "no defaults"),
        (annotated, schema, "'x' has an annotation"),
        (defaulted, schema, "'flag' has an annotation or a default"),
        (starred, "(Tensor x) -> Tensor", "variadic"),
        (3, None, "expected a Python function"),
    ):
        with pytest.raises(InvalidArgument, match=error):
            declare(stub, text)
    for stub, text, error in (
        (nothing, None, "returns nothing"),
        (with_self, None, "'self'"),
        (plain, "(Tensor(a!) x, *, bool flag) -> Tensor", "writes"),
        (plain, "(Tensor(a) x, *, bool flag) -> Tensor(a)", "returns a view"),
    ):
        with pytest.raises(SchemaError, match=error):
            declare(stub, text)
    with pytest.raises(RegistrationError, match="private"):
        legacy.CustomOp(legacy.FunctionSchema.parse("tests::x(Tensor x) -> Tensor"), plain)
    with pytest.raises(InvalidArgument, match="'xpu'; expected one of cpu, cuda"):
        declared().impl("xpu")


def test_a_missing_half_fails_where_a_gradient_is_needed() -> None:
    op = with_kernel()
    x = plait.ones(2, requires_grad=True)
    assert not op(x.detach()).requires_grad
    with plait.no_grad():
        op(x)
    with pytest.raises(AutogradError, match="not implemented"):
        op(x)
    op.impl_backward()(lambda ctx, saved, g: {"x": g})
    with pytest.raises(AutogradError, match=rf"impl_save_for_backward\(\) is.*{__file__}:\d+"):
        op(x)
    with pytest.raises(MissingKernel, match=r"impl\('cpu'\)"):
        declared("bare")(plait.ones(1))


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (lambda g: g, "returned a Tensor; expected a dict"),
        (lambda g: {}, r"gradients for \[\]; expected exactly.*\['x', 'rest'\]"),
        (lambda g: {"x": g, "rest": [g, g], "n": None}, r"expected exactly"),
        (lambda g: {"x": 3, "rest": [g, g]}, "returned a int for argument 'x'"),
        (lambda g: {"x": g, "rest": g}, "for the list 'rest'; expected a list"),
        (lambda g: {"x": g, "rest": [g]}, "1 gradients for the list 'rest'; expected a list of 2"),
    ],
)
def test_backward_faults_name_the_formula(returned: Any, error: str) -> None:
    with pytest.warns(DeprecationWarning):

        @legacy.custom_op("tests::gathered")
        def gathered(x: Tensor, rest: list[Tensor], n: int) -> Tensor: ...

    op: Any = gathered
    op.impl("cpu")(lambda x, rest, n: x + rest[0] + rest[1])
    op.impl_save_for_backward()(lambda inputs, output: [inputs.rest, (inputs.n, output)])

    def backward(ctx: Any, saved: Any, g: Any) -> Any:
        assert len(saved[0]) == 2
        assert saved[1][0] == 5
        return returned(g)

    op.impl_backward()(backward)
    x, y = plait.ones(2, requires_grad=True), plait.ones(2, requires_grad=True)
    with pytest.raises(AutogradError, match=error):
        op(x, [y, plait.ones(2)], 5).sum().backward()


def test_results_may_be_declared_not_differentiable() -> None:
    with pytest.warns(DeprecationWarning):

        @legacy.custom_op("tests::parts")
        def parts(x: Tensor) -> tuple[Tensor, Tensor]: ...

    op: Any = parts
    op.impl("cpu")(lambda x: (x * 2, x * 3))
    op.impl_save_for_backward()(lambda inputs, output: None)
    for bad, error in (([True], "1 entries.*expected 2"), ([1, 0], "a list of bools")):
        with pytest.raises(RegistrationError, match=error):
            op.impl_backward(output_differentiability=bad)
    op.impl_backward(output_differentiability=[True, False])(lambda ctx, saved, g, h: {"x": g * 2})
    first, second = op(plait.ones(1, requires_grad=True))
    assert (first.requires_grad, second.requires_grad) == (True, False)
