"""Integer expressions: hash-consed immutable nodes, and their ring arithmetic (+, -, *).

Owns interning and the canonical form: every expression is a polynomial, a sum of integer
coefficients times products of *atoms* (symbols, quotients, remainders, minima, maxima). Equal
polynomials are one object, so `is` and `==` compare by structure in no time. Must not know how
quotients and remainders simplify: those rules need bounds, stand above this module and are handed
in through `install`.

Note [Interning]: nodes live as long as the process; there are as many as different expressions were
ever built. The memo tables of the operators are dropped when they grow large. Both kinds of table
only use operations of dict that are atomic, so that threads may build expressions at once.
"""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from plait.base.errors import ArgumentTypeError, InvalidArgument
from plait.symbolic.codegen import source

__all__ = [
    "ONE",
    "ZERO",
    "Add",
    "Const",
    "Expr",
    "FloorDiv",
    "Max",
    "Min",
    "Mod",
    "Monomial",
    "Mul",
    "Symbol",
    "Terms",
    "as_int",
    "const",
    "extremum",
    "from_terms",
    "install",
    "merge",
    "quotient",
    "remainder",
    "remember",
    "symbol",
]

Monomial = tuple["Expr", ...]  # atoms in the order of `_rank`; () is the constant term
Rank = tuple[int, str, int]  # length of the text, text, serial number
Terms = dict[Monomial, int]  # no coefficient is 0; in printing order once it belongs to a node
K = TypeVar("K")
V = TypeVar("V")

_MEMO_LIMIT = 1 << 16
_serials = itertools.count()
_interned: dict[object, Any] = {}
_sums: dict[tuple[Expr, Expr | int], Expr] = {}
_products: dict[tuple[Expr, Expr | int], Expr] = {}
_quotients: dict[tuple[Expr, Expr | int], Expr] = {}
_remainders: dict[tuple[Expr, Expr | int], Expr] = {}
_rules: dict[str, Callable[..., Any]] = {}


def install(
    floordiv: Callable[[Expr, Expr], Expr],
    mod: Callable[[Expr, Expr], Expr],
    recombine: Callable[[Terms], Terms],
    rebuild: Mapping[str, Callable[..., Expr]],
) -> None:
    """Hand in the rules of the layer above; done once, when the package is imported."""
    _rules.update(floordiv=floordiv, mod=mod, recombine=recombine, **rebuild)


def remember(memo: dict[K, V], key: K, value: V) -> V:
    """Store a result in a memo table, which is emptied first when it has grown large."""
    if len(memo) >= _MEMO_LIMIT:
        memo.clear()
    memo[key] = value
    return value


def _has_mod(terms: Terms) -> bool:
    for monomial in terms:
        for atom in monomial:
            if type(atom) is Mod:
                return True
    return False


