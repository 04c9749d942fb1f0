"""Lecture mode: the shipped stories as slides, a dialog over the page that assets/lecture.js drives.

Everything a lecture shows is in this markup, pictures included, so that it needs no server once the
page has it. Every word is escaped here. All of it speaks the page's language; labels, names of methods
and papers, and the badge of a stored result have one language.
"""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.heatmap import gain_for, signed_difference
from vlmdefense_demo.images import from_png, to_array
from vlmdefense_demo.models.catalog import ASSETS
from vlmdefense_demo.stories.facts import Facts, answer, load, percent
from vlmdefense_demo.stories.lessons import LESSONS
from vlmdefense_demo.stories.recipes import RECIPES
from vlmdefense_demo.stories.slides import (
    ATTACKED,
    CHANGED,
    KNOWS,
    NUMBERS,
    PRICE,
    SEE,
    Quiz,
    Slide,
    slides,
)
from vlmdefense_demo.types import Card, Prediction
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui.words import ENGLISH, Said, Words, said

SCRIPT, STYLE = ASSETS / "lecture.js", ASSETS / "lecture.css"
PAGE_STYLE = ASSETS / "style.css"
# What Gradio's page brings along.
ALONE = "*{box-sizing:border-box}body{margin:2rem;font-family:system-ui,sans-serif;background:var(--ground);color:var(--ink)}"
DARK = (
    "<script>document.documentElement.classList.toggle("
    "'dark', matchMedia('(prefers-color-scheme: dark)').matches)</script>"
)
BARS = 3  # labels whose probabilities are drawn


def head(opened: bool = False) -> str:
    """What the page's head needs: the script, and whether the lecture is open at once."""
    wish = '<meta name="vd-view" content="lecture">' if opened else ""
    return f"{wish}<script>{Path(SCRIPT).read_text(encoding='utf-8')}</script>"


def shipped() -> tuple[Facts, ...]:
    """The stories that are there, in their order; one that is missing only shortens the list."""
    found = []
    for recipe in RECIPES:
        try:
            found.append(load(recipe))
        except DemoError:
            continue
    return tuple(found)


def lecture(stories: Sequence[Facts]) -> Said:
    """The whole lecture, in every language; its pictures are drawn once."""
    drawn = [(facts, *_store(facts)) for facts in stories]
    return said(lambda words: _dialog(drawn, words) if drawn else "")


def _dialog(drawn: Sequence[tuple[Facts, str, int]], words: Words) -> str:
    stories = [facts for facts, _, _ in drawn]
    options = "".join(
        f'<option value="{f.recipe.slug}">{escape(words(f"lesson.{f.recipe.slug}"))}</option>'
        for f in stories
    )
    steps = "".join(
        f'<li><button type="button" data-go="{n}" '
        f'aria-label="{escape(words("lec.step", number=n, title=words(f"step.{n}")))}">{n}</button>'
        "</li>"
        for n in NUMBERS
    )
    measured = escape(words("lec.measured", answer="{}"))
    return (
        f'<dialog id="lecture-view" class="lecture" aria-label="{words("lecture")}" '
        f'data-measured="{measured}"><header class="lec-bar">'
        f'<select class="lec-story" aria-label="{words("lec.story")}">{options}</select>'
        f'<nav aria-label="{words("lec.steps")}"><button type="button" data-key="ArrowLeft" '
        f'aria-label="{words("lec.previous")}">←</button><ol>{steps}</ol><button type="button" '
        f'data-key="ArrowRight" aria-label="{words("lec.next")}">→</button></nav>'
        f'<button type="button" data-key="n" aria-pressed="false">{words("lec.notes")}</button>'
        f'<button type="button" data-key="Escape">{words("lec.leave")}</button></header>'
        f"{''.join(_story(*story, words) for story in drawn)}"
        '<p class="lec-live" role="status" aria-live="polite"></p></dialog>'
    )


