"""The tables of words, the look-up, whom it listens to, and what is said again in a language."""

from __future__ import annotations

from copy import deepcopy
from string import Formatter

import pytest

from vlmdefense_demo import labels
from vlmdefense_demo.errors import DemoError, InvalidImage, InvalidLabels
from vlmdefense_demo.geometry import check_step_size
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.judging import find_label
from vlmdefense_demo.models.variants import find
from vlmdefense_demo.request import Aim, Request, check_request
from vlmdefense_demo.survey import unavailable
from vlmdefense_demo.training.classroom import Homework
from vlmdefense_demo.ui import bench, classroom
from vlmdefense_demo.ui.link import read_link, read_query
from vlmdefense_demo.ui.words import (
    ENGLISH,
    LANGUAGES,
    joined,
    language,
    refused,
    said,
    spoken,
    tell,
)

GERMAN, CHINESE = LANGUAGES["de"], LANGUAGES["zh"]
OTHERS = [words for words in LANGUAGES.values() if words is not ENGLISH]


def places(text: str) -> list[str]:
    return sorted(place for _, place, _, _ in Formatter().parse(text) if place is not None)


def worded(text: str) -> bool:
    """Whether there is more in it than places, numbers and signs."""
    return any(sign.isalpha() for part, *_ in Formatter().parse(text) for sign in part)


# the tables


def test_three_languages_are_there_by_their_own_names():
    assert [(w.code, w.tag, w.name) for w in LANGUAGES.values()] == [
        ("en", "en", "English"), ("zh", "zh-CN", "中文"), ("de", "de", "Deutsch"),
    ]  # fmt: skip


@pytest.mark.parametrize("words", OTHERS, ids=lambda w: w.code)
def test_every_language_has_the_same_keys_and_places(words):
    assert words.table.keys() == ENGLISH.table.keys()
    for key, text in ENGLISH.table.items():
        assert places(words.table[key]) == places(text), key


@pytest.mark.parametrize("words", LANGUAGES.values(), ids=lambda w: w.code)
def test_no_words_are_missing_or_markup(words):
    for key, text in words.table.items():
        assert text.strip(), key
        assert not set(text) & set("<>\r"), key


@pytest.mark.parametrize("words", OTHERS, ids=lambda w: w.code)
def test_sentences_are_translated(words):
    names = {"verdict.quality", "caption.gradient.end"}  # of quantities
    texts = {key: text for key, text in ENGLISH.table.items() if " " in text and worded(text)}
    assert {key for key, text in texts.items() if words.table[key] == text} <= names


def test_a_sentence_starts_with_a_space_where_the_next_one_needs_it():
    """What is put together from parts has the same gaps in German as in English."""
    for key, text in ENGLISH.table.items():
        assert text[0].isspace() == GERMAN.table[key][0].isspace(), key


# the look-up


def test_a_value_is_put_in_its_place_and_not_read_as_a_template():
    assert GERMAN("settings", title="{0} {x}") == "{0} {x}: Einstellungen"
    assert ENGLISH("prompt.info") == "{} is the label"


def test_an_unknown_key_is_a_bug():
    with pytest.raises(KeyError):
        ENGLISH("no.such.key")


@pytest.mark.parametrize(
    ("code", "header", "expected"),
    [
        ("de", "zh-CN", "de"),
        ("zh", None, "zh"),
        ("en", "de", "en"),
        ("xx", "de-AT,de;q=0.9,en;q=0.8", "de"),
        ("", "fr, zh-TW;q=0.4, en;q=0.6", "en"),
        (None, "fr;q=0.9, zh-Hans-CN;q=0.5, *;q=0.1", "zh"),
        (None, "de;q=0, en;q=0.1", "en"),
        (None, "de;q=nonsense", "en"),
        (None, "DE", "de"),
        (None, "fr, es", "en"),
        ("<script>", ",;,q=;" * 5000, "en"),
        (None, None, "en"),
    ],
)
def test_the_address_decides_then_the_browser_then_english(code, header, expected):
    assert language(code, header) is LANGUAGES[expected]


# what is said


def test_english_text_can_be_said_again():
    text = tell("settings", title="TTC")
    assert text == "TTC settings"
    assert GERMAN.say(text) == "TTC: Einstellungen"
    assert ENGLISH.say(text) == text
    assert GERMAN.say("plain") == "plain"
    assert GERMAN.say(None) is None


def test_values_are_said_in_the_same_language():
    text = tell("defences", paradigm=tell("test_time"))
    assert text == "Test-time adaptation defences"
    assert CHINESE.say(text) == "测试时自适应防御"
    assert GERMAN.say(joined(tell("done"), " · ", tell("held"))) == "Fertig. · hält"


def test_gradio_may_copy_it_and_ask_for_its_text():
    for copy in (deepcopy(tell("stop")), str(tell("stop"))):
        assert copy == "Stop"
        assert GERMAN.say(copy) == "Stopp"


