"""What jobs have in common: which model, on which device, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.ladder import INTERACTIVE
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import is_loaded, load_model
from vlmdefense_demo.models.variants import load_twin, variants
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.survey import entry
from vlmdefense_demo.training.classroom import TOWERS
from vlmdefense_demo.types import Cost

# Seconds on a GPU, generously: one step of an attack, and one sample of a defence's batches.
STEP, SAMPLE = 0.03, 0.004
MANY = 60.0  # of what asks for as much as there is
ANSWERS = 6  # of a defence: both pictures, timed and repeated, checks and exhibits


@dataclass(frozen=True)
class Place:
    """Where a job computes."""

    model: str
    device: str

    def load(self, note: Progress) -> Backbone:
        """The shared backbone; a download is announced as a step without a total."""
        return load_model(self.model, self.device, say=lambda sentence: note(sentence, 0, 0))

    @property
    def ready(self) -> bool:
        """Whether the model is in memory."""
        return is_loaded(self.model, self.device)

    def preload(self) -> None:
        """The model and every robust tower of it, so that a fork of this process has them."""
        backbone = load_model(self.model, self.device)
        for tower in TOWERS:
            for variant in variants(self.model, tower):
                load_twin(backbone, tower, variant.eps)


@dataclass(frozen=True)
class Loading:
    """Loads a model; yields the device it is on."""

    place: Place
    seconds: float = MANY

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[str]:
        """Load it."""
        yield str(self.place.load(note).device)


def of_request(request: Request) -> float:
    """Seconds of a GPU a request may take."""
    values = request.attack, request.attack_params, request.defenses
    return seconds(*values, len(request.typed()), bool(request.rungs))


def seconds(
    attack: str | None,
    params: Mapping[str, Any],
    defenses: Mapping[str, Mapping[str, Any]],
    labels: int,
    knows: bool = False,
) -> float:
    """Seconds of a GPU a comparison may take: the attack's steps, the passes of the defences.

    Args:
        params, defenses: in display units; what cannot be used is refused before any pass.
        labels: how many.
        knows: an attacker tries each defence, too.
    """
    try:
        found = 0.0
        if attack:
            attacker = entry(attack, "attack").build(dict(params))
            found = STEP * attacker.expected_steps(labels)
        for id, values in defenses.items():
            cost = entry(id, "defense").build(dict(values)).expected_cost(labels)
            found += _answer(cost) * (ANSWERS + knows * _tries())
    except DemoError:
        return 0.0
    return found


def _answer(cost: Cost) -> float:
    image = cost.image_forward + cost.image_backward
    return SAMPLE * (image + cost.text_forward + cost.text_backward)


def _tries() -> int:
    """Answers of a defence one who knows it asks for, forward and backward."""
    budget = INTERACTIVE
    return 2 * (budget.steps + budget.adaptive_steps * budget.draws) + budget.queries
