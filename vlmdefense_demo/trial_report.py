"""Rows of a trial as a table with intervals, and the signs of masked gradients among them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.survey import entry
from vlmdefense_demo.training.report import wilson

Row = dict[str, Any]
Cell = tuple[str, str, float, str]  # defence, attack, radius in grey levels, rung
UNBOUNDED = 128


def read_rows(*files: Path) -> list[Row]:
    """The rows of JSONL files; a last line cut short by a kill is left out."""
    rows = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: fooled among the photos answered rightly before, with 95 % Wilson intervals."""
    cells = {name: list(found.values()) for name, found in _cells(rows).items()}
    for defense, attack, eps in dict.fromkeys(name[:3] for name in cells):
        group = {n[3]: c for n, c in cells.items() if n[:3] == (defense, attack, eps)}
        for rung, found in group.items():
            yield _line(f"{defense:10} {attack:13} eps {eps:<4g} {rung:11}", found)
        if len(group) > 1:
            yield _line(f"{defense:10} {attack:13} eps {eps:<4g} {'worst':11}", _worst(group))
    yield from _flags(rows)
    failed = sum(row["rung"] == "error" for row in rows)
    if failed:
        yield f"{failed} results are errors"


def _flags(rows: Sequence[Row]) -> Iterator[str]:
    """On how many cards of a defence each check of its gradient raised its flag."""
    cards: dict[str, dict[tuple[Any, ...], list[str]]] = defaultdict(dict)
    for row in rows:
        cards[row["defense"]][row["photo"], row["attack"], row["eps"]] = row["flags"]
    for defense, found in cards.items():
        always = entry(defense).flags if defense != "undefended" else ()
        raised = Counter(flag for flags in found.values() for flag in flags)
        for flag in sorted(raised.keys() - set(always)):
            yield f"{defense:10} flag {flag:16} on {raised[flag]} of {len(found)} cards"


def _cells(rows: Sequence[Row]) -> dict[Cell, dict[str, Row]]:
    """Rows by cell and photo; what two files both measured counts once.

    Raises:
        InvalidParameter: a cell would put together different models, weights or settings.
    """
    ways: dict[Cell, Any] = {}
    cells: dict[Cell, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row["rung"] != "error":
            name = (row["defense"], row["attack"], row["eps"] or 0, row["rung"])
            if ways.setdefault(name, row["with"]) != row["with"]:
                raise InvalidParameter(
                    f"The rows of {name[0]} are of different models, weights or settings.",
                    "Keep one file for each, and print their tables one by one.",
                )
            cells[name][row["photo"]] = row
    return cells


def _worst(group: dict[str, list[Row]]) -> list[Row]:
    """Photo by photo, the rung that did most damage, among photos that met every rung."""
    by_photo: dict[str, list[Row]] = defaultdict(list)
    for found in group.values():
        for row in found:
            by_photo[row["photo"]].append(row)
    full = [rows for rows in by_photo.values() if len(rows) == len(group) or not rows[0]["clean"]]
    return [max(rows, key=lambda row: row["verdict"] == "fooled") for rows in full]


def _line(name: str, rows: Sequence[Row]) -> str:
    right = [row for row in rows if row["clean"]]
    if not right:
        return f"{name} no photo was right before"
    fooled = sum(row["verdict"] == "fooled" for row in right)
    low, high = wilson(fooled, len(right))
    mean = [sum(row[k] for row in right) / len(right) for k in ("f", "b", "s")]
    drawn = [row["wrong"] for row in right if row.get("wrong") is not None]
    fresh = f"  fresh draws wrong {sum(drawn) / len(drawn):.1%}" if drawn else ""
    return (
        f"{name} fooled {fooled / len(right):6.1%} [{low:.1%}, {high:.1%}] of {len(right)} "
        f"(clean {len(right)}/{len(rows)})  {mean[0]:.0f} f + {mean[1]:.0f} b, {mean[2]:.2f} s"
        f"{fresh}"
    )


def indicators(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: GM6, GM8, GM10 and GM13, as far as the rows can tell."""
    cells = _cells(rows)
    for name, found in cells.items():
        yield from _one_cell(name, list(found.values()))
        for other, more in cells.items():
            yield from _two_cells(name, found, other, more)


def _one_cell(name: Cell, rows: Sequence[Row]) -> Iterator[str]:
    standing = sum(row["clean"] and row["verdict"] == "held" for row in rows)
    if name[2] >= UNBOUNDED and standing:
        yield f"GM8 {_words(name)}: {standing} photos survive an unbounded attack"
    clean, right = (sum(row[k] for row in rows) for k in ("clean", "right"))
    if right > clean:
        yield f"GM13 {_words(name)}: {right} photos are right under attack, {clean} before it"


def _two_cells(
    name: Cell, found: dict[str, Row], other: Cell, more: dict[str, Row]
) -> Iterator[str]:
    """A weak attack that beats a strong one, and a small radius that beats a large one."""
    if name[:1] + name[2:] == other[:1] + other[2:] and (name[1], other[1]) == ("fgsm", "pgd"):
        lost = _only_first(found, more)
        if lost:
            yield f"GM6 {_words(name)}: fools {lost} photos that {other[1]} does not"
    if name[:2] + name[3:] == other[:2] + other[3:] and 0 < name[2] < other[2]:
        lost, won = _only_first(found, more), _only_first(more, found)
        if lost > won:
            yield f"GM10 {_words(name)}: fools {lost} photos that eps {other[2]:g} does not"


def _only_first(one: dict[str, Row], two: dict[str, Row]) -> int:
    both = one.keys() & two.keys()
    return sum(
        one[p]["clean"] and one[p]["verdict"] == "fooled" and two[p]["verdict"] == "held"
        for p in both
    )


def _words(name: Cell) -> str:
    return f"{name[0]}, {name[1]}, eps {name[2]:g}, {name[3]}"
