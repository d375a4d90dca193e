"""Guards: the conditions under which a captured program answers for a call.

A guard set is a list of steps, each binding a name or testing one condition. It is compiled twice:
to one flat Python function for the hot path, which returns the program's inputs or None, and to a
verbose twin, which says which condition failed, the value expected, the value found, and where the
value is read in the user's program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optree

from plait.base.epoch import module_changes
from plait.capture.modules import ModuleState, is_module_like
from plait.capture.reads import Place, frozen
from plait.capture.signature import Structure, label_of
from plait.capture.tracer import CapturedProgram, ProgramInput
from plait.dispatch.state import tls
from plait.symbolic.codegen import source as expr_source
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta
from plait.tensor.opaque import OpaqueType, opaque_type_of
from plait.tensor.overlap import may_overlap
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, flatten_wrapper, inner_tensors

__all__ = ["GuardFailure", "GuardSet", "aliased_writes", "build_guards"]


@dataclass(slots=True)
class Step:
    """``bind = read`` if ``bind``, then the test; ``what`` is the source of the value tested."""

    test: str = ""
    bind: str = ""
    read: str = ""
    what: str = ""
    expected: str = ""
    got: str = ""  # expression of the value found, for the report
    shown: str = ""  # the test in words of the user's program, where it is not the test itself


@dataclass(frozen=True, slots=True)
class GuardFailure:
    """Why a program does not answer for a call: the first condition that does not hold."""

    what: str
    condition: str
    expected: str
    got: str
    passed: int = 0  # conditions that hold before it

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {self.got} (condition {self.condition})"


class GuardSet:
    """The compiled guards of one entry.

    ``check(args, kwargs)`` is the list of program inputs, or None; ``explain`` is its verbose twin.
    """

    def __init__(
        self, steps: list[Step], scope: dict[str, Any], result: str, modules: ModuleGuard
    ) -> None:
        self.steps = steps
        self.modules = modules
        self._scope = scope
        self._result = result
        self.check: Callable[..., Any] = self._compile_check()

    def _compile_check(self) -> Callable[..., Any]:
        lines = ["def check(args, kwargs):", "    try:"]
        for step in self.steps:
            if step.bind:
                lines.append(f"        {step.bind} = {step.read}")
            if step.test:
                lines.append(f"        if not ({step.test}): return None")
        lines += [
            f"        return {self._result}",
            "    except (LookupError, AttributeError, TypeError, ValueError):",
        ]
        lines += ["        return None"]
        return _function("\n".join(lines), self._scope, "check")

    def explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GuardFailure | None:
        """The first condition that fails for this call, or None if all hold."""
        scope = dict(self._scope, args=args, kwargs=kwargs)
        for passed, step in enumerate(self.steps):
            try:
                if step.bind:
                    _bind(scope, step.bind, _value(step.read, scope))
                if not step.test or _value(step.test, scope):
                    continue
                got = _text(_value(step.got, scope)) if step.got else "something else"
            except (LookupError, AttributeError, TypeError, ValueError) as error:
                got = f"{type(error).__name__}: {error}"
            if step.what == "module state":
                return replace(self.modules.failure(), passed=passed)
            condition = self._condition(step)
            return GuardFailure(step.what, condition, step.expected, got, passed)
        return None

    def collect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The program inputs of this call, whatever the conditions say."""
        scope = dict(self._scope, args=args, kwargs=kwargs)
        for step in self.steps:
            if step.bind:
                _bind(scope, step.bind, _value(step.read, scope))
        inputs: list[Any] = _value(self._result, scope)
        return inputs

    def _condition(self, step: Step) -> str:
        """The test of ``step`` in terms of the user's program."""
        if step.shown:
            return step.shown
        names = {s.bind: s.what for s in self.steps if s.bind and "," not in s.bind}
        text = step.test or step.read
        if step.got:
            text = text.replace(step.got, step.what)
        return _in_source_terms(text, names, self._scope)

    def describe(self) -> list[str]:
        """One line per condition: source text and what is expected of it."""
        tests = [s for s in self.steps if s.test and s.what != "module state"]
        lines = [f"{s.what}: {s.expected}" for s in tests]
        known = set(lines)
        return lines + [line for line in self.modules.describe() if line not in known]


