"""FARE: another image tower, the same everything else."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from vlmdefense_demo.defenses.training_time.fare import FARE
from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.variants import load_twin


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_logits_come_from_the_twins_tower(backbones, model_dirs, name):
    clf = tiny.classifier(backbones[name])
    x = tiny.images_for(backbones[name], 2)
    tower = tiny.seeded_model(name)
    tower.visual.load_state_dict(load_file(model_dirs[name] / "fare.safetensors"))
    preprocess = backbones[name].preprocess
    expected = Backbone("oracle", tower, None, preprocess).encode_image(x)
    expected = torch.nn.functional.normalize(expected, dim=1) @ clf.text_features.T * clf.scale
    out = FARE()(clf, x, run=tiny.run_for(2))
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out.logits, clf(x), atol=0.1)


def test_features_belong_to_the_logits(clf):
    out = FARE()(clf, tiny.images(2), run=tiny.run_for(2))
    torch.testing.assert_close(clf.logits(out.features), out.logits)


def test_the_twin_shares_the_text_tower_and_leaves_the_original_alone(backbone):
    visual = backbone.visual
    twin = load_twin(backbone, "fare")
    assert backbone.visual is visual
    assert twin.visual is not visual
    assert twin.model.transformer is backbone.model.transformer
    assert (twin.name, twin.twin, twin.logit_scale) == (
        backbone.name,
        "fare",
        backbone.logit_scale,
    )
    assert not any(p.requires_grad for p in twin.model.parameters())
    assert not twin.model.training


def test_the_twin_is_loaded_once(backbone):
    assert load_twin(backbone, "fare") is load_twin(backbone, "fare")


def test_a_model_without_a_twin_says_which_models_have_one(backbone):
    alone = Backbone("ViT-B-32-openai", backbone.model, backbone.tokenizer, backbone.preprocess)
    with pytest.raises(MissingWeights) as caught:
        FARE()(tiny.classifier(alone), tiny.images(1), run=tiny.run_for(1))
    assert "no fare weights for ViT-B-32-openai" in str(caught.value)
    assert "pocket, ViT-B-32, ViT-B-16, convnext_base_w, ViT-L-14." in str(caught.value)
