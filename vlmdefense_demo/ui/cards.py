"""Cards as HTML. Built here, in Python, with every piece of user text escaped.

Each row's bar has the same classes in the same order on every card: the right answer, the answer
the attack reached on the undefended model, a third, and the rest.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.stories.facts import percent
from vlmdefense_demo.survey import PARADIGMS, entry
from vlmdefense_demo.types import (
    AttackReport,
    Card,
    Cost,
    Paradigm,
    Prediction,
    Rung,
    Verdict,
)
from vlmdefense_demo.ui import text
from vlmdefense_demo.ui.details import more

SWATCHES = ("right", "wrong", "third")


def class_order(card: Card) -> tuple[str, ...]:
    """Up to three labels, fixed by the undefended card: right answer, attack's answer, runner-up."""
    order = [card.reference]
    for prediction in (card.attacked, card.clean):
        if prediction is not None:
            order += [label for label, _ in ranked(prediction) if label not in order][:1]
    return tuple(order[:3])


def ranked(prediction: Prediction) -> list[tuple[str, float]]:
    """Labels with their probabilities, most probable first."""
    pairs = zip(prediction.labels, prediction.probs, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])


def undefended(card: Card, order: Sequence[str], waiting: str = "attacking …") -> str:
    """The reference line above the three columns; `waiting` stands where there is no verdict."""
    chip = _chip(card) if card.attacked else waiting_chip(waiting)
    attacked = _answer("attacked", card.attacked, card.right, order) if card.attacked else ""
    device = escape(card.device)
    return (
        f'<article class="card wide none result" aria-label="Undefended">'
        f'<header><div><h3>Undefended</h3><span class="venue">the model as it is</span></div>'
        f"</header>{_answer('clean', card.clean, card.right, order)}{attacked or '<div></div>'}"
        f'<div class="tail">{cost_line(card.cost, None, device)}{chip}</div></article>'
        f"{_legend(order)}"
    )


def defence(card: Card, order: Sequence[str]) -> str:
    """One finished defence: what it answered, who was tried, what it cost."""
    row = entry(card.method)
    if card.error:
        body = f'<p class="error">{escape(card.error)}</p>'
    else:
        body = (
            _answer("clean", card.clean, card.right, order)
            + _answer("attacked", card.attacked, card.right, order)
            + _aware(card, order)
            + _ladder(card)
            + cost_line(card.cost, card.slowdown, escape(card.device))
            + _warnings(card.flags, row.flags)
            + more(card)
        )
    verdict = _overall(card)
    label = f"{row.title}: {text.VERDICTS[verdict][1]}" if verdict else row.title
    chip = '<span class="chip failed">did not run</span>' if card.error else _chip(card)
    return (
        f'<article class="card {card.paradigm} result" aria-label="{escape(label)}">'
        f"{header(card.method, chip)}{body}</article>"
    )


def slide(card: Card, order: Sequence[str]) -> str:
    """A card for the back row: both answers and the cost, against who does not know the defence."""
    return (
        f'<article class="card {card.paradigm}"><header><h3>{escape(card.title)}</h3>'
        f"{_chip(replace(card, ladder=()))}</header>"
        + _answer("clean", card.clean, card.right, order)
        + _answer("attacked", card.attacked, card.right, order)
        + cost_line(card.cost, card.slowdown, escape(card.device))
        + "</article>"
    )


def placeholder(method: str, words: str, hint: str = "") -> str:
    """A defence that is off, queued or running."""
    row = entry(method)
    note = f'<p class="hint">{escape(hint or row.idea)}</p>'
    return (
        f'<article class="card {row.paradigm}" aria-label="{escape(row.title)}">'
        f"{header(method, waiting_chip(words))}{note}</article>"
    )


def greyed(reasons: Mapping[str, str]) -> str:
    """Defences that cannot be ticked for this model, each with the reason."""
    if not reasons:
        return ""
    names = ", ".join(
        f'<span title="{escape(why)}">{escape(entry(id).title)}</span>'
        for id, why in reasons.items()
    )
    why = escape(next(iter(reasons.values())).partition(". ")[0])
    some = why if len(reasons) == 1 else "no weights for this model"
    return f'<p class="greyed">Not here: {names} ({some}).</p>'


