"""The measurement of towers: what counts as broken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.training import robust
from vlmdefense_demo.training.photos import read_photos
from vlmdefense_demo.training.robust import Trial, accuracies, words_trial


@pytest.fixture
def given(backbone):
    text = F.normalize(torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(5)), dim=2)
    x = tiny.images(12)
    with torch.no_grad():
        right = (F.normalize(backbone.encode_image(x), dim=1) @ text[0].T).argmax(1)
    right[0] = (right[0] + 1) % 4  # wrong on clean
    return Trial(x, text, right)


def test_accuracy_falls_with_the_radius_and_starts_at_the_clean_one(backbone, given):
    rows = list(accuracies("tiny", backbone, given))
    assert [row.name for row in rows] == [f"tiny, eps {e}/255" for e in (0, 1, 2, 4)]
    values = [row.value for row in rows]
    assert values[0] == 11 / 12
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert all(row.n == 12 and row.interval[0] <= row.value <= row.interval[1] for row in rows)


def test_a_photo_that_is_broken_is_not_attacked_again(backbone, given, monkeypatch):
    seen = []
    original = robust._keep

    def watched(model, trial, alive, attack, what):
        before = alive.clone()
        after = original(model, trial, alive, attack, what)
        assert not (after & ~before).any()
        seen.append((what, int(before.sum()), int(after.sum())))
        return after

    monkeypatch.setattr(robust, "_keep", watched)
    list(accuracies("tiny", backbone, given))
    assert [before for _, before, _ in seen[1:]] == [after for *_, after in seen[:-1]]
    assert len(seen) == 1 + 3 * 3


def test_labels_of_ones_own_hold_the_right_one_and_others(backbone, photos_dir, monkeypatch):
    photos = read_photos(photos_dir)[:30]
    named = [type(p)("objects", p.file, f"word {i % 15}", "", p.data) for i, p in enumerate(photos)]
    monkeypatch.setattr(robust, "read_photos", lambda folder: named)
    ten = words_trial(backbone, photos_dir, 8)
    assert ten.text.shape == (8, 10, 24)
    assert not ten.right.any()
    every = words_trial(backbone, photos_dir, 8, labels=0)
    assert every.text.shape == (1, 15, 24)
    for trial in (ten, every):
        assert len(list(accuracies("tiny", backbone, trial))) == 4
    for i in range(8):
        torch.testing.assert_close(ten.text[i, 0], every.text[0, every.right[i]])
        assert len(ten.text[i].unique(dim=0)) == 10