class ModuleGuard:
    """The state of the modules read by a program, compared only when some module has changed.

    ``tensors`` holds the parameters and buffers as of the last comparison.
    """

    def __init__(self, program: CapturedProgram) -> None:
        self.owned = [i.owned for i in program.inputs if i.owned is not None]
        self.state = ModuleState(program.module_roots)
        self._seen = module_changes.value
        self.tensors: tuple[Tensor, ...] = self._read()

    def _read(self) -> tuple[Tensor, ...]:
        return tuple([o.table[o.key] for o in self.owned])

    def current(self) -> tuple[Tensor, ...] | None:
        """The program's module tensors, or None if the modules' state differs from the captured."""
        epoch = module_changes.value
        if epoch != self._seen:
            if self.state.difference() is not None:
                return None
            self.tensors = self._read()
            self._seen = epoch
        return self.tensors

    def failure(self) -> GuardFailure:
        found = self.state.difference()
        if found is None:
            return GuardFailure(
                "requires_grad of a module tensor", "requires_grad", "as captured", "changed"
            )
        place, then, now = found
        expected = f"the same {type(then).__name__}" if is_module_like(then) else _text(then)
        return GuardFailure(place, f"{place} is unchanged", expected, _text(now))

    def describe(self) -> list[str]:
        return self.state.describe()


def _function(source: str, scope: dict[str, Any], name: str) -> Callable[..., Any]:
    """Compile source written here: it holds names and indices only, values come by scope."""
    space = dict(scope)
    exec(compile(source, f"<plait {name}>", "exec"), space)
    function: Callable[..., Any] = space[name]
    return function


def _value(expression: str, scope: dict[str, Any]) -> Any:
    return eval(compile(expression, "<plait guard>", "eval"), scope)  # source written here


def _bind(scope: dict[str, Any], names: str, value: Any) -> None:
    """Bind one name, or the names of a tuple target."""
    if "," not in names:
        scope[names] = value
        return
    targets = [n for n in names.strip("(),").replace(" ", "").split(",") if n]
    scope.update(zip(targets, value, strict=True))


class _Words(str):
    """A value found that is told in words."""

    __slots__ = ()
    __repr__ = str.__str__


