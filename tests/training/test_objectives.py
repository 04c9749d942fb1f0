"""What each tower method minimises, against closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from tests import tiny
from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.maps import attention, locate, trace
from vlmdefense_demo.training.fare import FAREObjective, squared_distance
from vlmdefense_demo.training.objective import Batch
from vlmdefense_demo.training.pmg_aft import PMGObjective
from vlmdefense_demo.training.tecoa import TeCoAObjective
from vlmdefense_demo.training.tga_zsr import TGAObjective, map_distance


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch(backbone):
    return Batch(tiny.images(3), backbone, F.normalize(rows(5, 24, seed=5), dim=1))


@dataclass
class Fixed:
    """A student whose features are given, whatever the pixels."""

    features: torch.Tensor
    logit_scale: float = 1.0

    def encode_image(self, x):
        return self.features[: len(x)]


# --- labels and logits ---------------------------------------------------------------------------


def test_labels_are_the_teachers_clean_answers_at_the_scale_of_inference(batch, backbone):
    z = F.normalize(backbone.encode_image(batch.images), dim=1)
    logits = backbone.logit_scale * z @ batch.text.T
    torch.testing.assert_close(batch.logits(batch.original), logits)
    assert torch.equal(batch.labels, logits.argmax(1))
    assert not batch.original.requires_grad


# --- TeCoA ---------------------------------------------------------------------------------------


def test_tecoa_is_the_cross_entropy_of_the_attacked_picture(batch):
    features = rows(3, 24, seed=1)
    value = TeCoAObjective().loss(Fixed(features), batch.images, batch)
    expected = F.cross_entropy(batch.logits(features), batch.labels, reduction="none")
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        TeCoAObjective().attack(Fixed(features), batch.images, batch), expected
    )


def test_tecoa_with_identical_prompts_costs_the_logarithm_of_their_number(backbone):
    same = F.normalize(rows(1, 24), dim=1).repeat(7, 1)
    batch = Batch(tiny.images(2), backbone, same)
    value = TeCoAObjective().loss(backbone, batch.images, batch)
    torch.testing.assert_close(value, torch.full((2,), math.log(7)), rtol=1e-4, atol=1e-4)


# --- FARE ----------------------------------------------------------------------------------------


def test_fare_is_a_sum_over_dimensions_and_zero_at_the_original(batch):
    v = rows(3, 8)
    assert torch.equal(squared_distance(v, v), torch.zeros(3))
    torch.testing.assert_close(squared_distance(v + 0.5, v), torch.full((3,), 8 * 0.25))
    at_start = FAREObjective().loss(batch.teacher, batch.images, batch)
    torch.testing.assert_close(at_start, torch.zeros(3))


def test_fare_reads_lengths_not_only_directions(batch):
    longer = Fixed(2 * batch.original)
    value = FAREObjective().loss(longer, batch.images, batch)
    torch.testing.assert_close(value, batch.original.square().sum(1))


def test_fare_never_asks_for_a_label(backbone):
    batch = Batch(tiny.images(2), backbone, text=None)
    FAREObjective().attack(backbone, batch.images, batch)
    FAREObjective().loss(backbone, batch.images, batch)
    assert "labels" not in vars(batch)


def test_the_distance_fare_lowers_bounds_the_change_of_every_cosine():
    """|cos(v', t) - cos(v, t)| <= 2 |v' - v| / max(|v'|, |v|), for every text."""
    for seed in range(20):
        v, moved, t = (
            rows(1, 6, seed=seed),
            rows(1, 6, seed=100 + seed),
            rows(1, 6, seed=200 + seed),
        )
        gap = (F.cosine_similarity(v, t) - F.cosine_similarity(moved, t)).abs()
        bound = 2 * squared_distance(moved, v).sqrt() / torch.maximum(v.norm(), moved.norm())
        assert gap <= bound + 1e-6


# --- PMG-AFT -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference_first", [True, False])
def test_pmg_without_an_attack_and_at_the_teacher_is_tecoa(batch, reference_first):
    value = PMGObjective(reference_first).loss(batch.teacher, batch.images, batch)
    expected = TeCoAObjective().loss(batch.teacher, batch.images, batch)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_divergence_of_two_classes_is_the_textbooks():
    p, q = torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6])
    expected = 0.8 * math.log(2) + 0.2 * math.log(1 / 3)
    assert divergence(p.log()[None], q.log()[None]).item() == pytest.approx(expected, abs=1e-6)
    other = 0.4 * math.log(0.5) + 0.6 * math.log(3)
    assert divergence(q.log()[None], p.log()[None]).item() == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("reference_first", [True, False])
def test_pmg_adds_both_divergences_in_the_chosen_direction(batch, reference_first):
    attacked, clean = rows(3, 24, seed=1), rows(3, 24, seed=2)
    both = torch.cat([attacked, clean])
    value = PMGObjective(reference_first).loss(Fixed(both), batch.images, batch)
    adversarial, own = batch.logits(attacked), batch.logits(clean)
    original = batch.logits(batch.teacher.encode_image(batch.images))
    expected = F.cross_entropy(adversarial, batch.labels, reduction="none")
    for reference in (original, own):
        pair = (reference, adversarial) if reference_first else (adversarial, reference)
        expected = expected + divergence(*pair)
    torch.testing.assert_close(value, expected)