class Expr:
    """An integer expression; immutable and interned, so equality is identity.

    `op` names the kind, `args` are the operands (the terms of a sum, the factors of a product with
    the constant first). `terms` is the polynomial view, which every kind has. Arithmetic takes ints
    on either side.
    """

    __slots__ = ("_args", "_bounds", "_free", "_rank", "_text", "has_mod", "terms")

    op: ClassVar[str] = ""
    terms: Terms
    has_mod: bool  # a remainder is among the atoms of `terms`
    _bounds: Any  # cache of bounds.bounds

    def __init__(self, args: tuple[Expr, ...] | None, terms: Terms | None) -> None:
        self._args = args
        self._bounds = None
        self._free: frozenset[Symbol] | None = None
        self._rank: Rank | None = None
        self._text: str | None = None
        if terms is None:
            self.terms = {(self,): 1}
            self.has_mod = type(self) is Mod
        else:
            self.terms = terms
            self.has_mod = _has_mod(terms)

    @property
    def args(self) -> tuple[Expr, ...]:
        """The operands; those of a polynomial are made when they are first asked for."""
        if self._args is None:
            self._args = self._operands()
        return self._args

    def _operands(self) -> tuple[Expr, ...]:
        return ()

    # Arithmetic -----------------------------------------------------------------------------------

    def __add__(self, other: Expr | int) -> Expr:
        if type(other) is not int and not isinstance(other, Expr):
            return _converted(operator.add, self, other)
        known = _sums.get((self, other))
        return _add(self, other) if known is None else known

    __radd__ = __add__

    def __mul__(self, other: Expr | int) -> Expr:
        if type(other) is not int and not isinstance(other, Expr):
            return _converted(operator.mul, self, other)
        known = _products.get((self, other))
        return _multiply(self, other) if known is None else known

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return self * -1

    def __pos__(self) -> Expr:
        return self

    def __sub__(self, other: Expr | int) -> Expr:
        if type(other) is not int and not isinstance(other, Expr):
            return _converted(operator.sub, self, other)
        return self + -other

    def __rsub__(self, other: int) -> Expr:
        return -self + other

    def __floordiv__(self, other: Expr | int) -> Expr:
        if type(other) is not int and not isinstance(other, Expr):
            return _converted(operator.floordiv, self, other)
        known = _quotients.get((self, other))
        if known is None:
            result: Expr = _rules["floordiv"](self, _constant(other))
            return remember(_quotients, (self, other), result)
        return known

    def __rfloordiv__(self, other: int) -> Expr:
        return _converted(operator.floordiv, other, self)

    def __mod__(self, other: Expr | int) -> Expr:
        if type(other) is not int and not isinstance(other, Expr):
            return _converted(operator.mod, self, other)
        known = _remainders.get((self, other))
        if known is None:
            result: Expr = _rules["mod"](self, _constant(other))
            return remember(_remainders, (self, other), result)
        return known

    def __rmod__(self, other: int) -> Expr:
        return _converted(operator.mod, other, self)

    def __pow__(self, exponent: int) -> Expr:
        if type(exponent) is not int or exponent < 0:
            raise InvalidArgument(f"Expr **: got exponent {exponent!r}; expected an int >= 0.")
        result = ONE
        for _ in range(exponent):
            result = result * self
        return result

    # Questions ------------------------------------------------------------------------------------

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        """The symbols in it; not those that only occur in the bound of another symbol."""
        if self._free is None:
            atoms = {atom for monomial in self.terms for atom in monomial}
            parts = self.args if self in atoms else atoms
            self._free = frozenset().union(*(part.free_symbols for part in parts))
        return self._free

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The value under `values` (symbol name -> int); InvalidArgument if a symbol is missing."""
        total = 0
        for monomial, coefficient in self.terms.items():
            for atom in monomial:
                coefficient *= atom._evaluate_atom(values)
            total += coefficient
        return total

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        return self.evaluate(values)

    def substitute(self, replacements: Mapping[Expr, Expr | int]) -> Expr:
        """Replace symbols, all at once; the bounds of the symbols that stay are not rewritten."""
        if self.free_symbols.isdisjoint(replacements):
            return self
        total: Expr = ZERO
        for monomial, coefficient in self.terms.items():
            product = const(coefficient)
            for atom in monomial:
                product = product * atom._substitute_atom(replacements)
            total = total + product
        return total

    def _substitute_atom(self, replacements: Mapping[Expr, Expr | int]) -> Expr:
        args = (arg.substitute(replacements) for arg in self.args)
        result: Expr = _rules[self.op](*args)
        return result

    @property
    def rank(self) -> Rank:
        """Key of the printing order of atoms; the serial number only parts symbols of one name."""
        if self._rank is None:
            text = str(self)
            self._rank = (len(text), text, next(_serials))
        return self._rank

    def __str__(self) -> str:
        if self._text is None:
            self._text = source(self)
        return self._text

    def __repr__(self) -> str:
        return str(self)

    def __bool__(self) -> bool:
        raise ArgumentTypeError(
            f"Expr: the truth of '{self}' is not known. Compare with eq, ne, lt or le."
        )

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (self.op, self.args)


class Const(Expr):
    """An integer."""

    __slots__ = ("value",)
    op = "Const"

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__((), {(): value} if value else {})

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return const, (self.value,)


class Symbol(Expr):
    """An unknown integer with lower <= value < upper; upper is None, an int, or an Expr."""

    __slots__ = ("lower", "name", "upper")
    op = "Symbol"

    def __init__(self, name: str, lower: int | None, upper: int | Expr | None) -> None:
        self.name = name
        self.lower = lower
        self.upper = upper
        super().__init__((), None)

    @property
    def free_symbols(self) -> frozenset[Symbol]:
        """Itself."""
        if self._free is None:
            self._free = frozenset((self,))
        return self._free

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        try:
            return values[self.name]
        except KeyError:
            raise InvalidArgument(
                f"Expr.evaluate: argument 'values' lacks symbol {self.name!r}; got {list(values)}."
            ) from None

    def _substitute_atom(self, replacements: Mapping[Expr, Expr | int]) -> Expr:
        value = replacements.get(self, self)
        return value if isinstance(value, Expr) else const(value)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return symbol, (self.name, self.lower, self.upper)


class Add(Expr):
    """A sum of two or more terms, each a Const, an atom or a Mul; the constant is last."""

    __slots__ = ()
    op = "Add"

    def _operands(self) -> tuple[Expr, ...]:
        return tuple(_term(monomial, coefficient) for monomial, coefficient in self.terms.items())


class Mul(Expr):
    """A product of atoms, with a Const in front unless the coefficient is 1; powers repeat the
    atom.
    """

    __slots__ = ()
    op = "Mul"

    def _operands(self) -> tuple[Expr, ...]:
        ((monomial, coefficient),) = self.terms.items()
        return monomial if coefficient == 1 else (const(coefficient), *monomial)


class FloorDiv(Expr):
    """An atom: args[0] // args[1], rounded down. The divisor is assumed not to be 0."""

    __slots__ = ()
    op = "FloorDiv"

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        return self.args[0].evaluate(values) // self.args[1].evaluate(values)


