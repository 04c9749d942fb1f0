"""FGSM and PGD against closed forms, themselves, and torchattacks."""

from __future__ import annotations

import pytest
import torch
import torchattacks

from tests import tiny
from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Ascent, logit_objective
from vlmdefense_demo.attacks.pgd import FGSM, PGD, sign_move
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.losses import LOSSES
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal

EPS = 4 / 255


def ascend(target, x, goal, eps, step, steps, start=None, loss="ce", keep="last"):
    """The bare loop, as other libraries run it."""
    objective = logit_objective(target, goal, LOSSES[loss])
    start = x if start is None else start
    return Ascent(steps, keep)(objective, sign_move(x, eps, step), start, tiny.run_for(len(x)))[0]


def constant(k=4):
    return lambda x: torch.zeros(len(x), k) + 0 * x.sum()


@pytest.fixture
def linear():
    return tiny.Linear(k=2)


@pytest.fixture
def x():
    """Away from 0 and 1, so that the box never binds."""
    return (tiny.images(3, 8) * 127 + 64).round() / 255


@pytest.mark.parametrize("method", [FGSM(eps=EPS), PGD(eps=EPS, steps=5, stop_early=False)])
def test_linear_two_class_attack_is_the_corner_of_the_ball(method, linear, x):
    goal = Goal(linear(x).argmax(1))
    out = method(linear, x, goal, run=tiny.run_for(3))
    away = linear.weight[1 - goal.labels] - linear.weight[goal.labels]
    expected = x + EPS * away.sign().view_as(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_linear_margin_rises_by_eps_times_the_l1_norm(linear, x):
    goal = Goal(linear(x).argmax(1))
    out = FGSM(eps=EPS)(linear, x, goal, run=tiny.run_for(3))
    weight = linear.weight[1] - linear.weight[0]
    rise = (linear(out) - linear(x)).diff(dim=1).squeeze(1).abs()
    torch.testing.assert_close(rise, (EPS * weight.abs().sum()).expand(3), rtol=1e-4, atol=1e-4)


def test_linear_attack_is_clipped_to_the_pixel_box(linear):
    x = torch.tensor([0.0, 1.0]).repeat_interleave(96).view(1, 3, 8, 8)
    goal = Goal(linear(x).argmax(1))
    out = FGSM(eps=EPS)(linear, x, goal, run=tiny.run_for(1))
    away = linear.weight[1 - goal.labels] - linear.weight[goal.labels]
    torch.testing.assert_close(out, (x + EPS * away.sign().view_as(x)).clamp(0, 1))


@pytest.mark.parametrize("method", [FGSM(eps=0.0), PGD(eps=0.0, steps=3, restarts=1)])
def test_empty_ball_returns_the_image_bit_for_bit(method, clf):
    x = tiny.images(2)
    out = method(clf, x, Goal(clf(x).argmax(1)), run=tiny.run_for(2))
    assert torch.equal(out, x)


@pytest.mark.parametrize("method", [FGSM(), PGD(steps=2, restarts=1)])
def test_zero_gradient_moves_nothing_and_is_finite(method):
    x = tiny.images(2)
    out = method(constant(), x, Goal(torch.tensor([0, 1])), run=tiny.run_for(2))
    assert out.isfinite().all()
    assert (out - x).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_every_iterate_lies_on_the_eight_bit_grid(levels):
    net, seen = tiny.t0(), []

    def watched(pixels):
        seen.append(pixels.detach())
        return net(pixels)

    x = tiny.t0_images()
    method = PGD(eps=levels / 255, steps=5, restarts=1, stop_early=False)
    seen.append(method(watched, x, Goal(net(x).argmax(1)), run=tiny.run_for(16)))
    grid = torch.stack(seen) * 255
    assert (grid - grid.round()).abs().max() < 1e-4
    assert (torch.stack(seen) - x).abs().max() * 255 < levels + 1e-4


def test_best_iterate_is_kept_when_the_last_one_is_worse():
    """The margin peaks one level away from x, and steps of two levels run past it."""
    x = torch.full((1, 3, 8, 8), 128 / 255)

    def peak(pixels):
        away = (pixels - x).mean((1, 2, 3)) * 255
        return torch.stack([torch.zeros(len(x)), 1.5 - (away - 1).abs()], 1)

    def attacked(keep):
        goal, start = Goal(torch.tensor([0])), x + 0.5 / 255
        out = ascend(peak, x, goal, 8 / 255, 2 / 255, 1, start, "margin", keep)
        return peak(out)[0, 1].item()

    assert attacked("best") == pytest.approx(1.0, abs=1e-3)
    assert attacked("last") == pytest.approx(0.0, abs=1e-3)


def test_kept_iterate_has_the_largest_margin_seen():
    net, x = tiny.t0(), tiny.t0_images()
    goal = Goal(net(x).argmax(1))
    run = tiny.run_for(16)
    out = PGD(eps=8 / 255, steps=8, stop_early=False)(net, x, goal, run=run)
    seen = torch.stack(run.trace["margin"]).amax(0)
    delivered = goal.maximise(net(out), LOSSES["margin"])
    torch.testing.assert_close(delivered[seen > 0], seen[seen > 0], rtol=1e-4, atol=1e-4)
    assert (seen > 0).any()


def test_unsuccessful_attack_delivers_the_last_iterate(clf):
    x = tiny.images(1)
    target = tiny.Linear(k=2, size=32)
    target.bias[clf.labels.index("cat")] = 1e4
    goal = Goal(torch.tensor([0]))
    out = PGD(eps=EPS, steps=3)(target, x, goal, run=tiny.run_for(1))
    assert torch.equal(out, ascend(target, x, goal, EPS, 3 / 255, 3))
    assert not goal.reached(target(out))


def test_early_stop_ends_one_logit_past_the_boundary(linear, x):
    """On a line the margin grows by the same amount every step: the stop is predictable."""
    goal = Goal(linear(x[:1]).argmax(1))
    weight = (linear.weight[1] - linear.weight[0]).abs().sum()
    margin = (linear(x[:1])[0, 0] - linear(x[:1])[0, 1]).abs()
    needed = int(torch.ceil((margin + PAST_BOUNDARY) / (weight / 255)))
    method = PGD(eps=32 / 255, step_size=1 / 255, steps=200, stop_early=True)
    run = tiny.run_for(1)
    method(linear, x[:1], goal, run=run)
    series = torch.cat(run.trace["margin"])
    assert len(series) == needed + 1
    assert series[-1] >= PAST_BOUNDARY > series[-2]


def test_without_early_stop_all_steps_are_spent(linear, x):
    run = tiny.run_for(3)
    PGD(steps=7, stop_early=False)(linear, x, Goal(linear(x).argmax(1)), run=run)
    assert len(run.trace["margin"]) == 7


def test_early_stop_on_the_reference_net_takes_one_step():
    net, x = tiny.t0(), tiny.t0_images()[:1]
    run = tiny.run_for(1)
    method = PGD(eps=8 / 255, step_size=8 / 255, steps=10, stop_early=True)
    method(lambda pixels: 20 * net(pixels), x, Goal(net(x).argmax(1)), run=run)
    assert len(run.trace["margin"]) == 2  # clean, and after the one step that was enough


def test_restarts_never_make_the_attack_weaker(clf):
    x = tiny.images(8)
    goal = Goal(clf(x).argmax(1))

    def margins(restarts):
        method = PGD(eps=2 / 255, steps=3, restarts=restarts, stop_early=False)
        out = method(clf, x, goal, run=tiny.run_for(8))
        return goal.maximise(clf(out), LOSSES["margin"])

    none, three = margins(0), margins(3)
    assert (three.clamp(min=0) >= none.clamp(min=0) - 1e-4).all()
    assert (three > none + 1e-4).any()


def test_restarts_are_skipped_once_every_image_is_finished(linear, x):
    linear.bias += torch.tensor([50.0, 0.0])
    wrong_already = Goal(torch.tensor([1, 1, 1]))
    run = tiny.run_for(3)
    out = PGD(restarts=5, stop_early=True)(linear, x, wrong_already, run=run)
    assert len(run.trace["margin"]) == 1
    assert torch.equal(out, x)


def test_restarts_begin_at_different_points_of_the_ball():
    starts = []

    def watched(pixels):
        starts.append(pixels.detach())
        return constant(3)(pixels)

    x = tiny.images(1)
    PGD(steps=1, restarts=2)(watched, x, Goal(torch.tensor([0])), run=tiny.run_for(1))
    clean, first, second = (starts[i] for i in (0, 2, 4))  # each start is judged before the next
    assert torch.equal(clean, x)
    assert not torch.equal(first, second)
    assert 0 < (first - x).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize(
    ("loss", "targeted"),
    [("ce", False), ("margin", False), ("dlr", False), ("ce", True), ("margin", True)],
)
def test_attack_leaves_the_whole_group_or_reaches_any_of_it(loss, targeted):
    net, x = tiny.t0(), tiny.t0_images()
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    label = net(x).argmax(1)
    goal = Goal((label + 3) % 10 if targeted else label, targeted, groups)
    out = PGD(eps=16 / 255, steps=20, loss=loss)(net, x, goal, run=tiny.run_for(16))
    inside = groups[net(out).argmax(1)] == groups[goal.labels]
    assert torch.equal(goal.reached(net(out)), inside if targeted else ~inside)
    assert goal.reached(net(out)).sum() >= 14


def test_moving_to_an_ally_is_no_success():
    target = tiny.Linear(k=3)
    target.weight[2] = 0
    target.bias[2] = -1e4  # only labels 0 and 1 can ever win
    x = (tiny.images(1, 8) * 127 + 64).round() / 255
    goal = Goal(target(x).argmax(1), groups=torch.tensor([7, 7, 9]))
    out = PGD(eps=32 / 255)(target, x, goal, run=tiny.run_for(1))
    assert not goal.reached(target(out))


def uniform_start(x, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    return (x + torch.empty_like(x).uniform_(-eps, eps, generator=generator)).clamp(0, 1)


def test_pgd_is_bit_identical_to_torchattacks():
    net, x = tiny.t0(), tiny.t0_images()
    y, eps, step = net(x).argmax(1), 8 / 255, 2 / 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchattacks.PGD(net, eps=eps, alpha=step, steps=10)(x, y)
    ours = ascend(net, x, Goal(y), eps, step, 10, uniform_start(x, eps, 0))
    assert torch.equal(ours, theirs)
    assert (net(ours).argmax(1) == y).sum() == 0


def test_targeted_pgd_is_bit_identical_to_torchattacks():
    net, x = tiny.t0(), tiny.t0_images()
    y, eps, step = net(x).argmax(1), 8 / 255, 2 / 255
    oracle = torchattacks.PGD(net, eps=eps, alpha=step, steps=5, random_start=False)
    target = (y + 1) % 10
    oracle.set_mode_targeted_by_function(lambda images, labels: target)
    ours = ascend(net, x, Goal(target, targeted=True), eps, step, 5)
    assert torch.equal(ours, oracle(x, y))


def test_fgsm_is_bit_identical_to_torchattacks():
    net, x = tiny.t0(), tiny.t0_images()
    y = net(x).argmax(1)
    ours = FGSM(eps=EPS)(net, x, Goal(y), run=tiny.run_for(16))
    theirs = torchattacks.FGSM(net, eps=EPS)(x, y)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("levels", "correct"), [(1, 13), (2, 7), (4, 0)])
def test_lattice_pgd_leaves_the_published_count_correct(levels, correct):
    net, x = tiny.t0(), tiny.t0_images()
    y = net(x).argmax(1)
    method = PGD(eps=levels / 255, step_size=1 / 255, steps=10, stop_early=False)
    out = method(net, x, Goal(y), run=tiny.run_for(16))
    assert (net(out).argmax(1) == y).sum() == correct


def test_a_target_with_the_dlr_loss_is_refused(clf):
    x = torch.full((1, 3, 32, 32), 0.5)
    goal = Goal(torch.tensor([1]), targeted=True)
    with pytest.raises(InvalidParameter, match="untargeted"):
        PGD(loss="dlr")(clf, x, goal, run=Run())
