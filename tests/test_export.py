"""A finished comparison survives the way to disk and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.export import SCHEMA, read_story, write_story
from vlmdefense_demo.images import from_png, to_png
from vlmdefense_demo.request import Request

ABOUT = {"model": "tiny", "labels": ["cat", "chien à poil", "猫"], "seed": 3, "badge": "ε 4/255"}


@pytest.fixture
def request_(backbone):
    image = tiny.images_for(backbone)
    defenses = {"fare": {}, "rtpt": {"views": 4}, "ttc": {"tau": 4}}
    return Request(image, ABOUT["labels"], attack_params={"steps": 3}, defenses=defenses)


@pytest.fixture
def cards(request_, backbone):
    return list({card.method: card for card in compare(request_, backbone)}.values())


@pytest.fixture
def folder(tmp_path, request_, cards):
    write_story(tmp_path / "a" / "story", request_.image, cards, ABOUT)
    return tmp_path / "a" / "story"


def rewrite(folder: Path, change) -> None:
    path = folder / "cards.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(data)), encoding="utf-8")


def test_a_story_comes_back_equal(folder, request_, cards):
    story = read_story(folder)
    assert story.cards == tuple(cards)
    assert story.about == ABOUT
    assert (from_png(story.clean) == request_.image).all()


def test_a_story_is_two_pictures_and_utf8_json(folder, cards):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adversarial.png", "cards.json", "clean.png"]
    assert (folder / "adversarial.png").read_bytes() == cards[0].attack.png
    text = (folder / "cards.json").read_bytes().decode("utf-8")
    assert "chien à poil" in text
    assert "猫" in text


def test_a_card_with_an_error_comes_back_equal(tmp_path, request_, backbone):
    broken = replace(request_, template="{}", defenses={"rtpt": {"views": 4}})
    cards = list({card.method: card for card in compare(broken, backbone)}.values())
    assert cards[1].error
    write_story(tmp_path, request_.image, cards, ABOUT)
    assert read_story(tmp_path).cards == tuple(cards)


def test_writing_twice_replaces(folder, request_, cards):
    write_story(folder, request_.image, cards[:1], ABOUT)
    assert read_story(folder).cards == tuple(cards[:1])


@pytest.mark.parametrize("name", ["cards.json", "clean.png", "adversarial.png"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(InvalidImage, match="holds no finished comparison"):
        read_story(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InvalidImage, match="holds no finished comparison"):
        read_story(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data | {"schema": SCHEMA + 1},
        lambda data: {k: v for k, v in data.items() if k != "schema"},
        lambda data: data["cards"],
    ],
    ids=["newer", "none", "only a list"],
)
def test_another_schema_is_refused(folder, change):
    rewrite(folder, change)
    with pytest.raises(InvalidImage, match="another version"):
        read_story(folder)


def test_damaged_json_is_refused(folder):
    (folder / "cards.json").write_text('{"schema": 1,', encoding="utf-8")
    with pytest.raises(InvalidImage, match="holds no finished comparison"):
        read_story(folder)


def test_an_unattacked_comparison_is_no_story(tmp_path, request_, backbone):
    cards = list(compare(replace(request_, attack=None), backbone))
    write_story(tmp_path, request_.image, cards, ABOUT)
    assert to_png(request_.image) == (tmp_path / "clean.png").read_bytes()
    with pytest.raises(InvalidImage, match="holds no finished comparison"):
        read_story(tmp_path)
