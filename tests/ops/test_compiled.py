"""Every operator compiled to native code against itself run eagerly; and with symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import plait
from plait.autograd.functional import grad
from plait.base import log
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.tensor.tensor import Tensor
from plait.testing import compare
from plait.testing.samples import SampleInput, sampled, samples
from plait.testing.samples.retyped import retyped

OPERATORS = [q for q in sampled() if not lookup(q).is_composite]

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"

# What may run eagerly inside a compiled graph: operator -> how the recorded reason begins.
NOT_NATIVE = {
    "aten::empty_strided": "memory with gaps or repeats",
    "aten::as_strided_scatter": "as_strided_scatter into a view that may begin elsewhere",
    "aten::floor_divide": "integers divided by what may be 0",
    "aten::remainder.Tensor": "integers divided by what may be 0",
    "aten::fmod.Tensor": "integers divided by what may be 0",
    "aten::index_select": "index_select of a 0-d tensor",
    "aten::gather": "gather of a 0-d tensor",
    "aten::scatter.src": "scatter into a 0-d tensor",
    "aten::scatter.value": "scatter into a 0-d tensor",
    "aten::scatter_add": "scatter_add of a 0-d tensor",
    "aten::index_add": "index_add of a 0-d tensor",
}
# The same where sizes are symbolic.
NOT_NATIVE_SYMBOLIC = {
    "aten::cumsum": "cumsum over ",
    "aten::as_strided_scatter": "a size is symbolic",
    FLASH: f"{FLASH}: its decomposition must know",
    f"{FLASH}_backward": f"{FLASH}_backward: its decomposition must know",
}
# Memory that nobody has written: only its type is compared.
UNWRITTEN = {
    "aten::empty.memory_format", "aten::empty_like", "aten::new_empty", "aten::empty_strided",
    "aten::new_empty_strided",
}  # fmt: skip


class Call:
    """One sample call as a function of its tensors alone."""

    def __init__(self, qualname: str, sample: SampleInput) -> None:
        self.op, self.sample = lookup(qualname), sample
        self.tensors = list(sample.tensors())

    def __call__(self, *tensors: Any) -> Any:
        given = iter(tensors)
        call = self.sample.replaced(lambda v: next(given) if isinstance(v, Tensor) else v)
        return self.op(*call.args, **call.kwargs)

    def traced(self) -> Callable[..., Any]:
        """A plain function, which is what the compiler captures."""
        return lambda *tensors: self(*tensors)


def _is_turned(sample: SampleInput) -> bool:
    """Whether an argument lies in memory in an order or with gaps of its own."""
    return any(t.numel() > 1 and not t.is_contiguous() for t in sample.tensors())


def _is_special(sample: SampleInput) -> bool:
    """Whether NaN or infinity is among the values."""
    return any(
        t.dtype.is_floating and not np.isfinite(t.numpy(force=True).astype(np.float64)).all()
        for t in sample.tensors()
    )


def _chosen(qualname: str) -> list[SampleInput]:
    """One call that is not contiguous and one with NaN or infinity, or else the first ones."""
    calls = samples(qualname)
    found = [next(filter(fits, calls), None) for fits in (_is_turned, _is_special)]
    return [sample for sample in found if sample is not None] or calls[:2]


def _params(pick: Callable[[str], Iterable[SampleInput]]) -> list[Any]:
    return [
        pytest.param(q, sample, id=f"{q.partition('::')[2]}-{sample.name}")
        for q in OPERATORS
        for sample in pick(q)
    ]


def _results(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, list | tuple) else [out]


def _check_alike(qualname: str, got: Any, wanted: Any, label: str) -> None:
    for ours, own in zip(_results(got), _results(wanted), strict=True):
        assert ours.dtype is own.dtype, f"{label}: dtype {ours.dtype}, not {own.dtype}"
        assert ours.shape == own.shape, f"{label}: shape {ours.shape}, not {own.shape}"
        assert ours.strides == own.strides, f"{label}: strides {ours.strides}, not {own.strides}"
        if qualname not in UNWRITTEN:
            compare.assert_close(ours, own, family="compiled", label=label)


def _check_fallbacks(qualname: str, allowed: dict[str, str]) -> None:
    """Nothing ran eagerly but what is listed, with the reason that is listed."""
    reasons = [event.reason for event in log.events("fallback")]
    expected = allowed.get(qualname)
    assert [r for r in reasons if expected is None or not r.startswith(expected)] == []


def _check_compiled(
    qualname: str, sample: SampleInput, allowed: dict[str, str], **options: Any
) -> None:
    call, label = Call(qualname, sample), f"{qualname} [{sample.name}]"
    plait.manual_seed(0)
    wanted = call(*call.tensors)
    log.clear()
    compiled = plait.compile(call.traced(), **options)
    plait.manual_seed(0)
    _check_alike(qualname, compiled(*call.tensors), wanted, label)
    _check_fallbacks(qualname, allowed)


@pytest.mark.parametrize(("qualname", "sample"), _params(_chosen))
def test_native_code_computes_the_operator(qualname: str, sample: SampleInput) -> None:
    _check_compiled(qualname, sample, NOT_NATIVE)


TYPES = (plait.float16, plait.bfloat16, plait.complex64)


def _in_other_types(qualname: str) -> list[SampleInput]:
    """The first call in each type, where the operator has it."""
    calls = [sample for dtype in TYPES for sample in retyped(qualname, dtype)[:1]]
    return [s for s in calls if not _raises(Call(qualname, s))]


def _raises(call: Call) -> bool:
    try:
        if call.op.shape_rule is not None:
            args, kwargs = call.op.normalize(call.sample.args, call.sample.kwargs)
            call.op.shape_rule(*args, **kwargs)
        call(*call.tensors)
    except plait.PlaitError:
        return True
    return False


@pytest.mark.parametrize(("qualname", "sample"), _params(_in_other_types))
def test_element_types(qualname: str, sample: SampleInput) -> None:
    _check_compiled(qualname, sample, NOT_NATIVE)


# Samples that were once compiled wrongly, and are not among those chosen.
WRONG_ONCE = {
    "aten::empty_strided": ("gaps", "stretched"), "aten::arange.start_step": ("truncated bounds",),
    "aten::addmm": ("alpha 0 ignores nan",), "aten::_softmax": ("no columns",),
    "aten::_log_softmax": ("no columns",), "aten::nll_loss_forward": ("one row 0",),
    "aten::max.dim": ("bfloat16",), "aten::min.dim": ("bfloat16",), "aten::argmax": ("bfloat16",),
    "aten::argmin": ("bfloat16",), "aten::any.dims": ("no dims",), "aten::all.dims": ("no dims",),
    "aten::as_strided_scatter": ("begins later",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("qualname", "sample"),
    _params(lambda q: [s for s in samples(q) if s.name in WRONG_ONCE.get(q, ())]),
)
def test_what_was_wrong_once(qualname: str, sample: SampleInput) -> None:
    _check_compiled(qualname, sample, NOT_NATIVE)


@pytest.mark.sweep
@pytest.mark.parametrize(("qualname", "sample"), _params(samples))
def test_native_code_computes_the_operator_for_every_sample(
    qualname: str, sample: SampleInput
) -> None:
    _check_compiled(qualname, sample, NOT_NATIVE)


@pytest.mark.parametrize("qualname", NOT_NATIVE)
def test_no_operator_is_excused_in_vain(qualname: str) -> None:
    log.clear()
    for sample in samples(qualname):
        call = Call(qualname, sample)
        plait.compile(call.traced())(*call.tensors)
        if log.events("fallback"):
            return
    raise AssertionError(f"{qualname} is native for every sample: take it off the list")


@pytest.mark.parametrize("size", [(), (1,), (4,)])
@pytest.mark.parametrize("name", ["index_select", "gather", "scatter", "scatter_add", "index_add"])
def test_a_wrong_index_is_an_error(name: str, size: tuple[int, ...]) -> None:
    x, places = plait.ones(size), plait.tensor([4])
    source = plait.ones(1 if size or name != "index_add" else ())
    rest = () if name in ("index_select", "gather") else (source,)
    for before in (lambda x: x, lambda x: x + 1):
        call = plait.compile(lambda x, places: getattr(aten, name)(before(x), 0, places, *rest))  # noqa: B023 - called at once
        with pytest.raises(IndexError, match="out of (bounds|range)"):
            call(x, places)


# ---------------------------------------------------------------- gradients


def _is_differentiable(qualname: str) -> bool:
    return any(rule is not None for rule in (lookup(qualname).vjp or {}).values())


def _gradients(fn: Callable[..., Any], call: Call) -> list[Any]:
    """Gradients of all floating arguments for a fixed cotangent, None where nothing flows."""
    tensors = [
        t.detach().requires_grad_() if t.dtype.category > 1 else t.detach() for t in call.tensors
    ]
    plait.manual_seed(0)
    outs = [out for out in _results(fn(*tensors)) if out.requires_grad]
    cotangents = [compare._cotangent(out) for out in outs]
    inputs = [t for t in tensors if t.requires_grad]
    return list(grad(outs, inputs, cotangents, allow_unused=True))


def _differentiated(qualname: str) -> list[SampleInput]:
    """One call to follow: with elements, floating and finite; not contiguous where there is one."""
    calls = [s for s in samples(qualname) if _can_be_followed(s) and not _is_special(s)]
    calls = [s for s in calls if _has_gradient(Call(qualname, s))]
    return (list(filter(_is_turned, calls)) or calls)[:1]


def _can_be_followed(sample: SampleInput) -> bool:
    tensors = [t for t in sample.tensors() if t.dtype.is_floating]
    return bool(tensors) and all(t.numel() and t.dtype.itemsize >= 4 for t in tensors)


def _has_gradient(call: Call) -> bool:
    tensors = [t.detach().requires_grad_() if t.dtype.is_floating else t for t in call.tensors]
    return any(out.requires_grad for out in _results(call(*tensors)))


@pytest.mark.parametrize(
    ("qualname", "sample"), _params(lambda q: _differentiated(q) if _is_differentiable(q) else [])
)
def test_native_gradients(qualname: str, sample: SampleInput) -> None:
    call, label = Call(qualname, sample), f"{qualname} [{sample.name}]"
    wanted = _gradients(call, call)
    log.clear()
    got = _gradients(plait.compile(call.traced()), call)
    for ours, own in zip(got, wanted, strict=True):
        assert (ours is None) == (own is None), f"{label}: a gradient is missing"
        if own is not None:
            assert ours.dtype is own.dtype and ours.shape == own.shape, label
            compare.assert_close(ours, own, family="compiled", label=label)
    _check_fallbacks(qualname, NOT_NATIVE)


# ---------------------------------------------------------------- symbolic sizes


def _large(qualname: str) -> list[SampleInput]:
    """One call whose sizes can be symbolic, so are not 0 or 1; of these one not contiguous."""
    calls = [
        s
        for s in samples(qualname)
        if all(t.ndim and min(t.shape) > 1 for t in s.tensors()) and list(s.tensors())
    ]
    return (list(filter(_is_turned, calls)) or calls or samples(qualname))[:1]


@pytest.mark.parametrize(("qualname", "sample"), _params(_large))
def test_symbolic_sizes(qualname: str, sample: SampleInput) -> None:
    _check_compiled(qualname, sample, {}, backend="aot_eager", dynamic=True)


@pytest.mark.sweep
@pytest.mark.parametrize(("qualname", "sample"), _params(_large))
def test_native_code_with_symbolic_sizes(qualname: str, sample: SampleInput) -> None:
    _check_compiled(qualname, sample, NOT_NATIVE | NOT_NATIVE_SYMBOLIC, dynamic=True)
