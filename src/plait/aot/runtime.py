"""Running a compiled function: argument list, native call, epilogue, tape.

The reference method :meth:`Runtime.run` is what the calling convention means. The hot path is
straight-line Python with every branch resolved (:meth:`Runtime.emit`); a test holds the two equal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from plait.aot.donation import Donation
from plait.aot.metadata import OutputAliasInfo, OutputType, ViewAndMutationMeta
from plait.autograd.grad_mode import no_grad
from plait.autograd.graph import Node as TapeNode
from plait.autograd.graph import attach
from plait.autograd.saved import SavedTensor
from plait.autograd.views import gradient_edge
from plait.base import log
from plait.base.errors import AutogradError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.modes import disable_modes
from plait.dispatch.state import autocasting, tls
from plait.ir.graph import Graph, map_values
from plait.ir.interpret import symbol_values
from plait.ops.random import default_generator
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, shallow_copy

__all__ = ["BackwardProgram", "Runtime"]

Compiled = Callable[..., Sequence[Any]]


class BackwardProgram:
    """The backward half of a compiled function, compiled when it is first needed."""

    def __init__(
        self,
        graph: Graph,
        compile: Callable[[Graph], Compiled],
        *,
        saved_is_input: list[int | None],
        symbols: list[str],
        grad_inputs: list[int],
        tangents: list[TensorMeta],
    ) -> None:
        self.graph = graph
        self.saved_is_input = saved_is_input
        self.symbols = symbols
        self.grad_inputs = grad_inputs
        self.tangents = tangents
        # None where a stride is symbolic.
        self.tangent_strides = [
            strides if all(isinstance(s, int) for s in strides) else None
            for strides in (tuple(meta.strides) for meta in tangents)
        ]
        self._compile = compile
        self._compiled: Compiled | None = None
        self._lock = threading.RLock()

    @property
    def is_compiled(self) -> bool:
        return self._compiled is not None

    def compiled(self) -> Compiled:
        """The native backward, compiled now if it has not been."""
        if self._compiled is None:
            with self._lock, autocasting(None):  # several threads may need it first
                if self._compiled is None:
                    self._compiled = self._compile(self.graph)
        return self._compiled


class CompiledBackward(TapeNode):
    """The tape node of one call of a compiled function."""

    __slots__ = ("ints", "program", "saved", "tangent_shapes")

    def __init__(
        self,
        program: BackwardProgram,
        inputs: Sequence[Tensor],
        saved: list[SavedTensor],
        ints: list[int],
    ) -> None:
        super().__init__(
            [
                gradient_edge(inputs[i]) if inputs[i]._requires_grad else None
                for i in program.grad_inputs
            ]
        )
        self.program = program
        self.saved = saved
        self.ints = ints
        self.tangent_shapes: list[Any] = []

    def name(self) -> str:
        return "CompiledBackward"

    def release(self) -> None:
        self.saved = []

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        if tls.grad_enabled:
            raise AutogradError(
                "backward: create_graph=True through a compiled function; its backward graph is "
                "not itself differentiable. Take both derivatives inside the compiled function "
                "(plait.autograd.grad there is traced), or run this function eagerly."
            )
        program = self.program
        if len(self.saved) != len(program.saved_is_input):
            raise AutogradError(
                "backward: a second backward through a compiled function whose saved tensors were "
                "freed; pass retain_graph=True to the first."
            )
        saved = [s.unpack(self) for s in self.saved]
        tangents = self.tangents(grads)
        if tls.autocast_dtype is None:
            return list(_compiled(program)(*saved, *self.ints, *tangents))
        with autocasting(None):  # the casts are in the graph
            return list(_compiled(program)(*saved, *self.ints, *tangents))

    def tangents(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """What the backward graph takes for the cotangents of the results."""
        return [self.tangent(k, g, self._shape(k)) for k, g in enumerate(grads)]

    def _shape(self, number: int) -> tuple[int, ...]:
        result = self.results[number]
        assert result is not None
        return result[0]

    def tangent(self, place: int, grad: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """Graph tangent ``place`` in the layout it was traced with; zeros where there is none."""
        meta = self.program.tangents[place]
        if grad is None:
            return _zeros(shape, meta)
        if grad.dtype is not meta.dtype:
            grad = lookup("aten::_to_copy").call(grad, **_copy_options(meta))
        same = grad.strides == self.program.tangent_strides[place]
        return grad if same else _laid_out(grad, meta)


def _compiled(program: BackwardProgram) -> Compiled:
    """The native backward; a mode that is active sees neither its compiling nor its operators."""
    if not tls.modes:
        return program.compiled()
    log.record(
        "mode",
        f"the mode {type(tls.modes[-1]).__name__} does not see the operators of a backward whose "
        "forward was called, compiled, outside of it; call both inside the mode",
    )
    with disable_modes():
        return program.compiled()


def _copy_options(meta: TensorMeta) -> dict[str, Any]:
    op = lookup("aten::_to_copy")
    _, kwargs = op.normalize((None,), {"dtype": meta.dtype})
    return kwargs


def _zeros(shape: tuple[int, ...], meta: TensorMeta) -> Tensor:
    zeros: Tensor = lookup("aten::zeros")(shape, dtype=meta.dtype)
    return _laid_out(zeros, meta)


def _laid_out(tensor: Tensor, meta: TensorMeta) -> Tensor:
    """``tensor`` with the order of strides of ``meta``."""
    order = sorted(range(len(meta.shape)), key=lambda d: _hint(meta.strides[d]), reverse=True)
    if order == list(range(len(order))):
        if tensor.is_contiguous():
            return tensor
        out: Tensor = lookup("aten::contiguous")(tensor)
        return out
    inverse = [order.index(d) for d in range(len(order))]
    permute = lookup("aten::permute")
    laid: Tensor = permute(lookup("aten::contiguous")(permute(tensor, order)), inverse)
    return laid


def _hint(stride: Any) -> int:
    return stride if isinstance(stride, int) else 2 + len(str(stride))


class Runtime:
    """One compiled function at run time.

    ``run(inputs)`` takes the program's flat tensors and returns the flat user outputs.
    """

    def __init__(
        self,
        meta: ViewAndMutationMeta,
        forward_graph: Graph,
        forward: Compiled,
        backward: BackwardProgram | None,
        donation: Donation | None = None,
    ) -> None:
        self.meta = meta
        self.donation = donation or Donation()
        self.forward_graph = forward_graph
        self.forward = forward
        self.backward = backward
        self._needs_symbols = _needs_symbols(meta, backward)
        self.source = self.emit()
        self.run: Callable[[list[Any]], Sequence[Any]] = self._compiled_run()

    def emit(self) -> str:
        """The hot path as Python source: :meth:`run_reference` with every branch resolved."""
        meta = self.meta
        mutated, plain = meta.mutated_inputs, meta.num_plain_outputs
        names = [f"new{i}" for i in mutated] + [f"out{k}" for k in range(plain)]
        names += [f"base{k}" for k in range(meta.num_intermediate_bases)]
        arguments = "*inputs, *reserve(random_calls)" if meta.num_random_calls else "*inputs"
        lines = ["def run(inputs):"]
        if self.donation.written:
            lines.append("    check_writable(inputs)")
        if self.donation.donated:
            lines += ["    given = inputs", "    inputs = take(given)"]
        kinds = [o.output_type for o in meta.output_info]
        if self.backward is None and not mutated and all(k is OutputType.NON_ALIAS for k in kinds):
            lines.append(f"    returns = forward({arguments})")
            return "\n".join([*lines, *self._spend(), "    return returns"])
        if self._needs_symbols:
            if meta.num_random_calls:  # reserved once, for the forward and for the symbols
                lines.append(f"    arguments = [{arguments}]")
                arguments = "*arguments"
            lines.append(f"    symbols = symbol_values(graph, [{arguments}])")
        lines.append(f"    returns = forward({arguments})")
        if self.backward is not None:
            lines.append(
                f"    record(inputs, returns, {'symbols' if self._needs_symbols else '{}'})"
            )
        if names:
            lines.append(f"    {', '.join(names)}, *_ = returns")
        lines += [f"    write({i}, inputs[{i}], new{i})" for i in mutated]
        outputs = []
        for k, info in enumerate(meta.output_info):
            lines.append(f"    result{k} = {_output_source(k, info, self._needs_symbols)}")
            outputs.append(f"result{k}")
        return "\n".join([*lines, *self._spend(), f"    return [{', '.join(outputs)}]"])

    def _spend(self) -> list[str]:
        return ["    spend(given)"] if self.donation.donated else []

    def _compiled_run(self) -> Callable[[list[Any]], Sequence[Any]]:
        """Compile :meth:`emit`'s source, which holds only names and numbers made here."""
        scope: dict[str, Any] = {
            "forward": self.forward,
            "reserve": lambda count: default_generator().reserve(count),
            "random_calls": self.meta.num_random_calls,
            "symbol_values": symbol_values,
            "graph": self.forward_graph,
            "record": self._record,
            "write": self._write,
            "check_writable": self.donation.check_writable,
            "take": self.donation.take,
            "spend": self.donation.spend,
            "replayed": _replayed,
            "infos": self.meta.output_info,
            "constant": _constant,
        }
        exec(compile(self.source, "<plait runtime>", "exec"), scope)
        run: Callable[[list[Any]], Sequence[Any]] = scope["run"]
        return run

    def run_reference(self, inputs: list[Any]) -> Sequence[Any]:
        """The calling convention, step by step."""
        meta = self.meta
        self.donation.check_writable(inputs)
        given, inputs = inputs, self.donation.take(inputs)
        arguments: list[Any] = list(inputs)
        if meta.num_random_calls:
            arguments += default_generator().reserve(meta.num_random_calls)
        symbols = symbol_values(self.forward_graph, arguments) if self._needs_symbols else {}
        returns = list(self.forward(*arguments))
        count = meta.num_forward_returns
        if self.backward is not None:
            self._record(inputs, returns, symbols)
        for number, i in enumerate(meta.mutated_inputs):
            self._write(i, inputs[i], returns[number])
        first = len(meta.mutated_inputs)
        plain = returns[first : first + meta.num_plain_outputs]
        bases = returns[first + meta.num_plain_outputs : count]
        outputs: list[Any] = []
        for info in meta.output_info:
            outputs.append(_output(info, inputs, plain, bases, outputs, symbols))
        self.donation.spend(given)
        return outputs

    def _record(
        self, inputs: Sequence[Tensor], returns: list[Any], symbols: dict[str, Any]
    ) -> None:
        """Put the compiled backward on the tape as the maker of the differentiable returns."""
        node = CompiledBackward(*self.saved_for_backward(inputs, inputs, returns, symbols))
        attach([returns[k] for k in self.meta.tangent_outputs], node)

    def saved_for_backward(
        self,
        outer: Sequence[Tensor],
        inputs: Sequence[Tensor],
        returns: list[Any],
        symbols: dict[str, Any],
    ) -> tuple[BackwardProgram, Sequence[Tensor], list[SavedTensor], list[int]]:
        """What a tape node of this call is made of; ``outer`` are the tensors it leads to."""
        program = self.backward
        assert program is not None
        count = self.meta.num_forward_returns
        made = iter(returns[count:])
        given = {id(value) for value in returns[:count]}  # to save one itself would be a cycle
        saved = []
        for place in program.saved_is_input:
            value = inputs[place] if place is not None else next(made)
            if place is None and id(value) in given:
                value = shallow_copy(value)
            saved.append(SavedTensor(value))
        ints = [int(symbols[name]) for name in program.symbols] if program.symbols else []
        return program, outer, saved, ints

    def _write(self, i: int, target: Tensor, value: Tensor) -> None:
        """The epilogue of a mutation: copy the value into the input; version and history follow."""
        if value is target:  # written in place by the graph
            target.storage.version += 1
            return
        copy = lookup("aten::copy_")
        if value._requires_grad and not self.meta.input_info[i].mutations_under_no_grad:
            copy(target, value)
            return
        with no_grad():
            copy(target, value)


