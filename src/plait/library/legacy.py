"""The older interface to custom operators, deprecated: a thin facade over `library`.

An operator is declared by a stub whose body is no kernel; kernels, the shape function and the two
halves of a gradient formula are registered on the object returned. Owns the rules of that
interface; what it registers goes through `Library`, `fakes` and `gradient`.
"""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from plait.autograd.record import generated_layer
from plait.base.errors import (
    AutogradError,
    DispatchError,
    InvalidArgument,
    MissingKernel,
    RegistrationError,
    SchemaError,
)
from plait.dispatch.dispatcher import lookup
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.keyset import AUTOGRAD_KEYS
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.library import definitions, fakes, gradient
from plait.library.infer import infer_schema
from plait.library.kernels import checked_kernel, place_of
from plait.library.libraries import Library, get_kernel

__all__ = [
    "RESERVED_NS",
    "SUPPORTED_DEVICE_TYPE_TO_KEY",
    "CustomOp",
    "FuncAndLocation",
    "custom_op",
    "get_op",
    "global_registry",
]

SUPPORTED_DEVICE_TYPE_TO_KEY = {"cpu": DispatchKey.CPU, "cuda": DispatchKey.CUDA}
RESERVED_NS = frozenset({"prim", "prims", "aten", "at", "torch", "pytorch", "plait"})
_GRADIENT_RETURNS = frozenset({"Tensor", "int", "SymInt", "bool", "float"})
_EVERY = AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD
_IMPLICIT = AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD

_AUTOGRAD = (DispatchKey.AUTOGRAD_CPU, DispatchKey.AUTOGRAD_CUDA, DispatchKey.AUTOGRAD_META)

global_registry: dict[str, CustomOp] = {}
"""Every operator of this interface by name; it holds them, so that they outlive their stub."""


class FuncAndLocation(NamedTuple):
    """What was registered, and where it stands."""

    func: Callable[..., Any]
    location: str


def warn_deprecated(depth: int = 3) -> None:
    """One DeprecationWarning, at the caller's line."""
    warnings.warn(
        "plait.library.legacy is deprecated; use plait.library.custom_op, whose body is the "
        "kernel.",
        DeprecationWarning,
        stacklevel=depth,
    )


def custom_op(qualname: str, manual_schema: str | None = None) -> Callable[[Any], CustomOp]:
    """Declare the operator "namespace::name" by an annotated stub of that name; deprecated.

    The stub's body is never run. With ``manual_schema`` ("(Tensor x) -> Tensor") the stub has no
    annotations and the same parameter names. Only functional operators that return something.
    InvalidArgument or SchemaError (both ValueErrors) for a stub or a name that does not fit.
    """
    warn_deprecated()

    def declare(stub: Any) -> CustomOp:
        if not isinstance(stub, types.FunctionType):
            raise InvalidArgument(
                f"custom_op({qualname!r}): got a {type(stub).__name__}; expected a Python function."
            )
        namespace, name = parse_qualname(qualname)
        validate_namespace(namespace)
        if stub.__name__ != name:
            raise InvalidArgument(
                f"custom_op({qualname!r}): the function is called {stub.__name__!r}; expected "
                f"{name!r}, the operator's name."
            )
        if manual_schema is None:
            text = infer_schema(stub, mutates_args=())
        else:
            text = manual_schema[manual_schema.index("(") :]
        schema = FunctionSchema.parse(f"{qualname}{text}")
        if manual_schema is not None:
            _check_stub(schema, stub)
        validate_schema(schema)
        return CustomOp(schema, stub, _private=True)

    return declare


def parse_qualname(qualname: str) -> tuple[str, str]:
    """("namespace", "name"); InvalidArgument unless it is ``namespace::name`` without dots."""
    return definitions.split_name(qualname, "custom_op")


def validate_namespace(namespace: str) -> None:
    """InvalidArgument for a reserved namespace."""
    if namespace in RESERVED_NS:
        raise InvalidArgument(
            f"custom_op: the namespace {namespace!r} is reserved; got one of "
            f"{sorted(RESERVED_NS)}. Choose one of your own."
        )


def validate_schema(schema: FunctionSchema) -> None:
    """SchemaError for anything but a functional operator that returns something."""
    fault = ""
    if schema.is_mutable:
        fault = f"writes {list(schema.mutated_names)}"
    elif not schema.returns:
        fault = "returns nothing"
    elif any(r.alias is not None for r in schema.returns):
        fault = "returns a view of an argument"
    elif any(a.name == "self" for a in schema.arguments):
        fault = "has an argument called 'self'"
    if fault:
        raise SchemaError(
            f"custom_op: {schema.qualname} {fault}; expected a functional operator with results. "
            f"Use plait.library.custom_op for others. Schema: {schema}"
        )


