"""The Python dispatcher: rules asked at every key before the table, and a calculator of tables.

While it is on, each call stops at the PYTHON_DISPATCHER key, and at each layer on the way down the
operator's own rules (``op.py_impl(key)``) are asked before its kernels and fallbacks. `TableSketch`
shows, without any real operator, which kernel each key would get for a set of registrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from plait.base.errors import InvalidArgument, RegistrationError
from plait.dispatch.dispatcher import register_fallback
from plait.dispatch.entry import FALLBACKS, compute, fallthrough, find_fallback, find_kernel
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import BACKEND_KEYS, below, highest
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import include_keys

__all__ = ["TableSketch", "enable_python_dispatcher", "key_named"]

_PYTHON_DISPATCHER = DispatchKey.PYTHON_DISPATCHER.mask


@contextmanager
def enable_python_dispatcher() -> Iterator[None]:
    """Ask the rules set by ``op.py_impl(key)`` at every layer of every call of this thread.

    >>> import plait
    >>> from plait.dispatch import DispatchKey, lookup
    >>> sin = lookup("aten::sin")
    >>> _ = sin.py_impl(DispatchKey.AUTOGRAD_CPU)(lambda self: "asked first")
    >>> with enable_python_dispatcher():
    ...     plait.sin(plait.ones(2))
    'asked first'
    >>> sin.py_impl_remove(DispatchKey.AUTOGRAD_CPU)
    """
    with include_keys(_PYTHON_DISPATCHER):
        yield


def _python_dispatcher_fallback(op: Overload, lower: int) -> Callable[..., Any]:
    """The first rule or kernel among the keys below; deeper layers come back here."""
    remaining = lower
    while (key := highest(remaining)) is not None:
        remaining = lower & below(key)
        rule = op.python_kernels.get(key)
        if rule is not None:
            return rule
        found = find_kernel(op, key)
        if found is not None:
            if found.kernel.fn is fallthrough:
                continue
            return compute(op, key.mask | remaining)
        specialiser = find_fallback(op, key)
        specialised = (
            None if specialiser is None else specialiser(op, remaining | _PYTHON_DISPATCHER)
        )
        if specialised is not None:
            return specialised
        if key.mask & BACKEND_KEYS:
            break
    return compute(op, lower)


register_fallback(DispatchKey.PYTHON_DISPATCHER, _python_dispatcher_fallback)


# ---------------------------------------------------------------- a calculator of tables


def key_named(name: str | DispatchKey | AliasKey) -> DispatchKey | AliasKey:
    """The key called ``name``: ours ("AUTOGRAD_CPU") or PyTorch's spelling ("AutogradCPU")."""
    if not isinstance(name, str):
        return name
    wanted = name.replace("_", "").lower()
    every: tuple[DispatchKey | AliasKey, ...] = (*DispatchKey, *AliasKey)
    for key in every:
        if key.name.replace("_", "").lower() == wanted:
            return key
    raise InvalidArgument(
        f"dispatch key {name!r} does not exist; expected one of {', '.join(k.name for k in every)}."
    )


class TableSketch:
    """Registrations of an imaginary operator, and the table they give.

    It is PyTorch's debugging class ``PythonDispatcher``, over our keys.

    >>> sketch = TableSketch()
    >>> sketch.register(["CPU", "Autograd"])
    >>> print(sketch.table(["CPU", "CUDA", "AutogradCPU"]))
    CPU           1: registered for the key               CPU
    CUDA          missing
    AUTOGRAD_CPU  4: AUTOGRAD serves every autograd key   AUTOGRAD
    """

    def __init__(self) -> None:
        self.op = Overload(FunctionSchema.parse("sketch::op(Tensor x) -> Tensor"))

    def register(self, keys: Iterable[str | DispatchKey | AliasKey]) -> None:
        """Register a kernel at each key; RegistrationError for both composite kinds, or twice."""
        wanted = [key_named(key) for key in keys]
        both = {AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD, AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD}
        if both <= {*wanted, *self.op.kernels}:
            raise RegistrationError(
                "TableSketch: got kernels for COMPOSITE_IMPLICIT_AUTOGRAD and "
                "COMPOSITE_EXPLICIT_AUTOGRAD; expected one of the two, since the explicit one "
                "always wins."
            )
        for key in wanted:
            self.op.register(key, _named_kernel(key.name))

    def rows(
        self, keys: Iterable[str | DispatchKey] | None = None
    ) -> list[tuple[DispatchKey, str, str]]:
        """(key, rule by which it is answered or "missing", where that kernel was registered)."""
        asked = [key_named(key) for key in keys] if keys is not None else list(DispatchKey)
        return [self._row(key) for key in asked if isinstance(key, DispatchKey)]

    def _row(self, key: DispatchKey) -> tuple[DispatchKey, str, str]:
        found = find_kernel(self.op, key)
        if found is not None:
            return key, found.rule, found.kernel.fn.__name__
        return key, "6: the fallback of the key" if key in FALLBACKS else "missing", ""

    def table(self, keys: Iterable[str | DispatchKey] | None = None) -> str:
        """The table as text, one key a line."""
        rows = self.rows(keys)
        width = max(len(key.name) for key, _, _ in rows)
        lines = [f"{key.name:{width}}  {rule:38}  {place}" for key, rule, place in rows]
        return "\n".join(line.rstrip() for line in lines)


def _named_kernel(name: str) -> Callable[..., Any]:
    def kernel(x: Any) -> str:
        return name

    kernel.__name__ = name
    return kernel
