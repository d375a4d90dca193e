"""The only door through which operators come in: schema, rules and kernels of one operator.

Owns the way from tensors to ndarrays and back (so that another device adds one adapter), and the
shape rules shared by whole families. Knows no operator in particular, no tape and no tracer.

A *kernel* is a function over ndarrays in the schema's calling convention: positional arguments by
position, all of them; keyword-only arguments by keyword, all of them. The adapter runs the shape
rule first, which raises every error, and gives the kernel's results the dtype and strides that the
shape rule promises. A kernel that has a parameter ``meta`` receives the shape rule's answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from plait.base.errors import MissingKernel, RegistrationError, check
from plait.dispatch import dispatcher
from plait.dispatch.keys import AliasKey, DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag
from plait.ops import variants
from plait.ops.arrays import (
    Array,
    Rule,
    cast_operand,
    checked_scalar,
    empty_array,
    fit,
    run_quietly,
)
from plait.ops.quiet import QUIET, loud, quiet
from plait.tensor.dtype import DType
from plait.tensor.layout import (
    Layout,
    TensorMeta,
    broadcast_shapes,
    elementwise_strides,
)
from plait.tensor.tensor import Tensor, wrap, wrap_view

__all__ = [
    "Array",
    "Rule",
    "cast_operand",
    "check_dtype",
    "checked_scalar",
    "define",
    "elementwise_meta",
    "empty_array",
    "fit",
    "joint_rule",
    "run_quietly",
    "view",
]


class JointRule:
    """One argument's share of a rule that gives the gradients of several arguments together.

    ``fn`` returns a tuple; ``part`` is this argument's place in it. The tape calls ``fn`` once.
    """

    __slots__ = ("fn", "part")

    def __init__(self, fn: Rule, part: int) -> None:
        self.fn = fn
        self.part = part


def joint_rule(fn: Rule, *names: str) -> dict[str, Any]:
    """``fn``, which returns one gradient for each of ``names``, as the ``vjp`` of `define`."""
    return {name: JointRule(fn, part) for part, name in enumerate(names)}


def define(
    schema: str,
    *,
    shape: Rule | None = None,
    kernel: Rule | None = None,
    tensor_kernel: Rule | None = None,
    vjp: dict[str, Any] | None = None,
    tags: Iterable[Tag] = (),
    kind: str = "",
    decomposition: Rule | None = None,
    composite: Rule | None = None,
    dtypes: Iterable[DType] | None = None,
    inplace: bool | str = False,
    out: bool | str = False,
    holomorphic: bool = False,
) -> Overload:
    """Define one operator and return its overload.

    shape: arguments as in the schema -> TensorMeta or a tuple of them; works on anything with
        ``shape``, ``dtype``, ``strides``, ``device``, and raises every error of the arguments.
    kernel: the same operator over ndarrays; ``tensor_kernel`` is the same over tensors, for the few
        operators that must not go through the general adapter (views, hot paths, random draws).
    vjp: argument name -> rule, or None where there is no derivative. The parameter names of a rule
        say what it needs: ``g``, ``out``, argument names, ``shape_of_<argument>``, ``needs``.
        A rule that makes several gradients at once is given by `joint_rule`.
    decomposition: the same operator written in operators, for backends; it is also the kernel when
        no other is given. composite: a body written in operators that *is* the operator: it needs
        no derivative and is never seen below autograd.
    dtypes: those that the first tensor argument may have, if not all.
    inplace, out: also derive the in-place and ``out=`` overloads.
    holomorphic: the vjp is written as for real numbers; where the result is complex the tape makes
        of it ``conj(rule(conj(g)))``, which is the gradient by PyTorch's convention.
    """
    parsed = FunctionSchema.parse(schema)
    op = dispatcher.define(parsed, tags)
    op.vjp, op.kind, op.decomposition = vjp, kind, decomposition
    op.holomorphic = holomorphic
    _check_rules(op)
    if composite is not None:
        op.register(AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD, composite)
        return op
    if shape is not None and dtypes is not None:
        shape = _restricted(op, shape, frozenset(dtypes))
    op.shape_rule = shape
    if tensor_kernel is not None:
        op.register(DispatchKey.CPU, tensor_kernel)
    elif kernel is not None:
        op.register(DispatchKey.CPU, _adapted(op, kernel))
    elif decomposition is not None:
        op.register(AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD, decomposition, calls_operators=True)
    variants.derive(op, inplace=inplace, out=out)
    return op


def _check_rules(op: Overload) -> None:
    """Every derivative belongs to a tensor argument."""
    tensors = [a.name for a in op.schema.arguments if a.type.is_tensor_like]
    unknown = set(op.vjp or ()).difference(tensors)
    check(
        not unknown,
        RegistrationError,
        lambda: f"{op.qualname}: derivatives are given for {unknown}; expected some of {tensors}.",
    )


def _restricted(op: Overload, shape: Rule, dtypes: frozenset[DType]) -> Rule:
    """A shape rule that first checks the dtype of the first tensor argument."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        for a in args:
            if hasattr(a, "dtype"):
                check_dtype(op.name, a.dtype, dtypes)
                break
        return shape(*args, **kwargs)

    return checked


