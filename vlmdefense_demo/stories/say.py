"""How a lecture gets its words: facts say what is true, a language how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Say(Protocol):
    """A language: the words of a key, with values in their places."""

    @property
    def joint(self) -> str:
        """What stands between two sentences."""
        ...

    def __call__(self, key: str, /, **values: Any) -> str:
        """The words.

        Raises:
            KeyError: no such key, or a place without a value.
        """
        ...


def several(parts: Sequence[str], say: Say, of: str = "names") -> str:
    """["a", "b", "c"] -> "a, b and c"; `of` tells names from clauses, which other languages do."""
    start = say(f"{of}.comma").join(parts[:-1])
    return say(f"{of}.and").join(filter(None, [start, *parts[-1:]]))


def listed(parts: Sequence[str], say: Say) -> str:
    """["a: b", "c: d"] -> "a: b; c: d"."""
    return say("list.semicolon").join(parts)


def sentences(*parts: str, say: Say) -> str:
    """One after the other; an empty one is left out."""
    return say.joint.join(filter(None, parts))


def capital(words: str) -> str:
    """With a capital at the start, and nowhere else."""
    return f"{words[:1].upper()}{words[1:]}"
