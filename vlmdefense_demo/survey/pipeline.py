"""Two rows of the survey as one: which defences can follow each other, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.survey.entry import Entry
from vlmdefense_demo.types import Paradigm

if TYPE_CHECKING:
    from vlmdefense_demo.defenses.base import Defender

THEN = "+"


@dataclass(frozen=True)
class Pipeline(Entry):
    """One defence after another, as a row like every other.

    Args:
        parts: the rows of both.
    """

    parts: tuple[Entry, ...] = ()

    @property
    def cls(self) -> type[Defender]:
        """The chain's dataclass, made when it is first needed."""
        from vlmdefense_demo.defenses.pipeline import chained

        one, two = self.parts
        return chained(((one.id, _class(one)), (two.id, _class(two))), (one.title, two.title))

    @property
    def rows(self) -> tuple[Entry, ...]:
        """The rows of both parts."""
        return self.parts

    @property
    def words(self) -> dict[str, str]:
        """Parameters under the name of the part they belong to."""
        return {
            f"{row.id}_{name}": f"{row.title}: {words}"
            for row in self.parts
            for name, words in row.words.items()
        }


def pipeline(id: str, known: Mapping[str, Entry]) -> Pipeline:
    """The row of "first+second".

    Args:
        known: the rows of all defences.

    Raises:
        InvalidParameter: they cannot follow each other, in one sentence with the reason.
    """
    names = tuple(id.split(THEN))
    if len(names) != 2:
        raise InvalidParameter(
            f"A pipeline has two defences, {id!r} names {len(names)}.",
            f"Write first{THEN}second, for instance fare{THEN}ttc.",
        )
    first, second = (known[name] for name in names)
    why = refusal(first, second)
    if why:
        raise InvalidParameter(why, _hint(first, second))
    return _row(first, second)


def refusal(first: Entry, second: Entry) -> str:
    """Why a defence cannot follow another, in a sentence; "" if it can."""
    one, two = first.title, second.title
    time: Paradigm = "training_time"
    if first is second:
        return f"{one} after {one} is one defence of another strength."
    if first.paradigm == second.paradigm == time:
        return (
            f"{one} and {two} were each trained to stand alone: the second would throw the first "
            "away, or not fit it."
        )
    if first.paradigm == time and _class(second).weights:
        return f"{two} was fitted to the model itself, and {one} puts another in its place."
    if _class(second).proves and first.paradigm != time:
        return (
            f"What {two} proves would be about the picture {one} hands over: a small change of the file "
            "may become a large one of that."
        )
    if _class(first).leads:
        return ""
    if second.paradigm == time:
        return f"{two} after {one} comes too late: {one} has answered with the model as it was."
    if _votes(first) and _votes(second):
        return f"{one} and {two} both end in a vote over views, and nobody can vote on a vote."
    return (
        f"{one} ends with an answer: it hands {two} neither a filtered picture nor another model."
    )


@cache
def _row(first: Entry, second: Entry) -> Pipeline:
    flags = tuple(dict.fromkeys(second.flags + first.flags))
    status = first.status if second.status == "faithful" else second.status
    return Pipeline(
        f"{first.id}{THEN}{second.id}",
        f"{first.title}, then {second.title}",
        "defense",
        second.paradigm,
        f"{first.paper}; {second.paper}",
        f"{first.venue} and {second.venue}",
        max(first.year, second.year),
        second.url,
        f"{first.licence}; {second.licence}",
        status,
        f"{first.idea} Then: {second.idea}",
        f"{second.cost}, on what {first.title} hands over",
        "defenses.pipeline:Chain",
        flags,
        (first, second),
        detail=f"{first.title} hands over a model or a picture, and {second.title} answers.",
        trains="; ".join(dict.fromkeys((first.trains, second.trains))),
        paid=first.paid if first.paid == second.paid else "both",
        remark=" ".join(filter(None, (first.remark, second.remark))),
    )


def _hint(first: Entry, second: Entry) -> str:
    if first is not second and not refusal(second, first):
        return f"The other way round it works: {second.id}{THEN}{first.id}."
    return "Filters of the picture and robust towers can come first, anything but a second tower after."


def _class(row: Entry) -> type[Defender]:
    return cast("type[Defender]", row.cls)


def _votes(row: Entry) -> bool:
    from vlmdefense_demo.defenses.multiview import MultiView

    return issubclass(row.cls, MultiView)
