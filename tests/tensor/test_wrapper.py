"""Wrapper subclasses: the protocol, aliases, the tape above them, and what fails clearly."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError, InplaceError, InvalidArgument, MissingKernel
from plait.dispatch.state import tls
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import (
    WrapperTensor,
    correct_aliasing,
    flatten_wrapper,
    inner_tensors,
    is_wrapper,
    map_tensors,
    unflatten_wrapper,
)
from plait.testing.two_tensor import TwoTensor


def two(*values: float, requires_grad: bool = False) -> TwoTensor:
    a = plait.tensor(list(values))
    return TwoTensor(a, a * 10, requires_grad=requires_grad)


def pair(t: Any) -> tuple[Any, Any]:
    return t.a.tolist(), t.b.tolist()


# ---------------------------------------------------------------- E13: protocol and aliases


@pytest.mark.spec("E13")
def test_an_in_place_result_is_the_same_object() -> None:
    x = two(1.0, 2.0)
    inner = x.a
    assert x.add_(1) is x and x.mul_(two(2.0, 3.0)) is x
    assert x.a is inner and pair(x) == ([4.0, 9.0], [220.0, 630.0])
    x += 1
    assert x.a is inner and x._version == 3


@pytest.mark.spec("E13")
def test_a_result_written_by_out_is_the_given_object() -> None:
    target = two(0.0, 0.0)
    assert plait.ops.aten.add.out(two(1.0, 2.0), two(3.0, 4.0), out=target) is target
    assert pair(target) == ([4.0, 6.0], [40.0, 60.0])


@pytest.mark.spec("E13")
def test_views_share_storage_and_version_with_their_base() -> None:
    x = two(1.0, 2.0, 3.0)
    tail, parts = x[1:], x.split(1)
    assert tail.storage is x.storage and all(p.storage is x.storage for p in parts)
    tail.mul_(2)
    assert pair(x) == ([1.0, 4.0, 6.0], [10.0, 40.0, 60.0])
    assert x._version == tail._version == parts[0]._version == 1
    assert (x * 1).storage is not x.storage


@pytest.mark.spec("E13")
def test_flatten_and_unflatten_are_inverse() -> None:
    x = TwoTensor(two(1.0), two(2.0))
    names, context = flatten_wrapper(x)
    again = unflatten_wrapper(
        TwoTensor, {n: getattr(x, n) for n in names}, context, x.shape, x.strides
    )
    assert again is not x and again.a is x.a and again.b is x.b
    assert [t.tolist() for t in inner_tensors(x)] == [[1.0], [10.0], [2.0], [20.0]]
    assert is_wrapper(x) and not is_wrapper(x.a.a)


def test_an_answer_of_another_form_is_named() -> None:
    class Odd(TwoTensor):
        answer: Any = ()

        def __plait_flatten__(self) -> Any:
            return self.answer

        @classmethod
        def __plait_unflatten__(cls, inner: Any, context: Any, shape: Any, strides: Any) -> Tensor:
            return plait.ones(3)

    x = Odd(plait.ones(2), plait.ones(2))
    with pytest.raises(ArgumentTypeError, match=r"Odd.__plait_flatten__: got \(\); expected"):
        flatten_wrapper(x)
    x.answer = (("a", "scale"), None)
    with pytest.raises(ArgumentTypeError, match="names 'scale', which holds a NoneType"):
        flatten_wrapper(x)
    with pytest.raises(ArgumentTypeError, match=r"got a Tensor of shape \(3,\); expected a Odd"):
        unflatten_wrapper(Odd, {}, None, (2,), (1,))


def test_a_class_without_the_protocol_is_named() -> None:
    class Bare(WrapperTensor):
        pass

    x = Bare((2,), dtype=plait.float32)
    with pytest.raises(MissingKernel, match=r"Bare: the class does not define __plait_flatten__"):
        x.__plait_flatten__()
    with pytest.raises(MissingKernel, match=r"Bare: .*__plait_unflatten__"):
        Bare.__plait_unflatten__({}, None, (), ())
    with pytest.raises(ArgumentTypeError, match="answered NotImplemented: subclass Bare"):
        _ = x + 1
    with pytest.raises(InvalidArgument, match="Bare: argument 'strides' has the wrong rank"):
        Bare((2,), dtype=plait.float32, strides=(1, 1))


def test_a_handler_that_returns_too_few_results_is_named() -> None:
    op = plait.dispatch.Overload(
        plait.dispatch.FunctionSchema.parse(
            "test::both(Tensor(a!) x, Tensor(b) y) -> (Tensor(a!), Tensor(b))"
        )
    )
    x, y = two(1.0), two(2.0)
    made = two(2.0)
    assert correct_aliasing(op, (x, y), {}, (x.a, made)) == (x, made)
    assert made.storage is y.storage
    with pytest.raises(ArgumentTypeError, match="test::both: the handler returned Tensor"):
        correct_aliasing(op, (x, y), {}, x.a)


# ---------------------------------------------------------------- metadata and data


def test_a_wrapper_has_metadata_of_its_own() -> None:
    x = TwoTensor(plait.ones(2, 3).t(), plait.ones(2, 3).t())
    assert (x.shape, x.stride(), x.ndim, x.numel()) == ((3, 2), (1, 3), 2, 6)
    assert x.dtype is plait.float32 and not x.is_contiguous() and not x.is_fake
    on_meta = TwoTensor(plait.zeros(2, device="meta"), plait.zeros(2, device="meta"))
    assert (on_meta + 1).a.device.type == "meta" and on_meta.is_fake


def test_reads_of_data_need_a_plain_form() -> None:
    x = two(1.0)
    for read in (x.item, x.tolist, x.numpy, lambda: bool(x)):
        with pytest.raises(ArgumentTypeError, match="a TwoTensor holds tensors and has no plain"):
            read()

    class Sum(TwoTensor):
        def to_dense(self) -> Tensor:
            return self.a + self.b

    assert Sum(plait.ones(1), plait.ones(1)).item() == 2.0


def test_copies_and_texts() -> None:
    x = two(1.0, requires_grad=True)
    copied = copy.deepcopy(x)
    assert type(copied) is TwoTensor and copied.requires_grad and copied.a is not x.a
    assert repr(x) == "TwoTensor(a=tensor([1.]), b=tensor([10.]), requires_grad=True)"
    assert f"{x}".startswith("TwoTensor(")
    with pytest.raises(ArgumentTypeError, match="a TwoTensor is not pickled"):
        pickle.dumps(x)


def test_map_tensors_keeps_containers() -> None:
    x = two(1.0)
    assert map_tensors(lambda t: 0, ([x, 1], {"k": (x.a,)})) == ([0, 1], {"k": (0,)})
    assert map_tensors(lambda t: 0, ([x], x.a), TwoTensor) == ([0], x.a)


# ---------------------------------------------------------------- the tape above


def test_the_tape_follows_wrappers() -> None:
    x, w = two(1.0, 2.0, requires_grad=True), plait.tensor([3.0, 4.0], requires_grad=True)
    y = (x * w).exp().sum()
    y.backward()
    assert type(x.grad) is TwoTensor and type(w.grad) is TwoTensor
    for part in ("a", "b"):
        inner = getattr(x, part).clone().requires_grad_()
        other = w.detach().clone().requires_grad_()
        (inner * other).exp().sum().backward()
        assert getattr(x.grad, part).tolist() == inner.grad.tolist()
        assert getattr(w.grad, part).tolist() == other.grad.tolist()


def test_writes_through_views_are_differentiated() -> None:
    x = two(1.0, 2.0, requires_grad=True)
    y = x * 1
    y[0:1].mul_(3)
    (y * y).sum().backward()
    assert pair(x.grad) == ([18.0, 4.0], [180.0, 40.0])


def test_a_write_after_saving_is_an_error() -> None:
    x = two(1.0, requires_grad=True)
    y = x * 1
    z = y * y
    y[0].add_(1)
    with pytest.raises(InplaceError, match="modified by an inplace operation"):
        z.sum().backward()
    with pytest.raises(InplaceError, match="a leaf Variable"):
        x.add_(1)


def test_gradients_accumulate_and_derivatives_repeat() -> None:
    x = two(2.0, requires_grad=True)
    for _ in range(2):
        (x**3).sum().backward()
    assert pair(x.grad) == ([24.0], [2400.0])
    (g,) = plait.autograd.grad([(x**3).sum()], [x], create_graph=True)
    (gg,) = plait.autograd.grad([g.sum()], [x])
    assert pair(gg) == ([12.0], [120.0])


# ---------------------------------------------------------------- failing handlers


class Breaking(TwoTensor):
    """Fails on the second half of `sin`, by a kernel on `cos`, in a redispatch on `exp`."""

    @classmethod
    def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if op.name == "sin":
            op(*map_tensors(lambda t: t.a, args, cls), **kwargs)
            raise ValueError("after the first half")
        if op.name == "cos":
            return args[0].a @ plait.ones(7, 7)
        if op.name == "exp":
            with plait.dispatch.restore_entry_state(), plait.no_grad():
                raise ValueError("with the entry state")
        return super().__plait_dispatch__(op, types, args, kwargs)


@pytest.mark.spec("E13")
@pytest.mark.parametrize("name", ["sin", "cos", "exp"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_failing_handler_leaves_the_state_as_it_was(name: str, requires_grad: bool) -> None:
    failures: list[Any] = []

    def state() -> Any:
        return (
            tls.include, tls.exclude, list(tls.modes), dict(tls.handling), tls.entry_state,
            tls.grad_enabled,
        )  # fmt: skip

    def in_thread() -> None:
        x = Breaking(plait.ones(2), plait.ones(2), requires_grad=requires_grad)
        before = state()
        for _ in range(3):
            with pytest.raises((ValueError, RuntimeError)):
                getattr(x, name)()
            failures.append(None if state() == before else (before, state()))
        assert pair(x.neg()) == ([-1.0, -1.0], [-1.0, -1.0])

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [None] * 12


def test_a_failing_backward_leaves_the_state_as_it_was() -> None:
    class FailsBackward(TwoTensor):
        @classmethod
        def __plait_dispatch__(cls, op: Any, types: Any, args: Any, kwargs: Any) -> Any:
            if op.name == "cos":
                raise ValueError("in the derivative")
            return super().__plait_dispatch__(op, types, args, kwargs)

    x = FailsBackward(plait.ones(2), plait.ones(2), requires_grad=True)
    y = x.sin().sum()
    before = (tls.include, tls.exclude, tls.backward_node, tls.grad_enabled, dict(tls.handling))
    with pytest.raises(ValueError, match="in the derivative"):
        y.backward()
    after = (tls.include, tls.exclude, tls.backward_node, tls.grad_enabled, dict(tls.handling))
    assert before == after and x.grad is None
