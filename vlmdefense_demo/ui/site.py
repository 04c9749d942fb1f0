"""What every visitor shares: the compute thread, the outbox, the device and its model."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.ui import gpu
from vlmdefense_demo.ui.files import Outbox
from vlmdefense_demo.ui.jobs import Loading, Place
from vlmdefense_demo.ui.words import tell
from vlmdefense_demo.ui.worker import Worker

logger = logging.getLogger(__name__)
Health = Literal["ready", "loading", "failed"]


@dataclass
class Site:
    """What all handlers share: the compute thread, the outbox, the device."""

    device: str = "auto"
    model: str = "pocket"
    worker: Worker = field(default_factory=Worker)
    outbox: Outbox = field(default_factory=Outbox)
    trouble: str = ""

    def at(self, model: str) -> Place:
        """A model on this site's device."""
        return Place(model, self.device)

    def models(self) -> tuple[str, ...]:
        """What may be chosen: a fork forgets what it loads, so there only what is loaded before it."""
        if gpu.ZERO:
            return gpu.offered(self.model)
        return tuple(dict.fromkeys((*MODELS, self.model)))

    def load(self) -> None:
        """Load the page's own model; a failure is kept as a sentence and raised by no one."""
        try:
            self.worker.collect(Loading(self.at(self.model)))
        except DemoError as error:
            self.trouble = str(error)
            logger.warning("%s", error)

    def health(self) -> Health:
        """Whether the page's own model can be used now; asks for no place in the line."""
        if self.at(self.model).ready:
            return "ready"
        return "failed" if self.trouble else "loading"

    def waiting(self) -> str:
        """What a run waits for that has not begun."""
        if self.health() == "loading":
            return tell("status.early", name=self.model)
        return tell("status.waiting")
