"""Readable names that are unique in their scope and valid as identifiers.

Owns `NameScope`, `identifier` and `indefinite`; must not know what is named.
"""

import functools
import keyword
import re
from collections.abc import Iterable

__all__ = ["NameScope", "identifier", "indefinite"]

_NOT_ALLOWED = re.compile(r"[^0-9A-Za-z_]+")


@functools.lru_cache(maxsize=4096)
def identifier(text: str) -> str:
    """The nearest ASCII Python identifier to `text`; never empty, never a keyword.

    >>> identifier("layers.0.weight"), identifier("3rd"), identifier("lambda"), identifier("")
    ('layers_0_weight', '_3rd', 'lambda_', '_')
    """
    name = _NOT_ALLOWED.sub("_", text)
    if not name or name[0].isdigit():
        name = "_" + name
    return name + "_" if keyword.iskeyword(name) else name


def indefinite(noun: str) -> str:
    """`noun` after its article.

    >>> indefinite("Linear"), indefinite("ndarray")
    ('a Linear', 'an ndarray')
    """
    is_vowel = noun[:1].lower() in "aeio" or noun.startswith("nd")
    return f"{'an' if is_vowel else 'a'} {noun}"


class NameScope:
    """Gives out names, numbering those that are asked for again.

    >>> scope = NameScope()
    >>> scope.fresh("linear"), scope.fresh("linear"), scope.fresh("linear_1")
    ('linear', 'linear_1', 'linear_1_1')
    """

    __slots__ = ("_next", "_taken")

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = set(reserved)
        self._next: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """`wanted` made an identifier, with the first free number behind it where it is taken."""
        base = identifier(wanted)
        name = base
        number = self._next.get(base, 1)
        while name in self._taken:
            name = f"{base}_{number}"
            number += 1
        self._next[base] = number
        self._taken.add(name)
        return name

    def __contains__(self, name: object) -> bool:
        return name in self._taken
