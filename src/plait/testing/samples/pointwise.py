"""Sample calls of the pointwise operators, by how many operands they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor, from_numpy
from plait.testing.samples import SampleInput, expanded, make, offset, sampler, transposed

__all__: list[str] = []

_FLOATS = (dtypes.float32, dtypes.float64)
_NUMBERS = (*_FLOATS, dtypes.int64, dtypes.int32, dtypes.int8, dtypes.uint8)
_ALL = (*_NUMBERS, dtypes.bool_)

Operand = Callable[..., Tensor]


def special() -> Tensor:
    """The values that go wrong: NaN, infinities, both zeros, large and small ones."""
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e38, 1e-40, 0.5]
    return from_numpy(np.array(values, np.float32))


def layouts(low: float = -3.0, high: float = 3.0) -> Iterator[tuple[str, Tensor]]:
    """One float32 tensor of every kind of layout."""
    options: dict[str, Any] = {"low": low, "high": high}
    yield "contiguous", make(3, 4, **options)
    yield "transposed", transposed(3, 4, **options)
    yield "sliced", offset(3, 4, **options)
    yield "expanded", expanded(3, 4, **options)
    yield "scalar", make(**options)
    yield "empty", make(0, 4, **options)
    yield "ones", make(1, 3, 1, **options)
    yield "rank3", transposed(2, 3, 4, **options)


def _unary(
    names: str, dtypes_: tuple[DType, ...] = _NUMBERS, low: float = -3.0, high: float = 3.0
) -> None:
    def calls() -> Iterator[SampleInput]:
        for name, x in layouts(low, high):
            yield SampleInput(x, name=name)
        for dtype in dtypes_:
            yield SampleInput(make(5, dtype=dtype, low=low, high=high), name=dtype.name)
        yield SampleInput(special(), name="special")

    sampler(*[f"aten::{name}" for name in names.split()])(calls)


_unary("neg abs square relu", _NUMBERS)
_unary("sign exp expm1 erf sin cos tanh sigmoid reciprocal logical_not isnan isinf isfinite", _ALL)
_unary("log log1p sqrt rsqrt", _ALL, 0.1, 4.0)
_unary("floor ceil trunc round", _FLOATS)
_unary("silu", _FLOATS)
_unary("clone zero", _ALL)


def pairs(low: float = -3.0, high: float = 3.0) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Two float32 operands in every relation of layouts and shapes."""
    options: dict[str, Any] = {"low": low, "high": high}
    other = {**options, "seed": 1}
    yield "contiguous", make(3, 4, **options), make(3, 4, **other)
    yield "transposed", transposed(3, 4, **options), transposed(3, 4, **other)
    yield "mixed", transposed(3, 4, **options), make(3, 4, **other)
    yield "sliced", offset(3, 4, **options), make(3, 4, **other)
    yield "expanded", expanded(3, 4, **options), make(3, 4, **other)
    yield "row", make(3, 4, **options), make(4, **other)
    yield "column", make(3, 1, **options), make(1, 4, **other)
    yield "larger_second", make(4, **options), transposed(3, 4, **other)
    yield "scalar", make(3, 4, **options), make(**other)
    yield "scalars", make(**options), make(**other)
    yield "empty", make(0, 4, **options), make(1, 4, **other)
    yield "rank3", transposed(2, 3, 4, **options), make(3, 1, **other)


def dtype_pairs(among: tuple[DType, ...] = _ALL) -> Iterator[tuple[str, DType, DType]]:
    """Each dtype with itself and with the next ones."""
    for i, first in enumerate(among):
        for second in among[i : i + 3]:
            yield f"{first.name}_{second.name}", first, second


def _binary(
    *names: str,
    among: tuple[DType, ...] = _ALL,
    low: float = -3.0,
    high: float = 3.0,
    extra: tuple[dict[str, Any], ...] = (),
) -> None:
    def calls() -> Iterator[SampleInput]:
        for name, x, y in pairs(low, high):
            yield SampleInput(x, y, name=name)
        for name, a, b in dtype_pairs(among):
            x, y = make(5, dtype=a, low=low, high=high), make(5, dtype=b, low=1, high=3, seed=1)
            yield SampleInput(x, y, name=name)
            yield SampleInput(x, make(dtype=b, low=1, high=3), name=f"{name}_scalar")
        yield SampleInput(special(), make(10, seed=1), name="special")
        yield SampleInput(make(10, seed=1), special(), name="special_second")
        for options in extra:
            yield SampleInput(make(3), make(3, seed=1), name=str(options), **options)

    sampler(*[f"aten::{name}" for name in names])(calls)


