"""The twins against what they stand for: Pillow's file and scikit-image's means."""

from __future__ import annotations

import pytest
import torch
from skimage import data

from vlmdefense_demo import filters, twins
from vlmdefense_demo.images import to_pixels


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """(1, 3, 224, 224) of a photo with edges, texture and plain parts."""
    from PIL import Image

    return to_pixels(Image.fromarray(data.astronaut()).resize((224, 224)))


def levels(difference: torch.Tensor) -> float:
    return 255 * difference.abs().mean().item()


@pytest.mark.parametrize("quality", [25, 50, 75, 90])
def test_with_hard_rounding_the_twin_is_the_file(photo, quality, monkeypatch):
    monkeypatch.setattr(twins, "soft", torch.round)
    grey = photo.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    for picture, bound in ((photo, 1.1), (grey, 0.7)):
        file = filters.jpeg(picture, quality)
        made = twins.jpeg(picture, quality).clamp(0, 1)
        assert levels(made - file) < bound
        assert levels(picture - file) > 1.5 * bound


def test_a_picture_that_no_blocks_fill_keeps_its_size(photo):
    part = photo[..., :50, :37]
    made = twins.jpeg(part, 75)
    assert made.shape == part.shape
    assert levels(made.clamp(0, 1) - filters.jpeg(part, 75)) < 2


def test_smooth_rounding_is_the_levels_themselves_flat_there_and_steep_between():
    t = torch.tensor([-2.0, 0.0, 3.0, 0.4, -1.45], requires_grad=True)
    made = twins.soft(t)
    slope = torch.autograd.grad(made.sum(), t)[0]
    torch.testing.assert_close(made, torch.tensor([-2.0, 0.0, 3.0, 0.064, -1.0 - 0.45**3]))
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.0, 0.0, 3 * 0.4**2, 3 * 0.45**2]))


@pytest.mark.parametrize(("patch", "distance"), [(3, 5), (5, 3), (7, 4)])
def test_the_twin_of_the_means_is_scikit_images(photo, patch, distance):
    strength = 8 / 255
    means = filters.non_local_means(photo, strength, patch, distance)
    made = twins.non_local_means(photo, strength, patch, distance)
    assert levels(made - means) < 0.1
    assert levels(photo - means) > 1


def test_a_gradient_through_the_twins_moves_what_the_filters_show(photo):
    """Up its own slope: what a filter shows rises more than along the gradient that goes past it."""
    part = photo[..., 64:128, 64:128]
    goal = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    for filtered in (
        lambda x: filters.jpeg(x, 75),
        lambda x: filters.non_local_means(x, 4 / 255, 3, 5),
    ):
        leaf = part.clone().requires_grad_()
        slope = torch.autograd.grad((filtered(leaf) * goal).sum(), leaf)[0]
        with torch.no_grad():
            here = filtered(part)
            along, past = (
                ((filtered((part + 2 / 255 * d.sign()).clamp(0, 1)) - here) * goal).sum()
                for d in (slope, goal)
            )
        assert along > past > 0


def test_a_batch_is_its_pictures_and_the_values_are_the_filters_own(photo):
    two = torch.cat([photo[..., :64, :64], photo[..., 64:128, 64:128]])
    weights = torch.randn(two.shape, generator=torch.Generator().manual_seed(1))
    leaf = two.clone().requires_grad_()
    seen = filters.jpeg(leaf, 75)
    assert torch.equal(seen, filters.jpeg(two, 75))
    slopes = torch.autograd.grad((seen * weights).sum(), leaf)[0]
    for row, weight, slope in zip(two.split(1), weights.split(1), slopes.split(1), strict=True):
        alone = row.clone().requires_grad_()
        expected = torch.autograd.grad((twins.jpeg(alone, 75) * weight).sum(), alone)[0]
        torch.testing.assert_close(slope, expected)
