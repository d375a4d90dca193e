"""Every operator compiled to native code, in every element type, against itself run eagerly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

import plait
from plait.autograd.functional import grad
from plait.base import log
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.tensor import dtype as dt
from plait.tensor.dtype import ALL_DTYPES, DType
from plait.tensor.tensor import Tensor
from plait.testing import compare
from plait.testing.samples import SampleInput, sampled
from plait.testing.samples.retyped import retyped

OPERATORS = [q for q in sampled() if not lookup(q).is_composite and not q.endswith("_explicit")]

# What may run eagerly inside a compiled graph: operator -> how the recorded reason begins.
NOT_NATIVE = {
    "aten::floor_divide": "integers divided by what may be 0",
    "aten::remainder.Tensor": "integers divided by what may be 0",
    "aten::fmod.Tensor": "integers divided by what may be 0",
    "aten::as_strided_scatter": "as_strided_scatter into a view that may begin elsewhere",
}


def _cases(kinds: Iterable[DType], count: int) -> list[Any]:
    return [
        pytest.param(q, kind, count, id=f"{q.partition('::')[2]}-{kind.name}")
        for kind in kinds
        for q in OPERATORS
    ]


def _results(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, list | tuple) else [out]


def _run(qualname: str, sample: SampleInput, tensors: Iterable[Any]) -> Any:
    given = iter(tensors)
    call = sample.replaced(lambda v: next(given) if isinstance(v, Tensor) else v)
    plait.manual_seed(0)
    return lookup(qualname)(*call.args, **call.kwargs)


def _eager(qualname: str, sample: SampleInput) -> Any:
    """The eager results, or None where the operator does not take this type."""
    try:
        return _run(qualname, sample, sample.tensors())
    except (PlaitError, TypeError, ValueError):
        return None


def _check(qualname: str, kind: DType, count: int) -> None:
    for sample in retyped(qualname, kind)[:count]:
        wanted, label = _eager(qualname, sample), f"{qualname} [{sample.name}]"
        if wanted is None:
            continue
        log.clear()
        tensors = list(sample.tensors())
        compiled = plait.compile(lambda *tensors: _run(qualname, sample, tensors))  # noqa: B023 - called at once
        for ours, own in zip(_results(compiled(*tensors)), _results(wanted), strict=True):
            assert ours.dtype is own.dtype, f"{label}: dtype {ours.dtype}, not {own.dtype}"
            assert ours.shape == own.shape and ours.strides == own.strides, label
            if "empty" not in qualname:
                compare.assert_close(ours, own, family="compiled", label=label)
        reasons = [event.reason for event in log.events("fallback")]
        allowed = NOT_NATIVE.get(qualname)
        assert [r for r in reasons if allowed is None or not r.startswith(allowed)] == [], label


@pytest.mark.parametrize(("qualname", "kind", "count"), _cases([dt.bfloat16, dt.complex64], 1))
def test_native_code_in_other_types(qualname: str, kind: DType, count: int) -> None:
    _check(qualname, kind, count)


@pytest.mark.sweep
@pytest.mark.parametrize(("qualname", "kind", "count"), _cases(ALL_DTYPES, 2))
def test_native_code_in_every_type(qualname: str, kind: DType, count: int) -> None:
    _check(qualname, kind, count)


def _gradients(qualname: str, sample: SampleInput, *, compiled: bool) -> list[Any]:
    def call(*tensors: Any) -> Any:
        return _run(qualname, sample, tensors)

    tensors = [t.detach().requires_grad_() if t.dtype.category > 1 else t for t in sample.tensors()]
    fn = plait.compile(call) if compiled else call
    outs = [out for out in _results(fn(*tensors)) if out.requires_grad]
    if not outs:
        return []
    inputs = [t for t in tensors if t.requires_grad]
    return list(grad(outs, inputs, [compare._cotangent(o) for o in outs], allow_unused=True))


def _check_gradients(qualname: str, kind: DType, count: int) -> None:
    has_rules = any(rule is not None for rule in (lookup(qualname).vjp or {}).values())
    for sample in retyped(qualname, kind)[: count if has_rules else 0]:
        if _eager(qualname, sample) is None:
            continue
        wanted = _gradients(qualname, sample, compiled=False)
        got = _gradients(qualname, sample, compiled=True)
        for ours, own in zip(got, wanted, strict=True):
            assert (ours is None) == (own is None), f"{qualname}: a gradient is missing"
            if own is not None:
                assert ours.dtype is own.dtype and ours.shape == own.shape, qualname
                compare.assert_close(ours, own, family="compiled", label=qualname)


@pytest.mark.parametrize(("qualname", "kind", "count"), _cases([dt.complex64], 1))
def test_native_gradients_of_complex_numbers(qualname: str, kind: DType, count: int) -> None:
    _check_gradients(qualname, kind, count)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("qualname", "kind", "count"), _cases([dt.float16, dt.bfloat16, dt.complex128], 1)
)
def test_native_gradients_in_other_types(qualname: str, kind: DType, count: int) -> None:
    _check_gradients(qualname, kind, count)
