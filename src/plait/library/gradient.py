"""Gradient formulas of user-defined operators: ``backward(ctx, *grads)`` and ``setup_context``.

Owns the tape node of such an operator and the recording of its calls. The engine, the saved tensors
and the context are autograd's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from plait.autograd import arithmetic
from plait.autograd.function import Context
from plait.autograd.graph import (
    Edge,
    Node,
    is_differentiable,
    result_meta,
    sequence,
    set_history,
)
from plait.autograd.record import generated_layer
from plait.autograd.views import gradient_edge, requires_grad
from plait.base.errors import AutogradError
from plait.dispatch.keys import AliasKey, alias_members
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls
from plait.library.kernels import place_of

__all__ = ["CustomRecorder", "GradientFormula", "install", "needs_gradient", "remove"]


class GradientFormula:
    """A backward function, how to fill its context, and where it was written."""

    __slots__ = ("backward", "place", "setup", "wants_keywords")

    def __init__(
        self, backward: Callable[..., Any], setup: Callable[..., Any] | None, has_kwonly: bool
    ) -> None:
        self.backward = backward
        self.setup = setup
        self.place = place_of(backward)
        self.wants_keywords = has_kwonly
        if setup is None or not has_kwonly:
            return
        if "keyword_only_inputs" not in inspect.signature(setup).parameters:
            raise AutogradError(
                f"register_autograd: setup_context at {place_of(setup)} has no parameter "
                "'keyword_only_inputs', and the operator has keyword-only arguments; expected "
                "setup_context(ctx, inputs, keyword_only_inputs, output)."
            )


class _Named:
    """What a context calls its function: the operator's name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name


_ONE_RESULT = (None,)


def _node_name(op: Overload) -> str:
    return f"{op.qualname.replace('::', '_').replace('.', '_')}Backward"


class CustomNode(Node):
    """The tape node of one call of an operator with a user's gradient formula."""

    __slots__ = ("context", "formula", "groups", "result_groups")

    op: Overload

    def __init__(
        self,
        op: Overload,
        formula: GradientFormula,
        groups: Sequence[int | None],
        edges: list[Edge | None],
    ) -> None:
        # Written out instead of super().__init__: this is the hot path of training.
        self.next_edges = edges
        self.op = op
        self.seq = next(sequence)
        self.results = ()
        self.hooks = None
        self._metadata = None
        describe = tls.node_source
        self.source = () if describe is None else describe()
        self.formula = formula
        self.groups = groups
        """Per argument: how many tensors of it, or None for something else."""
        self.result_groups: Sequence[int | None] = _ONE_RESULT
        self.context: Any = None

    def name(self) -> str:
        return _node_name(self.op)

    def apply(self, grads: tuple[Any, ...]) -> Sequence[Any]:
        if self.context._materialize:
            grads = tuple(self._defined(g, i) for i, g in enumerate(grads))
        results = self.formula.backward(self.context, *_grouped(grads, self.result_groups))
        flat = results if isinstance(results, tuple) else (results,)
        return self._checked(flat)

    def _defined(self, g: Any, number: int) -> Any:
        meta = self.result(number)
        return arithmetic.zeros(meta) if g is None and meta is not None else g

    def _checked(self, results: Sequence[Any]) -> list[Any]:
        """One gradient per tensor, after checking number and structure."""
        if len(results) != len(self.groups):
            raise self._fault(
                f"returned {len(results)} gradients; expected {len(self.groups)}, one for each "
                "positional argument, None where there is none"
            )
        answer: list[Any] = []
        names = [a.name for a in self.op.schema.positional]
        for name, count, g in zip(names, self.groups, results):
            is_list = self.op.schema.argument(name).type.is_list
            if count is None:
                if g is not None and not (isinstance(g, tuple | list) and not any(g)):
                    raise self._fault(
                        f"returned a gradient for argument {name!r}, which is not a tensor; "
                        "expected None"
                    )
            elif g is None:
                answer += [None] * count
            elif not is_list:
                answer.append(self._tensor(name, g))
            elif isinstance(g, tuple | list) and len(g) == count:
                answer += [self._tensor(name, item) for item in g]
            else:
                got = f"{len(g)} gradients" if isinstance(g, tuple | list) else type(g).__name__
                raise self._fault(
                    f"returned {got} for the list {name!r}; expected a list of {count}, one for "
                    "each tensor"
                )
        needs = self.context.needs_input_grad
        flags = [n for need, c in zip(needs, self.groups) if c is not None
                 for n in (need if isinstance(need, list) else [need])]  # fmt: skip
        return [g if flag else None for g, flag in zip(answer, flags, strict=True)]

    def _tensor(self, name: str, g: Any) -> Any:
        if g is not None and not hasattr(g, "_keys"):
            raise self._fault(
                f"returned a {type(g).__name__} for argument {name!r}; expected a Tensor or None"
            )
        return g

    def _fault(self, text: str) -> AutogradError:
        return AutogradError(
            f"{self.op.qualname}: the backward formula at {self.formula.place} {text}."
        )

    def release(self) -> None:
        if self.context._saved:
            self.context._saved = None


def _tensor_count(value: Any) -> int | None:
    if hasattr(value, "_keys"):
        return 1
    if (
        isinstance(value, tuple | list)
        and value
        and all(v is None or hasattr(v, "_keys") for v in value)
    ):
        return len(value)
    return None


