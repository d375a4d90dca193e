"""Imports point down only, and each outside package has one owner."""

from __future__ import annotations

import ast

from tools.source_tree import Source, sources, strongly_connected

LEVELS: dict[str, float] = {
    "base": 0,
    "symbolic": 1,
    "dispatch": 2,
    "tensor": 3,
    "ops": 4,
    "autograd": 5,
    "library": 6,
    "transforms": 6,
    "overrides": 6,
    "wrappers": 6.5,
    "ir": 7,
    "capture": 8,
    "aot": 9,
    "backends": 10,
    "modes": 10,
    "nn": 10,
    "optim": 10,
    "compile": 11,
    "explain": 11.2,
    "interop": 12,
    "testing": 12,
    "demo": 13,
    "cli": 14,
    "__main__": 14.5,
}
# Edges left out of the search for cycles, each with its reason; they are imports inside a function.
DEFERRED = {
    ("plait.tensor.tensor", "plait.tensor.printing"): "repr of a tensor is written with tensors",
    ("plait.ir.graph", "plait.ir.printer"): "str of a graph is its printed form",
}
FRONT = 11.5  # `import plait` itself: only what stands on the whole may use the front package

OUTSIDE = {  # package -> the folders that may import it, also inside functions
    "llvmlite": ("plait.backends.llvm",),
    "torch": ("plait.interop.torch", "plait.testing"),
    "sklearn": ("plait.demo",),
    "matplotlib": ("plait.demo",),
    "rich": ("plait.cli", "plait.demo"),
    "typer": ("plait.cli", "plait.demo"),
}


def folder(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def level(module: str) -> float:
    name = folder(module)
    assert not name or name in LEVELS, f"{module}: name the level of this folder in test_layers"
    return LEVELS[name] if name else FRONT


def is_below(source: Source, target: str) -> bool:
    own, other = folder(source.module), folder(target)
    return own == other or level(target) < level(source.module)


def test_imports_point_down():
    wrong = []
    for source in sources():
        if source.module == "plait":
            continue  # the front package re-exports
        for found in source.imports():
            if found.module.split(".")[0] == "plait" and not is_below(source, found.module):
                wrong.append(f"{source.where}:{found.line} imports {found.module}")
    assert not wrong, "imports that point up or sideways:\n" + "\n".join(wrong)


def test_no_import_cycles():
    edges: dict[str, set[str]] = {}
    for source in sources():
        targets = {found.module for found in source.imports()}
        if source.module != "plait":
            edges[source.module] = {
                name
                for name in targets - {source.module}
                if name.startswith("plait.") and (source.module, name) not in DEFERRED
            }
    cycles = strongly_connected(edges)
    assert not cycles, f"modules that import each other: {cycles}"


def test_outside_packages_have_one_owner():
    wrong = []
    for source in sources():
        for found in source.imports():
            owners = OUTSIDE.get(found.module.split(".")[0])
            if owners is not None and not source.module.startswith(owners):
                wrong.append(f"{source.where}:{found.line} imports {found.module}")
    assert not wrong, "imports of packages that belong to another folder:\n" + "\n".join(wrong)


def test_testing_imports_torch_only_inside_functions():
    for source in sources("src/plait/testing"):
        for node in source.tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(n.split(".")[0] == "torch" for n in names), source.where


def test_only_config_reads_the_environment():
    wrong = []
    for source in sources():
        if source.module == "plait.base.config":
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv"):
                wrong.append(f"{source.where}:{node.lineno}")
    assert not wrong, f"only base/config.py reads the environment: {wrong}"


def test_only_dispatch_state_is_thread_local():
    wrong = []
    for source in sources():
        if source.module == "plait.dispatch.state":
            continue
        for node in ast.walk(source.tree):
            is_local = isinstance(node, ast.Attribute) and node.attr == "local"
            if is_local and getattr(node.value, "id", "") == "threading":
                wrong.append(f"{source.where}:{node.lineno}")
    assert not wrong, f"only dispatch/state.py holds thread-local state: {wrong}"
