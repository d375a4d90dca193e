"""Derivative rules of one operator, analysed once, so that only what they need is saved.

A rule is a function written in operators. Its parameter names say what it needs: ``g`` (cotangent
of result 0; a tuple where the operator returns a list) or ``g0``, ``g1``, ...; ``out`` or ``out0``,
...; any argument by name; ``shape_of_<argument>``, ``dtype_of_<argument>`` or
``layout_of_<argument>``, which save nothing else of it; ``needs`` (argument name -> whether its
gradient is wanted). A cotangent parameter with
default None accepts an undefined cotangent; others receive zeros. Knows nothing of nodes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from plait.base.errors import AutogradError, RegistrationError
from plait.dispatch.operator import Overload
from plait.dispatch.schema import Argument
from plait.ops.define import JointRule

__all__ = ["ArgumentRule", "Parameter", "RuleSet", "SavePlan", "rules_of"]

_NUMBERED = re.compile(r"(g|out)(\d*)")
# Properties of an argument that a rule can ask for without the argument being saved.
PROPERTIES: dict[str, Callable[[Any], Any]] = {
    "shape_of_": lambda t: t.shape,
    "dtype_of_": lambda t: t.dtype,
    "layout_of_": lambda t: t.layout,
}


class Parameter:
    """One parameter of a rule.

    ``kind`` is cotangent, result, property, needs, tensor or value.
    """

    __slots__ = ("index", "kind", "name", "optional")

    def __init__(self, name: str, kind: str, index: int = 0, optional: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.index = index  # number of the result, or position of the argument (-1: keyword-only)
        self.optional = optional


class ArgumentRule:
    """The rule of one tensor argument, at ``position`` among the positional ones."""

    __slots__ = (
        "bit", "fn", "is_list", "name", "number", "parameters", "part", "position", "wants_needs"
    )  # fmt: skip

    def __init__(
        self,
        argument: Argument,
        position: int,
        fn: Callable[..., Any],
        parameters: list[Parameter],
        part: int | None = None,
    ) -> None:
        self.number = self.bit = 0  # given by the rule set
        self.part = part  # place in what ``fn`` returns for several arguments together
        self.name = argument.name
        self.is_list = argument.type.is_list
        self.position = position
        self.fn = fn
        self.parameters = parameters
        self.wants_needs = any(p.kind == "needs" for p in parameters)


class SavePlan:
    """What a call must keep when a certain set of its arguments requires grad."""

    __slots__ = ("holomorphic", "properties", "results", "rules", "tensors", "values")

    def __init__(self, rules: list[ArgumentRule], holomorphic: bool) -> None:
        self.holomorphic = holomorphic
        wanted = {(p.kind, p.name): p for rule in rules for p in rule.parameters}
        self.rules = rules
        self.tensors = _of_kind(wanted.values(), "tensor")
        self.values = _of_kind(wanted.values(), "value")
        self.results = _of_kind(wanted.values(), "result")
        self.properties = [
            (p.name, p.index, property_of(p.name)) for p in wanted.values() if p.kind == "property"
        ]


def _of_kind(parameters: Iterable[Parameter], kind: str) -> list[tuple[str, int]]:
    return [(p.name, p.index) for p in parameters if p.kind == kind]


class RuleSet:
    """All rules of an operator, and the save plans by bit mask of the arguments requiring grad."""

    __slots__ = ("_plans", "has_lists", "holomorphic", "op", "rules", "single_ranges")

    def __init__(self, op: Overload, rules: list[ArgumentRule]) -> None:
        self.op = op
        self.rules = rules
        self.holomorphic = (op.functional or op).holomorphic
        self.has_lists = any(rule.is_list for rule in rules)
        self.single_ranges = [(i, i + 1) for i in range(len(rules))]
        for i, rule in enumerate(rules):
            rule.number, rule.bit = i, 1 << i
        self._plans: dict[int, SavePlan] = {}

    def plan(self, mask: int) -> SavePlan:
        """The save plan where bit i of ``mask`` says that rule i's argument requires grad."""
        plan = self._plans.get(mask)
        if plan is None:
            active = [rule for i, rule in enumerate(self.rules) if mask >> i & 1]
            plan = self._plans[mask] = SavePlan(active, self.holomorphic)
        return plan

    def ranges(self, args: tuple[Any, ...]) -> list[tuple[int, int]]:
        """First and last-plus-one edge of each rule: a list argument has one edge per tensor."""
        ranges, start = [], 0
        for rule in self.rules:
            end = start + (len(args[rule.position] or ()) if rule.is_list else 1)
            ranges.append((start, end))
            start = end
        return ranges


