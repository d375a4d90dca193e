"""A normal number from a random word, in a fixed sequence of IEEE operations.

The formula is written once over an abstract arithmetic, so that eager execution (arrays) and code
generators (terms) draw the same bits. It uses + - * / and square root, never contracted, integer
operations on bits, and nothing of any math library. Knows neither Philox nor tensors.

The inverse of the normal distribution function is Wichura's: Algorithm AS 241, Applied Statistics
37 (1988), PPND7 for f32 and PPND16 for f64. A word of 32 bits never reaches its outermost branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["ARRAYS", "Arithmetic", "normal_from_word"]


class Arithmetic(Protocol):
    """What the formula computes with: values of types u32, i32, i64, f32, f64.

    Names of operations are those of the loop IR: strict_add, strict_sub, strict_mul, strict_div,
    strict_sqrt (IEEE, never contracted), neg, and on integers add, sub, and, xor, shr (arithmetic
    on signed types); the comparisons lt and le; select(condition, if_true, if_false).
    """

    def op(self, name: str, *args: Any) -> Any:
        """Apply an operation to operands of one type."""
        ...

    def literal(self, value: float, dtype: str) -> Any:
        """A constant."""
        ...

    def cast(self, value: Any, dtype: str) -> Any:
        """Convert an integer to a float, rounding to nearest even."""
        ...

    def bitcast(self, value: Any, dtype: str) -> Any:
        """The same bits as another type of that width."""
        ...


class _Format(NamedTuple):
    """A floating format: its integer type, its bits, and the coefficients that suffice for it."""

    integer: str
    mantissa_bits: int
    sqrt_half: int  # bits of sqrt(1/2)
    log_terms: int  # terms of the series of the logarithm
    centre: tuple[Sequence[float], Sequence[float]]  # numerator, denominator; constant term last
    tail: tuple[Sequence[float], Sequence[float]]


_F32 = _Format(
    "i32", 23, 0x3F3504F3, 5,
    ((59.10937472, 159.29113202, 50.434271938, 3.3871327179),
     (67.1875636, 78.757757664, 17.895169469, 1.0)),
    ((0.17023821103, 1.3067284816, 2.75681539, 1.4234372777),
     (0.12021132975, 0.7370016425, 1.0)),
)  # fmt: skip
_F64 = _Format(
    "i64", 52, 0x3FE6A09E667F3BCD, 11,
    ((2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
      4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
      1.3314166789178437745e2, 3.3871328727963666080e0),
     (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
      2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
      4.2313330701600911252e1, 1.0)),
    ((7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
      1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
      4.63033784615654529590e0, 1.42343711074968357734e0),
     (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
      1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
      2.05319162663775882187e0, 1.0)),
)  # fmt: skip
_FORMATS = {"f32": _F32, "f64": _F64}
_LN2 = 0.6931471805599453


class _Floats:
    """Floating operations of one format, written shortly."""

    def __init__(self, ar: Arithmetic, dtype: str) -> None:
        self.ar = ar
        self.dtype = dtype
        self.format = _FORMATS[dtype]

    def number(self, value: float) -> Any:
        return self.ar.literal(value, self.dtype)

    def add(self, a: Any, b: Any) -> Any:
        return self.ar.op("strict_add", a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.ar.op("strict_sub", a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.ar.op("strict_mul", a, b)

    def div(self, a: Any, b: Any) -> Any:
        return self.ar.op("strict_div", a, b)

    def polynomial(self, coefficients: Sequence[float], x: Any) -> Any:
        """By Horner's rule; the constant term is last."""
        total = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.add(self.mul(total, x), self.number(coefficient))
        return total

    def integer(self, name: str, a: Any, constant: int) -> Any:
        return self.ar.op(name, a, self.ar.literal(constant, self.format.integer))


