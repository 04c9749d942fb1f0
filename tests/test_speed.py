"""The timing script: every line it promises, on a tiny model."""

from __future__ import annotations

import re

import torch

from vlmdefense_demo.__main__ import main
from vlmdefense_demo.speed import ATTACKS, Ratio, Share, Timed, measure
from vlmdefense_demo.survey import methods, usable

SHARE = re.compile(r"outside the tower +\d+\.\d%, 8 at once +\d+\.\d%$")


def test_every_attack_and_defence_has_its_line(backbone):
    lines = list(measure(backbone, repeats=1))
    titles = [methods("attack")[id].title for id in ATTACKS]
    titles += [row.title for row in methods("defense").values()]
    assert [line[:34].strip() for line in lines[:-2]] == titles
    assert all(SHARE.search(line) for line in lines[: len(ATTACKS)])
    assert all(re.search(r"ratio \d+\.\d\d$", line) for line in lines[len(ATTACKS) : -2])
    assert re.match(
        r"R-TPT, 64 views: as published 257 f · text 50 f \+ 10 b, here 64 f", lines[-2]
    )
    assert re.match(r"first card \d+\.\d\d s, default comparison \d+\.\d\d s, on cpu", lines[-1])


def test_a_defence_the_model_has_no_weights_for_has_no_line(backbones):
    backbone = backbones["resnet"]
    lines = list(measure(backbone, repeats=1))
    assert "fap" not in usable(backbone.name)
    assert not any(line.startswith("FAP") for line in lines)


def test_the_attacks_can_be_timed_alone(model_dirs, capsys):
    model = f"local-dir:{model_dirs['resnet']}"
    assert main(["speed", "--only", "attacks", "--repeats", "1", "--model", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ATTACKS)
    assert all(SHARE.search(line) for line in lines)


def test_a_ratio_holds_when_the_machine_slows_down_between_the_pairs():
    """The medians' ratio would be 1.3."""
    assert str(Ratio("it", ((1.1, 1.0), (3.3, 3.0), (1.3, 1.0)))).endswith("ratio 1.10")


def test_the_share_is_the_median_of_the_runs_own():
    share = str(Share("it", ((2.0, 1.9), (4.0, 3.0), (1.0, 0.9)), ((1.0, 0.5),)))
    assert share.endswith("outside the tower 10.0%, 8 at once 50.0%")


def test_the_clocks_see_what_is_inside_the_tower_and_only_that(backbone, monkeypatch):
    """A clock that ticks once a look: a forward and a backward take one tick each."""
    size = backbone.preprocess.size
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ticks = iter(range(100))
    monkeypatch.setattr("vlmdefense_demo.speed._now", lambda: float(next(ticks)))
    timed = Timed(backbone)
    assert torch.equal(timed.encode_image(x), backbone.encode_image(x))
    assert timed.inside == 1
    leaf = x.clone().requires_grad_()
    value = timed.encode_image(leaf).square().sum()
    assert timed.inside == 2
    gradient = torch.autograd.grad(value, leaf)[0]
    assert timed.inside == 3
    again = torch.autograd.grad(backbone.encode_image(leaf).square().sum(), leaf)[0]
    assert torch.equal(gradient, again)