def _output_source(k: int, info: OutputAliasInfo, has_symbols: bool) -> str:
    """Source of user output ``k``; see :func:`_output` for the meaning."""
    kind, symbols = info.output_type, "symbols" if has_symbols else "{}"
    if kind is OutputType.NON_ALIAS:
        return f"out{info.graph_idx}"
    if kind is OutputType.CONSTANT:
        return f"constant(infos[{k}], {symbols})"
    if kind is OutputType.IS_INPUT:
        return f"inputs[{info.base_idx}]"
    if kind is OutputType.SAME_OUTPUT:
        return f"result{info.base_idx}"
    base = (
        f"inputs[{info.base_idx}]" if kind is OutputType.ALIAS_OF_INPUT else f"base{info.base_idx}"
    )
    return f"replayed(infos[{k}], {base}, {symbols})"


def _constant(info: OutputAliasInfo, symbols: dict[str, Any]) -> Any:
    return info.constant.evaluate(symbols) if isinstance(info.constant, Expr) else info.constant


def _needs_symbols(meta: ViewAndMutationMeta, backward: BackwardProgram | None) -> bool:
    if backward is not None and backward.symbols:
        return True
    return any(
        isinstance(o.constant, Expr)
        or any(_has_expr(s.args) or _has_expr(tuple(s.kwargs.values())) for s in o.steps)
        for o in meta.output_info
    )


