"""Running a formula: over arrays, by a plan made once per types of operands, and over tensors.

Over arrays the half types are computed in float32 and rounded once, at the end. Large arrays are
taken in blocks, so that what lies between stays in the cache. Must not know operators of users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from plait.base.errors import DtypeMismatch
from plait.library.formula.functions import FUNCTIONS, Typed, dtypes_of
from plait.library.formula.terms import Term, ordered
from plait.ops import aten
from plait.ops.arrays import Array, run_quietly
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.promotion import NUMBER, result_type_of

__all__ = ["Plan", "fold", "make_plan", "over_tensors"]

_BLOCK = 1 << 14
_HALVES = (dtypes.float16, dtypes.bfloat16)


def fold(fn: str, values: Sequence[Any]) -> Any:
    """``fn`` of Python numbers: floats are float64, and follow IEEE instead of raising."""
    function = FUNCTIONS[fn]
    is_float = any(isinstance(v, float) for v in values) or fn in _OF_FLOATS
    if is_float and fn not in ("and", "or", "not", "where"):
        values = [float(v) for v in values]
    result = run_quietly(function.array, *[np.asarray(v) for v in values])
    return result.item()


_OF_FLOATS = frozenset(
    n for n, f in FUNCTIONS.items() if f.types([(dtypes.int64, 0)] * f.arity)[1].is_floating
)


class _Step(NamedTuple):
    """One function of a plan. An operand is a place and the dtype it is taken in."""

    array: Callable[..., Any]
    operands: tuple[tuple[int, np.dtype[Any]], ...]


class Plan:
    """A formula for operands of certain types: steps over arrays.

    Places: first the arrays, then numbers, then the result of each step.
    """

    __slots__ = ("_numbers", "_steps", "dtype")

    def __init__(self, dtype: DType, numbers: list[_NumberTerm], steps: list[_Step]) -> None:
        self.dtype = dtype
        self._numbers, self._steps = numbers, steps

    def run(self, arrays: Sequence[Array], named: Mapping[str, Any], shape: Any) -> Any:
        """The result over ``arrays``, of shape ``shape`` and perhaps a wider dtype."""
        numbers = [np.asarray(n.value(named)) for n in self._numbers]
        full = [a for a in arrays if a.ndim]
        if full and full[0].size > _BLOCK and all(
            a.shape == shape and a.flags.c_contiguous for a in full
        ):  # fmt: skip
            return self._in_blocks(arrays, numbers, shape)
        return self._once(arrays, numbers)

    def _once(self, arrays: Sequence[Array], numbers: Sequence[Any]) -> Any:
        places: list[Any] = [*arrays, *numbers]
        for array, operands in self._steps:
            given = []
            for place, dtype in operands:
                value = places[place]
                given.append(value if value.dtype == dtype else value.astype(dtype))
            places.append(array(*given))
        return places[-1] if self._steps else np.array(places[0])

    def _in_blocks(self, arrays: Sequence[Array], numbers: Sequence[Any], shape: Any) -> Array:
        flat = [a.reshape(-1) if a.ndim else a for a in arrays]
        size = max(a.size for a in flat)
        out = np.empty(size, self.dtype.numpy)
        for start in range(0, size, _BLOCK):
            part = slice(start, start + _BLOCK)
            out[part] = self._once([a[part] if a.ndim else a for a in flat], numbers)
        return out.reshape(shape)


class _NumberTerm:
    """A part of a formula in which no tensor occurs."""

    __slots__ = ("constant", "parts")

    def __init__(self, term: Term) -> None:
        self.parts = ordered(term)
        fixed = not any(isinstance(t.leaf, str) for t in self.parts)
        self.constant = self.value({}) if fixed else None

    def value(self, named: Mapping[str, Any]) -> Any:
        """The number, given the keyword arguments."""
        if getattr(self, "constant", None) is not None:
            return self.constant
        values: dict[Term, Any] = {}
        for term in self.parts:
            if term.fn is not None:
                values[term] = fold(term.fn, [values[a] for a in term.args])
            else:
                values[term] = named[term.leaf] if isinstance(term.leaf, str) else term.leaf
        return values[self.parts[-1]]


def make_plan(
    root: Term, tensors: Mapping[str, Typed], named: Mapping[str, Any], where: str
) -> Plan:
    """The plan of ``root`` for tensors of these types, and numbers of the types of ``named``.

    DtypeMismatch, beginning with ``where``, for a type that a function does not take.
    """
    return _Planner(root, tensors, named, where).plan()


class _Planner:
    def __init__(
        self, root: Term, tensors: Mapping[str, Typed], named: Mapping[str, Any], where: str
    ) -> None:
        self.root, self.tensors, self.where = root, tensors, where
        self.common = result_type_of(tensors.values())
        self.types: dict[Term, Typed] = {}
        self.places: dict[Term, int] = {t: i for i, t in enumerate(_leaves(root, tensors))}
        self.numbers: list[_NumberTerm] = []
        self.named = named

    def plan(self) -> Plan:
        terms = ordered(self.root)
        for term in terms:
            self.types[term] = self._type(term)
        used = [a for t in terms if self.types[t][1] != NUMBER for a in t.args]
        for term in dict.fromkeys(used):
            if self.types[term][1] == NUMBER:
                self.places[term] = len(self.tensors) + len(self.numbers)
                self.numbers.append(_NumberTerm(term))
        steps: list[_Step] = []
        base = len(self.tensors) + len(self.numbers)
        for term in terms:
            if term.fn is None or self.types[term][1] == NUMBER:
                continue
            taken = self._taken(term)[0]
            operands = tuple((self.places[a], _computed(d)) for a, d in zip(term.args, taken))
            self.places[term] = base + len(steps)
            steps.append(_Step(FUNCTIONS[term.fn].array, operands))
        return Plan(self.types[self.root][0], self.numbers, steps)

    def _type(self, term: Term) -> Typed:
        if isinstance(term.leaf, str):
            found = self.tensors.get(term.leaf)
            return (dtypes_of(self.named[term.leaf]), NUMBER) if found is None else found
        if term.fn is None:
            return dtypes_of(term.leaf), NUMBER
        rank = max(self.types[a][1] for a in term.args)
        if rank == NUMBER:
            return self._number_type(term), NUMBER
        return self._taken(term)[1], rank

    def _number_type(self, term: Term) -> DType:
        assert term.fn is not None
        if term.fn in _OF_FLOATS:
            return dtypes_of(1.0)
        if term.fn in ("and", "or", "not"):
            return dtypes.bool_
        return FUNCTIONS[term.fn].types([self.types[a] for a in term.args])[1]

    def _taken(self, term: Term) -> tuple[tuple[DType, ...], DType]:
        assert term.fn is not None
        operands = [self.types[a] for a in term.args]
        if term.fn == "where" and operands[1][1] == operands[2][1] == NUMBER:
            operands[1] = (result_type_of([(self.common, 1), *operands[1:]]), NUMBER)
            operands[2] = operands[1]
        try:
            return FUNCTIONS[term.fn].types(operands)
        except DtypeMismatch as error:
            kinds = ", ".join(str(dtype) for dtype, _ in operands)
            raise DtypeMismatch(f"{self.where}: {term} has operands of {kinds}; {error}") from None


def _leaves(root: Term, tensors: Mapping[str, Typed]) -> list[Term]:
    """The tensor parameters, in the order of ``tensors``."""
    found = {t.leaf: t for t in ordered(root) if isinstance(t.leaf, str)}
    return [found[n] for n in tensors]


def _computed(dtype: DType) -> np.dtype[Any]:
    return dtypes.float32.numpy if dtype in _HALVES else dtype.numpy


def over_tensors(root: Term, named: Mapping[str, Any]) -> Any:
    """``root`` over tensors and numbers, in operators: what a compiler sees."""
    tensors = [v for v in named.values() if hasattr(v, "_keys")]
    values: dict[Term, Any] = {}
    for term in ordered(root):
        if term.fn is None:
            values[term] = named[term.leaf] if isinstance(term.leaf, str) else term.leaf
            continue
        given = [values[a] for a in term.args]
        if not any(hasattr(v, "_keys") for v in given):
            values[term] = fold(term.fn, given)
            continue
        if term.fn == "where" and not any(hasattr(v, "_keys") for v in given[1:]):
            pairs = [(t.dtype, len(t.shape)) for t in tensors]
            common = (result_type_of(pairs), 1)
            dtype = result_type_of([common, *((dtypes_of(v), NUMBER) for v in given[1:])])
            given[1:] = [aten.scalar_tensor.default(v, dtype=dtype) for v in given[1:]]
        values[term] = FUNCTIONS[term.fn].tensor(*given)
    result = values[root]
    return aten.clone.default(result) if root.fn is None else result
