"""CLIPure-Cos in closed form: where the steps lead, and what is left of a gradient."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses.training_free.clipure import CLIPureCos
from vlmdefense_demo.models.classifier import unit


def turned(clf, x, **settings):
    return CLIPureCos(**settings)(clf, x, run=tiny.run_for(len(x)))


def plain(clf, x):
    with torch.no_grad():
        return clf.encode_image(x)


def slope(function, x):
    leaf = x.clone().requires_grad_()
    logits = function(leaf)
    return torch.autograd.grad(logits[0, 0] - logits[0, 1], leaf)[0]


def test_the_blank_is_the_unit_mean_of_eighty_prompts_and_encoded_once(clf):
    with clf.meter.stage() as first:
        blank = clf.blank_text()
    with clf.meter.stage() as second:
        again = clf.blank_text()
    assert (first.text_forward, second.text_forward) == (80, 0)
    assert again is blank
    assert blank.norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_a_step_turns_by_the_arc_tangent_of_its_length(clf, steps, size):
    """theta <- theta - sign(theta) atan(s), in the plane of the feature and the blank."""
    x = tiny.images(2)
    u, blank = plain(clf, x), clf.blank_text()
    z = turned(clf, x, steps=steps, step_size=size).features
    for row, start in zip(z, u, strict=True):
        theta = math.acos(float(start @ blank))
        for _ in range(steps):
            theta -= math.copysign(math.atan(size), theta)
        across = F.normalize(start - (start @ blank) * blank, dim=0)
        expected = math.cos(theta) * blank + math.sin(theta) * across
        torch.testing.assert_close(row, expected, rtol=0, atol=2e-4 if size < 30 else 1e-2)


def test_after_an_even_number_of_published_steps_nothing_has_happened(clf):
    """The blank and the picture are closer than a right angle here, as CLIP's are."""
    x = tiny.images(4)
    u, blank = plain(clf, x), clf.blank_text()
    reach = math.atan(30.0)
    near = [i for i in range(4) if 0 < math.acos(float(u[i] @ blank)) < reach]
    assert near
    z = turned(clf, x).features
    assert (z[near] * u[near]).sum(1).min() > 1 - 1e-5
    torch.testing.assert_close(turned(clf, x).logits[near], clf(x)[near], rtol=1e-3, atol=2e-2)


def test_after_an_odd_number_the_pictures_own_part_has_changed_sign(clf):
    x = tiny.images(4)
    u, blank = plain(clf, x), clf.blank_text()
    z = turned(clf, x, steps=9).features
    for before, after in zip(u, z, strict=True):
        if 0 < math.acos(float(before @ blank)) < math.atan(30.0):
            own = before - (before @ blank) * blank
            assert float((after - (after @ blank) * blank) @ own) < 0


def test_any_number_of_steps_adds_the_same_prior_to_every_class(clf):
    """<z, t_c> = lambda_1 <u, t_c> + lambda_2 <t, t_c>: two numbers explain all classes."""
    x = tiny.images(1)
    z, u = turned(clf, x, steps=3, step_size=0.2).features, plain(clf, x)
    basis = torch.stack([u[0], clf.blank_text()], 1)
    solution = torch.linalg.lstsq(basis, z[0][:, None]).solution
    torch.testing.assert_close(basis @ solution, z[0][:, None], rtol=0, atol=1e-5)


def test_small_steps_raise_the_cosine_and_large_ones_zigzag(clf):
    x = tiny.images(1)
    small = turned(clf, x, steps=5, step_size=0.05).notes[0][0].value
    large = turned(clf, x, steps=4, step_size=30.0).notes[0][0].value
    assert all(later > earlier for earlier, later in pairwise(small))
    assert (large[1] > large[0]) != (large[2] > large[1])


def test_a_pictures_answer_does_not_depend_on_its_neighbours_as_the_published_steps_do(clf):
    """The authors divide by the norm over the whole batch."""
    x = tiny.images(3)
    u, blank = plain(clf, x), clf.blank_text()
    together = turned(clf, x, steps=3, step_size=2.0).features
    alone = torch.cat([turned(clf, row[None], steps=3, step_size=2.0).features for row in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    z = u
    for _ in range(3):
        along = blank - (z @ blank).unsqueeze(1) * z
        z = unit(z + 2.0 * along / along.norm())
    assert (z - together).abs().max() > 1e-2


def test_no_gradient_arrives_as_coded_and_all_of_it_through_the_steps(clf):
    x = tiny.images(4)
    cosines = plain(clf, x) @ clf.blank_text()
    x = x[cosines.argmax()][None]  # nearer than a right angle, as CLIP's pictures are
    assert 0 < math.acos(float(cosines.max())) < math.atan(30.0)
    base = slope(clf, x)
    coded, through, past = (
        slope(lambda p, m=mode: turned(clf, p, gradient=m).logits, x)
        for mode in ("as coded", "through the steps", "past the steps")
    )
    assert coded.norm() < 1e-5 * base.norm()
    torch.testing.assert_close(past, base, rtol=1e-2, atol=1e-3)
    assert F.cosine_similarity(through.flatten(), base.flatten(), 0) > 0.98
    assert (through.norm() / base.norm()).item() == pytest.approx(1, abs=0.1)


def test_the_attacker_who_knows_it_gets_a_gradient(clf):
    x = tiny.images(1)
    target = CLIPureCos().surrogate(clf, tiny.run_for(1))
    torch.testing.assert_close(target(x), turned(clf, x).logits)
    torch.testing.assert_close(slope(target, x), slope(clf, x), rtol=1e-2, atol=1e-3)


def test_the_exhibit_names_all_three_gradients(clf):
    note = CLIPureCos().exhibit(clf, tiny.images(2), 0, run=tiny.run_for(1))[0]
    shares = [float(part.rsplit(" ", 1)[1]) for part in note.value.split(" · ")]
    assert shares[0] < 1e-4
    assert shares[2] == pytest.approx(1, abs=0.1)
