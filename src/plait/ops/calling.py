"""From an operator's packet to the function that users call.

An operator with one functional overload is called through that overload's own call path; one with
a Tensor and a Scalar overload through a test of the second argument; others by their schemas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.dispatch.dispatcher import packet
from plait.dispatch.operator import Overload
from plait.symbolic.symint import SymInt
from plait.tensor.tensor import Tensor

__all__ = ["NUMBERS", "by_operand", "callable_of", "is_number", "plain_number"]

NUMBERS = frozenset((float, int, bool, complex))  # the usual classes, tested first


def is_number(value: Any) -> bool:
    """Whether an operand is a Python number, a SymInt or a NumPy scalar."""
    return value.__class__ in NUMBERS or isinstance(
        value, int | float | complex | SymInt | np.number | np.bool_
    )


def plain_number(value: Any) -> Any:
    """A NumPy scalar as a Python number, so that it brings no dtype of its own to a call."""
    return value.item() if isinstance(value, np.generic) else value


def callable_of(name: str) -> Callable[..., Any]:
    """What ``plait.<name>`` and ``Tensor.<name>`` call, for an operator of the aten namespace."""
    operator = packet(f"aten::{name}")
    functional = [op for key, op in operator.overloads.items() if not key.endswith("out")]
    if len(functional) == 1:
        return _single(functional[0], has_out=len(operator.overloads) > 1)
    kinds = {key.split("_")[-1]: op for key, op in operator.overloads.items() if op in functional}
    if kinds.keys() == {"Tensor", "Scalar"} and len(kinds["Tensor"].schema.tensor_positions) == 2:
        return by_operand(kinds["Tensor"], kinds["Scalar"])
    if not any(op.name != name for op in functional):
        return _by_schema(name)
    return operator


def _by_schema(name: str) -> Callable[..., Any]:
    operator = packet(f"aten::{name}")

    def function(*args: Any, **kwargs: Any) -> Any:
        return operator(*args, **kwargs)

    return _named(function, name, [str(op.schema) for op in operator.overloads.values()])


def _single(op: Overload, *, has_out: bool) -> Callable[..., Any]:
    if not has_out:
        return op.call
    call, operator = op.call, packet(op.schema.packet_name)

    def function(*args: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            return _with_out(operator, args, kwargs)
        return call(*args, **kwargs)

    return _named(function, op.name, [str(op.schema)])


def by_operand(tensor_op: Overload, scalar_op: Overload) -> Callable[..., Any]:
    """A function that takes a tensor or a number as its second argument."""
    with_tensor, with_number = tensor_op.call, scalar_op.call
    operator = packet(tensor_op.schema.packet_name)

    def function(input: Any, other: Any, **kwargs: Any) -> Any:
        if kwargs and "out" in kwargs:
            return _with_out(operator, (input, other), kwargs)
        if isinstance(other, Tensor):
            return with_tensor(input, other, **kwargs)
        return with_number(input, plain_number(other), **kwargs)

    return _named(function, tensor_op.name, [str(tensor_op.schema), str(scalar_op.schema)])


def _with_out(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs["out"] is None:
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    return operator(*args, **kwargs)


def _named(function: Callable[..., Any], name: str, schemas: list[str]) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = "\n".join(schemas)
    return function
