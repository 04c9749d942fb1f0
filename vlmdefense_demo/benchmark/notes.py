"""What a reader must know beside the table: errors, masked gradients, weak attacks, and what n cannot tell apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import mcnemar, separable
from vlmdefense_demo.benchmark.tables import Cell, Line, columns, lines, title, worlds
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.masking import CANARY_LEVELS

UNBOUNDED = 128  # grey levels: half of the range, where any picture can be any other
WEAK = 0.05
FEW = 4  # names of defences, however many others there are
SENTENCES = {
    "errors": "{name}: {n} results are errors: {error}",
    "flagged": "{name}: {flag} on {n} of {all} pictures",
    "unbounded": "{name}: {left} % survive {column}, which has no bound (GM8)",
    "weak": "{name}: {left} % survive {column}: a weak attack (GM1)",
    "tied": "{column}: {best} cannot be separated from {others}",
    "apart": "{column}: {best} can be separated from {others} and no more",
    "alike": "{column}: {best} cannot be separated from any other",
    "elsewhere": "elsewhere is {worlds}: all their pictures together, those of one picture as one",
    "separable": "on {n} pictures differences below {points} points cannot be separated",
}


class Remark(str):
    """A sentence in English that keeps what it was made of, to be said in another language."""

    key: str
    values: Mapping[str, Any]


def remark(key: str, **values: Any) -> Remark:
    """The sentence of a key.

    Args:
        values: by place; a `column` is a Cell, a `flag` an id, several names are a list.
    """
    text = Remark(SENTENCES[key].format(**{k: _english(k, value) for k, value in values.items()}))
    text.key, text.values = key, values
    return text


def _english(place: str, value: Any) -> Any:
    if place == "column":
        return value.title
    if place == "flag":
        return FLAGS[value][0]
    return ", ".join(value) if isinstance(value, list) else value


def notes(rows: Sequence[Row]) -> Iterator[Remark]:
    """One sentence each, for the page and the terminal."""
    failed: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if row["error"]:
            failed[title(row), row["error"]] += 1
    for (name, error), n in failed.items():
        yield remark("errors", name=name, n=n, error=error)
    yield from _flagged(rows)
    home = [row for row in rows if row["world"] == OWN]
    settings = {line.title: line for line in lines(rows)}
    for cell in columns(home):
        yield from _ties(home, cell, settings)
    far = [world for world in worlds(rows) if world != OWN]
    if far:
        yield remark("elsewhere", worlds=far)
    n = len({row["picture"] for row in home})
    yield remark("separable", n=n, points=f"{100 * separable(n):.1f}")


def _flagged(rows: Sequence[Row]) -> Iterator[Remark]:
    """On how many pictures each check of a defence's gradient raised its flag, and attacks that are weak."""
    checked = [row for row in rows if row["step"] == "gradient" and not row["error"]]
    pictures = Counter(title(row) for row in checked)
    raised = Counter((title(row), flag) for row in checked for flag in row["flags"])
    for (name, flag), n in raised.items():
        yield remark("flagged", name=name, flag=flag, n=n, all=pictures[name])
    for line in lines(rows):
        for cell, left in line.rates.items():
            kept = left.percent()
            if cell.eps >= UNBOUNDED and left.value > 0:
                yield remark("unbounded", name=line.title, left=kept, column=cell)
            elif line.paradigm == "none" and cell.eps >= CANARY_LEVELS and left.low > WEAK:
                yield remark("weak", name=line.title, left=kept, column=cell)


def _ties(rows: Sequence[Row], cell: Cell, settings: Mapping[str, Line]) -> Iterator[Remark]:
    """The best of a column, and those that the pictures, in their first draw, do not separate from it."""
    outcomes: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        at = (row["step"], row["eps"]) == (cell.step, cell.eps)
        if at and not row["error"]:
            outcomes[title(row)].setdefault(row["picture"], row["standing"])
    if len(outcomes) < 2:
        return
    best = max(outcomes, key=lambda name: fmean(outcomes[name].values()))
    same: list[str] = []
    other: list[str] = []
    for name, found in outcomes.items():
        if name != best:
            (other if mcnemar(outcomes[best], found).differ else same).append(name)
    siblings: dict[str, list[str]] = defaultdict(list)
    for name in outcomes.keys() - {best}:
        siblings[settings[name].name].append(name)
    same, other = (_together(names, siblings) for names in (same, other))
    if len(same) <= max(FEW, len(other)):
        if same:
            yield remark("tied", column=cell, best=best, others=same)
    elif other:
        yield remark("apart", column=cell, best=best, others=other)
    else:
        yield remark("alike", column=cell, best=best)


def _together(titles: Sequence[str], siblings: Mapping[str, Sequence[str]]) -> list[str]:
    """The same titles, where all settings of a defence are among them only its name."""
    whole = {t: name for name, some in siblings.items() if set(some) <= set(titles) for t in some}
    return list(dict.fromkeys(whole.get(t, t) for t in titles))
