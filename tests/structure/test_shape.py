"""The shape of the code: file and function lengths, names, statements that are not used here."""

from __future__ import annotations

import ast
import re
import statistics

import pytest

from tools.source_tree import ROOT, sources

FILE_LIMIT = 700
FUNCTION_LIMIT = 80
LONG_FUNCTION = 50


def test_no_file_is_named_utils():
    folders = ("src", "tests", "benchmarks", "tools")
    found = [p for f in folders for p in (ROOT / f).rglob("util*.py")]
    assert not found, f"say what it is about instead: {found}"


def test_files_are_short():
    long = {s.where: n for s in sources() if (n := s.text.count("\n")) > FILE_LIMIT}
    assert not long, f"files over {FILE_LIMIT} lines: {long}"


def test_functions_are_short():
    lengths = [
        (length, f"{source.where}:{node.lineno} {node.name}")
        for source in sources()
        for node, length in source.functions()
    ]
    longest = sorted(lengths, reverse=True)
    listed = "\n".join(f"{n:4d} {where}" for n, where in longest[:15])
    assert longest[0][0] <= FUNCTION_LIMIT, f"functions over {FUNCTION_LIMIT} lines:\n{listed}"
    over = sum(n > LONG_FUNCTION for n, _ in lengths)
    assert over <= 0.02 * len(lengths), f"{over} functions over {LONG_FUNCTION} lines:\n{listed}"
    numbers = sorted(n for n, _ in lengths)
    at_95 = numbers[int(0.95 * len(numbers))]
    assert at_95 <= 35, f"95th percentile of function lengths is {at_95}:\n{listed}"
    assert statistics.median(numbers) <= 10


def test_every_module_has_a_docstring():
    missing = [s.where for s in sources() if s.text.strip() and not ast.get_docstring(s.tree)]
    assert not missing, f"modules that do not say what they own: {missing}"


def test_every_public_function_of_public_modules_has_a_docstring():
    missing = []
    for source in sources():
        exported = _exported(source.tree)
        for node in source.tree.body:
            is_def = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in exported
            if is_def and not ast.get_docstring(node):
                missing.append(f"{source.where}:{node.lineno} {node.name}")
    assert not missing, "exported without a docstring:\n" + "\n".join(missing)


def _exported(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            if isinstance(node.value, ast.List | ast.Tuple):
                return {e.value for e in node.value.elts if isinstance(e, ast.Constant)}
    return set()


def test_no_global_statement():
    wrong = [
        f"{source.where}:{node.lineno}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Global)
    ]
    assert not wrong, f"state belongs to an object: {wrong}"


def test_no_swallowed_exceptions():
    wrong = []
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                is_bare = node.type is None
                if is_bare or (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)):
                    wrong.append(f"{source.where}:{node.lineno}")
    assert not wrong, f"an exception is handled or let go, never dropped: {wrong}"


MARK = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
PATTERNS = {
    "mark of unfinished work": rf"\b({MARK})\b",
    "ignore of a redefinition or an undefined name": r"noqa:[^\n]*\b(F811|F821)\b",
}


@pytest.mark.parametrize("what", PATTERNS)
def test_no_line_holds(what):
    pattern = re.compile(PATTERNS[what])
    folders = ("src/plait", "tests", "benchmarks", "tools")
    wrong = [
        f"{source.where}:{number}"
        for f in folders
        for source in sources(f)
        for number, line in enumerate(source.text.splitlines(), 1)
        if pattern.search(line) and source.path.name != "test_shape.py"
    ]
    assert not wrong, f"{what}: {wrong}"