def derivatives_of(op: Overload) -> dict[str, Any] | None:
    """The rules that hold for ``op``: its own, or those of its functional form."""
    if op.vjp is None and op.functional is not None:
        return op.functional.vjp
    return op.vjp


def rules_of(op: Overload) -> RuleSet:
    """Analyse the rules of ``op``.

    A tensor argument without a rule gets one that raises when its gradient is asked for, so that no
    gradient is lost silently; a rule that is None declares the argument non-differentiable.
    """
    derivatives = derivatives_of(op)
    rules = []
    for position, argument in enumerate(op.schema.positional):
        if not argument.type.is_tensor_like:
            continue
        fn = (derivatives or {}).get(argument.name, missing_rule(op, argument.name))
        if fn is None and op.schema.is_mutable and position == 0:
            fn = no_gradient  # the written argument keeps its place: the first edge
        if isinstance(fn, JointRule):
            rules.append(ArgumentRule(argument, position, fn.fn, _parameters(op, fn.fn), fn.part))
        elif fn is not None:
            rules.append(ArgumentRule(argument, position, fn, _parameters(op, fn)))
    return RuleSet(op, rules)


def missing_rule(op: Overload, name: str) -> Callable[..., Any]:
    """The rule of an argument that has none."""

    def missing(g=None):  # type: ignore[no-untyped-def]
        raise AutogradError(
            f"{op.qualname}: the derivative for argument {name!r} is not implemented. Detach the "
            "argument if its gradient is not wanted, or give the operator a rule for it (for "
            "a user's operator: register_autograd)."
        )

    return missing


def property_of(name: str) -> Callable[[Any], Any]:
    """What to keep of an argument for the parameter ``name``; lists are taken apart."""
    read = next(read for prefix, read in PROPERTIES.items() if name.startswith(prefix))

    def keep(value: Any) -> Any:
        if value is None:
            return None
        return tuple([read(v) for v in value]) if isinstance(value, tuple | list) else read(value)

    return keep


def no_gradient() -> None:
    """The rule of an argument that is declared non-differentiable."""


def _parameters(op: Overload, fn: Callable[..., Any]) -> list[Parameter]:
    found = [_parameter(op, fn, p) for p in inspect.signature(fn).parameters.values()]
    return [p for p in found if p is not None]


def _parameter(op: Overload, fn: Callable[..., Any], p: inspect.Parameter) -> Parameter | None:
    schema, name = op.schema, p.name
    prefix = next((p for p in PROPERTIES if name.startswith(p)), "")
    for position, argument in enumerate(schema.positional):
        if argument.name == name:
            return Parameter(name, "tensor" if argument.type.is_tensor_like else "value", position)
        if prefix and argument.name == name.removeprefix(prefix):
            return Parameter(name, "property", position)
    for argument in schema.kwonly:
        if argument.name == name:
            return Parameter(name, "tensor" if argument.type.is_tensor_like else "value", -1)
    if name == "needs":
        return Parameter(name, "needs")
    numbered = _NUMBERED.fullmatch(name)
    if numbered is not None and int(numbered[2] or 0) < max(1, len(schema.returns)):
        kind = "cotangent" if numbered[1] == "g" else "result"
        return Parameter(name, kind, int(numbered[2] or 0), p.default is None)
    if p.default is not p.empty:
        return None  # the rule's own constant
    raise RegistrationError(
        f"{op.qualname}: a derivative rule has a parameter {name!r} that means nothing; expected "
        f"g, g0.., out, out0.., needs, shape_of_<argument>, layout_of_<argument>, or one of "
        f"{', '.join(a.name for a in schema.arguments)} ({fn.__code__.co_filename}:"
        f"{fn.__code__.co_firstlineno})."
    )
