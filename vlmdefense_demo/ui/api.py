"""Public endpoints with stable names: /classify /attack /defend /compare /methods /version /health.

Pictures come in through a hidden image component, so that they are uploads and never paths; eps is
in /255 like everywhere people type it. Every argument is checked as on the page.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from textwrap import shorten
from typing import Any

import gradio as gr

from vlmdefense_demo import __version__
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import (
    DemoError,
    InvalidImage,
    UnknownMethod,
)
from vlmdefense_demo.images import Upload, read_upload, to_pixels
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.models.catalog import pick_device
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.survey import SURVEY, usable
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import jobs
from vlmdefense_demo.ui.cards import ranked
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.photo import photo_input
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.wire import read_request
from vlmdefense_demo.ui.worker import COMPUTE

SCHEMA = 1
Json = dict[str, Any]


@dataclass(frozen=True)
class Called:
    """A call: a request whose pictures are not cut to the model's size yet."""

    request: Request
    upload: Upload
    second: Upload | None
    place: Place

    @property
    def seconds(self) -> float:
        """How long a GPU may take for it."""
        return jobs.of_request(self.request)

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[Card]:
        """Run it."""
        backbone, request = self.place.load(note), self.request
        how = backbone.preprocess
        pixels, *other = (to_pixels(how.fit(u.image)) for u in (self.upload, self.second) if u)
        aim = replace(request.aim, picture=other[0]) if other else request.aim
        request = replace(request, image=pixels, aim=aim)
        yield from compare(request, backbone, on_progress=note, should_stop=stopped)


def endpoints(site: Site) -> None:
    """Register all seven inside the current Blocks."""
    calls = Calls(site)
    with gr.Row(visible=False):
        picture = photo_input(label="image")
        labels = gr.JSON(label="labels")
        template = gr.Textbox(DEFAULT_TEMPLATE, label="template")
        attack = gr.Textbox("pgd", label="attack")
        params = gr.JSON(value={}, label="attack_params")
        defenses = gr.JSON(value=list(usable(site.model)), label="defenses")
        target = gr.Textbox("", label="target")
        seed = gr.Number(0, label="seed", precision=0)
        seed.preprocess = _as_sent  # type: ignore[method-assign, assignment]
        model = gr.Textbox(site.model, label="model")
        goal = gr.Textbox("", label="goal")
        second = photo_input(label="second")
        attacker = gr.Textbox("unaware", label="attacker")
        file = gr.Image(format="png", type="filepath", label="adversarial")
        report = gr.JSON(label="report")
        gr.Button().click(
            calls.classify, [picture, labels, template, model], report,
            api_name="classify", **COMPUTE,
        )  # fmt: skip
        gr.Button().click(
            calls.attack,
            [picture, labels, attack, params, target, seed, template, model, goal, second],
            [file, report], api_name="attack", **COMPUTE,
        )  # fmt: skip
        gr.Button().click(
            calls.defend, [picture, labels, defenses, seed, template, model], report,
            api_name="defend", **COMPUTE,
        )  # fmt: skip
        gr.Button().click(
            calls.compare,
            [picture, labels, attack, params, defenses, target, seed, template, model, goal, second,
             attacker],
            [file, report], api_name="compare", **COMPUTE,
        )  # fmt: skip
    gr.api(calls.methods, api_name="methods")
    gr.api(calls.version, api_name="version")
    gr.api(calls.health, api_name="health", queue=False)


def _as_sent(value: Any) -> Any:
    """What came, unconverted: Gradio's own conversion fails without a sentence."""
    return value


