"""The Autograd and ADInplaceOrView layers: two fallbacks, driven by schema and rules.

Each is a specialiser: for one operator and keyset it returns the callable that stands in the
operator's table. The Autograd one is a generated function with the operator's own signature that
looks at its tensors' `requires_grad` and goes straight to the layer below when nothing is followed;
otherwise a `Recorder` puts a node on the tape. :func:`boxed` is the reference form of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from plait.autograd import arithmetic
from plait.autograd.graph import (
    Edge,
    Node,
    is_differentiable,
    result_meta,
    sequence,
    set_history,
)
from plait.autograd.rules import ArgumentRule, RuleSet, SavePlan, derivatives_of, rules_of
from plait.autograd.saved import SavedTensor, freed_error
from plait.autograd.views import check_inplace, gradient_edge, rebase_history, requires_grad
from plait.base.errors import AutogradError, InplaceError, InternalError
from plait.dispatch.dispatcher import register_fallback
from plait.dispatch.keys import AliasKey, DispatchKey, alias_members
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls
from plait.dispatch.tags import Tag
from plait.tensor.view import ViewInfo

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["OperatorNode", "Recorder", "boxed", "generated_layer", "node_name"]

_PRE_DISPATCH = DispatchKey.PRE_DISPATCH.mask


def node_name(op: Overload) -> str:
    """``aten::native_layer_norm`` -> ``NativeLayerNormBackward0``."""
    words = op.name.strip("_").split("_")
    return "".join(word[:1].upper() + word[1:] for word in words) + "Backward0"


# ------------------------------------------------------------ the node


class OperatorNode(Node):
    """One recorded operator call: saved values by name, and the rules that use them."""

    __slots__ = ("edge_ranges", "freed", "plan", "saved")

    op: Overload
    saved: dict[str, Any]

    def __init__(
        self,
        edges: Sequence[Edge | None],
        op: Overload,
        plan: SavePlan,
        edge_ranges: Sequence[tuple[int, int]],
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
        self.plan = plan
        self.saved = {}
        self.edge_ranges = edge_ranges  # by number of the rule
        self.freed = False

    def name(self) -> str:
        return node_name(self.op)

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        return self.run(list(grads), None)

    def run(self, grads: list[Tensor | None], wanted: Sequence[bool] | None) -> Sequence[Any]:
        answer: list[Any] = [None] * len(self.next_edges)
        if grads[0] is None and all(g is None for g in grads):
            return answer
        values: dict[Any, Any] = {}
        conjugate = self.plan.holomorphic and _is_complex(self.results)
        if conjugate:
            grads = [arithmetic.conj(g) for g in grads]
        for rule in self.plan.rules:
            start, end = self.edge_ranges[rule.number]
            if wanted is not None and not any(wanted[start:end]):
                continue
            if rule.wants_needs:
                values["needs"] = self._needs(wanted)
            given = [self._value(p, grads, values) for p in rule.parameters]
            result = rule.fn(*given) if rule.part is None else _part(rule, given, values)
            if conjugate:
                result = arithmetic.conj(result)
            if rule.is_list:
                answer[start:end] = self._listed(rule, result, end - start)
            else:
                answer[start] = result
        return answer

    def _listed(self, rule: ArgumentRule, result: Any, expected: int) -> Sequence[Any]:
        if result is None:
            return [None] * expected
        if len(result) != expected:
            raise AutogradError(
                f"{self.op.qualname}: the derivative for the list {rule.name!r} returned "
                f"{len(result)} gradients; expected {expected}, one for each tensor."
            )
        return list(result)

    def _needs(self, wanted: Sequence[bool] | None) -> dict[str, bool]:
        needs = {a.name: False for a in self.op.schema.positional if a.type.is_tensor_like}
        for rule in self.plan.rules:
            start, end = self.edge_ranges[rule.number]
            needs[rule.name] = wanted is None or any(wanted[start:end])
        return needs

    def _value(self, p: Any, grads: list[Any], values: dict[str, Any]) -> Any:
        """The value of one rule parameter; unpacked tensors are kept for the node's other rules."""
        if p.kind == "cotangent":
            return self._cotangent(p, grads)
        if p.name in values:
            return values[p.name]
        value = self.saved[p.name]
        if p.kind in ("tensor", "result"):
            value = self._unpacked(value)
        values[p.name] = value
        return value

    def _cotangent(self, p: Any, grads: list[Any]) -> Any:
        if self.op.schema.returns and self.op.schema.returns[0].type.is_list:
            return tuple(self._defined(g, i) for i, g in enumerate(grads))
        g = grads[p.index] if p.index < len(grads) else None
        return g if g is not None or p.optional else self._defined(g, p.index)

    def _defined(self, g: Any, number: int) -> Any:
        """Zeros for an undefined cotangent (None where the result is not differentiable)."""
        meta = self.result(number)
        return arithmetic.zeros(meta) if g is None and meta is not None else g

    def _unpacked(self, value: Any) -> Any:
        if isinstance(value, SavedTensor):
            return value.unpack(self)
        if isinstance(value, tuple):
            return tuple(self._unpacked(v) for v in value)
        if value is None and self.freed:
            raise freed_error(self)
        return None if value is _NOTHING else value

    def release(self) -> None:
        for name, _ in (*self.plan.tensors, *self.plan.results):
            if name in self.saved:
                self.saved[name] = None
                self.freed = True


