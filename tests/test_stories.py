"""The stories that ship: each is what its recipe says, and every word about it is measured."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.ui.stories import HOSTILE
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.export import read_story
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.images import from_png
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.stories.facts import Facts, dearest, load, percent
from vlmdefense_demo.stories.lessons import LESSONS
from vlmdefense_demo.stories.make import cook, make
from vlmdefense_demo.stories.recipes import FOLDER, MODEL, RECIPES, Recipe
from vlmdefense_demo.stories.slides import ATTACKED, KNOWS, NUMBERS, PARADIGM, quiz, slides
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Prediction
from vlmdefense_demo.ui.words import ENGLISH

EVERY = pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.slug)
MOST_BYTES = 6_000_000
FIXED = re.compile(r"255|100\u00a0%|L2 ball")  # numbers that are no measurement


@pytest.fixture(scope="module")
def pocket():
    return load_model(MODEL, "cpu")


def told(facts: Facts) -> list[str]:
    """Every sentence on the eight slides, questions and options included."""
    eight = slides(LESSONS[facts.recipe.slug], facts, ENGLISH)
    asked = [slide.quiz for slide in eight if slide.quiz]
    return [w for s in eight for w in s.text] + [w for q in asked for w in (q.question, *q.options)]


# what ships


def test_every_story_is_there_and_all_of_them_are_small():
    assert {path.name for path in FOLDER.iterdir()} == {recipe.slug for recipe in RECIPES}
    assert {recipe.slug for recipe in RECIPES} == set(LESSONS)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.*")) < MOST_BYTES


@EVERY
def test_a_recipe_is_the_request_of_its_cards(recipe):
    facts = load(recipe)
    about, report = facts.story.about, facts.report
    assert about["recipe"] == recipe.to_json()
    assert (about["model"], about["seed"], about["labels"]) == (MODEL, 0, list(recipe.labels))
    assert report.method == recipe.attack
    assert {name: report.params[name] for name in recipe.params} == recipe.params
    assert [card.method for card in facts.story.cards] == ["undefended", *recipe.defenses]
    for card in facts.defended:
        settings = recipe.defenses[card.method]
        assert {name: card.params[name] for name in settings} == settings
        assert card.error is None
    assert bool(facts.climbed) == recipe.knows


@EVERY
def test_the_clean_picture_is_the_photo_and_the_attacked_one_is_within_its_ball(recipe, pocket):
    facts = load(recipe)
    clean, attacked = from_png(facts.story.clean), from_png(facts.report.png)
    assert torch.equal(clean, recipe.image(pocket))
    levels = ((attacked - clean).abs() * LEVELS).round()
    assert float(levels.max()) == facts.report.linf
    assert float(levels.max()) <= recipe.params.get("eps", LEVELS)


@EVERY
def test_a_fresh_pass_answers_as_the_card_says(recipe, pocket):
    facts = load(recipe)
    pair = torch.cat([from_png(facts.story.clean), from_png(facts.report.png)])
    clf = ZeroShotClassifier(pocket, recipe.labels)
    with torch.no_grad():
        probs = clf(pair).softmax(1)
    for row, said in zip(probs, (facts.clean, facts.attacked), strict=True):
        assert recipe.labels[int(row.argmax())] == said.label
        assert float(row.max()) == pytest.approx(said.prob, abs=0.02)


@EVERY
def test_a_card_keeps_the_picture_of_the_attacker_it_talks_about(recipe):
    for card in load(recipe).climbed:
        rung = card.broken_by or card.ladder[-1]
        if rung.name != "transfer":
            delta = (from_png(rung.png) - from_png(load(recipe).story.clean)).abs().max()
            assert float(delta * LEVELS) == pytest.approx(rung.linf, abs=1e-3)
            assert round(float(delta * LEVELS)) <= recipe.params["eps"]


# what is said


@EVERY
def test_a_story_has_eight_steps_with_words_notes_and_a_question_of_its_own(recipe):
    facts, lesson = load(recipe), LESSONS[recipe.slug]
    eight = slides(lesson, facts, ENGLISH)
    assert [s.number for s in eight] == list(NUMBERS)
    assert all(2 <= len(s.text) <= 3 and s.notes for s in eight)
    assert all(len(eight[n - 1].cards) >= 3 for n in (*PARADIGM, KNOWS))
    own = eight[lesson.asks - 1].quiz
    assert own is not None
    assert own.question == lesson.question(facts, ENGLISH).question
    for asked in filter(None, (s.quiz for s in eight)):
        assert 2 <= len(asked.options) == len(set(asked.options)) <= 4


def moved(facts: Facts) -> Facts:
    """The same story with every measured number changed, one defence less and one label more."""

    def answer(p: Prediction | None) -> Prediction | None:
        if p is None:
            return None
        n = len(p.probs) + 1
        probs = [0.5 / (n - 1)] * n
        probs[p.index] = 0.5
        return Prediction((*p.labels, "zebra"), tuple(probs), tuple(probs))

    def card(c):
        cost = c.cost and replace(
            c.cost, image_forward=c.cost.image_forward + 3, image_backward=c.cost.image_backward + 2
        )
        slower = c.slowdown and c.slowdown * 1.7 + 1
        rungs = tuple(replace(r, attacked=answer(r.attacked)) for r in c.ladder)
        return replace(c, clean=answer(c.clean), attacked=answer(c.attacked), cost=cost,
                       slowdown=slower, ladder=rungs)  # fmt: skip

    first, *others = map(card, facts.story.cards)
    r = first.attack
    cost = replace(
        r.cost, image_forward=r.cost.image_forward + 3, image_backward=r.cost.image_backward + 2
    )
    report = replace(r, linf=r.linf - 1, l2=r.l2 + 1, changed=r.changed / 2, psnr=(r.psnr or 0) + 1,
                     ssim=r.ssim / 2, cost=cost, params=r.params | {"eps": 3})  # fmt: skip
    last = dearest(others)  # a defence less: whoever is counted, the count changes
    story = replace(
        facts.story, cards=(replace(first, attack=report), *(c for c in others if c is not last))
    )
    return Facts(facts.recipe, story)


@EVERY
def test_no_number_on_a_slide_is_typed(recipe):
    facts = load(recipe)
    ranges = (
        LESSONS[recipe.slug].question(facts, ENGLISH).options
    )  # the measurement chooses one of them
    for words in set(told(facts)) & set(told(moved(facts))) - set(ranges):
        assert not re.search(r"\d", FIXED.sub("", words)), words


def test_the_right_option_follows_the_measurement():
    facts = load(RECIPES[0])
    first, *others = facts.story.cards
    labels = facts.attacked.labels
    for label in ("dog", facts.plain.reference):
        probs = tuple(0.9 if name == label else 0.1 / (len(labels) - 1) for name in labels)
        changed = replace(first, attacked=Prediction(labels, probs, probs))
        story = replace(facts.story, cards=(changed, *others))
        asked = slides(LESSONS[RECIPES[0].slug], Facts(RECIPES[0], story), ENGLISH)[
            ATTACKED - 1
        ].quiz
        assert asked.options[asked.right] == label


@pytest.mark.parametrize("options", [[("a", True), ("b", True)], [("a", False), ("b", False)]])
def test_a_question_without_one_right_option_is_refused(options):
    with pytest.raises(ValueError, match="unpack"):
        quiz("?", options)


def test_a_contradicted_message_is_said_to_be():
    recipe = next(r for r in RECIPES if r.slug == "one-step")
    facts = load(recipe)
    first, *others = facts.story.cards
    held = replace(first, attacked=first.clean, verdict="held")
    words = told(Facts(recipe, replace(facts.story, cards=(held, *others))))
    assert any("On this picture it was not." in w for w in words)
    assert not any("were enough" in w for w in words)


def test_percentages_never_round_to_a_certainty():
    assert [percent(p).replace("\u00a0", " ") for p in (1, 0.9999, 0.997, 0.84, 0.0001, 0)] == [
        "100 %", "> 99.9 %", "99.7 %", "84 %", "< 0.1 %", "0 %",
    ]  # fmt: skip


# making them


def test_a_recipe_becomes_a_story_by_one_command(tmp_path, pocket):
    small = Recipe(
        "small", RECIPES[0].photo, ("cat", "coffee"), params={"eps": 4, "steps": 2},
        defenses={"fare": {"alpha": 0.5}}, seed=1,
    )  # fmt: skip
    (line,) = make([small], tmp_path)
    story = read_story(tmp_path / "small")
    assert line.startswith("small: Undefended ")
    assert story.about["recipe"] == small.to_json()
    assert story.cards[1].params["alpha"] == 0.5
    fresh = cook(small, pocket)
    assert [c.attacked for c in fresh] == [c.attacked for c in story.cards]
    assert [[r.attacked for r in c.ladder] for c in fresh] == [
        [r.attacked for r in c.ladder] for c in story.cards
    ]


def test_an_unknown_story_is_refused_with_those_that_are_known(capsys):
    assert main(["stories", "--only", "nowhere"]) == 2
    err = capsys.readouterr().err
    assert "Unknown story 'nowhere'" in err
    assert RECIPES[0].slug in err


def test_a_file_in_an_unknown_language_is_refused_with_those_that_are_known(capsys, tmp_path):
    file = tmp_path / "lecture.html"
    assert main(["stories", "--html", str(file), "--lang", "fr"]) == 2
    assert "Known: en, zh, de." in capsys.readouterr().err
    assert not file.exists()


def test_every_method_of_a_recipe_is_in_the_survey():
    for recipe in RECIPES:
        assert entry(recipe.attack, "attack")
        assert all(entry(id, "defense") for id in recipe.defenses)


def test_hostile_labels_are_escaped_on_slides():
    from vlmdefense_demo.ui.lecture import lecture

    facts = load(RECIPES[0])

    def renamed(p: Prediction) -> Prediction:
        return replace(p, labels=(*HOSTILE, *p.labels[len(HOSTILE) :]))

    cards = tuple(
        replace(c, reference=HOSTILE[0], clean=renamed(c.clean), attacked=renamed(c.attacked),
                ladder=tuple(replace(r, attacked=renamed(r.attacked)) for r in c.ladder))
        for c in facts.story.cards
    )  # fmt: skip
    html = lecture([Facts(facts.recipe, replace(facts.story, cards=cards))])
    assert "&lt;img src=x" in html
    assert "<img src=x" not in html
