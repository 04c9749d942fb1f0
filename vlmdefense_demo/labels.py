"""The question a zero-shot model answers: a clean list of labels and a template around them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from vlmdefense_demo.errors import InvalidLabels

MIN_LABELS, MAX_LABELS, MAX_LENGTH = 2, 100, 80
MAX_TEMPLATE = 120
SAME = " = "
SEPARATOR = re.compile(r"[,\n，、]")
DEFAULT_TEMPLATE = "a photo of a {}."


def split_labels(text: str) -> list[str]:
    """Labels as somebody typed them, one a line or with commas, those of a Chinese keyboard, too."""
    return SEPARATOR.split(text)


def clean_labels(raw: str | Iterable[str]) -> tuple[str, ...]:
    """Labels as a person typed them -> distinct, stripped, NFC-normalised labels in order.

    Args:
        raw: an iterable of labels, or one string for `split_labels`.

    Raises:
        InvalidLabels: fewer than 2 or more than 100 distinct labels, or one over 80 characters.
    """
    if isinstance(raw, str):
        raw = split_labels(raw)
    seen: dict[str, str] = {}
    for item in raw:
        if not isinstance(item, str):
            raise InvalidLabels(f"Labels are text, got {type(item).__name__}.")
        label = plain(item)
        if len(label) > MAX_LENGTH:
            raise InvalidLabels(
                f"A label has {len(label)} characters (“{label[:24]}…”); "
                f"at most {MAX_LENGTH} are possible.",
                "Shorten it.",
            )
        if label:
            seen.setdefault(label.casefold(), label)
    labels = tuple(seen.values())
    if len(labels) < MIN_LABELS:
        raise InvalidLabels(
            f"The model chooses among labels: expected at least {MIN_LABELS} different ones, "
            f"got {len(labels)}.",
            "Add another label.",
        )
    if len(labels) > MAX_LABELS:
        raise InvalidLabels(
            f"Expected at most {MAX_LABELS} labels, got {len(labels)}.", "Remove some."
        )
    return labels


def grouped_labels(raw: str | Iterable[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Labels, and the group number of each: "dog = puppy" says that both are the same answer.

    Raises:
        InvalidLabels: as `clean_labels`, or all labels are one answer.
    """
    items = split_labels(raw) if isinstance(raw, str) else list(raw)
    teams = [item.split(SAME) if isinstance(item, str) else [item] for item in items]
    labels = clean_labels([word for team in teams for word in team])
    place = {label.casefold(): i for i, label in enumerate(labels)}
    groups = list(range(len(labels)))
    for team in teams:
        members = [groups[place[w]] for word in team if (w := plain(word).casefold()) in place]
        groups = [min(members) if g in members else g for g in groups]
    if len(set(groups)) < MIN_LABELS:
        raise InvalidLabels(
            "All labels count as the same answer, so no answer can be wrong.",
            f"Add a label without “{SAME.strip()}”.",
        )
    return labels, tuple(groups)


def clean_template(raw: str) -> str:
    """A template with exactly one ``{}``, the label's place.

    Raises:
        InvalidLabels: no or several places, or longer than 120 characters.
    """
    template = plain(raw)
    if template.count("{}") != 1:
        raise InvalidLabels(
            f"A template needs exactly one {{}} where the label goes, got {template.count('{}')}.",
            f"For instance “{DEFAULT_TEMPLATE}”",
        )
    if len(template) > MAX_TEMPLATE:
        raise InvalidLabels(
            f"The template has {len(template)} characters; at most {MAX_TEMPLATE} are possible."
        )
    return template


def fill(template: str, label: str) -> str:
    """The prompt of one label; the label is never interpreted as a format string."""
    return template.replace("{}", label)


def plain(text: str) -> str:
    """Text as labels are kept: NFC, no control characters, single spaces."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return " ".join(text.split())
