"""The table of a run: a line a card, in every language, and of the run that is shown."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.ui import stories
from vlmdefense_demo.stories.facts import load, percent
from vlmdefense_demo.stories.recipes import RECIPES
from vlmdefense_demo.types import Rung
from vlmdefense_demo.ui.compare import table
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.words import LANGUAGES

EVERY = pytest.mark.parametrize("words", LANGUAGES.values(), ids=LANGUAGES)


def earlier(*cards):
    return Earlier(request=None, model="pocket", card=cards[0], cards=cards)


def lines(html):
    """Text of every cell, line by line."""
    rows = re.findall("<tr>(.*?)</tr>", html)[1:]
    return [re.sub("<[^>]*>", "|", row).split("||") for row in rows]


@EVERY
def test_a_line_a_card_with_its_answers_verdict_and_price(words):
    facts = load(RECIPES[0])
    cards = facts.story.cards
    found = lines(words.say(table(earlier(*cards))))
    assert len(found) == len(cards)
    for cells, card in zip(found, cards, strict=True):
        text = " ".join(cells)
        assert f"{card.clean.label} {percent(card.clean.prob)}" in text.replace(
            "&lt;", "<"
        ).replace("&gt;", ">")
        assert words(card.verdict) in text
        assert card.method == "undefended" or card.title in text
        assert f"×\u00a0{card.slowdown:.1f}" in text if card.slowdown else "×" not in text
    assert words("undefended") in " ".join(found[0])


@EVERY
def test_before_anything_ran_it_says_so(words):
    assert words("compare.empty") in words.say(table(None))
    assert "<table" not in words.say(table(None))


def test_the_last_column_is_about_who_knows_and_not_about_the_old_picture():
    card = next(
        c for c in load(RECIPES[0]).story.cards if c.broken_by and c.broken_by.name == "transfer"
    )
    old, *_ = card.ladder
    tried = replace(old, name="white_box", verdict="held")
    assert isinstance(tried, Rung)
    known = lines(table(earlier(card, replace(card, ladder=(old, tried)))))[1]
    assert "held" in " ".join(known)
    assert "white box" in " ".join(known)
    assert "not run" in " ".join(lines(table(earlier(card, replace(card, ladder=(old,)))))[1])


def test_nothing_was_held_where_the_attack_failed_on_the_model_itself():
    card = replace(load(RECIPES[0]).story.cards[1], verdict="held", flags=("attack_failed",))
    old, *_ = card.ladder
    known = replace(old, name="adaptive", verdict="held")
    [line] = lines(table(earlier(replace(card, ladder=(old, known)))))
    assert "untested" in line[3]
    assert "✓ held" in line[5]


def test_hostile_words_and_errors_are_text():
    card = load(RECIPES[0]).story.cards[1]
    bad = stories.HOSTILE[0]
    answer = replace(card.clean, labels=(bad,) * len(card.clean.labels))
    html = table(earlier(replace(card, clean=answer, reference=bad), replace(card, error=bad)))
    assert "<img" not in html
    assert html.count("&lt;img") >= 3


# in a browser


def test_the_table_is_that_of_the_run_that_is_shown(page):
    tab = page.tab.locator("#compare")
    tab.get_by_text("FARE").wait_for()
    assert "Right is coffee." in tab.inner_text()
    page.choose(0)
    page("#go").click()
    tab.get_by_text("once a run is over").wait_for()
    tab.get_by_text("Right is").wait_for(timeout=120_000)
    assert "Right is coffee." not in tab.inner_text()
    assert "FARE" in tab.inner_text()
    page.settle()
    assert page.violations("#compare") == []


def test_a_story_brings_its_own_table_and_prices(page):
    tab, price = page.tab.locator("#compare"), page("#chart-price img").first
    tab.get_by_text("Right is coffee.").wait_for()
    page("#curves button").first.click()
    before = price.get_attribute("alt")
    page("#stories").get_by_label("The price of robustness", exact=True).check()
    tab.get_by_text("Right is rocket.").wait_for()
    assert price.get_attribute("alt") != before
    assert page.script("document.body.classList.contains('stale')") is False