def normal_from_word(ar: Arithmetic, word: Any, dtype: str) -> Any:
    """The normal number ("f32" or "f64") of a u32 ``word``: the sign bit, then 31 bits of size.

    With n the 31 bits, the result is the quantile of 1/2 ± (n + 1/2) / 2**32; it is never infinite.
    """
    f = _Floats(ar, dtype)
    bits = ar.op("and", word, ar.literal(0x7FFFFFFF, "u32"))
    distance = _fraction(f, bits)  # from 1/2, in (0, 1/2)
    beyond = _fraction(f, ar.op("xor", bits, ar.literal(0x7FFFFFFF, "u32")))  # 1/2 - distance
    centre, tail = f.format.centre, f.format.tail

    r = f.sub(f.number(0.180625), f.mul(distance, distance))
    root = ar.op("strict_sqrt", ar.op("neg", _log(f, beyond)))
    s = f.sub(root, f.number(1.6))
    is_central = ar.op("le", distance, f.number(0.425))
    over = ar.op(
        "select", is_central, f.mul(distance, f.polynomial(centre[0], r)), f.polynomial(tail[0], s)
    )
    under = ar.op("select", is_central, f.polynomial(centre[1], r), f.polynomial(tail[1], s))
    size = f.div(over, under)
    is_negative = ar.op("lt", ar.bitcast(word, "i32"), ar.literal(0, "i32"))
    return ar.op("select", is_negative, ar.op("neg", size), size)


def _fraction(f: _Floats, bits: Any) -> Any:
    """(bits + 1/2) / 2**32 for a u32 below 2**31."""
    number = f.ar.cast(f.ar.bitcast(bits, "i32"), f.dtype)
    return f.mul(f.add(number, f.number(0.5)), f.number(2.0**-32))


def _log(f: _Floats, x: Any) -> Any:
    """Natural logarithm of a positive normal number: exponent * ln 2 + 2 artanh(s).

    The mantissa is taken in [sqrt(1/2), sqrt(2)), so that s = (m - 1) / (m + 1) is below 0.172.
    """
    ar, format = f.ar, f.format
    shifted = f.integer("sub", ar.bitcast(x, format.integer), format.sqrt_half)
    exponent = ar.cast(f.integer("shr", shifted, format.mantissa_bits), f.dtype)
    kept = f.integer("and", shifted, (1 << format.mantissa_bits) - 1)
    mantissa = ar.bitcast(f.integer("add", kept, format.sqrt_half), f.dtype)
    one = f.number(1.0)
    s = f.div(f.sub(mantissa, one), f.add(mantissa, one))
    series = [2.0 / (2 * k + 1) for k in reversed(range(format.log_terms))]
    part = f.mul(s, f.polynomial(series, f.mul(s, s)))
    return f.add(f.mul(exponent, f.number(_LN2)), part)


class _Arrays:
    """The arithmetic of NumPy arrays, whose operations are IEEE and never contracted."""

    TYPES: dict[str, np.dtype[Any]] = {
        "u32": np.dtype(np.uint32),
        "i32": np.dtype(np.int32),
        "i64": np.dtype(np.int64),
        "f32": np.dtype(np.float32),
        "f64": np.dtype(np.float64),
    }
    OPERATIONS: dict[str, Callable[..., Any]] = {
        "strict_add": np.add,
        "strict_sub": np.subtract,
        "strict_mul": np.multiply,
        "strict_div": np.divide,
        "strict_sqrt": np.sqrt,
        "neg": np.negative,
        "add": np.add,
        "sub": np.subtract,
        "and": np.bitwise_and,
        "xor": np.bitwise_xor,
        "shr": np.right_shift,
        "lt": np.less,
        "le": np.less_equal,
        "select": np.where,
    }

    def op(self, name: str, *args: Any) -> Any:
        return self.OPERATIONS[name](*args)

    def literal(self, value: float, dtype: str) -> Any:
        return self.TYPES[dtype].type(value)

    def cast(self, value: Any, dtype: str) -> Any:
        return value.astype(self.TYPES[dtype])

    def bitcast(self, value: Any, dtype: str) -> Any:
        return value.view(self.TYPES[dtype])


ARRAYS = _Arrays()