def paradigm_head(paradigm: Paradigm) -> str:
    """Symbol, name and price in words."""
    name, price = PARADIGMS[paradigm]
    return (
        f'<div class="vd-head {paradigm}"><h2><span class="mark {paradigm}" aria-hidden="true">'
        f"</span>{name}</h2><p>{price}</p></div>"
    )


def verdict(card: Card, badge: str) -> str:
    """The headline and the facts of the delivered file."""
    report = card.attack
    if card.clean is None:
        return ""
    first = f"{escape(card.clean.label)} {_percent(card.clean.prob)}"
    if report is None or card.attacked is None:
        return f'<section class="verdict result"><h2>{first} → …</h2></section>'
    kind = "to" if card.attacked.label != card.clean.label else "stays"
    second = f"{escape(card.attacked.label)} {_percent(card.attacked.prob)}"
    facts = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in _facts(card, report))
    note = f'<span class="badge">{escape(badge)}</span>' if badge else ""
    return (
        f'<section class="verdict result">{note}<h2>{first} →'
        f'<span class="{kind}">{second}</span></h2><dl>{facts}</dl>{_warnings(card.flags)}</section>'
    )


def _facts(card: Card, report: AttackReport) -> list[tuple[str, str]]:
    psnr = "identical" if report.psnr is None else f"{report.psnr:.1f} dB"
    forward = report.cost.image_forward - 1
    reference = "model's own answer" if card.pseudo else "yours"
    return [
        ("Attack", f"{entry(report.method).title}, {_used(report)}"),
        ("Result", _result(card, report)),
        ("Right answer", f"{escape(card.reference)} ({reference})"),
        ("L∞ of the file", f"{report.linf:g} / 255"),
        ("L2", f"{report.l2:.2f}"),
        ("Pixels changed", _percent(report.changed)),
        ("PSNR · SSIM", f"{psnr} · {report.ssim:.2f}"),
        ("Passes", f"{forward} f + {report.cost.image_backward} b + 1 verify"),
        ("Time", f"{_seconds(report.cost.seconds)} on {escape(card.device)}"),
    ]


def _result(card: Card, report: AttackReport) -> str:
    if card.verdict == "wrong_clean" and not report.targeted:
        return "already wrong before"
    return "succeeded" if report.success else "failed"


def _used(report: AttackReport) -> str:
    """Gradient steps spent, of those allowed where the method has a number of them."""
    used, allowed = report.steps_used or 0, report.params.get("steps", 1)
    if not used:
        return "no gradient"
    if used == 1 == allowed:
        return "1 step"
    return f"{used} of {allowed} steps" if used <= allowed else f"{used} gradient steps"


def header(method: str, chip: str) -> str:
    """Title, paper and a chip."""
    row = entry(method)
    paper = " · ".join(
        f'<a href="{escape(part.url)}" target="_blank" rel="noopener" '
        f'title="{escape(part.paper)}">{escape(part.venue)} {part.year}</a>'
        for part in row.rows
    )
    return f'<header><h3>{escape(row.title)}</h3><span class="venue">{paper}</span>{chip}</header>'


def _overall(card: Card) -> Verdict | None:
    """The verdict against the strongest attacker that was tried."""
    return "fooled" if card.broken_by else card.verdict


def _chip(card: Card) -> str:
    verdict = _overall(card)
    if verdict is None:
        return ""
    symbol, word = text.VERDICTS[verdict]
    return f'<span class="chip {verdict}">{symbol} {word}</span>'


def waiting_chip(words: str) -> str:
    """A chip for what has no verdict yet."""
    return f'<span class="chip waiting">{escape(words)}</span>'


