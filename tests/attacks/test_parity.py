"""Bit for bit with the reference implementations, wherever those are right.

The reference net and the counts are those of an independent run of auto-attack (commit a392200);
torchattacks carries the same APGD and Square and is the oracle for every pixel. `Replay` draws the
random numbers in the oracle's order from the oracle's seed; nothing else is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
import torchattacks

from tests import tiny
from vlmdefense_demo.attacks.apgd import APGDT, apgd, random_start
from vlmdefense_demo.attacks.ascent import Ascent, logit_objective
from vlmdefense_demo.attacks.cw import CW, INSIDE
from vlmdefense_demo.attacks.l2 import l2_move
from vlmdefense_demo.attacks.momentum import MIFGSM
from vlmdefense_demo.attacks.square import Square
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.losses import LOSSES, dlr_targeted, margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Replay(Run):
    """A run that draws the whole batch from one generator, as the references do."""

    stream: torch.Generator = field(default_factory=lambda: seeded(0))

    def uniform(self, like, low=0.0, high=1.0):
        if self.path.endswith("squares"):
            queries = [self._square() for _ in range(like.shape[1] - 1)]
            return torch.stack([torch.zeros(5), *queries]).expand(like.shape)
        return torch.rand(like.shape, generator=self.stream) * (high - low) + low

    def normal(self, like):
        return torch.randn(like.shape, generator=self.stream)

    def _square(self):
        parts = [torch.rand(n, generator=self.stream) for n in (1, 1, 3)]
        return torch.cat(parts)


def replay(n=16):
    return Replay(ids=tuple(map(str, range(n))))


@pytest.fixture(scope="module")
def net():
    return tiny.t0()


@pytest.fixture(scope="module")
def x():
    return tiny.t0_images()


@pytest.fixture(scope="module")
def y(net, x):
    return net(x).argmax(1)


def correct(net, images, y):
    return int((net(images).argmax(1) == y).sum())


def oracle(attack, x, y):
    """Its images; the global generator, which it seeds, is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return attack(x, y).detach()


def test_mi_fgsm_is_bit_identical(net, x, y):
    ours = MIFGSM(eps=4 / 255, steps=4)(net, x, Goal(y), run=tiny.run_for(16))
    theirs = torchattacks.MIFGSM(net, eps=4 / 255, alpha=1 / 255, steps=4, decay=1.0)
    assert torch.equal(ours, oracle(theirs, x, y))


def test_mi_fgsm_targeted_is_bit_identical(net, x, y):
    target = (y + 1) % 10
    theirs = torchattacks.MIFGSM(net, eps=4 / 255, alpha=1 / 255, steps=4, decay=0.5)
    theirs.set_mode_targeted_by_function(lambda images, labels: target)
    attack = MIFGSM(eps=4 / 255, steps=4, decay=0.5)
    ours = attack(net, x, Goal(target, targeted=True), run=tiny.run_for(16))
    assert torch.equal(ours, oracle(theirs, x, y))


def test_mi_fgsm_survives_the_zero_gradient_that_breaks_the_oracle(x, y):
    def flat(pixels):
        return torch.zeros(len(pixels), 10) + 0 * pixels.sum()

    ours = MIFGSM(eps=4 / 255)(flat, x, Goal(y), run=tiny.run_for(16))
    assert torch.equal(ours, x)


def test_pgd_l2_is_bit_identical(net, x, y):
    theirs = torchattacks.PGDL2(net, eps=0.5, alpha=0.1, steps=10, random_start=False)
    climb = Ascent(10, keep="last")
    objective = logit_objective(net, Goal(y), LOSSES["ce"])
    ours = climb(objective, l2_move(x, 0.5, 0.1), x, tiny.run_for(16))[0]
    length = (ours - x).flatten(1).norm(dim=1)
    assert (length <= 0.5 + 1e-6).all()
    assert torch.equal(ours, oracle(theirs, x, y))


def run_apgd(net, x, y, start, ball, loss):
    """The loop from a start, delivering as the reference does: failures come back clean."""
    goal = Goal(y)
    images, _ = apgd(
        net, x, start, lambda logits: goal.maximise(logits, LOSSES[loss]), goal, ball, 100,
        tiny.run_for(16), keep="last",
    )  # fmt: skip
    fooled = net(images).argmax(1) != y
    return torch.where(fooled[:, None, None, None], images, x)


def oracle_start(x, ball, stream=None):
    """(radius t) / |t|, where auto-attack and `random_start` compute radius (t / |t|)."""
    stream = stream or seeded(0)
    if ball.norm == "l2":
        noise = torch.randn(x.shape, generator=stream)
        length = (noise**2).sum(dim=(1, 2, 3), keepdim=True).sqrt()
        return (x + ball.radius * noise / (length + 1e-12)).clamp(0, 1)
    noise = 2 * torch.rand(x.shape, generator=stream) - 1
    widest = noise.reshape(len(x), -1).abs().max(dim=1).values
    return (x + ball.radius * noise / widest.reshape(-1, 1, 1, 1)).clamp(0, 1)


