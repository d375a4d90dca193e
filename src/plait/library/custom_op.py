"""Operators that users define: one decorator, then whatever else the operator should do.

`CustomOpDef` is the handle of one such operator: it owns what was registered for it, and takes all
of it back when the operator is defined again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from plait.base.errors import InvalidArgument, MissingKernel, RegistrationError, SchemaError
from plait.dispatch.entry import Kernel
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import exclude_keys
from plait.dispatch.tags import Tag
from plait.library import definitions, fakes, gradient
from plait.library.definitions import split_name
from plait.library.infer import infer_schema
from plait.library.kernels import checked_kernel, place_of
from plait.library.libraries import Library, caller_place
from plait.ops.metadata import without_rule
from plait.tensor.dtype import DType, float64
from plait.tensor.tensor import Tensor

__all__ = ["CustomOpDef", "custom_op", "definition_of"]

_DEVICES = {"cpu": DispatchKey.CPU, "cuda": DispatchKey.CUDA, "meta": DispatchKey.META}
_AUTOCAST = {"cpu": DispatchKey.AUTOCAST_CPU, "cuda": DispatchKey.AUTOCAST_CUDA}
_EVERY = AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD
_LAYOUT = (
    Tag.NEEDS_EXACT_STRIDES, Tag.NEEDS_CONTIGUOUS_STRIDES, Tag.NEEDS_FIXED_STRIDE_ORDER,
    Tag.FLEXIBLE_LAYOUT,
)  # fmt: skip


def custom_op(
    name: str,
    fn: Callable[..., Any] | None = None,
    /,
    *,
    mutates_args: str | Iterable[str],
    device_types: str | Sequence[str] | None = None,
    schema: str | None = None,
    tags: Tag | Sequence[Tag] | None = None,
    visible: bool = False,
) -> Any:
    """Define the operator ``name`` ("namespace::name") with ``fn`` as its kernel.

    ``mutates_args`` names the tensors that it writes; "unknown" stands for all. The schema is taken
    from the annotations, or given as "(Tensor x) -> Tensor". ``device_types`` restricts the kernel.
    Without ``fn``, a decorator. Defining a name again replaces the earlier definition.

    With ``visible`` the body, written in operators, *is* the operator: gradients, shapes, batching
    and autocast follow from it, and compiled code sees through it and fuses it with its neighbours.
    Such an operator takes no kernels, shape function or formula of its own, and writes nothing.

    Layout tags say which strides the kernel may count on, compiled as well: those that eager would
    give (``NEEDS_EXACT_STRIDES``, the default; stronger than ``NEEDS_FIXED_STRIDE_ORDER`` and
    ``FLEXIBLE_LAYOUT``, which are kept likewise), or always contiguous ones
    (``NEEDS_CONTIGUOUS_STRIDES``, for tensors that are only read).

    Results must be fresh memory: a kernel that returns an argument, or a view of one, is an error.
    SchemaError (a ValueError) for annotations that cannot be used, or that contradict
    ``mutates_args``; InvalidArgument for a malformed name.

    >>> import numpy as np
    >>> import plait
    >>> from plait import Tensor
    >>> @plait.library.custom_op("docs::cube", mutates_args=())
    ... def cube(x: Tensor) -> Tensor:
    ...     return plait.from_numpy(np.power(x.numpy(), 3))
    >>> cube(plait.tensor([2.0]))
    tensor([8.])
    >>> @cube.register_fake
    ... def _(x):
    ...     return plait.empty_like(x)
    >>> def setup_context(ctx, inputs, output):
    ...     ctx.save_for_backward(inputs[0])
    >>> cube.register_autograd(lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g,
    ...                        setup_context=setup_context)
    >>> x = plait.tensor([2.0], requires_grad=True)
    >>> plait.compile(lambda t: cube(t).sum())(x).backward()
    >>> x.grad
    tensor([12.])
    """
    tag_tuple = (tags,) if isinstance(tags, Tag) else tuple(tags or ())

    def define(body: Callable[..., Any]) -> CustomOpDef:
        namespace, short = split_name(name, "custom_op")
        text = schema
        if text is None:
            text = infer_schema(body, mutates_args=mutates_args, tags=tag_tuple)
        parsed = FunctionSchema.parse(f"{namespace}::{short}{text[text.index('(') :]}")
        _check_mutates(parsed, mutates_args)
        return CustomOpDef(parsed, body, device_types, tag_tuple, visible=visible)

    return define if fn is None else define(fn)


def _check_mutates(schema: FunctionSchema, mutates: str | Iterable[str]) -> None:
    if mutates == "unknown":
        return
    declared, named = set(schema.mutated_names), set(mutates)
    if declared != named:
        raise SchemaError(
            f"{schema.qualname}: the schema says that {sorted(declared)} are written, argument "
            f"'mutates_args' says {sorted(named)}; expected the same. Schema: {schema}"
        )


class CustomOpDef:
    """A user-defined operator. Made by `custom_op`; calling it calls the operator."""

    def __init__(
        self,
        schema: FunctionSchema,
        body: Callable[..., Any],
        device_types: str | Sequence[str] | None,
        tags: tuple[Tag, ...],
        *,
        visible: bool = False,
    ) -> None:
        _check_keyword_tensors(schema, tags)
        if visible:
            _check_visible(schema, device_types)
        definitions.replace(schema.qualname)
        self.qualname, self.schema, self.body = schema.qualname, schema, body
        self.place = place_of(body)
        layout = () if any(t in _LAYOUT for t in tags) else (Tag.NEEDS_EXACT_STRIDES,)
        self.tags = frozenset((*tags, *layout, Tag.PT2_COMPLIANT))
        self.library = Library(schema.namespace, "FRAGMENT")
        self.op: Overload = self.library.define(schema, tags=self.tags)
        self.op.kind = "custom"
        self.__name__, self.__doc__ = schema.name, body.__doc__
        self._kernels: dict[str | None, Callable[..., Any]] = {}
        self._disabled: dict[str, Kernel] = {}
        self.visible = visible
        self._has_trivial_fake = True
        self.op.fake_rule = fakes.trivial_rule(self.op)
        self._fake_place: str | None = None
        self._backward: gradient.GradientFormula | None = None
        if visible:
            self.library.impl(self.op, body, AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD)
            self.op.kernels[AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD].location = self.place
        else:
            self.op.register(DispatchKey.META, self._on_metadata, calls_operators=True)
            self.register_kernel(device_types, body)
        definitions.remember(self)
        self.call = self.op.call
        self.__class__ = _calling(self)
        if not visible:
            self._needs_device_check()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the operator. Each definition has its own class, where this is the call path."""
        return self.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<CustomOpDef {self.schema}>"

    def destroy(self) -> None:
        """Take the operator and all that was registered for it away."""
        definitions.forget(self)
        self.library.destroy()

    # ------------------------------------------------------------ kernels

    def register_kernel(
        self, device_types: str | Sequence[str] | None, fn: Callable[..., Any] | None = None, /
    ) -> Any:
        """Set the kernel of one device type, of several, or (None) of all that have none.

        Without ``fn``, a decorator. InvalidArgument for an unknown device type; the newest kernel
        of a device wins.
        """
        if fn is None:
            return lambda body: self.register_kernel(device_types, body) or body
        self._require_opaque("a kernel")
        names: Sequence[str | None]
        names = [device_types] if device_types is None or isinstance(device_types, str) else (
            list(device_types)
        )  # fmt: skip
        for name in names:
            self._kernels[name] = fn
            self._place_kernel(name, fn)
        return fn

    def _require_opaque(self, what: str) -> None:
        """RegistrationError for an operator whose body is all there is to it."""
        if self.visible:
            raise RegistrationError(
                f"{self.qualname}: its body at {self.place} is visible, and everything follows "
                f"from it; got {what}. Define it without visible=True to register {what}."
            )

    def _place_kernel(self, device: str | None, fn: Callable[..., Any]) -> None:
        key = _EVERY if device is None else _device_key(self.qualname, device, _DEVICES)
        self.library.impl(
            self.op, checked_kernel(self.op, fn), key, allow_override=True, calls_operators=False
        )
        registered = self.op.kernels[key]
        registered.location = place_of(fn)
        # The checked kernel goes below autograd by itself, also where it serves every backend.
        registered.calls_operators = False
        self.op.invalidate()

    def _needs_device_check(self) -> None:
        """Without tensors, only a `device` argument can choose between kernels."""
        schema = self.schema
        if any(a.type.is_tensor_like for a in schema.arguments) or None in self._kernels:
            return
        if not any(a.name == "device" and a.type.base == "Device" for a in schema.arguments):
            raise InvalidArgument(
                f"{self.qualname}: has no tensor argument, and kernels for "
                f"{sorted(map(str, self._kernels))}; expected a parameter `device: plait.Device` "
                "that chooses between them."
            )

    @contextmanager
    def set_kernel_enabled(self, device_type: str, enabled: bool = True) -> Iterator[None]:
        """Inside the block, use the kernel of a device type, or (False) the operator's body.

        Warns where that changes nothing.

        >>> import plait
        >>> from plait import Tensor
        >>> @plait.library.custom_op("docs::one", mutates_args=())
        ... def one(x: Tensor) -> Tensor:
        ...     return x + 1
        >>> @one.register_kernel("cpu")
        ... def _(x):
        ...     return x + 100
        >>> with one.set_kernel_enabled("cpu", False):
        ...     one(plait.zeros(1))
        tensor([1.])
        """
        key = _device_key(self.qualname, device_type, _DEVICES)
        before = self.op.kernels.get(key)
        was_enabled = before is not None
        changes = was_enabled != enabled and device_type in self._kernels
        if not changes:
            warnings.warn(
                f"{self.qualname}: set_kernel_enabled({device_type!r}, {enabled}) changes nothing: "
                + ("it is so already." if device_type in self._kernels else "there is no kernel."),
                stacklevel=3,
            )
        try:
            if changes and before is not None:
                self._disabled[device_type] = before
                self.op.unregister(key)
            elif changes:
                self.op.kernels[key] = self._disabled.pop(device_type)
                self.op.invalidate()
            yield
        finally:
            if changes and before is not None:
                self.op.kernels[key] = self._disabled.pop(device_type)
            elif changes:
                self._disabled[device_type] = self.op.kernels.pop(key)
            self.op.invalidate()

    # ------------------------------------------------------------ shapes

    def _on_metadata(self, *args: Any, **kwargs: Any) -> Any:
        """The kernel for meta tensors: the shape function."""
        rule = self.op.fake_rule
        if rule is None:
            raise without_rule(self.op)
        return rule(*args, **kwargs)

    def register_fake(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Set the shape function: ``fn(*args)`` returns tensors of the results' shape and dtype.

        It is written in operators (``plait.empty_like(x)``), sees tensors without memory, and may
        ask `get_ctx().new_dynamic_size()` for a size that depends on data.
        """
        self._require_opaque("a shape function")
        if self._has_trivial_fake and self.op.fake_rule is not None:
            warnings.warn(
                f"{self.qualname}: its shape function follows from the schema; the one at "
                f"{place_of(fn)} takes its place.",
                stacklevel=2,
            )
        self.op.fake_rule = fakes.fake_rule(self.op, fn)
        self._has_trivial_fake = False
        self._fake_place = caller_place()
        self.op.invalidate()
        return fn

    # ------------------------------------------------------------ gradients

    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
    ) -> None:
        """Set the gradient formula.

        ``setup_context(ctx, inputs, output)`` (with ``keyword_only_inputs`` where the operator has
        keyword-only arguments) runs after the forward; ``backward(ctx, *grads)`` returns one
        gradient per positional argument, a list for a list of tensors, None where there is none.
        RegistrationError for an operator that writes its arguments.
        """
        self._require_opaque("a gradient formula")
        if self.schema.is_mutable:
            raise RegistrationError(
                f"{self.qualname}: writes {list(self.schema.mutated_names)}; got a gradient "
                "formula; expected a functional operator. Register the formula on one that returns "
                "new tensors."
            )
        self._backward = gradient.GradientFormula(
            backward, setup_context, has_kwonly=bool(self.schema.kwonly)
        )
        gradient.install(self.op, self._backward)

    # ------------------------------------------------------------ transforms

    def register_vmap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Set the batching rule: ``fn(info, in_dims, *args, **kwargs) -> (out, out_dims)``.

        ``info`` has ``batch_size`` and ``randomness``; ``in_dims`` holds, per positional argument,
        the dimension that is mapped, or None.
        """
        self.op.batching = fn
        self.op.invalidate()
        return fn

    def register_autocast(self, device_type: str, cast_inputs: DType) -> None:
        """Inside autocast, cast floating-point tensors (float64 excepted) to ``cast_inputs`` first.

        InvalidArgument for a device type without autocast, ArgumentTypeError for no dtype.
        """
        if not isinstance(device_type, str):
            raise InvalidArgument(
                f"{self.qualname}: register_autocast got the device type {device_type!r}; expected "
                "a string."
            )
        if not isinstance(cast_inputs, DType):
            raise InvalidArgument(
                f"{self.qualname}: register_autocast got {cast_inputs!r}; expected a dtype."
            )
        key = _device_key(self.qualname, device_type, _AUTOCAST)
        op = self.op

        def cast(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype.is_floating and value.dtype is not float64:
                return value.to(cast_inputs)
            if isinstance(value, tuple | list):
                return tuple(cast(item) for item in value)
            return value

        def kernel(*args: Any, **kwargs: Any) -> Any:
            with exclude_keys(key.mask):
                return op.call(*map(cast, args), **{k: cast(v) for k, v in kwargs.items()})

        self.library.impl(op, kernel, key, allow_override=True)

    def register_plait_dispatch(self, cls: type, fn: Callable[..., Any] | None = None, /) -> Any:
        """Set the rule of this operator for one class of mode or tensor subclass.

        For a mode ``fn(mode, op, types, args, kwargs)``, for a subclass
        ``fn(cls, op, types, args, kwargs)``; it is asked in place of their handler.
        """
        if fn is None:
            return lambda body: self.register_plait_dispatch(cls, body) or body
        rules = self.op.handler_rules
        if rules is not None and cls in rules:
            self.op.py_impl_remove(cls)
        return self.op.py_impl(cls)(fn)

    def register_effect(self, kind: str | None) -> None:
        """Declare a side effect: "ordered" keeps calls in their order and never drops one.

        None takes the declaration back.
        """
        if kind not in ("ordered", None):
            raise InvalidArgument(
                f"{self.qualname}: register_effect got {kind!r}; expected 'ordered' or None."
            )
        self.op.tags = self.op.tags | {Tag.EFFECTFUL} if kind else self.op.tags - {Tag.EFFECTFUL}
        self.op.invalidate()


def _calling(definition: CustomOpDef) -> type[CustomOpDef]:
    """The class of one definition: a call goes straight to its call path, without a frame."""
    name = type(definition).__name__
    return type(name, (type(definition),), {"__call__": staticmethod(definition.call)})


def _check_keyword_tensors(schema: FunctionSchema, tags: tuple[Tag, ...]) -> None:
    for a in schema.kwonly:
        if a.type.is_tensor_like and Tag.OUT not in tags:
            raise MissingKernel(
                f"{schema.qualname}: argument {a.name!r} is a keyword-only tensor, which is not "
                "implemented; expected tensors by position, or the tag OUT."
            )


def _check_visible(schema: FunctionSchema, device_types: Any) -> None:
    if schema.is_mutable or device_types is not None:
        raise RegistrationError(
            f"{schema.qualname}: a visible operator is functional and serves every device; got "
            f"mutates_args {list(schema.mutated_names)} and device_types {device_types!r}."
        )


def _device_key(qualname: str, device: Any, known: dict[str, DispatchKey]) -> DispatchKey:
    key = known.get(device) if isinstance(device, str) else None
    if key is None:
        raise InvalidArgument(
            f"{qualname}: got the device type {device!r}; expected one of {', '.join(known)}."
        )
    return key


def definition_of(op: str | Overload | CustomOpDef) -> CustomOpDef:
    """The definition behind a name, an overload or itself.

    InvalidArgument for anything else, and for an operator that was not made by `custom_op`.
    """
    if isinstance(op, CustomOpDef):
        return op
    name = op.qualname if isinstance(op, Overload) else op
    if not isinstance(name, str):
        raise InvalidArgument(
            f"plait.library: got a {type(op).__name__}; expected an operator's name, an Overload "
            "or a CustomOpDef."
        )
    found = definitions.find_definition(name.removesuffix(".default"))
    if not isinstance(found, CustomOpDef):
        raise InvalidArgument(
            f"plait.library: {name!r} was not made by custom_op; expected one of "
            f"{', '.join(definitions.defined_names()) or 'none: nothing is defined'}. "
            "Kernels of other operators are registered through a Library."
        )
    return found