def test_pmgs_clean_answer_is_not_a_constant(batch):
    both = rows(6, 24, seed=3).requires_grad_()
    value = PMGObjective().loss(Fixed(both), batch.images, batch).sum()
    assert torch.autograd.grad(value, both)[0][3:].abs().sum() > 0


# --- TGA-ZSR -------------------------------------------------------------------------------------


def test_attention_is_stretched_to_the_unit_interval():
    grid, text = rows(2, 8, 4, 4), rows(2, 8, seed=1)
    a = attention(grid, text)
    torch.testing.assert_close(a.amin((1, 2)), torch.zeros(2))
    torch.testing.assert_close(a.amax((1, 2)), torch.ones(2))
    torch.testing.assert_close(attention(grid, 3 * text), a)
    torch.testing.assert_close(attention(grid, -text), 1 - a)


def test_a_constant_map_is_zero_and_has_a_finite_slope():
    grid = torch.ones(1, 8, 4, 4, requires_grad=True)
    a = attention(grid, torch.ones(1, 8))
    assert torch.equal(a, torch.zeros(1, 4, 4))
    assert torch.isfinite(torch.autograd.grad(a.sum(), grid)[0]).all()


@pytest.mark.parametrize("side", [5, 7, 224])
def test_a_constant_difference_counts_as_on_the_papers_grid(side):
    one, two = torch.zeros(1, side, side), torch.full((1, side, side), 0.1)
    assert map_distance(one, two).item() * 224 / side == pytest.approx(22.4, rel=1e-5)


def test_the_distance_of_equal_maps_has_a_zero_slope():
    a = torch.rand(1, 3, 3, requires_grad=True)
    value = map_distance(a, a.detach())
    assert value.item() < 1e-5
    assert torch.equal(torch.autograd.grad(value.sum(), a)[0], torch.zeros(1, 3, 3))


def test_tga_without_an_attack_and_at_the_teacher_is_tecoa(batch):
    value = TGAObjective().loss(batch.teacher, batch.images, batch)
    expected = TeCoAObjective().loss(batch.teacher, batch.images, batch)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def test_tga_adds_both_distances_with_their_weights(batch, backbone):
    """Against maps computed here, picture by picture."""
    student = backbone.with_visual(tiny.seeded_model("vit", seed=9).visual, "student")
    attacked = (batch.images + 0.05).clamp(0, 1)
    text = batch.text[batch.labels]

    def maps(model, x):
        return attention(model.encode_located(x)[1], text)

    original = maps(backbone, batch.images)
    moved, kept = (
        (maps(student, x) - original).flatten(1).norm(dim=1) for x in (attacked, batch.images)
    )
    plain = TeCoAObjective().loss(student, attacked, batch)
    expected = plain + 0.08 * 56 * moved + 0.05 * 56 * kept  # the tiny grid has side 4
    value = TGAObjective().loss(student, attacked, batch)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_the_embedded_towers_map_averages_to_its_embedding():
    pocket = load_model("pocket", "cpu")
    x = tiny.images(2, 224)
    with torch.no_grad():
        features, grid = pocket.encode_located(x)
        torch.testing.assert_close(features, pocket.encode_image(x))
    torch.testing.assert_close(grid.mean((2, 3)), features, rtol=1e-4, atol=1e-4)
    assert grid.shape == (2, 512, 7, 7)


@pytest.mark.parametrize(("name", "side"), [("vit", 4), ("resnet", 2), ("causal", 1)])
def test_every_kind_of_tower_has_a_map_in_the_space_of_the_text(backbones, name, side):
    backbone = backbones[name]
    x = tiny.images_for(backbone, 2)
    with torch.no_grad():
        features, grid = backbone.encode_located(x)
        torch.testing.assert_close(features, backbone.encode_image(x), rtol=1e-4, atol=1e-4)
    assert grid.shape == (2, 24, side, side)
    assert torch.isfinite(grid).all()


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_a_tower_whose_classifier_is_the_projection_has_one_too(name):
    """MobileCLIP: nothing stands behind the trunk, whose own classifier leads into the text's space."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = TimmModel(name, 24, image_size=64, pool="avg", proj=None, pretrained=False).eval()
    x = tiny.images(2, 64)
    with torch.no_grad():
        features, grid = locate(tower, x)
        torch.testing.assert_close(features, tower(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trace(tower, x).features.detach(), features, rtol=1e-4, atol=1e-4)
    assert grid.shape[:2] == (2, 24)


def test_a_vit_that_pools_by_attention_has_none():
    shape = {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "mlp_ratio": 2,
    }
    tower = VisionTransformer(**shape, output_dim=24, attentional_pool=True, attn_pooler_queries=4,
                              attn_pooler_heads=2).eval()  # fmt: skip
    for look in (locate, trace):
        with pytest.raises(MethodFailed, match="no map of locations"):
            look(tower, tiny.images(1))


def test_a_vits_map_is_its_patch_tokens_behind_the_projection(backbone):
    tower = backbone.visual
    x = tiny.images(2)
    with torch.no_grad():
        tokens = tower.ln_post(tower.transformer(tower._embeds(x)))[:, 1:] @ tower.proj
        grid = locate(tower, x)[1]
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_a_tower_without_locations_says_so():
    with pytest.raises(MethodFailed, match="no map of locations"):
        locate(torch.nn.Linear(3, 3), torch.zeros(1, 3))
