"""Eight steps from "what does the model see" to "the attacker knows your defence", for any story.

What differs between stories is a lesson; what was measured is in the facts, and how it is said comes
from a language. A question's right option is the one that the facts make true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vlmdefense_demo.stories.facts import (
    RUNGS,
    Facts,
    answer,
    dearest,
    outcome,
    passes,
    percent,
    titles,
)
from vlmdefense_demo.stories.say import Say, listed, sentences
from vlmdefense_demo.types import Card, Paradigm

NUMBERS = tuple(range(1, 9))
SEE, ATTACKED, CHANGED, BEFORE, DURING, FREE, PRICE, KNOWS = NUMBERS
PARADIGM: dict[int, Paradigm] = {
    BEFORE: "training_time", DURING: "test_time", FREE: "training_free",
}  # fmt: skip
MASKS = ("no_gradient", "wrong_gradient")  # flags of a gradient that hides the way
LEAST = 3  # cards beside each other where defences are compared


@dataclass(frozen=True)
class Quiz:
    """One question for the audience; `right` is the index of the option that was measured."""

    question: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Slide:
    """One step: what is said, what the speaker adds, whose cards are shown, what is asked first."""

    number: int
    title: str
    text: tuple[str, ...]
    notes: tuple[str, ...]
    cards: tuple[Card, ...] = ()
    quiz: Quiz | None = None


Text = Callable[[Facts, Say], str]


@dataclass(frozen=True)
class Lesson:
    """What a story teaches; its words are those of `lesson.<slug>` and the keys below it.

    Args:
        asks: the step its question comes before.
        question: from the facts, with options of which exactly one is true.
        more: step -> a sentence from the facts, after what every story says there.
        notes: the steps to which the speaker adds something, `lesson.<slug>.note.<step>`.
    """

    asks: int
    question: Callable[[Facts, Say], Quiz]
    more: Mapping[int, Text] = field(default_factory=dict)
    notes: Sequence[int] = ()


def quiz(question: str, options: Sequence[tuple[str, bool]]) -> Quiz:
    """A question of (option, whether it is what was measured); exactly one is.

    Raises:
        ValueError: the facts make none or several of the options true.
    """
    (right,) = (i for i, (_, holds) in enumerate(options) if holds)
    return Quiz(question, tuple(words for words, _ in options), right)


def which_answer(facts: Facts, question: str) -> Quiz:
    """What does the model answer now? Up to four labels, in the order of the list."""
    ranked = sorted(zip(facts.clean.probs, facts.clean.labels, strict=True), reverse=True)
    chosen = list(dict.fromkeys([facts.plain.reference, facts.attacked.label]))
    chosen += [label for _, label in ranked if label not in chosen]
    listed = [label for label in facts.clean.labels if label in chosen[:4]]
    return quiz(question, [(label, label == facts.attacked.label) for label in listed])


def slides(lesson: Lesson, facts: Facts, say: Say) -> tuple[Slide, ...]:
    """All eight steps of a story, in a language."""
    return tuple(_slide(number, lesson, facts, say) for number in NUMBERS)


def _slide(number: int, lesson: Lesson, facts: Facts, say: Say) -> Slide:
    text, notes = STEPS[number](facts, say)
    if number in lesson.more:
        text = (*text, lesson.more[number](facts, say))
    if number in lesson.notes:
        notes = (say(f"lesson.{facts.recipe.slug}.note.{number}"), *notes)
    asked = lesson.question(facts, say) if number == lesson.asks else None
    if number == ATTACKED and asked is None:
        asked = which_answer(facts, say("slide.attacked.ask"))
    return Slide(number, say(f"step.{number}"), text, notes, _cards(number, facts), asked)


def _cards(number: int, facts: Facts) -> tuple[Card, ...]:
    """A paradigm's cards, the undefended model before them where there is room; later, all."""
    if number in (PRICE, KNOWS):
        return facts.defended
    if number not in PARADIGM:
        return ()
    own = facts.of(PARADIGM[number])
    if len(own) >= LEAST:
        return own
    others = tuple(card for card in facts.defended if card not in own)
    return (facts.plain, *own, *others)[:LEAST]


Words = tuple[tuple[str, ...], tuple[str, ...]]  # what is on the slide, what the speaker adds


