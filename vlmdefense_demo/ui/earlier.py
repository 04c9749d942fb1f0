"""What one page shows: its last run, and all that later events have added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlmdefense_demo.curves import Curve
from vlmdefense_demo.request import Request
from vlmdefense_demo.types import Card


@dataclass
class Sheet:
    """What events have added to a run, whichever ends first; all that is held of the run shares it.

    An event reads what the page shows when it begins, and others may end before it does.

    Args:
        cards: of the run itself, once it is over.
        moved: newer ones, by method, and the settings they were made with.
        curves: what was drawn of it since.
        left: the page shows another run by now.
    """

    cards: tuple[Card, ...] = ()
    moved: dict[str, Card] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    left: bool = False


@dataclass(frozen=True, eq=False)
class Earlier:
    """What the page shows: the request of the last run, its model, and its undefended card.

    Args:
        cards: the newest of each method, undefended first, once the run is over.
        curves: what was drawn of it since.
        story: read from files and not run here; moved settings wait for a run.
    """

    request: Request
    model: str
    card: Card
    cards: tuple[Card, ...] = ()
    curves: tuple[Curve, ...] = ()
    story: bool = False
    sheet: Sheet = field(default_factory=Sheet)

    def newest(self) -> Earlier:
        """The same with all that was added since it was read."""
        sheet = self.sheet
        cards = {card.method: card for card in sheet.cards or self.cards}
        cards |= sheet.moved if cards else {}
        request = replace(self.request, defenses={**self.request.defenses, **sheet.settings})
        return replace(self, request=request, cards=tuple(cards.values()), curves=sheet.curves)


def leave(before: Earlier | None) -> None:
    """The page shows something else from now on: events that still work on this are too late."""
    if before is not None:
        before.sheet.left = True
