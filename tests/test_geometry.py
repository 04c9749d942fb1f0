"""The ball, the box and the 8-bit grid."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.filters import blur
from vlmdefense_demo.geometry import (
    Ball,
    from_levels,
    in_range,
    lattice_step_size,
    project_l2,
    project_linf,
    sign_step,
    to_levels,
)

RADII = (0, 1, 2, 4, 8)


@pytest.fixture
def x0():
    return tiny.images(2, 16)


def wild(seed=0):
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", RADII)
def test_projection_lands_in_the_ball_and_the_box(x0, levels):
    out = project_linf(wild(), x0, levels / 255)
    assert (out - x0).abs().max() <= levels / 255 + 1e-6
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("levels", RADII)
def test_projection_is_idempotent_and_the_nearest_point(x0, levels):
    eps, x = levels / 255, wild()
    out = project_linf(x, x0, eps)
    torch.testing.assert_close(project_linf(out, x0, eps), out, rtol=0, atol=1e-7)
    nearest = torch.minimum(torch.maximum(x, (x0 - eps).clamp(min=0)), (x0 + eps).clamp(max=1))
    torch.testing.assert_close(out, nearest, rtol=0, atol=1e-6)


def test_projection_does_not_expand_distances(x0):
    one, two = wild(0), wild(1)
    moved = (project_linf(one, x0, 0.1) - project_linf(two, x0, 0.1)).abs()
    assert (moved <= (one - two).abs() + 1e-6).all()


def test_sign_step_has_the_length_of_its_step_and_ignores_zero():
    gradient = torch.tensor([[-1e-30, 0.0, 5.0]])
    out = sign_step(torch.zeros(1, 3), gradient, 2 / 255)
    assert torch.equal(out, torch.tensor([[-2 / 255, 0.0, 2 / 255]]))


@pytest.mark.parametrize(
    ("eps", "steps", "levels"), [(4, 10, 1), (8, 10, 2), (16, 10, 4), (4, 1, 4), (1, 50, 1)]
)
def test_step_sizes_are_whole_levels_between_one_and_the_radius(eps, steps, levels):
    assert lattice_step_size(eps / 255, steps) * 255 == pytest.approx(levels)


def test_step_size_never_exceeds_a_radius_below_one_level():
    assert lattice_step_size(0.5 / 255, 10) == 0.5 / 255
    assert lattice_step_size(0.0, 10) == 0


def test_all_256_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_levels(from_levels(levels)), levels)
    assert from_levels(levels).dtype == torch.float32


def test_levels_are_rounded_not_truncated_and_clipped():
    x = torch.tensor([-1.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 2.0]).view(1, 1, 1, 5)
    assert to_levels(x).flatten().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("levels", RADII[1:])
def test_quantising_never_leaves_the_ball(x0, levels):
    x = project_linf(wild(), x0, levels / 255)
    out = Ball("linf", levels / 255).quantise(x, x0)
    assert Ball("linf", levels / 255).contains(out, x0).all()
    assert ((out - x0) * 255).abs().max().round() <= levels
    assert torch.equal(from_levels(to_levels(out)), out)


@pytest.mark.parametrize("levels", RADII[1:])
def test_quantising_keeps_whole_levels(x0, levels):
    noise = torch.randint(-levels, levels + 1, x0.shape, generator=torch.Generator().manual_seed(3))
    x = (x0 + noise / 255).clamp(0, 1)
    assert torch.equal(to_levels(Ball("linf", levels / 255).quantise(x, x0)), to_levels(x))


def test_quantising_rounds_to_the_nearest_level_inside_the_ball():
    x0 = torch.full((1, 1, 1, 4), 100 / 255)
    delta = torch.tensor([0.9, -0.4, 1.6, -2.4]).view(1, 1, 1, 4) / 255
    levels = to_levels(Ball("linf", 2 / 255).quantise(x0 + delta, x0)).flatten().tolist()
    assert levels == [101, 100, 102, 98]


def test_a_fraction_of_a_level_in_the_radius_is_refused():
    """An attack would climb where the file cannot follow."""
    with pytest.raises(InvalidParameter, match=r"2\.9/255 lies between.*Choose 2/255 or 3/255"):
        Ball("linf", 2.9 / 255)
    for levels in range(1, 129):
        assert Ball("linf", float(torch.tensor(levels / 255))).levels == levels
    assert Ball("l2", 2.9 / 255).radius == 2.9 / 255


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0, 6.0])
def test_l2_quantising_never_leaves_the_ball(x0, radius):
    x = project_l2(wild(), x0, radius)
    ball = Ball("l2", radius)
    out = ball.quantise(x, x0)
    assert (out - x0).double().flatten(1).norm(dim=1).max() <= radius * (1 + 1e-6)
    assert ball.contains(out, x0).all()
    assert torch.equal(from_levels(to_levels(out)), out)


def test_l2_quantising_keeps_what_fits(x0):
    x = (x0 + 1 / 255 * (x0 < 0.5)).clamp(0, 1)
    assert torch.equal(to_levels(Ball("l2", 100.0).quantise(x, x0)), to_levels(x))


def test_l2_projection_is_the_nearest_point():
    x0 = torch.full((2, 3, 4, 4), 0.5)
    inside, outside = x0[:1] + 0.01, x0[1:] + 0.1
    out = project_l2(torch.cat([inside, outside]), x0, 0.2)
    assert torch.equal(out[:1], inside)
    torch.testing.assert_close((out[1] - 0.5).norm(), torch.tensor(0.2))


@pytest.mark.parametrize("eps", [0.0, 0.4 / 255, 0.99 / 255])
def test_a_radius_below_one_level_is_refused(eps):
    with pytest.raises(InvalidParameter, match="rounds to 0 grey levels"):
        Ball("linf", eps)


def test_a_gradient_reaches_black_and_white_pixels():
    """clamp's own slope is zero on its bounds."""
    x = torch.tensor([0.0, 1.0, 0.5, -0.1, 1.1], requires_grad=True)
    out = in_range(x)
    assert torch.equal(out, x.detach().clamp(0, 1))
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.ones(5))


def test_views_and_filters_pass_gradients_to_white():
    white = torch.ones(1, 3, 32, 32, requires_grad=True)
    for out in (random_views(white, 3, tiny.run_for(1)), blur(white, 1.0)):
        assert (torch.autograd.grad(out.sum(), white)[0] > 0).all()
