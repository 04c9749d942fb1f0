"""The folded tower answers as the tower does, and the tower stays as it was loaded."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests import tiny
from vlmdefense_demo.models.catalog import POCKET, load_model
from vlmdefense_demo.models.folding import fold_batchnorm


def norms(tower):
    return [m for m in tower.modules() if isinstance(m, _BatchNorm)]


def lively(tower):
    """Statistics and weights a trained tower would have, instead of zeros and ones."""
    generator = torch.Generator().manual_seed(7)
    for norm in norms(tower):
        for values, low, high in (
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
            (norm.weight.data, 0.5, 1.5),
            (norm.bias.data, -0.3, 0.3),
        ):
            values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return tower.eval().requires_grad_(False)


@pytest.fixture
def resnet():
    return lively(tiny.seeded_model("resnet").visual)


def test_every_normalisation_of_a_residual_network_is_folded(resnet):
    assert norms(resnet)
    assert not norms(fold_batchnorm(resnet, 64))


def test_features_and_gradients_agree(resnet):
    folded = fold_batchnorm(resnet, 64)
    x = tiny.images(3, 64).requires_grad_()
    one, two = resnet(x), folded(x)
    assert (one - two).norm() <= 1e-5 * one.norm()
    slopes = [torch.autograd.grad(out.square().sum(), x)[0] for out in (one, two)]
    assert (slopes[0] - slopes[1]).norm() <= 1e-4 * slopes[0].norm()


def test_the_tower_itself_is_untouched(resnet):
    before = copy.deepcopy(resnet.state_dict())
    fold_batchnorm(resnet, 64)
    after = resnet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet.modules())


def test_a_tower_without_normalisation_is_handed_back():
    vit = tiny.seeded_model("vit").visual
    assert fold_batchnorm(vit, 32) is vit


def test_a_convolution_that_is_read_twice_is_not_folded_wrongly():
    """Both the normalisation and a shortcut read it: the copy would differ, so there is none."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            raw = self.conv(x)
            return (self.norm(raw) + raw).mean((2, 3))

    tower = lively(Twice())
    assert fold_batchnorm(tower, 16) is tower


def test_the_embedded_model_is_served_folded_and_kept_whole():
    backbone = load_model("pocket", "cpu")
    assert len(norms(backbone.visual)) == 49
    assert not norms(backbone._tower)
    assert not any(p.requires_grad for p in backbone._tower.parameters())
    x = tiny.images(2, 224)
    plain = open_clip.create_model(f"local-dir:{POCKET}").visual.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.preprocess.mean, backbone.preprocess.std))  # fmt: skip
    with torch.no_grad():
        expected, got = plain((x - mean) / std), backbone.encode_image(x)
    assert (expected - got).norm() <= 1e-5 * expected.norm()
