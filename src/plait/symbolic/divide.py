"""Quotients and remainders: everything that makes a // b and a % b simpler.

Owns the rules; must not know of Booleans or of tracing. Both start from one identity, x = q*d + r
with q and r polynomials, for then x // d = q + r // d and x % d = r % d whatever the values; bounds
then decide whether 0 <= r < d. Rules that need a positive divisor say so; none needs more of a
divisor than that it is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from plait.symbolic.bounds import bounds, is_negative, is_nonnegative
from plait.symbolic.nodes import (
    ONE,
    ZERO,
    Const,
    Expr,
    FloorDiv,
    Mod,
    Monomial,
    Terms,
    const,
    from_terms,
    quotient,
    remainder,
)

__all__ = ["exact_quotient", "floordiv", "mod", "recombine"]

_ROUNDS = 16  # steps of a long division by a sum; more would not make the result simpler


def floordiv(x: Expr, d: Expr) -> Expr:
    """x // d, rounded down, simplified; ZeroDivisionError if d is the constant 0."""
    if isinstance(d, Const) and (isinstance(x, Const) or d.value == 0):
        return const(_value(x) // d.value)
    if d is ONE:
        return x
    if _leading(d)[1] < 0:
        return -x // -d
    q, r = _split(x, d)
    step = _constant_quotient(r, d)
    return q + (_reduced_quotient(r, d) if step is None else step)


def mod(x: Expr, d: Expr) -> Expr:
    """x % d, with the sign of d, simplified; ZeroDivisionError if d is the constant 0."""
    if isinstance(d, Const) and (isinstance(x, Const) or d.value == 0):
        return const(_value(x) % d.value)
    if d is ONE:
        return ZERO
    if _leading(d)[1] < 0:
        return -(-x % -d)
    r = _split(x, d)[1]
    step = _constant_quotient(r, d)
    if step is not None:
        return r - d * step
    unwrapped = _without_inner_remainder(r, d)
    return _reduced_remainder(r, d) if unwrapped is None else unwrapped % d


def exact_quotient(x: Expr, d: Expr) -> Expr | None:
    """The polynomial q with x = q*d, or None if there is none."""
    q, r = _split(x, d)
    return q if r is ZERO else None


def recombine(terms: Terms) -> Terms:
    """Put x together where quotient and remainder are both there: d*(x // d) + x % d -> x."""
    for monomial, c in terms.items():
        for atom in monomial:
            if isinstance(atom, Mod):
                whole = _recombined(terms, monomial, c, atom)
                if whole is not None:
                    return recombine(whole)
    return terms


def _recombined(terms: Terms, monomial: Monomial, c: int, atom: Mod) -> Terms | None:
    x, d = atom.args
    others = _product(_divide_monomial(monomial, (atom,)) or (), c)
    multiple = (x // d * d * others).terms
    if not multiple or any(terms.get(m) != k for m, k in multiple.items()):
        return None
    result = {m: k for m, k in terms.items() if m not in multiple and m != monomial}
    for m, k in (x * others).terms.items():
        total = result.pop(m, 0) + k
        if total:
            result[m] = total
    return result


# Polynomial division ------------------------------------------------------------------------------


def _split(x: Expr, d: Expr) -> tuple[Expr, Expr]:
    """(q, r) with x = q*d + r, as much in q as can be told without bounds; d leads with a positive
    term.
    """
    if len(d.terms) > 1:
        return _long_division(x, d)
    lead, k = _leading(d)
    q: Terms = {}
    r: Terms = {}
    for monomial, c in x.terms.items():
        others = _divide_monomial(monomial, lead)
        # Constants are rounded down, so that 0 <= r; others towards 0, so that -i stays -i.
        times = 0 if others is None else c // k if c > 0 or not monomial else -(-c // k)
        if others is not None and times:
            q[others] = times
        if c - times * k:
            r[monomial] = c - times * k
    return from_terms(q), from_terms(r)


def _long_division(x: Expr, d: Expr) -> tuple[Expr, Expr]:
    """Division by a sum; kept only where the remainder has become shorter than x."""
    lead, k = _leading(d)
    q, r = ZERO, x
    for _ in range(_ROUNDS):
        step = next(_exact_steps(r, lead, k), None)
        if step is None:
            break
        q, r = q + step, r - step * d
    return (q, r) if len(r.terms) < len(x.terms) else (ZERO, x)


def _exact_steps(r: Expr, lead: Monomial, k: int) -> Iterator[Expr]:
    for monomial, c in r.terms.items():
        others = _divide_monomial(monomial, lead)
        if others is not None and c % k == 0:
            yield _product(others, c // k)


def _leading(d: Expr) -> tuple[Monomial, int]:
    return next(iter(d.terms.items()))


def _divide_monomial(monomial: Monomial, by: Monomial) -> Monomial | None:
    left = list(monomial)
    for atom in by:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def _product(monomial: Monomial, coefficient: int) -> Expr:
    return from_terms({monomial: coefficient})


def _value(x: Expr) -> int:
    """The value of a constant; anything for other numerators of a division by 0."""
    return x.value if isinstance(x, Const) else 0


# What is left when the multiples of d are gone ----------------------------------------------------


def _constant_quotient(r: Expr, d: Expr) -> int | None:
    """The value of r // d if it is the same for all values of the symbols."""
    if r is ZERO:
        return 0
    if isinstance(d, Const):
        low, high = bounds(r)
        if low is not None and high is not None and low // d.value == high // d.value:
            return low // d.value
    if is_nonnegative(r):
        return 0 if is_nonnegative(d - r - 1) else None
    return -1 if is_negative(r) and is_nonnegative(d + r) else None


def _reduced_quotient(r: Expr, d: Expr) -> Expr:
    if isinstance(r, FloorDiv) and is_nonnegative(d):
        return r.args[0] // (r.args[1] * d)
    if isinstance(r, Mod) and is_nonnegative(d):
        # (y % (k*d)) // d -> (y // d) % k for positive k and d
        k = exact_quotient(r.args[1], d)
        if k is not None and is_nonnegative(k):
            return r.args[0] // d % k
    for _, y, _, rest in _factorings(r, d):
        return y // rest
    return quotient(r, d)


def _reduced_remainder(r: Expr, d: Expr) -> Expr:
    for g, y, t, rest in _factorings(r, d):
        return g * (y % rest) + t
    return remainder(r, d)


def _factorings(r: Expr, d: Expr) -> Iterator[tuple[Expr, Expr, Expr, Expr]]:
    """Ways to write r = g*y + t and d = g*rest with t = 0, or 0 <= t < g and rest > 0.

    Then r // d = y // rest, and r % d = g*(y % rest) + t. This is what takes apart mixed-radix
    numbers such as (32*j + k) // 64 with 0 <= k < 32.
    """
    content = math.gcd(*d.terms.values())
    common = _common_monomial(d.terms)
    tried = {ONE, d}
    for monomial, c in r.terms.items():
        g = _product(_shared(monomial, common), math.gcd(c, content))
        if g in tried:
            continue
        tried.add(g)
        rest = exact_quotient(d, g)
        y, t = _split(r, g)
        if rest is not None and (
            t is ZERO or (_constant_quotient(t, g) == 0 and is_nonnegative(d))
        ):
            yield g, y, t, rest


def _common_monomial(terms: Terms) -> Monomial:
    monomials = iter(terms)
    common = next(monomials)
    for monomial in monomials:
        common = _shared(common, monomial)
    return common


def _shared(a: Monomial, b: Monomial) -> Monomial:
    """The greatest common divisor of two monomials."""
    left = list(b)
    shared = []
    for atom in a:
        if atom in left:
            left.remove(atom)
            shared.append(atom)
    return tuple(shared)


def _without_inner_remainder(r: Expr, d: Expr) -> Expr | None:
    """`r` with one y % n replaced by y where that adds a multiple of d; None if there is no such
    place.
    """
    if not r.has_mod:
        return None
    for monomial, c in r.terms.items():
        for atom in monomial:
            if isinstance(atom, Mod):
                others = _product(_divide_monomial(monomial, (atom,)) or (), c)
                if exact_quotient(others * atom.args[1], d) is not None:
                    return r - others * atom + others * atom.args[0]
    return None
