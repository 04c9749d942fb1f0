"""Thresholds, curves and the crossover, on numbers whose answer is known; and the file that ships."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests import tiny
from vlmdefense_demo.detectors import thresholds
from vlmdefense_demo.detectors.drift import AMPLITUDES, CURVE, DriftDetector, crossover
from vlmdefense_demo.detectors.thresholds import auc, calibrated, roc, threshold_at
from vlmdefense_demo.spec import shown
from vlmdefense_demo.survey import detector, methods


@pytest.mark.parametrize(("n", "alarms"), [(20, 1), (100, 5), (300, 15), (19, 0), (39, 1)])
def test_at_most_five_percent_lie_above_the_threshold_and_one_more_would_below_it(n, alarms):
    clean = [float(i) for i in range(n)][::-1]
    t = threshold_at(clean)
    assert sum(s > t for s in clean) == alarms
    assert sum(s >= t for s in clean) > 0.05 * n


def test_equal_scores_raise_no_alarm():
    assert threshold_at([0.0] * 30) == 0.0


def test_auc_counts_pairs_and_halves_ties():
    assert auc([0.0, 1.0], [2.0, 3.0]) == 1.0
    assert auc([0.0, 1.0], [1.0, 1.0]) == 0.75
    assert auc([1.0], [0.0]) == 0.0


def test_roc_has_only_corners_and_the_area_of_the_auc():
    clean, attacked = [0.1, 0.2, 0.5, 0.6], [0.3, 0.55, 0.7, 0.9]
    points = roc(clean, attacked)
    assert points == [(0.0, 0.0), (0.0, 0.5), (0.25, 0.5), (0.25, 0.75), (0.5, 0.75), (0.5, 1.0),
                      (1.0, 1.0)]  # fmt: skip
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    assert area == pytest.approx(auc(clean, attacked))


def test_curves_cross_between_the_points_over_the_logarithm():
    assert crossover([1, 4, 16], [1, 1, 1], [0, 1, 2]) == pytest.approx(4)
    assert crossover([1, 4], [1, 1], [0, 2]) == pytest.approx(2)
    assert crossover([1, 2, 4], [1, 1, 1], [2, 2, 2]) is None
    assert crossover([1, 2, 4], [1, 1, 1], [0, 0, 0]) is None
    assert crossover([1, 2, 4], [1, 1, 1], [0, 2, 0]) is None, "it falls below again"


def test_the_curve_passes_through_the_score(clf):
    pair = tiny.images(2)
    method, run = DriftDetector(), tiny.run_for(1)
    [note] = method.exhibit(clf, pair, run=run)
    assert note.title == CURVE
    assert note.value["x"] == list(AMPLITUDES)
    at = AMPLITUDES.index(16)
    for name, x in zip(("clean", "attacked"), pair.split(1), strict=True):
        assert note.value[name][at] == pytest.approx(
            float(method(clf, x, run=run).scores), abs=1e-5
        )


def test_the_shipped_file_belongs_to_the_detectors_as_they_are():
    found = calibrated("pocket")
    assert set(found.detectors) == set(methods("detector"))
    for id, row in found.detectors.items():
        assert row.params == shown(detector(methods("detector")[id])())
        assert row.n >= 200
        assert row.quantiles["0.95"] == row.threshold
        assert len(row.clean) == len(row.attacked) == len(found.bundled) >= 6
        for against in row.against:
            area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(against.roc))
            assert area == pytest.approx(against.auc, abs=1e-3)
    assert (
        auc(found.detectors["detect_padding"].clean, found.detectors["detect_padding"].attacked)
        > 0.9
    )


def test_a_model_is_added_and_replaced_and_the_others_stay(tmp_path):
    file = tmp_path / "detectors.json"
    assert calibrated("other", file) is None
    one = calibrated("pocket")
    thresholds.write(one, file)
    assert calibrated("pocket", file) == one
    assert calibrated("other", file) is None