def standalone(stories: Sequence[Facts], words: Words = ENGLISH) -> str:
    """The lecture as one HTML file that needs nothing else: no server, no network, no Python."""
    title, subtitle = words("title"), words("subtitle")
    styles = "".join(file.read_text(encoding="utf-8") for file in (PAGE_STYLE, STYLE))
    return (
        f'<!doctype html><html lang="{words.tag}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{ALONE}{styles}</style>{DARK}</head>"
        f'<body><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><p><button type="button" '
        f'onclick="lecture()">{words("lec.open")}</button></p>'
        f"{words.say(lecture(stories))}{head(opened=True)}"
        "</body></html>\n"
    )


def _story(facts: Facts, store: str, gain: int, words: Words) -> str:
    """A story's pictures once, then its eight steps, which refer to them."""
    eight = slides(LESSONS[facts.recipe.slug], facts, words)
    body = "".join(_slide(facts, slide, gain, words) for slide in eight)
    return f'<div hidden class="lec-store">{store}</div>{body}'


def _store(facts: Facts) -> tuple[str, int]:
    """A story's pictures, and how often the difference is amplified."""
    slug, report = facts.recipe.slug, facts.report
    before, after = to_array(from_png(facts.story.clean)), to_array(from_png(report.png))
    gain = gain_for(max(report.linf, 1))
    file = io.BytesIO()
    signed_difference(before, after, gain).save(file, "PNG", optimize=True)
    pictures = {"clean": facts.story.clean, "attacked": report.png, "signed": file.getvalue()}
    store = "".join(
        f'<img alt="" data-store="{slug}/{name}" src="data:image/png;base64,{b64encode(png).decode()}">'
        for name, png in pictures.items()
    )
    return store, gain


def _slide(facts: Facts, slide: Slide, gain: int, words: Words) -> str:
    secret = " lec-secret" if slide.quiz else ""
    said = "".join(f"<p>{escape(some)}</p>" for some in slide.text)
    notes = "".join(f"<li>{escape(some)}</li>" for some in slide.notes)
    asked = _quiz(slide.quiz, words) if slide.quiz else ""
    keys = f'<p class="lec-keys">{words("lec.keys")}</p>' if slide.number == SEE else ""
    message = escape(words(f"lesson.{facts.recipe.slug}.message"))
    place = words("lec.of", number=slide.number, all=len(NUMBERS))
    badge = f"<p{words.foreign}>{escape(str(facts.story.about['badge']))}</p>"
    return (
        f'<section class="lec-slide step-{slide.number}" data-story="{facts.recipe.slug}" '
        f'data-step="{slide.number}" {"data-quiz" * bool(slide.quiz)} hidden>'
        f'<h2 tabindex="-1"><small>{place}</small> {escape(slide.title)}</h2>'
        f'<div class="lec-top"><div class="lec-pair">{_pair(slide.number, facts, gain, words)}</div>'
        f'<div class="lec-say">{asked}<div class="lec-said{secret}">'
        f"{_verdict(slide.number, facts)}{said}{_bars(slide.number, facts, words)}</div></div></div>"
        f'<div class="lec-cards{secret}">{_cards(slide, facts, words)}</div>{keys}'
        f'<aside class="lec-notes" aria-label="{words("lec.speaker")}"><b>{message}</b>'
        f"<ul>{notes}</ul>{badge}</aside></section>"
    )


def _pair(number: int, facts: Facts, gain: int, words: Words) -> str:
    """Clean and attacked beside each other; before step 2 there is only the clean one."""
    shown = [("clean", f"{words('clean')} · {facts.plain.reference}")]
    if number != SEE:
        shown.append(("attacked", f"{words('attacked')} · {facts.short}"))
    if number == CHANGED:
        shown.append(("signed", words("lec.difference", gain=gain)))
    return "".join(
        f'<figure><img alt="{escape(caption)}" data-picture="{name}"><figcaption>{escape(caption)}'
        "</figcaption></figure>"
        for name, caption in shown
    )


