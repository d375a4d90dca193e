"""Wrapper subclasses in a trace: reading an inner tensor, and making a wrapper, as nodes.

Operators on wrappers are recorded whole, on the wrapper's one value. Python code of the traced
function may also look inside (``x.values``) or build a wrapper from traced tensors; those are no
operators, so each gets a node of its own where its result first meets an operator. Knows the
recorder; knows nothing of the function that is traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from plait.base.errors import CaptureError
from plait.capture.proxy import Recorder
from plait.capture.source import at_user_line, user_stack
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.ir.graph import Value
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, flatten_wrapper, unflatten_wrapper

__all__ = ["INNER", "MAKE", "TracedWrappers"]


def _operator(schema: str, call: Any) -> Overload:
    op = Overload(FunctionSchema.parse(schema))
    op.call = call
    op.kind = "wrapper"
    return op


class _How:
    """What of a wrapper is no value of the graph."""

    def __init__(self, cls: type[Any], names: tuple[str, ...], context: Any) -> None:
        self.cls, self.names, self.context = cls, names, context

    def __repr__(self) -> str:
        return self.cls.__name__


def _make(how: _How, inner: tuple[Tensor, ...], shape: Any, strides: Any) -> Tensor:
    named = dict(zip(how.names, inner, strict=True))
    return unflatten_wrapper(how.cls, named, how.context, shape, strides)


INNER = _operator("plait::inner_tensor(Tensor self, str name) -> Tensor", getattr)
"""Reads an inner tensor of a wrapper. Only in captured graphs: below, wrappers are taken apart."""
MAKE = _operator(
    "plait::make_wrapper(Any how, Tensor[] inner, SymInt[] size, SymInt[] stride) -> Tensor", _make
)
"""Makes a wrapper over inner tensors; ``how`` is its class and context."""


class TracedWrappers:
    """The wrappers of one trace, by their inner tensors."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._owners: dict[int, tuple[Tensor, WrapperTensor, str]] = {}  # by id of the inner tensor
        self._known: dict[int, tuple[WrapperTensor, list[Tensor]]] = {}  # by id of the wrapper

    @property
    def met(self) -> bool:
        """Whether there is any wrapper so far."""
        return bool(self._known)

    def know(self, results: Any) -> None:
        """Remember whose inner tensors these are; anything but wrappers is passed by."""
        if isinstance(results, tuple | list):
            for item in results:
                self.know(item)
        elif isinstance(results, WrapperTensor):
            names = flatten_wrapper(results)[0]
            self._known[id(results)] = (results, [getattr(results, name) for name in names])
            for name in names:
                inner = getattr(results, name)
                self._owners.setdefault(id(inner), (inner, results, name))
                self.know(inner)

    def know_again(self, tensors: Iterable[Tensor]) -> None:
        """As :meth:`know`, for wrappers that are known."""
        for wrapper, _ in list(self._among(tensors)):
            self.know(wrapper)

    def check(self, tensors: Iterable[Tensor] | None = None) -> None:
        """CaptureError where the traced function gave a wrapper (None: any) other inner tensors.

        The graph holds operators alone, so an assignment would be lost.
        """
        found = self._known.values() if tensors is None else self._among(tensors)
        for wrapper, inner in list(found):
            for name, then in zip(flatten_wrapper(wrapper)[0], inner, strict=True):
                if getattr(wrapper, name) is not then:
                    raise CaptureError(
                        f"compile: the traced function assigns the inner tensor {name!r} of a "
                        f"{type(wrapper).__name__}{at_user_line()}, which no graph can hold; "
                        "expected it to be written in place, or a new wrapper to be made."
                    )

    def _among(self, tensors: Iterable[Tensor]) -> Iterator[tuple[WrapperTensor, list[Tensor]]]:
        for tensor in tensors:
            if tensor._is_wrapper and id(tensor) in self._known:
                yield self._known[id(tensor)]

    def value_of(self, tensor: Tensor) -> Value | None:
        """The value of a tensor that no operator made: an inner tensor, or a new wrapper."""
        owner = self._owners.get(id(tensor))
        if owner is not None:
            _, wrapper, name = owner
            if getattr(wrapper, name) is not tensor:
                raise CaptureError(
                    f"compile: the inner tensor {name!r} of a {type(wrapper).__name__} was read "
                    f"before its handler replaced it{at_user_line()}; expected handlers that write "
                    "into inner tensors."
                )
            return self._record(INNER, (wrapper, name), tensor)
        if not isinstance(tensor, WrapperTensor):
            return None
        if tensor._requires_grad:
            raise CaptureError(
                f"compile: a {type(tensor).__name__} that requires grad is made{at_user_line()}; "
                "expected one without. A leaf made inside a trace has no gradient that anybody "
                "could read: make it outside and pass it in."
            )
        names, context = flatten_wrapper(tensor)
        inner = tuple(getattr(tensor, name) for name in names)
        args = (_How(type(tensor), names, context), inner, tensor.shape, tensor.strides)
        value = self._record(MAKE, args, tensor)
        self.know(tensor)
        return value

    def _record(self, op: Overload, args: tuple[Any, ...], result: Tensor) -> Value:
        recorder = self.recorder
        saved, recorder.source = recorder.source, user_stack()
        try:
            node = recorder.record(op, args, {}, result)
        finally:
            recorder.source = saved
        value: Value = node.results[0]
        return value
