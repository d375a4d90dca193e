"""One native entry per plan: a CPython builtin that runs all steps and returns fresh arrays.

    entry(*inputs) -> tuple[np.ndarray, ...]

Inputs are arrays and ints in the plan's order. The generated driver reads sizes and data pointers
from the array objects, allocates the outputs through NumPy's C API, takes temporaries from the
arena, runs the kernels in order (large ones over the pool) and lets go of the GIL while much work
is done. Everything lives on the stack of the call, so any number of threads may call one entry at
once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.native import pool, python_abi
from plait.backends.llvm.native.arena import arena_functions
from plait.backends.llvm.native.attention_code import (
    CompiledAttention,
    compile_attention,
    emit_form,
)
from plait.backends.llvm.native.blas import Blas, find_blas, thread_guards
from plait.backends.llvm.native.jit import assembly, new_module
from plait.backends.llvm.native.kernels import CompiledKernel, compile_kernels
from plait.backends.llvm.native.objects import Unit, load_units
from plait.backends.llvm.native.packed import packed_form
from plait.backends.llvm.native.packed_code import (
    CompiledPacked,
    compile_packed,
    emit_packed_modules,
)
from plait.backends.llvm.native.small import small_product
from plait.backends.llvm.native.small_code import CompiledProduct, compile_products, emit_product
from plait.backends.llvm.native.status import failure_handler
from plait.backends.llvm.native.tables import table_functions
from plait.backends.llvm.plan import Attention, Check, Gemm, KernelCall, Plan
from plait.backends.llvm.structure import plan_text
from plait.base.config import config
from plait.base.errors import InvalidArgument, check

__all__ = ["CompiledEntry", "build_entry"]

ENTRY = "plait_entry"
Code: TypeAlias = CompiledKernel | CompiledAttention | CompiledProduct | CompiledPacked | None
DRIVER_LEVEL = 0
"""A driver runs once a call: what it saves in optimising (6 ms) it never loses again."""


class CompiledEntry:
    """The native form of a plan; `call` is the builtin itself, which is what hot paths use."""

    __slots__ = ("_codes", "_level", "call", "plan")

    def __init__(
        self,
        plan: Plan,
        call: Callable[..., tuple[np.ndarray[Any, Any], ...]],
        codes: list[Code],
        level: int,
    ) -> None:
        self.plan = plan
        self.call = call
        self._codes = codes
        self._level = level

    def listing(self, kind: str) -> str:
        """What was generated, built anew: kind "llvm" (as emitted) or "asm" (machine code).

        Kernels come first, each once, under their canonical names, then the driver.
        """
        check(
            kind in ("llvm", "asm"),
            InvalidArgument,
            lambda: f"listing: argument 'kind' is {kind!r}; expected 'llvm' or 'asm'.",
        )
        from plait.backends.llvm.native.emit import emit_kernel

        kernels = new_module("kernels")
        for step, code in zip(self.plan.steps, self._codes):
            if isinstance(code, CompiledKernel) and code.name not in kernels.globals:
                assert isinstance(step, KernelCall)
                emit_kernel(kernels, step.kernel, code.name)
        texts = [
            emit_form(step.form, code.name)
            for step, code in zip(self.plan.steps, self._codes)
            if isinstance(step, Attention) and isinstance(code, CompiledAttention)
        ]
        products = {c.name: c.product for c in self._codes if isinstance(c, CompiledProduct)}
        texts += [emit_product(product, name) for name, product in products.items()]
        texts += emit_packed_modules(c for c in self._codes if isinstance(c, CompiledPacked))
        driver = _emit(self.plan, self._codes, find_blas())
        if kind == "llvm":
            return "\n".join(map(str, (kernels, *texts, driver)))
        machine = [assembly(module, config.opt_level) for module in (kernels, *texts)]
        return "".join((*machine, assembly(driver, self._level)))

    def __call__(self, *inputs: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Run the plan on arrays and ints in the order of its inputs; returns its outputs."""
        return self.call(*inputs)


def build_entry(plan: Plan, raise_check: Callable[[Check], Any]) -> CompiledEntry:
    """Compile a plan. A failed run-time check calls `raise_check`, whose exception the caller
    gets.
    """
    codes = _codes(plan)
    has_products = any(
        isinstance(step, Gemm) and code is None for step, code in zip(plan.steps, codes)
    )
    blas = find_blas() if has_products else None
    imports = {
        **python_abi.imports(),
        **arena_functions(),
        "plait_parallel_for": pool.parallel_for_address(),
        **(table_functions() if plan.is_tabled else {}),
    }
    for found in codes:
        imports |= found.addresses if found is not None else {}
    if has_products:
        imports |= thread_guards()
    if blas is not None:
        imports |= {f"plait_gemm_{dtype}": address for dtype, address in blas.gemm.items()}
        imports |= {f"plait_gemv_{dtype}": address for dtype, address in blas.gemv.items()}
    level = DRIVER_LEVEL if blas is not None or not has_products else 2
    emit = functools.partial(_emit, plan, codes, blas)
    code = plan_text(plan, _names(plan, codes))
    unit = Unit(f"driver {plan.name}", code, (ENTRY,), emit, level, _facts(blas))
    address = load_units([unit], imports)[ENTRY]
    call = python_abi.make_builtin(plan.name, address, failure_handler(plan, raise_check))
    return CompiledEntry(plan, call, codes, level)


def _codes(plan: Plan) -> list[Code]:
    """The code of every step; matrix products that are not small are part of the driver."""
    kernels = [step.kernel for step in plan.steps if isinstance(step, KernelCall)]
    forms = [step.form for step in plan.steps if isinstance(step, Attention)]
    small = [small_product(step) for step in plan.steps]
    compiled, attended = iter(compile_kernels(kernels)), iter(compile_attention(forms))
    products = iter(compile_products([product for product in small if product is not None]))
    codes: list[Code] = []
    for step, product in zip(plan.steps, small):
        if isinstance(step, KernelCall):
            codes.append(next(compiled))
        elif isinstance(step, Attention):
            codes.append(next(attended))
        else:
            form = packed_form(step)
            made = None if form is None else compile_packed(form)
            codes.append(next(products) if product is not None else made)
    return codes


def _emit(plan: Plan, codes: list[Code], blas: Blas | None) -> Any:
    from plait.backends.llvm.native.driver import Driver  # not loaded where all code is found

    module = new_module(plan.name)
    Driver(module, plan, codes, blas).emit(ENTRY)
    return module


def _names(plan: Plan, codes: list[Code]) -> Callable[[Kernel], str]:
    """From the kernels of a plan to the names of their code."""
    known = {
        id(step.kernel): code.name
        for step, code in zip(plan.steps, codes)
        if isinstance(step, KernelCall) and isinstance(code, CompiledKernel)
    }
    return lambda kernel: known[id(kernel)]


def _facts(blas: Blas | None) -> dict[str, object]:
    """What drivers depend on beside the plan: the interpreter's, NumPy's and the BLAS's ABI."""
    products = None if blas is None else (blas.integer_bits, sorted(blas.gemm), sorted(blas.gemv))
    return {"python": python_abi.identity(), "blas": products}
