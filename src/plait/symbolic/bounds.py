"""What is known of the value of an expression: intervals, and proofs that it is not negative.

Owns the reasoning about ranges; must not know how expressions are simplified with it. All
statements hold for every assignment that respects the bounds of the symbols and gives no divisor
the value 0.

Two methods: intervals, cheap and cached on each node; and, where those fail, elimination: an
expression that falls in an atom is least at the upper bound of that atom, which may be an
expression itself (an axis j in [0, s)). That proves s - 1 - j >= 0 and, with i in [0, n), n*s - 1 -
(i*s + j) >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from plait.symbolic.nodes import (
    Const,
    Expr,
    FloorDiv,
    Max,
    Min,
    Mod,
    Monomial,
    Symbol,
    Terms,
    const,
    from_terms,
    merge,
    remember,
)

__all__ = ["bounds", "is_nonnegative", "is_negative", "upper_expression"]

Extended = int | float  # an int, or plus or minus infinity
Interval = tuple[Extended, Extended]

_UNKNOWN: Interval = (-math.inf, math.inf)
_STEPS = 6  # eliminations in one proof; view arithmetic needs one per axis
_MOST_TERMS = 24  # an expression this long is no index any more
_proofs: dict[Expr, bool] = {}


def bounds(e: Expr) -> tuple[int | None, int | None]:
    """The least and the greatest value of `e`, inclusive, as far as intervals tell, or None."""
    low, high = _interval(e)
    return (
        low if isinstance(low, int) else None,
        high if isinstance(high, int) else None,
    )


def is_nonnegative(e: Expr) -> bool:
    """Whether e >= 0 can be proved; False means that it is not known."""
    low, high = _interval(e)
    if low >= 0:
        return True
    if high < 0 or _interval_is_exact(e):
        return False
    known = _proofs.get(e)
    return remember(_proofs, e, _prove(e, _STEPS)) if known is None else known


def is_negative(e: Expr) -> bool:
    """Whether e < 0 can be proved."""
    low, high = _interval(e)
    if high < 0:
        return True
    return not (low >= 0 or _interval_is_exact(e)) and is_nonnegative(-e - 1)


def _interval_is_exact(e: Expr) -> bool:
    """Whether `e` is linear in symbols with plain bounds: no proof then tells more than that."""
    for monomial in e.terms:
        if len(monomial) > 1:
            return False
        for atom in monomial:
            if not isinstance(atom, Symbol) or isinstance(atom.upper, Expr):
                return False
    return True


def upper_expression(atom: Expr) -> Expr | None:
    """An expression that `atom` never exceeds and that does not mention it, the most telling one
    known.
    """
    find = _UPPERS.get(type(atom))
    found = None if find is None else find(atom)
    if found is not None:
        return found
    high = bounds(atom)[1]
    return None if high is None else const(high)


# Intervals ----------------------------------------------------------------------------------------


def _interval(e: Expr) -> Interval:
    known: Interval | None = e._bounds
    if known is None:
        known = e._bounds = _INTERVALS.get(type(e), _of_polynomial)(e)
    return known


def _of_constant(e: Expr) -> Interval:
    assert isinstance(e, Const)
    return e.value, e.value


def _of_symbol(e: Expr) -> Interval:
    assert isinstance(e, Symbol)
    low = -math.inf if e.lower is None else e.lower
    if e.upper is None:
        return low, math.inf
    limit = e.upper if isinstance(e.upper, int) else _interval(e.upper)[1]
    return low, limit - 1


def _of_polynomial(e: Expr) -> Interval:
    low: Extended = 0
    high: Extended = 0
    for monomial, coefficient in e.terms.items():
        a: Extended = 1
        b: Extended = 1
        for atom in monomial:
            first = a == b == 1
            a, b = _interval(atom) if first else _scale((a, b), _interval(atom))
        low += _times(coefficient, a if coefficient > 0 else b)
        high += _times(coefficient, b if coefficient > 0 else a)
    return low, high


def _scale(x: Interval, y: Interval) -> Interval:
    corners = [_times(a, b) for a in x for b in y]
    return min(corners), max(corners)


def _times(a: Extended, b: Extended) -> Extended:
    """a * b where 0 * infinity is 0 and huge ints do not overflow a float."""
    if a == 0 or b == 0:
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return math.inf if (a > 0) == (b > 0) else -math.inf


def _divisor_interval(e: Expr) -> Interval:
    """The interval of a divisor: since it is not 0, one that is not negative is at least 1."""
    low, high = _interval(e)
    return (1, max(1, high)) if low == 0 else (low, high)


def _of_quotient(e: Expr) -> Interval:
    a, b = e.args
    low, high = _interval(a)
    least, greatest = _divisor_interval(b)
    if least < 1:
        return _UNKNOWN
    return _floor(low, greatest if low >= 0 else least), _floor(
        high, least if high >= 0 else greatest
    )


def _floor(a: Extended, b: Extended) -> Extended:
    """a // b for b >= 1, where either may be infinite."""
    if isinstance(a, float):
        return a
    if isinstance(b, float):
        return 0 if a >= 0 else -1
    return a // b


def _of_remainder(e: Expr) -> Interval:
    a, b = e.args
    low, high = _divisor_interval(b)
    if low >= 1:
        least, greatest = _interval(a)
        return 0, min(high - 1, greatest) if least >= 0 else high - 1
    return min(0, low + 1), max(0, high - 1)


