"""Cards as HTML. Built here, in Python, with every piece of user text escaped.

Every function takes the language of its words, and escapes those of a person.

Each row's bar has the same classes in the same order on every card: the right answer, the answer
the attack reached on the undefended model, a third, and the rest.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Literal

from vlmdefense_demo.stories.facts import percent
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import (
    Card,
    Cost,
    Paradigm,
    Prediction,
    Rung,
    RungName,
    Verdict,
)
from vlmdefense_demo.ui.details import more
from vlmdefense_demo.ui.words import ENGLISH, Words

SWATCHES = ("right", "wrong", "third")
SYMBOLS: dict[Verdict, str] = {"held": "✓", "fooled": "✗", "wrong_clean": "~"}
RUNGS: tuple[RungName, ...] = ("transfer", "white_box", "adaptive", "black_box")


def class_order(card: Card) -> tuple[str, ...]:
    """Up to three labels, fixed by the undefended card: right answer, attack's answer, runner-up."""
    order, taken = [card.reference], {card.reference, *card.right}
    for prediction in (card.attacked, card.clean):
        if prediction is not None:
            order += [label for label, _ in ranked(prediction) if label not in taken][:1]
            taken |= set(order)
    return tuple(order)


def ranked(prediction: Prediction) -> list[tuple[str, float]]:
    """Labels with their probabilities, most probable first."""
    pairs = zip(prediction.labels, prediction.probs, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])


def undefended(
    card: Card, order: Sequence[str], waiting: str = "attacking", words: Words = ENGLISH
) -> str:
    """The reference line above the three columns; `waiting` stands where there is no verdict."""
    chip = _chip(card, words) if card.attacked else waiting_chip(words(waiting))
    clean = _answer(words("clean"), card.clean, card.right, order)
    attacked = _answer(words("attacked"), card.attacked, card.right, order)
    name, note = words("undefended"), words("undefended.note")
    return (
        f'<article class="card wide none result" aria-label="{name}">'
        f'<header><div><h3>{name}</h3><span class="venue">{note}</span></div>'
        f"</header>{clean}{attacked or '<div></div>'}"
        f'<div class="tail">{cost_line(card.cost, None, escape(card.device), words)}{chip}</div></article>'
        f"{_legend(order, words)}"
    )


def defence(card: Card, order: Sequence[str], words: Words = ENGLISH) -> str:
    """One finished defence: what it answered, who was tried, what it cost."""
    row = entry(card.method)
    if card.error:
        body = f'<p class="error">{escape(words.refusals(card.error))}</p>'
        chip = f'<span class="chip failed">{words("did_not_run")}</span>'
    else:
        body = (
            _answer(words("clean"), card.clean, card.right, order)
            + _answer(words("attacked"), card.attacked, card.right, order)
            + _aware(card, order, words)
            + _ladder(card, words)
            + cost_line(card.cost, card.slowdown, escape(card.device), words)
            + warnings(card.flags, words, row.flags)
            + more(card, words)
        )
        chip = _chip(card, words)
    verdict = _overall(card)
    label = f"{row.title}: {words(verdict)}" if verdict else row.title
    return (
        f'<article class="card {card.paradigm} result" aria-label="{escape(label)}">'
        f"{header(card.method, chip)}{body}</article>"
    )


def slide(card: Card, order: Sequence[str], words: Words = ENGLISH) -> str:
    """A card for the back row: both answers and the cost, against who does not know the defence."""
    return (
        f'<article class="card {card.paradigm}"><header><h3>{escape(title(card, words))}</h3>'
        f"{unaware_chip(card, words)}</header>"
        + _answer(words("clean"), card.clean, card.right, order)
        + _answer(words("attacked"), card.attacked, card.right, order)
        + cost_line(card.cost, card.slowdown, escape(card.device), words)
        + "</article>"
    )


def title(card: Card, words: Words = ENGLISH) -> str:
    """A method's name; that of the undefended model is a word of the page."""
    return words("undefended") if card.method == "undefended" else card.title


