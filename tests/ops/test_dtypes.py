"""Every operator in every element type: values, types, strides, gradients, refusals of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.tags import Tag
from plait.tensor import dtype as dt
from plait.testing import compare
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.samples import SampleInput, sampled
from plait.testing.samples.retyped import retyped

WIDE_UNSIGNED = (dt.uint16, dt.uint32, dt.uint64)  # PyTorch has them in few operators; we in all
FOLLOWED = (dt.bfloat16, dt.float64, dt.complex64)  # complex128 is followed numerically
# Memory that nobody has written, and kernels whose types depend on the device in PyTorch.
LEFT_OUT = ("empty", "new_empty", "_scaled_dot_product")


def _is_compared(qualname: str) -> bool:
    op = lookup(qualname)
    drawn = Tag.NONDETERMINISTIC_SEEDED in op.tags
    return qualname.startswith("aten::") and not drawn and not op.name.startswith(LEFT_OUT)


OPERATORS = [q for q in sampled() if _is_compared(q)]
# Where we do more than PyTorch, or less: (operator, type).
MORE = {("aten::threshold_backward", dt.bool_)}
LESS = {("aten::complex", dt.float16), ("aten::view_as_complex", dt.float16)}  # no complex32
LESS |= {("aten::_fused_rms_norm", t) for t in dt.ALL_DTYPES if t.is_complex}  # no mean of squares
LESS |= {("aten::rms_norm", t) for t in dt.ALL_DTYPES if t.is_complex}
# A functional copy keeps gaps between elements in PyTorch; its conjugates are views.
OWN_STRIDES = {"aten::copy", "aten::conj", "aten::adjoint"}


def _error(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _is_refused(torch: Any, qualname: str, sample: SampleInput, dtype: dt.DType) -> bool:
    """Whether the call is an error, in both or where we differ on purpose."""
    theirs = _error(lambda: compare.torch_call(torch, qualname, sample))
    ours = _error(lambda: lookup(qualname)(*sample.args, **sample.kwargs))
    label = f"{qualname} [{sample.name}]"
    if (qualname, dtype) in LESS:
        assert isinstance(ours, PlaitError) and theirs is None, label
        return True
    if theirs is None:
        assert ours is None, f"{label}: raised {ours!r}"
        return False
    if ours is None:
        assert dtype in WIDE_UNSIGNED or (qualname, dtype) in MORE, f"{label}: torch: {theirs!r}"
        return True
    expected = RuntimeError if isinstance(theirs, RuntimeError) else type(theirs)
    assert isinstance(ours, expected) and isinstance(ours, PlaitError), f"{label}: {ours!r}"
    return True


@pytest.mark.parametrize("qualname", OPERATORS)
def test_values_types_strides_and_refusals(torch: Any, qualname: str) -> None:
    op = lookup(qualname)
    for dtype in dt.ALL_DTYPES:
        for sample in retyped(qualname, dtype):
            if _is_refused(torch, qualname, sample, dtype):
                continue
            compare.check_against_torch(
                torch,
                qualname,
                sample,
                family="matmul" if op.is_composite else None,
                strides=qualname not in OWN_STRIDES,
            )
            if not op.is_composite:
                compare.check_shape_rule(qualname, sample)
            if op.decomposition is not None:
                compare.check_decomposition(qualname, sample)


def _is_differentiable(qualname: str) -> bool:
    op = lookup(qualname)
    return op.is_composite or any(rule is not None for rule in (op.vjp or {}).values())


DIFFERENTIABLE = [q for q in OPERATORS if _is_differentiable(q)]


def _accepted(qualname: str, dtype: dt.DType) -> list[SampleInput]:
    op = lookup(qualname)
    calls = retyped(qualname, dtype)
    return [s for s in calls if _error(lambda s=s: op(*s.args, **s.kwargs)) is None]


def _orders(torch: Any, qualname: str, sample: SampleInput) -> int:
    """How many derivatives PyTorch has of the call: 0, 1 or 2. The others are checked below."""
    call = sample.replaced(compare._differentiable)
    call = call.replaced(lambda value: compare.to_torch(torch, value))
    inputs = [t for t in compare._torch_tensors(call) if t.requires_grad]
    orders = 0
    try:
        outs = compare._results(compare.torch_op(torch, qualname)(*call.args, **call.kwargs))
        for _ in range(2):
            outs = [out for out in outs if out is not None and out.requires_grad]
            seeds = [torch.ones_like(out) for out in outs]
            options = {"allow_unused": True, "create_graph": True}
            outs = torch.autograd.grad(outs, inputs, seeds, **options) if outs else ()
            orders += 1
    except RuntimeError:
        return orders
    return orders


# PyTorch's gradient there is that of contiguous arguments only; ours is checked numerically.
OWN_GRADIENT = {"aten::as_strided_scatter"}


@pytest.mark.parametrize("qualname", [q for q in DIFFERENTIABLE if q not in OWN_GRADIENT])
def test_gradients(torch: Any, qualname: str) -> None:
    for dtype in FOLLOWED:
        for sample in _accepted(qualname, dtype):
            orders = _orders(torch, qualname, sample)
            if orders:
                compare.check_gradients_against_torch(torch, qualname, sample)
            if orders == 2 and dtype.itemsize >= 4:
                compare.check_second_gradients_against_torch(torch, qualname, sample)


@pytest.mark.parametrize("qualname", DIFFERENTIABLE)
def test_derivatives_by_complex_numbers(qualname: str) -> None:
    op = lookup(qualname)
    for sample in _accepted(qualname, dt.complex128)[:1]:
        inputs = [t for t in sample.tensors() if t.dtype.is_complex]
        unruled = {n for n, rule in (op.vjp or {}).items() if rule is None}
        if unruled or not inputs:
            continue

        def call(*tensors: Any, sample: SampleInput = sample) -> Any:
            given = iter(tensors)
            filled = sample.replaced(
                lambda v: next(given) if isinstance(v, plait.Tensor) and v.dtype.is_complex else v
            )
            return op(*filled.args, **filled.kwargs)

        leaves = [t.detach().requires_grad_() for t in inputs]
        outs = call(*leaves)
        if not any(o.requires_grad for o in (outs if isinstance(outs, list | tuple) else [outs])):
            continue
        gradcheck(call, leaves)
        gradgradcheck(call, leaves)