_binary("add.Tensor", extra=({"alpha": 2}, {"alpha": -0.5}))
_binary("sub.Tensor", among=_NUMBERS, extra=({"alpha": 2}, {"alpha": -0.5}))
_binary("mul.Tensor", "div.Tensor")
_binary("maximum", "minimum", "logical_and", "logical_or", "logical_xor")
_binary(*[f"{name}.Tensor" for name in ("eq", "ne", "lt", "le", "gt", "ge")])
_binary("pow.Tensor_Tensor", among=_NUMBERS, low=0.5)
_DIVISIONS = ("floor_divide", "remainder", "fmod")
_binary("floor_divide", "remainder.Tensor", "fmod.Tensor", among=_NUMBERS, low=1.0)
_INTEGERS = (*_NUMBERS[2:], dtypes.bool_)


@sampler("aten::bitwise_and.Tensor", "aten::bitwise_or.Tensor", "aten::bitwise_xor.Tensor")
def _bits() -> Iterator[SampleInput]:
    for name, a, b in dtype_pairs(_INTEGERS):
        yield SampleInput(make(5, dtype=a), make(5, dtype=b, seed=1), name=name)


@sampler("aten::bitwise_and.Scalar", "aten::bitwise_or.Scalar", "aten::bitwise_xor.Scalar")
def _bits_scalar() -> Iterator[SampleInput]:
    for dtype in _INTEGERS:
        yield SampleInput(make(5, dtype=dtype), 5, name=dtype.name)


@sampler("aten::bitwise_left_shift.Tensor", "aten::bitwise_right_shift.Tensor")
def _shifts() -> Iterator[SampleInput]:
    for dtype in _NUMBERS[2:]:
        x, y = make(70, dtype=dtype, low=-100, high=100), np.arange(70) - 2
        yield SampleInput(x, from_numpy(y.astype(dtype.numpy)), name=dtype.name)
    x = transposed(3, 4, dtype=dtypes.int32)
    yield SampleInput(x, make(4, dtype=dtypes.int64, low=0, high=9), name="transposed")


@sampler("aten::bitwise_left_shift.Tensor_Scalar", "aten::bitwise_right_shift.Tensor_Scalar")
def _shifts_by_a_number() -> Iterator[SampleInput]:
    for dtype in _NUMBERS[2:]:
        for number in (0, 3, 8, -1):
            x = make(5, dtype=dtype, low=-100, high=100)
            yield SampleInput(x, number, name=f"{dtype.name}_{number}")


@sampler("aten::bitwise_not")
def _bits_not() -> Iterator[SampleInput]:
    for dtype in _INTEGERS:
        yield SampleInput(make(5, dtype=dtype), name=dtype.name)


def _scalar(
    *names: str,
    among: tuple[DType, ...] = _ALL,
    numbers: tuple[Any, ...] = (2, 1.5),
    low: float = -3.0,
    extra: tuple[tuple[Any, ...], ...] = (),
) -> None:
    def calls() -> Iterator[SampleInput]:
        for name, x in layouts(low):
            yield SampleInput(x, numbers[-1], name=name)
        for dtype in among:
            for number in numbers:
                x = make(5, dtype=dtype, low=low)
                yield SampleInput(x, number, name=f"{dtype.name}_{number}")
        yield SampleInput(special(), numbers[0], name="special")
        for rest in extra:
            yield SampleInput(make(3), *rest, name=str(rest))

    sampler(*[f"aten::{name}" for name in names])(calls)


_scalar("add.Scalar", extra=((1.5, 2),), numbers=(2, True, 1.5))
_scalar("sub.Scalar", "rsub.Scalar", among=_NUMBERS, extra=((1.5, 2),))
_scalar("mul.Scalar", "div.Scalar", numbers=(2, True, 1.5))
_scalar(*[f"{name}.Scalar" for name in ("eq", "ne", "lt", "le", "gt", "ge")], numbers=(1, 1.5))
_scalar("pow.Tensor_Scalar", numbers=(2, 3, 0, 0.5, 1.5), low=0.5)
_scalar(*[f"{name}.Scalar" for name in _DIVISIONS], among=_NUMBERS, numbers=(2, -3, 1.5))
_scalar("clamp_min", "clamp_max", among=_NUMBERS, numbers=(1, 0.5))
_scalar("fill.Scalar", numbers=(1, 2.5))


