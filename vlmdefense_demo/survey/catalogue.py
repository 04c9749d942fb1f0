"""The survey as one table: its columns in words, what a reader may filter by, and in which order.

The page's tab and `python -m vlmdefense_demo methods --markdown` print the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from vlmdefense_demo.survey import PARADIGMS, defender, detector, methods
from vlmdefense_demo.survey.entry import Entry, Kind, Published, Status
from vlmdefense_demo.types import Cost

Group = Literal[
    "defenses", "training_time", "test_time", "training_free", "detectors", "attacks", "all"
]
Order = Literal["survey", "newest", "oldest", "name", "cost"]
ORDERS: tuple[Order, ...] = get_args(Order)
STATUSES: tuple[Status, ...] = get_args(Status)
LABELS = 10  # of the request whose cost is quoted: text passes grow with their number
PAID = {
    "training": "at training, once",
    "inference": "at inference, for every image",
    "both": "at training and at inference",
}
BY_ATTACKER = {
    "training": "in advance, by the attacker",
    "inference": "for every image, by the attacker",
}
BY_DETECTOR = {"both": "once for the threshold, then for every image"}
OF_KIND: dict[Kind, Group] = {
    "attack": "attacks", "defense": "defenses", "detector": "detectors"
}  # fmt: skip
COLUMNS: dict[str, Callable[[Entry], str]] = {
    "Method": lambda row: row.title,
    "Paradigm": lambda row: paradigm(row),
    "Paper": lambda row: f"{row.paper}, {row.venue}, {row.url}",
    "Year": lambda row: str(row.year),
    "Licence": lambda row: row.licence,
    "Idea": lambda row: f"{row.idea} {row.detail}",
    "Trains": lambda row: row.trains,
    "Paid": lambda row: paid(row),
    "Cost": lambda row: cost(row),
    "Status here": lambda row: f"{row.status}. {row.remark}".strip(". ") + ".",
    "Published by others": lambda row: "; ".join(map(quote, row.published)) or "none quoted",
}


@dataclass(frozen=True)
class Filter:
    """What to show of the survey, and how to sort it.

    Args:
        group: all defences, those of one paradigm, the detectors, the attacks, or everything.
        status: only this one; "" is any.
        training: only what needs training before use, or only what needs none; None is both.
        since: first year of publication; 0 is any.
        order: the survey's own, by year, by name, or by passes for an image.
    """

    group: Group = "defenses"
    status: Status | Literal[""] = ""
    training: bool | None = None
    since: int = 0
    order: Order = "survey"

    def rows(self) -> list[Entry]:
        """The rows that fit, sorted; ties stay in the survey's order."""
        found = [row for row in methods().values() if self._fits(row)]
        keys: dict[Order, Callable[[Entry], tuple[object, ...]]] = {
            "survey": lambda row: (),
            "newest": lambda row: (-row.year,),
            "oldest": lambda row: (row.year,),
            "name": lambda row: (row.title.casefold(),),
            "cost": _passes,
        }
        return sorted(found, key=keys[self.order])

    def _fits(self, row: Entry) -> bool:
        return (
            self.group in ("all", OF_KIND[row.kind], row.paradigm)
            and self.status in ("", row.status)
            and self.training in (None, row.needs_training)
            and row.year >= self.since
        )


def paradigm(row: Entry) -> str:
    """The paradigm's name; attacks and detectors belong to none."""
    return row.kind.capitalize() if row.paradigm == "none" else PARADIGMS[row.paradigm][0]


def paid(row: Entry) -> str:
    """When the price is paid, and whose it is."""
    words = {"attack": BY_ATTACKER, "defense": PAID, "detector": BY_DETECTOR}
    return words[row.kind][row.paid]


def defaults(row: Entry) -> Cost | None:
    """Passes of one image at the default settings; attacks state a bound only."""
    if row.kind == "attack":
        return None
    method = defender(row)() if row.kind == "defense" else detector(row)()
    return method.expected_cost(LABELS)


def cost(row: Entry) -> str:
    """The formula, and for a defence or a detector what it comes to."""
    found = defaults(row)
    if found is None or found.passes() == row.cost:
        return row.cost
    texts = f", {LABELS} labels" if found.text_forward else ""
    return f"{row.cost} (at its defaults{texts}: {found.passes()})"


def quote(number: Published) -> str:
    """A published number with its setting and where it was read."""
    return f"{number.result} ({number.setting}; {number.source})"


def markdown(rows: Iterable[Entry]) -> Iterable[str]:
    """A Markdown table, line by line."""
    yield _line(COLUMNS)
    yield _line("---" for _ in COLUMNS)
    for row in rows:
        yield _line(words(row) for words in COLUMNS.values())


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _passes(row: Entry) -> tuple[object, ...]:
    """Image passes, then text passes; without a number, as attacks are, last."""
    found = defaults(row)
    if found is None:
        return (True, 0, 0)
    image, text = (
        found.image_forward + found.image_backward,
        found.text_forward + found.text_backward,
    )
    return (False, image, text)
