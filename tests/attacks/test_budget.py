"""What the attacks spend, counted in forwards and backwards through the tower."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.attacks.apgd import APGDCE, APGDDLR, APGDT
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.attacks.square import Square
from vlmdefense_demo.engine import compare
from vlmdefense_demo.request import Request
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Goal


class Counted:
    """A function that counts its forwards, and backwards by images."""

    def __init__(self, target):
        self.target, self.forwards, self.backwards = target, 0, 0

    def __call__(self, x):
        out = self.target(x)
        self.forwards += len(x)
        if out.requires_grad:
            out.register_hook(self._back)
        return out

    def _back(self, gradient):
        self.backwards += len(gradient)


@pytest.fixture
def one():
    net, x = tiny.t0(), tiny.t0_images()[:1]
    return Counted(net), x, Goal(net(x).argmax(1))


def test_pgd_10_costs_ten_of_each_and_one_verification(backbone):
    params = {"steps": 10, "stop_early": False, "restarts": 0, "eps": 1}
    request = Request(tiny.images(), list(tiny.LABELS), attack_params=params)
    cost = list(compare(request, backbone))[-1].attack.cost
    assert (cost.image_forward, cost.image_backward) == (10 + 1, 10)


@pytest.mark.parametrize("attack", [APGDCE, APGDDLR])
def test_apgd_100_costs_101_forwards_and_100_backwards(attack, one):
    net, x, goal = one
    attack(eps=1 / 255, steps=100, stop_early=False)(net, x, goal, run=tiny.run_for(1))
    assert (net.forwards, net.backwards) == (101, 100)


def test_apgd_t_costs_as_much_for_each_of_nine_targets_and_one_to_rank_them(one):
    net, x, goal = one
    APGDT(eps=1 / 255, steps=30, stop_early=False)(net, x, goal, run=tiny.run_for(1))
    assert (net.forwards, net.backwards) == (9 * 31 + 1, 9 * 30)


@pytest.mark.parametrize("attack", [APGDCE, APGDDLR])
def test_an_undefended_image_ends_apgd_within_five_steps(attack):
    net, x = tiny.t0(), tiny.t0_images()
    y = net(x).argmax(1)
    for i, row in enumerate(x):
        counted = Counted(lambda pixels: 5 * net(pixels))
        goal = Goal(y[i : i + 1])
        attack(eps=8 / 255, steps=100, stop_early=True)(
            counted, row[None], goal, run=tiny.run_for(1)
        )
        assert counted.backwards <= 5, f"image {i}"


def test_apgd_t_stops_at_the_first_target_that_is_reached(one):
    net, x, goal = one
    net.target = lambda pixels, f=net.target: 5 * f(pixels)
    APGDT(eps=8 / 255, steps=30, stop_early=True)(net, x, goal, run=tiny.run_for(1))
    assert net.backwards <= 10


def test_pgd_stops_as_soon_as_every_image_of_the_batch_is_fooled():
    net, x = tiny.t0(), tiny.t0_images()
    counted = Counted(lambda pixels: 5 * net(pixels))
    goal = Goal(net(x).argmax(1))
    run = tiny.run_for(16)
    PGD(eps=8 / 255, steps=100, stop_early=True)(counted, x, goal, run=run)
    assert counted.backwards < 16 * 10
    finished = torch.stack(run.trace["margin"]).amax(0) >= 1
    assert finished.all()


def test_square_asks_only_about_images_that_stand():
    net, x = tiny.t0(), tiny.t0_images()
    goal = Goal(net(x).argmax(1))
    counted = Counted(net)
    run = tiny.run_for(16)
    Square(eps=8 / 255, queries=60)(counted, x, goal, run=run)
    margins = torch.stack(run.trace["margin"])
    standing = (margins[:-1] < 0).sum()  # after every query, who is asked again
    assert counted.forwards == 16 + int(standing)
    assert counted.backwards == 0


@pytest.mark.parametrize(
    ("id", "values", "steps"),
    [
        ("pgd", {"steps": 7, "restarts": 2}, 21),
        ("fgsm", {}, 1),
        ("square", {"queries": 90}, 90),
        ("cw", {"searches": 3, "steps": 20}, 60),
        ("apgd_t", {"steps": 10}, 30),
    ],
)
def test_how_long_it_may_take_is_known_beforehand(id, values, steps, clf):
    """A GPU is asked for as long: every gradient step it takes is among them."""
    attack = entry(id, "attack").build(values)
    assert attack.expected_steps(len(clf.labels)) == steps
    with clf.meter.stage() as cost:
        attack(clf, tiny.images(1), Goal(clf(tiny.images(1)).argmax(1)), run=tiny.run_for(1))
    assert cost.image_backward <= steps
