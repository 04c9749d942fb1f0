"""Zero-shot classification: cosines at the model's own temperature, and honest books."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Meter


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_logits_are_open_clips_own(backbones, name):
    backbone = backbones[name]
    clf, x = tiny.classifier(backbone), tiny.images_for(backbone, 3)
    mean, std = (torch.tensor(tiny.PREPROCESS[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        ids = backbone.tokenizer([f"a photo of a {label}." for label in tiny.LABELS])
        image = backbone.model.encode_image((x - mean) / std, normalize=True)
        text = backbone.model.encode_text(ids, normalize=True)
        expected = backbone.model.logit_scale.exp() * image @ text.T
        torch.testing.assert_close(clf(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_batch_equals_its_single_images(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 3)
    singles = torch.cat([clf(row[None]) for row in x])
    torch.testing.assert_close(clf(x), singles, rtol=1e-4, atol=1e-4)


def test_scale_is_the_models_own(backbone):
    clf = tiny.classifier(backbone)
    assert clf.scale == pytest.approx(math.exp(3.5))
    assert clf(tiny.images(4)).abs().max() <= clf.scale + 1e-3


def test_features_have_unit_norm_unless_told_otherwise(clf):
    x = tiny.images(2)
    raw = clf.encode_image(x, normalize=False)
    torch.testing.assert_close(F.normalize(raw, dim=1), clf.encode_image(x))
    assert (raw.norm(dim=1) - 1).abs().min() > 1e-2
    torch.testing.assert_close(clf.text_features.norm(dim=1), torch.ones(4))


def test_backbone_is_frozen_and_in_evaluation_mode(backbones):
    for backbone in backbones.values():
        assert not any(p.requires_grad for p in backbone.model.parameters())
        assert not any(m.training for m in backbone.model.modules())


def test_labels_are_cleaned_and_put_into_the_template(backbone):
    clf = tiny.classifier(backbone, ["cat", " Cat ", "dog"], "one {} here")
    assert clf.labels == ("cat", "dog")
    assert clf.prompts == ("one cat here", "one dog here")


@pytest.mark.parametrize("label", ["{}", "{0.__class__}", "{label!r:>99999}", "%n%s", "${7*7}"])
def test_format_strings_in_labels_are_only_text(backbone, label):
    clf = tiny.classifier(backbone, [label, "dog"])
    assert clf.prompts[0] == f"a photo of a {label}."
    assert clf(tiny.images(1)).isfinite().all()


def test_a_prompt_beyond_the_context_window_is_refused_with_its_length(backbone):
    label = " ".join("x" * 30)
    with pytest.raises(InvalidLabels, match=r"has 37 tokens; this model reads 24"):
        tiny.classifier(backbone, [label, "dog"])


def test_the_longest_prompt_that_fits_is_accepted(backbone):
    """Start, four words, label, full stop and end make the context window of 24 exactly full."""
    fits, too_long = (" ".join("x" * n) for n in (17, 18))
    tiny.classifier(backbone, [fits, "dog"])
    with pytest.raises(InvalidLabels, match="25 tokens"):
        tiny.classifier(backbone, [too_long, "dog"])


def test_only_encoders_are_counted(backbone):
    meter = Meter()
    with meter.stage() as cost, torch.no_grad():
        clf = ZeroShotClassifier(backbone, tiny.LABELS, meter=meter)
        clf.logits(clf.encode_image(tiny.images(3)))
        clf.with_text(clf.text_features)(tiny.images(2))
        clf.with_backbone(backbone)(tiny.images(1))
    assert (cost.image_forward, cost.text_forward) == (6, 4)
    assert (cost.image_backward, cost.text_backward) == (0, 0)


def test_backward_passes_are_counted_in_samples(clf):
    x = tiny.images(3).requires_grad_()
    with clf.meter.stage() as cost:
        torch.autograd.grad(clf(x).sum(), x)
    assert (cost.image_forward, cost.image_backward) == (3, 3)


def test_with_text_and_with_backbone_return_new_classifiers(clf, backbones):
    text = F.normalize(torch.randn(4, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    other = clf.with_text(text)
    assert other is not clf
    assert not torch.equal(clf.text_features, text)
    assert torch.equal(other.text_features, text)
    assert (other.labels, other.template, other.meter) == (clf.labels, clf.template, clf.meter)
    moved = clf.with_backbone(backbones["bidirectional"])
    assert torch.equal(moved.text_features, clf.text_features)
    assert moved.backbone is not clf.backbone


def test_text_features_are_constants_in_every_grad_mode(backbone):
    with torch.enable_grad():
        assert not ZeroShotClassifier(backbone, tiny.LABELS).text_features.requires_grad


def test_classifying_leaves_no_trace(backbones):
    for backbone in backbones.values():
        with tiny.no_trace(backbone.model):
            tiny.classifier(backbone)(tiny.images_for(backbone))
