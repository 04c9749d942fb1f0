"""Two drop-downs and a card: what is offered, whose settings are used, and what reaches the page."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import pytest

from vlmdefense_demo.survey import entry, followers, leaders, methods
from vlmdefense_demo.ui import cards, handlers
from vlmdefense_demo.ui.controls import widgets
from vlmdefense_demo.ui.handlers import OUTPUTS, as_outputs
from vlmdefense_demo.ui.live import again
from vlmdefense_demo.ui.pipeline import (
    SLOT,
    choose,
    chosen,
    settings,
    shown_settings,
    slot,
)

BOTH = "fare+ttc"


@pytest.fixture
def piped(form):
    return replace(form, defenses={"fare": {}, BOTH: {"ttc_steps": 1}})


def offered(update):
    return [id for _, id in update["choices"]]


def test_nothing_is_chosen_until_there_are_two():
    assert chosen("", None) == chosen("fare", None) == chosen("", "ttc") == chosen(None, None) == ""
    assert chosen("fare", "ttc") == BOTH


def test_only_what_can_follow_is_offered():
    first, second, card = choose("pocket", "fare", "ttc")
    assert offered(first) == ["", *leaders("pocket")]
    assert offered(second) == list(followers("pocket", "fare"))
    assert (first["value"], second["value"], second["interactive"]) == ("fare", "ttc", True)
    assert card["visible"]
    assert "FARE, then TTC" in card["value"]


@pytest.mark.parametrize(
    ("model", "first", "second", "kept"),
    [
        ("pocket", "fare", "tecoa", ("fare", None)),  # two towers
        ("pocket", "jpeg", "fare", ("jpeg", "fare")),
        ("pocket", "", "ttc", ("", None)),
        ("RN50-openai", "fare", "ttc", ("", None)),  # no such tower for this model
        ("RN50-openai", "jpeg", "ttc", ("jpeg", "ttc")),
    ],
)
def test_what_does_not_fit_any_more_is_dropped(model, first, second, kept):
    one, two, card = choose(model, first, second)
    assert (one["value"], two["value"]) == kept
    assert card["visible"] is bool(chosen(*kept))
    assert two["interactive"] is bool(kept[0])


def test_settings_of_both_parts_are_shown_ticked_or_not():
    rows = methods("defense")
    found = dict(zip(rows, shown_settings("jpeg", "ttc", ["fare"], [], []), strict=True))
    shown = [id for id, update in found.items() if update["visible"]]
    assert shown == [id for id in rows if id in ("fare", "jpeg", "ttc")]


def test_a_pipeline_uses_the_settings_of_its_parts_as_they_stand():
    params = widgets(entry("fare")) | widgets(entry("ttc")) | widgets(entry("rtpt"))
    values = {widget: widget.value for widget in params.values()}
    values[params["ttc", "steps"]] = 5
    found = settings(BOTH, params, values)
    assert entry(BOTH).build(found) == entry(BOTH).cls(ttc_steps=5)
    assert set(found) == {f"fare_{n}" for i, n in params if i == "fare"} | {
        f"ttc_{n}" for i, n in params if i == "ttc"
    }


def test_every_pipeline_has_the_same_place_on_the_page():
    assert slot(BOTH) == slot("jpeg+rtpt") == SLOT
    assert slot("fare") == "fare"
    named = dict(zip(OUTPUTS, as_outputs({BOTH: "x", "fare": "y"}), strict=True))
    assert (named[SLOT], named["fare"], named["ttc"]) == ("x", "y", gr.skip())


def test_a_run_queues_and_fills_the_pipelines_card(site, piped, pocket):
    updates = list(handlers.run(site, piped, "me"))
    seen = [u[BOTH] for u in updates if BOTH in u]
    assert "queued" in seen[0]
    assert any("running …" in html for html in seen)
    assert "FARE, then TTC" in seen[-1]
    assert "How it decided" in seen[-1]
    assert "<dt>TTC: steps</dt><dd>1</dd>" in seen[-1]
    assert "The gradient goes on through FARE" in seen[-1]


def test_the_card_links_both_papers():
    html = cards.placeholder(BOTH, "ready")
    assert all(row.url in html for row in entry(BOTH).rows)
    assert html.count("<a ") == 2


def test_progress_names_the_pipeline(form):
    step = handlers.Step(BOTH, 0, 2)
    assert handlers._progress(step, ["card"]).startswith("FARE, then TTC: step 1")
    climbing = handlers.Step(f"pgd/{BOTH}/adaptive", 0, 2)
    assert "knows FARE, then TTC, adaptive" in handlers._progress(climbing, ["card"])


def test_moving_a_setting_of_a_part_brings_both_cards_again(site, piped, pocket):
    earlier = [u["earlier"] for u in handlers.run(site, piped, "me") if "earlier" in u][-1]
    own, both, said, ran = list(again(site, earlier, "fare", {"alpha": 0.5}))[-1]
    assert "FARE, then TTC" in both
    assert "FARE, then TTC" not in own
    assert "FARE and FARE, then TTC again" in said
    assert ran.request.defenses == {
        "fare": {"alpha": 0.5},
        BOTH: {"ttc_steps": 1, "fare_alpha": 0.5},
    }
    own, both, _, ran = list(again(site, ran, "ttc", {"steps": 3}))[-1]
    assert own == gr.skip()  # TTC by itself did not run
    assert "FARE, then TTC" in both
    assert ran.request.defenses[BOTH] == {"ttc_steps": 3, "fare_alpha": 0.5}
