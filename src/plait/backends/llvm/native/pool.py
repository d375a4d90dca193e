"""Worker threads inside native code, and the parallel-for that generated code calls.

    void plait_parallel_for(ptr function, ptr a, ptr b, ptr c, i64 items, i64 grain)

calls `function(a, b, c, begin, end)` (the signature of kernels) over ranges of `grain` items
until all are done. Ranges are taken from an atomic counter, by the caller too, so nobody waits
for a thread that has not started. One parallel-for runs at a time: a second caller runs its items
alone. Everything is LLVM IR over one block of state; threads spin briefly, then sleep in a futex.

Note [Joining]: `door` counts the workers inside a job in its low bits and holds OPEN. A worker adds
itself first and looks at OPEN in the same atomic step, so once the caller has cleared OPEN and
seen the count fall to zero, no worker reads the job any more. `epoch` changes with each job; a
worker serves each once.

Owns the threads of the process; must not know what they run.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.jit import address_of, new_module
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.target import host
from plait.base import log
from plait.base.config import config
from plait.base.errors import InvalidArgument, check

__all__ = ["missing_primitives", "num_threads", "parallel_for_address", "set_num_threads"]

I32, I64, POINTER = ir.IntType(32), ir.IntType(64), ir.PointerType()
VOID = ir.VoidType()

# Fields of the state: byte offsets; those written by different threads lie on different cache
# lines.
LOCK, DOOR, EPOCH, SLEEPERS, NEXT, WORKERS, STOP = 0, 64, 128, 192, 256, 320, 324
FUNCTION, FIRST, SECOND, THIRD, ITEMS, GRAIN = 384, 392, 400, 408, 416, 424
STATE_BYTES = 512

OPEN = 1 << 32
SPINS = 6000
"""Rounds of waiting before a worker sleeps, about 150 microseconds: longer than the serial kernels
that stand between the parallel ones of a training step, since waking it costs 50 or more."""
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # private to the process
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}


class _State:
    """Emits loads, stores and atomic operations on fields of the state block."""

    def __init__(self, builder: Any, base: Any) -> None:
        self.builder = builder
        self.base = base

    def at(self, field: int, kind: Any = I32) -> Any:
        """Address of a field; llvmlite's atomic operations want to know what it points to."""
        where = self.builder.gep(self.base, [I64(field)], source_etype=ir.IntType(8))
        where.type = kind.as_pointer()
        return where

    def load(self, field: int, kind: Any, order: str = "seq_cst") -> Any:
        size = 8 if kind is not I32 else 4
        return self.builder.load_atomic(self.at(field, kind), order, size, typ=kind)

    def plain(self, field: int, kind: Any) -> Any:
        return self.builder.load(self.at(field, kind), typ=kind)

    def store(self, field: int, value: Any) -> None:
        size = 4 if value.type is I32 else 8
        self.builder.store_atomic(value, self.at(field, value.type), "seq_cst", size)

    def set(self, field: int, value: Any) -> None:
        self.builder.store(value, self.at(field, value.type))

    def update(self, field: int, operation: str, value: Any) -> Any:
        """Atomic read-modify-write; the value before."""
        return self.builder.atomic_rmw(operation, self.at(field, value.type), value, "seq_cst")


def _pause(builder: Any) -> None:
    """Tell the processor that this is a waiting loop."""
    kind = ir.FunctionType(VOID, [])
    if host().is_x86:
        builder.call(_declare(builder.module, "llvm.x86.sse2.pause", kind), [])
    else:
        builder.asm(kind, "yield", "", [], side_effect=True)


def _declare(module: Any, name: str, kind: Any) -> Any:
    return module.globals.get(name) or ir.Function(module, kind, name)