def _text(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


_PRIVATE = re.compile(r"\._(?=(dtype|device|requires_grad|grad_fn)\b)")
_WORD = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*")


def _in_source_terms(text: str, names: dict[str, str], scope: dict[str, Any]) -> str:
    """A test with bound names and constants written out."""

    def written(match: re.Match[str]) -> str:
        word = match.group()
        if word in names:
            return names[word]
        if word not in scope or word in ("tls", "Tensor"):
            return word
        value = scope[word]
        return value.__name__ if isinstance(value, type) else _text(value)

    return _PRIVATE.sub(".", _WORD.sub(written, text))


class _Builder:
    """Collects steps and the constants they refer to."""

    def __init__(self, program: CapturedProgram, names: tuple[str, ...]) -> None:
        self.program = program
        self.names = names
        self.steps: list[Step] = []
        self.scope: dict[str, Any] = {"tls": tls, "Tensor": Tensor}
        self.symbols: dict[str, str] = {}

    def constant(self, value: Any) -> str:
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def test(self, test: str, what: str, expected: str, got: str = "", shown: str = "") -> None:
        self.steps.append(Step(test, what=what, expected=expected, got=got, shown=shown))

    def bind(self, name: str, read: str, what: str) -> str:
        self.steps.append(Step(bind=name, read=read, what=what, expected="to be there"))
        return name

    # --- parts of a guard set -----------------------------------------------------------------

    def structure(self, s: Structure) -> None:
        what = label_of(s.access, self.names)
        if s.kind == "tree":
            flatten, spec = self.constant(_tree_flatten), self.constant(s.detail)
            self.bind(s.name, f"{flatten}({s.access}, {spec})", what)
            self.test(
                f"{s.name} is not None",
                what,
                f"structure {s.detail}",
                f"type({s.access}).__name__",
                f"{what} has structure {s.detail}",
            )
        elif s.access == "args":
            self.test(
                f"len(args) == {s.detail}",
                "number of positional arguments",
                str(s.detail),
                "len(args)",
            )
        elif s.kind == "dict":
            self._dict(s, what)
        else:
            test = f"type({s.access}) is {s.kind} and len({s.access}) == {s.detail}"
            self.test(test, what, f"a {s.kind} of {s.detail}", s.access)

    def _dict(self, s: Structure, what: str) -> None:
        if s.access == "kwargs" and not s.detail:
            self.test("not kwargs", "keyword arguments", "none", "tuple(kwargs)")
            return
        keys = self.constant(s.detail)
        test = f"type({s.access}) is dict and tuple({s.access}) == {keys}"
        shown = f"{what} is a dict with the keys {s.detail!r}"
        self.test(test, f"keys of {what}", repr(s.detail), f"tuple({s.access})", shown)

    def leaf(self, value: Any, access: str) -> None:
        what = label_of(access, self.names)
        if value is None or isinstance(value, bool):
            self.test(f"{access} is {value}", what, repr(value), access)
        elif isinstance(value, int | float | complex | str | bytes):
            constant, kind = self.constant(value), self.constant(type(value))
            same = f"{access} != {access}" if value != value else f"{access} == {constant}"
            self.test(f"type({access}) is {kind} and {same}", what, repr(value), access)
        elif (opaque := opaque_type_of(value)) is not None:
            self._opaque(opaque, value, access, what)
        else:
            self.test(f"{access} is {self.constant(value)}", what, _text(value), access)

    def _opaque(self, opaque: OpaqueType, value: Any, access: str, what: str) -> None:
        """An object of a registered type: equal for a value type, else the same and unchanged."""
        constant, kind = self.constant(value), self.constant(type(value))
        if opaque.kind == "value":
            same = f"type({access}) is {kind} and {access} == {constant}"
            self.test(same, what, _text(value), access)
            return
        self.test(f"{access} is {constant}", what, _text(value), access)
        if opaque.guard is not None:
            read, state = self.constant(opaque.guard), opaque.guard(value)
            now = f"{read}({access})"
            self.test(f"{now} == {self.constant(state)}", f"state of {what}", _text(state), now)

    def tensor(self, name: str, i: ProgramInput) -> None:
        """Everything about a tensor that the trace may have used."""
        t, what = i.example, i.desc.expr()
        cls, dtype = self.constant(type(t)), self.constant(t.dtype)
        device = self.constant(t.device)
        self.test(f"type({name}) is {cls}", what, f"a {type(t).__name__}", f"type({name}).__name__")
        self.test(f"{name}._dtype is {dtype}", f"{what}.dtype", str(t.dtype), f"{name}.dtype")
        self.test(
            f"({name}._device is {device} or {name}._device == {device})",
            f"{what}.device",
            str(t.device),
            f"{name}.device",
        )
        grad = "" if t._requires_grad else "not "
        self.test(
            f"{grad}{name}._requires_grad",
            f"{what}.requires_grad",
            str(t._requires_grad),
            f"{name}.requires_grad",
        )
        if t._requires_grad:
            is_leaf = t._grad_fn is None
            self.test(
                f"({name}._grad_fn is None) is {is_leaf}",
                f"{what}.is_leaf",
                str(is_leaf),
                f"{name}.is_leaf",
            )
        if isinstance(t, WrapperTensor):
            self.wrapper(name, t, what)
        else:
            self._sizes(name, i, what)

    def wrapper(self, name: str, t: WrapperTensor, what: str) -> None:
        """Outer sizes, the context, and the same of inner tensors; sizes are never symbols here."""
        names, context = flatten_wrapper(t)
        shape, strides = tuple(t.shape), tuple(t.strides)
        for attr, value in (("shape", shape), ("strides", strides)):
            read = f"tuple({name}.{attr})"
            self.test(f"{read} == {self.constant(value)}", f"{what}.{attr}", str(value), read)
        flatten = self.constant(flatten_wrapper)
        found = self.bind(f"{name}_parts", f"{flatten}({name})", what)
        self.test(f"{found}[0] == {self.constant(names)}", f"inner tensors of {what}", str(names))
        read = f"{found}[1]"
        self.test(f"{read} == {self.constant(context)}", f"context of {what}", _text(context), read)
        for attr in names:
            inner = getattr(t, attr)
            self._inner(
                self.bind(f"{name}_{attr}", f"{name}.{attr}", what), inner, f"{what}.{attr}"
            )

    def _inner(self, name: str, t: Tensor, what: str) -> None:
        """An inner tensor of a wrapper."""
        cls, dtype = self.constant(type(t)), self.constant(t.dtype)
        self.test(f"type({name}) is {cls}", what, f"a {type(t).__name__}", f"type({name}).__name__")
        self.test(f"{name}._dtype is {dtype}", f"{what}.dtype", str(t.dtype), f"{name}.dtype")
        flag, grad = f"{name}._requires_grad", t._requires_grad
        self.test(f"{flag} is {grad}", f"{what}.requires_grad", str(grad), flag)
        if isinstance(t, WrapperTensor):
            self.wrapper(name, t, what)
            return
        for attr, value in (("shape", tuple(t.shape)), ("strides", tuple(t.strides))):
            read = f"tuple({name}.{attr})"
            self.test(f"{read} == {self.constant(value)}", f"{what}.{attr}", str(value), read)

    def _sizes(self, name: str, i: ProgramInput, what: str) -> None:
        shape = tuple(_tensor_type(i).shape)
        self.bind(f"{name}_array", f"{name}._array", what)
        if not any(isinstance(s, Expr) for s in shape):
            expected = tuple(i.example.shape)
            self.test(
                f"{name}_array.shape == {self.constant(expected)}",
                f"{what}.shape",
                str(expected),
                f"{name}.shape",
            )
            self._strides(name, i, what)
            return
        dims = self.bind(f"{name}_shape", f"{name}_array.shape", what)
        self.test(
            f"len({dims}) == {len(shape)}", f"rank of {what}", str(len(shape)), f"len({dims})"
        )
        for d, size in enumerate(shape):
            where = f"{what}.shape[{d}]"
            if not isinstance(size, Expr):
                self.test(f"{dims}[{d}] == {size}", where, str(size), f"{dims}[{d}]")
            elif str(size) in self.symbols:
                first = self.symbols[str(size)]
                self.test(
                    f"{dims}[{d}] == {first}", where, f"the same size as {size}", f"{dims}[{d}]"
                )
            else:
                bound = self.symbols[str(size)] = self.bind(str(size), f"{dims}[{d}]", where)
                self.test(f"{bound} >= 2", where, f"a size {bound}, at least 2", bound)
        self._strides(name, i, what)

    def _strides(self, name: str, i: ProgramInput, what: str) -> None:
        t = i.example
        if t.is_contiguous():
            test = f"{name}_array.flags.c_contiguous"
            if not any(isinstance(s, Expr) for s in _tensor_type(i).shape):
                exact = self.constant(
                    t._read_data("guard").strides
                )  # the usual, and the fast, answer
                test = f"({name}_array.strides == {exact} or {test})"
            shown = f"{what}.is_contiguous()"
            self.test(test, f"{what}.strides", "contiguous", f"{name}.stride()", shown)
            return
        strides = tuple(_tensor_type(i).strides)
        parts = [expr_source(s, self.symbols) if isinstance(s, Expr) else str(s) for s in strides]
        expected = f"({', '.join(parts)},)"
        self.test(f"{name}.strides == {expected}", f"{what}.strides", expected, f"{name}.strides")

    def place(self, place: Place) -> str:
        """The expression that reads an external place."""
        text = self.constant(place.root)
        for kind, key in place.path:
            if kind == "attr":
                text += f".{key}"
            elif kind == "item":
                text += f"[{self.constant(key)}]"
            elif kind == "call":
                text = f"{self.constant(key)}({text})"
            else:
                text += ".cell_contents"
        return text

    def external(self) -> None:
        reads = self.program.reads
        for place, value in reads.values.items():
            name = self.bind(f"r{len(self.steps)}", self.place(place), place.text)
            self.leaf_of_place(name, value, place.text)
        for place, value in reads.identities.items():
            read, constant = self.place(place), self.constant(value)
            # A bound method is a new object at each read, and equal to the earlier one.
            same = "==" if hasattr(value, "__self__") else "is"
            name = getattr(value, "__qualname__", type(value).__name__)
            self.test(
                f"{read} {same} {constant}",
                place.text,
                f"the same {name}",
                read,
                f"{place.text} is the same object",
            )

    def leaf_of_place(self, name: str, value: Any, text: str) -> None:
        if value is None or isinstance(value, bool):
            self.test(f"{name} is {value}", text, repr(value), name)
            return
        constant = self.constant(frozen(value))
        kind = self.constant(type(value))
        same = (
            f"{name} != {name}"
            if isinstance(value, float | np.floating) and value != value
            else f"{name} == {constant}"
        )
        self.test(f"type({name}) is {kind} and {same}", text, _text(value), name)

    def shapes(self) -> None:
        for guard in self.program.env.guards.values():
            symbols = {str(s) for s in guard.condition.free_symbols}
            if not symbols <= self.symbols.keys():
                continue  # about a seed or call number, which never decides anything
            where = f" at {guard.source[-1][0]}:{guard.source[-1][1]}" if guard.source else ""
            got = f"({', '.join(f'{self.symbols[s]!s}' for s in sorted(symbols))},)"
            self.test(
                expr_source(guard.condition, self.symbols),
                f"sizes{where}",
                str(guard.condition),
                got,
            )


def _tensor_type(i: ProgramInput) -> TensorMeta:
    assert isinstance(i.value.type, TensorMeta), "a captured program takes tensors alone"
    return i.value.type


def _tree_flatten(value: Any, spec: Any) -> list[Any] | None:
    """The leaves of ``value`` if its structure is ``spec``."""
    leaves, found = optree.tree_flatten(value, none_is_leaf=True)
    return leaves if found == spec else None


def aliased_writes(
    tensors: Sequence[Tensor], written: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Pairs (written input, other input) whose memory overlaps.

    A wrapper counts as its inner tensors, in ``written`` and in the pairs.
    """
    if any(t._is_wrapper for t in tensors):
        tensors = [piece for t in tensors for piece in inner_tensors(t) if piece.storage]
    sharing: dict[int, list[int]] = {}
    for j, tensor in enumerate(tensors):
        if tensor._storage is not None:  # else no other tensor has it
            sharing.setdefault(id(tensor._storage), []).append(j)
    pairs = []
    for i in written:
        target = tensors[i]
        for j in sharing.get(id(target._storage), ()):
            if i != j and may_overlap(target.layout, tensors[j].layout):
                pairs.append((i, j))
    return tuple(pairs)


def _pairs(exprs: list[str], pairs: Sequence[tuple[int, int]]) -> _Words:
    return _Words(", ".join(f"{exprs[i]} with {exprs[j]}" for i, j in pairs) or "none")


def build_guards(
    program: CapturedProgram, names: tuple[str, ...], written: Sequence[int] = ()
) -> GuardSet:
    """The guards of ``program``.

    ``names`` are the parameter names of the function, for the texts; ``written`` the numbers of the
    inputs that the program writes, whose overlap with other inputs is guarded.
    """
    builder = _Builder(program, names)
    builder.test(
        f"tls.grad_enabled is {program.grad_enabled}",
        "grad mode",
        str(program.grad_enabled),
        "tls.grad_enabled",
    )
    builder.test(
        f"tls.autocast_dtype is {builder.constant(program.autocast_dtype)}",
        "autocast",
        _autocast_text(program.autocast_dtype),
        "tls.autocast_dtype",
    )
    builder.test("not tls.vmap_levels", "vmap", "not inside vmap", "'inside vmap'")
    builder.test("not tls.modes", "active modes", "none", "tls.modes")
    for structure in program.structures:
        builder.structure(structure)
    by_access = {i.access: i for i in program.inputs if i.access is not None}
    known: dict[int, str] = {}
    labels: dict[int, str] = {}
    variables: dict[int, str] = {}
    for leaf in program.leaves:
        if not isinstance(leaf.value, Tensor):
            builder.leaf(leaf.value, leaf.access)
        elif leaf.access in by_access:
            i = by_access[leaf.access]
            name = builder.bind(f"a{len(known)}", leaf.access, i.desc.expr())
            known[id(leaf.value)] = variables[id(i)] = name
            labels[id(leaf.value)] = i.desc.expr()
            builder.tensor(name, i)
        else:
            same, first = known[id(leaf.value)], labels[id(leaf.value)]
            text = label_of(leaf.access, names)
            other = builder.constant(_Words("another tensor"))
            expected, shown = f"the same tensor as {first}", f"{text} is {first}"
            builder.test(f"{leaf.access} is {same}", text, expected, other, shown)
    modules = ModuleGuard(program)
    _module_steps(builder, modules, program, variables)
    builder.external()
    _captured_steps(builder, program, variables)
    builder.shapes()
    result = ", ".join(variables[id(i)] for i in program.inputs)
    if written:
        pairs = aliased_writes([i.example for i in program.inputs], written)
        found, expected = builder.constant(aliased_writes), builder.constant(pairs)
        read = f"{found}([{result}], {tuple(written)})"
        exprs = [i.desc.expr() for i in program.inputs for _ in inner_tensors(i.example)]
        what = "overlap of written arguments with others"
        shown = f"the {what} is as when it was compiled"
        got = f"{builder.constant(partial(_pairs, exprs))}({read})"
        builder.test(f"{read} == {expected}", what, _pairs(exprs, pairs), got, shown)
    return GuardSet(builder.steps, builder.scope, f"[{result}]", modules)


def _autocast_text(dtype: Any) -> str:
    return "off" if dtype is None else f"to {dtype}"


def _module_steps(
    builder: _Builder, modules: ModuleGuard, program: CapturedProgram, variables: dict[int, str]
) -> None:
    """Module state by epoch; then the tensors that it owns."""
    if not program.module_roots:
        return
    current = builder.constant(modules.current)
    builder.bind("owned", f"{current}()", "module state")
    builder.test("owned is not None", "module state", "as captured")
    owned = [i for i in program.inputs if i.owned is not None]
    if not owned:
        return
    names = [f"p{k}" for k in range(len(owned))]
    builder.bind(
        f"({', '.join(names)},)" if len(names) == 1 else ", ".join(names), "owned", "module tensors"
    )
    for name, i in zip(names, owned, strict=True):
        variables[id(i)] = name
        if isinstance(i.example, WrapperTensor):  # whose attributes change without an epoch
            builder.wrapper(name, i.example, i.desc.expr())
    flags = " and ".join(
        f"{'' if i.example._requires_grad else 'not '}{n}._requires_grad"
        for n, i in zip(names, owned, strict=True)
    )
    builder.test(flags, "module state", "requires_grad as captured")


def _captured_steps(builder: _Builder, program: CapturedProgram, variables: dict[int, str]) -> None:
    """Tensors read from outside: read again where there is a place, else held."""
    for k, i in enumerate(program.inputs):
        if id(i) in variables:
            continue
        read = builder.place(i.place) if i.place is not None else builder.constant(i.example)
        name = variables[id(i)] = builder.bind(f"x{k}", read, i.desc.expr())
        builder.tensor(name, i)
