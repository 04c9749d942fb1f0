"""AugMix: Pillow's operations, the shares of the mixture, and what reaches the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests import tiny
from vlmdefense_demo.defenses import augmix as module
from vlmdefense_demo.defenses.augmix import (
    CHAINS,
    MOVES,
    OPERATIONS,
    TONES,
    augmix,
    chain_weights,
    matrix,
    operate,
    pure_mix,
)
from vlmdefense_demo.defenses.test_time.ensemble import ViewEnsemble
from vlmdefense_demo.defenses.test_time.sstpt import SSTPT
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.images import to_pixels

BILINEAR, AFFINE = Image.Resampling.BILINEAR, Image.Transform.AFFINE
SEVERITIES = (0.1, 0.37, 0.7, 1.0)


def random_picture(seed, low=0, high=256, size=(40, 48)):
    levels = np.random.default_rng(seed).integers(low, high, (*size, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def photo(seed, size=(40, 48)):
    """Smooth, so that interpolation matters less than where it reads."""
    return random_picture(seed, size=(5, 6)).resize(size[::-1], Image.Resampling.BICUBIC)


def ours(picture, name, severity, sign=1.0):
    out = operate(to_pixels(picture), [name], torch.tensor([severity]), torch.tensor([sign]))
    return 255 * out[0].permute(1, 2, 0)


def theirs(picture, name, severity, sign=1.0):
    """The published operations at severity 1; sides take the place of 224 pixels."""
    width, height = picture.size
    shear, turn = sign * severity * 0.3 / 10, sign * int(severity * 30 / 10)
    right, down = (sign * int(severity * side / 3 / 10) for side in (width, height))
    move = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, right, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, down),
    }
    if name in move:
        return picture.transform(picture.size, AFFINE, move[name], resample=BILINEAR)
    return {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(severity * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(severity * 256 / 10)),
        "rotate": lambda: picture.rotate(turn, resample=BILINEAR),
    }[name]()


def mixed(x, n=5, seed=0, function=augmix, **kwargs):
    """(B, n, 3, H, W) of fresh views."""
    run = tiny.run_for(len(x), seed)
    views = random_views(x, n, run.child("views"), **kwargs)
    return function(views, len(x), run.child("augmix")).unflatten(0, (len(x), n))


# --- the operations ------------------------------------------------------------------------------


def test_there_are_the_nine_operations():
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 9


@pytest.mark.parametrize("name", TONES)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "picture",
    [
        *(random_picture(s) for s in range(3)),
        *(random_picture(s, 30 + s, 90 + 7 * s) for s in range(12)),  # many stretches
        random_picture(1, 225, 256),
        random_picture(2, size=(12, 16)),  # too few pixels to equalise
        random_picture(3, size=(16, 24)),  # equalising overshoots and is clipped
        photo(4),
        photo(5, size=(300, 200)),
    ],
)
def test_a_tone_has_pillows_levels(name, severity, picture):
    assert np.array_equal(
        ours(picture, name, severity).round().numpy(), np.asarray(theirs(picture, name, severity))
    )


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_move_is_pillows_up_to_its_rounding(name, severity, sign):
    for picture in (photo(0), photo(1, size=(224, 224))):
        expected = np.asarray(theirs(picture, name, severity, sign)).astype(np.float32)
        away = np.abs(ours(picture, name, severity, sign).numpy() - expected)
        assert np.mean(away <= 1.01) > 0.998  # a border pixel may fall on the other side
        assert away.mean() < 0.6


def test_moves_are_as_large_as_the_published_ones_on_224_pixels():
    size = (224, 224)
    degrees = [-np.degrees(np.arcsin(matrix("rotate", s, 1, size)[1])) for s in (0.3, 0.4, 0.99)]
    assert degrees == pytest.approx([0, 1, 2])
    assert matrix("shear_x", 1.0, -1, size)[1] == pytest.approx(-0.03)
    assert [matrix("translate_x", s, 1, size)[2] for s in (0.1, 0.5, 1.0)] == [0, 3, 7]
    assert [matrix("translate_y", s, -1, (448, 9))[5] for s in (0.1, 1.0)] == [-1, -14]


def test_different_moves_in_one_call_are_those_of_single_calls():
    x = torch.cat([to_pixels(photo(i)) for i in range(5)])
    severity, sign = torch.linspace(0.4, 1, 5), torch.tensor([1.0, -1, 1, -1, 1])
    together = operate(x, MOVES, severity, sign)
    for i, name in enumerate(MOVES):
        alone = operate(x[i : i + 1], [name], severity[i : i + 1], sign[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TONES)
def test_a_picture_of_one_colour_keeps_one_colour(name):
    flat = torch.tensor([0.1, 0.5, 0.8]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    out = operate(flat, [name], torch.ones(1), torch.ones(1))
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))
    if name in ("autocontrast", "equalize"):
        torch.testing.assert_close(out, (255 * flat).round() / 255)


@pytest.mark.parametrize(
    ("name", "slope"), [("autocontrast", 255 / 100), ("equalize", 1.0), ("posterize", 1.0)]
)
def test_a_tone_passes_a_gradient_with_its_slope(name, slope):
    x = torch.arange(50, 151).float().div(255).expand(1, 3, 8, -1).clone().requires_grad_()
    out = operate(x, [name], torch.ones(1), torch.ones(1))
    gradient = torch.autograd.grad(out.sum(), x)[0]
    torch.testing.assert_close(gradient, torch.full_like(x, slope))
    assert torch.equal(out.detach(), operate(x.detach(), [name], torch.ones(1), torch.ones(1)))


def test_solarised_levels_have_the_opposite_slope():
    x = torch.tensor([200.0, 231, 250]).div(255).expand(1, 3, 1, -1).clone().requires_grad_()
    out = operate(x, ["solarize"], torch.ones(1), torch.ones(1))
    assert (255 * out[0, 0, 0]).tolist() == pytest.approx([200, 24, 5])
    assert torch.autograd.grad(out.sum(), x)[0][0, 0, 0].tolist() == [1, -1, -1]


# --- the mixture ---------------------------------------------------------------------------------


def test_chain_weights_are_dirichlet():
    weights = chain_weights(torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(weights.sum(1), torch.ones(4000))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.mean(0), torch.full((3,), 1 / 3), rtol=0, atol=0.02)
    # The variance of a coordinate of Dirichlet(1, 1, 1) is 1/18; of normalised uniforms, 0.036.
    torch.testing.assert_close(weights.var(0), torch.full((3,), 1 / 18), rtol=0, atol=0.004)
    assert chain_weights(torch.zeros(1, 3)).sum() == 1


def test_the_mixture_is_the_weighted_sum_of_its_chains(monkeypatch):
    """Chains that do nothing give the view back; chains 0, 1, 2 that paint show their weights."""
    x = tiny.images(2)
    views = random_views(x, 4, tiny.run_for(2))
    monkeypatch.setattr(module, "_chain", lambda x, draws: x)
    torch.testing.assert_close(pure_mix(views, 2, tiny.run_for(2)), views)
    drawn = []

    def paint(x, draws):
        drawn.append(draws)
        return torch.full_like(x, (len(drawn) - 1) / 2)

    monkeypatch.setattr(module, "_chain", paint)
    out = pure_mix(views, 2, tiny.run_for(2))
    draws = tiny.run_for(2).child("chains").uniform(torch.empty(2, 3, CHAINS, 11)).flatten(0, 1)
    weights = chain_weights(draws[..., 0])
    expected = (
        (weights[:, 1] * 0.5 + weights[:, 2]).view(2, 3, 1, 1, 1).expand(-1, -1, *x.shape[1:])
    )
    torch.testing.assert_close(out.unflatten(0, (2, 4))[:, 1:], expected)
    assert all(torch.equal(drawn[i], draws[:, i, 1:]) for i in range(CHAINS))


def test_chains_have_one_to_three_operations_of_nine_with_replacement(monkeypatch):
    seen = []
    original = module.operate

    def spy(x, names, severity, sign):
        seen.extend(zip(names, severity.tolist(), sign.tolist(), strict=True))
        return original(x, names, severity, sign)

    monkeypatch.setattr(module, "operate", spy)
    n = 3000
    draws = torch.rand(n, 10, generator=torch.Generator().manual_seed(0))
    module._chain(torch.rand(n, 3, 2, 2), draws)
    assert len(seen) == pytest.approx(2 * n, rel=0.03)  # 1, 2 or 3
    for name in OPERATIONS:
        assert [n for n, *_ in seen].count(name) == pytest.approx(len(seen) / 9, rel=0.15)
    severities, signs = torch.tensor([(a, b) for _, a, b in seen]).unbind(1)
    assert 0.1 <= severities.min() < 0.11
    assert 0.99 < severities.max() <= 1
    assert signs.unique().tolist() == [-1, 1]
    assert abs(signs.mean()) < 0.05


def test_operations_of_a_chain_follow_each_other():
    """Posterised and then solarised is not the other way round."""
    x = to_pixels(random_picture(7))
    which = {name: (i + 0.5) / 9 for i, name in enumerate(OPERATIONS)}
    first, second = ([which[name], 1.0, 0.0] for name in ("posterize", "solarize"))
    two = torch.tensor([[0.5, *first, *second, *second]])
    one = torch.ones(1)
    expected = operate(operate(x, ["posterize"], one, one), ["solarize"], one, one)
    torch.testing.assert_close(module._chain(x, two), expected)
    assert not torch.allclose(
        expected, operate(operate(x, ["solarize"], one, one), ["posterize"], one, one)
    )


def test_the_view_keeps_a_uniform_share_of_itself():
    x = tiny.images(1)
    views, run = random_views(x, 400, tiny.run_for(1)), tiny.run_for(1)
    own, pure = augmix(views, 1, run), pure_mix(views, 1, run)
    towards = (views - pure)[1:].flatten(1)
    moved = (own - pure)[1:].flatten(1)
    shares = (towards * moved).sum(1) / towards.square().sum(1)
    assert shares.min() > -1e-4
    assert shares.max() < 1 + 1e-4
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(1 / 12, abs=0.015)


@pytest.mark.parametrize("function", [augmix, pure_mix])
@pytest.mark.parametrize(("n", "size"), [(1, 32), (2, 50), (16, 32), (3, 224)])
def test_the_first_view_is_the_image_bit_for_bit_and_all_are_pixels(function, n, size):
    x = tiny.images(3, size)
    out = mixed(x, n, function=function)
    assert out.shape == (3, n, 3, size, size)
    assert torch.equal(out[:, 0], x)
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("function", [augmix, pure_mix])
def test_a_mixture_depends_on_seed_and_id_not_on_the_batch(function):
    x = tiny.images(3)
    out = mixed(x, function=function)
    assert torch.equal(out, mixed(x, function=function))
    assert not torch.equal(out[:, 1:], mixed(x, seed=1, function=function)[:, 1:])
    views = random_views(x, 5, tiny.run_for(3).child("views"))
    alone = function(views[5:10], 1, tiny.run_for(3).select([1]).child("augmix"))
    torch.testing.assert_close(alone, out[1], rtol=0, atol=1e-6)


def test_views_of_an_image_are_mixed_differently_and_changed():
    """Views without a crop are equal before."""
    x = tiny.images(1)
    views = x.expand(8, -1, -1, -1)
    out = augmix(views, 1, tiny.run_for(1)).flatten(1)
    assert (torch.cdist(out, out) + 100 * torch.eye(8)).min() > 0.05


def test_every_view_has_a_gradient_to_the_pixels():
    x = tiny.images(1).requires_grad_()
    for view in mixed(x, 12)[0]:
        gradient = torch.autograd.grad(view.square().sum(), x, retain_graph=True)[0]
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 1


# --- the methods ---------------------------------------------------------------------------------


def test_without_it_views_are_what_they_were_and_with_it_they_are_mixed(clf):
    x, run = tiny.images(2), tiny.run_for(2)
    plain = random_views(x, 5, run.child("views"))
    assert torch.equal(ViewEnsemble(views=5).draw(clf, x, run), plain)
    expected = augmix(plain, 2, run.child("augmix"))
    assert torch.equal(ViewEnsemble(views=5, augmix=True).draw(clf, x, run), expected)


def test_weak_copies_are_made_of_the_mixed_views(clf):
    x, run = tiny.images(1), tiny.run_for(1)
    with_it = SSTPT(views=5, augmix=True).draw(clf, x, run)
    assert torch.equal(with_it[:5], ViewEnsemble(views=5, augmix=True).draw(clf, x, run))
    without = SSTPT(views=5).draw(clf, x, run)
    assert not torch.equal(with_it[6:], without[6:])