def _check_stub(schema: FunctionSchema, stub: Any) -> None:
    """With a manual schema the stub names the same parameters, and says nothing else."""
    parameters = inspect.signature(stub).parameters.values()
    kinds = inspect.Parameter
    named = {kinds.POSITIONAL_OR_KEYWORD: schema.positional, kinds.KEYWORD_ONLY: schema.kwonly}
    for p in parameters:
        if p.kind not in named:
            raise InvalidArgument(
                f"custom_op({schema.qualname}): parameter {p.name!r} is {p.kind.description}; "
                "expected parameters that have names."
            )
        if p.annotation is not p.empty or p.default is not p.empty:
            raise InvalidArgument(
                f"custom_op({schema.qualname}): parameter {p.name!r} has an annotation or a "
                "default, and a manual schema is given; expected neither. Leave one of the two out."
            )
    if inspect.signature(stub).return_annotation is not inspect.Signature.empty:
        raise InvalidArgument(
            f"custom_op({schema.qualname}): the stub annotates its result, and a manual schema is "
            "given; expected no annotations."
        )
    if any(a.has_default for a in schema.arguments):
        raise InvalidArgument(
            f"custom_op({schema.qualname}): a manual schema has no defaults; got {schema}."
        )
    for kind, arguments in named.items():
        got = [p.name for p in parameters if p.kind is kind]
        expected = [a.name for a in arguments]
        if got != expected:
            raise InvalidArgument(
                f"custom_op({schema.qualname}): the stub's {kind.description} parameters are {got};"
                f" the schema has {expected}; expected the same."
            )