def placeholder(method: str, state: str, hint: str = "", words: Words = ENGLISH) -> str:
    """A defence that is off, queued or running: `state` is the key of its word."""
    row = entry(method)
    note = escape(words.refusals(hint)) if hint else words.english(row.idea)
    return (
        f'<article class="card {row.paradigm}" aria-label="{escape(row.title)}">'
        f'{header(method, waiting_chip(words(state)))}<p class="hint">{note}</p></article>'
    )


def greyed(reasons: Mapping[str, str], words: Words = ENGLISH) -> str:
    """Defences that cannot be ticked for this model, each with the reason."""
    if not reasons:
        return ""
    names = ", ".join(
        f'<span title="{escape(words.refusals(why))}">{escape(entry(id).title)}</span>'
        for id, why in reasons.items()
    )
    why = next(iter(reasons.values())).partition(". ")[0]
    why = words.refusal(f"{why}.").rstrip(".。") if len(reasons) == 1 else words("greyed.weights")
    return f'<p class="greyed">{words("greyed", names=names, why=escape(why))}</p>'


def paradigm_head(paradigm: Paradigm, words: Words = ENGLISH) -> str:
    """Symbol, name and price in words."""
    return (
        f'<div class="vd-head {paradigm}"><h2><span class="mark {paradigm}" aria-hidden="true">'
        f"</span>{words(paradigm)}</h2><p>{words(f'{paradigm}.price')}</p></div>"
    )


def header(method: str, chip: str) -> str:
    """Title, paper and a chip."""
    row = entry(method)
    paper = " · ".join(
        f'<a href="{escape(part.url)}" target="_blank" rel="noopener" '
        f'title="{escape(part.paper)}">{escape(part.venue)} {part.year}</a>'
        for part in row.rows
    )
    return f'<header><h3>{escape(row.title)}</h3><span class="venue">{paper}</span>{chip}</header>'


def _overall(card: Card) -> Verdict | Literal["untested"] | None:
    """The verdict of the chip: nothing was held where nobody who was tried could do harm."""
    return "untested" if "attack_failed" in card.flags and len(card.ladder) < 2 else card.overall


def _chip(card: Card, words: Words) -> str:
    verdict = _overall(card)
    if verdict is None:
        return ""
    return waiting_chip(words(verdict)) if verdict == "untested" else verdict_chip(verdict, words)


def unaware_chip(card: Card, words: Words = ENGLISH) -> str:
    """The verdict against who does not know the defence, if that attacker put it to the test."""
    return _chip(replace(card, ladder=()), words)


def verdict_chip(verdict: Verdict, words: Words = ENGLISH) -> str:
    """A verdict's symbol and word."""
    return f'<span class="chip {verdict}">{SYMBOLS[verdict]} {words(verdict)}</span>'


def waiting_chip(text: str) -> str:
    """A chip for what has no verdict yet."""
    return f'<span class="chip waiting">{escape(text)}</span>'


def _answer(
    what: str, prediction: Prediction | None, right: Sequence[str], order: Sequence[str]
) -> str:
    """One row: the answer in words above a bar of fixed class order."""
    if prediction is None:
        return ""
    probs = dict(zip(prediction.labels, prediction.probs, strict=True))
    # Labels that count as the right one are drawn as one with it.
    probs[order[0]] = sum(probs.get(label, 0.0) for label in {order[0], *right})
    parts = [(name, probs.get(label, 0.0)) for name, label in zip(SWATCHES, order, strict=False)]
    parts.append(("rest", max(0.0, 1 - sum(p for _, p in parts))))
    bar = "".join(f'<i class="{n}" style="width:{100 * p:.2f}%"></i>' for n, p in parts if p > 0)
    spoken = ", ".join(f"{label} {probs.get(label, 0):.0%}" for label in order)
    symbol = "✓" if prediction.label in right else "✗"
    return (
        f'<div class="vd-row"><span class="what">{what}</span><div>'
        f'<div class="answer"><b>{escape(prediction.label)}</b>'
        f'<span class="num">{symbol} {per_cent(prediction.prob)}</span></div>'
        f'<div class="bar" role="img" aria-label="{escape(f"{what}: {spoken}")}">{bar}</div>'
        f"</div></div>"
    )