def _part(rule: ArgumentRule, given: list[Any], values: dict[Any, Any]) -> Any:
    """One gradient of a rule that makes several, which is called once."""
    if rule.fn not in values:
        values[rule.fn] = rule.fn(*given)
    return values[rule.fn][rule.part]


def _is_complex(results: Sequence[Any]) -> bool:
    """Whether the first result of a call is complex."""
    return bool(results) and results[0] is not None and results[0][1].is_complex


class _Nothing:
    """Stands for an optional tensor that was None, so that None can mean freed."""


_NOTHING = _Nothing()


def _save(value: Any) -> Any:
    if value is None:
        return _NOTHING
    if value.__class__ is tuple:
        return tuple([_save(v) for v in value])
    return SavedTensor(value)


# ------------------------------------------------------------ recording


class Recorder:
    """Records calls of one operator over one lower layer."""

    __slots__ = ("lower", "op", "rules")

    def __init__(self, op: Overload, lower: Callable[..., Any], rules: RuleSet) -> None:
        self.op = op
        self.lower = lower
        self.rules = rules

    def edges(self, args: tuple[Any, ...]) -> tuple[int, list[Edge | None]]:
        """(mask of rules whose argument requires grad, one edge or None per tensor argument).

        The mask is 0 just when nothing requires grad; its highest bit says that something does,
        though maybe nothing flows back to it.
        """
        mask = 0
        edges: list[Edge | None] = []
        for rule in self.rules.rules:
            value = args[rule.position]
            if rule.is_list:
                for t in value or ():
                    edge = _edge(t)
                    edges.append(edge)
                    mask |= rule.bit if edge is not None else self._blocked(t)
            elif value is None or not (value._requires_grad or value._view is not None):
                edges.append(None)
            else:
                edge = _edge(value)
                edges.append(edge)
                mask |= rule.bit if edge is not None else self._blocked(value)
        return mask, edges

    def _blocked(self, t: Any) -> int:
        """The highest bit of a mask, if ``t`` requires grad though nothing flows back to it."""
        return 1 << len(self.rules.rules) if t is not None and requires_grad(t) else 0

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the layer below and put a node on the tape if an argument requires grad."""
        mask, edges = self.edges(args)
        if not mask:
            return self.lower(*args, **kwargs)
        node = self.node(mask, edges, args)
        self.save_arguments(node, args, kwargs)
        out = self.lower(*args, **kwargs)
        self.give_history(node, out)
        return out

    def node(self, mask: int, edges: list[Edge | None], args: tuple[Any, ...]) -> OperatorNode:
        """A node without saved values."""
        rules = self.rules
        ranges = rules.ranges(args) if rules.has_lists else rules.single_ranges
        return OperatorNode(edges, self.op, rules.plan(mask), ranges)

    def save_arguments(self, node: OperatorNode, args: Any, kwargs: dict[str, Any]) -> None:
        """Keep the arguments that the active rules name."""
        plan, saved = node.plan, node.saved
        for name, position in plan.tensors:
            saved[name] = _save(args[position] if position >= 0 else kwargs[name])
        for name, position in plan.values:
            saved[name] = args[position] if position >= 0 else kwargs[name]
        for name, position, read in plan.properties:
            saved[name] = read(args[position])

    def give_history(self, node: OperatorNode, out: Any) -> None:
        """Make ``node`` the maker of the results, and keep the results that the rules name."""
        results = out if out.__class__ in (tuple, list) else (out,)
        metas: list[Any] = []
        for number, t in enumerate(results):
            if t is None or t._dtype.category < 2:
                metas.append(None)
                continue
            if t._grad_fn is not None or t._requires_grad:
                raise self._on_tape()
            t._requires_grad = True
            t._grad_fn = node
            if number:
                t._output_nr = number
            metas.append((t.shape, t._dtype, t._device))
        node.results = metas
        for name, number in node.plan.results:
            node.saved[name] = SavedTensor(results[number], number)

    def _on_tape(self) -> InternalError:
        return InternalError(
            f"{self.op.qualname}: its kernel returned a tensor that is on the tape already; "
            "expected a new tensor. Return a copy, or declare the alias in the schema."
        )


def _edge(t: Any) -> Edge | None:
    """Where the gradient of ``t`` goes; None if it is not followed."""
    if t is None or not (t._requires_grad or (t._view is not None and requires_grad(t))):
        return None
    if t._view is None and t._grad_fn is not None:
        return (t._grad_fn, t._output_nr)
    return gradient_edge(t)


class UnderivedRecorder(Recorder):
    """Records calls of an operator without rules, if its results could be differentiated at all."""

    __slots__ = ()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = self.lower(*args, **kwargs)
        results = out if out.__class__ in (tuple, list) else (out,)
        if not any(t is not None and is_differentiable(t._dtype) for t in results):
            return out
        mask, edges = self.edges(args)
        if mask:
            self.give_history(self.node(mask, edges, args), out)
        return out


class InplaceRecorder(Recorder):
    """Records calls of an operator that writes its first argument and returns it."""

    __slots__ = ()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, edges = self.edges(args)
        if not mask:
            return self.lower(*args, **kwargs)
        target = args[0]
        check_inplace(self.op.qualname, target)
        if not is_differentiable(target._dtype):
            return self.lower(*args, **kwargs)
        node = self.node(mask, edges, args)
        before = args
        if any(position == 0 for _, position in node.plan.tensors):
            before = (_visible_clone(target), *args[1:])
        self.save_arguments(node, before, kwargs)
        out = self.lower(*args, **kwargs)
        node.results = (result_meta(target),)
        rebase_history(target, node)
        for name, number in node.plan.results:
            node.saved[name] = SavedTensor(target, number)
        return out


class MutatingRecorder(Recorder):
    """Records calls that write in any other way, which have no derivative: backward raises."""

    __slots__ = ()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, edges = self.edges(args)
        if not mask:
            return self.lower(*args, **kwargs)
        written = [t for t in self._written(args) if is_differentiable(t._dtype)]
        for t in written:
            check_inplace(self.op.qualname, t)
        out = self.lower(*args, **kwargs)
        for t in written:
            rebase_history(t, _NoDerivative([_edge(t), *edges], self.op, t))
        for t in _tensors((out,)):
            if not any(t is w for w in written) and is_differentiable(t._dtype):
                set_history(t, _NoDerivative(edges, self.op, t), 0)
        return out

    def _written(self, args: tuple[Any, ...]) -> list[Tensor]:
        arguments = zip(self.op.schema.positional, args, strict=True)
        return _tensors([value for a, value in arguments if a.is_write])


class _NoDerivative(Node):
    """The node of a write that cannot be differentiated."""

    __slots__ = ()

    op: Overload

    def __init__(self, edges: Sequence[Edge | None], op: Overload, result: Tensor) -> None:
        super().__init__(edges, op)
        self.results = (result_meta(result),)

    def name(self) -> str:
        return node_name(self.op)

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        raise AutogradError(
            f"{self.op.qualname}: the derivative of an operator that writes its arguments is not "
            "implemented. Call it under no_grad(), or register a functional operator with one."
        )


def _returns_its_target(op: Overload) -> bool:
    """Whether the operator writes its first argument only, and returns it."""
    schema = op.schema
    return (
        schema.positional[0].is_write
        and len(schema.mutated_names) == 1
        and len(schema.returns) == 1
        and schema.returns[0].alias is not None
        and not schema.positional[0].type.is_list
    )


def _visible_clone(t: Tensor) -> Tensor:
    """A copy of ``t`` from before the write, with its history and seen by a tracer above us."""
    saved = tls.exclude
    tls.exclude = saved & ~_PRE_DISPATCH
    try:
        return arithmetic.clone(t)
    finally:
        tls.exclude = saved


class OutRecorder(Recorder):
    """``out=`` overloads are not differentiable: a call that would need it raises."""

    __slots__ = ()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for t in _tensors((*args, *kwargs.values())):
            if requires_grad(t):
                raise AutogradError(
                    f"{self.op.qualname}: functions with out=... arguments don't support automatic "
                    "differentiation, but one of the arguments requires grad. Use the functional "
                    "form, or call it under no_grad()."
                )
        return self.lower(*args, **kwargs)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if hasattr(value, "_keys"):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found


# ------------------------------------------------------------ specialisers


def is_followed(op: Overload) -> bool:
    """Whether the tape follows the operator: not if it has no tensor argument, or an empty rule
    table, which declares its results non-differentiable (detach, zeros_like)."""
    derivatives = derivatives_of(op)
    if derivatives is not None and not derivatives:
        return False
    return bool(op.schema.tensor_positions) or op.schema.is_mutable


def recorder_of(op: Overload, lower: Callable[..., Any]) -> Recorder:
    """The recorder that fits the operator's schema."""
    if any(a.is_write for a in op.schema.kwonly):
        return OutRecorder(op, lower, RuleSet(op, []))
    if op.schema.is_mutable:
        inplace = InplaceRecorder if _returns_its_target(op) else MutatingRecorder
        return inplace(op, lower, rules_of(op))
    recorder = Recorder if derivatives_of(op) is not None else UnderivedRecorder
    return recorder(op, lower, rules_of(op))


