import sys
import threading

import numpy as np
import pytest

from plait.base.errors import ArgumentTypeError, InvalidArgument
from plait.symbolic import codegen, nodes
from plait.symbolic.bounds import bounds, is_nonnegative
from plait.symbolic.expr import (
    Const,
    Expr,
    and_,
    as_int,
    const,
    eq,
    expr_of,
    ge,
    le,
    lt,
    maximum,
    minimum,
    ne,
    not_,
    or_,
    product,
    symbol,
)

s, t, n, x = symbol("s", 2), symbol("t", 2), symbol("n"), symbol("x")
i, j, k = symbol("i", 0, n), symbol("j", 0, s), symbol("k", 0, t)
a, b, r = symbol("a", 0, 8), symbol("b", 0, 64), symbol("r", 0, 32)

# fmt: off
SIMPLIFIED = [
    # sums and products
    (lambda: (s + t)*(s - t),                       "s*s - t*t"),
    (lambda: 2*x + 3 - x - 3,                       "x"),
    (lambda: -x*2 + 1,                              "-2*x + 1"),
    (lambda: x**3,                                  "x*x*x"),
    # quotients and remainders of a linear index
    (lambda: (a*64 + b)//64,                        "a"),
    (lambda: (a*64 + b)%64,                         "b"),
    (lambda: (i*s + j)//s,                          "i"),
    (lambda: (i*s + j)%s,                           "j"),
    (lambda: ((i*s + j)*t + k)//(s*t),              "i"),
    (lambda: ((i*s + j)*t + k)//t%s,                "j"),
    (lambda: ((i*s + j)*t + k)%(s*t),               "j*t + k"),
    (lambda: (x*(s + 1) + j)//(s + 1),              "x"),
    (lambda: (x*128 + a*32 + r)//64,                "2*x + a//2"),
    (lambda: (x*128 + a*32 + r)%64,                 "r + 32*(a%2)"),
    # constants and common factors
    (lambda: (x*s)//s,                              "x"),
    (lambda: (s*t*6)//(s*4),                        "t + t//2"),
    (lambda: (s*6 + 3)//3,                          "2*s + 1"),
    (lambda: (2*x + 1)//4,                          "x//2"),
    (lambda: (2*x + 1)%4,                           "2*(x%2) + 1"),
    (lambda: (x + 130)//64,                         "(x + 2)//64 + 2"),
    (lambda: x//-3,                                 "(-x)//3"),
    (lambda: x%-3,                                  "-((-x)%3)"),
    (lambda: (s - 1)//s,                            "0"),
    (lambda: (s*t - 1)//t,                          "s - 1"),
    (lambda: 0//x,                                  "0"),
    (lambda: 7//x,                                  "7//x"),
    (lambda: 7%x,                                   "7%x"),
    # nested
    (lambda: x//8//8,                               "x//64"),
    (lambda: x%64//8,                               "(x//8)%8"),
    (lambda: x%64%8,                                "x%8"),
    (lambda: (x%64 + 3)%8,                          "(x + 3)%8"),
    (lambda: x%(s*t)//t,                            "(x//t)%s"),
    (lambda: symbol("q", 0, 4*s)//4//s,             "0"),
    # put together again
    (lambda: x//64*64 + x%64,                       "x"),
    (lambda: x//s*s + x%s,                          "x"),
    (lambda: x//512*512 + x//64%8*64 + x%64,        "x"),
    (lambda: 3*(x%8) + 24*(x//8) + 1,               "3*x + 1"),
    # minima and maxima
    (lambda: minimum(s, 1),                         "1"),
    (lambda: maximum(s, t, 2),                      "max(s, t)"),
    (lambda: minimum(j, s),                         "j"),
    (lambda: minimum(minimum(x, s), x, 5),          "min(s, x, 5)"),
    # conditions
    (lambda: lt(j, s),                              "True"),
    (lambda: lt(i*s + j, n*s),                      "True"),
    (lambda: lt(b + 64*a, 512),                     "True"),
    (lambda: lt(s*t, t),                            "False"),
    (lambda: lt(s, 5),                              "s <= 4"),
    (lambda: le(64, s),                             "64 <= s"),
    (lambda: lt(x, s),                              "x < s"),
    (lambda: ge(2*s, 7),                            "4 <= s"),
    (lambda: eq(2*s, 2*t + 1),                      "False"),
    (lambda: eq(2*s, 4*t),                          "s == 2*t"),
    (lambda: eq(4*t, 2*s),                          "s == 2*t"),
    (lambda: eq(5, s),                              "s == 5"),
    (lambda: eq(s, 1),                              "False"),
    (lambda: ne(s, 5),                              "s != 5"),
    (lambda: and_(lt(s, 5), ge(s, 5)),              "False"),
    (lambda: and_(True, lt(s, 5), lt(s, 5)),        "s <= 4"),
    (lambda: or_(),                                 "False"),
    (lambda: not_(or_(eq(s, 5), lt(s, 3))),         "3 <= s and s != 5"),
    (lambda: or_(and_(lt(s, 5), eq(t, 3)), eq(x, 1)), "s <= 4 and t == 3 or x == 1"),
    (lambda: and_(or_(lt(s, 5), eq(t, 3)), eq(x, 1)), "(s <= 4 or t == 3) and x == 1"),
]
# fmt: on


@pytest.mark.parametrize("make, printed", SIMPLIFIED, ids=[text for _, text in SIMPLIFIED])
def test_simplified_form(make, printed):
    assert str(make()) == printed


def test_symbols_are_one_object_by_name_and_bounds():
    assert symbol("s", 2) is s
    assert symbol("s") is not s and symbol("s", 2, 9) is not s
    assert symbol("u", 0, const(4)) is symbol("u", 0, 4)
    assert (symbol("s") + s).free_symbols == {s, symbol("s")}
    assert symbol("s") * s is s * symbol("s")
    with pytest.raises(InvalidArgument, match="x\\[0\\]"):
        symbol("x[0]")


def test_bounds_are_inclusive_and_none_where_there_is_no_bound():
    assert bounds(a * 64 + b) == (0, 511)
    assert bounds(-s) == (None, -2)
    assert bounds(x % s) == (0, None)
    assert bounds(b % s) == (0, 63)
    assert bounds(const(7)) == (7, 7)
    assert bounds(symbol("v", 0, a + 3)) == (0, 9)
    assert bounds(symbol("w", None) * x) == (None, None)
    assert bounds(10**400 * x) == (0, None)


def test_proofs():
    assert is_nonnegative(s * t - t) and is_nonnegative(10 * s - s * symbol("m", 0, 10))
    assert is_nonnegative(n * s - 1 - (i * s + j))
    assert not is_nonnegative(s - t) and not is_nonnegative(j - 1)


def test_constants():
    assert as_int(const(5)) == 5 and as_int(s) is None and as_int(7) == 7
    assert as_int(s - s) == 0 and isinstance(s - s, Const)
    assert product([2, s, 3]) is 6 * s and product([]) is const(1)
    assert const(np.int64(5)) is const(5) and const(True) is const(1)


def test_division_by_the_constant_zero_raises_as_for_int():
    for divide in (
        lambda: s // 0,
        lambda: s % 0,
        lambda: const(1) // const(0),
        lambda: 5 % (s - s),
    ):
        with pytest.raises(ZeroDivisionError):
            divide()


def test_operands_of_other_kinds():
    assert s + np.int64(3) is s + 3 and np.int64(3) is not None
    assert True + s is s + 1
    assert s + 3 is s + 3
    for wrong in (3.0, "3", None, np.float64(3)):
        with pytest.raises(TypeError):
            s + wrong
        with pytest.raises(TypeError):
            s // wrong
    with pytest.raises(InvalidArgument):
        s**-1
    with pytest.raises(ArgumentTypeError, match="str"):
        expr_of("s")


def test_truth_of_symbolic_things_is_refused():
    with pytest.raises(ArgumentTypeError, match="'s'"):
        bool(s)
    with pytest.raises(ArgumentTypeError, match="s <= 4"):
        bool(lt(s, 5))


def test_evaluate_and_substitute():
    e = (x + 3) // s
    assert e.evaluate({"x": 8, "s": 2}) == 5
    assert e.substitute({s: 1}) is x + 3 and e.substitute({x: s * 4 - 3}) is const(4)
    assert e.substitute({s: t, t: s}) is (x + 3) // t
    assert e.substitute({n: 3}) is e
    assert lt(s, 5).substitute({s: 4}) is True
    with pytest.raises(InvalidArgument, match="'s'"):
        e.evaluate({"x": 8})


def test_operands_can_be_walked():
    e = 2 * s * t + x // s - 3
    assert [(arg.op, str(arg)) for arg in e.args] == [
        ("Mul", "2*s*t"),
        ("FloorDiv", "x//s"),
        ("Const", "-3"),
    ]
    assert [str(arg) for arg in e.args[0].args] == ["2", "s", "t"]
    assert e.args[1].args == (x, s)

    def rebuild(e: Expr) -> Expr:
        if e.op == "Add":
            return sum(map(rebuild, e.args), const(0))
        return product(map(rebuild, e.args)) if e.op == "Mul" else e

    assert rebuild(e) is e


def test_codegen_names_and_tuples():
    assert (
        codegen.source((s + 1) // t * 2, {"s": "x.shape[0]", "t": "n"}) == "2*((x.shape[0] + 1)//n)"
    )
    assert codegen.tuple_source([s, 3, s * t]) == "(s, 3, s*t)"
    assert codegen.tuple_source([s]) == "(s,)" and codegen.tuple_source([]) == "()"
    assert codegen.compile_function([minimum(s, t), lt(s, t)], ["s", "t"])(3, 4) == (3, True)
    with pytest.raises(InvalidArgument, match="'t'"):
        codegen.source(s + t, {"s": "s"})


def test_printing_order_does_not_depend_on_history():
    p, q = symbol("p_order"), symbol("q_order")
    assert str(q + p + p * q + 1) == "p_order*q_order + p_order + q_order + 1"
    assert str(symbol("i10") + symbol("i2")) == "i2 + i10"


def test_threads_that_build_the_same_expressions_get_the_same_objects():
    results: list[list[Expr]] = []

    def work() -> None:
        v = symbol("threaded")
        results.append([(v * m + m) // 7 % 5 for m in range(300)])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == 4
    assert all(e is f for other in results[1:] for e, f in zip(results[0], other))


def test_memo_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(nodes, "_MEMO_LIMIT", 3)
    memo: dict[int, int] = {}
    for value in range(10):
        nodes.remember(memo, value, value)
        assert len(memo) <= 3 and memo[value] == value