def _verdict(number: int, facts: Facts) -> str:
    """The undefended model's answers, before and after."""
    first = f"{escape(facts.clean.label)} {escape(percent(facts.clean.prob))}"
    if number == SEE:
        return f'<p class="lec-verdict">{first}</p>'
    kind = "to" if facts.attacked.label != facts.clean.label else "stays"
    second = f"{escape(facts.attacked.label)} {escape(percent(facts.attacked.prob))}"
    return f'<p class="lec-verdict">{first} → <span class="{kind}">{second}</span></p>'


def _bars(number: int, facts: Facts, words: Words) -> str:
    """The most probable labels of the picture a step is about, and all the others as one bar."""
    asked = {SEE: facts.clean, ATTACKED: facts.attacked}.get(number)
    if asked is None:
        return ""
    ranked = list(html.ranked(asked))
    rows = "".join(_bar(label, p, asked, facts.plain) for label, p in ranked[:BARS])
    if len(ranked) > BARS:
        rows += _bar(words("card.others"), sum(p for _, p in ranked[BARS:]), asked, facts.plain)
    return f'<ul class="lec-bars">{rows}</ul>'


def _bar(label: str, p: float, asked: Prediction, plain: Card) -> str:
    right, top = label in plain.right, label == asked.label
    kind = "right" if right else "wrong" if top else "rest"
    return (
        f'<li><span>{escape(label)}</span><i><b class="{kind}" style="width:{100 * p:.2f}%"></b></i>'
        f"<span>{escape(percent(p))}</span></li>"
    )


def _quiz(quiz: Quiz, words: Words) -> str:
    right = f'data-right="{words("lec.right")}"'
    options = "".join(
        f'<li><button type="button" data-option="{i + 1}" {right * (i == quiz.right)}>'
        f"<span>{i + 1}</span> {escape(option)}</button></li>"
        for i, option in enumerate(quiz.options)
    )
    question = escape(quiz.question)
    return (
        f'<div class="lec-quiz" role="group" aria-label="{words("lec.question")}">'
        f"<p>{question}</p><ol>{options}</ol></div>"
    )


def _cards(slide: Slide, facts: Facts, words: Words) -> str:
    order = html.class_order(facts.plain)
    if slide.number in SHORT:
        return "".join(_short(card, *SHORT[slide.number](card, words)) for card in slide.cards)
    return "".join(html.slide(card, order, words) for card in slide.cards)


def _short(card: Card, chip: str, text: str) -> str:
    text = re.sub(r" (?=[fb]\b)", "\u00a0", text)  # a number and its passes stay together
    return (
        f'<article class="card short {card.paradigm}"><header><h3>{escape(card.title)}</h3>{chip}'
        f"</header><p>{escape(text)}</p></article>"
    )


def _price(card: Card, words: Words) -> tuple[str, str]:
    """The time as a chip, and the clean answer with the passes in words."""
    assert card.cost is not None
    assert card.clean is not None
    times = "" if card.slowdown is None else words("lec.time", times=f"{card.slowdown:.1f}")
    return (
        html.waiting_chip(times),
        words("lec.price", passes=html.passes(card.cost, words), answer=answer(card.clean, words)),
    )


def _knows(card: Card, words: Words) -> tuple[str, str]:
    """The verdict against the strongest attacker tried, and which one that was."""
    if len(card.ladder) < 2 and not card.broken_by:
        why = "wrong_clean" if card.verdict == "wrong_clean" else "not_run"
        return html.waiting_chip(words(why)), words("lec.not_tried")
    rung = card.broken_by or card.ladder[-1]
    on_image = replace(rung.cost, text_forward=0, text_backward=0)
    known = rung.name != "transfer"
    by = words("fell.transfer")
    if known:
        by = words("lec.rung", rung=words(f"rung.{rung.name}"), passes=html.passes(on_image, words))
    told = words(
        "lec.broken" if card.broken_by else "lec.unbroken",
        by=by,
        answer=answer(rung.attacked, words),
    )
    return html.verdict_chip("fooled" if card.broken_by else "held", words), told


SHORT: dict[int, Callable[[Card, Words], tuple[str, str]]] = {PRICE: _price, KNOWS: _knows}
