"""Moving a defence's setting runs that defence again on the file that is shown."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import pytest
import torch

from vlmdefense_demo.models import variants
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.survey import methods, unavailable, usable
from vlmdefense_demo.types import Note
from vlmdefense_demo.ui import cards, curves, figures, handlers
from vlmdefense_demo.ui.live import again
from vlmdefense_demo.ui.page import regroup, tick


@pytest.fixture
def earlier(site, form, pocket):
    updates = handlers.run(site, replace(form, defenses={"fare": {}}), "me")
    return [u["earlier"] for u in updates if "earlier" in u][-1]


def test_before_the_first_run_nothing_happens(site):
    [(card, both, status, ran)] = again(site, None, "fare", {"alpha": 0.5})
    assert card == both == ran == gr.skip()
    assert "Attack &amp; defend" in status


def test_a_setting_that_a_story_was_not_run_with_marks_its_card_stale(site, earlier):
    [(_, _, told, _)] = again(site, replace(earlier, story=True), "fare", {"alpha": 0.5})
    [(_, _, nothing, _)] = again(site, None, "fare", {"alpha": 0.5})
    assert "pending" in told
    assert "pending" not in nothing


def test_a_moved_slider_changes_its_card_on_the_same_file(site, earlier):
    ends = [list(again(site, earlier, "fare", {"alpha": alpha}))[-1][0] for alpha in (0, 0.5, 1)]
    assert len(set(ends)) == 3
    assert all("How it decided" in html for html in ends)


def test_alpha_zero_is_the_undefended_model(site, earlier):
    from vlmdefense_demo.engine import redefend

    request = replace(earlier.request, defenses={"fare": {"alpha": 0}})
    [card] = redefend(request, load_model("pocket", site.device), earlier.card)
    assert card.attacked.probs == pytest.approx(earlier.card.attacked.probs, abs=1e-5)
    assert card.verdict == earlier.card.verdict


def test_a_setting_that_is_refused_says_why_on_the_card(site, earlier):
    card, _, status, ran = list(again(site, earlier, "fare", {"alpha": 7}))[-1]
    assert "alpha=7.0 is outside" in card
    assert "failed" in status
    assert ran == gr.skip()


def test_a_defence_that_was_not_run_stays_as_it_is(site, earlier):
    assert list(again(site, earlier, "ttc", {})) == [(gr.skip(),) * 4]


def test_two_settings_moved_quickly_are_both_kept(site, earlier):
    ends = [list(again(site, earlier, "fare", {"alpha": a}))[-1][-1] for a in (0.3, 0.7)]
    assert [e.request.defenses["fare"]["alpha"] for e in ends] == [0.3, 0.7]
    assert earlier.newest().request.defenses == {"fare": {"alpha": 0.7}}
    [_, card] = earlier.newest().cards
    assert card.params["alpha"] == 0.7


def test_a_setting_moved_before_the_run_is_over_loses_no_card(site, form, pocket):
    asked = replace(form, defenses={"fare": {}, "ttc": {}})
    updates = handlers.run(site, asked, "me")
    early = next(u["earlier"] for u in updates if "earlier" in u)
    assert early.cards == ()
    over = [u["earlier"] for u in updates if "earlier" in u][-1]
    *_, (_, _, _, ran) = again(site, early, "fare", {"alpha": 0.5})
    assert [card.method for card in ran.cards] == [card.method for card in over.cards]
    assert ran.cards[1].params["alpha"] == 0.5


def test_what_ends_after_another_run_began_changes_nothing(site, form, earlier, pocket):
    moved = again(site, earlier, "fare", {"alpha": 0.5})
    next(moved)
    drawn = curves.over_radii(site, earlier, "along", "me")
    next(drawn)
    updates = list(handlers.run(site, replace(form, defenses={"fare": {}}), "me", earlier))
    assert [u for u in updates if "earlier" in u]
    assert list(moved) == []
    *_, last = drawn
    assert "shows something else" in last[1]
    assert last[0] == last[-1] == gr.skip()
    [(card, *_, ran)] = again(site, earlier, "fare", {"alpha": 0.5})
    assert card == ran == gr.skip()


def test_a_card_that_comes_again_has_its_warnings(site, form, pocket):
    updates = list(handlers.run(site, replace(form, defenses={"bits": {"bits": 3}}), "me"))
    ran = [u["earlier"] for u in updates if "earlier" in u][-1]
    *_, (_, _, _, moved) = again(site, ran, "bits", {"bits": 3})
    assert "wrong_gradient" in ran.cards[1].flags
    assert moved.cards[1].flags == ran.cards[1].flags


def test_ticking_shows_a_card():
    rows = methods("defense", "training_time")
    shown = [u["visible"] for u in tick("training_time", ["fare"])]
    assert shown == [id == "fare" for id in rows]


def test_only_what_exists_for_a_model_can_be_ticked():
    boxes = regroup("RN50-openai", {}, ["fare"], ["rtpt"], ["ttc"])
    assert [b["value"] for b in boxes[:3]] == [[], ["rtpt"], ["ttc"]]
    assert "fare" not in [id for _, id in boxes[0]["choices"]]
    greyed = dict(zip(("training_time", "test_time", "training_free"), boxes[3:], strict=True))
    for id in unavailable("RN50-openai"):
        assert methods()[id].title in greyed[methods()[id].paradigm]
    assert "ViT-B-32" in greyed["training_time"]  # where the weights exist
    assert greyed["training_free"] == ""


def test_a_prompt_of_ones_own_can_be_ticked_for_its_model_and_is():
    own = {"advpt": LearnedContext(torch.zeros(4, 8), model="RN50-openai")}
    box = regroup("RN50-openai", own, [], [], [])[0]
    assert box["value"] == ["advpt"]
    assert ("AdvPT", "advpt") in box["choices"]
    assert regroup("ViT-B-32-openai", own, [], [], [])[0]["value"] == []


def test_every_defence_is_usable_or_greyed_with_a_reason():
    for model in ("pocket", "ViT-B-32", "RN50-openai"):
        reasons = unavailable(model)
        assert sorted([*usable(model), *reasons]) == sorted(methods("defense"))
        assert all(why == variants.missing(model, id) for id, why in reasons.items())


def test_curves_are_drawn_with_their_names_apart():
    note = Note(
        "t", {"x": [0, 0.5, 1], "clean": [1, 0.9, 0.9], "attacked": [0, 0.5, 0.89]}, "curves"
    )
    svg = figures.figure(note)
    assert svg.count("<polyline") == 2
    assert ">clean</text>" in svg
    assert ">attacked</text>" in svg
    heights = [float(part.split('"')[0]) for part in svg.split('class="name"')[1:] for part in [part.split(' y="')[1]]]  # fmt: skip
    assert abs(heights[0] - heights[1]) >= 12


def test_figures_escape_what_people_wrote():
    hostile = "<img src=x onerror=alert(1)>"
    html = figures.figure(Note(hostile, [[hostile, "AAAA"]], "images"))
    assert "<img src=x" not in html
    assert "&lt;img" in html
    assert figures.figure(Note("n", "text")) == ""


def test_the_trade_off_curve_is_on_the_card_after_a_run(site, form, pocket):
    form = replace(form, defenses={"fare": {}})
    last = [
        u["fare"] for u in handlers.run(site, form, "me") if "How it decided" in u.get("fare", "")
    ]
    assert "vd-figure" in last[-1]
    assert cards.greyed({}) == ""
