"""Calls whose arguments have different element types: result types and errors are PyTorch's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.tensor import dtype as dt
from plait.tensor.tensor import Tensor
from plait.testing import compare
from plait.testing.samples import SampleInput, make

TYPES = (
    dt.bool_, dt.uint8, dt.int32, dt.int64, dt.float16, dt.bfloat16, dt.float32, dt.float64,
    dt.complex64,
)  # fmt: skip
NUMBERS = (True, 2, -1, 300, 1.5, float("nan"), 1 + 2j)


def _x(*shape: int, dtype: dt.DType, seed: int = 0) -> Tensor:
    return make(*shape, dtype=dtype, low=1, high=3, seed=seed)


def _call(*args: Any, **kwargs: Any) -> SampleInput:
    return SampleInput(*args, **kwargs)


ROWS = plait.tensor([0, 1])
MASK = plait.tensor([True, False, True])

# operator -> a call of it for two element types
Pair = Callable[[dt.DType, dt.DType], SampleInput]
VECTORS: Pair = lambda a, b: _call(_x(3, dtype=a), _x(3, dtype=b, seed=1))
SCALARS: Pair = lambda a, b: _call(_x(3, dtype=a), _x(dtype=b, seed=1))
MATRICES: Pair = lambda a, b: _call(_x(2, 2, dtype=a), _x(2, 2, dtype=b, seed=1))
FUSED: Pair = lambda a, b: _call(_x(3, dtype=a), _x(3, dtype=b), _x(3, dtype=b))
SCATTERED: Pair = lambda a, b: _call(_x(3, dtype=a), 0, ROWS, _x(2, dtype=b))
CONVERTED: Pair = lambda a, b: _call(_x(3, dtype=a), dtype=b)
PAIRS: dict[str, Pair] = {
    "add.Tensor": VECTORS, "sub.Tensor": VECTORS, "mul.Tensor": VECTORS, "div.Tensor": VECTORS,
    "eq.Tensor": VECTORS, "lt.Tensor": VECTORS, "maximum": VECTORS, "pow.Tensor_Tensor": VECTORS,
    "logical_and": VECTORS, "bitwise_and.Tensor": VECTORS, "add_.Tensor": VECTORS,
    "mul_.Tensor": SCALARS, "div_.Tensor": VECTORS, "sub_.Tensor": VECTORS, "copy_": VECTORS,
    "pow_.Tensor": VECTORS, "eq_.Tensor": VECTORS, "logical_and_": VECTORS, "dot": VECTORS,
    "bitwise_or_.Tensor": VECTORS, "mse_loss": VECTORS, "complex": VECTORS, "polar": VECTORS,
    "vdot": VECTORS, "ne.Tensor": SCALARS, "minimum": SCALARS, "mm": MATRICES, "matmul": MATRICES,
    "linear": MATRICES, "addcmul": FUSED, "addcdiv": FUSED, "index_add": SCATTERED,
    "scatter.src": SCATTERED, "scatter_add": SCATTERED, "sum": CONVERTED, "prod": CONVERTED,
    "mean": CONVERTED,
    "bmm": lambda a, b: _call(_x(1, 2, 2, dtype=a), _x(1, 2, 2, dtype=b)),
    "mv": lambda a, b: _call(_x(2, 2, dtype=a), _x(2, dtype=b)),
    "addmm": lambda a, b: _call(*(_x(2, 2, dtype=d) for d in (a, b, b))),
    "where.self": lambda a, b: _call(MASK, _x(3, dtype=a), _x(3, dtype=b)),
    "lerp.Tensor": lambda a, b: _call(_x(3, dtype=a), _x(3, dtype=a), _x(3, dtype=b)),
    "cat": lambda a, b: _call([_x(3, dtype=a), _x(3, dtype=b)], 0),
    "cumsum": lambda a, b: _call(_x(3, dtype=a), 0, dtype=b),
    "softmax.int": lambda a, b: _call(_x(3, dtype=a), 0, b),
    "add.out": lambda a, b: _call(_x(3, dtype=a), _x(3, dtype=a), out=plait.empty(3, dtype=b)),
    "mm.out": lambda a, b: _call(
        _x(2, 2, dtype=a), _x(2, 2, dtype=a), out=plait.empty(2, 2, dtype=b)
    ),
    "slice_scatter": lambda a, b: _call(_x(3, dtype=a), _x(2, dtype=b), 0, 0, 2),
}  # fmt: skip

# operator -> a call of it for an element type and a number
Number = Callable[[dt.DType, Any], SampleInput]
OPERAND: Number = lambda d, n: _call(_x(3, dtype=d), n)
NUMBER_CALLS: dict[str, Number] = {
    "add.Scalar": OPERAND, "mul.Scalar": OPERAND, "div.Scalar": OPERAND, "sub.Scalar": OPERAND,
    "rsub.Scalar": OPERAND, "eq.Scalar": OPERAND, "lt.Scalar": OPERAND, "clamp_min": OPERAND,
    "pow.Tensor_Scalar": OPERAND, "add_.Scalar": OPERAND, "mul_.Scalar": OPERAND,
    "div_.Scalar": OPERAND, "pow_.Scalar": OPERAND, "fill_.Scalar": OPERAND, "clamp": OPERAND,
    "bitwise_and.Scalar": OPERAND, "full_like": OPERAND,
    "masked_fill.Scalar": lambda d, n: _call(_x(3, dtype=d), MASK, n),
    "scatter.value": lambda d, n: _call(_x(3, dtype=d), 0, ROWS, n),
    "full": lambda d, n: _call((2,), n, dtype=d),
    "pow.Scalar": lambda d, n: _call(n, _x(3, dtype=d)),
    "lerp.Scalar": lambda d, n: _call(_x(3, dtype=d), _x(3, dtype=d), n),
    "add.Tensor": lambda d, n: _call(_x(3, dtype=d), _x(3, dtype=d), alpha=n),
    "addmm": lambda d, n: _call(*(_x(2, 2, dtype=d) for _ in range(3)), alpha=n, beta=n),
    "addcmul": lambda d, n: _call(*(_x(3, dtype=d) for _ in range(3)), value=n),
    "index_add": lambda d, n: _call(_x(3, dtype=d), 0, ROWS, _x(2, dtype=d), alpha=n),
}  # fmt: skip


def _is_left_out(qualname: str, *given: Any) -> bool:
    """Where a half meets a complex number we go on in complex64; True is 1 as a factor."""
    types = {d for d in given if isinstance(d, dt.DType)}
    numbers = [n for n in given if not isinstance(n, dt.DType)]
    is_complex = dt.complex64 in types or any(isinstance(n, complex) for n in numbers)
    if dt.float16 in types and is_complex and qualname != "aten::mm":
        return True
    if qualname == "aten::complex":
        return types == {dt.float16}
    return qualname == "aten::add.Tensor" and True in numbers


def _check(torch: Any, qualname: str, sample: SampleInput, label: str) -> None:
    wanted = _outcome(lambda: compare.torch_call(torch, qualname, sample))
    call = sample.replaced(compare._copied)
    got = _outcome(lambda: lookup(qualname)(*call.args, **call.kwargs))
    if isinstance(wanted, Exception):
        expected = RuntimeError if isinstance(wanted, RuntimeError) else type(wanted)
        is_ours = isinstance(got, expected) and isinstance(got, PlaitError)
        assert is_ours, f"{label}: {got!r}; torch: {wanted!r}"
        return
    assert not isinstance(got, Exception), f"{label}: {got!r}"
    assert compare._torch_name(got.dtype) == str(wanted.dtype).removeprefix("torch."), label
    compare.assert_close(got, wanted, family="matmul", label=label)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def _cases(name: str, calls: dict[str, Any], others: tuple[Any, ...]) -> Iterator[Any]:
    for dtype, other in itertools.product(TYPES, others):
        if not _is_left_out(f"aten::{name}", dtype, other):
            yield calls[name](dtype, other), f"{name} {dtype} {other}"


@pytest.mark.parametrize("name", PAIRS)
def test_two_types(torch: Any, name: str) -> None:
    for sample, label in _cases(name, PAIRS, TYPES):
        _check(torch, f"aten::{name}", sample, label)


@pytest.mark.parametrize("name", NUMBER_CALLS)
def test_a_type_and_a_number(torch: Any, name: str) -> None:
    for sample, label in _cases(name, NUMBER_CALLS, NUMBERS):
        _check(torch, f"aten::{name}", sample, label)
