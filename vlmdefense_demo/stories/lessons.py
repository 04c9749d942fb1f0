"""What each story teaches. A sentence that a measurement could contradict has two versions."""

from __future__ import annotations

from vlmdefense_demo.stories.facts import Facts, answer, dearest, passes, percent, titles
from vlmdefense_demo.stories.say import Say, capital, listed, sentences, several
from vlmdefense_demo.stories.slides import (
    ATTACKED,
    BEFORE,
    CHANGED,
    DURING,
    FREE,
    KNOWS,
    MASKS,
    PRICE,
    Lesson,
    Quiz,
    quiz,
    which_answer,
)
from vlmdefense_demo.types import Card

LESS_SURE = 0.05  # a loss of probability worth a word


def _how_many_hold(facts: Facts, say: Say) -> Quiz:
    tried = facts.climbed
    left = sum(not card.broken_by for card in tried)
    return quiz(
        say("ask.hold", all=len(tried)),
        [
            (say("ask.hold.none"), left == 0),
            (say("ask.hold.some"), 0 < left < len(tried)),
            (say("ask.hold.all"), left == len(tried) > 0),
        ],
    )


def _held_before(facts: Facts, say: Say) -> str:
    return say("more.held", held=sum(card.verdict == "held" for card in facts.climbed))


def _one_step(facts: Facts, say: Say) -> str:
    if facts.fooled:
        return capital(say("more.enough", passes=passes(*facts.spent, say)))
    return say("more.not_enough")


def _steps_in_words(facts: Facts, say: Say) -> Quiz:
    return which_answer(facts, say("ask.one_step", eps=f"{facts.report.linf:g}"))


def _who_computed(facts: Facts, say: Say) -> Quiz:
    total = sum(facts.spent)
    return quiz(
        say("ask.computed"),
        [
            (say("ask.computed.none"), total == 0),
            (say("ask.computed.some"), 0 < total <= 10),
            (say("ask.computed.more"), total > 10),
        ],
    )


def _for_all(facts: Facts, say: Say) -> str:
    end = say("more.falls" if facts.fooled else "more.stands")
    return sentences(say("more.for_all"), end, say=say)


def _can_you_see_it(facts: Facts, say: Say) -> str:
    return say("more.look", levels=f"{facts.report.linf:g}")


def _losses(facts: Facts) -> list[float]:
    """Probability of the right answer that each training-time defence loses on the clean picture."""
    towers = [card.clean for card in facts.of("training_time") if card.clean]
    right = facts.clean.labels.index(facts.plain.reference)
    return [facts.clean.probs[right] - clean.probs[right] for clean in towers]


def _price_on_clean(facts: Facts, say: Say) -> Quiz:
    wrong = any(card.verdict == "wrong_clean" for card in facts.of("training_time"))
    loses = max(_losses(facts)) > LESS_SURE
    return quiz(
        say("ask.clean"),
        [
            (say("ask.clean.sure"), not wrong and not loses),
            (say("ask.clean.less"), not wrong and loses),
            (say("ask.clean.wrong"), wrong),
        ],
    )


def _towers_on_clean(facts: Facts, say: Say) -> str:
    towers = [
        say("more.tower", title=card.title, answer=answer(card.clean, say))
        for card in facts.of("training_time")
        if card.clean
    ]
    said = several(towers, say, of="clauses")
    paid = max(_losses(facts)) > LESS_SURE
    end = "" if paid else say("more.no_price")
    return sentences(say("more.towers", answer=answer(facts.clean, say), said=said), end, say=say)


def _passes_for_one(facts: Facts, say: Say) -> Quiz:
    card = dearest(facts.of("test_time"))
    assert card.cost is not None
    n = card.cost.image_forward
    return quiz(
        say("ask.often", title=card.title),
        [
            (say("ask.often.once"), n == 1),
            (say("ask.often.some"), 2 <= n <= 8),
            (say("ask.often.many"), 9 <= n <= 40),
            (say("ask.often.more"), n > 40),
        ],
    )


def _slower(facts: Facts, say: Say) -> str:
    costs = [
        say(
            "more.cost",
            title=card.title,
            passes=passes(card.cost.image_forward, card.cost.image_backward, say),
            times=f"{card.slowdown:.0f}",
        )
        for card in facts.of("test_time")
        if card.cost and card.slowdown
    ]
    return say("more.costs", costs=listed(costs, say))


def _first_filter(facts: Facts) -> Card:
    return facts.of("training_free")[0]


def _through_the_filter(facts: Facts, say: Say) -> Quiz:
    card = _first_filter(facts)
    name = card.broken_by.name if card.broken_by else ""
    return quiz(
        say("ask.through", title=card.title),
        [
            (say("ask.through.transfer"), name == "transfer"),
            (say("ask.through.white_box"), name == "white_box"),
            (say("ask.through.adaptive"), name == "adaptive"),
            (say("ask.through.none"), name in ("", "black_box")),
        ],
    )


def _filtered(facts: Facts, say: Say) -> str:
    card = _first_filter(facts)
    assert card.attacked is not None
    return say("more.filtered", title=card.title, answer=answer(card.attacked, say))


def _masked(facts: Facts, say: Say) -> str:
    found = [
        capital(say("more.masked", flag=say(f"flag.{flag}"), titles=titles(some, say)))
        for flag in MASKS
        if (some := [card for card in facts.of("training_free") if flag in card.flags])
    ]
    if not found:
        return say("more.not_masked")
    return sentences(*found, say("more.blind"), say=say)


def _reads(facts: Facts, say: Say) -> str:
    start = say("more.word_wins" if facts.fooled else "more.word_fails")
    return sentences(start, say("more.reads"), say=say)


def _word(facts: Facts) -> str:
    """The strongest wrong label on the clean picture, which is what the attack writes."""
    clean, right = facts.clean, facts.plain.right
    ranked = sorted(zip(clean.probs, clean.labels, strict=True), reverse=True)
    return next(label for _, label in ranked if label not in right)


def _written(facts: Facts, say: Say) -> Quiz:
    return which_answer(facts, say("ask.written", word=_word(facts)))


def _no_ball(facts: Facts, say: Say) -> str:
    return say("more.no_ball", share=percent(facts.report.changed))


LESSONS: dict[str, Lesson] = {
    "coffee-becomes-motorcycle": Lesson(KNOWS, _how_many_hold, {KNOWS: _held_before}, (ATTACKED,)),
    "one-step": Lesson(ATTACKED, _steps_in_words, {ATTACKED: _one_step}, (ATTACKED, CHANGED)),
    "universal": Lesson(
        CHANGED, _who_computed, {ATTACKED: _for_all, CHANGED: _can_you_see_it}, (ATTACKED,)
    ),
    "price-of-training": Lesson(
        BEFORE, _price_on_clean, {BEFORE: _towers_on_clean}, (BEFORE, PRICE)
    ),
    "adaptation-costs-time": Lesson(DURING, _passes_for_one, {DURING: _slower}, (DURING, PRICE)),
    "masked-gradients": Lesson(
        KNOWS, _through_the_filter, {FREE: _filtered, KNOWS: _masked}, (KNOWS,)
    ),
    "written-word": Lesson(
        ATTACKED, _written, {ATTACKED: _reads, CHANGED: _no_ball}, (ATTACKED, BEFORE, FREE)
    ),
}