def boxed(op: Overload, lower: Callable[..., Any]) -> Callable[..., Any]:
    """The Autograd layer without specialisation: the reference for the generated form."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not tls.grad_enabled or not is_followed(op):
            return lower(*args, **kwargs)
        return recorder_of(op, lower)(args, kwargs)

    return call


def _autograd_specialiser(op: Overload, lower_keyset: int) -> Callable[..., Any] | None:
    if not is_followed(op):
        return None
    lower = op.resolve(lower_keyset)
    return generated_layer(op, recorder_of(op, lower), lower)


def generated_layer(
    op: Overload, record: Callable[..., Any], lower: Callable[..., Any]
) -> Callable[..., Any]:
    """``lower`` behind a test of its tensors, as a function with the operator's own parameters."""
    schema = op.schema
    positional = ", ".join(a.name for a in schema.positional)
    keywords = ", ".join(a.name for a in schema.kwonly)
    parameters = positional + (f"{', ' if positional else ''}*, {keywords}" if keywords else "")
    tests = [_test(a.name, a.type) for a in schema.arguments if a.type.is_tensor_like]
    forwarded = ", ".join(
        [positional] * bool(positional) + [f"{a.name}={a.name}" for a in schema.kwonly]
    )
    named = ", ".join(f"{a.name!r}: {a.name}" for a in schema.kwonly)
    comma = "," if positional else ""
    source = (
        f"def autograd({parameters}):\n"
        f"    if ({' or '.join(tests)}) and _tls.grad_enabled:\n"
        f"        return _record(({positional}{comma}), {{{named}}})\n"
        f"    return _lower({forwarded})\n"
    )
    scope = {"_tls": tls, "_record": record, "_lower": lower, "_any_followed": _any_followed}
    exec(compile(source, f"<autograd of {op.qualname}>", "exec"), scope)
    fn: Callable[..., Any] = scope["autograd"]  # type: ignore[assignment]
    return fn


