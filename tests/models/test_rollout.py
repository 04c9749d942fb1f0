"""Where a model looks: attention through all layers, gradient times activation, and which of them."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.models.classifier import unit
from vlmdefense_demo.models.maps import Trace, contribution
from vlmdefense_demo.models.rollout import is_plain_vit, joined, rollout


def test_layers_that_attend_to_themselves_lead_nowhere_else():
    own = torch.eye(5).expand(2, 5, 5)
    assert torch.equal(joined([own, own, own]), own)


def test_layers_are_joined_last_to_first():
    """0 reads 1 in the last layer, and 1 has read 2 in the first: a quarter of 0 comes from 2."""
    first, last = torch.eye(3), torch.eye(3)
    first[1] = torch.tensor([0.0, 0.0, 1.0])
    last[0] = torch.tensor([0.0, 1.0, 0.0])
    joint = joined([first[None], last[None]])[0]
    assert joint[0].tolist() == [0.5, 0.25, 0.25]
    assert joined([last[None], first[None]])[0, 0].tolist() == [0.5, 0.5, 0.0]
    assert joint.sum(1).tolist() == [1, 1, 1]


def test_a_vit_without_preferences_looks_everywhere_alike():
    """Keys and queries of zero: each layer is uniform, so a patch has (1 - 2^-layers) / tokens."""
    tower = tiny.seeded_model("vit").visual
    for block in tower.transformer.resblocks:
        block.attn.in_proj_weight.data.zero_()
        block.attn.in_proj_bias.data.zero_()
    with torch.no_grad():
        where = rollout(tower, tiny.images(2))
    assert where.shape == (2, 4, 4)
    torch.testing.assert_close(where, torch.full((2, 4, 4), (1 - 0.5**2) / 17))


def test_what_a_linear_score_rests_on_is_known():
    grid = torch.tensor([[[[1.0, -2.0]], [[3.0, 1.0]]]]).requires_grad_()  # (1, C=2, 1, 2)
    weight = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    score = (weight * grid).sum()
    where = contribution(Trace(grid, grid, False), score)
    assert where.tolist() == [[[0.0, 0.0]]]  # 2·1 - 3 and 2·-2 - 1 both speak against it
    grid = torch.tensor([[[[3.0, -2.0]], [[1.0, 1.0]]]]).requires_grad_()
    assert contribution(Trace(grid, grid, False), (weight * grid).sum()).tolist() == [[[5.0, 0.0]]]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("vit", "rollout"),
        ("bidirectional", "rollout"),
        ("resnet", "gradient"),
        ("causal", "gradient"),
    ],
)
def test_a_vit_is_asked_for_attention_and_other_towers_for_gradients(backbones, name, how):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 2)
    assert is_plain_vit(backbones[name].visual) == (how == "rollout")
    with clf.meter.stage() as cost:
        where, told = clf.look(x)
    assert told == how
    assert not where.requires_grad
    assert where.min() >= 0
    assert (cost.image_forward, cost.image_backward) == (2, 0 if how == "rollout" else 2)
    if name != "resnet":  # whose random weights make other gradients of another rounding
        alone = torch.cat([clf.look(row[None])[0] for row in x])
        torch.testing.assert_close(where, alone, rtol=1e-3, atol=1e-4)


def test_contributions_are_in_the_units_of_the_logit(backbones):
    """Of a tower that averages, all locations together with those that speak against make z·∂logit/∂z."""
    clf, x = tiny.classifier(backbones["causal"]), tiny.images(1)
    seen = clf.backbone.encode_traced(x)
    score = clf.logits(unit(seen.features)).amax(1).sum()
    signed = (seen.grid * torch.autograd.grad(score, seen.grid, retain_graph=True)[0]).sum(1)
    torch.testing.assert_close(clf.look(x)[0], signed.detach().relu(), rtol=1e-3, atol=1e-4)


def test_looking_leaves_no_trace(backbones):
    for backbone in backbones.values():
        clf, x = tiny.classifier(backbone), tiny.images_for(backbone)
        with tiny.no_trace(backbone.model):
            clf.look(x)
