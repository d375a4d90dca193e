"""Every sample program with wrappers for tensors: compiled against eager, gradients and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import plait
from plait.base import log
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper_recipe import pieces_of
from plait.testing.programs import PROGRAMS, Program
from plait.testing.two_tensor import TwoTensor

RUNS_EAGERLY = {  # aliases and writes that a tape above wrappers would have to follow
    "output_views_input",
    "two_views_of_one_intermediate",
    "view_and_its_base",
    "base_after_its_view",
    "detached_beside",
    "written_under_no_grad",
}


def arguments(program: Program, wrapped: str) -> list[Any]:
    """Fresh arguments; ``wrapped`` says which tensors become wrappers: "all" or "first"."""
    made: list[Any] = []
    for number, value in enumerate(program.inputs(3)):
        if not isinstance(value, Tensor):
            made.append(value)
            continue
        plain = value.detach().clone()
        is_wrapped = value.dtype.is_floating and (wrapped == "all" or number == 0)
        tensor = TwoTensor(plain, plain * 0.5 + 0.1) if is_wrapped else plain
        made.append(tensor.requires_grad_() if value.requires_grad else tensor)
    return made


def run(call: Callable[..., Any], args: list[Any]) -> list[Any]:
    """Leaves of the result, gradients and arguments after a call and a backward."""
    plait.manual_seed(0)
    leaves = optree.tree_leaves(call(*args), none_is_leaf=True)
    roots = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad and t.grad_fn]
    if roots:
        plait.autograd.backward(roots, [t.detach() * 0 + 1 for t in roots])
    tensors = [a for a in args if isinstance(a, Tensor)]
    return [*leaves, *[t.grad for t in tensors], *tensors]


def same(found: list[Any], want: list[Any]) -> None:
    assert len(found) == len(want)
    for mine, theirs in zip(found, want, strict=True):
        assert type(mine) is type(theirs)
        if not isinstance(theirs, Tensor):
            assert mine == theirs
            continue
        assert mine.requires_grad == theirs.requires_grad
        assert (mine.shape, mine.stride()) == (theirs.shape, theirs.stride())
        for a, b in zip(pieces_of(mine), pieces_of(theirs), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("wrapped", ["all", "first"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_a_program_of_wrappers_is_compiled_as_eager_runs_it(program: Program, wrapped: str) -> None:
    want = run(program.fn, arguments(program, wrapped))
    log.clear()
    compiled = plait.compile(program.fn)
    for _ in range(2):
        same(run(compiled, arguments(program, wrapped)), want)
    reasons = [e.reason for e in log.events("fallback")]
    assert len(compiled.entries) == 1 and bool(reasons) == (program.name in RUNS_EAGERLY), reasons


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_a_wrapper_computes_what_each_of_its_tensors_would(program: Program) -> None:
    """The eager half: both runs of a program of wrappers are runs of it on plain tensors."""
    args = arguments(program, "all")
    halves = []
    for number in range(2):
        plain = []
        for a in args:
            is_tensor = isinstance(a, Tensor)
            piece = pieces_of(a)[min(number, len(pieces_of(a)) - 1)] if is_tensor else a
            if is_tensor:
                piece = piece.detach().clone().requires_grad_(a.requires_grad)
            plain.append(piece)
        halves.append(run(program.fn, plain))
    found = run(program.fn, args)
    if any(isinstance(t, Tensor) and not t.dtype.is_floating for t in found):
        found = [t for t in found if not isinstance(t, Tensor) or t.dtype.is_floating]
        halves = [
            [t for t in half if not isinstance(t, Tensor) or t.dtype.is_floating] for half in halves
        ]
    for mine, a, b in zip(found, *halves, strict=True):
        if isinstance(mine, TwoTensor):
            same([mine.a.detach(), mine.b.detach()], [a.detach(), b.detach()])
