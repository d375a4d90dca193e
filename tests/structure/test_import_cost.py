"""`import plait` loads the lower half of the package, and nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "llvmlite", "sklearn", "scipy", "matplotlib", "rich", "typer", "jax", "numba")
LATER = ("nn", "optim", "backends", "compile", "testing", "cli", "demo", "aot", "capture", "ir")


def loaded_by(statement: str) -> set[str]:
    program = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def test_import_plait_loads_nothing_heavy():
    loaded = loaded_by("import plait")
    assert not loaded & set(HEAVY)


def test_import_plait_loads_only_the_lower_layers():
    loaded = loaded_by("import plait")
    assert not {f"plait.{name}" for name in LATER} & loaded


def test_modules_and_optimisers_load_no_compiler():
    loaded = loaded_by("import plait; plait.nn.Linear; plait.optim.SGD")
    assert not {"llvmlite", "plait.backends", "plait.compile"} & loaded
