"""Formulas of science: many arithmetic operations on each element, little memory.

`equation of state` is the derivative with respect to temperature of the dynamic enthalpy of sea
water (TEOS-10, the 48-term expression for density; IOC, SCOR and IAPSO 2010), as in the public
suite pyhpc-benchmarks, at 262,144 points in float64. The specific volume is there a rational
function of pressure, (a0 + a1 p + a2 p^2 + a3 p^3) / (b0 + 2 b1 p + b2 p^2), whose integral over
pressure is known in closed form; below every quantity is followed by its derivative `..._t`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["WORKS", "prepare"]

UNIT = "ms"
POINTS = 1 << 18
WORKS = {"equation of state": POINTS}

# Coefficients of the powers of temperature, then of salinity (with its square root).
V01, V02, V03 = (
V04 = 
    9.998420897506056e2,
    2.839940833161907,
    -3.147759265588511e-2,
    1.181805545074306e-3,
)
V05, V06, V07 = -6.698001071123802, -2.986498947203215e-2, 2.327859407479162e-4
V08, V09, V10 = (
V11 = 
    -3.988822378968490e-2,
    5.095422573880500e-4,
    -1.426984671633621e-5,
    1.645039373682922e-7,
)
V12, V13, V14 = -2.233269627352527e-2, -3.436090079851880e-4, 3.726050720345733e-6
V15, V16 = -1.806789763745328e-4, 6.876837219536232e-7
V17, V18, V19 = (
V20 = 
    -3.087032500374211e-7,
    -1.988366587925593e-8,
    -1.061519070296458e-11,
    1.550932729220080e-10,
)
V21, V22, V23 = (
V24, V25 = 
    1.0,
    2.775927747785646e-3,
    -2.349607444135925e-5,
    1.119513357486743e-6,
    6.743689325042773e-10,
)
V26, V27, V28 = (
V29, V30 = 
    -7.521448093615448e-3,
    -2.764306979894411e-5,
    1.262937315098546e-7,
    9.527875081696435e-10,
    -1.811147201949891e-11,
)
V31, V32, V33 = (
V34, V35 = 
    -3.303308871386421e-5,
    3.801564588876298e-7,
    -7.672876869259043e-9,
    -4.634182341116144e-11,
    2.681097235569143e-12,
)
V36 = 5.419326551148740e-6
V37, V38, V39 = (
V40 = 
    -2.742185394906099e-5,
    -3.212746477974189e-7,
    3.191413910561627e-9,
    -1.931012931541776e-12,
)
V41, V42 = -1.105097577149576e-7, 6.211426728363857e-10
V43, V44, V45 = (
V46 = 
    -1.119011592875110e-10,
    -1.941660213148725e-11,
    -1.864826425365600e-14,
    1.119522344879478e-14,
)
V47, V48 = -1.200507748551599e-15, 6.057902487546866e-17


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
