"""The headline of a comparison as HTML: what the attack did, and the facts of the delivered file."""

from __future__ import annotations

from html import escape

from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import AttackReport, Card
from vlmdefense_demo.ui.cards import duration, per_cent, warnings
from vlmdefense_demo.ui.words import ENGLISH, Words


def verdict(card: Card, badge: str, words: Words = ENGLISH) -> str:
    """The headline and the facts of the delivered file."""
    report = card.attack
    if card.clean is None:
        return ""
    before = f"{escape(card.clean.label)} {per_cent(card.clean.prob)}"
    if report is None or card.attacked is None:
        return f'<section class="verdict result"><h2>{before} → …</h2></section>'
    first, second = card.clean.label, card.attacked.label
    same = first == second or {first, second} <= {*card.right}
    after = f"{escape(second)} {per_cent(card.attacked.prob)}"
    facts = "".join(
        f"<dt>{words(f'verdict.{k}')}</dt><dd>{v}</dd>" for k, v in _facts(card, report, words)
    )
    note = f'<span class="badge">{escape(_badge(badge, words))}</span>' if badge else ""
    return (
        f'<section class="verdict result">{note}<h2>{before} →'
        f'<span class="{"stays" if same else "to"}">{after}</span></h2><dl>{facts}</dl>{warnings(card.flags, words)}</section>'
    )


def _badge(badge: str, words: Words) -> str:
    """What a shipped result says of itself; only its first word is one of the page."""
    first, dot, rest = badge.partition(" · ")
    return f"{words('verdict.precomputed') if first == 'precomputed' else first}{dot}{rest}"


def _facts(card: Card, report: AttackReport, words: Words) -> list[tuple[str, str]]:
    """(key of what it is, its value in HTML)."""
    psnr = words("verdict.identical") if report.psnr is None else f"{report.psnr:.1f} dB"
    cost, seconds = report.cost, duration(report.cost.seconds)
    reference = words("verdict.own" if card.pseudo else "verdict.yours")
    passes = words("verdict.verify", forward=cost.image_forward - 1, backward=cost.image_backward)
    return [
        ("attack", f"{entry(report.method).title}, {_used(report, words)}"),
        ("result", words(f"verdict.{_result(card, report)}")),
        ("right", f"{escape(card.reference)} ({reference})"),
        ("linf", f"{report.linf:g} / 255"),
        ("l2", f"{report.l2:.2f}"),
        ("changed", per_cent(report.changed)),
        ("quality", f"{psnr} · {report.ssim:.2f}"),
        ("passes", passes),
        ("time", words("verdict.on", time=seconds, device=escape(card.device))),
    ]


def _result(card: Card, report: AttackReport) -> str:
    if card.verdict == "wrong_clean" and not report.targeted:
        return "before"
    return "succeeded" if report.success else "failed"


def _used(report: AttackReport, words: Words) -> str:
    """Gradient steps spent, of those allowed where the method has a number of them."""
    used, allowed = report.steps_used or 0, report.params.get("steps", 1)
    if not used:
        return words("verdict.no_gradient")
    if used == 1 == allowed:
        return words("verdict.one_step")
    if used <= allowed:
        return words("verdict.steps", used=used, allowed=allowed)
    return words("verdict.gradient_steps", used=used)