class CustomOp:
    """An operator of the older interface. Made by `custom_op`; calling it calls the operator."""

    def __init__(self, schema: FunctionSchema, stub: Any, *, _private: bool = False) -> None:
        if not _private:
            raise RegistrationError(
                "CustomOp: its constructor is private; use the decorator "
                "plait.library.legacy.custom_op, or better plait.library.custom_op."
            )
        definitions.replace(schema.qualname)
        self.qualname, self.schema = schema.qualname, schema
        self.library = Library(schema.namespace, "FRAGMENT")
        self.op: Overload = self.library.define(schema)
        self.op.kind = "custom"
        self._impls: dict[str, FuncAndLocation] = {}
        self._differentiability: Sequence[bool] | None = None
        self.__name__, self.__doc__ = stub.__name__, stub.__doc__
        self.__module__ = stub.__module__
        for key in _AUTOGRAD:
            self.op.register_fallback(key, self._autograd_layer)
        self.op.register_fallback(DispatchKey.CPU, lambda op, lower: self._no_kernel("cpu"))
        self.op.register_fallback(DispatchKey.CUDA, lambda op, lower: self._no_kernel("cuda"))
        self.op.register_fallback(DispatchKey.META, lambda op, lower: self._no_kernel("meta"))
        definitions.remember(self)
        global_registry[self.qualname] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f'<CustomOp(op="{self.qualname}")>'

    def destroy(self) -> None:
        """Take the operator and all that was registered for it away."""
        definitions.forget(self)
        if global_registry.get(self.qualname) is self:
            del global_registry[self.qualname]
        self.library.destroy()

    _destroy = destroy

    # ------------------------------------------------------------ kernels and shapes

    def impl(self, device_types: str | Iterable[str]) -> Callable[[Any], Any]:
        """Decorator: the kernel of one device type or of several."""
        names = [device_types] if isinstance(device_types, str) else list(device_types)
        for name in names:
            if name not in SUPPORTED_DEVICE_TYPE_TO_KEY:
                raise InvalidArgument(
                    f"{self.qualname}: impl got the device type {name!r}; expected one of "
                    f"{', '.join(SUPPORTED_DEVICE_TYPE_TO_KEY)}."
                )

        def register(fn: Any) -> Any:
            for name in names:
                key = SUPPORTED_DEVICE_TYPE_TO_KEY[name]
                self._once(f"impl({name!r})", fn)
                self._free(key, f"impl({name!r})")
                self._place(key, fn)
            return fn

        return register

    def impl_factory(self) -> Callable[[Any], Any]:
        """Decorator: the kernel of an operator without tensor arguments."""

        def register(fn: Any) -> Any:
            self._once("impl_factory", fn)
            self._free(_EVERY, "impl_factory")
            self._place(_EVERY, fn)
            return fn

        return register

    def impl_abstract(self) -> Callable[[Any], Any]:
        """Decorator: the shape function, for fakes and meta tensors."""

        def register(fn: Any) -> Any:
            self._once("impl_abstract", fn)
            for key in (_IMPLICIT, DispatchKey.META):
                self._free(key, "impl_abstract")
            rule = fakes.fake_rule(self.op, fn)
            self.op.fake_rule = rule
            self.library.impl(self.op, rule, DispatchKey.META)
            return fn

        return register

    def _place(self, key: Any, fn: Any) -> None:
        self.library.impl(self.op, checked_kernel(self.op, fn), key, calls_operators=False)
        self.op.kernels[key].location = place_of(fn)
        self.op.kernels[key].calls_operators = False

    def _once(self, what: str, fn: Any) -> None:
        """Note a registration; RegistrationError naming both places for a second one."""
        earlier = self._impls.get(what)
        if earlier is not None:
            raise RegistrationError(
                f"{self.qualname}: {what} is registered already, at {earlier.location}; got "
                f"another, at {place_of(fn)}; expected one."
            )
        self._impls[what] = FuncAndLocation(fn, place_of(fn))

    def _free(self, key: Any, what: str) -> None:
        """RegistrationError where a kernel was registered past this object."""
        kernel = self.op.kernels.get(key)
        if kernel is not None:
            raise RegistrationError(
                f"{self.qualname}: {what} cannot be registered, since a kernel for {key.name} "
                f"stands there, registered at {kernel.location}."
            )

    def _no_kernel(self, device: str) -> Callable[..., Any]:
        """What a call meets where there is no kernel: advice."""
        advice = {
            "meta": "a shape function, with impl_abstract()",
            "cpu": "a kernel, with impl('cpu')",
            "cuda": "a kernel, with impl('cuda')",
        }[device]
        if not any(a.type.is_tensor_like for a in self.schema.arguments):
            advice = "a kernel for an operator without tensor arguments, with impl_factory()"

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise MissingKernel(
                f"{self.qualname}: has no kernel for the device {device!r}. Register {advice}."
            )

        return missing

    # ------------------------------------------------------------ gradients

    def impl_save_for_backward(self) -> Callable[[Any], Any]:
        """Decorator: ``fn(inputs, output)`` returns what the backward needs.

        ``inputs`` has the arguments as attributes.
        """
        return self._half("impl_save_for_backward")

    def impl_backward(
        self, output_differentiability: Sequence[bool] | None = None
    ) -> Callable[[Any], Any]:
        """Decorator: ``fn(ctx, saved, *grads)`` returns {tensor argument: gradient or None}.

        ``output_differentiability`` says for each result whether it has a gradient.
        """
        flags, returns = output_differentiability, self.schema.returns
        if flags is not None:
            if not isinstance(flags, list | tuple) or not all(isinstance(f, bool) for f in flags):
                raise RegistrationError(
                    f"{self.qualname}: impl_backward got output_differentiability={flags!r}; "
                    "expected a list of bools."
                )
            if len(flags) != len(returns):
                raise RegistrationError(
                    f"{self.qualname}: impl_backward got {len(flags)} entries in "
                    f"output_differentiability; expected {len(returns)}, one for each result."
                )
        return self._half("impl_backward", flags)

    def _half(self, what: str, flags: Sequence[bool] | None = None) -> Callable[[Any], Any]:
        def register(fn: Any) -> Any:
            self._check_differentiable(what)
            self._once(what, fn)
            if what == "impl_backward":
                self._differentiability = flags
            self.op.invalidate()
            return fn

        return register

    def _check_differentiable(self, what: str) -> None:
        for r in self.schema.returns:
            if r.type.base not in _GRADIENT_RETURNS or (r.type.is_list and r.type.base != "Tensor"):
                raise RegistrationError(
                    f"{self.qualname}: {what} is not supported for a result of type {r.type}; "
                    "expected Tensor, Tensor[], int, bool or float."
                )
        for key, kernel in self.op.kernels.items():
            mask = key.mask if isinstance(key, DispatchKey) else 0
            if key in (_IMPLICIT, AliasKey.AUTOGRAD) or mask & AUTOGRAD_KEYS:
                raise RegistrationError(
                    f"{self.qualname}: {what} cannot be registered, since a kernel for {key.name} "
                    f"owns the gradient, registered at {kernel.location}."
                )

    def _autograd_layer(self, op: Overload, lower: int) -> Callable[..., Any] | None:
        """The Autograd kernel: the formula if both halves are there, else what is missing."""
        halves = [self._impls.get(w) for w in ("impl_save_for_backward", "impl_backward")]
        below = op.resolve(lower)
        if all(halves):
            formula = gradient.GradientFormula(self._backward, self._setup, bool(op.schema.kwonly))
            recorder = gradient.CustomRecorder(op, formula, below)
            return generated_layer(op, recorder, below)
        present = next((h for h in halves if h is not None), None)

        def refuse(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not gradient.needs_gradient(args):
                return below(*args, **kwargs)
            if present is None:
                raise AutogradError(
                    f"{self.qualname}: its gradient is not implemented, and an argument requires "
                    "grad. Register impl_save_for_backward() and impl_backward(), or call it under "
                    "no_grad()."
                )
            missing = "impl_save_for_backward" if halves[0] is None else "impl_backward"
            raise AutogradError(
                f"{self.qualname}: half of its gradient is missing: {missing}() is not registered; "
                f"the other half stands at {present.location}."
            )

        return generated_layer(op, refuse, below)

    def _setup(self, ctx: Any, inputs: Any, output: Any, keyword_only_inputs: Any = None) -> None:
        """Save what the user's function returns: tensors as such, the rest on the context."""
        named = self.op.bind(inputs, dict(keyword_only_inputs or {}))
        save = self._impls["impl_save_for_backward"].func
        saved = save(types.SimpleNamespace(**named), output)
        tensors: list[Any] = []
        ctx.saved_tree = _take_tensors(saved, tensors)
        ctx.save_for_backward(*tensors)
        flags = self._differentiability
        if flags is not None:
            self._mark(ctx, output if len(self.schema.returns) > 1 else (output,), flags)

    def _mark(self, ctx: Any, results: Sequence[Any], flags: Sequence[bool]) -> None:
        fixed: list[Any] = []
        for value, flag, r in zip(results, flags, self.schema.returns, strict=True):
            if r.type.base == "Tensor" and not flag:
                fixed += value if isinstance(value, tuple | list) else [value]
        ctx.mark_non_differentiable(*fixed)

    def _backward(self, ctx: Any, *grads: Any) -> Any:
        fn, place = self._impls["impl_backward"]
        saved = _put_tensors(ctx.saved_tree, ctx.saved_tensors)
        returned = fn(ctx, saved, *grads)
        positional = self.schema.positional
        names = [a.name for a in positional if a.type.is_tensor_like]
        if not isinstance(returned, dict):
            raise self._fault(place, f"returned a {type(returned).__name__}; expected a dict")
        if set(returned) != set(names):
            raise self._fault(
                place,
                f"returned gradients for {sorted(map(str, returned))}; expected exactly the "
                f"arguments that are tensors, {names}",
            )
        return tuple(
            self._gradient(place, a.name, a.type, returned[a.name]) if a.name in returned else None
            for a in positional
        )

    def _gradient(self, place: str, name: str, kind: Any, g: Any) -> Any:
        if kind.is_list and g is not None and not isinstance(g, tuple | list):
            raise self._fault(
                place, f"returned a {type(g).__name__} for the list {name!r}; expected a list"
            )
        for item in g if isinstance(g, tuple | list) else (g,):
            if item is not None and not hasattr(item, "_keys"):
                raise self._fault(
                    place,
                    f"returned a {type(item).__name__} for argument {name!r}; expected a Tensor "
                    "or None",
                )
        return g

    def _fault(self, place: str, text: str) -> AutogradError:
        return AutogradError(f"{self.qualname}: the backward formula at {place} {text}.")


class _Place(NamedTuple):
    """Where a tensor stood in what was saved."""

    number: int


def _take_tensors(value: Any, tensors: list[Any]) -> Any:
    """``value`` with every tensor replaced by its number in ``tensors``."""
    if hasattr(value, "_keys"):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if isinstance(value, dict):
        return {k: _take_tensors(v, tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_take_tensors(v, tensors) for v in value)
    return value


def _put_tensors(value: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, dict):
        return {k: _put_tensors(v, tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_put_tensors(v, tensors) for v in value)
    return value


def get_op(qualname: str) -> Overload:
    """The operator called ``qualname``; InvalidArgument (a ValueError) if there is none."""
    return lookup(qualname)


def find_ophandle_or_throw(qualname: str) -> Overload:
    """As `get_op`, but a RuntimeError."""
    try:
        return lookup(qualname)
    except InvalidArgument as error:
        raise DispatchError(f"custom_op: could not find the operator {qualname!r}.") from error


def get_abstract_impl(qualname: str) -> Callable[..., Any]:
    """The shape function that was registered for an operator of this interface."""
    found = global_registry.get(qualname)
    if found is None or "impl_abstract" not in found._impls:
        return get_kernel(lookup(qualname), DispatchKey.META)
    return found._impls["impl_abstract"].func