class Mod(Expr):
    """An atom: args[0] % args[1], with the sign of the divisor, which is assumed not to be 0."""

    __slots__ = ()
    op = "Mod"

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        return self.args[0].evaluate(values) % self.args[1].evaluate(values)


class Min(Expr):
    """An atom: the least of two or more operands."""

    __slots__ = ()
    op = "Min"

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        return min(arg.evaluate(values) for arg in self.args)


class Max(Expr):
    """An atom: the greatest of two or more operands."""

    __slots__ = ()
    op = "Max"

    def _evaluate_atom(self, values: Mapping[str, int]) -> int:
        return max(arg.evaluate(values) for arg in self.args)


# Construction -------------------------------------------------------------------------------------


def const(value: int) -> Expr:
    """The expression of an integer."""
    node: Expr | None = _interned.get(value) if type(value) is int else None
    if node is not None:
        return node
    value = operator.index(value)
    return _interned.setdefault(value, Const(value))  # type: ignore[no-any-return]


def _constant(value: Expr | int) -> Expr:
    return value if isinstance(value, Expr) else const(value)


ZERO = const(0)
ONE = const(1)


def symbol(name: str, lower: int | None = 0, upper: int | Expr | None = None) -> Expr:
    """The symbol of that name and these bounds, lower <= symbol < upper; None stands for no bound.

    Symbols are one object exactly when name *and* bounds are equal: two traces may each have their
    own `s0`. Do not mix two of one name in an expression, since `evaluate` and printing go by name.
    """
    key = (name, lower, upper)
    node: Expr | None = _interned.get(key)
    if node is not None:
        return node
    if not name.isidentifier():
        raise InvalidArgument(f"symbol: argument 'name' is {name!r}; expected an identifier.")
    if isinstance(upper, Const):
        return symbol(name, lower, upper.value)
    return _interned.setdefault(key, Symbol(name, lower, upper))  # type: ignore[no-any-return]


def as_int(e: Expr | int) -> int | None:
    """The value of a constant expression, or None."""
    if type(e) is Const:
        return e.value
    return e if isinstance(e, int) else None


def quotient(a: Expr, b: Expr) -> Expr:
    """The bare node a // b, not simplified; for the rules of division."""
    key = ("//", a, b)
    node: Expr | None = _interned.get(key)
    return _interned.setdefault(key, FloorDiv((a, b), None)) if node is None else node


def remainder(a: Expr, b: Expr) -> Expr:
    """The bare node a % b, not simplified; for the rules of division."""
    key = ("%", a, b)
    node: Expr | None = _interned.get(key)
    return _interned.setdefault(key, Mod((a, b), None)) if node is None else node


