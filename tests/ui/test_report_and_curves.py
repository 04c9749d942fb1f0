"""What can be kept of a run, and the curves of it, without a browser and with one."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from tests.ui import stories
from vlmdefense_demo.export import read_story
from vlmdefense_demo.ui import curves, live, report
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.first import STORY
from vlmdefense_demo.ui.story import told


@pytest.fixture(scope="module")
def earlier() -> Earlier:
    """The first paint's story as a run, with one defence."""
    shown = told(read_story(STORY))
    request = replace(shown.request, defenses={"fare": shown.request.defenses["fare"]})
    cards = tuple(c for c in shown.cards if c.method in ("undefended", "fare"))
    return replace(shown, request=request, cards=cards)


def test_a_story_is_told_as_the_run_it_was():
    story = read_story(STORY)
    shown = told(story)
    assert shown.card == story.cards[0]
    assert shown.cards == story.cards
    assert list(shown.request.defenses) == [card.method for card in story.cards[1:]]
    assert shown.request.attack_params == story.cards[0].attack.params
    assert [*shown.request.labels] == story.about["labels"]
    broken = replace(story.cards[0], attack=replace(story.cards[0].attack, png=story.clean))
    assert told(replace(story, cards=(broken, *story.cards[1:]))) is None


def test_a_setting_moved_beside_a_story_waits_for_a_run(site, earlier):
    [(card, *_, ran)] = live.again(site, earlier, "fare", {"alpha": 0.5})
    assert card == ran == gr.skip()


def test_the_report_on_the_page_holds_the_delivered_file(site, earlier):
    path, said = report.make(site, earlier)
    assert said == gr.skip()
    assert Path(path).is_relative_to(site.outbox.root)
    archive = zipfile.ZipFile(io.BytesIO(Path(path).read_bytes()))
    assert archive.read("adversarial.png") == earlier.card.attack.png
    assert len(json.loads(archive.read("report.json"))["cards"]) == 2


@pytest.mark.parametrize("shown", [None, "running"])
def test_before_the_end_of_a_run_there_is_nothing_to_report(site, earlier, shown):
    path, said = report.make(site, shown and replace(earlier, cards=()))
    assert path is None
    assert "nothing to report yet" in said


def test_a_report_that_fails_is_one_sentence(site, earlier, monkeypatch, caplog):
    monkeypatch.setattr(report, "report", lambda *_: 1 / 0)
    path, said = report.make(site, earlier)
    assert path is None
    assert "Something broke" in said
    assert "division" not in said


# curves


def test_figures_follow_from_the_cards_and_say_in_words_what_they_show(earlier):
    margin, price, radius = curves.figures_of(earlier)
    for html in (margin, price):
        assert html.count("<img") == 2  # light and dark
        assert 'class="on-dark"' in html
    assert re.search(r"Margin of the attack: -?\d+\.\d logits at the start", margin)
    assert "rounded to 8 bits" in margin
    assert re.search(r"FARE \d+ ms, clean \d+%, attacked \d+%", price)
    assert "<img" not in radius


def test_titles_are_escaped(earlier):
    card = stories.defended(labels=("cat", "dog"), clean=stories.prediction(("cat", "dog"), 1, 0),
                            attacked=stories.prediction(("cat", "dog"), 0, 1))  # fmt: skip
    hostile = replace(card, title=stories.HOSTILE[0], device='"><img src=x>')
    _, price, _ = curves.figures_of(replace(earlier, cards=(hostile,)))
    assert "<img src=x" not in price


def test_an_attack_without_steps_says_so(earlier):
    card = replace(earlier.card, attack=replace(earlier.card.attack, margins=()))
    assert "no steps with a margin" in curves.figures_of(replace(earlier, card=card))[0]


