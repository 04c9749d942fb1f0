"""A finished comparison on disk: the PNGs and the cards as JSON.

`python -m vlmdefense_demo compare --out DIR` writes such a folder, and so does the command that
makes the stories in assets/precomputed/.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.images import to_png
from vlmdefense_demo.request import Request
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import AttackReport, Card, Cost, Images, Note, Prediction, Rung

SCHEMA = 2
CLEAN, ATTACKED = "clean.png", "adversarial.png"


@dataclass(frozen=True)
class Story:
    """A comparison read back from disk.

    Args:
        cards: undefended first.
        clean: the PNG bytes of the clean image.
        about: model, labels, seed, device and date, as written.
    """

    cards: tuple[Card, ...]
    clean: bytes
    about: dict[str, Any]


def write_story(folder: Path, image: Images, cards: Sequence[Card], about: dict[str, Any]) -> None:
    """Write clean.png, adversarial.png, a PNG for every other rung that has one, and cards.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in pictures_of(image, cards).items():
        (folder / name).write_bytes(png)
    data = {"schema": SCHEMA, "about": about, "cards": [card.to_json() for card in cards]}
    (folder / "cards.json").write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def badge(model: str, request: Request, card: Card) -> str:
    """One line about a shipped result: what made it, on what, when.

    Args:
        card: the undefended one.
    """
    attacker, threads = request.attacker(), torch.get_num_threads()
    assert attacker is not None
    ball = attacker.ball
    size = f"{ball.words}/{LEVELS}" if ball.norm == "linf" else ball.words
    parts = (
        "precomputed", model, entry(request.attack or "").title, size, f"seed {request.seed}",
        f"{card.device}, {threads} thread{'s' * (threads > 1)}, {date.today():%B %Y}",
    )  # fmt: skip
    return " · ".join(filter(None, parts))


def pictures_of(image: Images, cards: Sequence[Card]) -> dict[str, bytes]:
    """Name -> PNG: the clean picture, the delivered one, and one for every other rung that has one."""
    files = {CLEAN: to_png(image)}
    for card in cards:
        if card.attack is not None:
            files[ATTACKED] = card.attack.png
        files |= {_file(card.method, rung.name): rung.png for rung in card.ladder if rung.png}
    return files


def read_story(folder: Path) -> Story:
    """The inverse of `write_story`.

    Raises:
        InvalidImage: a file is missing or of another schema.
    """
    try:
        data = json.loads((folder / "cards.json").read_text(encoding="utf-8"))
        pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        clean, _ = pictures[CLEAN], pictures[ATTACKED]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidImage(f"{folder} holds no finished comparison.") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise InvalidImage(f"{folder} was written by another version (schema {schema}).")
    return Story(tuple(_card(c, pictures) for c in data["cards"]), clean, data["about"])


def _file(method: str, rung: str) -> str:
    """The transfer rung is the attack's own file, shared by all defences."""
    return ATTACKED if rung == "transfer" else f"{method}-{rung}.png"


def _card(data: dict[str, Any], pictures: dict[str, bytes]) -> Card:
    data = dict(data)
    for name in ("clean", "attacked"):
        if data[name] is not None:
            data[name] = _prediction(data[name])
    if data["cost"] is not None:
        data["cost"] = Cost(**data["cost"])
    if data["attack"] is not None:
        fields = data["attack"] | {
            "png": pictures[ATTACKED],
            "cost": Cost(**data["attack"]["cost"]),
        }
        data["attack"] = AttackReport(**(fields | {"margins": tuple(fields["margins"])}))
    data["notes"] = tuple(Note(**n) for n in data["notes"])
    data["flags"], data["right"] = tuple(data["flags"]), tuple(data["right"])
    data["ladder"] = tuple(_rung(data["method"], r, pictures) for r in data["ladder"])
    return Card(**data)


def _rung(method: str, data: dict[str, Any], pictures: dict[str, bytes]) -> Rung:
    parts = {
        "attacked": _prediction(data["attacked"]),
        "cost": Cost(**data["cost"]),
        "png": pictures.get(_file(method, data["name"]), b""),
    }
    return Rung(**(data | parts))


def _prediction(data: dict[str, Any]) -> Prediction:
    return Prediction(**{k: tuple(v) for k, v in data.items()})
