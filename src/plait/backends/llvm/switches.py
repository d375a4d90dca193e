"""Switches: kinds of fusion that can be left out, to see what each is worth or to find a fault.

`PLAIT_FUSION_OFF` (`config.fusion_off`) names those to leave out when a function is compiled;
results stay the same up to rounding. Must not know how any of them is done.
"""

from __future__ import annotations

from plait.base.config import config
from plait.base.errors import InvalidArgument

__all__ = ["FUSIONS", "is_off", "off_reason"]

FUSIONS = {
    "views": "transposed, broadcast and sliced operands are index arithmetic, not copies",
    "reductions": "reductions share a kernel with what feeds them and what follows them",
    "outputs": "one kernel computes several values of the same shape",
    "epilogues": "what follows a matrix product runs on each block of its rows",
    "siblings": "reductions that do not need each other share one pass over memory",
    "in_place": "new values are written into the memory of old ones",
    "horizontal": "independent small kernels run as one step over a table",
}
"""What each kind does, by its name."""


def is_off(kind: str) -> bool:
    """Whether `kind`, one of FUSIONS, is left out. Raises InvalidArgument for unknown settings."""
    chosen = config.fusion_off
    if not chosen:
        return False
    unknown = sorted(chosen - FUSIONS.keys() - {"all"})
    if unknown:
        raise InvalidArgument(
            f"config: setting fusion_off names {', '.join(unknown)}; expected some of "
            f"{', '.join(FUSIONS)}, or all."
        )
    return kind in chosen or "all" in chosen


def off_reason(kind: str) -> str:
    """What reports say where `kind` is left out."""
    return f"fusion of kind '{kind}' is switched off (PLAIT_FUSION_OFF)"