def test_a_curve_is_streamed_kept_and_its_ends_are_the_cards(site, earlier, pocket):
    *_, (html, said, along, again, stop, kept) = states = list(
        curves.over_radii(site, earlier, "along", "me")
    )
    assert states[0][4].interactive
    assert not states[0][2].interactive
    assert (along.interactive, again.interactive, stop.interactive) == (True, True, False)
    assert "Drawn. One picture" in said
    assert "Along this change" in html
    [curve] = kept.curves
    from vlmdefense_demo.curves import right_prob

    for line, card in zip(curve.lines, kept.cards, strict=True):
        ends = [right_prob(p, card.right) for p in (card.clean, card.attacked)]
        assert [line.probs[0], line.probs[-1]] == pytest.approx(ends, abs=1e-4)
    assert curves.after_a_run(kept) == (gr.skip(),) * 3


def test_an_attack_without_a_radius_is_refused_in_a_sentence(site, earlier, pocket):
    other = replace(earlier.request, attack="ddn", attack_params={})
    *_, (html, said, along, *_) = curves.over_radii(
        site, replace(earlier, request=other), "again", "me"
    )
    assert html == gr.skip()
    assert "has no radius in levels" in said
    assert along.interactive


def test_without_a_run_there_is_no_curve(site):
    [(html, said, *_)] = curves.over_radii(site, None, "along", "me")
    assert html == gr.skip()
    assert "Attack &amp; defend" in said
    assert isinstance(curves.figures_of(None)[0], str)


# in a browser


@pytest.mark.browser
def test_views_switch_in_the_browser_and_flicker_can_be_paused(page):
    images = {"flicker": "flick-attacked", "signed": "signed", "magnitude": "magnitude",
              "spectrum": "spectrum", "looks": "look-attacked"}  # fmt: skip
    for view, shown in images.items():
        page(f"#view input[value={view}]").check(force=True)
        page(f"#{shown}").wait_for(state="attached")
        visible = {v for v, id in images.items() if page(f"#{id}").bounding_box()}
        assert visible == {view}
        assert not page("#pair").is_visible()
    page("#view input[value=flicker]").check(force=True)
    style = "getComputedStyle(document.querySelector('#flick-attacked'))"
    assert page.script(f"{style}.animationDuration") == "1s"
    assert page.script(f"{style}.animationPlayState") == "running"
    page("#pause").click()
    page.tab.wait_for_function(f"{style}.animationPlayState === 'paused'")
    page("#view input[value=pair]").check(force=True)
    assert page("#pair").is_visible()
    assert page("#signed").is_visible()
    assert page.violations("#change") == []


@pytest.mark.browser
def test_nothing_flickers_under_reduced_motion(visit):
    page = visit(reduced_motion="reduce")
    page("#view input[value=flicker]").check(force=True)
    style = "getComputedStyle(document.querySelector('#flick-attacked'))"
    assert page.script(f"{style}.animationName") == "none"
    assert page("#pause").is_hidden()
    left, right = (page(f"#flick-{which}").bounding_box() for which in ("clean", "attacked"))
    assert left["x"] + left["width"] <= right["x"]


@pytest.mark.browser
def test_the_report_of_a_run_is_downloaded_and_opened(page, tmp_path):
    page.choose(0)
    page.labels("cat, dog, =lion")
    page("#choose-test_time").get_by_label("R-TPT").uncheck()
    page.run()
    with page.tab.expect_download() as download:
        page("#report").click()
    path = tmp_path / "report.zip"
    download.value.save_as(path)
    assert download.value.suggested_filename == "report-pgd-seed0.zip"
    archive = zipfile.ZipFile(path)
    about = json.loads(archive.read("report.json"))
    assert [card["method"] for card in about["cards"]] == ["undefended", "fare", "ttc"]
    with page.tab.expect_download() as download:
        page("#download").click()
    assert archive.read("adversarial.png") == Path(download.value.path()).read_bytes()
    page.tab.get_by_role("button", name="Curves:").click()
    assert page.violations("#curves") == []
