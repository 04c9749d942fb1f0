"""What is asked about each picture: its own label among a few others of its source."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlmdefense_demo.benchmark.sources import Picture
from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.labels import clean_labels, plain

N_LABELS, BATCH = 10, 10
OWN = "own"


@dataclass(frozen=True)
class Task:
    """A batch of pictures that are asked the same question.

    Args:
        labels: the answers to choose from.
        pictures: at most `BATCH`, each with one of these labels.
        world: the source itself, or where else its defences are asked; see worlds.py.
    """

    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    world: str = OWN


def tasks(
    pictures: Sequence[Picture],
    n: int | None = None,
    n_labels: int = N_LABELS,
    batch: int = BATCH,
    world: str = OWN,
) -> list[Task]:
    """The source's words in random groups, and pictures in batches within their group.

    Which pictures and which words go together depends on the source alone, not on how many processes
    share the work; more pictures are the same ones and others, so that a run can be extended.

    Args:
        n: pictures, drawn at random; None takes all.
        n_labels: words of a group; a source with fewer words is one group.

    Raises:
        InvalidLabels: the source has a single word.
    """
    words = sorted({plain(p.label) for p in pictures})
    if len(words) < 2:
        raise InvalidLabels(
            f"All pictures show the same ({words[0]}), so no answer can be wrong.",
            "Add pictures of another class.",
        )
    chosen = random.Random(0).sample(list(pictures), len(pictures))[:n]
    random.Random(0).shuffle(words)
    found = []
    for group in _groups(words, n_labels):
        labels = clean_labels(group)
        mine = [p for p in chosen if plain(p.label) in group]
        rows = (tuple(mine[i : i + batch]) for i in range(0, len(mine), batch))
        found += [Task(labels, row, world) for row in rows]
    return found


def _groups(words: Sequence[str], size: int) -> list[list[str]]:
    """Groups of about equal size, none larger than `size` and none of a single word."""
    count = max(1, -(-len(words) // max(2, size)))
    return [list(words[i::count]) for i in range(count)]
