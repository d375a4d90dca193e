"""The machine that native code is made for: LLVM's target, its features and the SIMD width to use.

Owns the target machine objects of the process; must not know kernels or plans.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from plait.base.config import config

__all__ = ["Host", "host", "machine"]


class Host(NamedTuple):
    """What identifies native code: part of every cache key."""

    triple: str
    cpu: str
    features: str
    vector_bits: int
    """Width of the vectors that kernels use: 512, 256 or 128."""
    llvm_version: tuple[int, ...]

    @property
    def is_x86(self) -> bool:
        """Whether x86 intrinsics may be used."""
        return self.triple.startswith("x86_64")

    @property
    def converts_halves(self) -> bool:
        """Whether there are instructions between float16 and float32."""
        return "+f16c" in self.features.split(",") if self.is_x86 else "aarch64" in self.triple


@functools.cache
def _initialised() -> bool:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return True


def _widest(features: Any) -> int:
    if features.get("avx512f") and features.get("avx512vl") and features.get("avx512dq"):
        return 512
    return 256 if features.get("avx2") else 128


@functools.cache
def _host(vector_bits: int) -> Host:
    _initialised()
    features = llvm.get_host_cpu_features()
    width = vector_bits or _widest(features)
    # Some processors' tuning halves wide vectors unless told not to.
    wide = ",-prefer-256-bit" if features.get("avx512f") and width == 512 else ""
    return Host(
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        features.flatten() + wide,
        width,
        tuple(llvm.llvm_version_info),
    )


def host() -> Host:
    """The machine of this process, with `config.vector_bits` applied."""
    return _host(config.vector_bits)


@functools.cache
def machine(level: int = 3) -> Any:
    """LLVM target machine of the host at an optimisation level of code generation (0 to 3)."""
    here = host()
    target = llvm.Target.from_triple(here.triple)
    return target.create_target_machine(
        cpu=here.cpu, features=here.features, opt=level, reloc="pic", codemodel="small"
    )
