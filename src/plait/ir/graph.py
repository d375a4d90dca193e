"""The graph IR: a flat list of typed calls of dispatcher operators.

A :class:`Graph` has inputs and outputs, each with a descriptor, and nodes in an order in which
every value is made before it is used. Nodes have typed fields and no free-form dictionary; an
operator with several results has several result values, so there are no projection nodes. Meaning:
see ``ir/interpret.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from plait.autograd.checkpoint import RecomputeTag
from plait.dispatch.operator import Overload
from plait.ir.descriptors import AOTInput, AOTOutput
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta

__all__ = ["Frame", "Graph", "IntType", "Node", "Value", "map_values", "values_in"]

Frame = tuple[str, int, str]  # file, line, function


class IntType:
    """The type of an integer value: ``expr`` is the symbol it binds (or the expression it has)."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def __repr__(self) -> str:
        return f"int[{self.expr}]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntType) and self.expr is other.expr

    def __hash__(self) -> int:
        return hash(self.expr)


class Value:
    """One value of a graph: an input (``producer`` None) or result ``index`` of a node."""

    __slots__ = ("desc", "index", "name", "producer", "requires_grad", "type")

    def __init__(
        self,
        name: str,
        type: TensorMeta | IntType,
        *,
        desc: AOTInput | None = None,
        producer: Node | None = None,
        index: int = 0,
        requires_grad: bool = False,
    ) -> None:
        self.name = name
        self.type = type
        self.desc = desc
        self.producer = producer
        self.index = index
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return self.name


class Node:
    """One call of an operator.

    ``args``/``kwargs`` follow the calling convention of kernels and nest tuples of Value, Expr,
    numbers, strings, dtypes, devices and None. ``source`` is the user's stack, innermost last.
    ``tag`` says what a checkpoint around the call asks of its results.
    """

    __slots__ = (
        "_inputs",
        "args",
        "grad_enabled",
        "kwargs",
        "op",
        "origin",
        "results",
        "seq",
        "source",
        "tag",
    )

    def __init__(
        self,
        op: Overload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        source: tuple[Frame, ...] = (),
        grad_enabled: bool = True,
        origin: str = "forward",
        seq: int = 0,
        tag: RecomputeTag | None = None,
    ) -> None:
        self.op = op
        self.args = args
        self.kwargs = kwargs
        self.results: tuple[Value, ...] = ()
        self._inputs: tuple[Value, ...] | None = None
        self.source = source
        self.grad_enabled = grad_enabled
        self.origin = origin
        self.seq = seq
        self.tag = tag

    def inputs(self) -> tuple[Value, ...]:
        """The values that the node reads, in order, with repetition.

        Found once: the arguments of a node never change; a pass that wants others makes a node.
        """
        if self._inputs is None:
            self._inputs = (
                *values_in(self.args),
                *values_in(tuple(self.kwargs.values())),
            )
        return self._inputs

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def __repr__(self) -> str:
        return f"{', '.join(v.name for v in self.results)} = {self.op.qualname}"


class Graph:
    """Inputs, nodes, outputs; ``output_descs`` is parallel to ``outputs``.

    An output is a Value, an Expr, or a Python constant. ``reusable`` are the inputs whose memory a
    backend may overwrite: input number -> the output that is to be put there (the new value of an
    input that the program writes), or None if any may (a donated input). Instead of an output that
    is put there, a backend returns the input itself; of a donated one, a new tensor over it.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Any] = []
        self.output_descs: list[AOTOutput] = []
        self.reusable: dict[int, int | None] = {}

    def symbol_sources(self) -> dict[str, tuple[int, int | None]]:
        """Where each symbol is read: (input position, dimension or None for an int input)."""
        sources: dict[str, tuple[int, int | None]] = {}
        for position, value in enumerate(self.inputs):
            if isinstance(value.type, IntType):
                sources.setdefault(str(value.type.expr), (position, None))
        for position, value in enumerate(self.inputs):
            if isinstance(value.type, TensorMeta):
                for dim, size in enumerate(value.type.shape):
                    if isinstance(size, Expr) and size.free_symbols and str(size) in _names(size):
                        sources.setdefault(str(size), (position, dim))
        return sources

    def unbacked_sources(self) -> dict[Value, list[tuple[str, int]]]:
        """Symbols that no input has: per value that a node makes, their names and dimensions."""
        known = set(self.symbol_sources())
        found: dict[Value, list[tuple[str, int]]] = {}
        for node in self.nodes:
            for value in node.results:
                if isinstance(value.type, TensorMeta):
                    for dim, size in enumerate(value.type.shape):
                        name = str(size)
                        if isinstance(size, Expr) and name not in known and name in _names(size):
                            known.add(name)
                            found.setdefault(value, []).append((name, dim))
        return found

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order, each once."""
        users: dict[Value, list[Node]] = {v: [] for v in self.inputs}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs()):
                users[value].append(node)
            for value in node.results:
                users[value] = []
        return users

    def print_io(self) -> str:
        """A table of inputs and outputs: name, type, descriptor and meaning."""
        from plait.ir.printer import io_table

        return io_table(self)

    def __str__(self) -> str:
        from plait.ir.printer import print_graph

        return print_graph(self)


def _names(expr: Expr) -> set[str]:
    return {str(s) for s in expr.free_symbols}


def values_in(item: Any) -> Iterator[Value]:
    """The values in a nested structure of tuples and lists."""
    if isinstance(item, Value):
        yield item
    elif isinstance(item, tuple | list):
        for part in item:
            yield from values_in(part)


def map_values(item: Any, fn: Callable[[Any], Any]) -> Any:
    """``fn`` over the leaves of a nested structure of tuples and lists; lists become tuples."""
    if isinstance(item, tuple | list):
        return tuple([map_values(part, fn) for part in item])
    return fn(item)
