"""NumPy meanings of pointwise operations, reductions and Philox, for the loop interpreter.

float32 functions that NumPy lacks (erf) are computed in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["BINARY", "UNARY", "philox_words", "reduction"]

Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def _sign(x: Array) -> Array:
    """-1, 0 or 1; 0 for NaN."""
    result: Array = (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)
    return result


def _not(x: Array) -> Array:
    return np.logical_not(x) if x.dtype == np.bool_ else np.invert(x)


# fmt: off
UNARY: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "sign": _sign, "exp": np.exp, "expm1": np.expm1,
    "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "log2": np.log2, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "recip": lambda x: 1 / x, "erf": lambda x: _erf(x),
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "sigmoid": _sigmoid,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "not": _not,
    "isnan": np.isnan, "isinf": np.isinf, "strict_sqrt": np.sqrt,
}


def _truncdiv(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.trunc(a / b)
    quotient = np.floor_divide(a, b)
    rounded: Array = quotient + ((quotient * b != a) & ((a < 0) != (b < 0)) & (b != 0))
    return rounded


def _power(base: Array, exponent: Array) -> Any:
    """Integers to negative powers are 0, except of 1 and -1."""
    if base.dtype.kind != "i":
        return np.power(base, exponent)
    negative = exponent < 0
    found = np.power(base, np.where(negative, exponent & 1, exponent))
    return np.where(negative & (base != 1) & (base != -1), 0, found)


def _bits(on_bools: Callable[..., Any], on_ints: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: (on_bools if a.dtype == np.bool_ else on_ints)(a, b)


BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "floordiv": np.floor_divide, "mod": np.mod, "fmod": np.fmod, "truncdiv": _truncdiv,
    "max": np.maximum, "min": np.minimum, "pow": _power, "atan2": np.arctan2,
    "copysign": np.copysign,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
    "and": _bits(np.logical_and, np.bitwise_and), "or": _bits(np.logical_or, np.bitwise_or),
    "xor": _bits(np.logical_xor, np.bitwise_xor), "shl": np.left_shift, "shr": np.right_shift,
    "strict_add": np.add, "strict_sub": np.subtract, "strict_mul": np.multiply,
    "strict_div": np.divide,
}
# fmt: on


def _neutral(kind: str, dtype: np.dtype[Any]) -> Any:
    if kind in ("sum", "any"):
        return 0
    if kind in ("prod", "all"):
        return 1
    low = kind in ("max", "argmax")
    if dtype.kind == "f":
        return -np.inf if low else np.inf
    if dtype == np.bool_:
        return not low
    return np.iinfo(dtype).min if low else np.iinfo(dtype).max


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
    "argmax": np.argmax,
    "argmin": np.argmin,
}


def reduction(
    kind: str, body: Array, dim: int, inside: Array | None, dtype: np.dtype[Any]
) -> Array:
    """Reduce dimension `dim` (kept, of size 1); points where `inside` is false do not count."""
    if inside is not None:
        body = np.where(inside, body, np.asarray(_neutral(kind, body.dtype), body.dtype))
    options: dict[str, Any] = {"axis": dim, "keepdims": True}
    if kind in ("sum", "prod"):
        options["dtype"] = body.dtype
    if kind in ("max", "min"):
        options["initial"] = _neutral(kind, body.dtype)
    return np.asarray(_REDUCTIONS[kind](body, **options)).astype(dtype, copy=False)


_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox_words(seed: Array, call: Array, element: Array) -> Array:
    """Philox 4x32-10: word element%4 of counter (element//4, call) under key seed (uint32)."""
    shape = np.broadcast_shapes(seed.shape, call.shape, element.shape)
    counter = (element // 4).astype(np.uint64)
    number = call.astype(np.uint64)
    key = seed.astype(np.uint64)
    c = [np.broadcast_to(x & _MASK, shape) for x in (counter, counter >> _SHIFT)]
    c += [np.broadcast_to(x & _MASK, shape) for x in (number, number >> _SHIFT)]
    k0, k1 = key & _MASK, key >> _SHIFT
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> _SHIFT) ^ c[1] ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c[3] ^ k1, p0 & _MASK]
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK
    word = np.broadcast_to(element % 4, shape)
    return np.choose(word, c).astype(np.uint32)