def _futex(builder: Any, word: Any, operation: int, value: Any) -> None:
    number = _FUTEX_NUMBERS[host().triple.split("-")[0]]
    kind = ir.FunctionType(I64, [I64, POINTER, I64, I64, POINTER])
    syscall = _declare(builder.module, "syscall", kind)
    wide = builder.zext(value, I64)
    nothing = ir.Constant(POINTER, None)
    builder.call(syscall, [I64(number), word, I64(operation), wide, nothing])


def _define_chunks(module: Any) -> Any:
    """void plait_chunks(ptr state): take ranges and run them until none is left."""
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "plait_chunks")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    state = _State(builder, function.args[0])
    work = state.plain(FUNCTION, POINTER)
    args = [state.plain(field, POINTER) for field in (FIRST, SECOND, THIRD)]
    items, grain = state.plain(ITEMS, I64), state.plain(GRAIN, I64)
    take, run, done = (function.append_basic_block(n) for n in ("take", "run", "done"))
    builder.branch(take)
    builder.position_at_end(take)
    begin = state.update(NEXT, "add", grain)
    builder.cbranch(builder.icmp_signed("<", begin, items), run, done)
    builder.position_at_end(run)
    end = builder.add(begin, grain)
    end = builder.select(builder.icmp_signed("<", end, items), end, items)
    _call_range(builder, work, [*args, begin, end])
    builder.branch(take)
    builder.position_at_end(done)
    builder.ret_void()
    return function


def _call_range(builder: Any, work: Any, args: list[Any]) -> None:
    kind = ir.FunctionType(VOID, [POINTER, POINTER, POINTER, I64, I64])
    builder.call(called_as(work, kind), args)


def called_as(pointer: Any, kind: Any) -> Any:
    """A pointer value as something that llvmlite lets one call."""
    return _Callee(pointer, kind)


class _Callee:
    """A pointer with the function type to call it by."""

    def __init__(self, pointer: Any, kind: Any) -> None:
        self.type = kind.as_pointer()
        self.function_type = kind
        self.get_reference = pointer.get_reference


def _define_worker(module: Any, chunks: Any) -> None:
    """ptr plait_worker(ptr state): serve each job once, until told to stop."""
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "plait_worker")
    builder = ir.IRBuilder(function.append_basic_block())
    state = _State(builder, function.args[0])
    first = state.load(EPOCH, I32)
    wait, look, idle, sleep, serve, join, leave, stopped = (
        function.append_basic_block(n)
        for n in ("wait", "look", "idle", "sleep", "serve", "join", "leave", "stopped")
    )
    start = builder.block
    builder.branch(wait)
    builder.position_at_end(wait)
    served, spins = builder.phi(I32), builder.phi(I32)
    served.add_incoming(first, start)
    spins.add_incoming(I32(0), start)
    builder.branch(look)
    builder.position_at_end(look)
    builder.cbranch(builder.icmp_signed("!=", state.load(STOP, I32), I32(0)), stopped, idle)
    builder.position_at_end(idle)
    epoch = state.load(EPOCH, I32)
    again = builder.append_basic_block("again")
    builder.cbranch(builder.icmp_signed("!=", epoch, served), serve, again)
    builder.position_at_end(again)
    _pause(builder)
    more = builder.add(spins, I32(1))
    served.add_incoming(served, again)
    spins.add_incoming(more, again)
    builder.cbranch(builder.icmp_signed("<", more, I32(SPINS)), wait, sleep)
    builder.position_at_end(sleep)
    state.update(SLEEPERS, "add", I32(1))
    _futex(builder, state.at(EPOCH), FUTEX_WAIT, served)
    state.update(SLEEPERS, "sub", I32(1))
    served.add_incoming(served, sleep)
    spins.add_incoming(I32(0), sleep)
    builder.branch(wait)
    builder.position_at_end(serve)
    door = state.update(DOOR, "add", I64(1))
    is_open = builder.icmp_signed("!=", builder.and_(door, I64(OPEN)), I64(0))
    builder.cbranch(is_open, join, leave)
    builder.position_at_end(join)
    builder.call(chunks, [function.args[0]])
    builder.branch(leave)
    builder.position_at_end(leave)
    state.update(DOOR, "sub", I64(1))
    served.add_incoming(epoch, leave)
    spins.add_incoming(I32(0), leave)
    builder.branch(wait)
    builder.position_at_end(stopped)
    builder.ret(ir.Constant(POINTER, None))


