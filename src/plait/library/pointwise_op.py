"""Operators given as a scalar formula: everything else about them follows from it.

Owns the operator of a formula and the operators of its derivatives, which are formulas too and are
made when they are first needed. Reading and evaluating formulas is `formula`'s.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from plait.base.errors import FormulaError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import NO_DEFAULT, Argument, FunctionSchema, Return, Type
from plait.dispatch.tags import Tag
from plait.library import definitions
from plait.library.definitions import split_name
from plait.library.formula.derive import derivative
from plait.library.formula.evaluate import Plan, make_plan, over_tensors
from plait.library.formula.parse import read_formula, require_def
from plait.library.formula.terms import Term, name, names_in, show
from plait.library.infer import signature_of
from plait.library.libraries import Library
from plait.ops.define import check_dtype, elementwise_meta, fit
from plait.ops.elementwise import ORDERED, zero_grad
from plait.ops.quiet import QUIET, loud, quiet
from plait.tensor.dtype import get_default_dtype
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, wrap

__all__ = ["PointwiseOpDef", "pointwise_op"]

_TAGS = (Tag.POINTWISE, Tag.PT2_COMPLIANT, Tag.FLEXIBLE_LAYOUT)
_TENSOR = Type("Tensor")
_NUMBERS = {float: "float", int: "int", bool: "bool"}


def pointwise_op(operator: str, fn: Callable[..., Any] | None = None, /) -> Any:
    """Define the operator "namespace::name" by a formula for one element.

    ``fn`` is read, never run. Its positional parameters are tensors, which broadcast; its
    keyword-only ones are numbers, annotated float, int or bool. It may assign to names, and returns
    one expression of arithmetic (``+ - * / **``), comparisons, ``and``, ``or``, ``not``,
    ``a if c else b``, numbers from outside, and the functions abs, ceil, clamp, cos, erf, exp,
    expm1, floor, isfinite, isinf, isnan, log, log1p, max, min, pow, reciprocal, relu, round, rsqrt,
    sigmoid, sign, silu, sin, sqrt, square, tan, tanh, trunc, where (also as ``math.exp``).

    Kernel, shape and dtype rule, derivatives of every order, batching and fused native code follow.
    Dtypes are promoted at each operation as for tensors, and so is the result's. A conditional
    passes on the gradient of the branch that was chosen, and nothing of the other; max and min
    share it where both are equal. Without ``fn``, a decorator.

    FormulaError (a ValueError) names what a formula may not use, and its line. Complex tensors are
    a MissingKernel.

    >>> import plait
    >>> @plait.library.pointwise_op("docs::soft_clip")
    ... def soft_clip(x, *, limit: float = 1.0):
    ...     return limit * tanh(x / limit) if abs(x) > limit / 2 else x
    >>> soft_clip(plait.tensor([0.25, 4.0]), limit=2.0)
    tensor([0.2500, 1.9281])
    >>> print(soft_clip.derivative("x"))
    ((limit * ((1.0 - square(tanh((x / limit)))) / limit)) if (abs(x) > (limit / 2)) else 1.0)
    """
    if fn is None:
        return lambda body: pointwise_op(operator, body)
    namespace, short = split_name(operator, "pointwise_op")
    require_def(fn)
    arguments = tuple(_argument(fn, p) for p in signature_of(fn, short).parameters.values())
    formula = read_formula(fn, [a.name for a in arguments])
    schema = FunctionSchema(namespace, short, "", arguments, (Return(_TENSOR),))
    used = set(names_in(formula.root))
    for a in schema.positional:
        if a.name not in used:
            raise FormulaError(
                f"{formula.place}: the formula {short} does not use its parameter {a.name!r}; "
                "expected a result that depends on every tensor. Take the parameter away."
            )
    return PointwiseOpDef(schema, formula.root, formula.place, fn)


def _argument(fn: Any, parameter: inspect.Parameter) -> Argument:
    """One parameter, as it stands in the schema."""
    kind, given = parameter.kind, parameter.annotation
    shown = f"pointwise_op: parameter {parameter.name!r} of {fn.__name__}"
    if kind is parameter.POSITIONAL_OR_KEYWORD:
        if given not in (parameter.empty, Tensor) or parameter.default is not parameter.empty:
            raise FormulaError(
                f"{shown} is positional, so it is a tensor; got the annotation {given!r} or a "
                "default; expected neither. Put numbers after `*`."
            )
        return Argument(parameter.name, _TENSOR)
    if kind is not parameter.KEYWORD_ONLY or given not in _NUMBERS:
        raise FormulaError(
            f"{shown} is {kind.description}, with the annotation {given!r}; expected tensors by "
            "position, and after `*` numbers annotated float, int or bool."
        )
    default = NO_DEFAULT if parameter.default is parameter.empty else parameter.default
    return Argument(parameter.name, Type(_NUMBERS[given]), default, kwarg_only=True)


class PointwiseOpDef:
    """An operator given by a formula. Made by `pointwise_op`; calling it calls the operator."""

    def __init__(
        self, schema: FunctionSchema, root: Term, place: str, fn: Callable[..., Any]
    ) -> None:
        definitions.replace(schema.qualname)
        self.qualname, self.schema, self.place = schema.qualname, schema, place
        self.library = Library(schema.namespace, "FRAGMENT")
        self._operator = _FormulaOperator(self.library, schema, root, place)
        self.op: Overload = self._operator.op
        self.call = self.op.call
        self.__name__, self.__doc__ = schema.name, fn.__doc__
        definitions.remember(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<PointwiseOpDef {self.schema}>"

    @property
    def formula(self) -> str:
        """What the operator computes, as one expression."""
        return show(self._operator.root)

    def derivative(self, parameter: str) -> str:
        """The formula of the derivative by one tensor parameter, as one expression."""
        found = derivative(self._operator.root, parameter)
        return "0.0" if found is None else show(found)

    def destroy(self) -> None:
        """Take the operator and those of its derivatives away."""
        definitions.forget(self)
        self.library.destroy()


class _FormulaOperator:
    """One operator whose meaning is a formula, and its rules."""

    def __init__(self, library: Library, schema: FunctionSchema, root: Term, place: str) -> None:
        self.library, self.schema, self.root, self.place = library, schema, root, place
        self.op = library.define(schema, tags=_TAGS)
        self.op.kind = "elementwise"
        self._names = [a.name for a in schema.positional]
        self._plans: dict[Any, Plan] = {}
        self.op.shape_rule = self._meta
        self.op.decomposition = self._in_operators
        self.op.vjp = {n: _Slope(self, n).rule() for n in self._names}
        self.op.register(DispatchKey.CPU, self._kernel)

    def _plan(self, tensors: Sequence[Any], numbers: dict[str, Any]) -> Plan:
        """The plan for operands of these types, made once."""
        key = (
            *[(t.dtype, len(t.shape) == 0) for t in tensors],
            *[type(v) for v in numbers.values()],
            get_default_dtype(),
        )
        plan = self._plans.get(key)
        if plan is None:
            for t in tensors:
                check_dtype(self.op.qualname, t.dtype, ORDERED)
            typed = {n: (t.dtype, min(len(t.shape), 1)) for n, t in zip(self._names, tensors)}
            where = f"{self.op.qualname} ({self.place})"
            plan = self._plans[key] = make_plan(self.root, typed, numbers, where)
        return plan

    def _meta(self, *tensors: Any, **numbers: Any) -> TensorMeta:
        return elementwise_meta(self.op.qualname, tensors, self._plan(tensors, numbers).dtype)

    def _kernel(self, *tensors: Tensor, **numbers: Any) -> Tensor:
        plan = self._plan(tensors, numbers)
        meta = elementwise_meta(self.op.qualname, tensors, plan.dtype)
        token = quiet(QUIET)
        try:
            result = plan.run([t._array for t in tensors], numbers, meta.shape)  # type: ignore[misc]
            return wrap(fit(result, meta), meta.dtype)
        finally:
            loud(token)

    def _in_operators(self, *tensors: Any, **numbers: Any) -> Any:
        return over_tensors(self.root, {**dict(zip(self._names, tensors)), **numbers})


class _Slope:
    """The derivative of an operator by one of its tensors: an operator of its own."""

    def __init__(self, of: _FormulaOperator, parameter: str) -> None:
        self.of, self.parameter = of, parameter
        taken = {a.name for a in of.schema.arguments}
        # Rules call the cotangent g, g0 or g00; an argument of that name would be meant instead.
        self.cotangent = next(n for n in ("g", "g0", "g00", "g000") if n not in taken)
        self.root = derivative(of.root, parameter, name(self.cotangent))
        self._lock = threading.Lock()
        self._made: _FormulaOperator | None = None

    def rule(self) -> Callable[..., Any]:
        """The rule of the tape; its parameters say what is saved."""
        if self.root is None:
            return _Named((self.cotangent,), zero_grad)
        self.schema = self._schema(self.root)
        count = len(self.schema.positional)
        numbers = [a.name for a in self.schema.kwonly]

        def run(*values: Any) -> Any:
            return self.operator().call(*values[:count], **dict(zip(numbers, values[count:])))

        return _Named(tuple(a.name for a in self.schema.arguments), run)

    def _schema(self, root: Term) -> FunctionSchema:
        """As the operator's, with the cotangent first and without what the slope does not need."""
        used, of = set(names_in(root)), self.of.schema
        arguments = [Argument(self.cotangent, _TENSOR)]
        arguments += [
            Argument(a.name, a.type, kwarg_only=a.kwarg_only)
            for a in of.arguments
            if a.name in used
        ]
        overload = f"{of.overload}_grad_{self.parameter}".lstrip("_")
        return FunctionSchema(of.namespace, of.name, overload, tuple(arguments), of.returns)

    def operator(self) -> Overload:
        """The operator, made when it is first called."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    assert self.root is not None
                    place = f"derivative by {self.parameter} of the formula at {self.of.place}"
                    self._made = _FormulaOperator(self.of.library, self.schema, self.root, place)
        return self._made.op


class _Named:
    """A rule whose parameter names are known only at run time."""

    def __init__(self, names: tuple[str, ...], fn: Callable[..., Any]) -> None:
        kind = inspect.Parameter.POSITIONAL_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])
        self._fn = fn

    def __call__(self, *values: Any) -> Any:
        return self._fn(*values)
