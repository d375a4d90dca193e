"""Coefficients of the math functions, by element type.

Polynomials were fitted by Remez exchange in 50-digit arithmetic, for relative error of the whole
function; the rational function of `erf` by iterated least squares; the logarithm in double
precision is fdlibm's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["TABLES", "Table", "TWO_OVER_PI_WORDS"]


class Table(NamedTuple):
    """Everything that differs between the single and the double precision form of a function."""

    mantissa: int
    bias: int
    tiny: float
    """Smallest normal number."""
    magic: float
    """1.5 * 2**mantissa: adding it rounds to an integer, found in the low bits."""
    round_ln2: tuple[float, float]
    """ln 2 in two parts, the first in working precision."""
    exp_range: tuple[float, float]
    exp: tuple[float, ...]
    """(exp(r) - 1 - r) / r**2 on |r| <= ln 2."""
    expm1_low: float
    expm1: tuple[float, ...]
    """The same on |r| <= ln 2 / 2, for the relative error of expm1."""
    split: int
    """Bits of the least mantissa that logarithms work with: 2/3, and the root of 1/2 for
    fdlibm's.
    """
    pi_half: tuple[float, float, float]
    trig_limit: float
    """Beyond this magnitude the three-part reduction is not exact enough."""
    sin: tuple[float, ...]
    cos: tuple[float, ...]
    atan: tuple[float, ...]
    tanh_limit: float
    """From here on tanh rounds to one."""


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


_F32 = Table(
    mantissa=23,
    bias=127,
    tiny=2.0**-126,
    magic=1.5 * 2.0**23,
    round_ln2=(_single(0.6931471805599453), _single(-1.9046542121259336e-09)),
    exp_range=(-104.0, 89.0),
    exp=(
        0.50000034562894114, 0.16666614289259975, 0.041661276403335258, 0.0083360978600230584,
        0.0014104307542596178, 0.00019611906136186772,
    ),
    expm1_low=-18.0,
    expm1=(
        0.50000000444001374, 0.16666666369181567, 0.041666359821392843, 0.0083333894752018919,
        0.0013940719932746005, 0.00019845943760924451,
    ),
    split=0x3F2AAAAB,
    pi_half=(1.57079637050628662109375, -4.37113900018624283e-8, -1.71512489e-15),
    trig_limit=1.0e5,
    sin=(
        -0.16666666640695962, 0.008333329292873729, -0.00019839308367539771, 2.7180840843418652e-6,
    ),
    cos=(
        0.041666666619298397, -0.0013888883483628411, 2.4799455843988711e-5,
        -2.7205399552450812e-7,
    ),
    atan=(
        -0.3333331501797019774, 0.1999846031631920692, -0.1424330887563653859, 0.10592066008462785,
        -0.06073585342202033103,
    ),
    tanh_limit=9.1,
)  # fmt: skip

_F64 = Table(
    mantissa=52,
    bias=1023,
    tiny=2.0**-1022,
    magic=1.5 * 2.0**52,
    round_ln2=(0.6931471805599453, 2.3190468138462996e-17),
    exp_range=(-746.0, 710.0),
    exp=(
        0.49999999999999999, 0.16666666666666653, 0.041666666666667264, 0.0083333333333378417,
        0.0013888888888804583, 0.0001984126983588357, 2.480158735451343e-5, 2.7557322291497158e-6,
        2.7557302983643641e-7, 2.505120594613947e-8, 2.0879052315691289e-9, 1.6191420746223398e-10,
        1.1378282454613127e-11,
    ),
    expm1_low=-40.0,
    expm1=(
        0.5, 0.16666666666666677, 0.041666666666666507, 0.0083333333333216071,
        0.0013888888888962882, 0.00019841269886208716, 2.4801587171856117e-5,
        2.7557244103396475e-6, 2.7557402939307684e-7, 2.5109081680868528e-8, 2.0875327164187671e-9,
    ),
    split=0x3FE6A09E667F3BCD,
    pi_half=(1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33),
    trig_limit=1.0e6,
    sin=(
        -0.16666666666666667, 0.0083333333333333224, -0.00019841269841254724,
        2.7557319214025121e-6, -2.5052104871334827e-8, 1.6058361804031432e-10,
        -7.5784718116365442e-13,
    ),
    cos=(
        0.041666666666666667, -0.0013888888888888873, 2.4801587301570469e-5,
        -2.7557319214964132e-7, 2.0876754279044688e-9, -1.1470283929739763e-11,
        4.7377094724077135e-14,
    ),
    atan=(
        -0.3333333333333319334, 0.1999999999995238287, -0.142857142800753316, 0.1111111077741016041,
        -0.09090897584083273749, 0.07692057130238981845, -0.06663069005087756453,
        0.05847634245992143312, -0.05038154355324367274, 0.03803529137934106363,
        -0.01787509769046235583,
    ),
    tanh_limit=20.0,
)  # fmt: skip

TABLES = {"f32": _F32, "f64": _F64}

# log(1 + f) = f - f**2/2 + f**3 P(f) on [2/3, 4/3], single precision.
LOG_F32 = (
    0.33333335747841899, -0.24999819937049078, 0.19999597162449583, -0.16679596257331513,
    0.14304479440589552, -0.12195491644287674, 0.10753927260246969, -0.12846463301871125,
    0.12008513773112354,
)  # fmt: skip

# log(1 + f) with s = f/(2 + f): log = f - (f**2/2 - s*(f**2/2 + z*R(z))), z = s*s; fdlibm's
# coefficients.
LOG_F64 = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
    2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
    1.479819860511658591e-01,
)  # fmt: skip

# erf(x) = x P(x**2) / Q(x**2) below the limit; all coefficients are positive, so it is well
# conditioned.
ERF_F32_LIMIT = 3.92
ERF_F32_P = (
    1.128379146167265, 0.19040534636079398, 0.05274855208833074, 0.0037655631181541427,
    0.0002848805922628204, 2.0500836634539993e-06,
)  # fmt: skip
ERF_F32_Q = (
    1.0, 0.502075085914931, 0.11410862817517803, 0.014969108801577086, 0.0011625207681580881,
    3.809156620346616e-05,
)  # fmt: skip

# erf(x)/x in x**2 below one; above it 1 - exp(-x**2) G(t), t = (x - 2.5)/(x + 2.5), up to the
# limit.
ERF_F64_LIMIT = 6.0
ERF_F64_SMALL = (
    1.128379167095512574, -0.376126389031837476, 0.1128379167095485747, -0.02686617064507289117,
    0.005223977624780834654, -0.0008548326978740567619, 0.0001205533103684666826,
    -0.00001492559350576636302, 1.646097280119071773e-6, -1.635002507622388123e-7,
    1.465787898988887853e-8, -1.136566313662849337e-9, 5.945257693941542523e-11,
)  # fmt: skip
ERF_F64_TAIL = (
    0.2108063640611437074, -0.3717367339489769814, 0.2517131932171749322, -0.1250330523817438972,
    0.03992253909751330595, -0.003993700595071656761, -0.002642362672024984317,
    0.0008759129855963838844, 0.0002282620413682542784, -0.0001295059567768709395,
    -0.0000357837212593475598, 0.00001671642175878092515, 7.51047850444001052e-6,
)  # fmt: skip

# log((1+s)/(1-s)) = 2s + s**3 (2/3 + z R(z)), z = s*s, on |s| <= 0.1716: R for pow in double
# precision.
POW_F64 = (2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21)


def _two_over_pi(words: int) -> tuple[int, ...]:
    """2/pi as a binary fraction in 64-bit words, most significant first (Machin's formula)."""
    bits = 64 * words + 64
    one = 1 << (bits + 32)

    def arctan_inverse(n: int) -> int:
        power, total, k = one // n, 0, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    fraction = (2 * one << 64 * words) // pi
    return tuple((fraction >> 64 * (words - 1 - k)) & (2**64 - 1) for k in range(words))


TWO_OVER_PI_WORDS = _two_over_pi(21)
