"""Threads and forks: nothing is shared between calls."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np

import plait


def work(x: Any, w: Any) -> Any:
    return plait.softmax(plait.gelu(x @ w) + 1.0, -1)


def test_two_threads_call_one_compiled_function() -> None:
    compiled = plait.compile(work)
    rng = np.random.default_rng(0)
    inputs = [
        (
            plait.tensor(rng.standard_normal((128, 64)).astype("f")),
            plait.tensor(rng.standard_normal((64, 96)).astype("f")),
        )
        for _ in range(4)
    ]
    expected = [work(*pair).numpy() for pair in inputs]
    failures: list[str] = []

    def run(k: int) -> None:
        for _ in range(20):
            got = compiled(*inputs[k]).numpy()
            if not np.allclose(got, expected[k], rtol=1e-5, atol=1e-6):
                failures.append(f"thread {k}")

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(compiled.entries) == 1


FORKS = """
import os
import numpy as np
import plait
from plait.base import log

def work(x, w):
    return plait.softmax(plait.gelu(x @ w) + 1.0, -1)

compiled = plait.compile(work)
x, w = plait.ones(512, 64), plait.ones(64, 512)
expected = compiled(x, w).numpy()
child = os.fork()
if child == 0:
    same = np.array_equal(compiled(x, w).numpy(), expected)
    other = plait.compile(lambda x: (x * 3.0).sum())(plait.ones(5))
    grandchild = os.fork()
    if grandchild == 0:
        same = same and np.array_equal(compiled(x, w).numpy(), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(grandchild, 0)
    same = same and os.waitstatus_to_exitcode(status) == 0
    os._exit(0 if same and float(other) == 15.0 else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert np.array_equal(compiled(x, w).numpy(), expected)
assert not log.events("fallback")
"""


def test_threads_that_need_the_backward_first_compile_it_once() -> None:
    compiled = plait.compile(lambda x: (x.exp() * x).sum())
    start = threading.Barrier(4)
    found: list[Any] = []

    def in_thread() -> None:
        x = plait.ones(16, requires_grad=True)
        loss = compiled(x)
        start.wait()
        loss.backward()
        found.append(x.grad)

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = [2 * np.e] * 16
    assert len(found) == 4 and all(np.allclose(g.numpy(), want) for g in found)
    assert len(compiled.entries[0].segments[0].compiled.backward_compiled) == 1


def test_a_forked_child_goes_on_using_it() -> None:
    """In a process with no other library's fork hooks: JAX for one complains of every fork."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
