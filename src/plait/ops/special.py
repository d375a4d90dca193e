"""Special functions that NumPy lacks, vectorised: erf.

float64 follows the scheme of FreeBSD's msun (s_erf.c, Sun Microsystems, freely distributable): four
ranges of |x|, a rational function in each, within one unit in the last place.
float32 is evaluated in float64 by one odd rational function and rounded once. Blocks of a few
thousand elements keep the intermediate arrays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["erf"]

Array = np.ndarray[Any, Any]

_BLOCK = 8192

# fmt: off
# |x| < 0.84375: erf(x) = x + x * P(x²)/Q(x²)
_SMALL_P = (1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
            -5.77027029648944159157e-03, -2.37630166566501626084e-05)
_SMALL_Q = (1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
            1.32494738004321644526e-04, -3.96022827877536812320e-06)
# 0.84375 <= |x| < 1.25: erf(x) = C + P(|x| - 1)/Q(|x| - 1)
_MIDDLE_C = 8.45062911510467529297e-01
_MIDDLE_P = (-2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
             3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
             -2.16637559486879084300e-03)
_MIDDLE_Q = (1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01,
             7.18286544141962662868e-02, 1.26171219808761642112e-01, 1.36370839120290507362e-02,
             1.19844998467991074170e-02)
# 1.25 <= |x| < 1/0.35 and 1/0.35 <= |x| < 6: 1 - exp(-x² - 0.5625 + R(1/x²)/S(1/x²)) / |x|
_LARGE_R = (-9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e+01,
            -6.23753324503260060396e+01, -1.62396669462573470355e+02, -1.84605092906711035994e+02,
            -8.12874355063065934246e+01, -9.81432934416914548592e+00)
_LARGE_S = (1.0, 1.96512716674392571292e+01, 1.37657754143519042600e+02, 4.34565877475229228821e+02,
            6.45387271733267880336e+02, 4.29008140027567833386e+02, 1.08635005541779435134e+02,
            6.57024977031928170135e+00, -6.04244152148580987438e-02)
_HUGE_R = (-9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e+01,
           -1.60636384855821916062e+02, -6.37566443368389627722e+02, -1.02509513161107724954e+03,
           -4.83519191608651397019e+02)
_HUGE_S = (1.0, 3.03380607434824582924e+01, 3.25792512996573918826e+02, 1.53672958608443695994e+03,
           3.19985821950859553908e+03, 2.55305040643316442583e+03, 4.74528541206955367215e+02,
           -2.24409524465858183362e+01)
# float32, |x| <= 4: x * P(x²)/Q(x²)
_SINGLE_P = (-1.60960333262415e-02, -2.95459980854025e-03, -7.34990630326855e-04,
             -5.69250639462346e-05, -2.10102402082508e-06, 2.77068142495902e-08,
             -2.72614225801306e-10)
_SINGLE_Q = (-1.42647390514189e-02, -7.37332916720468e-03, -1.68282697438203e-03,
             -2.13374055278905e-04, -1.45660718464996e-05)
# fmt: on


def erf(x: Array) -> Array:
    """The error function of a floating array: same shape and dtype; NaN stays NaN.

    Error at most about one unit in the last place, in float32 and float64 alike.
    """
    x = np.asarray(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    block = _erf_double if flat.dtype == np.float64 else _erf_single
    for start in range(0, flat.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        out[part] = block(flat[part])
    return out.reshape(x.shape)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """Horner's scheme; coefficients from the constant upwards."""
    value = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value *= x
        value += c
    return value


def _ratio(p: Sequence[float], q: Sequence[float], x: Array) -> Array:
    value = _polynomial(p, x)
    value /= _polynomial(q, x)
    return value


def _erf_single(x: Array) -> Array:
    wide = np.clip(x.astype(np.float64), -4.0, 4.0)
    return _ratio(_SINGLE_P, _SINGLE_Q, wide * wide) * wide


def _erf_double(x: Array) -> Array:
    size = np.abs(x)
    out = np.copysign(1.0, x)  # 6 <= |x|
    out[np.isnan(x)] = np.nan
    for low, high, branch in _RANGES:
        chosen = (size >= low) & (size < high)
        if chosen.any():
            out[chosen] = branch(x[chosen])
    return out


def _small(x: Array) -> Array:
    value = _ratio(_SMALL_P, _SMALL_Q, x * x)
    value *= x
    value += x
    return value


def _middle(x: Array) -> Array:
    value: Array = np.copysign(_MIDDLE_C + _ratio(_MIDDLE_P, _MIDDLE_Q, np.abs(x) - 1.0), x)
    return value


def _large(x: Array) -> Array:
    return _complement(x, _LARGE_R, _LARGE_S)


def _huge(x: Array) -> Array:
    return _complement(x, _HUGE_R, _HUGE_S)


def _complement(x: Array, r: Sequence[float], s: Sequence[float]) -> Array:
    """1 - erfc(|x|) with the sign of x; exp is split so that x² loses no bits."""
    size = np.abs(x)
    inverse = 1.0 / (size * size)
    head = (size.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    power = np.exp(-head * head - 0.5625) * np.exp(
        (head - size) * (head + size) + _ratio(r, s, inverse)
    )
    return np.copysign(1.0 - power / size, x)


_RANGES = (
    (0.0, 0.84375, _small),
    (0.84375, 1.25, _middle),
    (1.25, 1 / 0.35, _large),
    (1 / 0.35, 6.0, _huge),
)
