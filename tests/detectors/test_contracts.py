"""What every detector of the survey must do; a new row inherits all of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests import tiny
from tests.cases import TOWERS, turned
from vlmdefense_demo.detectors.base import CHUNK
from vlmdefense_demo.detectors.evasion import Evasion
from vlmdefense_demo.errors import Cancelled, InvalidImage, InvalidParameter
from vlmdefense_demo.spec import Range, fields
from vlmdefense_demo.survey import detector, methods
from vlmdefense_demo.types import Goal

ROWS = list(methods("detector").values())
FIELDS = [(row, f) for row in ROWS for f in fields(row.cls)]
EPS = 16 / 255  # the tiny models are not fooled by less
SIDES = {"vit": 32, "resnet": 64}

each_detector = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
each_tower = pytest.mark.parametrize("tower", TOWERS)


def scores(row, clf, x, seed=0, params=None, **run):
    method = detector(row)(**(params or {}))
    return method(clf, x, run=tiny.run_for(len(x), seed, clf.meter, **run)).scores


@each_detector
@each_tower
def test_a_batch_equals_its_single_images(row, tower, backbones):
    clf = tiny.rowwise_classifier(backbones[tower])
    x = tiny.images(5, SIDES[tower])
    method = detector(row)()
    together = method(clf, x, run=tiny.run_for(5))
    assert together.scores.shape == (5,)
    assert len(together.notes) == 5
    for i in range(5):
        alone = method(clf, x[i : i + 1], run=tiny.run_for(5).select([i]))
        torch.testing.assert_close(alone.scores[0], together.scores[i], rtol=1e-4, atol=1e-5)


@each_detector
def test_parts_of_a_batch_go_through_the_tower_one_after_another(row, clf, monkeypatch):
    """However many pictures there are, memory stays that of one part."""
    sizes, encode = [], type(clf).encode_image

    def listening(self, x, *more):
        sizes.append(len(x))
        return encode(self, x, *more)

    x = tiny.images(CHUNK + 3)
    together = scores(row, clf, x)
    monkeypatch.setattr(type(clf), "encode_image", listening)
    torch.testing.assert_close(scores(row, clf, x), together)
    assert max(sizes) <= CHUNK * 4
    assert not together.requires_grad


@each_detector
def test_seeds_reproduce(row, clf):
    x = tiny.images(2)
    first = scores(row, clf, x)
    assert torch.equal(scores(row, clf, x), first)
    again = torch.equal(scores(row, clf, x, seed=1), first)
    assert again is not detector(row).stochastic


@each_detector
@pytest.mark.parametrize("n", [1, 2])
def test_cost_equals_the_formula(row, clf, n):
    method = detector(row)()
    with clf.meter.stage() as cost:
        scores(row, clf, tiny.images(n))
    expected = method.expected_cost(len(tiny.LABELS))
    assert cost.image_forward == n * expected.image_forward
    assert (cost.image_backward, cost.text_forward, cost.text_backward) == (0, 0, 0)


@each_detector
def test_it_leaves_no_trace_and_its_input_alone(row, clf):
    x = tiny.images(2)
    with tiny.no_trace(clf.backbone.model):
        scores(row, clf, x)
    assert torch.equal(x, tiny.images(2))
    with tiny.no_trace(clf.backbone.model), pytest.raises(Cancelled):
        scores(row, clf, x, should_stop=lambda: True)


@each_detector
def test_scores_are_finite_and_inside_their_gauge_on_any_picture(row, clf):
    flat = torch.stack([torch.full((3, 32, 32), v) for v in (0.0, 0.5, 1.0)])
    found = scores(row, clf, torch.cat([tiny.images(4), flat]))
    assert found.isfinite().all()
    assert (found >= -1e-5).all()
    assert (found <= 2.0).all()


@each_detector
def test_the_score_with_a_gradient_is_the_score(row, clf):
    x = tiny.images(2).requires_grad_()
    method = detector(row)()
    with torch.enable_grad():
        value = method.score(clf, x, run=tiny.run_for(2))
        gradient = torch.autograd.grad(value.sum(), x)[0]
    torch.testing.assert_close(value.detach(), scores(row, clf, tiny.images(2)))
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("row", "f"), FIELDS, ids=lambda v: getattr(v, "id", None) or getattr(v, "name", "")
)
def test_every_parameter_changes_the_score(row, f, clf):
    base = dataclasses.asdict(detector(row)())
    x = tiny.images(6)
    value = 64 if f.name == "border" else turned(f, base[f.name])  # 33 of 224 is 32 of 224, at 32
    other = base | {f.name: value}
    if row.id == "detect_squeeze":  # only the largest of three counts
        parts = [
            detector(row)(**p).parts(clf, x, run=tiny.run_for(6)).detach() for p in (base, other)
        ]
        assert not torch.equal(*parts)
        return
    assert not torch.equal(scores(row, clf, x, params=base), scores(row, clf, x, params=other))


@pytest.mark.parametrize(
    ("row", "f"), FIELDS, ids=lambda v: getattr(v, "id", None) or getattr(v, "name", "")
)
def test_a_parameter_outside_its_range_is_refused(row, f):
    assert isinstance(f.domain, Range)
    with pytest.raises(InvalidParameter, match=f.name):
        detector(row)(**{f.name: f.kind(f.domain.high * 2 + 1)})


@each_detector
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 32, 32), torch.zeros(0, 3, 32, 32), torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 16, 16), torch.full((1, 3, 32, 32), 2.0),
        torch.full((1, 3, 32, 32), torch.nan),
    ],
    ids=["no batch", "empty", "grey", "small", "levels", "nan"],
)  # fmt: skip
def test_what_is_no_picture_is_refused_before_any_pass(row, clf, x):
    with clf.meter.stage() as cost, pytest.raises(InvalidImage, match="expects"):
        detector(row)()(clf, x, run=tiny.run_for(max(1, len(x))))
    assert cost.image_forward == 0


@each_detector
def test_an_attacker_who_knows_it_raises_fewer_alarms(row, clf):
    """The same steps with and without the term against the score; the rate is over what fools.

    A random model falls for no observation about photos, so the threshold lies low among the clean scores.
    """
    x = tiny.images(12, seed=3)
    with torch.no_grad():
        goal = Goal(clf(x).argmax(1))
        aim = scores(row, clf, x).quantile(0.25).item()
    method, files = detector(row)(), {}
    for weight in (0.0, 50.0):
        attack = Evasion(eps=EPS, steps=20, weight=weight)
        run = tiny.run_for(12, meter=clf.meter)
        files[weight] = attack(method, aim if weight else 1e9, clf, x, goal, run=run)
        assert (files[weight] - x).abs().max() <= EPS + 1e-6
        assert not files[weight].requires_grad
    rates = {}
    for weight, file in files.items():
        with torch.no_grad():
            fooled = goal.reached(clf(file))
        assert fooled.sum() >= 6
        rates[weight] = (scores(row, clf, file)[fooled] > aim).float().mean().item()
    assert rates[50.0] < rates[0.0] - 0.2, rates
