"""A-TPT: where the map comes from, what it protects, and what it costs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses.augmix import pure_mix
from vlmdefense_demo.defenses.pictures import under_map
from vlmdefense_demo.defenses.test_time.atpt import ATPT, PROTECTED, SCRAMBLED, protection
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.views import random_views, sampled, view_grid
from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit
from vlmdefense_demo.models.maps import Trace, salience, trace

IN, OUT = torch.tensor([PROTECTED, SCRAMBLED])
NAMES = [*tiny.CONFIGS]
WITH_MAP = [name for name in NAMES if name != "causal"]  # whose grid is a single location


def seeded(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- the map -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_pass_has_the_features_of_a_plain_one(backbones, name):
    backbone, x = backbones[name], tiny.images_for(backbones[name], 2)
    with torch.no_grad():
        seen = backbone.encode_traced(x)
    torch.testing.assert_close(unit(seen.features), unit(backbone.encode_image(x)))
    assert seen.grid.is_leaf
    assert seen.patches is (name in tiny.WITH_PATCHES)


def test_a_map_has_the_orientation_of_its_image(backbone):
    """With one block, what it attends to is the patches themselves."""
    tower = copy.deepcopy(backbone.visual)
    tower.transformer.resblocks = tower.transformer.resblocks[-1:]
    x = tiny.images(1)
    changed = x.clone()
    changed[..., 8:16, 16:24] = 1 - changed[..., 8:16, 16:24]  # row 1, column 2 of 4 x 4
    before, after = (trace(tower, t).grid.detach()[0] for t in (x, changed))
    moved = (before - after).abs().sum(0)
    assert moved[1, 2] > 0.1
    assert (moved > 1e-4).sum() == 1


@pytest.mark.parametrize("name", WITH_MAP)
def test_the_map_is_made_from_the_highest_logit_against_the_hand_prompt(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 1)
    seen = clf.backbone.encode_traced(x)
    score = clf.logits(unit(seen.features)).amax()
    assert score.item() == pytest.approx(clf(x).amax().item(), rel=1e-3, abs=1e-3)
    gradient = torch.autograd.grad(score, seen.grid, retain_graph=True)[0]
    where = salience(seen, score)
    grid = seen.grid.detach()
    if seen.patches:
        raw = (grid * gradient).sum(1).relu()
        low, top = raw.amin(), raw.flatten().quantile(0.99)
        expected = ((raw - low) / (top - low)).clamp(0, 1)
    else:
        raw = torch.einsum("bc,bchw->bhw", gradient.mean((2, 3)), grid).relu()
        cut = (raw / raw.amax() - 0.2).relu()
        expected = (cut / cut.amax()).square()
    torch.testing.assert_close(where, expected)
    torch.testing.assert_close(clf.encode_attention(x), where, rtol=1e-3, atol=1e-3)
    assert where.min() == 0
    assert where.max() == 1


@pytest.mark.parametrize("name", tiny.WITH_PATCHES)
def test_activation_times_gradient_is_more_than_rounding(backbones, name):
    """Before a norm it would be zero: a token's length does not reach the answer."""
    clf, x = tiny.classifier(backbones[name]), tiny.images(3)
    seen = clf.backbone.encode_traced(x)
    score = clf.logits(unit(seen.features)).amax(1).sum()
    gradient = torch.autograd.grad(score, seen.grid)[0]
    product = (seen.grid.detach() * gradient).sum(1).abs()
    size = seen.grid.detach().norm(dim=1) * gradient.norm(dim=1)
    assert (product.amax((1, 2)) > 0.01 * size.amax((1, 2))).all()


def test_a_patch_the_answer_is_made_of_is_where_it_looks():
    """features = mean of the patches' activations: only where they point to the text counts."""
    grid = torch.zeros(1, 2, 4, 4)
    grid[0, 0, 1, 2], grid[0, 1, 3, 0], grid[0, 0, 2, 2] = 3.0, 5.0, -3.0
    for patches in (True, False):
        leaf = grid.clone().requires_grad_()
        seen = Trace(leaf.mean((2, 3)), leaf, patches)
        where = salience(seen, seen.features[:, 0].sum())
        assert where[0, 1, 2] == 1
        assert where.sum() == 1


