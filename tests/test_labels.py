"""Labels and templates as people type them, and as people attack them."""

from __future__ import annotations

import unicodedata

import pytest

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.labels import clean_labels, clean_template, fill, grouped_labels


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("cat, dog", ("cat", "dog")),
        ("cat\ndog\n", ("cat", "dog")),
        (" cat ,, ,\n dog ,", ("cat", "dog")),
        (["cat", "dog", "Cat", " CAT "], ("cat", "dog")),
        (["Straße", "STRASSE", "x"], ("Straße", "x")),
        (["a  b", "a\tb", "c"], ("a b", "c")),
        (["one, two", "three"], ("one, two", "three")),
        (iter(["cat", "dog"]), ("cat", "dog")),
        (["кот", "собака", "猫", "🐱"], ("кот", "собака", "猫", "🐱")),
    ],
)
def test_labels_are_split_stripped_and_merged(raw, expected):
    assert clean_labels(raw) == expected


@pytest.mark.parametrize("raw", ["", " , \n", [], ["cat"], "cat", ["cat", "CAT"], ["a", "", " "]])
def test_fewer_than_two_different_labels_are_refused(raw):
    with pytest.raises(InvalidLabels, match=r"at least 2 different ones, got [01]"):
        clean_labels(raw)


def test_a_hundred_labels_are_allowed_and_more_are_refused_with_their_number():
    assert len(clean_labels(map(str, range(100)))) == 100
    with pytest.raises(InvalidLabels, match="at most 100 labels, got 500"):
        clean_labels([f"label {i}" for i in range(500)])


def test_duplicates_do_not_count_against_the_limit():
    assert len(clean_labels([str(i % 50) for i in range(500)])) == 50


def test_a_label_of_four_hundred_characters_is_refused_with_its_length():
    with pytest.raises(InvalidLabels, match="400 characters") as caught:
        clean_labels(["cat", "x" * 400])
    assert len(str(caught.value)) < 160
    assert clean_labels(["cat", "x" * 80])[1] == "x" * 80


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "${alert(1)}", "{0.__class__}", "{}", "%s", "a & b"]
)
def test_markup_and_format_strings_stay_text(text):
    assert clean_labels([text, "cat"])[0] == text


@pytest.mark.parametrize("code", [0x00, 0x07, 0x1B, 0x7F, 0x85, 0x200B, 0x200E, 0x202E, 0xFEFF])
def test_control_characters_become_spaces(code):
    assert clean_labels([f"c{chr(code)}at", "dog"])[0] == "c at"
    assert clean_labels([f"{chr(code)}cat{chr(code)}", "dog"])[0] == "cat"


def test_only_control_characters_are_no_label():
    with pytest.raises(InvalidLabels):
        clean_labels(["\x00\x01", "cat"])


def test_labels_that_look_the_same_are_the_same():
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    assert clean_labels([decomposed, composed, "x"]) == (composed, "x")


@pytest.mark.parametrize("item", [1, None, b"cat", ["cat"]])
def test_labels_that_are_not_text_are_refused(item):
    with pytest.raises(InvalidLabels, match="Labels are text"):
        clean_labels(["cat", item])


def test_template_keeps_its_one_place():
    assert clean_template("  a  photo of a {}. ") == "a photo of a {}."


@pytest.mark.parametrize("raw", ["", "a photo", "{} and {}", "{0}", "{label}", "{ }"])
def test_template_without_exactly_one_place_is_refused(raw):
    with pytest.raises(InvalidLabels, match=r"exactly one \{\}"):
        clean_template(raw)


def test_a_template_that_is_too_long_is_refused():
    with pytest.raises(InvalidLabels, match="at most 120"):
        clean_template("x" * 200 + "{}")


@pytest.mark.parametrize("label", ["{}", "{0.__class__}", "{x!r}", "%s", "$", "\\1"])
def test_fill_never_interprets_the_label(label):
    assert fill("a photo of a {}.", label) == f"a photo of a {label}."


def test_fill_never_interprets_the_template():
    assert fill("{0.__class__} {}", "cat") == "{0.__class__} cat"


@pytest.mark.parametrize(
    "typed", ["猫,狗\n狮子", "猫，狗、狮子", "猫、狗，狮子,", "猫 , 狗\n、狮子"]
)
def test_commas_of_every_keyboard_part_labels(typed):
    assert clean_labels(typed) == ("猫", "狗", "狮子")
    assert grouped_labels(typed.replace("狮子", "狮子 = 虎"))[1] == (0, 1, 2, 2)
