"""The command line: `plait demo`, `backends`, `bench`, `explain`, `cache`, `doctor`.

Owns arguments and exit codes; what the commands do is elsewhere.
"""

from __future__ import annotations

import json as json_module
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from plait.base.errors import PlaitError
from plait.cli import cache

__all__ = ["app", "main"]

app = typer.Typer(
    name="plait",
    help="A compiler stack for tensor programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache.app, name="cache")


@app.command()
def demo(
    text: Annotated[bool, typer.Option("--text", help="A language model instead.")] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the digits (20 unless given).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the language model's training.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model and few steps, to try --text out.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(help="Folder of Python files to learn (the standard library unless given)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of parameters, batches and draws.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the picture.")] = Path("demo-out"),
    json: Annotated[Path | None, typer.Option(help="Write the figures there too.")] = None,
    backend: Annotated[str, typer.Option(help="See `plait backends`.")] = "llvm",
) -> None:
    """Train on handwritten digits, or on Python's own sources, eagerly and compiled; compare."""
    common: dict[str, Any] = {"seed": seed, "out": out, "json_path": json, "backend": backend}
    if text:
        _refuse_options("needs the digits: leave out --text", epochs=epochs)
        is_fine = _text_demo(steps, quick, source, common)
    else:
        _refuse_options("goes with --text", steps=steps, quick=quick or None, source=source)
        is_fine = _digits_demo(epochs, common)
    if not is_fine:
        raise typer.Exit(1)


def _refuse_options(why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name} {why}.")


def _digits_demo(epochs: int | None, common: dict[str, Any]) -> bool:
    from plait.demo.digits.main import DEFAULT_EPOCHS, run_demo

    return run_demo(Console(), epochs=epochs or DEFAULT_EPOCHS, **common)


def _text_demo(steps: int | None, quick: bool, source: Path | None, common: dict[str, Any]) -> bool:
    from plait.demo.text.main import run_text_demo
    from plait.demo.text.model import FULL, QUICK

    settings = QUICK if quick else FULL
    if steps is not None:
        settings = replace(settings, steps=steps)
    return run_text_demo(Console(), settings=settings, source=source, **common)


@app.command()
def backends(
    all_: Annotated[bool, typer.Option("--all", help="Those for finding faults too.")] = False,
) -> None:
    """List what `plait.compile(fn, backend=...)` accepts."""
    from plait.backends.registry import list_backends

    table = Table("backend")
    for name in list_backends(exclude_tags=None if all_ else ("debug", "experimental")):
        table.add_row(name)
    Console().print(table)


@app.command()
def bench(
    json: Annotated[Path | None, typer.Option(help="Write the figures there too.")] = None,
    only: Annotated[str, typer.Option(help="Works whose name holds this text.")] = "",
) -> None:
    """Measure plait beside its peers (needs a checkout of the sources)."""
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "run.py"
    if not script.exists():
        Console(stderr=True).print(
            "plait bench: the benchmarks are not part of an installed package. "
            "Clone the sources and say make bench."
        )
        raise typer.Exit(2)
    options = ["--only", only] if only else []
    options += ["--json", str(json)] if json else []
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options]).returncode)


@app.command(name="explain")
def explain_case(
    case: Annotated[
        str,
        typer.Argument(help="module:name of a function that returns (function, arguments)."),
    ],
    graphs: Annotated[bool, typer.Option("--graphs", help="Print the graphs too.")] = False,
    backend: Annotated[str, typer.Option(help="See `plait backends`.")] = "llvm",
) -> None:
    """Compile a function and say what that came to; see docs/explain.md."""
    from plait.cli.explain import explanation_of

    report = explanation_of(case, backend)
    print(report)
    for entry in report.entries if graphs else ():
        for graph in entry.graphs.values():
            print(f"\n{graph}")


@app.command(name="doctor")
def examine_machine(as_json: cache.JsonOption = False) -> None:
    """Say what works on this machine; exit code 1 if something that plait needs does not."""
    from plait.cli.doctor import examine, show

    findings = examine()
    if as_json:
        print(json_module.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        show(findings, Console())
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; plait's own errors are shown without a traceback."""
    try:
        app()
    except PlaitError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: ", end="")
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
