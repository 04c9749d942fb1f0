"""The survey as data: one typed row a method. Adding a method is one file and one row here.

After Fu & Zhang, "Adversarial Defense in Vision-Language Models: An Overview" (ICICML 2025), which
sorts defences into three paradigms. Pages, endpoints, command lines, tables and contract tests are
generated from these rows; classes are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vlmdefense_demo.errors import UnknownMethod
from vlmdefense_demo.survey.attacks import ATTACKS
from vlmdefense_demo.survey.defenses import DEFENSES, FIRST
from vlmdefense_demo.survey.detectors import DETECTORS
from vlmdefense_demo.survey.entry import Entry, Kind
from vlmdefense_demo.survey.pipeline import THEN, pipeline, refusal
from vlmdefense_demo.types import Paradigm

if TYPE_CHECKING:
    from vlmdefense_demo.attacks.base import Attacker
    from vlmdefense_demo.defenses.base import Defender
    from vlmdefense_demo.detectors.base import Detector

PARADIGMS: dict[Paradigm, tuple[str, str]] = {
    "training_time": ("Training-time", "paid once, before anyone asks"),
    "test_time": ("Test-time adaptation", "paid on every image"),
    "training_free": ("Training-free", "no weight ever changes"),
}

SURVEY: dict[str, Entry] = {e.id: e for e in (*ATTACKS, *DEFENSES, *DETECTORS)}


def entry(id: str, kind: Kind | None = None) -> Entry:
    """The row of a method, or of two defences in a row: "fare+ttc".

    Raises:
        UnknownMethod: no such id, or it is of the other kind.
        InvalidParameter: two defences that cannot follow each other.
    """
    if THEN in id and kind in (None, "defense"):
        return pipeline(id, {part: entry(part, "defense") for part in id.split(THEN)})
    known = methods(kind)
    if id not in known:
        raise UnknownMethod(f"Unknown {kind or 'method'} {id!r}.", f"Known: {', '.join(known)}.")
    return known[id]


def attacker(row: Entry) -> type[Attacker]:
    """The class of an attack's row, with what it needs and whether it answers in seconds."""
    return cast("type[Attacker]", row.cls)


def defender(row: Entry) -> type[Defender]:
    """The class of a defence's row, with the recipe of who attacks it."""
    return cast("type[Defender]", row.cls)


def detector(row: Entry) -> type[Detector]:
    """The class of a detector's row, with its gauge and how it is evaded."""
    return cast("type[Detector]", row.cls)


def unavailable(model: str, paradigm: Paradigm | None = None) -> dict[str, str]:
    """Defences that a model has no weights for -> why, in a sentence."""
    from vlmdefense_demo.models.variants import missing  # torch, which a list of methods needs not

    needed = {e.id: defender(e).weights for e in methods("defense", paradigm).values()}
    reasons = {id: missing(model, weights) for id, weights in needed.items() if weights}
    return {id: why for id, why in reasons.items() if why}


def first(model: str) -> tuple[str, ...]:
    """The defences a page starts with, of those a model has weights for."""
    return tuple(id for id in FIRST if id in usable(model))


def usable(model: str, paradigm: Paradigm | None = None) -> tuple[str, ...]:
    """Defences that a model has weights for, in the survey's order."""
    greyed = unavailable(model, paradigm)
    return tuple(id for id in methods("defense", paradigm) if id not in greyed)


def leaders(model: str) -> tuple[str, ...]:
    """The defences of a model that another can follow."""
    return tuple(id for id in usable(model) if defender(entry(id)).leads)


def followers(model: str, first: str) -> tuple[str, ...]:
    """The defences of a model that can follow `first`, in the survey's order."""
    return tuple(id for id in usable(model) if not refusal(entry(first), entry(id)))


def methods(kind: Kind | None = None, paradigm: Paradigm | None = None) -> dict[str, Entry]:
    """The rows of one kind, or of one paradigm, in the survey's order."""
    return {
        e.id: e
        for e in SURVEY.values()
        if kind in (None, e.kind) and paradigm in (None, e.paradigm)
    }