def test_a_grid_of_one_location_protects_nothing_it_cannot_tell_apart(backbones):
    clf, x = tiny.classifier(backbones["causal"]), tiny.images(1)
    out, run = ATPT(views=4).draw(clf, x, tiny.run_for(1)), tiny.run_for(1)
    crops = random_views(x, 4, run.child("views"))
    pure = pure_mix(crops, 1, run.child("augmix"))
    expected = torch.lerp(pure, crops, torch.where(clf.encode_attention(x).amax() > 0, IN, OUT))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("patches", [True, False])
def test_a_map_without_gradient_is_zero(patches):
    leaf = seeded(2, 3, 4, 4).requires_grad_()
    seen = Trace(0 * leaf.mean((2, 3)), leaf, patches)
    assert torch.equal(salience(seen, seen.features.sum()), torch.zeros(2, 4, 4))


def test_faint_attention_of_a_cnn_is_cut_off_and_the_rest_squared():
    leaf = torch.tensor([[[[1.0, 0.6], [0.2, 0.1]]]], requires_grad=True)
    seen = Trace(leaf.mean((2, 3)), leaf, False)
    where = salience(seen, seen.features.sum())[0]
    torch.testing.assert_close(where, torch.tensor([[1.0, 0.25], [0.0, 0.0]]))


def test_a_tower_without_locations_is_refused():
    with pytest.raises(MethodFailed, match="no map of locations"):
        trace(torch.nn.Linear(3, 3), torch.zeros(1, 3))


# --- the views -----------------------------------------------------------------------------------


