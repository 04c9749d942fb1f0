"""What each story teaches. A sentence that a measurement could contradict has two versions."""

from __future__ import annotations

from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.stories.facts import Facts, answer, dearest, passes, percent, several, titles
from vlmdefense_demo.stories.slides import (
    ATTACKED,
    BEFORE,
    CHANGED,
    DURING,
    FREE,
    KNOWS,
    PRICE,
    Lesson,
    Quiz,
    quiz,
    which_answer,
)
from vlmdefense_demo.types import Card

LESS_SURE = 0.05  # a loss of probability worth a word


def _how_many_hold(facts: Facts) -> Quiz:
    tried = facts.climbed
    left = sum(not card.broken_by for card in tried)
    return quiz(
        f"Who knows each defence attacks. How many of {len(tried)} hold?",
        [("none", left == 0), ("some", 0 < left < len(tried)), ("all", left == len(tried) > 0)],
    )


def _held_before(facts: Facts) -> str:
    held = sum(card.verdict == "held" for card in facts.climbed)
    return f"Against the attacker who did not know them it was {held}."


def _one_step(facts: Facts) -> str:
    if facts.fooled:
        return f"{passes(*facts.spent).capitalize()} were enough."
    return "The textbook says that one step is enough. On this picture it was not."


def _steps_in_words(facts: Facts) -> Quiz:
    eps = facts.report.linf
    return which_answer(
        facts, f"One gradient step, at most {eps:g} of 255 levels a pixel. What is the answer now?"
    )


def _who_computed(facts: Facts) -> Quiz:
    total = sum(facts.spent)
    return quiz(
        "How many passes through the model did the attacker need for this very photo?",
        [("none", total == 0), ("2 to 10", 0 < total <= 10), ("more than 10", total > 10)],
    )


def _for_all(facts: Facts) -> str:
    end = "This photo is one that falls" if facts.fooled else "This photo is one that does not fall"
    return f"The same change is added to every photo, made before this one was seen. {end}."


def _can_you_see_it(facts: Facts) -> str:
    return f"Is it invisible? At {facts.report.linf:g} levels, look at smooth areas and decide."


def _losses(facts: Facts) -> list[float]:
    """Probability of the right answer that each training-time defence loses on the clean picture."""
    towers = [card.clean for card in facts.of("training_time") if card.clean]
    right = facts.clean.labels.index(facts.plain.reference)
    return [facts.clean.probs[right] - clean.probs[right] for clean in towers]


def _price_on_clean(facts: Facts) -> Quiz:
    wrong = any(card.verdict == "wrong_clean" for card in facts.of("training_time"))
    loses = max(_losses(facts)) > LESS_SURE
    return quiz(
        "Before any attack: what do the trained towers say to the clean picture?",
        [
            ("all right, and as sure (within 5 points)", not wrong and not loses),
            ("all right, but one is less sure", not wrong and loses),
            ("at least one is wrong", wrong),
        ],
    )


def _towers_on_clean(facts: Facts) -> str:
    towers = [c for c in facts.of("training_time") if c.clean]
    words = several([f"{c.title} says {answer(c.clean)}" for c in towers if c.clean])
    paid = max(_losses(facts)) > LESS_SURE
    end = "" if paid else " The textbook's price is not seen on this picture."
    return f"Clean, undefended: {answer(facts.clean)}; {words}.{end}"


def _passes_for_one(facts: Facts) -> Quiz:
    card = dearest(facts.of("test_time"))
    assert card.cost is not None
    n = card.cost.image_forward
    return quiz(
        f"How often does {card.title} look at the picture for one answer?",
        [("once", n == 1), ("2 to 8 times", 2 <= n <= 8), ("9 to 40 times", 9 <= n <= 40),
         ("more than 40 times", n > 40)],
    )  # fmt: skip


def _slower(facts: Facts) -> str:
    said = [
        f"{card.title} {passes(card.cost.image_forward, card.cost.image_backward)}, "
        f"×{card.slowdown:.0f} in time"
        for card in facts.of("test_time")
        if card.cost and card.slowdown
    ]
    return f"Through the image tower, for one answer: {'; '.join(said)}."


def _first_filter(facts: Facts) -> Card:
    return facts.of("training_free")[0]


def _through_the_filter(facts: Facts) -> Quiz:
    card = _first_filter(facts)
    name = card.broken_by.name if card.broken_by else ""
    return quiz(
        f"The attacker knows that {card.title} comes first. What gets through?",
        [
            ("the old picture does already", name == "transfer"),
            ("gradient steps through it as it is", name == "white_box"),
            ("a recipe made for it, and nothing less", name == "adaptive"),
            ("neither of them", not name),
        ],
    )


