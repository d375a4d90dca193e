"""Operators whose arguments may be functions or graphs, with a rule per key, mode and subclass.

A higher-order operator has no schema and no fallback: each layer that meets it needs a rule of its
own, and one that has none is named in the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.base.errors import MissingKernel, RegistrationError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import ABOVE_PYTHON, below, highest
from plait.dispatch.modes import mode_stack
from plait.dispatch.python_key import tensors_in
from plait.dispatch.state import exclude_keys, tls

__all__ = ["HigherOrderOperator"]

_SKIPPED = (DispatchKey.BACKEND_SELECT, DispatchKey.ADINPLACE_OR_VIEW)


class HigherOrderOperator:
    """An operator over functions: ``cond``, ``map``, a call of a compiled region.

    Rules are set with `py_impl`, for a dispatch key ``rule(*args, **kwargs)``, for a class of mode
    ``rule(mode, *args, **kwargs)``, for a tensor subclass ``rule(cls, *args, **kwargs)``; a rule
    may answer NotImplemented.

    >>> from plait.dispatch import DispatchKey, HigherOrderOperator
    >>> twice = HigherOrderOperator("twice")
    >>> @twice.py_impl(DispatchKey.CPU)
    ... def twice_cpu(fn, x):
    ...     return fn(fn(x))
    >>> twice.fallthrough(DispatchKey.AUTOGRAD_CPU)
    >>> import plait
    >>> twice(lambda t: t * 3, plait.ones(1))
    tensor([9.])
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules: dict[DispatchKey | type, Callable[..., Any]] = {}
        self._through: set[DispatchKey] = set(_SKIPPED)

    def __repr__(self) -> str:
        return f"<HigherOrderOperator {self.name}>"

    def py_impl(self, key: DispatchKey | type) -> Callable[[Callable[..., Any]], Any]:
        """Decorator that sets the rule for a key, a class of mode or a tensor subclass.

        RegistrationError for a second rule, or for the PYTHON key: modes and subclasses are named
        by their class.
        """
        name = getattr(key, "name", getattr(key, "__name__", str(key)))
        if key is DispatchKey.PYTHON:
            raise RegistrationError(
                f"{self.name}: py_impl got the key PYTHON; expected a class of mode or tensor."
            )

        def set_rule(fn: Callable[..., Any]) -> Callable[..., Any]:
            if key in self.rules:
                raise RegistrationError(f"{self.name}: a rule for {name} is set already.")
            self.rules[key] = fn
            return fn

        return set_rule

    def fallthrough(self, key: DispatchKey) -> None:
        """Let calls pass ``key`` by."""
        self._through.add(key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        keys = tls.include
        for tensor in tensors_in((*args, *kwargs.values())):
            keys |= tensor._keys
        keys = keys & ~tls.exclude or DispatchKey.CPU.mask
        return self._at(keys, args, kwargs)

    def redispatch(self, keyset: int, *args: Any, **kwargs: Any) -> Any:
        """Go on at the keys of ``keyset``."""
        return self._at(keyset, args, kwargs)

    def _at(self, keys: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        remaining = keys
        while (key := highest(remaining)) is not None:
            remaining = keys & below(key)
            if key is DispatchKey.PYTHON:
                return self._at_python(args, kwargs)
            rule = self.rules.get(key)
            if rule is not None:
                return rule(*args, **kwargs)
            if key in self._through or key > DispatchKey.AUTOGRAD_CUDA:
                continue
            break
        raise MissingKernel(
            f"{self.name}: a higher-order operator has no rule for "
            f"{key.name if key else 'a call without tensors'}; rules are set for: "
            f"{', '.join(_name(k) for k in self.rules) or 'nothing'}. Set one with py_impl, or let "
            "the key fall through."
        )

    def _at_python(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first mode, else the first subclass, that has a rule; a missing one is an error."""
        asked: list[str] = []
        handlers: list[tuple[str, Any, type]] = [("mode", m, type(m)) for m in mode_stack()]
        for tensor in tensors_in((*args, *kwargs.values())):
            if tensor._keys & DispatchKey.PYTHON.mask:
                handlers.append(("subclass", type(tensor), type(tensor)))
        for label, handler, cls in handlers:
            rule = self.rules.get(cls)
            if rule is None:
                raise MissingKernel(
                    f"{self.name}: a higher-order operator has no rule for {label} "
                    f"{cls.__name__}; rules are set for: "
                    f"{', '.join(_name(k) for k in self.rules) or 'nothing'}. Set one with "
                    f"py_impl({cls.__name__})."
                )
            with exclude_keys(ABOVE_PYTHON | DispatchKey.PYTHON.mask):
                result = rule(handler, *args, **kwargs)
            if result is not NotImplemented:
                return result
            asked.append(f"{label} {cls.__name__}")
        raise MissingKernel(
            f"{self.name}: every rule answered NotImplemented: {', '.join(asked) or 'none is set'}."
        )


def _name(key: DispatchKey | type) -> str:
    return key.name if isinstance(key, DispatchKey) else key.__name__
