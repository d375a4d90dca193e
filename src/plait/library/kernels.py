"""A user's function as a kernel: called below autograd, its results checked against the schema.

The wrapper is generated once per operator from its parsed schema, so that a call pays for the
checks of its own arguments and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plait.base.errors import ArgumentTypeError, RegistrationError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import BACKEND_KEYS, FULL
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import tls
from plait.dispatch.tags import Tag
from plait.tensor.tensor import Tensor

__all__ = ["checked_kernel", "place_of", "shares_memory"]

_ABOVE_BACKENDS = FULL & ~BACKEND_KEYS & ~DispatchKey.PYTHON_DISPATCHER.mask


def place_of(fn: Callable[..., Any]) -> str:
    """``file:line`` of a function, for errors."""
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(fn)


def _owner(array: Any) -> Any:
    """The object at the end of the chain of bases: it owns the memory."""
    base = array.base
    while base is not None and base.__class__ is np.ndarray:
        array, base = base, base.base
    return array if base is None else base


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the two tensors stand on one storage (they may be apart within it)."""
    if a is b:
        return True
    if a._storage is not None and a._storage is b._storage:
        return True
    first, second = a._array, b._array
    return first is not None and second is not None and _owner(first) is _owner(second)


def checked_kernel(op: Overload, fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` as a kernel of ``op``.

    Every operator that the function calls runs below autograd. A result that shares memory with an
    argument or with another result, of the wrong number or kind, is an error that names the
    argument and the place of the function.
    """
    schema, check = op.schema, _Checks(op, fn)
    arguments = ", ".join(a.name for a in schema.positional)
    keywords = ", ".join(f"{a.name}={a.name}" for a in schema.kwonly)
    names = ", ".join(a.name for a in schema.kwonly)
    comma = ", " if arguments and keywords else ""
    parameters = f"{arguments}{', ' if arguments else ''}*, {names}" if names else arguments
    tensors = ", ".join(a.name for a in schema.arguments if a.type.is_tensor_like)
    simple = _single_tensor(schema) and not any(
        a.type.is_list or a.type.optional for a in schema.arguments if a.type.is_tensor_like
    )
    lines = [
        f"def kernel({parameters}):",
        "    saved, grad = tls.exclude, tls.grad_enabled",
        "    tls.exclude, tls.grad_enabled = saved | above, False",
        "    try:",
        *_contiguous(op),
        f"        out = fn({arguments}{comma}{keywords})",
        "    finally:",
        "        tls.exclude, tls.grad_enabled = saved, grad",
    ]
    if simple:
        lines += [
            "    if out.__class__ is Tensor and out._storage is None:",
            "        owner = out._array.base",
            "        if owner is None and " + _none_is("out", schema) + ": return out",
        ]
    if not schema.returns:
        lines += ["    if out is None: return None"]
    lines += [f"    return check.results(out, ({tensors}{',' if tensors else ''}))", ""]
    scope = {"tls": tls, "above": _ABOVE_BACKENDS, "fn": fn, "check": check, "Tensor": Tensor}
    exec(compile("\n".join(lines), f"<kernel of {op.qualname}>", "exec"), scope)
    kernel: Callable[..., Any] = scope["kernel"]  # type: ignore[assignment]
    return kernel


def _contiguous(op: Overload) -> list[str]:
    """Source: with the tag for it, tensors that are only read are contiguous for the kernel."""
    if Tag.NEEDS_CONTIGUOUS_STRIDES not in op.tags:
        return []
    lines = []
    for a in op.schema.arguments:
        if not a.type.is_tensor_like or a.is_write:
            continue
        if a.type.is_list:
            item = "t if t is None else t.contiguous()"
            made = f"[{item} for t in {a.name}]"
        else:
            made = f"{a.name}.contiguous()"
        guard = f" if {a.name} is not None else None" if a.type.optional else ""
        lines.append(f"        {a.name} = {made}{guard}")
    return lines


def _single_tensor(schema: FunctionSchema) -> bool:
    return (
        len(schema.returns) == 1
        and schema.returns[0].type.is_tensor_like
        and not schema.returns[0].type.is_list
        and schema.returns[0].alias is None
    )


def _none_is(name: str, schema: FunctionSchema) -> str:
    """Source: the fresh result owns its memory, so only identity, or a view of it, could alias.

    A fresh array without a base, in a tensor whose storage nobody asked for, is nobody's view, and
    an argument could only be a view of it if it had been made from it, which needs a storage.
    """
    tests = [f"{name} is not {a.name}" for a in schema.arguments if a.type.is_tensor_like]
    return " and ".join(tests) or "True"


class _Checks:
    """What the results of one operator must be."""

    def __init__(self, op: Overload, fn: Callable[..., Any]) -> None:
        self.op, self.schema = op, op.schema
        self.place = place_of(fn)
        self.names = [a.name for a in op.schema.arguments if a.type.is_tensor_like]
        self.written = [a.name for a in op.schema.arguments if a.is_write]
        self.may_alias = Tag.MAYBE_ALIASING_OR_MUTATING in op.tags or op.schema.is_view

    def results(self, out: Any, tensors: Sequence[Any]) -> Any:
        """``out`` as the schema has it: one value, a tuple, or None."""
        returns = self.schema.returns
        if not returns:
            if out is not None:
                raise self._fault(f"returned a {type(out).__name__}; expected None")
            return None
        if len(returns) == 1:
            flat: Sequence[Any] = (out,)
        elif isinstance(out, tuple | list) and len(out) == len(returns):
            flat = out = tuple(out)
        else:
            got = f"{len(out)} values" if isinstance(out, tuple | list) else type(out).__name__
            raise self._fault(f"returned {got}; expected {len(returns)} results")
        for k, (value, wanted) in enumerate(zip(flat, returns)):
            self._kind(k, value, wanted.type)
        if any(r.alias is not None and r.alias.is_write for r in returns):
            self._returns_written(flat, dict(zip(self.names, tensors, strict=True)))
        elif not self.may_alias:
            self._fresh(flat, dict(zip(self.names, tensors, strict=True)))
        return out

    def _kind(self, k: int, value: Any, wanted: Any) -> None:
        if wanted.is_tensor_like:
            items = value if wanted.is_list and isinstance(value, tuple | list) else (value,)
            if wanted.is_list and not isinstance(value, tuple | list):
                raise self._fault(f"returned a {type(value).__name__} as result {k}; expected a "
                                  "list of tensors")  # fmt: skip
            for item in items:
                if not isinstance(item, Tensor):
                    raise self._fault(
                        f"returned a {type(item).__name__} as result {k}; expected a Tensor"
                    )
        elif isinstance(value, Tensor):
            raise self._fault(f"returned a Tensor as result {k}; expected a {wanted}")

    def _returns_written(self, flat: Sequence[Any], named: dict[str, Any]) -> None:
        """An in-place or out operator returns the very tensors that it writes."""
        for value, name in zip(flat, self.written, strict=True):
            if value is not named[name]:
                raise self._fault(
                    f"must return argument {name!r} itself, the tensor that it writes; got another "
                    "object"
                )

    def _fresh(self, flat: Sequence[Any], named: dict[str, Any]) -> None:
        results = list(tensors_in(flat))
        for k, result in enumerate(results):
            for name, value in named.items():
                for tensor in tensors_in((value,)):
                    if shares_memory(result, tensor):
                        raise self._fault(
                            f"returned a result (number {k}) that shares memory with argument "
                            f"{name!r}; expected fresh memory. Return a clone"
                        )
            for other in range(k):
                if shares_memory(result, results[other]):
                    raise self._fault(
                        f"returned results {other} and {k}, which share memory; expected each on "
                        "its own. Return a clone"
                    )

    def _fault(self, text: str) -> RegistrationError | ArgumentTypeError:
        cls = ArgumentTypeError if "expected a Tensor" in text else RegistrationError
        return cls(f"{self.op.qualname}: the kernel at {self.place} {text}.")
