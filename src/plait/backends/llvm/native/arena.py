"""Memory for the temporaries of one call: blocks from a free list shared by all entries.

    ptr plait_arena_take(i64 bytes)     aligned to 64
    void plait_arena_give(ptr)

A block is taken out of the list for the length of a call, so calls never share one.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.jit import address_of, new_module
from plait.backends.llvm.native.objects import Unit, load_units

__all__ = ["arena_functions"]

I64, POINTER, VOID = ir.IntType(64), ir.PointerType(), ir.VoidType()
SLOTS = 4
HEADER = 64
"""Bytes before a block; they hold its size."""


def _slot(builder: Any, number: int) -> Any:
    base = builder.module.globals["plait_arena_slots"]
    where = builder.gep(base, [I64(number)], source_etype=I64)
    where.type = I64.as_pointer()
    return where


def _define_take(module: Any, allocate: Any, free: Any) -> None:
    function = ir.Function(module, ir.FunctionType(POINTER, [I64]), "plait_arena_take")
    builder = ir.IRBuilder(function.append_basic_block())
    wanted = builder.and_(builder.add(function.args[0], I64(HEADER + 63)), I64(-64))
    for number in range(SLOTS):
        block = builder.atomic_rmw("xchg", _slot(builder, number), I64(0), "seq_cst")
        with builder.if_then(builder.icmp_unsigned("!=", block, I64(0))):
            held = builder.inttoptr(block, POINTER)
            fits = builder.icmp_unsigned(">=", builder.load(held, typ=I64), wanted)
            with builder.if_then(fits, likely=True):
                builder.ret(builder.gep(held, [I64(HEADER)], source_etype=ir.IntType(8)))
            builder.call(free, [held])
    fresh = builder.call(allocate, [I64(64), wanted])
    missing = builder.icmp_unsigned("==", builder.ptrtoint(fresh, I64), I64(0))
    with builder.if_then(missing, likely=False):
        builder.ret(fresh)
    builder.store(wanted, fresh)
    builder.ret(builder.gep(fresh, [I64(HEADER)], source_etype=ir.IntType(8)))


def _define_give(module: Any, free: Any) -> None:
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "plait_arena_give")
    builder = ir.IRBuilder(function.append_basic_block())
    held = builder.gep(function.args[0], [I64(-HEADER)], source_etype=ir.IntType(8))
    block = builder.ptrtoint(held, I64)
    for number in range(SLOTS):
        kept = builder.cmpxchg(_slot(builder, number), I64(0), block, "seq_cst", "seq_cst")
        with builder.if_then(builder.extract_value(kept, 1)):
            builder.ret_void()
    builder.call(free, [held])
    builder.ret_void()


def _build() -> Any:
    module = new_module("arena")
    table = ir.ArrayType(I64, SLOTS)
    slots = ir.GlobalVariable(module, table, "plait_arena_slots")
    slots.initializer, slots.linkage = ir.Constant(table, None), "internal"
    slots.type = POINTER
    allocate = ir.Function(module, ir.FunctionType(POINTER, [I64, I64]), "aligned_alloc")
    free = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "free")
    _define_take(module, allocate, free)
    _define_give(module, free)
    return module


@functools.cache
def arena_functions() -> dict[str, int]:
    """Addresses of the two functions."""
    library = ctypes.CDLL(None)
    imported = {name: address_of(getattr(library, name)) for name in ("aligned_alloc", "free")}
    names = ("plait_arena_take", "plait_arena_give")
    return load_units([Unit("the arena", "arena", names, _build, 0)], imported)
