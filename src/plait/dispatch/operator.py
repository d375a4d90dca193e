"""Operators: overloads (callable, each with its table) and packets that resolve overloads.

The *rule slots* of an overload (shape rule, derivative, decomposition, ...) are filled by the layer
that defines operators and read by the layers that differentiate, trace and compile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from plait.base.errors import ArgumentTypeError, RegistrationError
from plait.dispatch.entry import Kernel, Specialiser, compute, fallthrough, find_kernel
from plait.dispatch.extract import build_call
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.schema import Argument, FunctionSchema
from plait.dispatch.tags import Tag

__all__ = ["OperatorPacket", "Overload"]


class Overload:
    """One operator overload: ``aten::add.Tensor``.

    Calling it converts the arguments by its schema, joins the keysets of its tensors with the
    thread state and runs the kernel that its table holds for that keyset.
    """

    call: Callable[..., Any]
    # Rule slots, filled by the operator's definition.
    shape_rule: Callable[..., Any] | None = None
    fake_rule: Callable[..., Any] | None = None  # a user's shape function, over fakes
    vjp: dict[str, Callable[..., Any]] | None = None
    jvp: Any = None
    batching: Any = None
    decomposition: Callable[..., Any] | None = None
    functional: Overload | None = None  # of an in-place or out overload
    inplace: Overload | None = None  # of a functional overload
    out: Overload | None = None
    view_rule: Callable[..., Any] | None = None
    view_inverse: Callable[..., Any] | None = None
    explicit_random: Overload | None = None
    holomorphic: bool = False  # rules are written for real numbers, and hold so for complex ones
    kind: str = ""
    is_defined: bool = True  # until it is removed from the table

    def __init__(self, schema: FunctionSchema, tags: frozenset[Tag] = frozenset()) -> None:
        self.schema = schema
        self.qualname = schema.qualname
        self.name = schema.name
        self.tags = tags
        self.kernels: dict[DispatchKey | AliasKey, Kernel] = {}
        self.fallbacks: dict[DispatchKey, Specialiser] = {}
        self.python_kernels: dict[DispatchKey, Callable[..., Any]] = {}
        """What the Python dispatcher asks before the table, while it is on."""
        self.handler_rules: dict[type, Callable[..., Any]] | None = None
        """Rules of this operator for one class of mode or of tensor, asked before its handler."""
        self.table: dict[int, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        # The call path is built when it is first asked for: a process uses few of the operators.
        if name == "call":
            call = self.call = build_call(self)
            return call
        raise AttributeError(f"{self.qualname}: an operator has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Overload {self.qualname}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.qualname}: an operator is saved by name and schema, never pickled")

    def __deepcopy__(self, memo: dict[int, Any]) -> Overload:
        return self

    @property
    def is_composite(self) -> bool:
        """Whether the operator is only a body made of operators (CompositeImplicitAutograd)."""
        kernels = self.kernels
        return AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD in kernels and len(kernels) == 1

    @property
    def composite_body(self) -> Callable[..., Any]:
        """The body of a composite operator."""
        return self.kernels[AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD].fn

    def register(
        self,
        key: DispatchKey | AliasKey,
        fn: Callable[..., Any],
        *,
        calls_operators: bool = False,
        with_keyset: bool = False,
        replace: bool = False,
    ) -> None:
        """Register ``fn`` at ``key``; takes effect at the next call.

        ``fn`` may be :func:`~plait.dispatch.entry.fallthrough`, which stands for no kernel.
        ``calls_operators`` says that the kernel issues operators, which a backend kernel does below
        autograd; ``with_keyset``, that it takes the keyset of the call as its first argument, to be
        passed on to `redispatch`. RegistrationError if the key is taken, unless ``replace``.
        """
        earlier = self.kernels.get(key)
        if earlier is not None and not replace:
            raise RegistrationError(
                f"{self.qualname}: a kernel for {key.name} is registered already, at "
                f"{earlier.location}; pass replace=True to put another in its place."
            )
        composite = isinstance(key, AliasKey) and fn is not fallthrough
        calls = calls_operators or composite
        self.kernels[key] = Kernel(fn, calls, caller_location(), with_keyset)
        self.invalidate()

    def unregister(self, key: DispatchKey | AliasKey) -> None:
        """Take the kernel at ``key`` away; takes effect at the next call."""
        del self.kernels[key]
        self.invalidate()

    def register_fallback(self, key: DispatchKey, specialiser: Specialiser) -> None:
        """Set this operator's own fallback for ``key``, asked before the one for all operators.

        ``specialiser(op, lower_keyset)`` returns a callable, or None to fall through.
        """
        self.fallbacks[key] = specialiser
        self.invalidate()

    def py_impl(self, key: DispatchKey | type) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: a rule of this operator alone, for a key, a mode class or a tensor subclass.

        At a key, the rule is what the Python dispatcher runs there while it is on, in the calling
        convention of kernels. For a mode class it is ``(mode, op, types, args, kwargs)``, for a
        tensor subclass ``(cls, op, types, args, kwargs)``, asked in place of the handler. The
        PYTHON key is refused, since modes and subclasses are named by their class;
        RegistrationError for a second rule.
        """
        if key is DispatchKey.PYTHON:
            raise RegistrationError(
                f"{self.qualname}: py_impl got the key PYTHON; expected a class of mode or tensor."
            )
        rules: dict[Any, Callable[..., Any]] = self.python_kernels
        if not isinstance(key, DispatchKey):
            self.handler_rules = {} if self.handler_rules is None else self.handler_rules
            rules = self.handler_rules

        def set_rule(fn: Callable[..., Any]) -> Callable[..., Any]:
            if key in rules:
                name = getattr(key, "name", getattr(key, "__name__", key))
                raise RegistrationError(f"{self.qualname}: a rule for {name} is set already.")
            rules[key] = fn
            self.invalidate()
            return fn

        return set_rule

    def py_impl_remove(self, key: DispatchKey | type) -> None:
        """Take a rule set by `py_impl` away."""
        if isinstance(key, DispatchKey):
            del self.python_kernels[key]
        elif self.handler_rules is not None:
            del self.handler_rules[key]
        self.invalidate()

    def redispatch(self, keyset: int | Any, *args: Any, **kwargs: Any) -> Any:
        """Call with this keyset, given by the caller instead of being read from the arguments.

        Arguments are in the calling convention of kernels. ``keyset`` is a mask or a KeySet.
        """
        return self.resolve(getattr(keyset, "mask", keyset))(*args, **kwargs)

    def has_kernel(self, key: DispatchKey) -> bool:
        """Whether a registration, not a fallback, answers at ``key``."""
        return find_kernel(self, key) is not None

    def resolve(self, keyset: int) -> Callable[..., Any]:
        """The callable for ``keyset``, computed once and kept until a registration."""
        fn = self.table.get(keyset)
        if fn is None:
            fn = self.table[keyset] = compute(self, keyset)
        return fn

    def invalidate(self) -> None:
        """Drop what was computed from the registrations."""
        self.table.clear()

    def normalize(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(positional, keyword-only) arguments with defaults filled in."""
        schema = self.schema
        positional = list(args)
        for a in schema.positional[len(args) :]:
            positional.append(_value_of(self, a, kwargs))
        return tuple(positional), {a.name: _value_of(self, a, kwargs) for a in schema.kwonly}

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Argument name to value, for arguments in the calling convention of kernels."""
        named = {a.name: value for a, value in zip(self.schema.positional, args, strict=True)}
        return named | kwargs


def _value_of(op: Overload, argument: Argument, kwargs: dict[str, Any]) -> Any:
    if argument.name in kwargs:
        return kwargs[argument.name]
    if not argument.has_default:
        raise ArgumentTypeError(
            f"{op.qualname}: argument {argument.name!r} is missing. Schema: {op.schema}"
        )
    return argument.default


def caller_location(depth: int = 2) -> str:
    """``file:line`` of the caller ``depth`` frames up."""
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class OperatorPacket:
    """All overloads of one operator name, as attributes.

    Calling it picks the first whose schema fits the arguments.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.overloads: dict[str, Overload] = {}

    def add(self, op: Overload) -> None:
        """Put ``op`` among the overloads, in place of one of the same name."""
        self.overloads[op.schema.overload] = op
        self._forget()

    def remove(self, op: Overload) -> None:
        """Take ``op`` out of the overloads."""
        del self.overloads[op.schema.overload]
        self._forget()

    def _forget(self) -> None:
        """Drop the overloads that attribute access has kept."""
        kept = [name for name, value in self.__dict__.items() if isinstance(value, Overload)]
        for name in kept:
            del self.__dict__[name]

    def __getattr__(self, overload: str) -> Overload:
        key = "" if overload == "default" else overload
        overloads = self.__dict__.get("overloads", {})
        if key in overloads:
            # Kept in the instance, so that the next access does not come here.
            found: Overload = self.__dict__.setdefault(overload, overloads[key])
            return found
        raise AttributeError(
            f"{self.name} has no overload {overload!r}; it has: "
            + ", ".join(n or "default" for n in overloads)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.select(args, kwargs).call(*args, **kwargs)

    def select(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Overload:
        """The first overload whose schema accepts the arguments by number, name and type."""
        for op in self.overloads.values():
            if _fits(op.schema, args, kwargs):
                return op
        schemas = "\n  ".join(str(op.schema) for op in self.overloads.values())
        got = ", ".join(
            [type(a).__name__ for a in args]
            + [f"{k}={type(v).__name__}" for k, v in kwargs.items()]
        )
        raise ArgumentTypeError(
            f"{self.name}: no overload fits; got ({got}); expected one of:\n  {schemas}"
        )

    def __repr__(self) -> str:
        return f"<OperatorPacket {self.name} [{', '.join(n or 'default' for n in self.overloads)}]>"


def _fits(schema: FunctionSchema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    positional = schema.positional
    if len(args) > len(positional):
        return False
    given = dict(zip((a.name for a in positional), args, strict=False))
    if given.keys() & kwargs.keys():
        return False
    given |= kwargs
    for a in schema.arguments:
        if a.name in given:
            if not _accepts(a, given.pop(a.name)):
                return False
        elif not a.has_default:
            return False
    return not given


def _accepts(argument: Argument, value: Any) -> bool:
    kind = argument.type
    if value is None:
        return kind.optional
    is_tensor = hasattr(value, "_keys")
    if kind.is_list:
        if kind.base == "Tensor":
            return isinstance(value, list | tuple) and all(hasattr(v, "_keys") for v in value)
        return isinstance(value, list | tuple) or (kind.list_size == 1 and isinstance(value, int))
    if kind.base == "Tensor":
        return is_tensor
    if is_tensor or isinstance(value, list | tuple):
        return False
    if kind.base in ("int", "SymInt"):
        return hasattr(value, "__index__")
    if kind.base == "str" or isinstance(value, str):
        return kind.base == "str" and isinstance(value, str)
    return True
