"""Cards as HTML: words, order, numbers, and text that tries to be more than text."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser

import pytest

from tests.ui import stories
from vlmdefense_demo.types import Cost, Note, Rung
from vlmdefense_demo.ui import cards, handlers, headline

METHODS = ("fare", "rtpt", "ttc")


class Tags(HTMLParser):
    """Names and attributes of all elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def bars(html: str) -> list[list[str]]:
    """The classes of each bar's parts, in order."""
    return [
        re.findall(r'<i class="(\w+)"', bar)
        for bar in re.findall(r'<div class="bar".*?</div>', html)
    ]


def everything(labels: tuple[str, ...]) -> dict[str, str]:
    """Every piece of HTML a label can get into."""
    first = stories.undefended(labels)
    order = cards.class_order(first)
    hostile = (Note(labels[0], labels[1]),)
    return {
        "undefended": cards.undefended(first, order),
        "verdict": headline.verdict(first, labels[2]),
        "defence": cards.defence(stories.defended("fare", labels, notes=hostile), order),
        "error": cards.defence(stories.defended("fare", labels, error=labels[0]), order),
        "device": cards.defence(stories.defended("ttc", labels), order),
        "placeholder": cards.placeholder("fare", "queued", labels[0] + labels[1]),
        "status": handlers.status(labels[0] + labels[1]),
    }


@pytest.mark.parametrize("where", everything(stories.HOSTILE))
def test_hostile_labels_stay_text(where):
    labels = stories.HOSTILE
    html = everything(labels)[where]
    assert not [tag for tag, _ in Tags(html).found if tag in ("img", "script")]
    assert not [a for _, attrs in Tags(html).found for a in attrs if a.startswith("on")]
    assert labels[0] not in html
    assert escape(labels[0]) in html


@pytest.mark.parametrize("where", ["undefended", "verdict", "defence"])
def test_a_label_cannot_leave_an_attribute(where):
    label = '" onmouseover="alert(1)'
    html = everything((label, "dog", "lion", "car"))[where]
    assert not [a for _, attrs in Tags(html).found for a in attrs if a.startswith("on")]
    assert label in plain(html)


def test_legend_names_every_class_of_the_bars():
    first = stories.undefended()
    html = cards.undefended(first, cards.class_order(first))
    legend = plain(html[html.index("legend") - 10 :])
    assert legend.endswith("cat lion dog all other labels")


def test_class_order_is_right_answer_then_attackers_then_runner_up():
    labels = ("cat", "dog", "lion", "car")
    card = stories.undefended(
        labels,
        clean=stories.prediction(labels, 0.7, 0.25, 0.05, 0.0),
        attacked=stories.prediction(labels, 0.2, 0.1, 0.05, 0.65),
    )
    assert cards.class_order(card) == ("cat", "car", "dog")


def test_class_order_starts_with_the_persons_label_even_if_nobody_answers_it():
    card = replace(stories.undefended(("cat", "dog", "lion", "car")), reference="car")
    assert cards.class_order(card)[0] == "car"


def test_class_order_of_two_labels_has_two():
    labels = ("cat", "dog")
    card = stories.undefended(
        labels,
        clean=stories.prediction(labels, 0.9, 0.1),
        attacked=stories.prediction(labels, 0.3, 0.7),
    )
    assert cards.class_order(card) == labels


def test_all_cards_show_the_same_classes_in_the_same_order():
    first = stories.undefended()
    order = cards.class_order(first)
    html = cards.undefended(first, order) + "".join(
        cards.defence(stories.defended(m), order) for m in METHODS
    )
    assert len(bars(html)) == 8
    assert {tuple(bar) for bar in bars(html)} == {("right", "wrong", "third", "rest")}


def test_bar_widths_are_the_probabilities_of_the_fixed_classes():
    first = stories.undefended()
    html = cards.defence(stories.defended(), cards.class_order(first))
    widths = re.findall(r'<i class="(\w+)" style="width:([\d.]+)%"', html)
    clean = {name: float(width) for name, width in widths[:4]}
    assert clean == {"right": 60.0, "wrong": 15.0, "third": 20.0, "rest": pytest.approx(5, abs=0.1)}


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("held", "✓ held"), ("fooled", "✗ fooled"), ("wrong_clean", "~ wrong on clean")],
)
def test_verdict_is_a_word_with_a_symbol(verdict, words):
    html = cards.defence(stories.defended(verdict=verdict), ("cat", "lion", "dog"))
    assert f'<span class="chip {verdict}">{words}</span>' in html
    assert f'aria-label="FARE: {words[2:]}"' in html


def test_a_card_gives_no_credit_for_an_attack_that_failed_on_the_model_itself():
    card = stories.defended(flags=("unaware", "attack_failed"))
    html = cards.defence(card, ("cat", "lion", "dog"))
    assert 'aria-label="FARE: untested"' in html
    assert '<span class="chip waiting">untested</span>' in html
    assert 'class="chip held"' not in html
    assert "says nothing about this defence" in plain(html)
    rung = Rung("transfer", "", card.attacked, "held", Cost(), 4.0)
    html = cards.defence(replace(card, ladder=(rung, replace(rung, name="adaptive"))), ("cat",))
    assert 'class="chip held"' in html, "who knows it did put it to the test"


def test_what_a_flag_means_stands_on_a_card_that_carries_it():
    why = "The attack was made against the undefended model"
    assert why in plain(cards.defence(stories.defended(), ("cat",)))
    assert why not in plain(cards.defence(stories.defended(flags=()), ("cat",)))