def test_a_map_is_cropped_and_mirrored_as_its_image_is():
    """A map equal to a channel of the image is equal to that channel of every view."""
    x, run = tiny.images(2), tiny.run_for(2)
    views = random_views(x, 12, run)
    for channel in range(3):
        where = sampled(x[:, channel : channel + 1], view_grid(x, 12, run))
        torch.testing.assert_close(where, views[:, channel : channel + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [32, 50, 224])
def test_a_fifth_of_a_view_is_protected(size):
    attention = torch.stack(
        [torch.randperm(size * size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ).view(3, 1, size, size) / (size * size)
    if size == 224:
        attention = (attention * 5_000).floor() / 5_000  # about ten pixels a level
    mask = protection(attention)
    assert set(mask.unique().tolist()) == {IN.item(), OUT.item()}
    shares = (mask == IN).float().mean((1, 2, 3))
    torch.testing.assert_close(shares, torch.full((3,), 0.2), rtol=0, atol=1e-3)
    assert attention[mask == IN].min() > attention[mask == OUT].max() - 1e-3
    for one, where in zip(mask, attention, strict=True):
        assert where[one == IN].min() >= where[one == OUT].max()


def test_equal_pixels_are_treated_alike_and_those_without_attention_are_not_protected():
    assert (protection(torch.zeros(1, 1, 8, 8)) == OUT).all()
    assert (protection(torch.full((1, 1, 8, 8), 0.3)) == IN).all()
    few = torch.zeros(1, 1, 10, 10)
    few[0, 0, 2, 3:6] = 0.5
    assert torch.equal(protection(few) == IN, few > 0)
    noisy = torch.full((1, 1, 8, 8), 0.3) + 1e-7 * seeded(1, 1, 8, 8)
    assert (protection(noisy) == IN).all()


@pytest.mark.parametrize("name", WITH_MAP)
def test_views_are_blended_by_the_pictures_own_map(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 2)
    run, n = tiny.run_for(2), 6
    out = ATPT(views=n).draw(clf, x, run)
    crops = random_views(x, n, run.child("views"))
    pure = pure_mix(crops, 2, run.child("augmix"))
    maps = torch.stack([clf.encode_attention(row[None]) for row in x])
    large = F.interpolate(maps, x.shape[-2:], mode="bilinear", align_corners=False)
    mask = protection(sampled(large, view_grid(x, n, run.child("views"))))
    torch.testing.assert_close(out, mask * crops + (1 - mask) * pure)
    assert mask.unique().tolist() == [OUT.item(), IN.item()]
    assert torch.equal(out[::n], x)
    assert not torch.equal(out[1], crops[1])
    assert out.min() >= 0
    assert out.max() <= 1


def test_the_gradient_of_a_view_goes_through_both_parts_and_takes_the_map_as_given(clf):
    x, run, n = tiny.images(1).requires_grad_(), tiny.run_for(1), 4
    with torch.enable_grad():
        where = clf.encode_attention(x)
        assert not where.requires_grad
        large = F.interpolate(where[None], x.shape[-2:], mode="bilinear", align_corners=False)
        crops = random_views(x, n, run.child("views"))
        pure = pure_mix(crops, 1, run.child("augmix"))
        mask = protection(sampled(large, view_grid(x, n, run.child("views"))))
        expected = mask * crops + (1 - mask) * pure
        ours, theirs = (
            torch.autograd.grad(views.square().sum(), x)[0]
            for views in (ATPT(views=n).draw(clf, x, run), expected)
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours.abs().sum() > 1


def test_without_augmix_it_is_rtpt_and_makes_no_map(clf):
    x = tiny.images(2)
    with clf.meter.stage() as cost:
        out = ATPT(views=4, augmix=False)(clf, x, run=tiny.run_for(2, 0, clf.meter))
    plain = RTPT(views=4)(clf, x, run=tiny.run_for(2))
    assert torch.equal(out.logits, plain.logits)
    assert (cost.image_forward, cost.image_backward) == (8, 0)
    expected = ATPT(views=4, augmix=False).expected_cost(len(tiny.LABELS))
    assert (expected.image_forward, expected.image_backward) == (4, 0)


# --- the price and the published errors ----------------------------------------------------------


@pytest.mark.parametrize("views", [2, 7, 16])
@pytest.mark.parametrize("n", [1, 2])
def test_the_image_tower_sees_every_view_and_the_picture_once_more(clf, views, n, monkeypatch):
    seen, original = [], type(clf.backbone)._through
    monkeypatch.setattr(
        type(clf.backbone), "_through", lambda self, f, x: seen.append(x) or original(self, f, x)
    )
    x = tiny.images(n)
    ATPT(views=views)(clf, x, run=tiny.run_for(n))
    assert sum(map(len, seen)) == n * (views + 1)
    assert all(torch.equal(seen[i], x[i : i + 1]) for i in range(n))


def test_text_is_encoded_as_often_as_for_rtpt(clf):
    x, k = tiny.images(1), len(tiny.LABELS)
    ATPT(views=4)(clf, x, run=tiny.run_for(1))
    with clf.meter.stage() as cost:
        ATPT(views=4)(clf, x, run=tiny.run_for(1, 0, clf.meter))
    assert (cost.text_forward, cost.text_backward) == (k, k)
    assert (cost.image_forward, cost.image_backward) == (5, 1)


def test_the_map_is_made_against_the_hand_prompt_whatever_came_before(clf, monkeypatch):
    prompts, original = [], ZeroShotClassifier.encode_attention

    def spy(self, x):
        prompts.append(self.text_features)
        return original(self, x)

    monkeypatch.setattr(ZeroShotClassifier, "encode_attention", spy)
    x, method = tiny.images(3), ATPT(views=4, learning_rate=0.05)
    alone = method(clf, x[2:], run=tiny.run_for(3).select([2])).logits
    for before in (x[:1], x[1:2]):
        method(clf, before, run=tiny.run_for(1))
        again = method(clf, x[2:], run=tiny.run_for(3).select([2])).logits
        assert torch.equal(again, alone)
    assert all(torch.equal(text, clf.text_features) for text in prompts)


def test_the_card_shows_the_map_behind_the_views(clf):
    pair = tiny.images(2)
    views, where = ATPT(views=5).exhibit(clf, pair, 0, run=tiny.run_for(1))
    assert len(views.value) == 5
    assert where.kind == "images"
    ((caption, picture),) = where.value
    assert caption == "attacked"
    large = F.interpolate(clf.encode_attention(pair[1:])[None], 32, mode="bilinear")
    assert picture == under_map(pair[1], large[0, 0])
    assert picture != under_map(pair[1], 0 * large[0, 0])
    assert len(ATPT(views=5, augmix=False).exhibit(clf, pair, 0, run=tiny.run_for(1))) == 1