def check_dtype(name: str, dtype: DType, dtypes: Iterable[DType]) -> None:
    """Raise MissingKernel unless ``dtype`` is one of ``dtypes``."""
    check(
        dtype in dtypes,
        MissingKernel,
        lambda: (
            f"{name}: not implemented for {dtype}; expected one of "
            f"{', '.join(sorted(d.name for d in dtypes))}. Convert with `.to(dtype)`."
        ),
    )


# ---------------------------------------------------------------- tensors <-> ndarrays


def _adapted(op: Overload, kernel: Rule) -> Rule:
    """``kernel`` over ndarrays as a kernel over tensors, checked and shaped by the shape rule."""
    schema = op.schema
    singles = [i for i, a in enumerate(schema.positional) if _is_tensor(a.type)]
    lists = [i for i, a in enumerate(schema.positional) if a.type.is_tensor_like and a.type.is_list]
    keywords = [a.name for a in schema.kwonly if a.type.is_tensor_like]
    wants_meta = "meta" in inspect.signature(kernel).parameters
    assert op.shape_rule is not None, f"{op.qualname}: a kernel needs a shape rule"
    shape = op.shape_rule

    def call(*args: Any, **kwargs: Any) -> Any:
        meta = shape(*args, **kwargs)
        given = list(args)
        for i in singles:
            if given[i] is not None:
                given[i] = given[i]._array
        for i in lists:
            given[i] = tuple(None if t is None else t._array for t in given[i])
        for name in keywords:
            if kwargs[name] is not None:
                kwargs[name] = kwargs[name]._array
        if wants_meta:
            kwargs["meta"] = meta
        token = quiet(QUIET)
        try:
            result = kernel(*given, **kwargs)
            if meta.__class__ is TensorMeta:
                return wrap(fit(result, meta), meta.dtype)
            return tuple(wrap(fit(r, m), m.dtype) for r, m in zip(result, meta, strict=True))
        finally:
            loud(token)

    return call


def _is_tensor(kind: Any) -> bool:
    return bool(kind.is_tensor_like and not kind.is_list)


# ---------------------------------------------------------------- shared shape rules


def elementwise_meta(name: str, tensors: Sequence[Any], dtype: DType) -> TensorMeta:
    """The result of a pointwise operator over ``tensors``: broadcast shape, PyTorch's strides."""
    first = tensors[0]
    if len(tensors) == 1:
        shape = tuple(first.shape)
    else:
        shape = broadcast_shapes(*[t.shape for t in tensors], operator=name)
    strides = elementwise_strides(shape, [(t.shape, t.strides) for t in tensors])
    return TensorMeta(shape, dtype, first.device, strides)


# ---------------------------------------------------------------- views


def view(
    schema: str,
    *,
    layout: Rule,
    inverse: Rule | None = None,
    vjp: dict[str, Any] | None = None,
    tags: Iterable[Tag] = (),
    check_args: Rule | None = None,
    dtype: Callable[[DType], DType] | None = None,
) -> Overload:
    """Define a view operator, whose first argument is the tensor viewed.

    layout: ``(Layout of the tensor, *other arguments) -> Layout`` (a sequence of them for an
        operator that returns several views); raises every error.
    inverse: ``(base_like, new_value, *other arguments) -> Tensor``: ``base_like`` with the viewed
        part replaced by ``new_value``, written in operators.
    dtype: what the elements are read as, from what they are; without it they stay what they are.
        Sizes, strides and offsets of the layout that ``layout`` returns count such elements.
    """
    parsed = FunctionSchema.parse(schema)
    several = parsed.returns[0].type.is_list

    def shape(self: Any, *args: Any, **kwargs: Any) -> Any:
        if check_args is not None:
            check_args(self, *args, **kwargs)
        found = layout(Layout(tuple(self.shape), tuple(self.strides)), *args, **kwargs)
        if several:
            return tuple(TensorMeta(f.shape, self.dtype, self.device, f.strides) for f in found)
        result = self.dtype if dtype is None else dtype(self.dtype)
        return TensorMeta(found.shape, result, self.device, found.strides)

    def kernel(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if check_args is not None:
            check_args(self, *args, **kwargs)
        found = layout(self.layout, *args, **kwargs)
        if several:
            return tuple(wrap_view(self, f) for f in found)
        return wrap_view(self, found, None if dtype is None else dtype(self._dtype))

    op = define(schema, shape=shape, tensor_kernel=kernel, vjp=vjp, tags=tags, kind="view")
    op.view_rule, op.view_inverse = layout, inverse
    return op