def test_rungs_that_did_not_run_say_so_and_no_card_says_robust():
    html = cards.defence(stories.defended(), ("cat", "lion", "dog"))
    ladder = plain(re.search(r'<div class="ladder">.*?</div>', html)[0])
    assert ladder == "unaware held white box not run adaptive not run black box not run"
    assert "is robust" not in plain(html)


def test_undefended_waits_until_the_attack_is_measured():
    card = stories.undefended(attacked=None, verdict=None, attack=None)
    order = cards.class_order(card)
    assert "attacking …" in cards.undefended(card, order)
    assert "stopped" in cards.undefended(card, order, "stopped")
    assert plain(headline.verdict(card, "")) == "cat 70 % → …"


def test_error_card_shows_the_sentence_and_neither_answer_nor_cost():
    card = stories.defended(
        error="There are no fare weights.", clean=None, attacked=None, cost=None
    )
    text = plain(cards.defence(card, ("cat", "lion", "dog")))
    assert "did not run" in text
    assert "There are no fare weights." in text
    assert "clean" not in text
    assert "ms" not in text.split()


def test_cost_names_time_ratio_passes_and_device():
    text = plain(cards.defence(stories.defended(), ("cat", "lion", "dog")))
    assert "31 ms ×9.1 · 8 f + 4 b · cpu" in text


def test_settings_and_notes_are_disclosed_in_display_units():
    card = stories.defended("ttc", notes=(
        Note("drift", {"value": 0.25, "threshold": 0.2}, "gauge"),
        Note("entropy", [0.5, 0.25], "series"),
        Note("moved", 0.75, "number"),
    ))  # fmt: skip
    text = plain(cards.defence(card, ("cat", "lion", "dog")))
    assert "drift 0.250 (threshold 0.2)" in text
    assert "entropy 0.500 → 0.250" in text
    assert "moved 0.750" in text
    assert "eps 4 /255" in text


def test_every_flag_of_a_card_is_explained():
    text = plain(cards.defence(stories.defended("rtpt"), ("cat", "lion", "dog")))
    for words in ("attacker unaware :", "optimises at test time :", "randomised :"):
        assert words in text


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.0, "0 %"), (1e-6, "< 0.1 %"), (0.0004, "< 0.1 %"), (0.004, "0.4 %"), (0.006, "1 %"),
        (0.5, "50 %"), (0.99, "99 %"), (0.9949, "99 %"), (0.9951, "99.5 %"), (0.9994, "99.9 %"),
        (0.99951, "> 99.9 %"), (0.9999999, "> 99.9 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_percent_never_rounds_to_nothing_or_everything(p, words):
    assert unescape(cards.per_cent(p)) == words.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "< 1 ms"), (0.0004, "< 1 ms"), (0.0006, "1 ms"), (0.0214, "21 ms"),
        (0.9994, "999 ms"), (0.9996, "1.00 s"), (61.239, "61.24 s"),
    ],
)  # fmt: skip
def test_seconds_change_unit_without_a_gap(seconds, words):
    assert unescape(cards.duration(seconds)) == words


def test_verdict_states_facts_of_the_file():
    text = plain(headline.verdict(stories.undefended(), "precomputed"))
    assert text.startswith("precomputed cat 70 % → lion 65 %")
    for fact in (
        "Attack PGD, 3 of 10 steps", "Result succeeded", "Right answer cat (model's own answer)",
        "L∞ of the file 4 / 255", "L2 5.10", "Pixels changed 97 %", "PSNR · SSIM 38.4 dB · 0.94",
        "Passes 3 f + 3 b + 1 verify", "Time 140 ms on cpu",
    ):  # fmt: skip
        assert fact in text


def test_verdict_of_a_failed_attack_says_failed_and_stays():
    labels = ("cat", "dog", "lion", "car")
    card = stories.undefended(
        attacked=stories.prediction(labels, 0.6, 0.2, 0.1, 0.1),
        attack=stories.attack(success=False, psnr=None, linf=0.0),
    )
    html = headline.verdict(card, "")
    assert 'class="stays"' in html
    assert "Result failed" in plain(html)
    assert "identical" in plain(html)


def test_costs_of_text_passes_stand_beside_the_images():
    cost = Cost(image_forward=16, text_forward=20, text_backward=10, seconds=0.6)
    text = plain(cards.defence(stories.defended("rtpt", cost=cost), ("cat", "lion", "dog")))
    assert "600 ms ×9.1 · 16 f · text 20 f + 10 b · cpu" in text


def test_labels_that_count_as_right_are_drawn_as_one():
    labels = ("cat", "kitten", "dog")
    clean, kitten = (
        stories.prediction(labels, *probs) for probs in ((0.5, 0.25, 0.25), (0.25, 0.625, 0.125))
    )
    card = stories.undefended(labels, clean=clean, attacked=kitten, verdict="held")
    card = replace(card, right=labels[:2])
    order = cards.class_order(card)
    assert order == ("cat", "dog")
    html = cards.undefended(card, order)
    assert bars(html)[1] == ["right", "wrong"]
    assert "width:87.50%" in html
    assert 'class="stays"' in headline.verdict(card, "")
    outside = replace(card, attacked=stories.prediction(labels, 0.1, 0.2, 0.7))
    assert 'class="to"' in headline.verdict(outside, "")
