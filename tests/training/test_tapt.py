"""TAPT's recipe: which photos it watches, and the statistics it writes."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.variants import load_learned, variants
from vlmdefense_demo.training import tapt
from vlmdefense_demo.training.photos import read_photos
from vlmdefense_demo.training.tapt import chosen, layer_statistics


def test_the_recipe_writes_what_the_defence_reads(photos_dir, tmp_path):
    folder = tiny.save_model(tmp_path / "model", "vit")
    before = statistics_of(folder)
    code = main(["train", "tapt", "--images", str(photos_dir), "--model", f"local-dir:{folder}",
                 "--photos", "20", "--threads", "1"])  # fmt: skip
    assert code == 0
    after = statistics_of(folder)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[key], before[key]) for key in before)
    (variant,) = variants(f"local-dir:{folder}", "tapt")
    assert (variant.eps, "fare" in variant.recipe, "20 photos" in variant.data) == (3, True, True)


def statistics_of(folder):
    return load_learned(load_model(f"local-dir:{folder}", "cpu"), "tapt")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_statistics_are_those_of_all_crops_at_once(backbones, photos_dir, tower, monkeypatch):
    """Batches of 3 and of everything agree; the robust ones are another tower's, or attacked."""
    backbone = backbones[tower]
    photos = chosen(read_photos(photos_dir), 10)
    whole = layer_statistics(backbone, photos)
    monkeypatch.setattr(tapt, "BATCH", 3)
    parts = layer_statistics(backbone, photos)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-4)
    assert not torch.equal(whole["clean.mean.1"], whole["robust.mean.1"])
    monkeypatch.setattr(tapt, "ROBUST", ())
    attacked = layer_statistics(backbone, photos)
    assert torch.equal(attacked["clean.mean.1"], parts["clean.mean.1"])
    assert not torch.equal(attacked["robust.mean.1"], parts["robust.mean.1"])
    assert not torch.equal(attacked["robust.mean.1"], attacked["clean.mean.1"])


def test_held_out_photos_are_never_watched(photos_dir):
    photos = chosen(read_photos(photos_dir), 1000)
    assert photos
    assert not any(photo.held_out for photo in photos)
    assert len(chosen(read_photos(photos_dir), 5)) == 5
