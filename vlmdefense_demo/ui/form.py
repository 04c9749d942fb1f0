"""The page's controls as plain values, the request they make, and the job that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.images import read_upload, to_pixels
from vlmdefense_demo.labels import split_labels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.request import AWARE, Aim, Request, check_request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.types import Card, Images
from vlmdefense_demo.ui import jobs
from vlmdefense_demo.ui.jobs import Place


@dataclass(frozen=True)
class Form:
    """The page's controls as plain values, before anything is checked."""

    picture: str | None
    labels: str
    template: str
    truth: str
    goal: str
    target: str
    second: str | None
    knows: bool
    model: str
    attack: str
    attack_params: Mapping[str, Any]
    defenses: Mapping[str, Mapping[str, Any]]
    seed: float
    learned: Mapping[str, LearnedContext] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The labels as they were typed."""
        return split_labels(self.labels)


@dataclass(frozen=True)
class Comparison:
    """A form, run: its request as soon as it has proved usable, then the cards."""

    form: Form
    place: Place

    @property
    def seconds(self) -> float:
        """How long a GPU may take for it."""
        form = self.form
        values = form.attack, form.attack_params, form.defenses
        return jobs.seconds(*values, len(form.words()), form.knows)

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[Request | Card]:
        """Run it."""
        backbone = self.place.load(note)
        request = prepare(self.form, backbone)
        yield request
        yield from compare(request, backbone, on_progress=note, should_stop=stopped)


def prepare(form: Form, backbone: Backbone) -> Request:
    """The checked request of a form.

    Raises:
        DemoError: anything on the form that cannot be used.
    """
    if not form.picture:
        raise DemoError("There is no picture yet.", "Choose an example or drop one of your own.")
    request = Request(
        _pixels(form.picture, backbone),
        form.words(),
        form.template,
        form.attack,
        form.attack_params,
        form.defenses,
        form.truth.strip() or None,
        _aim(form, backbone),
        int(form.seed),
        rungs=AWARE if form.knows else (),
        exhibits=True,
        looks=True,
        learned=own_prompts(form.model, form.learned),
    )
    check_request(request)
    return request


def own_prompts(model: str, learned: Mapping[str, LearnedContext]) -> dict[str, LearnedContext]:
    """The session's learned prompts that belong to a model."""
    return {id: prompt for id, prompt in learned.items() if prompt.model == model}


def _pixels(path: str, backbone: Backbone) -> Images:
    how = backbone.preprocess
    return to_pixels(how.fit(read_upload(path).image))


def _aim(form: Form, backbone: Backbone) -> Aim:
    """The goal of the form; a second picture that is hidden now is not meant."""
    second = _pixels(form.second, backbone) if form.goal == "picture" and form.second else None
    return Aim.at(form.target, form.goal, second)
