"""Random crops: where they lie, what they show, and what they cost an attacker's gradient."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import resized_crop

from tests import tiny
from vlmdefense_demo.defenses.views import TRIES, _boxes, random_views

SCALE = (0.08, 1.0)


def views(x, n=8, seed=0, ids=None, **kwargs):
    run = tiny.run_for(len(x), seed)
    return random_views(x, n, run, **kwargs).unflatten(0, (len(x), n))


def coordinates(size=32):
    """An image whose red is the column and whose green is the row."""
    ramp = (torch.arange(size) + 0.5) / size
    red, green = ramp.expand(size, size), ramp[:, None].expand(size, size)
    return torch.stack([red, green, torch.zeros(size, size)])[None]


def boxes(n=2000, height=32, width=32, scale=SCALE):
    draws = torch.rand(n, TRIES, 4, generator=torch.Generator().manual_seed(0))
    return _boxes(draws, scale, height, width)


@pytest.mark.parametrize(("n", "size"), [(1, 32), (2, 50), (64, 32), (2, 224)])
def test_first_view_is_the_image_bit_for_bit(n, size):
    x = tiny.images(3, size)
    out = views(x, n)
    assert out.shape == (3, n, 3, size, size)
    assert torch.equal(out[:, 0], x)


def test_views_are_really_different_and_stay_pixels():
    x = tiny.images(2)
    out = views(x, 16)
    assert out.min() >= 0
    assert out.max() <= 1
    flat = out[0].flatten(1)
    assert (torch.cdist(flat, flat) + 100 * torch.eye(16)).min() > 0.1


def test_a_constant_image_has_constant_views():
    x = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(views(x), x[:, None].expand(1, 8, 3, 32, 32))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 60), (224, 224)])
def test_boxes_lie_inside_the_image(height, width):
    wide, high, x, y = boxes(height=height, width=width).unbind(-1)
    for half, centre in ((wide, x), (high, y)):
        assert (half > 0).all()
        assert (centre - half >= -1 - 1e-6).all()
        assert (centre + half <= 1 + 1e-6).all()


@pytest.mark.parametrize("scale", [SCALE, (0.5, 0.5), (0.9, 1.0)])
def test_areas_and_ratios_are_in_range_up_to_a_pixel(scale):
    size = 224
    wide, high, _, _ = boxes(height=size, width=size, scale=scale).unbind(-1)
    assert (wide * high >= scale[0] - 2 / size).all()
    assert (wide * high <= scale[1] + 2 / size).all()
    whole = (wide == 1) & (high == 1)
    ratio = (wide / high)[~whole]
    assert ratio.min() >= 3 / 4 - 0.02
    assert ratio.max() <= 4 / 3 + 0.02
    assert ratio.min() < 0.95 < 1.05 < ratio.max()


def test_boxes_without_a_fit_are_the_whole_image():
    draws = torch.ones(1, TRIES, 4) * torch.tensor([1.0, 1.0, 0.5, 0.5])
    assert _boxes(draws, (4.0, 4.0), 32, 32).tolist() == [[1, 1, 0, 0]]


def test_about_half_of_the_views_are_mirrored():
    columns = views(coordinates(), 64)[0, 1:, 0]
    falling = (columns[:, 16, -1] < columns[:, 16, 0]).sum()
    assert 20 <= falling <= 43
    rows = views(coordinates(), 64)[0, 1:, 1]
    assert (rows[:, -1, 16] > rows[:, 0, 16]).all()


def test_a_view_is_torchvisions_resized_crop():
    """Away from the crop's border, where torchvision repeats the edge and we do not."""
    x = tiny.images(1, 64)
    columns, rows = views(coordinates(64), 32)[0, 5, :2]
    out = views(x, 32)[0, 5]
    spread = (columns[32, -2] - columns[32, 1]) * 64 / 61  # per output pixel, times 64
    high = (rows[-2, 32] - rows[1, 32]) * 64 / 61
    width, height = (round(float(s.abs()) * 64) for s in (spread, high))
    left = round(float(columns[32].mean()) * 64 - width / 2)
    top = round(float(rows[:, 32].mean()) * 64 - height / 2)
    crop = resized_crop(x, top, left, height, width, [64, 64], antialias=False)[0]
    expected = crop.flip(-1) if spread < 0 else crop
    inner = slice(6, -6)
    torch.testing.assert_close(out[:, inner, inner], expected[:, inner, inner], rtol=0, atol=1e-3)


def test_views_depend_on_seed_and_id_not_on_the_batch():
    x = tiny.images(3)
    out = views(x)
    assert torch.equal(views(x), out)
    assert not torch.equal(views(x, seed=1)[:, 1:], out[:, 1:])
    alone = random_views(x[1:2], 8, tiny.run_for(3).select([1]))
    torch.testing.assert_close(alone, out[1], rtol=0, atol=1e-6)


def test_every_view_has_a_gradient_to_the_pixels():
    x = tiny.images(1).requires_grad_()
    out = views(x)[0]
    for view in out:
        gradient = torch.autograd.grad(view.sum(), x, retain_graph=True)[0]
        assert gradient.abs().sum() > 1