def _define_parallel_for(module: Any, chunks: Any) -> None:
    kind = ir.FunctionType(VOID, [POINTER] * 4 + [I64, I64])
    function = ir.Function(module, kind, "plait_parallel_for")
    work, *args, items, grain = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    state = _State(builder, module.globals["plait_pool_state"])
    alone, try_lock, shared = (function.append_basic_block(n) for n in ("alone", "lock", "shared"))
    small = builder.icmp_signed("<=", items, grain)
    nobody = builder.icmp_signed("==", state.plain(WORKERS, I32), I32(0))
    builder.cbranch(builder.or_(small, nobody), alone, try_lock)
    builder.position_at_end(try_lock)
    taken = builder.cmpxchg(state.at(LOCK), I32(0), I32(1), "seq_cst", "seq_cst")
    builder.cbranch(builder.extract_value(taken, 1), shared, alone)
    builder.position_at_end(alone)
    _call_range(builder, work, [*args, I64(0), items])
    builder.ret_void()
    builder.position_at_end(shared)
    for field, value in zip((FUNCTION, FIRST, SECOND, THIRD, ITEMS, GRAIN), function.args):
        state.set(field, value)
    state.store(NEXT, I64(0))
    state.update(DOOR, "or", I64(OPEN))
    _announce(state)
    builder.call(chunks, [state.base])
    state.update(DOOR, "and", I64(~OPEN))
    _await_empty(state)
    state.store(LOCK, I32(0))
    builder.ret_void()


def _announce(state: _State) -> None:
    """Let spinning workers see a new epoch, and wake the sleeping ones."""
    builder = state.builder
    state.update(EPOCH, "add", I32(1))
    asleep = builder.icmp_signed("!=", state.load(SLEEPERS, I32), I32(0))
    with builder.if_then(asleep):
        _futex(builder, state.at(EPOCH), FUTEX_WAKE, I32(0x7FFFFFFF))


def _await_empty(state: _State) -> None:
    """Wait until no worker is inside the job; yield the processor when that takes long."""
    builder = state.builder
    before = builder.block
    wait, pause, done = (builder.append_basic_block(n) for n in ("wait", "pause", "done"))
    builder.branch(wait)
    builder.position_at_end(wait)
    rounds = builder.phi(I32)
    rounds.add_incoming(I32(0), before)
    inside = builder.trunc(state.load(DOOR, I64), I32)
    builder.cbranch(builder.icmp_signed("==", inside, I32(0)), done, pause)
    builder.position_at_end(pause)
    _pause(builder)
    with builder.if_then(builder.icmp_signed("==", builder.and_(rounds, I32(8191)), I32(8191))):
        yield_now = _declare(builder.module, "sched_yield", ir.FunctionType(I32, []))
        builder.call(yield_now, [])
    rounds.add_incoming(builder.add(rounds, I32(1)), builder.block)
    builder.branch(wait)
    builder.position_at_end(done)


def _define_stop(module: Any) -> None:
    """void plait_pool_stop(): tell all workers to end."""
    function = ir.Function(module, ir.FunctionType(VOID, []), "plait_pool_stop")
    builder = ir.IRBuilder(function.append_basic_block())
    state = _State(builder, module.globals["plait_pool_state"])
    state.store(STOP, I32(1))
    _announce(state)
    builder.ret_void()


def _build_module() -> Any:
    module = new_module("pool")
    block = ir.ArrayType(ir.IntType(8), STATE_BYTES)
    state = ir.GlobalVariable(module, block, "plait_pool_state")
    state.initializer = ir.Constant(block, None)
    state.align = 64
    state.type = POINTER  # llvmlite would keep the type of what it points to
    chunks = _define_chunks(module)
    _define_worker(module, chunks)
    _define_parallel_for(module, chunks)
    _define_stop(module)
    return module


