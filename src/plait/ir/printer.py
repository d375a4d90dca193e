"""Printing graphs: the output runs as Python, with types and sources as comments."""

from __future__ import annotations

from typing import Any

from plait.ir.graph import Graph, IntType, Node, Value
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta, contiguous_strides

__all__ = ["io_table", "print_graph", "type_text"]


def type_text(type: TensorMeta | IntType) -> str:
    """``f32[2, s0]``, with strides if they are not contiguous."""
    if isinstance(type, IntType):
        return repr(type)
    shape = ", ".join(str(s) for s in type.shape)
    text = f"{type.dtype.name}[{shape}]"
    if type.strides is not None and tuple(type.strides) != tuple(contiguous_strides(type.shape)):
        text += f" strides ({', '.join(str(s) for s in type.strides)})"
    return text


def argument_text(item: Any) -> str:
    """One argument as Python source."""
    if isinstance(item, Value):
        return item.name
    if isinstance(item, Expr):
        return str(item)
    if isinstance(item, tuple | list):
        inner = ", ".join(argument_text(part) for part in item)
        return f"({inner},)" if len(item) == 1 else f"({inner})"
    if isinstance(item, float):
        return repr(item) if item == item and abs(item) != float("inf") else f"float('{item}')"
    if isinstance(item, bool | int | str) or item is None:
        return repr(item)
    return f"plait.{getattr(item, 'name', item)}" if hasattr(item, "itemsize") else repr(str(item))


def node_text(node: Node) -> str:
    """One node as an assignment."""
    arguments = [argument_text(a) for a in node.args]
    arguments += [f"{k}={argument_text(v)}" for k, v in node.kwargs.items()]
    schema = node.op.schema
    path = f"plait.ops.{schema.namespace}.{schema.name}.{schema.overload or 'default'}"
    called = f"{path}({', '.join(arguments)})"
    targets = ", ".join(v.name for v in node.results)
    return f"{targets} = {called}" if targets else called


def print_graph(graph: Graph) -> str:
    """The graph as a Python function."""
    lines = [f"def {graph.name}({', '.join(v.name for v in graph.inputs)}):"]
    for value in graph.inputs:
        lines.append(f"    # {value.name}: {type_text(value.type)}  {value.desc}")
    place = None
    for node in graph.nodes:
        if node.source and node.source[-1] != place:
            place = node.source[-1]
            lines.append(f"    # {place[0]}:{place[1]} in {place[2]}")
        types = ", ".join(type_text(v.type) for v in node.results)
        mark = "" if node.origin == "forward" else f"  [{node.origin}]"
        lines.append(f"    {node_text(node)}  # {types}{mark}")
    outputs = ", ".join(argument_text(v) for v in graph.outputs)
    trailing = "," if len(graph.outputs) == 1 else ""
    lines.append(f"    return ({outputs}{trailing})")
    return "\n".join(lines)


def io_table(graph: Graph) -> str:
    """Inputs and outputs with type, descriptor and meaning, one line each, in columns."""
    rows = [("", "name", "type", "descriptor", "meaning")]
    for value in graph.inputs:
        desc = value.desc
        rows.append(
            ("in", value.name, type_text(value.type), str(desc), desc.expr() if desc else "")
        )
    for output, out_desc in zip(graph.outputs, graph.output_descs, strict=True):
        type_ = type_text(output.type) if isinstance(output, Value) else "constant"
        rows.append(("out", argument_text(output), type_, str(out_desc), out_desc.expr()))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