class Calls:
    """The endpoints' functions. Errors reach the client as one sentence."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def classify(self, image: str, labels: list[str], template: str, model: str) -> Json:
        """Zero-shot classification.

        Args:
            image: a picture.
            labels: 2 to 100 labels.
            template: prompt with {} for the label.
            model: a catalog name.

        Returns:
            schema, top (label and probability, most probable first), ms.
        """
        card = self._cards(image, labels, template, model)[0]
        return {"schema": SCHEMA} | _row(card)

    def attack(  # noqa: PLR0913 - an endpoint's arguments are its schema
        self, image: str, labels: list[str], attack: str, attack_params: Json, target: str,
        seed: int, template: str, model: str, goal: str = "", second: str | None = None,
    ) -> tuple[str, Json]:  # fmt: skip
        """Make an adversarial picture against the undefended model.

        Args:
            image: a picture.
            labels: 2 to 100 labels.
            attack: an attack id of /methods.
            attack_params: its parameters, eps in /255, for instance {"eps": 4, "steps": 10}.
            target: the label to reach, empty for any wrong one; with goal "caption" a text.
            seed: of all noise.
            template: prompt with {} for the label.
            model: a catalog name.
            goal: wrong, runner-up, least likely, label, caption or picture.
            second: the picture to imitate, for goal "picture".

        Returns:
            the PNG, and what was measured on it.
        """
        cards = self._cards(
            image, labels, template, model, attack=attack or "", attack_params=attack_params,
            target=target, seed=seed, goal=goal, second=second,
        )  # fmt: skip
        return self._file(cards[-1]), {"schema": SCHEMA} | cards[-1].to_json()

    def defend(
        self, image: str, labels: list[str], defenses: list[str] | Json, seed: int, template: str,
        model: str,
    ) -> Json:  # fmt: skip
        """Classify a picture as it is under several defences.

        Args:
            image: a picture.
            labels: 2 to 100 labels.
            defenses: ids of /methods, or {id: parameters}; "fare+ttc" is two in a row.
            seed: of all noise.
            template: prompt with {} for the label.
            model: a catalog name.

        Returns:
            schema, and one row a defence: id, paradigm, top, ms, passes, or its error.
        """
        _, *cards = self._cards(image, labels, template, model, defenses=defenses, seed=seed)
        return {"schema": SCHEMA, "defenses": [_row(card) for card in cards]}

    def compare(  # noqa: PLR0913
        self, image: str, labels: list[str], attack: str, attack_params: Json,
        defenses: list[str] | Json, target: str, seed: int, template: str, model: str,
        goal: str = "", second: str | None = None, attacker: str = "unaware",
    ) -> tuple[str, Json]:  # fmt: skip
        """Attack a picture, then classify both pictures under several defences.

        Args:
            image: a picture.
            labels: 2 to 100 labels.
            attack: an attack id of /methods.
            attack_params: its parameters, eps in /255.
            defenses: ids of /methods, or {id: parameters}; "fare+ttc" is two in a row.
            target: the label to reach, empty for any wrong one; with goal "caption" a text.
            seed: of all noise.
            template: prompt with {} for the label.
            model: a catalog name.
            goal: wrong, runner-up, least likely, label, caption or picture.
            second: the picture to imitate, for goal "picture".
            attacker: "unaware" of the defences, or "aware": then each card has its ladder.

        Returns:
            the PNG, and all cards as JSON.
        """
        cards = self._cards(
            image, labels, template, model, attack=attack or "", attack_params=attack_params,
            defenses=defenses, target=target, seed=seed, goal=goal, second=second,
            attacker=attacker,
        )  # fmt: skip
        final = {card.method: card for card in cards}
        data = [card.to_json() for card in final.values()]
        return self._file(final["undefended"]), {"schema": SCHEMA, "cards": data}

    def methods(self) -> list[dict[str, Any]]:
        """Every attack and defence: id, paradigm, paper, licence, cost, parameters with ranges."""
        return [row.public() for row in SURVEY.values()]

    def version(self) -> dict[str, Any]:
        """Versions of this demo and its libraries, the models it may load, and the device."""
        packages = ("torch", "open_clip_torch", "gradio", "timm")
        return {
            "schema": SCHEMA,
            "vlmdefense_demo": __version__,
            "python": platform.python_version(),
            **{p: version(p) for p in packages},
            "models": list(self.site.models()),
            "device": str(pick_device(self.site.device)),
        }

    def health(self) -> dict[str, Any]:
        """Whether the model can be used now; answers at once, also with a full queue.

        Returns:
            schema, status ("ready", "loading" or "failed"), model, and why it failed.
        """
        site = self.site
        return {
            "schema": SCHEMA, "status": site.health(), "model": site.model, "error": site.trouble,
        }  # fmt: skip

    def _cards(
        self, image: str | None, labels: Any, template: str, model: str, second: str | None = None,
        **fields: Any,
    ) -> list[Card]:  # fmt: skip
        """Run a request in the compute thread; every refusal is a `gr.Error` of one sentence."""
        try:
            request = read_request(labels, template, second=bool(second), **fields)
            there = self.site.models()
            if model not in there:
                raise UnknownMethod(f"Unknown model {model!r}.", f"Known: {', '.join(there)}.")
            if image is None:
                raise InvalidImage("There is no picture.", "Upload one first.")
            upload = read_upload(image)
            target = read_upload(second) if second else None

            place = self.site.at(model)
            return self.site.worker.collect(Called(request, upload, target, place))
        except DemoError as error:
            raise gr.Error(shorten(str(error), 400), print_exception=False) from None

    def _file(self, card: Card) -> str:
        report = card.attack
        assert report is not None
        return self.site.outbox.put(report.png, f"adversarial-{report.method}.png")


def _row(card: Card) -> Json:
    """One method on the clean picture."""
    if card.error or card.clean is None or card.cost is None:
        return {"id": card.method, "paradigm": card.paradigm, "error": card.error}
    top = [{"label": label, "prob": prob} for label, prob in ranked(card.clean)]
    return {
        "id": card.method,
        "paradigm": card.paradigm,
        "top": top,
        "ms": 1000 * card.cost.seconds,
        "passes": asdict(card.cost),
        "device": card.device,
    }