def _see(facts: Facts, say: Say) -> Words:
    clean, label = facts.clean, facts.plain.reference
    return (
        say("slide.see.labels", count=len(clean.labels)),
        say("slide.see.answer", answer=answer(clean, say)),
    ), (
        say("slide.see.ask"),
        say("slide.see.right", label=label, least=percent(min(clean.probs))),
    )


def _attacked(facts: Facts, say: Say) -> Words:
    kind = "changed" if facts.attacked.label != facts.clean.label else "stayed"
    left = facts.attacked.probs[facts.clean.labels.index(facts.plain.reference)]
    return (
        say(f"slide.attacked.{kind}", attack=facts.attack(say)),
        say("slide.attacked.left", label=facts.plain.reference, left=percent(left)),
    ), (say("slide.attacked.vote"), say("slide.attacked.png"))


def _changed(facts: Facts, say: Say) -> Words:
    report = facts.report
    pixels = say("slide.changed.pixels", share=percent(report.changed), most=f"{report.linf:g}")
    quality = ""
    if report.psnr is not None:
        quality = say("slide.changed.quality", psnr=f"{report.psnr:.1f}", ssim=f"{report.ssim:.2f}")
    return (
        sentences(pixels, quality, say=say),
        say("slide.changed.spent", passes=passes(*facts.spent, say)),
    ), (say("slide.changed.amplified"), say("slide.changed.length", l2=f"{report.l2:.2f}"))


def _paradigm(paradigm: Paradigm) -> Callable[[Facts, Say], Words]:
    def words(facts: Facts, say: Say) -> Words:
        return (say(f"slide.{paradigm}"), outcome(facts.of(paradigm), say)), (
            say(f"slide.{paradigm}.note"),
            say("slide.held"),
        )

    return words


def _price(facts: Facts, say: Say) -> Words:
    missed = [c for c in facts.defended if c.verdict == "wrong_clean"]
    most = dearest(facts.defended)
    assert most.cost is not None
    spent = passes(most.cost.image_forward, most.cost.image_backward, say)
    if most.slowdown:
        times = f"{most.slowdown:.0f}"
        price = say("slide.price.slow", title=most.title, passes=spent, times=times)
    else:
        price = say("slide.price", title=most.title, passes=spent)
    clean = say("slide.price.right")
    if missed:
        clean = say("slide.price.wrong", titles=titles(missed, say))
    return (price, clean), (
        say("slide.price.device", device=facts.plain.device),
        say("slide.price.training"),
    )


def _knows(facts: Facts, say: Say) -> Words:
    tried = facts.climbed
    if not tried:
        return (say("slide.knows.no_ball"), say("slide.knows.not_run")), (say("slide.knows.ask"),)
    fell = listed(
        [
            say("slide.knows.fell.by", titles=titles(some, say), rung=say(f"fell.{rung}"))
            for rung in RUNGS
            if (some := [c for c in tried if c.broken_by and c.broken_by.name == rung])
        ],
        say,
    )
    flagged = _flagged(tried, say)
    return (
        _left(tried, say),
        say("slide.knows.fell", fell=fell) if fell else say("slide.knows.nobody"),
    ), (
        say("slide.knows.passes"),
        say("slide.knows.robust"),
        say("slide.knows.one"),
        say("slide.knows.found", flagged=flagged) if flagged else say("slide.knows.nothing"),
    )


def _left(tried: Sequence[Card], say: Say) -> str:
    """Who still holds."""
    left = [card for card in tried if not card.broken_by]
    if not left:
        return say("slide.knows.none_left", left=0, all=len(tried))
    key = "slide.knows.one_left" if len(left) == 1 else "slide.knows.left"
    return say(key, left=len(left), all=len(tried), titles=titles(left, say))


def _flagged(tried: Sequence[Card], say: Say) -> str:
    """Whose gradient is none or leads astray."""
    return listed(
        [
            say("slide.knows.flag", title=card.title, flags=say("names.comma").join(found))
            for card in tried
            if (found := [say(f"flag.{f}") for f in card.flags if f in MASKS])
        ],
        say,
    )


STEPS: dict[int, Callable[[Facts, Say], Words]] = {
    SEE: _see, ATTACKED: _attacked, CHANGED: _changed, BEFORE: _paradigm("training_time"),
    DURING: _paradigm("test_time"), FREE: _paradigm("training_free"), PRICE: _price, KNOWS: _knows,
}  # fmt: skip
