"""Eight steps from "what does the model see" to "the attacker knows your defence", for any story.

What differs between stories is a lesson; what was measured is in the facts. A question's right
option is the one that the facts make true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.stories.facts import (
    FELL,
    Facts,
    answer,
    dearest,
    outcome,
    passes,
    percent,
    titles,
)
from vlmdefense_demo.types import Card, Paradigm

SEE, ATTACKED, CHANGED, BEFORE, DURING, FREE, PRICE, KNOWS = range(1, 9)
PARADIGM: dict[int, Paradigm] = {
    BEFORE: "training_time", DURING: "test_time", FREE: "training_free",
}  # fmt: skip
TITLES = {
    SEE: "What does the model see?",
    ATTACKED: "The same picture, attacked",
    CHANGED: "What changed?",
    BEFORE: "Training-time: paid before anyone asks",
    DURING: "Test-time adaptation: paid on every image",
    FREE: "Training-free: no weight ever changes",
    PRICE: "What does each defence cost?",
    KNOWS: "The attacker knows your defence",
}
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


@dataclass(frozen=True)
class Lesson:
    """What a story teaches.

    Args:
        message: the textbook's sentence, for the speaker.
        asks: the step its question comes before.
        question: from the facts, with options of which exactly one is true.
        more: step -> a sentence from the facts, after what every story says there.
        notes: step -> what the speaker adds.
    """

    title: str
    message: str
    asks: int
    question: Callable[[Facts], Quiz]
    more: Mapping[int, Callable[[Facts], str]] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)


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


def slides(lesson: Lesson, facts: Facts) -> tuple[Slide, ...]:
    """All eight steps of a story."""
    return tuple(_slide(number, lesson, facts) for number in TITLES)


def _slide(number: int, lesson: Lesson, facts: Facts) -> Slide:
    words, notes = STEPS[number](facts)
    if number in lesson.more:
        words = (*words, lesson.more[number](facts))
    if number in lesson.notes:
        notes = (lesson.notes[number], *notes)
    asked = lesson.question(facts) if number == lesson.asks else None
    if number == ATTACKED and asked is None:
        asked = which_answer(facts, "The right picture is attacked. What does the model answer?")
    return Slide(number, TITLES[number], words, notes, _cards(number, facts), asked)


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


def _see(facts: Facts) -> Words:
    clean = facts.clean
    least = min(clean.probs)
    return (
        f"It may answer with one of {len(clean.labels)} labels and with nothing else.",
        f"It answers {answer(clean)}. All bars add up to 100 %, so it always answers something.",
    ), (
        "Ask what the model would say to a picture of something that is not on the list.",
        f"Right means here: what the undefended model says on the clean picture, "
        f"{facts.plain.reference}. The least likely label has {percent(least)}.",
    )


def _attacked(facts: Facts) -> Words:
    change = "changed" if facts.attacked.label != facts.clean.label else "did not change"
    left = facts.attacked.probs[facts.clean.labels.index(facts.plain.reference)]
    return (
        f"{facts.attack}: the answer {change}.",
        f"The right one, {facts.plain.reference}, is left with {percent(left)}.",
    ), (
        "Let the room vote before you reveal.",
        "The answer is measured on the 8-bit PNG, the file anybody can download.",
    )


def _changed(facts: Facts) -> Words:
    report = facts.report
    psnr = "" if report.psnr is None else f" PSNR is {report.psnr:.1f} dB, SSIM {report.ssim:.2f}."
    return (
        f"{percent(report.changed)} of the pixels changed, none by more than {report.linf:g} of 255 "
        f"levels.{psnr}",
        f"The attacker spent {passes(*facts.spent)} on this picture.",
    ), (
        "The difference is amplified; its caption says how much. Grey is no change.",
        f"As a length (L2, pixels from 0 to 1) the change is {report.l2:.2f}.",
    )


IDEAS: dict[Paradigm, tuple[str, str]] = {
    "training_time": (
        "The weights were trained on attacked pictures; an answer is one pass, as before.",
        "Paid once, by whoever trains; the price afterwards is on the clean picture.",
    ),
    "test_time": (
        "For this one picture something is adapted, then forgotten.",
        "No robust weights are needed; every single answer pays.",
    ),
    "training_free": (
        "The picture or its features are changed; the model stays as it is.",
        "Cheap to add to any model, and easy to overrate: see the last step.",
    ),
}


def _paradigm(paradigm: Paradigm) -> Callable[[Facts], Words]:
    def words(facts: Facts) -> Words:
        idea, note = IDEAS[paradigm]
        cards = facts.of(paradigm)
        return (idea, outcome(cards)), (
            note,
            "Held means here: not broken by a picture that was made for the undefended model.",
        )

    return words


def _price(facts: Facts) -> Words:
    missed = [c for c in facts.defended if c.verdict == "wrong_clean"]
    most = dearest(facts.defended)
    assert most.cost is not None
    clean = (
        f"Wrong on the clean picture: {titles(missed)}."
        if missed
        else "On the clean picture all of them are right."
    )
    slow = f", {most.slowdown:.0f} times the time" if most.slowdown else ""
    return (
        f"The undefended answer is one pass. {most.title} takes "
        f"{passes(most.cost.image_forward, most.cost.image_backward)}{slow}.",
        clean,
    ), (
        f"Times are of {facts.plain.device}; passes do not depend on the machine.",
        "What training cost is not in these numbers.",
    )


def _knows(facts: Facts) -> Words:
    tried = facts.climbed
    if not tried:
        return (
            "Nobody who knows the defence was tried: the ladder needs an L∞ or L2 ball, and this "
            "attack has none.",
            "Not run is not held.",
        ), ("What would you try, if you knew the defence?",)
    left = [card for card in tried if not card.broken_by]
    broken = "; ".join(
        f"{titles(some)} ({words})"
        for name, words in FELL.items()
        if (some := [c for c in tried if c.broken_by and c.broken_by.name == name])
    )
    flagged = "; ".join(
        f"{card.title}: {', '.join(FLAGS[f][0] for f in found)}"
        for card in tried
        if (found := [f for f in card.flags if f in ("no_gradient", "wrong_gradient")])
    )
    return (
        f"{len(left)} of {len(tried)} still hold{'s' * (len(left) == 1)}"
        f"{f': {titles(left)}' if left else ''}.",
        f"Fell: {broken}." if broken else "Nobody got through with this budget.",
    ), (
        "f and b count forward and backward passes of the image tower, without those of the text.",
        "Not broken is not robust: another attacker, another budget, another picture.",
        "One picture is no statistic; docs/measurements.md has rates with intervals.",
        f"Gradient checks found {flagged}." if flagged else "Gradient checks found nothing.",
    )


STEPS: dict[int, Callable[[Facts], Words]] = {
    SEE: _see, ATTACKED: _attacked, CHANGED: _changed, BEFORE: _paradigm("training_time"),
    DURING: _paradigm("test_time"), FREE: _paradigm("training_free"), PRICE: _price, KNOWS: _knows,
}  # fmt: skip
