"""Formulas of science: many arithmetic operations on each element, little memory.

`equation_of_state` is the derivative with respect to temperature of the dynamic enthalpy of sea
water (TEOS-10, the 48-term expression for density; IOC, SCOR and IAPSO 2010), as in the public
suite pyhpc-benchmarks, at 262,144 points in float64. The specific volume is there a rational
function of pressure, (a0 + a1 p + a2 p^2 + a3 p^3) / (b0 + 2 b1 p + b2 p^2), whose integral over
pressure is known in closed form; below every quantity is followed by its derivative `..._t`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "check", "enthalpy_slope", "prepare"]

UNIT = "ms"
POINTS = 1 << 18
WORKS = {"equation_of_state": POINTS}

# Coefficients of the powers of temperature, then of salinity (with its square root).
V01 = 999.8420897506056
V02 = 2.839940833161907
V03 = -0.03147759265588511
V04 = 0.001181805545074306
V05 = -6.698001071123802
V06 = -0.02986498947203215
V07 = 0.0002327859407479162
V08 = -0.0398882237896849
V09 = 0.00050954225738805
V10 = -1.426984671633621e-05
V11 = 1.645039373682922e-07
V12 = -0.02233269627352527
V13 = -0.000343609007985188
V14 = 3.726050720345733e-06
V15 = -0.0001806789763745328
V16 = 6.876837219536232e-07
V17 = -3.087032500374211e-07
V18 = -1.988366587925593e-08
V19 = -1.061519070296458e-11
V20 = 1.55093272922008e-10
V21 = 1.0
V22 = 0.002775927747785646
V23 = -2.349607444135925e-05
V24 = 1.119513357486743e-06
V25 = 6.743689325042773e-10
V26 = -0.007521448093615448
V27 = -2.764306979894411e-05
V28 = 1.262937315098546e-07
V29 = 9.527875081696435e-10
V30 = -1.811147201949891e-11
V31 = -3.303308871386421e-05
V32 = 3.801564588876298e-07
V33 = -7.672876869259043e-09
V34 = -4.634182341116144e-11
V35 = 2.681097235569143e-12
V36 = 5.41932655114874e-06
V37 = -2.742185394906099e-05
V38 = -3.212746477974189e-07
V39 = 3.191413910561627e-09
V40 = -1.931012931541776e-12
V41 = -1.105097577149576e-07
V42 = 6.211426728363857e-10
V43 = -1.11901159287511e-10
V44 = -1.941660213148725e-11
V45 = -1.8648264253656e-14
V46 = 1.119522344879478e-14
V47 = -1.200507748551599e-15
V48 = 6.057902487546866e-17


def enthalpy_slope(sqrt: Callable[[Any], Any], log: Callable[[Any], Any]) -> Callable[..., Any]:
    """The formula over one library's square root and logarithm: function of (salinity in g/kg,
    temperature in degrees, pressure in dbar), all of one shape.
    """

    def slope(sa: Any, ct: Any, p: Any) -> Any:
        root = sqrt(sa)
        # Numerator: a0 + a1 p + a2 p^2 + a3 p^3.
        a0 = (
            V21 + ct * (V22 + ct * (V23 + ct * (V24 + V25 * ct)))
            + sa * (V26 + ct * (V27 + ct * (V28 + ct * (V29 + V30 * ct))) + V36 * sa
                    + root * (V31 + ct * (V32 + ct * (V33 + ct * (V34 + V35 * ct)))))
        )  # fmt: skip
        a0_t = (
            V22 + ct * (2 * V23 + ct * (3 * V24 + 4 * V25 * ct))
            + sa * (V27 + ct * (2 * V28 + ct * (3 * V29 + 4 * V30 * ct))
                    + root * (V32 + ct * (2 * V33 + ct * (3 * V34 + 4 * V35 * ct))))
        )  # fmt: skip
        a1 = V37 + ct * (V38 + ct * (V39 + V40 * ct)) + sa * (V41 + V42 * ct)
        a1_t = V38 + ct * (2 * V39 + 3 * V40 * ct) + V42 * sa
        a2, a2_t = V43 + ct * (V44 + V45 * ct + V46 * sa), V44 + 2 * V45 * ct + V46 * sa
        a3, a3_t = V47 + V48 * ct, V48
        # Denominator: b0 + 2 b1 p + b2 p^2.
        b0 = (
            V01 + ct * (V02 + ct * (V03 + V04 * ct))
            + sa * (V05 + ct * (V06 + V07 * ct) + root * (V08 + ct * (V09 + ct * (V10 + V11 * ct))))
        )  # fmt: skip
        b0_t = (
            V02 + ct * (2 * V03 + 3 * V04 * ct)
            + sa * (V06 + 2 * V07 * ct + root * (V09 + ct * (2 * V10 + 3 * V11 * ct)))
        )  # fmt: skip
        b1 = 0.5 * (V12 + ct * (V13 + V14 * ct) + sa * (V15 + V16 * ct))
        b1_t = 0.5 * (V13 + 2 * V14 * ct + V16 * sa)
        b2, b2_t = V17 + ct * (V18 + V19 * ct) + V20 * sa, V18 + 2 * V19 * ct
        # Polynomial part of the quotient; (n + m p) / (denominator) remains.
        r = 1 / b2
        r_t = -b2_t * r * r
        u, u_t = a3 * b1, a3_t * b1 + a3 * b1_t
        q = 2 * u * r - a2
        q_t = 2 * (u_t * r + u * r_t) - a2_t
        n = a0 + q * b0 * r
        n_t = a0_t + (q_t * b0 + q * b0_t) * r + q * b0 * r_t
        w = 2 * q * b1 - a3 * b0
        w_t = 2 * (q_t * b1 + q * b1_t) - a3_t * b0 - a3 * b0_t
        m, m_t = a1 + w * r, a1_t + w_t * r + w * r_t
        # p (a2 - 2 a3 b1 / b2 + a3 p / 2) / b2
        s, s_t = 0.5 * a3 * p - q, 0.5 * a3_t * p - q_t
        first_t = p * (s_t * r + s * r_t)
        # m / (2 b2) log(1 + p (2 b1 + b2 p) / b0)
        v, v_t = p * (2 * b1 + b2 * p), p * (2 * b1_t + b2_t * p)
        i0 = 1 / b0
        x = 1 + v * i0
        second_t = 0.5 * ((m_t * r + m * r_t) * log(x) + m * r * (v_t - v * b0_t * i0) * i0 / x)
        # (n b2 - m b1) / (2 b2 d) log(1 + 2 b2 p d / ((b1 - d) (b1 + d + b2 p))),
        # where d^2 = b1^2 - b0 b2
        square = b1 * b1 - b0 * b2
        d = sqrt(square)
        id_ = 1 / d
        d_t = 0.5 * (2 * b1 * b1_t - b0_t * b2 - b0 * b2_t) * id_
        k, k_t = n * b2 - m * b1, n_t * b2 + n * b2_t - m_t * b1 - m * b1_t
        f = 0.5 * k * r * id_
        f_t = 0.5 * (k_t * r + k * r_t) * id_ - f * d_t * id_
        lower, upper = 1 / (b1 - d), 1 / (b1 + d + b2 * p)
        y = 2 * b2 * p * d * lower * upper
        y_t = 2 * p * (b2_t * d + b2 * d_t) * lower * upper - y * (
            (b1_t - d_t) * lower + (b1_t + d_t + b2_t * p) * upper
        )
        third_t = f_t * log(1 + y) + f * y_t / (1 + y)
        return 1e4 * (first_t + second_t + third_t)

    return slope


def arrays() -> list[np.ndarray[Any, Any]]:
    """Salinity, temperature and pressure where the formula is meant to hold."""
    rng = np.random.default_rng(17)
    ranges = ((1e-2, 10.0), (-12.0, 20.0), (0.0, 1000.0))
    return [rng.uniform(low, high, POINTS) for low, high in ranges]


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call of the formula on the system, ready to be timed."""
    if system.package == "numba":
        call = numba_loop(system)
        inputs: list[Any] = arrays()
    else:
        system.use_float64()
        call = system.compile(enthalpy_slope(system.ns.sqrt, system.ns.log))
        inputs = [system.tensor(a) for a in arrays()]
    return lambda: call(*inputs)


def numba_loop(system: System) -> Callable[..., Any]:
    """The formula for one point, and a loop over points."""
    njit = system.ns.njit
    point = njit(enthalpy_slope(math.sqrt, math.log))

    def loop(sa: Any, ct: Any, p: Any) -> Any:
        out = np.empty_like(sa)
        for i in range(sa.size):
            out[i] = point(sa[i], ct[i], p[i])
        return out

    compiled: Callable[..., Any] = njit(loop)
    return compiled


def check(system: System, work: str) -> float:
    """Largest difference from NumPy, relative to the largest value."""
    got = system.array(prepare(system, work)())
    expected = enthalpy_slope(np.sqrt, np.log)(*arrays())
    return float(np.abs(got - expected).max() / np.abs(expected).max())
