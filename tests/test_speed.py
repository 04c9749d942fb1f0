"""The timing script: every line it promises, on a tiny model."""

from __future__ import annotations

import re

from vlmdefense_demo.speed import ATTACKS, Ratio, measure
from vlmdefense_demo.survey import methods, usable


def test_every_attack_and_defence_has_its_line(backbone):
    lines = list(measure(backbone, repeats=1))
    titles = [methods("attack")[id].title for id in ATTACKS]
    titles += [row.title for row in methods("defense").values()]
    assert [line[:34].strip() for line in lines[:-1]] == titles
    assert all(re.search(r"ratio \d+\.\d\d$", line) for line in lines[:-1])
    assert re.match(r"first card \d+\.\d\d s, default comparison \d+\.\d\d s, on cpu", lines[-1])


def test_a_defence_the_model_has_no_weights_for_has_no_line(backbones):
    backbone = backbones["resnet"]
    lines = list(measure(backbone, repeats=1))
    assert "fap" not in usable(backbone.name)
    assert not any(line.startswith("FAP") for line in lines)
    assert all(re.search(r"ratio \d+\.\d\d$", line) for line in lines[:-1])


def test_a_ratio_holds_when_the_machine_slows_down_between_the_pairs():
    """The medians' ratio would be 1.3."""
    assert str(Ratio("it", ((1.1, 1.0), (3.3, 3.0), (1.3, 1.0)))).endswith("ratio 1.10")
