"""docs/dtypes.md says what the compiler does: its tables against listings and lowering rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import plait
from plait.backends.llvm.lowering.context import SHORT
from plait.ops import aten
from plait.tensor.dtype import ALL_DTYPES, DType
from tools.source_tree import ROOT

PAGE = (ROOT / "docs" / "dtypes.md").read_text(encoding="utf-8")
LOWERING = ROOT / "src" / "plait" / "backends" / "llvm"
LONG = {short: name for name, short in SHORT.items()}


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table under a heading."""
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


TYPES = {row[0]: row[1:] for row in table("What native code makes of a type")}


def listing(maker, op, *args) -> str:
    """The kernels of one call."""
    compiled = maker.compile(maker(op, *args))
    return compiled.listing("loop")


def computed_in(text: str) -> str:
    """The type of the first value that a kernel names."""
    found = re.search(r"t0 = .*# (\w+)", text)
    assert found is not None, text
    return LONG[found[1]]


def matrix(maker, dtype: DType):
    return maker.input(plait.ones(4, 4, dtype=dtype).numpy())


def products(text: str) -> str:
    """How often a library or generated block multiplies, or the type of the loops that do."""
    blocks = re.findall(r"gemm 4 x 4 x 4 (\w+)", text)
    if blocks:
        return f"{len(blocks)} in {LONG[blocks[0]]}"
    return f"loops in {computed_in(text)}"


def test_every_type_has_a_row():
    assert list(TYPES) == [dtype.name for dtype in ALL_DTYPES]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=lambda d: d.name)
def test_what_native_code_makes_of_a_type(maker, dtype):
    memory, arithmetic, sums, product = TYPES[dtype.name]
    x = matrix(maker, dtype)
    chain = listing(maker, aten.mul.Tensor, x, x)
    found = re.search(r"b0: in (\w+)", chain)
    assert found is not None
    pairs = "pairs of " if dtype.is_complex else ""
    assert (memory, arithmetic) == (pairs + LONG[found[1]], computed_in(chain))
    other = type(maker)()
    assert sums == computed_in(listing(other, aten.sum.dim_IntList, matrix(other, dtype), [0]))
    if dtype.is_bool:
        assert product == "none"
        return
    other = type(maker)()
    x = matrix(other, dtype)
    assert product == products(listing(other, aten.mm.default, x, x))


def reasons(path: Path) -> Iterator[str]:
    """The texts with which rules refuse a call, … for what only the call knows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if not is_call or node.func.id != "Unsupported":
            continue
        (text,) = node.args
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        yield "".join(p.value if isinstance(p, ast.Constant) else "…" for p in parts)


def test_the_reasons_for_running_eagerly_are_all_listed():
    found = {reason for path in LOWERING.rglob("*.py") for reason in reasons(path)}
    assert sorted(row[0] for row in table("What runs eagerly inside a compiled graph")) == sorted(
        found
    )


@pytest.mark.parametrize("dtype", [plait.float16, plait.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("compiled", [False, True])
def test_halves_are_accumulated_in_float32(dtype, compiled):
    """In the half types a sum of ones would stop at 2048, or 256."""
    ones, row = plait.ones(4096, dtype=dtype), plait.ones(1, 4096, dtype=dtype)
    calls = [
        lambda x, r: x.sum(),
        lambda x, r: x.cumsum(0)[4095],
        lambda x, r: r @ r.t(),
        lambda x, r: r.matmul(x),
        lambda x, r: x.dot(x),
        lambda x, r: (x * 2).mean() * 2048,
        lambda x, r: plait.softmax(x, 0).sum() * 4096,
        lambda x, r: plait.layer_norm(x + r[0], (4096,)).sum() + 4096,
    ]
    for call in calls:
        call = plait.compile(call) if compiled else call
        assert call(ones, row).item() == 4096
