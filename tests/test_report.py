"""The report: the delivered file byte for byte, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests import tiny
from tests.ui import stories
from vlmdefense_demo import curves
from vlmdefense_demo.engine import compare
from vlmdefense_demo.images import to_png
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.repeat import command
from vlmdefense_demo.report import COLUMNS, report, table
from vlmdefense_demo.request import Request


@pytest.fixture
def request_():
    return Request(
        tiny.images(1), ["cat", "dog", "red car", "bird"], attack_params={"steps": 3},
        defenses={"fare": {}, "ttc": {}}, rungs=("white_box",), looks=True, seed=5,
    )  # fmt: skip


@pytest.fixture
def cards(request_, backbone):
    return list({card.method: card for card in compare(request_, backbone)}.values())


@pytest.fixture
def drawn(request_, backbone, cards):
    return list(curves.draw("along", request_, backbone, cards[0]))[-1]


def opened(data: bytes) -> dict[str, bytes]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    return {name: archive.read(name) for name in archive.namelist()}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_report_holds_the_files_the_figures_and_the_numbers(request_, cards, drawn, backbone):
    files = opened(report(request_, backbone.name, cards, [drawn]))
    assert files["adversarial.png"] == cards[0].attack.png
    assert files["clean.png"] == to_png(request_.image)
    for card in cards[1:]:
        for rung in card.ladder[1:]:
            assert files[f"{card.method}-{rung.name}.png"] == rung.png
    pictures = {name for name in files if name.startswith("pictures/")}
    assert pictures == {f"pictures/{name}.png" for name in (
        "difference-x31", "magnitude-0-to-4", "spectrum", "looks-clean", "looks-attacked")}  # fmt: skip
    assert {n for n in files if n.startswith("figures/")} == {
        "figures/margin.png", "figures/price.png", "figures/radius-along.png",
    }  # fmt: skip
    for name in files:
        if name.endswith(".png"):
            Image.open(io.BytesIO(files[name])).verify()
    assert files["repeat.txt"].decode() == command(request_, backbone.name) + "\n"


def test_the_json_holds_cards_request_versions_model_and_seed(request_, cards, drawn, backbone):
    about = json.loads(opened(report(request_, backbone.name, cards, [drawn]))["report.json"])
    assert about["model"] == backbone.name
    assert about["seed"] == 5
    assert about["cards"] == json.loads(json.dumps([card.to_json() for card in cards]))
    assert about["request"]["labels"] == ["cat", "dog", "red car", "bird"]
    assert about["request"]["attack_params"]["steps"] == 3
    assert about["request"]["defenses"]["ttc"]["eps"] == 4
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert about["curves"][0]["lines"][0]["probs"] == list(drawn.lines[0].probs)
    assert set(about["sha256"]) >= {"clean.png", "adversarial.png"}


def test_equal_comparisons_give_equal_bytes(request_, cards, backbone):
    one, two = (report(request_, backbone.name, cards) for _ in range(2))
    assert one == two


def test_the_table_has_a_line_a_defence(cards):
    found = rows(table(cards))
    assert [row["method"] for row in found] == ["undefended", "fare", "ttc"]
    for row, card in zip(found, cards, strict=True):
        assert (row["verdict_unaware"], row["verdict"]) == (card.verdict, card.overall)
        assert float(row["clean_right"]) == pytest.approx(curves.right_prob(card.clean, card.right))
        assert int(row["image_forward"]) == card.cost.image_forward
    assert set(found[0]) == set(COLUMNS)


def test_a_defence_that_somebody_broke_is_fooled(cards):
    first, _, ttc = cards
    broken = replace(ttc.ladder[0], name="adaptive", verdict="fooled")
    card = replace(ttc, verdict="held", ladder=(replace(broken, verdict="held"), broken))
    [_, row] = rows(table([first, card]))
    assert (row["verdict_unaware"], row["verdict"], row["broken_by"]) == (
        "held",
        "fooled",
        "adaptive",
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_starts_like_a_formula(start):
    label = f'{start}HYPERLINK("http://x","y"),1'
    labels = (label, "dog", "lion", "car")
    cards = [stories.undefended(labels), stories.defended("fare", labels, error=f"{start}1")]
    text = table(cards)
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert len(found) == 3
    texts = [c for row in found[1:] for c in row if c and not c.replace(".", "").isdigit()]
    assert f"'{label}" in texts
    assert not [c for c in texts if c.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_a_card_with_an_error_is_a_line_without_numbers():
    card = stories.defended("fare", clean=None, attacked=None, verdict=None, cost=None,
                            slowdown=None, error="It broke, badly.")  # fmt: skip
    (_, row) = rows(table([stories.undefended(), card]))
    assert row["error"] == "It broke, badly."
    assert row["ms"] == row["clean_label"] == row["image_forward"] == ""


def test_what_was_learned_on_a_page_is_said_to_stay_there(request_, cards, backbone):
    learned = {"apt": LearnedContext(torch.zeros(4, 8), model=backbone.name)}
    files = opened(report(replace(request_, learned=learned), backbone.name, cards))
    _, note = files["repeat.txt"].decode().splitlines()
    assert note == "# APT used a prompt learned on the page, which stays there."
    assert json.loads(files["report.json"])["request"]["learned_on_the_page"] == ["apt"]
