"""The six views of what changed, each on a stated scale and from the delivered file."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.ui import stories
from vlmdefense_demo.images import from_png, to_array, to_png
from vlmdefense_demo.stage import LOOKS
from vlmdefense_demo.types import Note
from vlmdefense_demo.ui import handlers, pictures
from vlmdefense_demo.ui.files import Outbox

MAPS = {"how": "gradient", "clean": [[0.0, 1.0], [0.0, 0.0]], "attacked": [[0.0, 0.0], [2.0, 0.0]],
        "answers": ["cat", stories.HOSTILE[0]]}  # fmt: skip


def plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


@pytest.fixture
def clean():
    return tiny.images(1)


@pytest.fixture
def report(clean):
    moved = (clean + 4 / 255).clamp(0, 1)
    return stories.attack(png=to_png(moved), linf=4.0)


def test_every_picture_follows_from_the_two_files(clean, report):
    update = pictures.made(Outbox(), clean, report)
    assert set(update) == {*pictures.OUTPUTS, "download"}
    original, attacked = (Path(path).read_bytes() for path in update["pair"])
    assert attacked == report.png
    assert original == to_png(clean)
    assert (update["flick_clean"], update["flick_attacked"]) == update["pair"]
    before, after = to_array(clean).astype(int), to_array(from_png(report.png)).astype(int)
    expected = (128 + 31 * (after - before)).clip(0, 255)
    assert np.array_equal(np.asarray(update["signed"]), expected)
    assert update["look_clean"] is update["look_attacked"] is None


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("pgd", {"eps": 4}, "adversarial-pgd-4of255.png"),
        ("apgd_ce", {"norm": "l2", "eps": 4}, "adversarial-apgd_ce.png"),
        ("ddn", {}, "adversarial-ddn.png"),
    ],
)
def test_the_file_is_named_by_a_radius_only_where_it_has_one(clean, report, method, params, name):
    made = pictures.made(Outbox(), clean, replace(report, method=method, params=params))
    assert Path(made["pair"][1]).name == name


def test_captions_state_gain_and_scale():
    signed, size = (plain(c) for c in (pictures.signed_caption(31), pictures.magnitude_caption(4)))
    assert signed == "Difference, signed, amplified ×31, in levels of 255 −4.1 0 +4.1"
    assert size == "Largest |δ| of a pixel, in levels of 255 0 4"
    words = plain(pictures.spectrum_caption(0.647, 0.804))
    assert "65% of its energy lies above half Nyquist" in words
    assert "white noise has 80%" in words
    assert words.endswith("0.001 0.03 1")


def test_where_it_looks_names_method_grid_scale_and_answers(clean, report):
    update = pictures.looked(clean, report, (Note(LOOKS, MAPS, "maps"),))
    words = plain(update["look_caption"])
    assert words.startswith(f"Original: cat . Attacked: {stories.HOSTILE[0]} .")
    assert "<img src=x" not in update["look_caption"]
    assert "Gradient × activation on the last 2×2 grid" in words
    assert words.endswith("0 2 logits")
    assert update["look_clean"].size == update["look_attacked"].size == (32, 32)
    rolled = MAPS | {"how": "rollout", "attacked": [[0.0, 0.0], [0.02, 0.0]], "clean": [[0.01]]}
    assert "Attention rollout" in plain(pictures.look_caption(rolled, 0.02))
    assert plain(pictures.look_caption(rolled, 0.02)).endswith("0 2 % of it")


def test_a_tower_without_a_map_says_so(clean, report):
    update = pictures.looked(clean, report, (Note(LOOKS, "X has no map of <locations>."),))
    assert update["look_clean"] is None
    assert plain(update["look_caption"]) == "X has no map of <locations>."
    assert pictures.looked(clean, report, ()) == {}


def test_a_run_brings_where_the_model_looks_and_then_all_cards(site, form, pocket):
    updates = list(handlers.run(site, form, "me"))
    shown = [u for u in updates if u.get("look_clean") is not None]
    assert len(shown) == 1
    assert "cat" in plain(shown[0]["look_caption"])
    kept = [u["earlier"] for u in updates if "earlier" in u][-1]
    assert [card.method for card in kept.cards] == ["undefended", "fare", "ttc"]
    assert kept.card == kept.cards[0]
    assert kept.card.notes[-1].title == LOOKS
