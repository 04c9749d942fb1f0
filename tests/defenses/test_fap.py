"""FAP at work: prompts from the model's folder in both towers, and the model itself as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.defenses.training_time.fap import FAP
from vlmdefense_demo.errors import InvalidLabels, MethodFailed, MissingWeights
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.deep_prompts import encode_text, label_prompts
from vlmdefense_demo.types import Goal

PATCHES = pytest.mark.parametrize("name", tiny.WITH_PATCHES)


def under(clf, x):
    return FAP()(clf, x, run=tiny.run_for(len(x)))


@PATCHES
def test_logits_are_cosines_of_both_prompted_towers(backbones, name):
    backbone, x, rows = backbones[name], tiny.images(2), tiny.deep_prompts()
    clf = tiny.classifier(backbone)
    z = F.normalize(backbone.encode_prompted(x, rows.image), dim=1)
    t = F.normalize(encode_text(label_prompts(backbone, tiny.LABELS), rows.text), dim=1)
    out = under(clf, x)
    torch.testing.assert_close(out.logits, backbone.logit_scale * z @ t.T)
    torch.testing.assert_close(out.features, z)
    assert not torch.allclose(out.logits, clf(x), atol=0.1)
    assert not torch.allclose(clf.logits(out.features), out.logits, atol=0.1)


def test_the_requests_template_is_not_used(backbone):
    x = tiny.images(2)
    one = tiny.classifier(backbone)
    two = tiny.classifier(backbone, template="{}, a drawing")
    assert not torch.allclose(one(x), two(x), atol=0.1)
    assert torch.equal(under(one, x).logits, under(two, x).logits)


def test_each_picture_is_counted_once_and_each_label_once_a_request(clf):
    with clf.meter.stage() as cost:
        under(clf, tiny.images(3))
    assert (cost.image_forward, cost.text_forward) == (3, len(tiny.LABELS))
    with clf.meter.stage() as cost:
        x = tiny.images(3).requires_grad_()
        torch.autograd.grad(under(clf, x).logits.sum(), x)
    assert (cost.image_forward, cost.image_backward) == (3, 3)
    assert (cost.text_forward, cost.text_backward) == (0, 0)


@PATCHES
def test_an_attack_through_the_prompts_lowers_their_margin(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images(3)
    clean = under(clf, x).logits
    goal = Goal(clean.argmax(1))
    out = PGD(8 / 255, 10)(lambda v: under(clf, v).logits, x, goal, run=tiny.run_for(3))
    rows = torch.arange(3)
    assert (under(clf, out).logits[rows, goal.labels] < clean[rows, goal.labels]).all()


def test_its_card_says_how_it_was_trained(clf):
    [notes] = under(clf, tiny.images(1)).notes
    assert {note.title for note in notes} >= {"weights", "trained"}
    assert any("at 1/255: seeded" in str(note.value) for note in notes)


def test_the_embedded_model_has_no_tokens_for_it():
    clf = tiny.classifier(load_model("pocket", "cpu"))
    with pytest.raises(MethodFailed, match="TimmModel is another kind of image tower"):
        under(clf, tiny.images(1, 224))


def test_a_vit_without_prompts_says_how_to_train_them(backbone):
    alone = Backbone("ViT-B-32", backbone.model, backbone.tokenizer, backbone.preprocess)
    with pytest.raises(MissingWeights) as caught:
        under(tiny.classifier(alone), tiny.images(1))
    assert "There are no fap weights for ViT-B-32." in str(caught.value)
    assert "python -m vlmdefense_demo train fap --model ViT-B-32 --images DIR" in caught.value.hint


def test_a_label_that_fits_the_template_but_not_the_prompt_is_refused(backbone):
    long = " ".join("x" * 20)
    clf = tiny.classifier(backbone, [long, "dog"], template="{}")
    with pytest.raises(InvalidLabels, match="this model reads 24"):
        under(clf, tiny.images(1))
