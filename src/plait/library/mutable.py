"""The functional form of an operator that writes its arguments.

``ns::f(Tensor(a!) x, Tensor y) -> Tensor`` gets ``ns::f.functional(Tensor x, Tensor y) -> (Tensor,
Tensor)``: the results of the operator, then the new value of each argument that it writes. Graphs
hold the functional form; where nobody reads the old value any more, a backend writes in place
(`run_in_place`), so that nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import AliasKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import Argument, FunctionSchema, Return

__all__ = ["FUNCTIONAL", "define_functional", "run_in_place"]

FUNCTIONAL = "auto_functionalized"
"""The kind of such operators."""


def functional_schema(schema: FunctionSchema) -> FunctionSchema:
    """The schema of the functional form."""
    arguments = tuple(
        Argument(a.name, a.type, a.default, a.kwarg_only, None if a.is_write else a.alias)
        for a in schema.arguments
    )
    returns = tuple(r for r in schema.returns if r.alias is None)
    written = tuple(Return(a.type) for a in schema.arguments if a.is_write)
    overload = f"{schema.overload}_functional" if schema.overload else "functional"
    return FunctionSchema(schema.namespace, schema.name, overload, arguments, returns + written)


def define_functional(op: Overload, define: Callable[[FunctionSchema], Overload]) -> Overload:
    """Define the functional form of ``op`` with ``define``, and link the two."""
    made = define(functional_schema(op.schema))
    made.kind = FUNCTIONAL
    made.tags = op.tags
    op.functional, made.inplace = made, op

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return run_in_place(op, (), args, kwargs)

    def fake(*args: Any, **kwargs: Any) -> Any:
        named = op.bind(args, kwargs)
        out = op.fake_rule(*args, **kwargs) if op.fake_rule is not None else None
        return _joined(op, out, [_copy(named[name]) for name in op.schema.mutated_names])

    made.register(AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD, kernel, calls_operators=True)
    made.fake_rule = fake
    return made


def run_in_place(
    op: Overload, in_place: Collection[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run the writing operator on copies of what it writes, except for the names ``in_place``.

    Returns what the functional form returns. Arguments are in the calling convention of kernels.
    """
    named = op.bind(args, kwargs)
    for name in op.schema.mutated_names:
        if name not in in_place:
            named[name] = _copy(named[name])
    positional = [named[a.name] for a in op.schema.positional]
    out = op.call(*positional, **{a.name: named[a.name] for a in op.schema.kwonly})
    return _joined(op, out, [named[name] for name in op.schema.mutated_names])


def _copy(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_copy(item) for item in value]
    return None if value is None else lookup("aten::clone").call(value)


def _joined(op: Overload, out: Any, written: list[Any]) -> Any:
    """Results that are no arguments, then the new values."""
    returns = op.schema.returns
    flat = out if len(returns) > 1 else (out,) * len(returns)
    results = [value for value, r in zip(flat, returns) if r.alias is None] + written
    return results[0] if len(results) == 1 else tuple(results)
