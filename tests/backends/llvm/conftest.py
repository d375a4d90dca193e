import importlib
import pkgutil

import numpy as np
import pytest

import plait.ops as ops
from plait.backends.llvm.compiler import compile_graph
from plait.base.config import config
from plait.ir.builder import GraphBuilder
from plait.ir.descriptors import PlainAOTInput, PlainAOTOutput
from plait.ir.graph import Graph, Value
from plait.tensor.dtype import from_numpy as dtype_of
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, from_numpy

for family in pkgutil.iter_modules(ops.__path__):
    importlib.import_module(f"plait.ops.{family.name}")


class Maker:
    """Builds a graph by hand: `m.input(array)`, `m(op, ...)`, `m.run(outputs)`."""

    def __init__(self):
        self.builder = GraphBuilder("test")
        self.arrays = []

    def input(self, array):
        meta = TensorMeta(
            array.shape,
            dtype_of(array.dtype),
            strides=[s // array.itemsize for s in array.strides],
        )
        position = len(self.arrays)
        self.arrays.append(array)
        return self.builder.input(meta, PlainAOTInput(position), name=f"x{position}")

    def __call__(self, op, *args, **kwargs):
        node = self.builder.infer(op, *args, **kwargs)
        return node.result if len(node.results) == 1 else node.results

    def graph(self, *outputs) -> Graph:
        for position, value in enumerate(outputs):
            self.builder.output(value, PlainAOTOutput(position))
        return self.builder.graph

    def compile(self, *outputs, execute="interpret"):
        return compile_graph(self.graph(*outputs), {"execute": execute})

    def run(self, *outputs, execute="interpret"):
        """(compiled graph, output arrays)."""
        compiled = self.compile(*outputs, execute=execute)
        results = compiled(*map(from_numpy, self.arrays))
        return compiled, [r.numpy() if isinstance(r, Tensor) else r for r in results]


def call_graph(op, args, kwargs):
    """A graph of one call whose tensors are inputs; (maker, results)."""
    maker = Maker()

    def value(item):
        if isinstance(item, np.ndarray):
            return maker.input(item)
        if isinstance(item, list | tuple):
            return tuple(value(part) for part in item)
        return item

    results = maker(op, *map(value, args), **kwargs)
    return maker, results if not isinstance(results, Value) else (results,)


@pytest.fixture(autouse=True)
def _verified():
    with config.override(verify=True):
        yield


@pytest.fixture
def maker():
    return Maker()


@pytest.fixture
def one_call():
    return call_graph


@pytest.fixture
def rng():
    return np.random.default_rng(0)
