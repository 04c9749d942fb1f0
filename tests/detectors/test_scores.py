"""Scores whose value is known: the gates they come from, a hand-made sum, flat pictures."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.test_time.ttp import TTP
from vlmdefense_demo.defenses.training_free.csr import CSR
from vlmdefense_demo.detectors.drift import DriftDetector
from vlmdefense_demo.detectors.lowpass import LowPassDetector
from vlmdefense_demo.detectors.padding import PaddingDetector
from vlmdefense_demo.detectors.squeeze import FILTERS, SqueezeDetector


def read(method, clf, x):
    return method(clf, x, run=tiny.run_for(len(x)))


@pytest.mark.parametrize(
    ("detector", "gate"),
    [(PaddingDetector(border=48), TTP(border=48, threshold=0.0, views=2)),
     (LowPassDetector(radius=20.0), CSR(radius=20.0, threshold=0.0))],
    ids=["padding is TTP's gate", "low-pass is CSR's gate"],
)  # fmt: skip
def test_the_score_is_one_minus_the_cosine_of_the_gate_it_comes_from(detector, gate, clf):
    x = tiny.images(3)
    with torch.no_grad():
        notes = gate(clf, x, run=tiny.run_for(3)).notes
    cosines = torch.tensor([note[0].value["value"] for note in notes])
    torch.testing.assert_close(read(detector, clf, x).scores, 1 - cosines)


def test_the_drift_is_the_mean_distance_of_its_draws(clf):
    x, run = tiny.images(1), tiny.run_for(1)
    with torch.no_grad():
        own = clf.encode_image(x)
        lengths = [
            (clf.encode_image((x + n * 16 / 255).clamp(0, 1)) - own).norm()
            for n in (run.child(f"noise{i}").uniform(x, -1.0, 1.0) for i in range(3))
        ]
    torch.testing.assert_close(
        read(DriftDetector(draws=3), clf, x).scores[0], torch.stack(lengths).mean()
    )


def test_no_filter_moves_the_answer_to_a_flat_picture_on_the_squeezed_levels(clf):
    x = torch.stack([torch.full((3, 32, 32), v) for v in (0.0, 1.0)])
    result = read(SqueezeDetector(), clf, x)
    torch.testing.assert_close(result.scores, torch.zeros(2), rtol=0, atol=1e-4)


def test_squeezing_takes_the_filter_that_moves_the_answer_most_and_names_all(clf):
    result = read(SqueezeDetector(bits=2), clf, tiny.images(4))
    for score, notes in zip(result.scores.tolist(), result.notes, strict=True):
        assert [note.title for note in notes] == list(FILTERS)
        assert max(note.value for note in notes) == pytest.approx(score)
