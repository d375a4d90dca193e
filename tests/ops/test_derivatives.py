"""First and second derivatives of every operator against finite differences, in doubles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import plait
from plait.dispatch.dispatcher import lookup
from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ops import aten
from plait.tensor.tensor import Tensor, from_numpy
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.samples import SampleInput, sampled, samples
from plait.testing.samples.inputs import of

LIMIT = 3  # sample calls of one operator

# Their slopes jump where values tie or meet a bound, as rounded samples do: these are moved apart.
KINKED = {
    "abs", "relu", "sign", "maximum", "minimum", "amax", "amin", "max", "min", "clamp",
    "clamp_min", "clamp_max", "threshold_backward",
}  # fmt: skip


# Arguments of composites whose derivative is declared not to exist, below them.
UNDERIVED = {("aten::nll_loss_nd", "weight"), ("aten::cross_entropy_loss", "weight")}
# Options that ask for another gradient than the slope: rows left out, or scaled by their number.
NOT_SLOPES = {("aten::embedding", "padding 0"), ("aten::embedding", "by frequency")}


def _is_differentiable(op: Overload) -> bool:
    rules = any(rule is not None for rule in (op.vjp or {}).values())
    if op.qualname == "aten::isreal":
        return False
    return (rules or op.is_composite) and Tag.NONDETERMINISTIC_SEEDED not in op.tags


DOUBLES = {2: plait.float64, 3: plait.complex128}  # by category


def _to_double(value: Any, op: Overload, seed: int) -> Any:
    """Floating and complex tensors and dtypes in double precision; others as they are."""
    if isinstance(value, plait.DType):
        return DOUBLES.get(value.category, value)
    if not isinstance(value, Tensor) or value.dtype.category not in DOUBLES:
        return value
    array = value.numpy(force=True).astype(DOUBLES[value.dtype.category].numpy)
    if op.name in KINKED:
        array = np.asarray(array + np.random.default_rng(seed).uniform(0.02, 0.05, array.shape))
    return from_numpy(array)


def _call_in_double(op: Overload, sample: SampleInput) -> SampleInput:
    seeds = iter(range(100))
    return sample.replaced(lambda value: _to_double(value, op, next(seeds)))


class Check:
    """One operator call as a function of the floating tensors that it can be differentiated by."""

    def __init__(self, op: Overload, call: SampleInput) -> None:
        self.op = op
        args, kwargs = op.normalize(call.args, call.kwargs)
        names = [a.name for a in op.schema.positional]
        self.named = dict(zip(names, args, strict=True)) | kwargs
        self.followed: list[tuple[str, int | None]] = list(self._followed())

    def _followed(self) -> Iterator[tuple[str, int | None]]:
        """(argument, position in its list) of each."""
        for name, value in self.named.items():
            if self.op.vjp is not None and self.op.vjp.get(name) is None:
                continue
            if (self.op.qualname, name) in UNDERIVED:
                continue
            if isinstance(value, list | tuple):
                yield from ((name, i) for i, v in enumerate(value) if _is_followed(v))
            elif _is_followed(value):
                yield name, None

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors differentiated by."""
        found = [self.named[n] if i is None else self.named[n][i] for n, i in self.followed]
        return [t.detach().requires_grad_() for t in found]

    def __call__(self, *tensors: Any) -> Any:
        named = {n: list(v) if isinstance(v, tuple) else v for n, v in self.named.items()}
        for (name, i), tensor in zip(self.followed, tensors, strict=False):
            if i is None:
                named[name] = tensor
            else:
                named[name][i] = tensor
        return self.op(
            *[named[a.name] for a in self.op.schema.positional],
            **{a.name: named[a.name] for a in self.op.schema.kwonly},
        )

    def is_regular(self) -> bool:
        """Whether there is something to differentiate, and all of it is finite."""
        if not self.followed or any(t.numel() == 0 for t in self.inputs):
            return False
        out = self(*self.inputs)
        outs = list(out) if isinstance(out, list | tuple) else [out]
        tensors = [t for t in (*self.inputs, *outs) if t.dtype.category > 1]
        finite = all(np.isfinite(t.numpy(force=True)).all() for t in tensors)
        return finite and any(o.requires_grad for o in outs)


def _is_followed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in DOUBLES.values()


def _checks(qualname: str) -> list[Check]:
    """All calls that can be checked."""
    op = lookup(qualname)
    calls = [s for s in samples(qualname) if (qualname, s.name) not in NOT_SLOPES]
    found = [Check(op, _call_in_double(op, call)) for call in calls]
    return [check for check in found if check.is_regular()]


OPERATORS = [q for q in sampled() if _is_differentiable(lookup(q))]


@pytest.mark.parametrize("qualname", OPERATORS)
def test_first_and_second_derivatives(qualname: str) -> None:
    checks = _checks(qualname)
    assert checks, "no sample of it can be differentiated"
    for check in checks[:: math.ceil(len(checks) / LIMIT)]:
        gradcheck(check, check.inputs)
        gradgradcheck(check, check.inputs)


@pytest.mark.sweep
@pytest.mark.parametrize("qualname", OPERATORS)
def test_first_and_second_derivatives_of_every_sample(qualname: str) -> None:
    for check in _checks(qualname):
        gradcheck(check, check.inputs)
        gradgradcheck(check, check.inputs)


@pytest.mark.parametrize("zeros", [(), (1,), (0, 2), (0, 1, 3)])
def test_factors_of_zero_in_a_product(zeros: tuple[int, ...]) -> None:
    values = [[0.0 if i in zeros else 0.5 + i for i in range(4)], [1.0, -2.0, 3.0, 0.0]]
    x = of(values, plait.float64).requires_grad_()
    for product in (lambda x: aten.prod.dim_int(x, 1), aten.prod.default):
        gradcheck(product, [x])
        gradgradcheck(product, [x])