def _filtered(facts: Facts) -> str:
    card = _first_filter(facts)
    assert card.attacked is not None
    return f"Through {card.title} the attacked picture is {answer(card.attacked)}."


def _masked(facts: Facts) -> str:
    found = [
        f"{FLAGS[flag][0].capitalize()}: {titles(some)}."
        for flag in ("no_gradient", "wrong_gradient")
        if (some := [card for card in facts.of("training_free") if flag in card.flags])
    ]
    if not found:
        return "The textbook warns of masked gradients. The checks found none on this picture."
    return f"{' '.join(found)} Blindness is not resistance."


def _reads(facts: Facts) -> str:
    start = "Here the word wins" if facts.fooled else "Here the word changes nothing"
    return f"{start}. This small model hardly reads: most photos are not fooled by a word."


def _word(facts: Facts) -> str:
    """The strongest wrong label on the clean picture, which is what the attack writes."""
    clean, right = facts.clean, facts.plain.right
    ranked = sorted(zip(clean.probs, clean.labels, strict=True), reverse=True)
    return next(label for _, label in ranked if label not in right)


def _written(facts: Facts) -> Quiz:
    return which_answer(facts, f"The word “{_word(facts)}” is written on it. The answer now?")


def _no_ball(facts: Facts) -> str:
    return (
        f"As a norm that is huge; to a person it is a label on a picture. {percent(facts.report.changed)} "
        "of the pixels say so, and no ball of small changes holds them."
    )


LESSONS: dict[str, Lesson] = {
    "coffee-becomes-motorcycle": Lesson(
        "Three ways to defend",
        "Every kind of defence looks good until the attacker knows it.",
        KNOWS,
        _how_many_hold,
        {KNOWS: _held_before},
        {ATTACKED: "PGD: small steps along the sign of the gradient, projected back to the ball "
                   "(Madry et al., ICLR 2018)."},
    ),
    "one-step": Lesson(
        "One step is enough",
        "A network is nearly linear around a picture, so one step along the gradient's sign goes far.",
        ATTACKED,
        _steps_in_words,
        {ATTACKED: _one_step},
        {ATTACKED: "FGSM (Goodfellow et al., ICLR 2015). A little in each of 150,528 numbers adds up.",
         CHANGED: "One step from a clean picture knows three sizes only: up, down, or none where the "
                  "picture is already black or white."},
    ),
    "universal": Lesson(
        "Invisible and universal",
        "One change, made in advance, fools many photos.",
        CHANGED,
        _who_computed,
        {ATTACKED: _for_all, CHANGED: _can_you_see_it},
        {ATTACKED: "Moosavi-Dezfooli et al., CVPR 2017; ours was trained without labels. How many "
                   "photos fall at which size is in docs/measurements.md."},
    ),
    "price-of-training": Lesson(
        "The price of robustness",
        "Who trains against attacks pays on clean pictures.",
        BEFORE,
        _price_on_clean,
        {BEFORE: _towers_on_clean},
        {BEFORE: "The price is an average; a single picture may cost nothing, or the answer.",
         PRICE: "The slider alpha on the page goes from the clean tower to the robust one."},
    ),
    "adaptation-costs-time": Lesson(
        "Adaptation costs time",
        "What adapts to each picture needs no robust weights, and pays with passes.",
        DURING,
        _passes_for_one,
        {DURING: _slower},
        {DURING: "TPT is the control: it adapts, but was never meant to defend.",
         PRICE: "Ask who would pay this for every picture of a camera."},
    ),
    "masked-gradients": Lesson(
        "Masked gradients",
        "A filter stops pictures made without it; often it only hides the gradient.",
        KNOWS,
        _through_the_filter,
        {FREE: _filtered, KNOWS: _masked},
        {KNOWS: "Athalye et al., ICML 2018: where rounding has no gradient, the attacker takes the "
                "identity's instead (BPDA)."},
    ),
    "written-word": Lesson(
        "A word on the picture",
        "What norm balls do not see: a change that everybody sees.",
        ATTACKED,
        _written,
        {ATTACKED: _reads, CHANGED: _no_ball},
        {ATTACKED: "Goh et al., Distill 2021. Large CLIP models read well; docs/measurements.md says "
                   "how many photos fool this one.",
         BEFORE: "These towers were trained against small changes of all pixels, not against words.",
         FREE: "A filter that removes noise leaves a word readable."},
    ),
}  # fmt: skip