def _aware(card: Card, order: Sequence[str], words: Words) -> str:
    """What the attacker who knows the defence reached: a bar, and the file with what it cost."""
    tried = [rung for rung in card.ladder if rung.name != "transfer"]
    if not tried:
        return ""
    rung = next((r for r in tried if r.verdict == "fooled"), tried[-1])
    return _answer(words("knows"), rung.attacked, card.right, order) + _story(rung, words)


def _story(rung: Rung, words: Words) -> str:
    """Which attacker it was, its passes, the draws it did not know, and its picture."""
    name = words(f"rung.{rung.name}")
    start = words("card.broken" if rung.verdict == "fooled" else "card.unbroken")
    drawn = ""
    if rung.wrong is not None:
        wrong = round(rung.wrong * rung.draws)
        drawn = words("card.draws", wrong=wrong, draws=rung.draws)
    file = b64encode(rung.png).decode()
    link = f' <a download="{rung.name}.png" href="data:image/png;base64,{file}">PNG</a>'
    return (
        f'<p class="story">{start} <b>{name}</b>: {words.english(rung.how)}. {passes(rung.cost, words)}, '
        f"{duration(rung.cost.seconds)}{drawn}.{link if rung.png else ''}</p>"
    )


def _ladder(card: Card, words: Words) -> str:
    """A chip for every attacker: held, fooled or not run."""
    if card.verdict is None:
        return ""
    found = {rung.name: rung.verdict for rung in card.ladder} | {"transfer": card.verdict}
    rungs = []
    for name in RUNGS:
        verdict = found.get(name)
        rungs.append(
            f'<span title="{escape(words(f"rung.{name}.how"))}">{words(f"rung.{name}")} '
            f'<span class="rung {verdict or "notrun"}">{words(verdict or "not_run")}</span></span>'
        )
    return f'<div class="ladder">{"".join(rungs)}</div>'


def warnings(flags: Sequence[str], words: Words, always: Sequence[str] = ()) -> str:
    """What was found on this picture; each word opens its paragraph."""
    found = "".join(
        f'<details class="flag"><summary>⚑ {words(f"flag.{f}")}</summary>'
        f"<p>{words(f'flag.{f}.why')}</p></details>"
        for f in flags
        if f not in always
    )
    return f'<div class="flags">{found}</div>' if found else ""


def cost_line(
    cost: Cost | None, slowdown: float | None, device: str, words: Words = ENGLISH
) -> str:
    """Time, ratio to the undefended forward, passes and device; HTML."""
    if cost is None:
        return ""
    ratio = f"×{slowdown:.1f} · " if slowdown else ""
    return f'<div class="cost"><b>{duration(cost.seconds)}</b>{ratio}{passes(cost, words)} · {device}</div>'


def passes(cost: Cost, words: Words) -> str:
    """A cost in f and b."""
    return cost.passes(words("cost.text"))


def _legend(order: Sequence[str], words: Words) -> str:
    names = [*order, words("card.others")]
    colours = (*("good", "bad", "odd")[: len(order)], "rest")
    spans = "".join(
        f'<span style="--swatch:var(--{c})">{escape(n)}</span>'
        for n, c in zip(names, colours, strict=True)
    )
    return f'<p class="legend result">{spans}</p>'


def per_cent(p: float) -> str:
    """A probability in the words of the stories, as HTML."""
    return escape(percent(p))


def duration(seconds: float) -> str:
    """Milliseconds below one second, as HTML."""
    if seconds < 0.0005:
        return "&lt; 1 ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
