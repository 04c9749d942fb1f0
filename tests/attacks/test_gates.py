"""Every attack, every radius: what leaves the demo is a picture that keeps its promise.

Property tests of the delivered bytes: 8 bits, the size, the ball, the round trip, success measured
on the file, no NaN, and a text chunk that says how it was made.
"""

from __future__ import annotations

import io
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.cases import case
from vlmdefense_demo import __version__
from vlmdefense_demo.attacks import autoattack
from vlmdefense_demo.attacks.apgd import APGDDLR
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.images import RECIPE, from_png, to_array, to_png
from vlmdefense_demo.request import Aim, Request, check_request
from vlmdefense_demo.spec import fields, shown
from vlmdefense_demo.survey import methods
from vlmdefense_demo.types import Goal

ATTACKS = list(methods("attack").values())
LEVELS = (1, 2, 4, 8)
GATED = [
    (e, levels)
    for e in ATTACKS
    if e.id != "autoattack"
    for levels in (LEVELS if e.takes("eps") else (None,))
]
QUICK = {"steps": 3, "queries": 20, "searches": 2}


def extreme(size=32, seed=3):
    """Random levels, a third of them black and a third white: every ball meets the box."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (1, 3, size, size), generator=generator)
    where = torch.rand(levels.shape, generator=generator)
    levels[where < 1 / 3], levels[where > 2 / 3] = 0, 255
    return levels / 255


def quick(entry, levels=None):
    known = {f.name for f in fields(entry.cls)}
    params = {k: v for k, v in QUICK.items() if k in known}
    return params | ({} if levels is None else {"eps": levels})


def aim_for(entry):
    if entry.cls.needs == "caption":
        return Aim("caption", "a green boat")
    if entry.cls.needs == "picture":
        return Aim("picture", picture=tiny.images(seed=9))
    return Aim()


def norm_of(entry, params):
    return entry.build(params).ball


@pytest.mark.parametrize(
    ("entry", "levels"), GATED, ids=[f"{e.id}-{levels}" for e, levels in GATED]
)
def test_the_file_keeps_its_promise(entry, levels, backbone, clf):
    x, params = extreme(), quick(entry, levels)
    request = Request(
        x, list(tiny.LABELS), attack=entry.id, attack_params=params, aim=aim_for(entry), seed=5
    )
    card = list(compare(request, backbone))[-1]
    report = card.attack
    with Image.open(io.BytesIO(report.png)) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        assert image.size == (32, 32)
        about = json.loads(image.info[RECIPE])
        pixels = np.asarray(image).astype(int)
    delta = pixels - to_array(x).astype(int)
    ball = norm_of(entry, params)
    if ball.norm == "linf":
        assert np.abs(delta).max() <= levels
    if ball.norm == "l2":
        assert np.linalg.norm(delta) / 255 <= ball.radius * (1 + 1e-6)
    if entry.id == "patch":
        assert (delta != 0).any(2).mean() <= 0.06
    decoded = from_png(report.png)
    assert torch.equal(from_png(to_png(decoded)), decoded)
    labels = about["labels"]
    logits = tiny.classifier(backbone, labels)(decoded)
    assert logits.isfinite().all()
    np.testing.assert_allclose(logits[0].detach(), card.attacked.logits, atol=1e-4)
    reached = labels[int(logits.argmax())]
    if report.targeted:
        wanted = about["target"]
        if request.aim.picture is not None:
            wanted = labels[int(clf(request.aim.picture).argmax())]
        assert report.success == (reached == wanted)
    else:
        assert report.success == (reached not in card.right)
    assert about["attack"] == entry.id
    assert about["params"] == json.loads(json.dumps(shown(entry.build(params))))
    assert about["model"] == backbone.name
    assert about["template"] == "a photo of a {}."
    assert about["seed"] == 5
    assert about["version"] == __version__
    assert len(about["labels_hash"]) == 16


# any number of labels


def names(k):
    return tuple(f"label {i}" for i in range(k))


@pytest.mark.parametrize("entry", [e for e in ATTACKS if e.id != "caption"], ids=lambda e: e.id)
def test_one_label_is_refused_in_words(entry):
    with pytest.raises(InvalidLabels, match="at least 2"):
        check_request(Request(extreme(), ["cat"], attack=entry.id, aim=aim_for(entry)))


def test_two_labels_leave_no_third_for_the_dlr_loss():
    toy, x = Toy(2), tiny.images(2, 8)
    with pytest.raises(InvalidLabels, match="at least 3 labels, got 2"):
        APGDDLR()(toy, x, Goal(toy(x).argmax(1)), run=tiny.run_for(2))


@pytest.mark.parametrize("k", [2, 3, 4, 5, 9, 10, 50])
@pytest.mark.parametrize("entry", ATTACKS, ids=lambda e: e.id)
def test_any_number_of_labels(entry, k):
    target = Toy(k)
    x = tiny.images(2, 8)
    method = entry.cls(**(case(entry.id).base | clip(entry)))
    goal = Goal(target(x).argmax(1), features=torch.eye(24)[:2])
    if entry.id == "apgd_dlr" and k == 2:
        return
    out = method(target, x, goal, run=tiny.run_for(2))
    assert out.isfinite().all()
    assert method.ball.contains(method.ball.quantise(out, x), x).all()


def clip(entry):
    """As few passes as show that it runs."""
    return {k: v for k, v in {"steps": 2, "queries": 8, "searches": 1}.items() if entry.takes(k)}


class Toy(tiny.Linear):
    """A linear model with the face of a zero-shot one."""

    def __init__(self, k):
        super().__init__(k)
        self.labels = names(k)
        generator = torch.Generator().manual_seed(1)
        self.image_weight = torch.randn(24, 192, generator=generator)
        self.text_features = torch.nn.functional.normalize(
            torch.randn(k, 24, generator=generator), dim=1
        )

    def encode_image(self, x, normalize=True):
        features = x.flatten(1) @ self.image_weight.T
        return torch.nn.functional.normalize(features, dim=1) if normalize else features

    def logits(self, image_features):
        return 30 * image_features @ self.text_features.T

    def universal(self):
        return torch.full((1, 3, 8, 8), 4 / 255)


@pytest.mark.parametrize("entry", ATTACKS, ids=lambda e: e.id)
def test_a_model_without_a_slope_gives_a_finite_picture(entry, monkeypatch):
    """Neither NaN nor an exception where every gradient is zero; AutoAttack at a small budget."""
    short = partial(autoattack.standard, steps=2, queries=8)
    monkeypatch.setattr(autoattack, "standard", short)
    toy = Toy(4)
    flat = SimpleNamespace(
        labels=toy.labels, text_features=toy.text_features, universal=toy.universal,
        logits=lambda f: f[:, :4] * 0, encode_image=lambda x, normalize=True: 0 * toy.encode_image(x),
    )  # fmt: skip

    class Flat:
        def __getattr__(self, name):
            return getattr(flat, name)

        def __call__(self, x):
            return 0 * toy(x)

    x = tiny.images(2, 8)
    method = entry.cls(**(case(entry.id).base | clip(entry)))
    goal = Goal(torch.tensor([0, 1]), features=torch.eye(24)[:2])
    out = method(Flat(), x, goal, run=tiny.run_for(2))
    assert out.isfinite().all()
    assert method.ball.contains(method.ball.quantise(out, x), x).all()


@pytest.mark.parametrize(
    "id", ["pgd", "mi_fgsm", "pgd_l2", "apgd_ce", "apgd_dlr", "apgd_t", "cw", "ddn"]
)
def test_logits_far_below_zero_change_nothing(id):
    """SigLIP's logits are all negative: a mask by multiplication would lose the gradient."""
    entry = methods("attack")[id]
    toy, x = Toy(4), tiny.images(4, 8)
    method = entry.cls(**case(id).base)
    goal = Goal(toy(x).argmax(1))
    here = method(toy, x, goal, run=tiny.run_for(4))
    below = method(lambda pixels: toy(pixels) - 50, x, goal, run=tiny.run_for(4))
    changed = (here - below).abs() > 1e-3
    assert changed.float().mean() < 0.02
    assert (here != x).any()


@pytest.mark.parametrize("id", ["fgsm", "pgd", "mi_fgsm", "apgd_ce", "embedding", "caption"])
@pytest.mark.parametrize("levels", LEVELS)
def test_rounding_to_eight_bits_moves_a_lattice_attack_nowhere(id, levels):
    """FGSM and PGD step in whole levels; what the others lose is below half a level."""
    entry = methods("attack")[id]
    toy, x = Toy(4), tiny.images(3, 8)
    params = {"eps": levels / 255} | ({"steps": 5} if entry.takes("steps") else {})
    method = entry.cls(**params)
    goal = Goal(toy(x).argmax(1), features=torch.eye(24)[:3])
    out = method(toy, x, goal, run=tiny.run_for(3))
    moved = (method.ball.quantise(out, x) - out).abs().max() * 255
    assert moved <= (0.5 if id in ("mi_fgsm", "apgd_ce") else 1e-3)
