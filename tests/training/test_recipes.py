"""The recipes' parts, on tiny models and pictures made here: no weights, no WordNet, no photos."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vlmdefense_demo.errors import InvalidImage, MissingWeights
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.training import recipes
from vlmdefense_demo.training.photos import Photo, batches, centre_crop, random_crop, read_photos
from vlmdefense_demo.training.report import wilson
from vlmdefense_demo.training.wordnet import read_wordnet

# Four synsets in WordNet's own file format: entity > animal > dog, and a bank with two senses.
DATA = """\
  1 a licence line
00000001 03 n 01 entity 0 000 | that which is
00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | a living thing
00000003 05 n 01 guide_dog 0 002 @ 00000002 n 0000 #p 00000001 n 0000 | a dog
00000004 14 n 01 bank 0 001 @i 00000001 n 0000 | money | more
"""
INDEX = """\
  1 a licence line
animal n 1 1 @ 1 1 00000002
guide_dog n 2 1 @ 2 1 00000003 00000004
"""


@pytest.fixture
def wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return read_wordnet(tmp_path)


def test_wordnet_reads_names_parents_and_sense_order(wordnet):
    assert wordnet.synsets["n00000002"].words == ("animal", "beast")
    assert wordnet.synsets["n00000003"].parents == ("n00000002",)
    assert wordnet.synsets["n00000004"].parents == ("n00000001",)
    assert wordnet.senses["guide dog"] == ("n00000003", "n00000004")


def test_wordnet_descendants_include_the_synset_itself(wordnet):
    assert wordnet.descendants("n00000002") == {"n00000002", "n00000003"}
    assert len(wordnet.descendants("n00000001")) == 4


def test_missing_wordnet_names_the_package(tmp_path):
    with pytest.raises(MissingWeights, match="wordnet-base"):
        read_wordnet(tmp_path / "nowhere")


def test_photos_come_from_tars_and_folders(photos_dir):
    photos = read_photos(photos_dir)
    assert len(photos) == 41
    assert photos[-1].open().size == (40, 30)


def test_validation_sets_and_a_fixed_fifth_are_held_out(photos_dir):
    assert all(p.held_out for p in read_photos(photos_dir, ["objects1"]))
    many = [Photo("things", f"folder/image_{i:04}.jpg", "", "", b"") for i in range(2000)]
    share = sum(p.held_out for p in many) / len(many)
    assert 0.15 < share < 0.25
    assert [p.held_out for p in many] == [
        Photo("things", p.file, "x", "", b"1").held_out for p in many
    ]


def test_a_listed_photo_that_is_missing_is_an_error(photos_dir):
    (photos_dir / "objects1" / "x.jpg").unlink()
    with pytest.raises(InvalidImage, match=r"x\.jpg"):
        read_photos(photos_dir, ["objects1"])


def _file(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return Photo("set", "x", "thing", "", buffer.getvalue())


def test_a_photo_is_trained_on_as_a_defence_sees_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _file(Image.new("RGB", (60, 40), (9, 99, 200)), "JPEG", exif=exif)
    assert turned.open().size == (40, 60)
    clear = _file(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")
    assert clear.open().getpixel((3, 3)) == (255, 255, 255)
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    grey = _file(Image.fromarray(ramp), "PNG")
    assert 120 < np.asarray(grey.open()).mean() < 135


def test_a_photo_that_cannot_be_read_is_named():
    with pytest.raises(InvalidImage, match=r"set/x\.jpg: "):
        Photo("set", "x.jpg", "thing", "", b"nothing").open()


def test_crops_are_smaller_only_where_the_tower_takes_them(backbones):
    pocket = load_model("pocket", "cpu")
    assert recipes._crop(pocket, 160, "fare") == 160
    assert recipes._crop(pocket, 160, "tecoa_vp") == 224, "the frame lies around all of it"
    assert recipes._crop(pocket, 320, "fare") == 224
    assert recipes._crop(backbones["vit"], 24, "fare") == 32


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(InvalidImage, match="No photo sets"):
        read_photos(tmp_path)


def test_crops_have_the_asked_size_and_depend_on_the_generator_only(photos_dir):
    picture = read_photos(photos_dir)[0].open()
    draws = [random_crop(picture, 16, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0].shape == (3, 16, 16)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert centre_crop(picture, 24).shape == (3, 24, 24)


def test_batches_of_a_resumed_run_are_those_of_the_whole_run(photos_dir):
    photos = read_photos(photos_dir)
    whole = list(batches(photos, 16, 4, range(5), seed=3))
    rest = list(batches(photos, 16, 4, range(3, 5), seed=3))
    assert torch.equal(whole[3], rest[0])
    assert torch.equal(whole[4], rest[1])


def test_wilson_matches_published_values():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(100, 100)[1] == pytest.approx(1.0)