def _answer(
    what: str, prediction: Prediction | None, right: Sequence[str], order: Sequence[str]
) -> str:
    """One row: the answer in words above a bar of fixed class order."""
    if prediction is None:
        return ""
    probs = dict(zip(prediction.labels, prediction.probs, strict=True))
    parts = [(name, probs.get(label, 0.0)) for name, label in zip(SWATCHES, order, strict=False)]
    parts.append(("rest", max(0.0, 1 - sum(p for _, p in parts))))
    bar = "".join(f'<i class="{n}" style="width:{100 * p:.2f}%"></i>' for n, p in parts if p > 0)
    words = ", ".join(f"{label} {probs.get(label, 0):.0%}" for label in order)
    symbol = "✓" if prediction.label in right else "✗"
    return (
        f'<div class="vd-row"><span class="what">{what}</span><div>'
        f'<div class="answer"><b>{escape(prediction.label)}</b>'
        f'<span class="num">{symbol} {_percent(prediction.prob)}</span></div>'
        f'<div class="bar" role="img" aria-label="{escape(f"{what}: {words}")}">{bar}</div>'
        f"</div></div>"
    )


def _aware(card: Card, order: Sequence[str]) -> str:
    """What the attacker who knows the defence reached: a bar, and the file with what it cost."""
    tried = [rung for rung in card.ladder if rung.name != "transfer"]
    if not tried:
        return ""
    rung = next((r for r in tried if r.verdict == "fooled"), tried[-1])
    return _answer("attacker knows", rung.attacked, card.right, order) + _story(rung)


def _story(rung: Rung) -> str:
    """Which attacker it was, its passes, the draws it did not know, and its picture."""
    name = text.RUNGS[rung.name][0]
    start = "Broken by" if rung.verdict == "fooled" else "Not broken; last tried:"
    drawn = ""
    if rung.wrong is not None:
        drawn = f"; wrong in {round(rung.wrong * rung.draws)} of {rung.draws} fresh draws"
    file = b64encode(rung.png).decode()
    link = f' <a download="{rung.name}.png" href="data:image/png;base64,{file}">PNG</a>'
    return (
        f'<p class="story">{start} <b>{name}</b>: {escape(rung.how)}. {rung.cost.passes()}, '
        f"{_seconds(rung.cost.seconds)}{drawn}.{link if rung.png else ''}</p>"
    )


def _ladder(card: Card) -> str:
    """A chip for every attacker: held, fooled or not run."""
    if card.verdict is None:
        return ""
    found = {rung.name: rung.verdict for rung in card.ladder} | {"transfer": card.verdict}
    rungs = []
    for name, (title, meaning) in text.RUNGS.items():
        verdict = found.get(name)
        kind, words = (verdict, text.VERDICTS[verdict][1]) if verdict else ("notrun", "not run")
        rungs.append(
            f'<span title="attack {escape(meaning)}">{title} '
            f'<span class="rung {kind}">{words}</span></span>'
        )
    return f'<div class="ladder">{"".join(rungs)}</div>'


def _warnings(flags: Sequence[str], always: Sequence[str] = ()) -> str:
    """What was found on this picture; each word opens its paragraph."""
    found = "".join(
        f'<details class="flag"><summary>⚑ {FLAGS[f][0]}</summary><p>{FLAGS[f][1]}</p></details>'
        for f in flags
        if f not in always
    )
    return f'<div class="flags">{found}</div>' if found else ""


def cost_line(cost: Cost | None, slowdown: float | None, device: str) -> str:
    """Time, ratio to the undefended forward, passes and device; HTML."""
    if cost is None:
        return ""
    ratio = f"×{slowdown:.1f} · " if slowdown else ""
    return (
        f'<div class="cost"><b>{_seconds(cost.seconds)}</b>{ratio}{cost.passes()} · {device}</div>'
    )


def _legend(order: Sequence[str]) -> str:
    names = [*order, "all other labels"]
    colours = (*("good", "bad", "odd")[: len(order)], "rest")
    spans = "".join(
        f'<span style="--swatch:var(--{c})">{escape(n)}</span>'
        for n, c in zip(names, colours, strict=True)
    )
    return f'<p class="legend result">{spans}</p>'


def _percent(p: float) -> str:
    """In HTML."""
    return escape(percent(p))


def _seconds(seconds: float) -> str:
    if seconds < 0.0005:
        return "&lt; 1 ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