def _test(name: str, kind: Any) -> str:
    """Source asking whether a tensor argument may require grad (a view: through its base)."""
    if kind.is_list:
        return f"_any_followed({name})"
    test = f"{name}._requires_grad or {name}._view is not None"
    return f"({name} is not None and ({test}))" if kind.optional else test


def _any_followed(tensors: Sequence[Any] | None) -> bool:
    return any(t is not None and (t._requires_grad or t._view is not None) for t in tensors or ())


def _inplace_or_view_specialiser(op: Overload, lower_keyset: int) -> Callable[..., Any] | None:
    if op.schema.is_mutable:
        return _counting(op, op.resolve(lower_keyset))
    if op.schema.is_view and is_followed(op):
        return _viewing(op, op.resolve(lower_keyset))
    return None


def _counting(op: Overload, lower: Callable[..., Any]) -> Callable[..., Any]:
    """``lower`` and one step of the version counter of each written argument."""
    schema = op.schema
    positions = [i for i, a in enumerate(schema.positional) if a.is_write]
    keywords = [a.name for a in schema.kwonly if a.is_write]
    if len(positions) == 1 and not keywords and _is_plain(schema.positional[positions[0]].type):
        return _counting_one(op, lower, positions[0])

    def write(*args: Any, **kwargs: Any) -> Any:
        written = _tensors([args[i] for i in positions] + [kwargs[k] for k in keywords])
        for t in written:
            if t.storage.readonly:
                raise _read_only(op)
        out = lower(*args, **kwargs)
        for t in written:
            t.storage.version += 1
        return out

    return write


