"""Compiled equals eager on every sample program: outputs, gradients, aliasing, written inputs."""

from __future__ import annotations

import pytest

import plait
from plait.testing.programs import PROGRAMS, Program, check_program

BACKENDS = ["eager", "aot_eager", "llvm"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_static(p: Program, backend: str) -> None:
    compiled = plait.compile(p.fn, backend=backend, dynamic=False)
    check_program(p, compiled, 6)
    check_program(p, compiled, 6)
    assert len(compiled.entries) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_symbolic(p: Program, backend: str) -> None:
    compiled = plait.compile(p.fn, backend=backend, dynamic=True)
    for rows in (6, 9, 3):
        check_program(p, compiled, rows)
