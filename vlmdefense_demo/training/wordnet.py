"""WordNet's nouns: names, is-a links and sense order, read from its plain database files.

The noun offsets of WordNet 3.0 are the ImageNet ids (n02124075 = offset 02124075). Debian ships
the files in the package wordnet-base under /usr/share/wordnet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vlmdefense_demo.errors import MissingWeights

FOLDER = Path("/usr/share/wordnet")


@dataclass(frozen=True)
class Synset:
    """One noun sense.

    Args:
        id: "n" + 8-digit offset.
        words: its names, underscores replaced by spaces.
        parents: ids it is a kind or an instance of.
    """

    id: str
    words: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class WordNet:
    """All noun synsets, and every noun's senses in order of frequency."""

    synsets: dict[str, Synset]
    senses: dict[str, tuple[str, ...]] = field(repr=False)

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """Synset id -> ids directly below it."""
        below: dict[str, list[str]] = {}
        for synset in self.synsets.values():
            for parent in synset.parents:
                below.setdefault(parent, []).append(synset.id)
        return below

    def descendants(self, id: str) -> set[str]:
        """All ids below, and itself."""
        seen, todo = {id}, [id]
        while todo:
            for child in self.children.get(todo.pop(), ()):
                if child not in seen:
                    seen.add(child)
                    todo.append(child)
        return seen


def read_wordnet(folder: Path = FOLDER) -> WordNet:
    """Read data.noun and index.noun.

    Raises:
        MissingWeights: the files are not there.
    """
    try:
        data = (folder / "data.noun").read_text().splitlines()
        index = (folder / "index.noun").read_text().splitlines()
    except OSError as error:
        raise MissingWeights(
            f"WordNet's noun files are not in {folder}.", "Install Debian's package wordnet-base."
        ) from error
    synsets = [_synset(line) for line in data if not line.startswith("  ")]
    senses = dict(_senses(line) for line in index if not line.startswith("  "))
    return WordNet({s.id: s for s in synsets}, senses)


def _synset(line: str) -> Synset:
    """offset lex_file type n_words(hex) word lex_id … n_pointers symbol offset pos source …"""
    part = line.split(" | ")[0].split()
    n_words = int(part[3], 16)
    words = tuple(part[4 + 2 * i].replace("_", " ") for i in range(n_words))
    at = 4 + 2 * n_words
    pointers = [part[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(part[at]))]
    parents = tuple(f"n{p[1]}" for p in pointers if p[0] in ("@", "@i"))
    return Synset(f"n{part[0]}", words, parents)


def _senses(line: str) -> tuple[str, tuple[str, ...]]:
    """lemma pos n_senses … offset offset …: the offsets are the last n_senses fields."""
    part = line.split()
    offsets = part[len(part) - int(part[2]) :]
    return part[0].replace("_", " "), tuple(f"n{o}" for o in offsets)
