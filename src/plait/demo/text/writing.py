"""Text from the trained model, one character at a time, with a cache of keys and values.

The compiled step has a symbol for the length of the cache, so one entry serves every length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plait.autograd.grad_mode import no_grad
from plait.base.errors import InvalidArgument, check
from plait.capture.entries import mark_dynamic
from plait.compile import compile as compile_function
from plait.demo.text.corpus import read, spell
from plait.demo.text.model import Settings, draw, make_write
from plait.demo.text.training import Run
from plait.demo.timing import StepClock
from plait.nn import KeyValue, functional_call
from plait.ops.random import manual_seed
from plait.tensor.tensor import from_numpy

__all__ = ["PROMPTS", "Written", "write_all"]

PROMPTS = ("import ", "def ", "class ")


@dataclass
class Written:
    """Texts, each with its prompt, and how they came about."""

    texts: list[str]
    clock: StepClock  # of single characters after the prompts
    step: Any  # the function that was called for each

    @property
    def entries(self) -> int:
        """How often the step was compiled; 0 if eager."""
        return len(getattr(self.step, "entries", ()))


def write_all(
    run: Run,
    settings: Settings,
    *,
    backend: str | None,
    seed: int,
    prompts: tuple[str, ...] = PROMPTS,
    length: int | None = None,
) -> Written:
    """A text for each prompt, `length` characters long (default: all that the model has room for).

    Raises InvalidArgument for a prompt of fewer than two characters, and for a text longer than the
    position table.
    """
    step: Any = make_write(run.model, settings.temperature)
    if backend is not None:
        step = compile_function(step, backend=backend, fullgraph=True, name="write a character")
    wanted = settings.length if length is None else length
    manual_seed(seed)
    written = Written([], StepClock(), step)
    for prompt in prompts:
        written.texts.append(_write(run, written, prompt, wanted, settings.temperature))
    return written


def _write(run: Run, written: Written, prompt: str, length: int, temperature: float) -> str:
    check(
        len(prompt) > 1,
        InvalidArgument,
        lambda: f"demo: argument 'prompts' has {prompt!r}; expected at least two characters.",
    )
    given = read(prompt).astype("int64")
    with no_grad():
        found = functional_call(
            run.model, run.params, (from_numpy(given[None]),), {"use_cache": True}
        )
        character, caches = draw(found[0], temperature), found[1]
    caches = [KeyValue(*(mark_dynamic(t, 2) for t in cache)) for cache in caches]
    positions = [*given.tolist(), int(character)]
    while len(positions) < length:
        with written.clock.step():
            character, caches = written.step(run.params, character, caches)
            positions.append(int(character))
    return spell(positions)
