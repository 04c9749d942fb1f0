"""The timing script: every line it promises, on a tiny model."""

from __future__ import annotations

import re

import torch

from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark.remember import Remembering
from vlmdefense_demo.benchmark.throughput import listening, throughput
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.speed import attacks, defences, towers
from vlmdefense_demo.speed.clock import LABELS, Clock, TimedModel, TimedTower
from vlmdefense_demo.speed.pairs import Ratio
from vlmdefense_demo.speed.shares import ATTACKS, Share, Spent
from vlmdefense_demo.survey import methods, usable

SHARE = re.compile(r"outside the tower \d+\.\d%, the model \d+\.\d%; 8 at once \d+\.\d%, \d+\.\d%$")


def test_a_tower_is_timed_against_the_undefended_model(backbone):
    found = list(towers(backbone, repeats=1))
    assert found
    assert all("bare passes" in line and "ratio" in line for line in found)
    assert any(line.startswith("FARE") for line in found)


def test_every_attack_and_defence_has_its_line(backbone):
    lines = [*attacks(backbone, 1), *defences(backbone, 1)]
    titles = [methods("attack")[id].title for id in ATTACKS]
    titles += [row.title for row in methods("defense").values()]
    assert [re.split(r"  +", line)[0] for line in lines[:-2]] == titles
    assert all(SHARE.search(line) for line in lines[: len(ATTACKS)])
    assert all(re.search(r"ratio \d+\.\d\d$", line) for line in lines[len(ATTACKS) : -2])
    assert re.match(
        r"R-TPT, 64 views: as published 257 f · text 50 f \+ 10 b, here 64 f", lines[-2]
    )
    assert re.match(r"first card \d+\.\d\d s, default comparison \d+\.\d\d s, on cpu", lines[-1])


def test_a_defence_the_model_has_no_weights_for_has_no_line(backbones):
    backbone = backbones["resnet"]
    lines = list(defences(backbone, 1))
    assert "fap" not in usable(backbone.name)
    assert not any(line.startswith("FAP") for line in lines)


def test_the_attacks_can_be_timed_alone(model_dirs, capsys):
    model = f"local-dir:{model_dirs['resnet']}"
    assert main(["speed", "--only", "attacks", "--repeats", "1", "--model", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ATTACKS)
    assert all(SHARE.search(line) for line in lines)


def test_the_benchmark_is_timed_against_the_passes_it_makes(backbone):
    [line] = throughput(backbone, repeats=2)
    # Eight photos, three radii: ten steps each, judged clean and after each; what is seen twice is not run twice.
    assert re.match(r"benchmark, clean and transfer: \d+ ms for 272 f \+ 240 b, bare passes", line)
    ratio = float(re.search(r"throughput (\d+\.\d\d) of the bare model's$", line)[1])
    assert 0 < ratio < 3


def test_a_call_is_written_down_with_its_size_and_whether_it_goes_back(backbone):
    size = backbone.preprocess.size
    x = torch.rand(3, 3, size, size, requires_grad=True)
    with listening(backbone) as calls:
        backbone.encode_image(x)
        with torch.no_grad():
            Remembering(backbone).encode_image(x[:2])
    backbone.encode_image(x)
    assert calls == [(3, True), (2, False)]


def test_a_ratio_holds_when_the_machine_slows_down_between_the_pairs():
    """The medians' ratio would be 1.3."""
    assert str(Ratio("it", ((1.1, 1.0), (3.3, 3.0), (1.3, 1.0)))).endswith("ratio 1.10")


def test_the_share_is_the_median_of_the_runs_own():
    runs = (Spent(2.0, 1.9, 2.0), Spent(4.0, 3.0, 3.9), Spent(1.0, 0.9, 0.9))
    share = str(Share("it", runs, (Spent(1.0, 0.5, 0.75),)))
    assert share.endswith("outside the tower 10.0%, the model 2.5%; 8 at once 50.0%, 25.0%")


def test_the_clocks_see_what_is_inside_their_doors_and_only_that(backbone, monkeypatch):
    """A clock that ticks once a look: what has no door inside takes one tick."""
    size = backbone.preprocess.size
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ticks = iter(range(100))
    monkeypatch.setattr("vlmdefense_demo.speed.clock.now", lambda: float(next(ticks)))
    tower, model = Clock(), Clock()
    clf, plain = (
        TimedModel(TimedTower(backbone, tower), model),
        ZeroShotClassifier(backbone, LABELS),
    )
    assert torch.equal(clf(x), plain(x))
    assert (tower.seconds, model.seconds) == (
        1,
        3 + 1,
    )  # two of the three are the tower's own doors
    leaf = x.clone().requires_grad_()
    value = clf(leaf).square().sum()
    assert (tower.seconds, model.seconds) == (2, 8)
    gradient = torch.autograd.grad(value, leaf)[0]
    assert (tower.seconds, model.seconds) == (3, 12)
    again = torch.autograd.grad(plain(leaf).square().sum(), leaf)[0]
    assert torch.equal(gradient, again)