def _is_plain(kind: Any) -> bool:
    return not kind.is_list and not kind.optional


def _counting_one(op: Overload, lower: Callable[..., Any], position: int) -> Callable[..., Any]:
    """`_counting` for one written argument that is always there."""

    def write(*args: Any, **kwargs: Any) -> Any:
        storage = args[position].storage
        if storage.readonly:
            raise _read_only(op)
        out = lower(*args, **kwargs)
        storage.version += 1
        return out

    return write


def _read_only(op: Overload) -> InplaceError:
    return InplaceError(
        f"{op.qualname}: the tensor's memory is read-only (made from a read-only array); expected "
        "memory that may be written. Write into a clone."
    )


def _viewing(op: Overload, lower: Callable[..., Any]) -> Callable[..., Any]:
    """``lower``, and each result remembers what it is a view of."""
    several = op.schema.returns[0].type.is_list or Tag.MULTI_OUTPUT_VIEW in op.tags

    def view(viewed: Any, *args: Any, **kwargs: Any) -> Any:
        out = lower(viewed, *args, **kwargs)
        grad_enabled = tls.grad_enabled
        creation = "no_grad" if not grad_enabled else "multi_output" if several else "default"
        for t in out if several else (out,):
            if t is not viewed:
                t._view = ViewInfo.of(
                    viewed, op, args, kwargs, grad_enabled=grad_enabled, creation=creation
                )
        return out

    return view


for _key in alias_members(AliasKey.AUTOGRAD):
    register_fallback(_key, _autograd_specialiser)
register_fallback(DispatchKey.ADINPLACE_OR_VIEW, _inplace_or_view_specialiser)
