"""`plait doctor`: what this machine gives plait, what is missing, and what to do about it.

Each check answers with findings and never raises. Owns the advice; what the facts are is asked of
the modules that own them.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from importlib import metadata, util
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import plait
from plait.base import log
from plait.base.config import config
from plait.base.diskcache import DiskCache
from plait.cli.cache import file_size

__all__ = ["Finding", "examine", "show"]

Status = Literal["ok", "note", "missing", "broken"]


class Finding(NamedTuple):
    """One fact. Only "broken" means that something needed does not work."""

    subject: str
    status: Status
    text: str
    advice: str = ""


NEEDED = ("numpy", "llvmlite", "ml_dtypes", "optree", "rich", "typer")
# module -> (what it is for, how to get it)
OPTIONAL = {
    "torch": ("the front end for PyTorch; the oracle of the tests", "pip install 'plait[torch]'"),
    "sklearn": ("the digits of `plait demo`", "pip install 'plait[demo]'"),
    "matplotlib": ("the picture of `plait demo`", "pip install 'plait[demo]'"),
    "jax": ("a peer in `plait bench`", "pip install 'plait[bench]'"),
    "numba": ("a peer in `plait bench`", "pip install 'plait[bench]'"),
    "onnxruntime": ("a peer in `plait bench`", "pip install 'plait[bench]'"),
    "pytest": ("the tests", "pip install 'plait[dev]'"),
}
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def examine() -> list[Finding]:
    """All findings, in the order in which they are shown."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "plait": _versions,
        "processor": _processor,
        "compiling": _compiling,
        "BLAS": _blas,
        "threads": _threads,
        "cache": _cache,
        "settings": _settings,
        "packages": _optional,
    }
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding(subject, "broken", f"{type(error).__name__}: {error}"))
    return findings


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings, and a line that sums them up."""
    colours = {"ok": "green", "note": "yellow", "missing": "dim", "broken": "bold red"}
    table = Table(Column(no_wrap=True), "", Column(overflow="fold"), box=None, show_header=False)
    for finding in findings:
        style = colours[finding.status]
        text = escape(finding.text)
        if finding.advice:
            text += f"\n[italic]{escape(finding.advice)}[/]"
        table.add_row(finding.subject, f"[{style}]{finding.status}[/]", text)
    console.print(table)
    broken = [finding.subject for finding in findings if finding.status == "broken"]
    console.print(
        f"[bold red]broken:[/] {', '.join(broken)}"
        if broken
        else "[green]everything that plait needs works[/]"
    )


def _versions() -> Iterator[Finding]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("plait", "ok", f"{plait.__version__}, {python}, {platform.platform()}")
    for name in NEEDED:
        version = _version(name)
        if version is None:
            yield Finding(name, "broken", "not installed", f"pip install {name}")
        else:
            yield Finding(name, "ok", version)


def _processor() -> Iterator[Finding]:
    from plait.backends.llvm.native.target import host

    here = host()
    version = ".".join(map(str, here.llvm_version))
    yield Finding(
        "processor", "ok", f"{here.cpu} ({here.triple}), vectors of {here.vector_bits} bits"
    )
    yield Finding("LLVM", "ok", version)


def _compiling() -> Iterator[Finding]:
    """Compile something for real, from scratch, and look at the result."""
    with config.override(cache=False):
        found = plait.compile(lambda x: plait.tanh(x) * 2 + x)(plait.ones(5))
    right = abs(float(found.sum()) - 12.615941559) < 1e-5
    kinds = [str(event) for event in log.events("fallback")]
    if not right:
        yield Finding("compiling", "broken", f"wrong result: {found}", "please report this")
    elif kinds:
        yield Finding("compiling", "note", kinds[-1])
    else:
        yield Finding("compiling", "ok", "a function was compiled, run and compared")


def _blas() -> Iterator[Finding]:
    from plait.backends.llvm.native.blas import find_blas

    blas = find_blas()
    if blas is None:
        advice = "matrix products are slow: use NumPy's own wheels, or pip install scipy-openblas64"
        yield Finding("BLAS", "note", "none found; products are generated loops", advice)
        return
    threads = "threads cannot be set"
    if blas.threads:
        threads = f"{ctypes.CFUNCTYPE(ctypes.c_int)(blas.threads['get'])()} threads in eager calls"
    yield Finding("BLAS", "ok", f"{blas.path.rpartition('/')[2]}, {threads}, 1 in compiled code")


def _threads() -> Iterator[Finding]:
    from plait.backends.llvm.native.pool import missing_primitives, num_threads

    reason = missing_primitives()
    if reason is not None:
        yield Finding("threads", "note", f"compiled code runs on one: {reason}")
    else:
        yield Finding("threads", "ok", f"{num_threads()} for compiled code; futexes work")


def _cache() -> Iterator[Finding]:
    if not config.cache:
        yield Finding("cache", "note", "switched off", "unset PLAIT_CACHE to start faster")
        return
    cache = DiskCache(str(config.cache_dir), config.cache_mb << 20)
    problem = cache.problem() or cache.write_problem()
    if problem is not None:
        advice = "every process compiles anew; set PLAIT_CACHE_DIR to a folder of your own"
        yield Finding("cache", "note", problem, advice)
        return
    entries = list(cache.entries())
    used = f"{file_size(sum(e.size for e in entries))} of {file_size(cache.limit)}"
    yield Finding("cache", "ok", f"{cache.root}, writable, {len(entries)} entries, {used}")
    damaged = sum(entry.problem is not None for entry in entries)
    if damaged:
        advice = "plait cache clear --damaged"
        yield Finding("cache", "note", f"{damaged} entries cannot be used", advice)


def _settings() -> Iterator[Finding]:
    for name, setting in config.settings().items():
        value = getattr(config, name)
        if value != setting.default():
            yield Finding("setting", "note", f"{setting.variable} = {value}", setting.doc)


def _optional() -> Iterator[Finding]:
    for name, (purpose, how) in OPTIONAL.items():
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", f"not needed; for {purpose}", how)
        else:
            yield Finding(name, "ok", f"{version}; {purpose}")


def _version(module: str) -> str | None:
    """The installed version of a module's distribution; None without the module."""
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(_DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return "of unknown version"