def extremum(kind: type[Min] | type[Max], operands: frozenset[Expr]) -> Expr:
    """The bare node of a minimum or maximum of two or more operands, not simplified."""
    key = (kind.op, operands)
    node: Expr | None = _interned.get(key)
    if node is None:
        args = tuple(sorted(operands, key=lambda e: (type(e) is Const, e.rank)))
        node = _interned.setdefault(key, kind(args, None))
    return node


def from_terms(terms: Terms) -> Expr:
    """The node of a polynomial; `terms` has no zero coefficient and is not changed."""
    if len(terms) == 0:
        return ZERO
    if len(terms) == 1:
        ((monomial, coefficient),) = terms.items()
        return _term(monomial, coefficient)
    key = frozenset(terms.items())
    node: Expr | None = _interned.get(key)
    if node is None:
        ordered = dict(sorted(terms.items(), key=_printing_order))
        node = _interned.setdefault(key, Add(None, ordered))
    return node


def _term(monomial: Monomial, coefficient: int) -> Expr:
    if not monomial:
        return const(coefficient)
    if coefficient == 1 and len(monomial) == 1:
        return monomial[0]
    key = (monomial, coefficient)
    node: Expr | None = _interned.get(key)
    if node is None:
        node = _interned.setdefault(key, Mul(None, {monomial: coefficient}))
    return node


def _printing_order(term: tuple[Monomial, int]) -> tuple[int, list[Rank]]:
    """Higher degree first, then by atoms: an admissible monomial order, as division needs."""
    monomial = term[0]
    return -len(monomial), [atom._rank or atom.rank for atom in monomial]


def merge(a: Monomial, b: Monomial) -> Monomial:
    """The product of two monomials."""
    if not a or not b:
        return a or b
    if len(a) == 1 and len(b) == 1:  # the usual case: a stride times an index
        return a + b if a[0].rank <= b[0].rank else b + a
    return tuple(sorted(a + b, key=lambda atom: atom.rank))


def _add(a: Expr, b: Expr | int) -> Expr:
    if type(b) is int:
        terms = dict(a.terms)
        _accumulate(terms, (), b)
        return remember(_sums, (a, b), from_terms(terms))
    assert isinstance(b, Expr)
    terms = dict(a.terms)
    for monomial, coefficient in b.terms.items():
        _accumulate(terms, monomial, coefficient)
    if a.has_mod or b.has_mod:
        terms = _rules["recombine"](terms)
    return remember(_sums, (a, b), from_terms(terms))


def _multiply(a: Expr, b: Expr | int) -> Expr:
    factor = as_int(b)
    if factor is not None:
        scaled = {m: c * factor for m, c in a.terms.items()} if factor else {}
        return remember(_products, (a, b), from_terms(scaled))
    assert isinstance(b, Expr)
    terms: Terms = {}
    for (m, c), (n, d) in itertools.product(a.terms.items(), b.terms.items()):
        _accumulate(terms, merge(m, n), c * d)
    if a.has_mod or b.has_mod:
        terms = _rules["recombine"](terms)
    return remember(_products, (a, b), from_terms(terms))


def _accumulate(terms: Terms, monomial: Monomial, coefficient: int) -> None:
    total = terms.get(monomial, 0) + coefficient
    if total:
        terms[monomial] = total
    else:
        terms.pop(monomial, None)


def _converted(function: Callable[[Any, Any], Expr], a: Any, b: Any) -> Expr:
    """Try again with ints of other kinds (bool, NumPy's) and a constant on the left made
    expressions.
    """
    left, right = _operand(a), _operand(b)
    if left is None or right is None:
        return NotImplemented  # type: ignore[no-any-return]  # the protocol of operators
    return function(left, right)


def _operand(x: Any) -> Expr | None:
    if isinstance(x, Expr):
        return x
    # A SymInt is Integral too, but has to answer itself; it is known by the expression it holds.
    if isinstance(x, numbers.Integral) and not hasattr(x, "expr"):
        return const(operator.index(x))
    return None


def _rebuild(op: str, args: tuple[Expr, ...]) -> Expr:
    """What unpickling calls: the same expression, interned in this process."""
    if op == "Add":
        total = ZERO
        for arg in args:
            total = total + arg
        return total
    if op == "Mul":
        product = ONE
        for arg in args:
            product = product * arg
        return product
    result: Expr = _rules[op](*args)
    return result