def test_an_update_is_said_wherever_it_holds_words():
    update = [{"choices": [(tell("pair.none"), "")], "value": ""}, tell("held"), 3, None]
    assert spoken(update, GERMAN) == [{"choices": [("keine", "")], "value": ""}, "hält", 3, None]
    assert update[1] == "held"


def test_two_languages_do_not_touch_each_other():
    asked = []
    text = said(lambda words: asked.append(words.code) or words("held"))
    both = [words.say(text) for words in (GERMAN, CHINESE, GERMAN)]
    assert both == ["hält", "守住", "hält"]
    assert (asked, text) == (["en", "de", "zh", "de"], "held")


# refusals, word for word as they are raised


def refuse_request(**changes):
    facts = {"image": None, "labels": "cat, dog", "template": "a photo of a {}."} | changes
    check_request(Request(**facts))


def refuse_link(query):
    fresh = {"labels": ["cat", "dog"], "template": "a {}", "model": "pocket", "attack": "pgd",
             "params": {}, "defenses": {}}  # fmt: skip
    read_link(read_query(query), fresh, {})


REFUSED = {
    "no file": lambda: read_upload("/nowhere/x.png"),
    "empty": lambda: read_upload(b""),
    "no picture": lambda: read_upload(b"text"),
    "heavy": lambda: read_upload(b"0" * (9 << 20)),
    "one label": lambda: labels.clean_labels("cat"),
    "many labels": lambda: labels.clean_labels([f"a{i}" for i in range(101)]),
    "long label": lambda: labels.clean_labels(["a" * 81, "b"]),
    "same": lambda: labels.grouped_labels("a = b"),
    "template": lambda: labels.clean_template("a photo"),
    "long template": lambda: labels.clean_template("{}" + "a" * 120),
    "unlisted": lambda: find_label(("cat", "dog"), "lion"),
    "no target": lambda: refuse_request(aim=Aim("label", "")),
    "no text": lambda: refuse_request(aim=Aim("caption", "")),
    "no second": lambda: refuse_request(aim=Aim("picture")),
    "needs text": lambda: refuse_request(attack="caption"),
    "needs second": lambda: refuse_request(attack="image_target"),
    "range": lambda: refuse_request(attack_params={"steps": 0}),
    "range with a unit": lambda: refuse_request(attack_params={"eps": 999}),
    "no room": lambda: refuse_request(attack_params={"eps": 0.1}),
    "wide step": lambda: check_step_size(8 / 255, 1 / 255),
    "no weights": lambda: find("pocket", "fap"),
    "no radius": lambda: bench.asked(["bundled", None, 8, [], False, []], {}),
    "few classes": lambda: Homework("apt", {"cat": []}).photos(),
    "few pictures": lambda: Homework("apt", {"cat": [("a", b"")], "dog": []}).photos(),
    "no pictures": lambda: Homework("apt", {"cat": [], "dog": []}).photos(),
    "unnamed class": lambda: classroom.homework("apt", [""], [["x.png"]]),
    "old link": lambda: refuse_link("?v=7&attack=pgd"),
    "link without a version": lambda: refuse_link("?attack=pgd"),
    "endless link": lambda: read_query("?v=1&labels=" + "a" * 13_000),
}


@pytest.mark.parametrize("words", OTHERS, ids=lambda w: w.code)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_most_is_said_in_the_language(what, words):
    with pytest.raises(DemoError) as caught:
        REFUSED[what]()
    error = caught.value
    sentence = refused(error)
    assert sentence == str(error)
    assert words.refusal(error.message) != error.message
    assert not error.hint or words.refusal(error.hint) != error.hint
    assert words.say(sentence) == words.refusals(str(error))


def test_a_refusal_keeps_its_values():
    with pytest.raises(DemoError) as caught:
        labels.clean_labels(["<b>" * 27, "b"])
    assert GERMAN.say(refused(caught.value)).startswith("Ein Label hat 81 Zeichen („<b><b>")


def test_a_refusal_without_a_translation_stays_as_it_is():
    error = InvalidImage("Something nobody has translated.", "Do this.")
    assert GERMAN.say(refused(error)) == str(error)
    assert GERMAN.refusals("A sentence. Another.") == "A sentence. Another."


def test_why_a_method_is_not_here_is_said_in_the_language():
    for why in unavailable("pocket").values():
        assert CHINESE.refusals(why) != why
        assert "weights" not in CHINESE.refusals(why)


def test_in_chinese_a_sentence_that_stayed_english_keeps_its_distance():
    error = InvalidLabels("Nobody translated this.", "Shorten it.")
    said = LANGUAGES["zh"].say(refused(error))
    assert said == f"Nobody translated this. {LANGUAGES['zh']('error.label.hint')}"
