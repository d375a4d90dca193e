"""The command line's arguments and exit codes."""

from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

from plait.base.errors import InvalidArgument
from plait.cli import app


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_backends_lists_the_default_and_hides_those_for_finding_faults():
    shown = run("backends")
    assert shown.exit_code == 0 and "llvm" in shown.output and "aot_eager" not in shown.output
    assert "aot_eager" in run("backends", "--all").output


def test_wrong_arguments_are_refused():
    assert run("demo", "--epochs", "0").exit_code == 2
    assert run("weave").exit_code == 2


def test_without_a_command_it_says_what_there_is():
    output = run().output
    assert all(name in output for name in ("demo", "backends", "bench"))


def test_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "plait", "--help"], capture_output=True)
    assert result.returncode == 0


CASE = """
import plait

def case():
    return (lambda x: (x * 2.0).sum()), (plait.ones(3),)

def wrong():
    return plait.ones(3)
"""


def test_explain_prints_the_report_of_a_case(tmp_path, monkeypatch):
    (tmp_path / "explained_cases.py").write_text(CASE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = run("explain", "explained_cases:case", "--graphs", "--backend", "aot_eager")
    assert shown.exit_code == 0, shown.output
    assert "x.shape: (3,)" in shown.output and "def forward(x):" in shown.output
    for case in ("explained_cases:wrong", "explained_cases:nothing", "no_such_module:case", "case"):
        refused = run("explain", case)
        assert isinstance(refused.exception, InvalidArgument)
