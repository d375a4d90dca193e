"""What happens once: importing, tracing and the first compile. Each is measured in fresh processes.

A program prints one number, seconds (or seconds per operator).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["WORKS", "Start"]

UNIT = "ms"

_IMPORT = """
import time, numpy
start = time.perf_counter()
import {package}
print(time.perf_counter() - start)
"""

_FIRST_CALL = """
import time
whole = time.perf_counter()
import numpy as np
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import kernels
system = SYSTEMS[{system!r}]({threads})
{warm}
start = {start}
kernels.prepare(system, "layer norm + GELU")()
print(time.perf_counter() - start)
"""

# The first call holds everything: capture, the joint graph, lowering, LLVM or the cache, the run.
_MODEL = """
import time
whole = time.perf_counter()
import numpy as np
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import {model}
system = SYSTEMS[{system!r}]({threads})
run = {model}.prepare(system)
start = {start}
found = run()
seconds = time.perf_counter() - start
assert {model}.check(system, found) < {allowed}, {model}.check(system, found)
print(seconds)
"""

# Compiling something else first loads what the compiler needs and nothing of the work.
_WARM = "system.compile(lambda x: x * 2 + 1)(system.tensor(np.ones(4, np.float32)))"

# Chains of two lengths: the difference leaves out what does not depend on the length.
_TRACING = """
import time
import numpy as np
import {package} as ns
x = ns.from_numpy(np.ones(4, np.float32)).requires_grad_()
def chain(length):
    def body(x):
        for _ in range(length // 4):
            x = ns.tanh(x * 1.01 + 0.5) - x
        return x.sum()
    return body
forget = __import__("torch._dynamo")._dynamo.reset if ns.__name__ == "torch" else lambda: None
def once(length):
    forget()  # PyTorch would answer with what it compiled for the same code before
    compiled = ns.compile(chain(length), backend="aot_eager", fullgraph=True)
    start = time.perf_counter()
    compiled(x).backward()
    return time.perf_counter() - start
once(8)
short, long = min(once(40) for _ in range(3)), min(once(200) for _ in range(3))
print((long - short) / 160)
"""


class Start(NamedTuple):
    """A program, and the systems for which it makes sense."""

    program: str
    systems: tuple[str, ...]
    keeps_cache: bool = False
    """Whether the caches on disk that one run has filled are there for the next ones."""
    slow: tuple[str, ...] = ()
    """Systems that take many seconds: measured only with --slow."""


def _first_call(warm: str, start: str) -> Start:
    program = _FIRST_CALL.replace("{warm}", warm).replace("{start}", start)
    return Start(program, ("plait_compiled", "torch_inductor", "jax"))


def _gpt(start: str, keeps_cache: bool) -> Start:
    systems = ("plait_compiled", "torch_inductor")
    return Start(_model("gpt", start, 1e-3), systems, keeps_cache, ("torch_inductor",))


def _text(start: str, keeps_cache: bool) -> Start:
    return Start(_model("text", start, 0.1), ("plait_compiled",), keeps_cache)


def _model(name: str, start: str, allowed: float) -> str:
    program = _MODEL.replace("{model}", name).replace("{start}", start)
    return program.replace("{allowed}", str(allowed))


_NOW = "time.perf_counter()"
WORKS = {
    "import": Start(_IMPORT, ("plait_eager", "torch_eager", "jax")),
    "first compile, cold process": _first_call("", "whole"),
    "first compile, compiler loaded": _first_call(_WARM, _NOW),
    "GPT first call, no cache": _gpt(_NOW, keeps_cache=False),
    "GPT first call, from cache": _gpt(_NOW, keeps_cache=True),
    "GPT whole process, from cache": _gpt("whole", keeps_cache=True),
    "text model first step, no cache": _text(_NOW, keeps_cache=False),
    "text model first step, from cache": _text(_NOW, keeps_cache=True),
    "text model whole process, from cache": _text("whole", keeps_cache=True),
    "tracing, per operator": Start(_TRACING, ("plait_compiled", "torch_inductor")),
}
