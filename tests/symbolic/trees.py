"""Random integer programs with a plain meaning, to hold the simplifier against."""

import random

from hypothesis import strategies as st

from plait.symbolic.expr import maximum, minimum, symbol

S = symbol("s", 1, 6)
N = symbol("n", 0, 5)
T = symbol("t", 2)
SYMBOLS = {
    "s": S,
    "n": N,
    "t": T,
    "a": symbol("a", 0, 4),
    "b": symbol("b", -3, 3),
    "x": symbol("x", None),
    "i": symbol("i", 0, N),
    "j": symbol("j", 0, S),
    "k": symbol("k", 0, T),
    "q": symbol("q", 0, 4 * S),
    "r": symbol("r", 1, S * T),
}

LEAVES = st.sampled_from(sorted(SYMBOLS)) | st.integers(-9, 9) | st.sampled_from([8, 16, 64])
OPERATORS = st.sampled_from(["+", "+", "-", "*", "//", "%", "//", "%", "min", "max"])
TREES = st.recursive(LEAVES, lambda t: st.tuples(OPERATORS, t, t), max_leaves=9)


def build(tree):
    """The tree as an expression; ZeroDivisionError where it divides by the constant 0."""
    return apply(tree, lambda name: SYMBOLS[name], minimum, maximum)


def meaning(tree, values):
    """The tree as an int; ZeroDivisionError where a divisor is 0."""
    return apply(tree, values.__getitem__, min, max)


def apply(tree, lookup, least, greatest):
    if isinstance(tree, str):
        return lookup(tree)
    if isinstance(tree, int):
        return tree
    op, left, right = tree
    a, b = apply(left, lookup, least, greatest), apply(right, lookup, least, greatest)
    if op in ("min", "max"):
        return (least if op == "min" else greatest)(a, b)
    return {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "//": lambda: a // b,
        "%": lambda: a % b,
    }[op]()


def assignments(count, seed):
    """Values that respect all bounds, also those that are expressions."""
    rng = random.Random(seed)
    for _ in range(count):
        values = {
            "s": rng.randrange(1, 6),
            "n": rng.randrange(1, 5),  # n = 0 leaves no value for i
            "t": rng.choice([2, 3, 4, 5, 8, 64]),
            "a": rng.randrange(4),
            "b": rng.randrange(-3, 3),
            "x": rng.choice([-1000, 1000, *range(-20, 20)]),
        }
        values["i"] = rng.randrange(values["n"])
        values["j"] = rng.randrange(values["s"])
        values["k"] = rng.randrange(values["t"])
        values["q"] = rng.randrange(4 * values["s"])
        values["r"] = rng.randrange(1, values["s"] * values["t"])
        yield values