def _has_expr(item: Any) -> bool:
    if isinstance(item, tuple | list):
        return any(_has_expr(part) for part in item)
    return isinstance(item, Expr)


def _output(
    info: OutputAliasInfo,
    inputs: Sequence[Any],
    plain: Sequence[Any],
    bases: Sequence[Any],
    earlier: Sequence[Any],
    symbols: dict[str, Any],
) -> Any:
    """One user output, made from what the graph returned."""
    kind, number = info.output_type, info.base_idx
    if kind is OutputType.NON_ALIAS:
        assert info.graph_idx is not None
        return plain[info.graph_idx]
    if kind is OutputType.CONSTANT:
        return _constant(info, symbols)
    assert number is not None
    if kind is OutputType.IS_INPUT:
        return inputs[number]
    if kind is OutputType.SAME_OUTPUT:
        return earlier[number]
    base = inputs[number] if kind is OutputType.ALIAS_OF_INPUT else bases[number]
    return _replayed(info, base, symbols)


def _replayed(info: OutputAliasInfo, base: Tensor, symbols: dict[str, Any]) -> Tensor:
    """The view steps of ``info`` on ``base``, with the history that eager gives them."""

    def evaluated(item: Any) -> Any:
        return item.evaluate(symbols) if isinstance(item, Expr) else item

    if info.is_base:
        return base
    out: Any = base
    if not info.requires_grad and (base._requires_grad or not info.steps):
        out = out.detach()
    elif not info.steps:
        out = lookup("aten::alias")(base)
    for step in info.steps:
        kwargs = {k: map_values(v, evaluated) for k, v in step.kwargs.items()}
        out = step.op.call(out, *map_values(step.args, evaluated), **kwargs)
        if step.index is not None:
            out = out[step.index]
    result: Tensor = out
    return result
