"""What a lecture says, in every language: nothing left in English, and the same measured answers."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from vlmdefense_demo.stories.facts import RUNGS, Facts, load, outcome, passes, titles
from vlmdefense_demo.stories.lessons import LESSONS
from vlmdefense_demo.stories.recipes import RECIPES, Recipe
from vlmdefense_demo.stories.say import several
from vlmdefense_demo.stories.slides import NUMBERS, Slide, slides
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Cost, Prediction, Rung
from vlmdefense_demo.ui.lecture import lecture, shipped, standalone
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES, Words, lecture_en

GERMAN, CHINESE = LANGUAGES["de"], LANGUAGES["zh"]
OTHERS = [words for words in LANGUAGES.values() if words is not ENGLISH]
EVERY = pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.slug)
SPEAKS = pytest.mark.parametrize("words", OTHERS, ids=lambda w: w.code)
WORD = re.compile("[A-Za-zÄÖÜäöüß]+")
# What papers, quantities, files and settings are called everywhere.
NAMES = """Madry Goodfellow Moosavi Dezfooli Athalye Goh et al ICLR CVPR ICML Distill PGD FGSM TPT BPDA
    CLIP PNG PSNR SSIM dB L alpha docs measurements md f b cpu"""
# English that is not German: no label of a story, no name of a method.
TELLTALE = """a and are be by for how is it of on one or than that the this to what who with answer broken
    clean defence forward passes picture"""


def eight(facts: Facts, words) -> tuple[Slide, ...]:
    return slides(LESSONS[facts.recipe.slug], facts, words)


def told(facts: Facts, words) -> list[str]:
    """Every text of the eight slides: titles, sentences, notes, questions and options."""
    parts = eight(facts, words)
    asked = [slide.quiz for slide in parts if slide.quiz]
    return [
        *(slide.title for slide in parts),
        *(text for slide in parts for text in (*slide.text, *slide.notes)),
        *(text for quiz in asked for text in (quiz.question, *quiz.options)),
    ]


def names(facts: Facts) -> list[str]:
    """What has one language in a story: its labels and its methods, longest first."""
    own = {*facts.recipe.labels, *(card.title for card in facts.story.cards)}
    return sorted({*own, entry(facts.report.method).title}, key=len, reverse=True)


def left_over(text: str, facts: Facts) -> set[str]:
    """The Latin words of a text that are no names."""
    for name in names(facts):
        text = re.sub(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", " ", text)
    return set(WORD.findall(text)) - set(NAMES.split())


def might_be(recipe: Recipe) -> list[Facts]:
    """The story as it was measured, and as it might have been: all held, all fell to a rung, ..."""
    facts = load(recipe)
    return [
        facts,
        measured(facts, "held", spent=(1, 0), price=(1, 0), sure=True),
        measured(facts, "wrong_clean", spent=(2, 0), price=(2, 0)),
        measured(facts, "held", spent=(2, 1), price=(9, 1), rung="white_box", but=1),
        *(measured(facts, "fooled", (60, 59), (60, 2), rung=rung) for rung in RUNGS),
    ]


def measured(facts, verdict, spent, price, rung="", but=0, sure=False) -> Facts:
    """Every defence with one verdict and price; `rung` gets through all, `but` so many of them.

    `sure`: the undefended model keeps its answer, and no defence is less sure or warned of.
    """
    first, *others = facts.story.cards
    report = replace(first.attack, psnr=None if sure else 40.0, cost=Cost(*spent))
    kept = {"attacked": first.clean, "verdict": "held"} if sure else {}
    cards = [replace(first, attack=report, **kept)]
    for i, card in enumerate(others):
        fell = rung if i < len(others) - but else ""
        climbed = RUNGS if len(card.ladder) > 1 else ()
        cards.append(
            replace(
                card, verdict=verdict, cost=Cost(*price), slowdown=None if sure else 2.0,
                clean=first.clean if sure else unsure(card.clean),
                flags=() if sure else ("no_gradient",),
                ladder=tuple(
                    Rung(name, "", card.attacked, "fooled" if name == fell else "held", Cost(1), 1.0)
                    for name in climbed
                ),
            )
        )  # fmt: skip
    return Facts(facts.recipe, replace(facts.story, cards=tuple(cards)))


def unsure(p: Prediction) -> Prediction:
    """The same answer, with less than it takes to be sure of it."""
    n = len(p.probs)
    return replace(p, probs=tuple(0.4 if i == p.index else 0.6 / (n - 1) for i in range(n)))


@cache
def everything_said() -> dict[str, set[str]]:
    """Language -> the keys that the stories, as they are and as they might be, ask for."""
    found = {}
    for words in LANGUAGES.values():
        asked: set[str] = set()

        def say(key, /, words=words, asked=asked, **values):
            asked.add(key)
            return words(key, **values)

        say.joint = words.joint
        for recipe in RECIPES:
            for facts in might_be(recipe):
                for text in told(facts, say):
                    assert text.strip()
                    assert not set(text) & set("{}"), text
        found[words.code] = asked
    return found


# every language says all of it


@EVERY
@SPEAKS
def test_a_story_has_eight_slides_with_nothing_left_in_english(recipe, words):
    facts = load(recipe)
    parts, english = eight(facts, words), eight(facts, ENGLISH)
    assert [slide.number for slide in parts] == list(NUMBERS)
    for mine, theirs in zip(parts, english, strict=True):
        assert (len(mine.text), len(mine.notes)) == (len(theirs.text), len(theirs.notes))
        assert mine.cards == theirs.cards
        assert not {mine.title, *mine.text, *mine.notes} & {
            theirs.title,
            *theirs.text,
            *theirs.notes,
        }
    for text in told(facts, words):
        left = left_over(text, facts)
        if words is CHINESE:
            assert left == set(), text
        assert not {word.lower() for word in left} & set(TELLTALE.split()), text


@SPEAKS
def test_every_word_of_a_lecture_is_translated(words):
    worded = {k for k, text in lecture_en.WORDS.items() if WORD.search(re.sub("{.*?}", "", text))}
    assert len(worded) > 100
    assert {key for key in worded if words.table[key] == ENGLISH.table[key]} == set()


@EVERY
def test_the_right_option_is_the_same_in_every_language(recipe):
    for facts in might_be(recipe):
        asked = {
            words.code: [(s.number, s.quiz.right, len(s.quiz.options)) for s in parts if s.quiz]
            for words in LANGUAGES.values()
            for parts in [eight(facts, words)]
        }
        assert asked["de"] == asked["zh"] == asked["en"] != []


def test_every_sentence_of_a_lecture_is_said_by_some_measurement():
    """No key is missing for a story that was measured otherwise, and none is there for nothing."""
    frame = {key for key in lecture_en.WORDS if key.startswith("lec.")}
    heads = {f"lesson.{slug}{end}" for slug in LESSONS for end in ("", ".message")}
    for code, asked in everything_said().items():
        own = {key for key in asked if not key.startswith("flag.")}
        assert own == lecture_en.WORDS.keys() - frame - heads, code


@EVERY
def test_stories_have_no_words_of_their_own(recipe):
    """What is left when a language says nothing but values: labels, names of methods, numbers."""
    mute = Words("xx", "xx", "Mute", {key: blank(text) for key, text in ENGLISH.table.items()})
    for facts in might_be(recipe):
        for text in told(facts, mute):
            assert left_over(text, facts) <= {"cpu"}, text


def blank(text: str) -> str:
    return f"· {' '.join(re.findall(r'{[a-z0-9_]+}', text))}"


def test_a_sentence_that_is_missing_or_still_english_is_noticed():
    facts = load(RECIPES[0])
    key = "slide.test_time"
    with pytest.raises(KeyError, match=key):
        told(facts, replace(GERMAN, table={k: v for k, v in GERMAN.table.items() if k != key}))
    lazy = replace(CHINESE, table=CHINESE.table | {key: ENGLISH(key)})
    assert any(left_over(text, facts) for text in told(facts, lazy))


# how it is put together


@pytest.mark.parametrize(
    ("words", "one", "two", "three"),
    [
        (ENGLISH, "a", "a and b", "a, b and c"),
        (GERMAN, "a", "a und b", "a, b und c"),
        (CHINESE, "a", "a 和 b", "a、b 和 c"),
    ],
)
def test_names_are_listed_as_the_language_does(words, one, two, three):
    assert [several(list("abc")[:n], words) for n in (0, 1, 2, 3)] == ["", one, two, three]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (ENGLISH, ["no pass", "1 forward pass", "3 forward passes",
                   "1 forward and 1 backward pass", "3 forward and 2 backward passes"]),
        (GERMAN, ["keinen Durchlauf", "1 Vorwärtslauf", "3 Vorwärtsläufe",
                  "1 Vorwärts- und 1 Rückwärtslauf", "3 Vorwärts- und 2 Rückwärtsläufe"]),
        (CHINESE, ["0 次计算", "1 次前向计算", "3 次前向计算",
                   "1 次前向和 1 次反向计算", "3 次前向和 2 次反向计算"]),
    ],
)  # fmt: skip
def test_a_cost_is_said_in_words_with_its_plural(words, said):
    counts = [(0, 0), (1, 0), (3, 0), (1, 1), (3, 2)]
    assert [passes(*count, words) for count in counts] == said


def test_an_outcome_begins_with_a_capital_where_the_language_has_them():
    fell = next(r for r in RECIPES if r.slug == "written-word")
    cards = load(fell).of("training_time")
    assert outcome(cards, ENGLISH) == f"Fooled: {titles(cards, ENGLISH)}."
    assert outcome(cards, GERMAN) == f"Getäuscht: {titles(cards, GERMAN)}."
    assert outcome(cards, CHINESE) == f"被骗：{titles(cards, CHINESE)}。"


# the markup


@SPEAKS
def test_only_the_badge_of_a_stored_result_is_marked_as_english(words):
    html = words.say(lecture(shipped()))
    marked = re.findall(r'<(\w+)[^>]* lang="en"[^>]*>([^<]*)', html)
    assert len(marked) == len(RECIPES) * len(NUMBERS)
    badges = {str(facts.story.about["badge"]) for facts in shipped()}
    assert {text for _, text in marked} == badges
    assert f'data-right="{words("lec.right")}"' in html


@SPEAKS
def test_the_file_that_needs_nothing_else_speaks_the_language_it_was_asked_for(words):
    html = standalone(shipped()[:1], words)
    assert html.startswith(f'<!doctype html><html lang="{words.tag}">')
    assert words("lec.open") in html
    assert words("slide.attacked.ask") in html
    assert ENGLISH("lec.open") not in html
    assert ENGLISH("slide.attacked.ask") in standalone(shipped()[:1])
