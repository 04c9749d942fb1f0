"""What a reader must know beside the table: errors, masked gradients, weak attacks, and what n cannot tell apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean

from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import mcnemar, separable
from vlmdefense_demo.benchmark.tables import AT_MOST, Cell, columns, lines, title, worlds
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.masking import CANARY_LEVELS

UNBOUNDED = 128  # grey levels: half of the range, where any picture can be any other
WEAK = 0.05
FEW = 4  # names of defences, however many others there are


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """One sentence each, in words for the page and the terminal."""
    failed: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if row["error"]:
            failed[title(row), row["error"]] += 1
    for (name, error), n in failed.items():
        yield f"{name}: {n} results are errors: {error}"
    yield from _flagged(rows)
    home = [row for row in rows if row["world"] == OWN]
    for cell in columns(home):
        yield from _ties(home, cell)
    if any(line.bounds for line in lines(rows)):
        yield (
            f"{AT_MOST.strip()}: not attacked itself, but shown what broke the setting that was; an attack "
            "of its own could only break more"
        )
    far = [world for world in worlds(rows) if world != OWN]
    if far:
        yield f"elsewhere is {', '.join(far)}: all their pictures together, those of one picture as one"
    n = len({row["picture"] for row in home})
    yield f"on {n} pictures differences below {100 * separable(n):.1f} points cannot be separated"


def _flagged(rows: Sequence[Row]) -> Iterator[str]:
    """On how many pictures each check of a defence's gradient raised its flag, and attacks that are weak."""
    checked = [row for row in rows if row["step"] == "gradient" and not row["error"]]
    pictures = Counter(title(row) for row in checked)
    raised = Counter((title(row), flag) for row in checked for flag in row["flags"])
    for (name, flag), n in raised.items():
        yield f"{name}: {FLAGS[flag][0]} on {n} of {pictures[name]} pictures"
    for line in lines(rows):
        for cell, left in line.rates.items():
            if cell.eps >= UNBOUNDED and left.value > 0:
                yield f"{line.title}: {left.percent()} % survive {cell.title}, which has no bound (GM8)"
            elif line.paradigm == "none" and cell.eps >= CANARY_LEVELS and left.low > WEAK:
                yield f"{line.title}: {left.percent()} % survive {cell.title}: a weak attack (GM1)"


def _ties(rows: Sequence[Row], cell: Cell) -> Iterator[str]:
    """The best defence of a column, and those that the pictures, in their first draw, do not separate."""
    outcomes: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        if (row["step"], row["eps"]) == (cell.step, cell.eps) and not row["error"]:
            outcomes[title(row)].setdefault(row["picture"], row["standing"])
    if len(outcomes) < 2:
        return
    best = max(outcomes, key=lambda name: fmean(outcomes[name].values()))
    same: list[str] = []
    other: list[str] = []
    for name, found in outcomes.items():
        if name != best:
            (other if mcnemar(outcomes[best], found).differ else same).append(name)
    if len(same) > max(FEW, len(other)):
        yield f"{cell.title}: {best} can be separated from {', '.join(other) or 'nothing'} and no more"
    elif same:
        yield f"{cell.title}: {best} cannot be separated from {', '.join(same)}"
