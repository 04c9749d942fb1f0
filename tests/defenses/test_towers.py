"""What all tower defences share: mixing, what the card learns about training, and their exhibits."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vlmdefense_demo.defenses.training_time import towers
from vlmdefense_demo.defenses.training_time.fare import FARE
from vlmdefense_demo.defenses.training_time.pmg_aft import PMGAFT
from vlmdefense_demo.defenses.training_time.tecoa import TeCoA
from vlmdefense_demo.defenses.training_time.tecoa_vp import TeCoAVP
from vlmdefense_demo.defenses.training_time.tga_zsr import TGAZSR
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.heatmap import overlay
from vlmdefense_demo.models.border import assemble
from vlmdefense_demo.models.variants import load_learned, load_twin
from vlmdefense_demo.request import Request

TOWERS = (FARE, TeCoA, PMGAFT, TGAZSR)
each = pytest.mark.parametrize("tower", TOWERS)


@pytest.fixture
def pair(clf):
    return torch.cat([tiny.images(1), tiny.images(1, seed=1)])


def probs(defence, clf, x):
    with torch.no_grad():
        return defence(clf, x, run=tiny.run_for(len(x))).logits.softmax(1)


@each
def test_alpha_zero_is_the_undefended_model_and_one_the_robust_tower(tower, clf):
    x = tiny.images(2)
    torch.testing.assert_close(probs(tower(alpha=0.0), clf, x), clf(x).softmax(1))
    robust = clf.with_backbone(load_twin(clf.backbone, tower.weights))
    torch.testing.assert_close(probs(tower(), clf, x), robust(x).softmax(1))


@each
def test_every_method_has_a_tower_of_its_own(tower, clf):
    others = [probs(t(), clf, tiny.images(1)) for t in TOWERS if t is not tower]
    mine = probs(tower(), clf, tiny.images(1))
    assert not any(torch.allclose(mine, theirs, atol=1e-3) for theirs in others)


def test_the_trained_radius_chooses_among_the_towers_there_are(clf):
    x = tiny.images(1)
    assert torch.equal(probs(FARE(trained_eps="3"), clf, x), probs(FARE(), clf, x))
    assert not torch.allclose(probs(FARE(trained_eps="2"), clf, x), probs(FARE(), clf, x))
    with pytest.raises(MissingWeights, match="trained at 1/255"):
        probs(FARE(trained_eps="1"), clf, x)


@pytest.mark.parametrize("method", [*TOWERS, TeCoAVP])
def test_the_card_says_what_training_bought(method, clf):
    notes = method()(clf, tiny.images(2), run=tiny.run_for(2)).notes
    assert len(notes) == 2
    about = {note.title: note.value for note in notes[0]}
    assert "MB" in about["weights"] or "kB" in about["weights"]
    assert about["trained"].startswith("at 3/255: seeded")
    assert "safetensors, MIT" in about["file"]


def test_the_frame_is_added_in_normalised_units(clf):
    frame = assemble(load_learned(clf.backbone, "tecoa_vp"))
    x = tiny.images(2)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (clf.backbone.preprocess.mean, clf.backbone.preprocess.std)
    )
    with torch.no_grad():
        z = clf.backbone.visual((x - mean) / std + frame)
    expected = clf.logits(torch.nn.functional.normalize(z, dim=1))
    got = TeCoAVP()(clf, x, run=tiny.run_for(2)).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


# --- exhibits ------------------------------------------------------------------------------------


@each
def test_the_curve_runs_from_the_clean_tower_to_the_robust_one(tower, clf, pair):
    with torch.no_grad():
        note = tower().exhibit(clf, pair, right=2, run=tiny.run_for(1))[0]
        ends = clf(pair).softmax(1)[:, 2], probs(tower(), clf, pair)[:, 2]
    assert note.kind == "curves"
    assert note.value["x"] == [0, 0.25, 0.5, 0.75, 1]
    for i, line in enumerate(("clean", "attacked")):
        assert len(note.value[line]) == 5
        assert note.value[line][0] == pytest.approx(float(ends[0][i]), abs=1e-5)
        assert note.value[line][-1] == pytest.approx(float(ends[1][i]), abs=1e-5)


def test_a_tower_too_large_to_mix_has_no_curve(clf, pair, monkeypatch):
    monkeypatch.setattr(towers, "MIXED_BELOW", 0)
    assert FARE().exhibit(clf, pair, right=0, run=tiny.run_for(1)) == ()


def test_tga_shows_where_both_towers_look_before_and_after(clf, pair):
    with torch.no_grad():
        note = TGAZSR().exhibit(clf, pair, right=1, run=tiny.run_for(1))[-1]
    assert note.kind == "images"
    assert note.title == f"where it looks for “{tiny.LABELS[1]}”"
    captions = [caption for caption, _ in note.value]
    assert captions == [
        "undefended, clean", "undefended, attacked", "TGA-ZSR, clean", "TGA-ZSR, attacked",
    ]  # fmt: skip
    pictures = [Image.open(io.BytesIO(b64decode(data))) for _, data in note.value]
    assert {p.size for p in pictures} == {(160, 160)}
    assert len({p.tobytes() for p in pictures}) == 4


def test_an_overlay_is_brightest_where_the_map_is():
    picture = np.full((40, 40, 3), 100, np.uint8)
    where = np.zeros((4, 4), np.float32)
    where[0, 3] = 1
    drawn = np.asarray(overlay(picture, where)).astype(int).sum(2)
    assert drawn.shape == (40, 40)
    assert np.unravel_index(drawn.argmax(), drawn.shape)[0] < 10
    assert np.unravel_index(drawn.argmax(), drawn.shape)[1] >= 30
    assert (drawn[20:, :20] == drawn[-1, 0]).all()


def test_exhibits_are_on_the_cards_only_where_they_are_asked_for(backbone):
    request = Request(tiny.images(1), tiny.LABELS, defenses={"tga_zsr": {}})

    def kinds(request):
        card = [c for c in compare(request, backbone) if c.method == "tga_zsr"][-1]
        return [note.kind for note in card.notes]

    assert not {"curves", "images"} & set(kinds(request))
    assert kinds(replace(request, exhibits=True))[-2:] == ["curves", "images"]


def test_an_exhibit_that_fails_leaves_the_answer_and_says_so(backbone, monkeypatch):
    def fail(*args, **more):
        raise MissingWeights("no picture today")

    monkeypatch.setattr(FARE, "exhibit", fail)
    request = Request(tiny.images(1), tiny.LABELS, defenses={"fare": {}}, exhibits=True)
    card = [c for c in compare(request, backbone) if c.method == "fare"][-1]
    assert card.error is None
    assert card.attacked is not None
    assert any("no picture today" in str(note.value) for note in card.notes)