# counts of 16 still correct, from auto-attack itself
COUNTS = {
    ("ce", "linf", 1 / 255): 13, ("ce", "linf", 8 / 255): 0,
    ("ce", "l2", 0.1): 13, ("ce", "l2", 0.5): 1,
    ("dlr", "linf", 1 / 255): 9, ("dlr", "linf", 8 / 255): 0,
    ("dlr", "l2", 0.1): 13, ("dlr", "l2", 0.5): 0,
}  # fmt: skip
each_apgd = pytest.mark.parametrize(("loss", "norm", "radius"), COUNTS, ids=str)


@each_apgd
def test_apgd_is_identical(net, x, y, loss, norm, radius):
    """Bit for bit in L-infinity; in L2 torchattacks orders its sums and quotients otherwise.

    How far a last bit's difference grows over 100 steps depends on the CPU: up to 1 % of the radius.
    """
    ball = Ball(norm, radius)
    ours = run_apgd(net, x, y, oracle_start(x, ball), ball, loss)
    name = {"linf": "Linf", "l2": "L2"}[norm]
    theirs = oracle(torchattacks.APGD(net, norm=name, eps=radius, steps=100, loss=loss), x, y)
    assert torch.equal((ours != x).flatten(1).any(1), (theirs != x).flatten(1).any(1))
    if norm == "linf":
        assert torch.equal(ours, theirs)
    else:
        assert (ours - theirs).flatten(1).norm(dim=1).max() < 0.02 * radius


@each_apgd
def test_apgd_leaves_auto_attacks_count(net, x, y, loss, norm, radius):
    ball = Ball(norm, radius)
    start = random_start(x, ball, replay())
    assert (start - oracle_start(x, ball)).abs().max() < 1e-7
    assert correct(net, run_apgd(net, x, y, start, ball, loss), y) == COUNTS[loss, norm, radius]


@pytest.mark.parametrize(("levels", "standing"), [(1, 9), (8, 0)])
def test_apgd_t_is_bit_identical(net, x, y, levels, standing):
    """Every image that falls to a target is that target's, pixel by pixel."""
    ball, stream = Ball("linf", levels / 255), seeded(0)
    ours, left, ranked = x.clone(), torch.arange(len(x)), net(x).argsort(1, descending=True)
    for place in range(1, 10):
        if not len(left):
            break
        goal, target = Goal(y[left]), ranked[left, place]
        found, _ = apgd(
            net, x[left], oracle_start(x[left], ball, stream),
            lambda logits, g=goal, t=target: dlr_targeted(logits, g.labels, None, t),
            goal, ball, 30, tiny.run_for(len(left)), keep="last",
        )  # fmt: skip
        won = net(found).argmax(1) != y[left]
        ours[left[won]] = found[won]
        left = left[~won]
    theirs = oracle(torchattacks.APGDT(net, norm="Linf", eps=levels / 255, steps=30), x, y)
    assert len(left) == standing
    assert torch.equal(ours, theirs)


def test_apgd_t_leaves_auto_attacks_count(net, x, y):
    attack = APGDT(eps=1 / 255, steps=30, restarts=0)
    ours = attack(net, x, Goal(y), run=replay())
    assert correct(net, ours, y) == 9


def test_square_leaves_auto_attacks_count(net, x, y):
    attack = Square(eps=4 / 255, queries=500, rescale=False)
    assert correct(net, attack(net, x, Goal(y), run=replay()), y) == 13


class CountsFromZero(Square):
    """torchattacks numbers its squares from 0, auto-attack from 1."""

    def _share(self, i):
        return super()._share(i - 1)


def test_square_is_bit_identical(net, x, y):
    attack = CountsFromZero(eps=4 / 255, queries=501, rescale=False)
    ours = attack(net, x, Goal(y), run=replay())
    theirs = oracle(
        torchattacks.Square(
            net, norm="Linf", eps=4 / 255, n_queries=500, p_init=0.8, seed=0, loss="margin",
            resc_schedule=False,
        ),
        x,
        y,
    )  # fmt: skip
    fooled = net(ours).argmax(1) != y
    assert fooled.sum() == 3
    assert torch.equal(ours[fooled], theirs[fooled])


def test_cw_takes_the_steps_of_autograd_and_torchs_adam(net, x, y):
    """Its loss written out: every margin on the way is the same to the bit."""
    goal, c, kappa, margins = Goal(y), 3.0, 0.2, []
    w = torch.atanh((2 * x - 1) * INSIDE).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.05)
    for _ in range(15):
        smooth = (2 * w).sigmoid()
        torch.testing.assert_close(smooth, (w.tanh() + 1) / 2)
        rounded = (smooth * 255).round() / 255
        value = goal.maximise(net(smooth + (rounded - smooth).detach()), margin)
        distance = (smooth - x).square().flatten(1).sum(1)
        loss = distance + c * (-value).clamp_min(-kappa)
        w.grad = torch.autograd.grad(loss.sum(), w)[0]
        adam.step()
        margins.append(value.detach())
    run = tiny.run_for(16)
    attack = CW(searches=1, steps=15, learning_rate=0.05, confidence=kappa, trade=c)
    attack(net, x, goal, run=run)
    theirs = torch.stack(margins)
    assert 0.1 < (theirs > kappa).float().mean() < 0.9  # both sides of the hinge
    assert torch.equal(torch.stack(run.trace["margin"]), theirs)