def _of_minimum(e: Expr) -> Interval:
    intervals = [_interval(arg) for arg in e.args]
    return min(low for low, _ in intervals), min(high for _, high in intervals)


def _of_maximum(e: Expr) -> Interval:
    intervals = [_interval(arg) for arg in e.args]
    return max(low for low, _ in intervals), max(high for _, high in intervals)


_INTERVALS: dict[type[Expr], Callable[[Expr], Interval]] = {
    Const: _of_constant,
    Symbol: _of_symbol,
    FloorDiv: _of_quotient,
    Mod: _of_remainder,
    Min: _of_minimum,
    Max: _of_maximum,
}


# Upper bounds that are expressions ----------------------------------------------------------------


def _symbol_upper(atom: Expr) -> Expr | None:
    assert isinstance(atom, Symbol)
    return atom.upper - 1 if isinstance(atom.upper, Expr) else None


def _remainder_upper(atom: Expr) -> Expr | None:
    divisor = atom.args[1]
    if isinstance(divisor, Const):
        return None  # the interval says as much
    return divisor - 1 if _interval(divisor)[0] >= 0 else None


def _quotient_upper(atom: Expr) -> Expr | None:
    numerator, divisor = atom.args
    # The division below may ask for proofs again; plain symbols keep that from going on.
    if not all(isinstance(a, Symbol) for a in _atoms(numerator.terms) | _atoms(divisor.terms)):
        return None
    if _interval(divisor)[0] < 0:
        return None
    greatest = _greatest(numerator)
    return None if greatest is None else greatest // divisor


def _minimum_upper(atom: Expr) -> Expr | None:
    return atom.args[0]


_UPPERS: dict[type[Expr], Callable[[Expr], Expr | None]] = {
    Symbol: _symbol_upper,
    Mod: _remainder_upper,
    FloorDiv: _quotient_upper,
    Min: _minimum_upper,
}


def _greatest(e: Expr) -> Expr | None:
    """`e` with every atom that has an expression for a bound at that bound; None if none has, or
    unclear.
    """
    changed = False
    for atom in sorted(_atoms(e.terms), key=lambda atom: atom.rank):
        find = _UPPERS.get(type(atom))
        upper = None if find is None else find(atom)
        if upper is None:
            continue
        split = _linear_in(e, atom)
        if split is None or _interval(split[0])[0] < 0:
            return None
        e = split[0] * upper + split[1]
        changed = True
    return e if changed else None


# Proofs -------------------------------------------------------------------------------------------


def _prove(e: Expr, steps: int) -> bool:
    low, high = _interval(e)
    if low >= 0 or high < 0:
        return low >= 0
    if _shifted_is_nonnegative(e.terms):
        return True
    if steps == 0 or len(e.terms) > _MOST_TERMS:
        return False
    for coefficient, upper, rest in _eliminations(e):
        if is_nonnegative(-coefficient):  # of lower degree, so this ends
            return _prove(coefficient * upper + rest, steps - 1)
    return False


def _eliminations(e: Expr) -> Iterator[tuple[Expr, Expr, Expr]]:
    """Ways to write e = coefficient * atom + rest, atom <= upper; expressions as bounds first."""
    negative = {m: c for m, c in e.terms.items() if c < 0}
    plain = []
    for atom in sorted(_atoms(negative), key=lambda atom: atom.rank):
        upper = upper_expression(atom)
        split = None if upper is None else _linear_in(e, atom)
        if upper is None or split is None:
            continue
        if isinstance(upper, Const):
            plain.append((split[0], upper, split[1]))
        else:
            yield split[0], upper, split[1]
    yield from plain


def _atoms(terms: Terms) -> set[Expr]:
    return {atom for monomial in terms for atom in monomial}


def _linear_in(e: Expr, atom: Expr) -> tuple[Expr, Expr] | None:
    """(coefficient, rest) with e = coefficient * atom + rest, or None if a power of atom occurs."""
    coefficient: Terms = {}
    rest: Terms = {}
    for monomial, c in e.terms.items():
        if atom not in monomial:
            rest[monomial] = c
        elif monomial.count(atom) == 1:
            coefficient[tuple(a for a in monomial if a is not atom)] = c
        else:
            return None
    return from_terms(coefficient), from_terms(rest)


def _shifted_is_nonnegative(terms: Terms) -> bool:
    """Whether the polynomial in (atom - its lower bound) has no negative coefficient.

    That is more than intervals see where one atom is in several products: s*t - t with s, t >= 1.
    """
    if all(len(monomial) < 2 for monomial in terms):
        return False
    total: Terms = {}
    for monomial, c in terms.items():
        product: Terms | None = {(): c}
        for atom in monomial:
            product = _times_shifted(product, atom) if product is not None else None
        if product is None:
            return False
        for m, d in product.items():
            total[m] = total.get(m, 0) + d
    return all(c >= 0 for c in total.values())


def _times_shifted(product: Terms, atom: Expr) -> Terms | None:
    """product * (atom + its lower bound), or None if it has none."""
    low = _interval(atom)[0]
    if not isinstance(low, int):
        return None
    result: Terms = {}
    by: dict[Monomial, int] = {(atom,): 1, (): low}
    for (m, c), (n, d) in ((x, y) for x in product.items() for y in by.items()):
        key = merge(m, n)
        result[key] = result.get(key, 0) + c * d
    return result