@sampler("aten::pow.Scalar")
def _power_of_number() -> Iterator[SampleInput]:
    for name, x in layouts():
        yield SampleInput(1.5, x, name=name)
    for dtype in (*_FLOATS, dtypes.uint8):
        yield SampleInput(2, make(5, dtype=dtype), name=dtype.name)


@sampler("aten::clamp")
def _clamp() -> Iterator[SampleInput]:
    for name, x in layouts():
        yield SampleInput(x, -1.0, 1.5, name=name)
    for dtype in _NUMBERS:
        yield SampleInput(make(5, dtype=dtype), 0, 2, name=dtype.name)
        yield SampleInput(make(5, dtype=dtype), 0.5, name=f"{dtype.name}_min")
        yield SampleInput(make(5, dtype=dtype), None, 1, name=f"{dtype.name}_max")
    yield SampleInput(special(), -0.5, 0.5, name="special")
    yield SampleInput(make(5), 1.0, -1.0, name="crossed")


@sampler("aten::gelu")
def _gelu() -> Iterator[SampleInput]:
    for form in ("none", "tanh"):
        for name, x in layouts():
            yield SampleInput(x, name=f"{name}_{form}", approximate=form)
        yield SampleInput(make(9, dtype=dtypes.float64), name=f"float64_{form}", approximate=form)
        yield SampleInput(special(), name=f"special_{form}", approximate=form)


@sampler("aten::threshold_backward")
def _threshold() -> Iterator[SampleInput]:
    for name, g, x in pairs():
        yield SampleInput(g, x, 0, name=name)
    yield SampleInput(make(10), special(), 0.5, name="special")


@sampler("aten::addcmul", "aten::addcdiv")
def _fused() -> Iterator[SampleInput]:
    for name, x, y in pairs(0.5):
        yield SampleInput(x, y, make(*y.shape, low=1, seed=2), name=name)
    yield SampleInput(make(3), make(3), make(3, low=1), name="value", value=-0.5)
    yield SampleInput(make(2, 1), make(3), make(2, 3, dtype=dtypes.float64, low=1), name="mixed")


@sampler("aten::lerp.Scalar")
def _lerp_scalar() -> Iterator[SampleInput]:
    for name, x, y in pairs():
        for weight in (0.25, 1.0):
            yield SampleInput(x, y, weight, name=f"{name}_{weight}")


@sampler("aten::lerp.Tensor")
def _lerp() -> Iterator[SampleInput]:
    for name, x, y in pairs():
        yield SampleInput(x, y, make(*y.shape, low=0, high=1, seed=2), name=name)


@sampler("aten::where.self")
def _where() -> Iterator[SampleInput]:
    for name, x, y in pairs():
        mask = make(*y.shape, dtype=dtypes.bool_, seed=3)
        yield SampleInput(mask, x, y, name=name)
    for name, a, b in dtype_pairs():
        mask = make(4, 1, dtype=dtypes.bool_, seed=3)
        yield SampleInput(mask, make(5, dtype=a), make(5, dtype=b, seed=1), name=name)


@sampler("aten::masked_fill.Scalar")
def _masked_fill() -> Iterator[SampleInput]:
    for name, x in layouts():
        yield SampleInput(x, make(*x.shape, dtype=dtypes.bool_, seed=3), -1.5, name=name)
    for dtype in _ALL:
        mask = make(2, 1, dtype=dtypes.bool_, seed=3)
        yield SampleInput(make(4, dtype=dtype), mask, 1.5, name=f"broadcast_{dtype.name}")


@sampler("aten::copy")
def _copy() -> Iterator[SampleInput]:
    for name, x in layouts():
        yield SampleInput(x, make(*x.shape, seed=1), name=name)
        yield SampleInput(x, make(seed=1), name=f"{name}_broadcast")
    for name, a, b in dtype_pairs():
        yield SampleInput(make(2, 5, dtype=a), make(5, dtype=b, low=0.0, seed=1), name=name)


@sampler("aten::_to_copy")
def _to_copy() -> Iterator[SampleInput]:
    for name, x in layouts():
        yield SampleInput(x, name=name, dtype=dtypes.float64)
    for source in _ALL:
        for target in _ALL:
            low = 0.0 if not target.is_signed else -3.0  # the rest is undefined in C
            x = make(5, dtype=source, low=low)
            yield SampleInput(x, name=f"{source.name}_to_{target.name}", dtype=target)