def _grouped(grads: Sequence[Any], groups: Sequence[int | None]) -> list[Any]:
    """Gradients in the structure of the results: a list for a list, None for what has none."""
    out: list[Any] = []
    at = 0
    for count in groups:
        if count is None:
            out.append(grads[at])
            at += 1
        else:
            out.append(list(grads[at : at + count]))
            at += count
    return out


def _needs(value: Any) -> Any:
    if hasattr(value, "_keys"):
        return requires_grad(value)
    if _tensor_count(value) is not None:
        return [v is not None and requires_grad(v) for v in value]
    return False


def needs_gradient(args: Sequence[Any]) -> bool:
    """Whether a tensor among the arguments, or in a list of them, requires grad."""
    return any(any(n) if isinstance(n, list) else n for n in map(_needs, args))


class CustomRecorder:
    """Records calls of one operator over one lower layer."""

    __slots__ = ("_groups", "_single_result", "_singles", "formula", "lower", "named", "op")

    def __init__(self, op: Overload, formula: GradientFormula, lower: Callable[..., Any]) -> None:
        self.op, self.formula, self.lower = op, formula, lower
        self.named = cast(Any, _Named(_node_name(op)))
        kinds = [a.type for a in op.schema.positional]
        plain = not any(k.is_tensor_like and (k.is_list or k.optional) for k in kinds)
        self._groups = [1 if k.is_tensor_like else None for k in kinds]
        self._singles = [i for i, group in enumerate(self._groups) if group] if plain else []
        """Positions of the tensors; empty where there may be lists of them or None."""
        returns = op.schema.returns
        self._single_result = (
            len(returns) == 1 and returns[0].type.is_tensor_like and not returns[0].type.is_list
        )

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the layer below; put a node on the tape if an argument requires grad."""
        needs, groups, edges = self._plain(args) if self._singles else self._grouped(args)
        if edges is None:
            return self.lower(*args, **kwargs)
        node = CustomNode(self.op, self.formula, groups, edges)
        out = self.lower(*args, **kwargs)
        node.context = context = Context(self.named, needs)
        formula = self.formula
        if formula.setup is not None:
            if formula.wants_keywords:
                formula.setup(ctx=context, inputs=args, keyword_only_inputs=kwargs, output=out)
            else:
                formula.setup(ctx=context, inputs=args, output=out)
        if not self._single_result or context._non_differentiable:
            self._give_history(node, context, out)
            return out
        dtype = out._dtype
        if dtype.category >= 2:
            node.results = ((out.shape, dtype, out._device),)
            out._requires_grad = True
            out._grad_fn = node
        if context._to_save:
            context._keep_one(node, out)
        return out

    def _plain(self, args: tuple[Any, ...]) -> tuple[Any, Any, list[Edge | None] | None]:
        """(needs, tensors per argument, edges or None if nothing requires grad)."""
        needs = [False] * len(args)
        edges: list[Edge | None] = []
        followed = False
        for position in self._singles:
            value = args[position]
            if value._requires_grad if value._view is None else requires_grad(value):
                edges.append(gradient_edge(value))
                needs[position] = followed = True
            else:
                edges.append(None)
        return tuple(needs), self._groups, edges if followed else None

    def _grouped(self, args: tuple[Any, ...]) -> tuple[Any, Any, list[Edge | None] | None]:
        """As `_plain`, where an argument may be a list of tensors or None."""
        needs = tuple([_needs(a) for a in args])
        groups = [_tensor_count(a) for a in args]
        if not any(any(n) if n.__class__ is list else n for n in needs):
            return needs, groups, None
        edges: list[Edge | None] = []
        for value, count in zip(args, groups):
            if count is None:
                continue
            for v in value if isinstance(value, tuple | list) else (value,):
                needed = v is not None and requires_grad(v)
                edges.append(gradient_edge(v) if needed else None)
        return needs, groups, edges

    def _give_history(self, node: CustomNode, context: Any, out: Any) -> None:
        """Make ``node`` the maker of several results, of lists, or of some not differentiable."""
        several = len(self.op.schema.returns) > 1
        results: list[Any] = []
        result_groups: list[int | None] = []
        for item in out if several else (out,):
            is_list = isinstance(item, tuple | list)
            result_groups.append(len(item) if is_list else None)
            results += item if is_list else [item]
        node.result_groups = result_groups
        fixed = {id(t) for t in context._non_differentiable}
        follows = [
            hasattr(t, "_keys") and is_differentiable(t._dtype) and id(t) not in fixed
            for t in results
        ]
        node.results = [result_meta(t) if f else None for t, f in zip(results, follows)]
        for number, (t, follow) in enumerate(zip(results, follows)):
            if follow:
                set_history(t, node, number)
        context._keep(node, results)


def install(op: Overload, formula: GradientFormula) -> None:
    """Let every autograd key of ``op`` record with this formula."""

    def specialiser(op: Overload, lower_keyset: int) -> Callable[..., Any] | None:
        lower = op.resolve(lower_keyset)
        if not any(a.type.is_tensor_like for a in op.schema.arguments):
            return None
        return generated_layer(op, CustomRecorder(op, formula, lower), lower)

    for key in alias_members(AliasKey.AUTOGRAD):
        op.register_fallback(key, specialiser)


def remove(op: Overload) -> None:
    """Take the formula away."""
    for key in alias_members(AliasKey.AUTOGRAD):
        op.fallbacks.pop(key, None)
    op.invalidate()
