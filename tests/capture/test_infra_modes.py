"""The compiler's own modes: each error of fakes, functional tensors, proxies by a program."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait.aot.functionalize import FunctionalMode, wrap
from plait.base.errors import (
    CaptureError,
    DataDependentError,
    DeviceMismatch,
    MissingKernel,
    RegistrationError,
    ShapeMismatch,
)
from plait.capture.fake import FakeMode, FakeTensor, fake_like
from plait.capture.proxy import ProxyMode, Recorder
from plait.dispatch import DispatchKey, Tag
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.ir.descriptors import PlainAOTInput
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import make_fake


class Counting:
    """Random state for tests: call numbers from nought."""

    calls = 0

    def next_call(self) -> tuple[int, int]:
        self.calls += 1
        return 0, self.calls - 1


def functional() -> FunctionalMode:
    return FunctionalMode(Counting())


def fake(*shape: int) -> Any:
    return make_fake(TensorMeta(shape, plait.float32), cls=FakeTensor)


@pytest.mark.spec("E10")
def test_fakes_compute_metadata_and_refuse_reads() -> None:
    with FakeMode():
        y = (fake(3, 1) + fake(4)).t()
        assert (y.shape, y.stride()) == ((4, 3), (1, 4))
        with pytest.raises(ShapeMismatch, match="add"):
            _ = fake(3) + fake(4)
        for read in (lambda: y.sum().item(), y.tolist, lambda: bool(y.sum() > 0), y.numpy):
            with pytest.raises(DataDependentError, match="expected no read of data"):
                read()


@pytest.mark.spec("E10")
def test_an_operator_without_shape_rule_is_unsupported_on_fakes() -> None:
    op = Overload(FunctionSchema.parse("test::opaque(Tensor x) -> Tensor"))
    op.register(DispatchKey.CPU, lambda x: x)
    with FakeMode(), pytest.raises(MissingKernel, match="test::opaque: has no shape rule"):
        op(fake(2))


@pytest.mark.spec("E10")
def test_a_shape_that_depends_on_data_is_unsupported_on_fakes() -> None:
    op = Overload(
        FunctionSchema.parse("test::positives(Tensor x) -> Tensor"),
        frozenset({Tag.DYNAMIC_OUTPUT_SHAPE}),
    )
    with (
        FakeMode(),
        pytest.raises(DataDependentError, match="test::positives: the shape of its result"),
    ):
        op(fake(2))


@pytest.mark.spec("E10")
def test_mixed_devices_are_named() -> None:
    meta = plait.zeros(2, device="meta")
    with FakeMode(), pytest.raises(DeviceMismatch, match="'self' on cpu, 'other' on meta"):
        _ = fake(2) + meta


@pytest.mark.spec("E10")
def test_a_fake_outside_its_trace_refuses_to_work() -> None:
    escaped = fake_like(plait.ones(2))
    with pytest.raises(CaptureError, match="outside the trace that made it"):
        _ = escaped + 1


@pytest.mark.spec("E10")
def test_a_functional_tensor_without_its_mode_is_an_error() -> None:
    with FakeMode():
        escaped = wrap(fake(2))
    with pytest.raises(CaptureError, match="functional tensor"):
        _ = escaped + 1


@pytest.mark.spec("E10")
def test_a_plain_tensor_inside_functionalisation_is_an_error() -> None:
    plain = plait.ones(2)
    with FakeMode(), functional(), pytest.raises(CaptureError, match="is not functional"):
        _ = wrap(fake(2)) + plain


@pytest.mark.spec("E10")
def test_proxies_record_calls_and_refuse_strangers() -> None:
    recorder = Recorder("traced")
    x = fake(2)
    value = recorder.builder.input(x.meta, PlainAOTInput(0))
    recorder.bind(x, value)
    with FakeMode(), ProxyMode(recorder):
        y = x.sin()
        assert [n.op.qualname for n in recorder.builder.graph.nodes] == ["aten::sin"]
        with pytest.raises(CaptureError, match="entered the graph 'traced' from outside"):
            _ = y + fake(2)
        with pytest.raises(DataDependentError):
            y.tolist()


@pytest.mark.spec("E10")
@pytest.mark.parametrize("make", [FakeMode, functional, lambda: ProxyMode(Recorder("g"))])
def test_each_slot_holds_one_mode(make: Any) -> None:
    with make(), pytest.raises(RegistrationError, match="slot is taken"), make():
        pass
