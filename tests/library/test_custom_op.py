"""Operators defined by `custom_op`: kernels, fakes, gradients, checks, and the same compiled."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import plait
from plait import Tensor, library
from plait.base import log
from plait.base.errors import (
    AutogradError,
    CaptureError,
    DataDependentError,
    DispatchError,
    InplaceError,
    InvalidArgument,
    MissingKernel,
    RegistrationError,
    SchemaError,
)
from plait.library import CustomOpDef, Tag, custom_op
from plait.testing import gradcheck


def scaled() -> CustomOpDef:
    @custom_op("tests::scaled", mutates_args=())
    def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
        """Multiply by a number."""
        return plait.from_numpy(x.numpy() * np.asarray(factor, x.numpy().dtype))

    @scaled.register_fake
    def _(x: Any, factor: float = 2.0) -> Any:
        return plait.empty_like(x)

    scaled.register_autograd(
        lambda ctx, g: (g * ctx.factor, None),
        setup_context=lambda ctx, inputs, output: setattr(ctx, "factor", inputs[1]),
    )
    definition: CustomOpDef = scaled
    return definition


# ---------------------------------------------------------------- A3: the decorator


@pytest.mark.spec("A3")
def test_decorator_and_call_form_give_an_operator() -> None:
    op = scaled()
    assert str(op.schema) == "tests::scaled(Tensor x, float factor=2.0) -> Tensor"
    assert op(plait.tensor([1.0])).tolist() == [2.0]
    assert op(plait.tensor([1.0]), factor=3).tolist() == [3.0]
    assert op.__name__ == "scaled" and op.__doc__ == "Multiply by a number."
    called = custom_op(
        "tests::called", lambda x: x + 1, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    assert called(plait.tensor([1.0])).tolist() == [2.0]
    assert plait.dispatch.lookup("tests::called") is called.op


@pytest.mark.spec("A3")
def test_mutates_args_is_mandatory_and_unknown_marks_every_tensor() -> None:
    with pytest.raises(TypeError, match="mutates_args"):
        custom_op("tests::bad", lambda x: x)  # type: ignore[call-arg]

    @custom_op("tests::anything", mutates_args="unknown")
    def anything(x: Tensor, n: int, ys: list[Tensor]) -> None:
        x.add_(1)

    assert anything.schema.mutated_names == ("x", "ys")
    with pytest.raises(SchemaError, match="the schema says"):
        custom_op("tests::bad", lambda x: None, mutates_args=(), schema="(Tensor(a!) x) -> ()")
    for name in ("plain", "a::b::c", "ns::with.dot"):
        with pytest.raises(InvalidArgument, match=r"expected 'namespace::name'"):
            custom_op(name, lambda x: x, mutates_args=(), schema="(Tensor x) -> Tensor")


@pytest.mark.spec("A12")
def test_defining_again_replaces_the_earlier_operator() -> None:
    first = scaled()
    second = scaled()
    assert plait.dispatch.lookup("tests::scaled") is second.op is not first.op
    assert second(plait.tensor([1.0])).tolist() == [2.0]
    with pytest.raises(MissingKernel):
        first(plait.tensor([1.0]))


# ---------------------------------------------------------------- A4: kernels per device


@pytest.mark.spec("A4")
def test_a_missing_kernel_names_operator_and_device() -> None:
    @custom_op("tests::only_cuda", mutates_args=(), device_types="cuda")
    def only_cuda(x: Tensor) -> Tensor:
        return x.clone()

    with pytest.raises(MissingKernel, match=r"tests::only_cuda.*CPU"):
        only_cuda(plait.ones(1))
    only_cuda.register_kernel("cpu")(lambda x: x + 1)
    assert only_cuda(plait.ones(1)).tolist() == [2.0]
    with pytest.raises(InvalidArgument, match="device type 'tpu'.*expected one of cpu"):
        only_cuda.register_kernel("tpu", lambda x: x)


@pytest.mark.spec("A4")
def test_a_kernel_can_be_switched_off_for_a_while() -> None:
    op = custom_op("tests::two", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor")
    op.register_kernel("cpu", lambda x: x * 100)
    x = plait.ones(1)
    assert op(x).tolist() == [100.0]
    with op.set_kernel_enabled("cpu", False):
        assert op(x).tolist() == [2.0]
        with op.set_kernel_enabled("cpu", True):
            assert op(x).tolist() == [100.0]
        assert op(x).tolist() == [2.0]
    assert op(x).tolist() == [100.0]
    with pytest.raises(ZeroDivisionError), op.set_kernel_enabled("cpu", False):
        1 / 0
    assert op(x).tolist() == [100.0]
    with (
        pytest.warns(UserWarning, match="changes nothing: it is so already"),
        op.set_kernel_enabled("cpu", True),
    ):
        assert op(x).tolist() == [100.0]


@pytest.mark.spec("A4")
def test_without_tensors_a_device_argument_chooses_the_kernel() -> None:
    @custom_op("tests::made", mutates_args=(), device_types="cpu")
    def made(n: int, device: plait.Device) -> Tensor:
        return plait.ones(n)

    assert made(2, "cpu").tolist() == [1.0, 1.0]
    with pytest.raises(MissingKernel, match="tests::made: has no shape rule"):
        made(2, "meta")
    with pytest.raises(InvalidArgument, match="expected a parameter `device"):
        custom_op("tests::lost", lambda n: plait.ones(n), mutates_args=(), device_types="cpu",
                  schema="(SymInt n) -> Tensor")  # fmt: skip


# ---------------------------------------------------------------- A5: fakes


@pytest.mark.spec("A5")
def test_without_a_fake_compiling_says_what_to_register() -> None:
    op = custom_op("tests::nofake", lambda x: x + 1, mutates_args=(), schema="(Tensor x) -> Tensor")
    with pytest.raises(MissingKernel, match="tests::nofake: has no shape rule.*register_fake"):
        plait.compile(lambda x: op(x))(plait.ones(2))
    with pytest.raises(MissingKernel, match="tests::nofake"):
        op(plait.ones(2, device="meta"))


@pytest.mark.spec("A5")
def test_fakes_run_on_meta_tensors_and_in_traces() -> None:
    op = scaled()
    assert op(plait.ones(2, 3, device="meta")).shape == (2, 3)
    x = plait.ones(3)
    assert plait.compile(lambda x: op(x + 1).sum(), dynamic=True)(x).item() == 12.0
    with pytest.raises(RegistrationError, match="the fake at .* returned a tensor with memory"):
        real = plait.ones(3)
        op.register_fake(lambda x, factor=2.0: real)
        op(plait.ones(3, device="meta"))
    with pytest.raises(RegistrationError, match="returned a int; expected a Tensor"):
        op.register_fake(lambda x, factor=2.0: 3)
        op(plait.ones(3, device="meta"))


@pytest.mark.spec("A5")
def test_operators_that_return_what_they_write_need_no_fake() -> None:
    @custom_op("tests::bump", mutates_args=("x",))
    def bump(x: Tensor) -> None:
        x.numpy()[...] += 1

    assert bump(plait.ones(2, device="meta")) is None
    with pytest.warns(UserWarning, match="its shape function follows from the schema"):
        bump.register_fake(lambda x: None)


def positives() -> CustomOpDef:
    @custom_op("tests::positives", mutates_args=())
    def positives(x: Tensor) -> Tensor:
        return plait.from_numpy(x.numpy()[x.numpy() > 0].copy())

    @positives.register_fake
    def _(x: Any) -> Any:
        size = library.get_ctx().new_dynamic_size(max=x.shape[0])
        return x.new_empty((size,))

    definition: CustomOpDef = positives
    return definition


@pytest.mark.spec("A5")
@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
def test_a_size_that_depends_on_data_compiles_once(backend: str) -> None:
    op = positives()

    @plait.compile(backend=backend)
    def total(x: Any) -> Any:
        found = op(x * 2)
        return (found + 1).sum(), found * found

    for values in ([1.0, -1.0, 2.0], [1.0, 1.0, 1.0], [-1.0, 3.0, -2.0], [-1.0, -1.0, -1.0]):
        summed, squares = total(plait.tensor(values))
        kept = [2 * v for v in values if v > 0]
        assert summed.item() == sum(v + 1 for v in kept)
        assert squares.tolist() == [v * v for v in kept]
    assert len(total.entries) == 1


@pytest.mark.spec("A5")
def test_a_question_that_only_data_can_answer_is_an_error_at_its_line() -> None:
    op = positives()

    def asks(x: Any) -> Any:
        found = op(x)
        return found.sum() if found.shape[0] > 2 else found

    with pytest.raises(DataDependentError, match=r"depends on data.*test_custom_op\.py:\d+"):
        plait.compile(asks)(plait.ones(4))
    with pytest.raises(DataDependentError, match="outside of a trace"):
        op(plait.ones(4, device="meta"))
    with pytest.raises(DispatchError, match="no shape function is running"):
        library.get_ctx()


@pytest.mark.spec("A5")
@pytest.mark.parametrize("bounds", [{"min": -1}, {"min": 3, "max": 2}, {"min": 1.5}])
def test_bounds_of_a_dynamic_size_are_checked(bounds: dict[str, Any]) -> None:
    @custom_op("tests::bounded", mutates_args=())
    def bounded(x: Tensor) -> Tensor:
        return x.clone()

    bounded.register_fake(lambda x: x.new_empty((library.get_ctx().new_dynamic_size(**bounds),)))
    with pytest.raises(InvalidArgument, match=r"new_dynamic_size\(tests::bounded\)"):
        plait.compile(lambda x: bounded(x))(plait.ones(2))


# ---------------------------------------------------------------- A6: gradients


def _gradient_cases() -> dict[str, tuple[Any, Any, Any, tuple[Any, ...]]]:
    """name -> (schema, kernel over arrays, (setup, backward), argument shapes)."""

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*[t for t in inputs if isinstance(t, Tensor)])

    def keep_out(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)

    def numpy(fn: Any) -> Any:
        return lambda *args: plait.from_numpy(
            np.asarray(fn(*[a.numpy() if isinstance(a, Tensor) else a for a in args]))
        )

    one, two = "(Tensor x) -> Tensor", "(Tensor x, Tensor y) -> Tensor"
    s = (3,)
    return {
        "square": (
            one,
            numpy(lambda x: x * x),
            (keep, lambda c, g: 2 * c.saved_tensors[0] * g),
            (s,),
        ),
        "exp": (one, numpy(np.exp), (keep_out, lambda c, g: c.saved_tensors[0] * g), (s,)),
        "sin": (one, numpy(np.sin), (keep, lambda c, g: c.saved_tensors[0].cos() * g), (s,)),
        "neg": (one, numpy(lambda x: -x), (None, lambda c, g: -g), (s,)),
        "total": (
            one,
            numpy(lambda x: x.sum()),
            (keep, lambda c, g: g.expand(c.saved_tensors[0].shape)),
            (s,),
        ),
        "mul": (
            two,
            numpy(lambda x, y: x * y),
            (keep, lambda c, g: (g * c.saved_tensors[1], g * c.saved_tensors[0])),
            (s, s),
        ),
        "first_only": (
            two,
            numpy(lambda x, y: x + 0 * y),
            (None, lambda c, g: (g, None)),
            (s, s),
        ),
        "matmul": (
            two,
            numpy(lambda x, y: x @ y),
            (keep, lambda c, g: (g @ c.saved_tensors[1].t(), c.saved_tensors[0].t() @ g)),
            ((2, 3), (3, 2)),
        ),
        "optional": (
            "(Tensor x, Tensor? y=None) -> Tensor",
            lambda x, y: x * 3 if y is None else x * y,
            (None, lambda c, g: (g * 3, None)),
            (s,),
        ),
        "concat": (
            "(Tensor[] xs) -> Tensor",
            lambda xs: plait.cat(list(xs)),
            (
                lambda ctx, inputs, output: setattr(ctx, "n", len(inputs[0])),
                lambda c, g: ([*g.reshape(c.n, -1).unbind(0)],),
            ),
            ([s, s],),
        ),
    }


@pytest.mark.spec("A6")
@pytest.mark.parametrize("name", _gradient_cases())
def test_gradients_of_ten_operators(name: str) -> None:
    schema, kernel, (setup, backward), shapes = _gradient_cases()[name]
    op = custom_op(f"tests::g_{name}", kernel, mutates_args=(), schema=schema)
    op.register_autograd(backward, setup_context=setup)
    rng = np.random.default_rng(0)

    def tensor(shape: tuple[int, ...]) -> Any:
        return plait.tensor(rng.standard_normal(shape), dtype=plait.float64, requires_grad=True)

    args = [
        [tensor(s) for s in shape] if isinstance(shape, list) else tensor(shape) for shape in shapes
    ]
    flat = [t for a in args for t in (a if isinstance(a, list) else [a])]
    if name == "first_only":
        flat = flat[:1]

    def run(*tensors: Any) -> Any:
        if name == "concat":
            return op(list(tensors))
        return op(*[*tensors, *args[len(tensors) :]])

    gradcheck(run, flat)


@pytest.mark.spec("A6")
def test_gradient_faults_name_the_formula_and_its_place() -> None:
    x = plait.ones(2, requires_grad=True)
    op = custom_op(
        "tests::faulty",
        lambda x, n: x * n,
        mutates_args=(),
        schema="(Tensor x, SymInt n) -> Tensor",
    )

    def provoke(backward: Any, pattern: str) -> None:
        op.register_autograd(backward)
        with pytest.raises(
            AutogradError, match=rf"tests::faulty: .*test_custom_op\.py:\d+ {pattern}"
        ):
            op(x, 3).sum().backward()

    provoke(lambda ctx, g: g, "returned 1 gradients; expected 2")
    provoke(lambda ctx, g: (g, g), "returned a gradient for argument 'n'")
    provoke(lambda ctx, g: (3.0, None), "returned a float for argument 'x'")
    listed = custom_op(
        "tests::listed", lambda xs: xs[0] + xs[1], mutates_args=(), schema="(Tensor[] xs) -> Tensor"
    )
    listed.register_autograd(lambda ctx, g: ([g],))
    with pytest.raises(
        AutogradError, match="returned 1 gradients for the list 'xs'; expected a list of 2"
    ):
        listed([x, x * 2]).sum().backward()


@pytest.mark.spec("A6")
def test_without_a_formula_the_error_comes_with_the_backward() -> None:
    op = custom_op(
        "tests::noformula", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    y = op(plait.ones(2, requires_grad=True))
    with pytest.raises(AutogradError, match="tests::noformula: the derivative for argument 'x'"):
        y.sum().backward()
    with plait.no_grad():
        assert not op(plait.ones(2, requires_grad=True)).requires_grad


@pytest.mark.spec("A6")
def test_several_results_some_not_differentiable() -> None:
    @custom_op("tests::split_sign", mutates_args=())
    def split_sign(x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return x.abs() * scale, x.sign()

    def setup(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.scale = keyword_only_inputs["scale"]
        ctx.save_for_backward(output[1])

    split_sign.register_autograd(
        lambda ctx, g, _: g * ctx.saved_tensors[0] * ctx.scale, setup_context=setup
    )
    x = plait.tensor([-2.0, 3.0], requires_grad=True)
    size, sign = split_sign(x, scale=2.0)
    assert size.requires_grad and not sign.requires_grad
    size.sum().backward()
    assert x.grad.tolist() == [-2.0, 2.0]
    with pytest.raises(AutogradError, match="no parameter 'keyword_only_inputs'"):
        split_sign.register_autograd(
            lambda ctx, g, _: g, setup_context=lambda ctx, inputs, output: None
        )


@pytest.mark.spec("A6")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
def test_gradients_flow_through_compiled_code(backend: str) -> None:
    op = scaled()
    x = plait.tensor([1.0, 2.0], requires_grad=True)
    compiled = plait.compile(lambda x: (op(x.sin(), 3.0) * x).sum(), backend=backend)
    compiled(x).backward()
    got, x.grad = x.grad, None
    (op(x.sin(), 3.0) * x).sum().backward()
    np.testing.assert_allclose(got.numpy(), x.grad.numpy(), rtol=1e-6)


# ---------------------------------------------------------------- A8, A9: writes and aliases


@pytest.mark.spec("A8")
def test_a_write_moves_the_version_counter(bump: CustomOpDef) -> None:
    op = bump
    x = plait.ones(2)
    before = x._version
    op(x, 1.0)
    assert x._version == before + 1 and x.tolist() == [2.0, 2.0]
    w = plait.ones(2, requires_grad=True)
    y = plait.ones(2)
    out = w * y
    op(y, 1.0)
    with pytest.raises(InplaceError, match="modified by an inplace operation"):
        out.sum().backward()


def noisy_bump() -> tuple[CustomOpDef, list[int]]:
    """An operator that writes, and the addresses that its kernel was given."""
    seen: list[int] = []

    @custom_op("tests::noisy", mutates_args=("x",))
    def noisy(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x.data_ptr())
        x.numpy()[...] += y.numpy()
        return y * 2

    noisy.register_fake(lambda x, y: plait.empty_like(y))
    return noisy, seen


@pytest.mark.spec("A8")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
@pytest.mark.filterwarnings("ignore:tests::noisy")
def test_a_compiled_write_reaches_buffer_view_and_intermediate(backend: str) -> None:
    op, _ = noisy_bump()

    def f(buffer: Any, x: Any) -> Any:
        middle = x * 3
        doubled = op(middle, x)
        op(buffer[1:], x)
        return doubled + middle, middle.sum()

    results = []
    for fn in (f, plait.compile(f, backend=backend)):
        buffer = plait.zeros(4)
        out, total = fn(buffer, plait.tensor([1.0, 2.0, 3.0]))
        results.append((out.tolist(), total.item(), buffer.tolist()))
    assert results[0] == results[1] and results[0][2] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.spec("A8")
def test_a_buffer_is_written_in_place_where_nobody_reads_its_old_value() -> None:
    op, seen = noisy_bump()

    def f(buffer: Any, x: Any) -> Any:
        op(buffer, x)
        return buffer.sum()

    def g(buffer: Any, x: Any) -> Any:
        before = buffer + 0
        op(buffer, x)
        return before.sum() + buffer.sum()

    def keeps(buffer: Any, x: Any) -> Any:
        middle = x * 2
        op(middle, x)
        other = x * 4
        view = other.reshape(3, 1)
        op(other, x)
        return middle.sum() + view.sum()

    x = plait.tensor([1.0, 2.0, 3.0])
    for fn, total in ((f, 6.0), (g, 6.0), (keeps, 18.0 + 30.0)):
        compiled = plait.compile(fn)
        buffer = plait.zeros(3)
        seen.clear()
        assert compiled(buffer, x).item() == total
        if fn is not keeps:
            assert seen == [buffer.data_ptr()]
            assert buffer.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.spec("A8")
def test_the_graph_holds_the_functional_form() -> None:
    op, _ = noisy_bump()

    def f(buffer: Any, x: Any) -> Any:
        return op(buffer, x)

    compiled = plait.compile(f)
    compiled(plait.zeros(3), plait.ones(3))
    names = [n.op.qualname for n in compiled.graphs()["forward"].nodes]
    assert "tests::noisy.functional" in names
    with pytest.raises(CaptureError, match="arguments 'x' and 'y' share memory"):
        plait.compile(lambda b: op(b[:2], b[1:]))(plait.zeros(3))


@pytest.mark.spec("A9")
def test_a_result_that_is_an_argument_is_an_error() -> None:
    x = plait.ones(2, 2)
    schema = "(Tensor x, Tensor y) -> Tensor"
    for kernel in (lambda x, y: y, lambda x, y: y.t(), lambda x, y: plait.from_numpy(y.numpy()[0])):
        op = custom_op("tests::alias", kernel, mutates_args=(), schema=schema)
        with pytest.raises(
            RegistrationError, match=r"tests::alias: .*test_custom_op\.py:\d+ .*argument 'y'.*clone"
        ):
            op(x, plait.ones(2, 2))
    twice = custom_op(
        "tests::twice", lambda x: (lambda y: (y, y))(x + 1), mutates_args=(),
        schema="(Tensor x) -> (Tensor, Tensor)",
    )  # fmt: skip
    with pytest.raises(RegistrationError, match="results 0 and 1, which share memory"):
        twice(x)


@pytest.mark.spec("A9")
def test_in_place_and_out_operators_return_what_they_write() -> None:
    @custom_op("tests::good_", mutates_args=("x",), tags=Tag.INPLACE)
    def good_(x: Tensor) -> Tensor:
        x.numpy()[...] = 0
        return x

    x = plait.ones(2)
    assert good_(x) is x and x.tolist() == [0.0, 0.0]

    @custom_op("tests::bad_", mutates_args=("x",), tags=Tag.INPLACE)
    def bad_(x: Tensor) -> Tensor:
        return x.clone()

    with pytest.raises(RegistrationError, match="must return argument 'x' itself"):
        bad_(x)

    @custom_op("tests::out", mutates_args=("into",), tags=Tag.OUT)
    def out(x: Tensor, *, into: Tensor) -> Tensor:
        into.numpy()[...] = x.numpy() * 2
        return into

    into = plait.zeros(2)
    assert out(plait.ones(2), into=into) is into and into.tolist() == [2.0, 2.0]


@pytest.mark.spec("A9")
def test_results_of_the_wrong_kind_are_errors() -> None:
    x = plait.ones(2)
    cases = {
        "(Tensor x) -> Tensor": (lambda x: 3, "returned a int as result 0; expected a Tensor"),
        "(Tensor x) -> (Tensor, Tensor)": (lambda x: x + 1, "expected 2 results"),
        "(Tensor x) -> ()": (lambda x: x + 1, "returned a Tensor; expected None"),
        "(Tensor x) -> SymInt": (lambda x: x + 1, "returned a Tensor as result 0"),
        "(Tensor x) -> Tensor[]": (lambda x: x + 1, "expected a list of tensors"),
    }
    for schema, (kernel, message) in cases.items():
        op = custom_op("tests::kinds", kernel, mutates_args=(), schema=schema)
        with pytest.raises((RegistrationError, TypeError), match=message):
            op(x)


# ---------------------------------------------------------------- A12, A14, A16


@pytest.mark.spec("A14")
def test_exact_strides_reach_the_kernel_in_compiled_code() -> None:
    seen: list[Any] = []

    @custom_op("tests::strides", mutates_args=())
    def strides(x: Tensor) -> Tensor:
        seen.append(x.stride())
        return x.clone()

    strides.register_fake(lambda x: plait.empty_like(x))
    assert Tag.NEEDS_EXACT_STRIDES in strides.op.tags

    def f(x: Any) -> Any:
        return strides((x + 1).t().exp()), strides((x * 2).expand(3, 4, 5)), strides(x[:, 1:3] + 1)

    x = plait.ones(4, 5)
    f(x)
    eager, seen[:] = list(seen), []
    plait.compile(f)(x)
    assert seen == eager


@dataclass(frozen=True)
class Window:
    size: int


class Counter:
    def __init__(self) -> None:
        self.step = 1


library.register_opaque_type(Window, typ="value")
library.register_opaque_type(Counter, typ="reference", guard_fn=lambda c: c.step)


@pytest.mark.spec("A16")
def test_equal_values_share_a_compile_and_another_compiles_again_with_a_reason() -> None:
    @custom_op("tests::windowed", mutates_args=())
    def windowed(x: Tensor, window: Window) -> Tensor:
        return x * window.size

    windowed.register_fake(lambda x, window: plait.empty_like(x))
    compiled = plait.compile(lambda x, window: windowed(x, window) + 1)
    x = plait.ones(2)
    assert compiled(x, Window(2)).tolist() == [3.0, 3.0]
    assert compiled(x, Window(2)).tolist() == [3.0, 3.0]
    assert len(compiled.entries) == 1
    assert compiled(x, Window(3)).tolist() == [4.0, 4.0]
    assert len(compiled.entries) == 2 and "window" in str(compiled.recompiles[0])
    with pytest.raises(TypeError, match="argument 'window' has the wrong type; got int"):
        windowed(x, 3)


@pytest.mark.spec("A16")
def test_a_reference_is_guarded_by_identity_and_by_its_guard() -> None:
    @custom_op("tests::counted", mutates_args=())
    def counted(x: Tensor, counter: Counter) -> Tensor:
        return x * counter.step

    counted.register_fake(lambda x, counter: plait.empty_like(x))
    compiled = plait.compile(lambda x, counter: counted(x, counter))
    x, counter = plait.ones(1), Counter()
    compiled(x, counter)
    compiled(x, counter)
    assert len(compiled.entries) == 1
    counter.step = 2
    assert compiled(x, counter).tolist() == [2.0] and len(compiled.entries) == 2
    compiled(x, Counter())
    assert len(compiled.entries) == 3


def test_an_operator_outlives_its_name_only_while_defined() -> None:
    op = scaled()
    op.destroy()
    with pytest.raises(InvalidArgument, match="no operator is called 'tests::scaled'"):
        plait.dispatch.lookup("tests::scaled")
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled()


def test_compiled_calls_record_why_they_run_eagerly() -> None:
    op = scaled()
    log.clear()
    plait.compile(lambda x: op(x))(plait.ones(2))
    assert any("tests::scaled" in str(e) for e in log.events("fallback"))
