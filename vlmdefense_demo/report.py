"""A comparison as one file to keep: pictures, figures, numbers, and the command that repeats it.

The zip holds the delivered PNG byte for byte; everything else in it is drawn or listed from that
file and from the cards. Equal comparisons give equal bytes: no date is written into it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from PIL import Image

from vlmdefense_demo import __version__, figures, heatmap
from vlmdefense_demo.curves import Curve, right_prob
from vlmdefense_demo.export import CLEAN, pictures_of
from vlmdefense_demo.images import from_png, to_array, to_png
from vlmdefense_demo.repeat import TARGET, command
from vlmdefense_demo.request import Request
from vlmdefense_demo.spec import shown
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Card, Prediction

SCHEMA = 1
PACKAGES = ("torch", "open_clip_torch", "timm", "numpy", "pillow")
COLUMNS = (
    "method", "title", "paradigm", "reference", "clean_label", "clean_right", "attacked_label",
    "attacked_right", "verdict_unaware", "verdict", "broken_by", "attacker_knows_label", "ms", "slowdown",
    "image_forward", "image_backward", "text_forward", "text_backward", "flags", "error",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def report(
    request: Request, model: str, cards: Sequence[Card], curves: Sequence[Curve] = ()
) -> bytes:
    """The bytes of a zip.

    Args:
        model: name in the catalog, or a ``local-dir:`` address.
        cards: the newest of each method, undefended first.
        curves: what was drawn of `curves.draw`.
    """
    files = pictures_of(request.image, cards)
    if request.aim.picture is not None:
        files[TARGET] = to_png(request.aim.picture)
    files |= _drawn(files[CLEAN], cards) | _figures(cards, curves)
    line = command(request, model)
    about = {
        "schema": SCHEMA,
        "model": model,
        "device": cards[0].device,
        "seed": request.seed,
        "request": asked(request),
        "repeat": line,
        "versions": versions(),
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        "cards": [card.to_json() for card in cards],
        "curves": [asdict(curve) for curve in curves],
    }
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    files |= {
        "report.json": text.encode(),
        "report.csv": table(cards).encode(),
        "repeat.txt": f"{line}\n{_cannot(request)}".encode(),
    }
    return _zip(files)


def _cannot(request: Request) -> str:
    """A comment below the command where it would come out differently elsewhere."""
    names = " and ".join(entry(id, "defense").title for id in sorted(request.learned))
    return f"# {names} used a prompt learned on the page, which stays there.\n" if names else ""


def asked(request: Request) -> dict[str, Any]:
    """A request as JSON types, with every parameter in display units; pictures are files."""
    attacker = request.attacker()
    defenses = {
        id: shown(entry(id, "defense").build(dict(values)))
        for id, values in request.defenses.items()
    }
    return {
        "labels": request.typed(),
        "template": request.template,
        "attack": request.attack,
        "attack_params": {} if attacker is None else shown(attacker),
        "defenses": defenses,
        "truth": request.reference,
        "goal": request.aim.kind,
        "target": request.aim.text,
        "attacker": list(request.rungs),
        "climb": request.climb,
        "budget": asdict(request.budget),
        "learned_on_the_page": sorted(request.learned),
    }


def versions() -> dict[str, str]:
    """Of this program and of what computes, at the time the report is written."""
    own = {"vlmdefense_demo": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in PACKAGES}


def table(cards: Sequence[Card]) -> str:
    """One line a card as CSV. Text that a spreadsheet would run is written with a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for card in cards:
        writer.writerow([_cell(value) for value in _row(card)])
    return out.getvalue()


def _row(card: Card) -> list[Any]:
    broken = card.broken_by
    tried = [rung for rung in card.ladder if rung.name != "transfer"]
    knows = broken if broken in tried else tried[-1] if tried else None
    cost = card.cost
    return [
        card.method, card.title, card.paradigm, card.reference, *_answer(card.clean, card.right),
        *_answer(card.attacked, card.right), card.verdict, card.overall, broken and broken.name,
        knows and knows.attacked.label, cost and round(1000 * cost.seconds, 3), card.slowdown,
        *((cost.image_forward, cost.image_backward, cost.text_forward, cost.text_backward)
          if cost else [None] * 4),
        " ".join(card.flags), card.error,
    ]  # fmt: skip


def _answer(answer: Prediction | None, right: Sequence[str]) -> tuple[Any, Any]:
    """The answer, and the probability of the right one."""
    return (answer.label, right_prob(answer, right)) if answer else (None, None)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _drawn(clean: bytes, cards: Sequence[Card]) -> dict[str, bytes]:
    """What changed, in pictures; their scales stand in the names."""
    made = cards[0].attack
    if made is None:
        return {}
    before, after = to_array(from_png(clean)), to_array(from_png(made.png))
    top = heatmap.top_for(made.linf, made.params)
    gain = heatmap.gain_for(top)
    drawn = {
        f"difference-x{gain}.png": heatmap.signed_difference(before, after, gain),
        f"magnitude-0-to-{top:g}.png": heatmap.magnitude(before, after, top),
        "spectrum.png": heatmap.spectrum(before, after),
    }
    for note in cards[0].notes:
        if note.kind == "maps":
            one, two, _ = heatmap.looks(before, after, note.value)
            drawn |= {"looks-clean.png": one, "looks-attacked.png": two}
    return {f"pictures/{name}": _png(picture) for name, picture in drawn.items()}


def _figures(cards: Sequence[Card], curves: Sequence[Curve]) -> dict[str, bytes]:
    made, theme = cards[0].attack, figures.LIGHT
    drawn = {
        "margin": figures.margins(made, theme) if made else None,
        "price": figures.price(cards, theme),
    } | {f"radius-{curve.how}": figures.radius(curve, theme) for curve in curves}
    return {f"figures/{name}.png": png for name, png in drawn.items() if png}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            squeeze = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), data, squeeze)
    return buffer.getvalue()
