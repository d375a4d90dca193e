"""`plait cache ls|clear|explain`: what compiled code is kept on disk, and why it is or is not used.

Owns the texts; what an entry is and when it is refused is `base/diskcache.py`.
"""

from __future__ import annotations

import ast
import json
import time
from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from plait.base.config import config
from plait.base.diskcache import DiskCache, Entry
from plait.base.errors import InvalidArgument
from plait.base.hashing import canonical_text

__all__ = ["app", "file_size"]

app = typer.Typer(help="Compiled code that is kept on disk.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
SHORT_KEY = 12


@app.command(name="ls")
def list_entries(as_json: JsonOption = False) -> None:
    """List what is stored, most recently used first."""
    cache = _cache()
    found = sorted(cache.entries(), key=lambda entry: -entry.used)
    if as_json:
        print(json.dumps(_report(cache, found), indent=1))
        return
    console = Console()
    numbers = (Column(n, justify="right") for n in ("size", "age", "last used", "uses"))
    table = Table(Column("key", no_wrap=True), Column("what", overflow="fold"), *numbers, box=None)
    has_problems = any(entry.problem is not None for entry in found)
    if has_problems:
        table.add_column("problem", overflow="fold")
    now = time.time()
    for entry in found:
        ages = (_duration(now - entry.created), _duration(now - entry.used))
        row = (entry.name[:SHORT_KEY], entry.label or "?", file_size(entry.size), *ages)
        problem = [escape(entry.problem or "")] if has_problems else []
        table.add_row(*row, str(entry.uses), *problem)
    if found:
        console.print(table)
    total = file_size(sum(entry.size for entry in found))
    state = "" if config.cache else " (switched off: PLAIT_CACHE=0)"
    limit = file_size(cache.limit)
    console.print(f"{_entries(len(found))}, {total} of {limit} in {cache.root}{state}", style="dim")


@app.command()
def clear(
    key: Annotated[str, typer.Argument(help="Only keys that begin so.")] = "",
    damaged: Annotated[bool, typer.Option("--damaged", help="Only what cannot be used.")] = False,
) -> None:
    """Remove what is stored: all of it, or what the options choose."""
    cache = _cache()
    chosen = lambda e: e.name.startswith(key) and (e.problem is not None or not damaged)
    count = cache.clear(chosen if key or damaged else None)
    Console().print(f"removed {_entries(count)} from {cache.root}")


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="The beginning of a key, as `ls` shows it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show the ingredients of an entry's key beside this machine's; without KEY, of all entries."""
    cache = _cache()
    here = _this_machine()
    found = [entry for entry in cache.entries() if entry.name.startswith(key)]
    if not key:
        _explain_all(found, here, as_json)
        return
    if len(found) != 1:
        raise InvalidArgument(
            f"cache explain: {len(found)} keys begin with {key!r}; expected one. "
            "`plait cache ls` lists them."
        )
    _explain_one(found[0], here, as_json)


# One entry ----------------------------------------------------------------------------------------


def _explain_one(entry: Entry, here: dict[str, str], as_json: bool) -> None:
    differing = _differences(entry, here)
    if as_json:
        facts = dict(entry.ingredients)
        told = {"key": entry.name, "label": entry.label, "problem": entry.problem}
        print(json.dumps({**told, "ingredients": facts, "differs": differing}, indent=1))
        return
    console = Console()
    console.print(f"[bold]{entry.label or '?'}[/]  {entry.name}", highlight=False)
    if entry.problem is not None:
        console.print(f"[red]cannot be used:[/] {escape(entry.problem)}")
    table = Table("ingredient", "stored", "here", box=None)
    for name, text in entry.ingredients[1:]:
        same = "[dim]not compared[/]" if name not in here else "the same"
        other = _shorten(here[name], text) if name in differing else same
        mine = _shorten(text, here.get(name, text))
        table.add_row(name, escape(mine), f"[red]{escape(other)}[/]" if name in differing else same)
    console.print(table)
    if entry.ingredients:
        console.print("\n[bold]code[/], the first ingredient:")
        console.print(escape(_plain(entry.ingredients[0][1])), highlight=False, soft_wrap=True)
    verdict = f"differs in {', '.join(differing)}" if differing else "would be used here"
    console.print(f"\n{verdict}" if entry.problem is None else "")


def _explain_all(entries: list[Entry], here: dict[str, str], as_json: bool) -> None:
    """The machine's ingredients, and how many entries agree with them."""
    verdicts = Counter(_verdict(entry, here) for entry in entries)
    if as_json:
        print(json.dumps({"here": here, "entries": dict(verdicts)}, indent=1))
        return
    console = Console()
    table = Table("ingredient", "here", box=None)
    for name, text in here.items():
        table.add_row(name, escape(_shorten(text)))
    console.print(table)
    for verdict, count in verdicts.most_common():
        console.print(f"{_entries(count)}: {verdict}")


def _verdict(entry: Entry, here: dict[str, str]) -> str:
    if entry.problem is not None:
        return "cannot be read or trusted"
    differing = _differences(entry, here)
    return f"{differing[0]} differs" if differing else "would be used here"


def _differences(entry: Entry, here: dict[str, str]) -> list[str]:
    """Ingredients in which an entry differs from this process."""
    is_kernel = entry.label.startswith("kernel")  # other code has a level of its own
    return [
        name
        for name, text in entry.ingredients
        if name in here and here[name] != text and (is_kernel or name != "level")
    ]


def _this_machine() -> dict[str, str]:
    from plait.backends.llvm.native.objects import circumstances
    from plait.backends.llvm.native.python_abi import identity

    facts = {"level": config.opt_level, "python": identity(), **circumstances()}
    return {name: canonical_text(fact) for name, fact in facts.items()}


# Texts --------------------------------------------------------------------------------------------


def _cache() -> DiskCache:
    return DiskCache(str(config.cache_dir), config.cache_mb << 20)


def _report(cache: DiskCache, entries: list[Entry]) -> dict[str, Any]:
    rows = [
        {
            "key": entry.name,
            "label": entry.label,
            "bytes": entry.size,
            "created": entry.created,
            "used": entry.used,
            "uses": entry.uses,
            "problem": entry.problem,
        }
        for entry in entries
    ]
    return {
        "folder": str(cache.folder),
        "enabled": config.cache,
        "limit": cache.limit,
        "bytes": sum(entry.size for entry in entries),
        "entries": rows,
    }


def file_size(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _shorten(text: str, other: str = "", width: int = 48) -> str:
    """A text from where it begins to differ from another, cut to a width."""
    start = 0
    if len(text) > width and other != text:
        start = next((k for k, (a, b) in enumerate(zip(text, other)) if a != b), 0)
    start = max(0, start - 8)
    cut = text[start : start + width]
    return ("..." if start else "") + cut + ("..." if start + width < len(text) else "")


def _plain(text: str) -> str:
    """The text behind a string's canonical form."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text