class _Pool:
    """The threads of the process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.addresses: dict[str, int] = {}
        self.threads: list[Any] = []
        self.count = 0
        """Threads wanted, the caller's included; 0 before the first use."""

    def code(self) -> dict[str, int]:
        """Addresses of the native functions and of the state."""
        if not self.addresses:
            library = ctypes.CDLL(None)
            imports = {
                name: address_of(getattr(library, name))
                for name in ("syscall", "sched_yield")
                if hasattr(library, name)
            }
            names = (
                "plait_parallel_for", "plait_worker", "plait_pool_stop", "plait_pool_state"
            )  # fmt: skip
            unit = Unit("the thread pool", "pool", names, _build_module, 0)
            self.addresses = load_units([unit], imports)
        return self.addresses

    def resize(self, count: int) -> None:
        """Have `count` threads, the caller's included."""
        with self.lock:
            if count != self.count:
                self.code()
                self.stop()
                self.count = count
                for _ in range(count - 1):
                    self._start_one()
                self._field(WORKERS).value = len(self.threads)

    def stop(self) -> None:
        """End all workers and wait for them."""
        with self.lock:
            if self.threads:
                self._field(WORKERS).value = 0
                ctypes.CFUNCTYPE(None)(self.addresses["plait_pool_stop"])()
                for thread in self.threads:
                    ctypes.CDLL(None).pthread_join(thread, None)
            self.threads.clear()
            self.count = 0
            if self.addresses:
                self._field(STOP).value = 0

    def forget(self) -> None:
        """In a forked child: the threads are gone, whatever the state says."""
        self.lock = threading.RLock()
        count, self.count = self.count, 0
        self.threads.clear()
        if self.addresses:
            ctypes.memset(self.addresses["plait_pool_state"], 0, STATE_BYTES)
        if count > 1:
            self.resize(count)

    def _field(self, offset: int) -> ctypes.c_int32:
        return ctypes.c_int32.from_address(self.addresses["plait_pool_state"] + offset)

    def _start_one(self) -> None:
        """Create a worker with all signals blocked, so that Python's handlers run elsewhere."""
        thread = ctypes.c_void_p()
        create = ctypes.CDLL(None).pthread_create
        with _signals_blocked():
            failed = create(
                ctypes.byref(thread),
                None,
                ctypes.c_void_p(self.addresses["plait_worker"]),
                ctypes.c_void_p(self.addresses["plait_pool_state"]),
            )
        if failed:
            log.record("threads", "a worker thread could not be created", error=failed)
        else:
            self.threads.append(thread)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_pool = _Pool()
atexit.register(_pool.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def missing_primitives() -> str | None:
    """Why this platform cannot have worker threads, or None."""
    if not sys.platform.startswith("linux"):
        return f"platform {sys.platform} has no futex"
    if host().triple.split("-")[0] not in _FUTEX_NUMBERS:
        return f"no futex call number is known for {host().triple}"
    return None


def set_num_threads(count: int) -> None:
    """Use `count` threads for compiled code from now on, the calling one included."""
    check(
        count >= 1,
        InvalidArgument,
        lambda: f"set_num_threads: argument 'count' is {count}; expected at least 1.",
    )
    config.num_threads = count
    reason = missing_primitives() if count > 1 else None
    if reason is not None:
        log.record("threads", f"one thread only: {reason}")
        count = 1
    _pool.resize(count)


def num_threads() -> int:
    """Threads that compiled code uses."""
    return _pool.count or config.num_threads


def parallel_for_address() -> int:
    """Address of `plait_parallel_for`; starts the workers at first use."""
    if _pool.count == 0:
        set_num_threads(config.num_threads)
    return _pool.code()["plait_parallel_for"]
