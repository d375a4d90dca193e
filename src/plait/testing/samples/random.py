"""Sample calls of random operators, and of the sources they draw from."""

from __future__ import annotations

from collections.abc import Iterator

from plait.dispatch.dispatcher import lookup
from plait.tensor import dtype as dt
from plait.testing.samples import SampleInput, make, sampler, samples
from plait.testing.samples.inputs import layouts

__all__ = ["RANDOM", "SEED", "explicit"]

SEED = 0x1234_5678_9ABC  # of the samples of explicit forms

_SIZES = ((2, 3), (), (0, 4), (7,), (33, 5))
_FLOATS = (dt.float32, dt.float64)

RANDOM = (
    "aten::rand",
    "aten::randn",
    "aten::rand_like",
    "aten::randn_like",
    "aten::uniform",
    "aten::normal",
    "aten::bernoulli",
    "aten::bernoulli.p",
    "aten::native_dropout",
    "aten::multinomial",
)


@sampler("plait::philox_uniform", "plait::philox_normal")
def _sources() -> Iterator[SampleInput]:
    for size in _SIZES:
        for dtype in _FLOATS:
            yield SampleInput(size, SEED, 3, dtype=dtype, name=f"{size} {dtype.name}")
    yield SampleInput((5,), -1, 2**40, name="large seed and call")


@sampler("aten::rand", "aten::randn")
def _sized() -> Iterator[SampleInput]:
    for size in _SIZES:
        yield SampleInput(size, name=str(size))
    for dtype in (*_FLOATS, dt.float16, dt.bfloat16):
        yield SampleInput((2, 2), dtype=dtype, name=dtype.name)


@sampler("aten::rand_like", "aten::randn_like")
def _likes() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, name=name)
    yield SampleInput(make(2, dtype=dt.int64), dtype=dt.float32, name="of int64")
    yield SampleInput(make(2, 2), dtype=dt.float64, name="as float64")


@sampler("aten::uniform", "aten::normal")
def _bounded() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, name=name)
    yield SampleInput(make(6), 2.0, 5.0, name="bounds")
    yield SampleInput(make(6, dtype=dt.float64), -1.0, 0.5, name="float64")


@sampler("aten::bernoulli")
def _probabilities() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4), low=0, high=1):
        yield SampleInput(x, name=name)
    yield SampleInput(make(6, dtype=dt.float64, low=0, high=1), name="float64")


@sampler("aten::bernoulli.p")
def _one_probability() -> Iterator[SampleInput]:
    for p in (0.0, 0.3, 1.0):
        yield SampleInput(make(4, 5), p, name=f"p={p}")
    yield SampleInput(make(4, dtype=dt.int64), 0.5, name="int64")


@sampler("aten::native_dropout")
def _dropouts() -> Iterator[SampleInput]:
    for name, x in layouts((3, 2, 4)):
        yield SampleInput(x, 0.4, True, name=name)
    for p in (0.0, 1.0):
        yield SampleInput(make(5), p, True, name=f"p={p}")
    yield SampleInput(make(5), 0.5, False, name="not training")
    yield SampleInput(make(5), 0.5, None, name="unsaid")
    yield SampleInput(make(5, dtype=dt.float64), 0.1, True, name="float64")


@sampler("aten::multinomial")
def _classes() -> Iterator[SampleInput]:
    for name, x in layouts((3, 5), low=0, high=1):
        yield SampleInput(x, 1, name=name)
    weights = make(3, 5, low=0, high=1)
    yield SampleInput(weights, 3, name="without replacement")
    yield SampleInput(weights, 7, True, name="with replacement")
    yield SampleInput(make(5, low=0, high=1, dtype=dt.float64), 5, name="vector")
    yield SampleInput(make(5, low=0, high=1), 2, True, name="vector with replacement")


def explicit(sample: SampleInput, call: int = 3) -> SampleInput:
    """The sample call of a random operator as one of its explicit form."""
    return SampleInput(*sample.args, SEED, call, name=sample.name, **sample.kwargs)


def _register_explicit(qualname: str) -> None:
    op = lookup(qualname)
    form = op.explicit_random
    assert form is not None, f"{qualname}: no explicit form"

    @sampler(form.qualname)
    def calls() -> Iterator[SampleInput]:
        for sample in samples(qualname):
            args, kwargs = op.normalize(sample.args, sample.kwargs)
            yield explicit(SampleInput(*args, name=sample.name, **kwargs))


for _qualname in RANDOM:
    _register_explicit(_qualname)
