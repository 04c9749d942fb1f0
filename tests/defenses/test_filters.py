"""Input purification: each filter against an independent oracle, and the slope that is promised."""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from tests import tiny
from vlmdefense_demo import filters, heatmap, twins
from vlmdefense_demo.defenses.training_free.filters import (
    JPEG,
    BitDepth,
    LowPass,
    MedianFilter,
    NonLocalMeans,
    ResizePad,
    TotalVariation,
)
from vlmdefense_demo.images import to_array

OFF = (
    JPEG(quality=100),
    BitDepth(bits=8),
    MedianFilter(size=1),
    LowPass(sigma=0.0),
    TotalVariation(weight=0.0),
    NonLocalMeans(strength=0.0),
    ResizePad(smallest=1.0),
)
ON = (JPEG(), BitDepth(), MedianFilter(), LowPass(), TotalVariation(), NonLocalMeans(), ResizePad())
names = pytest.mark.parametrize("method", ON, ids=lambda m: type(m).__name__)


def rows(x):
    return [row.permute(1, 2, 0).numpy() for row in x]


@pytest.mark.parametrize("method", OFF, ids=lambda m: type(m).__name__)
def test_at_strength_zero_the_undefended_model_answers(clf, method):
    x = tiny.images(2)
    assert torch.equal(method(clf, x, run=tiny.run_for(2)).logits, clf(x))


@names
def test_a_picture_of_one_colour_stays_what_it_is(method):
    """Up to rounding; black comes in only where the picture is moved."""
    flat = torch.full((1, 3, 32, 32), 128 / 255)
    out = method.purify(flat, tiny.run_for(1))
    inside = out[out > 0.2] if isinstance(method, ResizePad) else out
    assert (inside - 128 / 255).abs().max() < 0.09
    assert len(inside)


@names
def test_the_picture_changes_and_stays_a_picture(method):
    x = tiny.images(2)
    out = method.purify(x, tiny.run_for(2))
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert not torch.equal(out, x)


def test_jpeg_is_pillows_file():
    x = tiny.images(1)
    buffer = io.BytesIO()
    Image.fromarray(to_array(x)).save(buffer, format="JPEG", quality=40)
    assert np.array_equal(to_array(filters.jpeg(x, 40)), np.asarray(Image.open(buffer)))


def test_fewer_bits_are_fewer_levels_and_twice_is_once():
    x = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    out = filters.bit_depth(x, 3)
    assert len(out.unique()) == 8
    assert (out[..., -1, -1] == 1).all()  # white stays white
    assert torch.equal(filters.bit_depth(out, 3), out)
    assert (out - x).abs().max() <= 0.5 / 7 + 1e-6


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_median_is_scipys(size):
    """scipy centres an even window one to the right, and takes the upper of the two middle values."""
    x = tiny.images(1)
    ours = filters.median(x, size)[0]
    if size % 2:
        theirs = ndimage.median_filter(x[0].numpy(), size=(1, size, size), mode="mirror")
        np.testing.assert_array_equal(ours.numpy(), theirs)
    else:
        window = x[0, 0, 4:6, 7:9].flatten().sort().values
        assert ours[0, 5, 8] == window[1]


def test_the_low_pass_damps_a_wave_as_its_formula_says():
    """exp(-2 (pi f sigma / n)^2), away from the edges."""
    n, f, sigma = 224, 40, 0.9
    wave = torch.cos(2 * torch.pi * f * torch.arange(n) / n)
    x = (0.5 + 0.4 * wave).expand(1, 3, n, n)
    out = filters.blur(x, sigma) - 0.5
    size = out[..., 100:124, 50:174].abs().amax() / 0.4
    assert size.item() == pytest.approx(np.exp(-2 * (np.pi * f * sigma / n) ** 2), rel=0.03)


def test_variation_and_similar_surroundings_are_scikit_images():
    x = tiny.images(2)
    tv = [denoise_tv_chambolle(p, weight=0.1, channel_axis=2) for p in rows(x)]
    np.testing.assert_allclose(rows(filters.total_variation(x, 0.1)), tv, atol=1e-6)
    means = [
        denoise_nl_means(p, patch_size=3, patch_distance=5, h=0.05, channel_axis=2) for p in rows(x)
    ]
    np.testing.assert_allclose(
        rows(filters.non_local_means(x, 0.05, 3, 5)), np.clip(means, 0, 1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("method", "twin"),
    [
        (JPEG(), lambda x: twins.jpeg(x, 75)),
        (NonLocalMeans(), lambda x: twins.non_local_means(x, 4 / 255, 3, 5)),
    ],
)
def test_the_slope_of_a_filter_with_a_twin_is_the_twins_at_the_filters_picture(clf, method, twin):
    x = tiny.images(1).requires_grad_()
    out = method(clf, x, run=tiny.run_for(1))
    ours = torch.autograd.grad(out.logits[0, 0], x)[0]
    seen = method.purify(x.detach(), tiny.run_for(1)).requires_grad_()
    value = clf(seen)[0, 0]
    at_file = torch.autograd.grad(value, seen)[0]
    theirs = torch.autograd.grad(twin(x), x, at_file)[0]
    torch.testing.assert_close(out.logits[0, 0], value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ours, at_file, rtol=0.1)


@pytest.mark.parametrize("method", [BitDepth(), TotalVariation()])
def test_the_slope_goes_past_a_filter_that_has_none(clf, method):
    """BPDA: the gradient at the picture is the model's at the filtered one."""
    x = tiny.images(1).requires_grad_()
    out = method(clf, x, run=tiny.run_for(1))
    ours = torch.autograd.grad(out.logits[0, 0], x)[0]
    seen = method.purify(x.detach(), tiny.run_for(1)).requires_grad_()
    theirs = torch.autograd.grad(clf(seen)[0, 0], seen)[0]
    torch.testing.assert_close(out.logits, clf(seen), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [MedianFilter(), LowPass(), ResizePad()])
def test_the_slope_of_a_differentiable_filter_is_its_own(clf, method):
    """Along a direction the change is what the gradient claims; no two pixels are equal."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()
    value = method(clf, leaf, run=tiny.run_for(1)).logits[0, 0]
    gradient = torch.autograd.grad(value, leaf)[0]
    direction = gradient / gradient.norm()
    step = 2e-4
    with torch.no_grad():
        ahead, behind = (
            method(clf, x + s * step * direction, run=tiny.run_for(1)).logits[0, 0] for s in (1, -1)
        )
    assert ((ahead - behind) / (2 * step)).item() == pytest.approx(gradient.norm().item(), rel=0.1)


def test_the_exhibit_shows_what_the_model_sees_and_the_spectra(clf):
    pair = tiny.images(2)
    note = LowPass().exhibit(clf, pair, 0, run=tiny.run_for(1))[0]
    assert [caption for caption, _ in note.value] == [
        "what the model sees", "taken away, ×4", "spectrum of the attack", "what is left of it",
    ]  # fmt: skip
    seen = np.asarray(Image.open(io.BytesIO(b64decode(note.value[0][1]))))
    assert np.array_equal(seen, to_array(filters.blur(pair[1:], 0.9)))


def test_the_spectrum_of_a_checkerboard_is_one_white_corner():
    clean = np.zeros((32, 32, 3), np.uint8)
    board = (np.indices((32, 32)).sum(0) % 2).astype(np.uint8)[..., None].repeat(3, 2)
    picture = np.asarray(heatmap.spectrum(clean, 2 * board))
    bright = picture.sum(2) > picture.sum(2).min()
    assert sorted(map(tuple, np.argwhere(bright))) == [(0, 0), (16, 16)]  # Nyquist, and the mean
