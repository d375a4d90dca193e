"""What happens once: importing, tracing and the first compile. Each is measured in fresh processes.

A program prints one number, seconds (or seconds per operator).
"""

from __future__ import annotations

__all__ = ["WORKS"]

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

# work -> (program, systems it makes sense for, text of what it is)
WORKS = {
    "import": (_IMPORT, ("plait_eager", "torch_eager", "jax")),
    "first compile, cold process": (
        _FIRST_CALL.replace("{warm}", "").replace("{start}", "whole"),
        ("plait_compiled", "torch_inductor", "jax"),
    ),
    "first compile, compiler loaded": (
        _FIRST_CALL.replace("{warm}", _WARM).replace("{start}", "time.perf_counter()"),
        ("plait_compiled", "torch_inductor", "jax"),
    ),
    "tracing, per operator": (_TRACING, ("plait_compiled", "torch_inductor")),
}
