"""The timing script: every line it promises, on a tiny model."""

from __future__ import annotations

import re

from vlmdefense_demo.speed import ATTACKS, measure
from vlmdefense_demo.survey import methods


def test_every_attack_and_defence_has_its_line(backbone):
    lines = list(measure(backbone, repeats=1))
    titles = [methods("attack")[id].title for id in ATTACKS]
    titles += [row.title for row in methods("defense").values()]
    assert [line[:34].strip() for line in lines[:-1]] == titles
    assert all(re.search(r"ratio \d+\.\d\d$", line) for line in lines[:-1])
    assert re.match(r"first card \d+\.\d\d s, default comparison \d+\.\d\d s, on cpu", lines[-1])


def test_a_defence_that_is_not_made_for_the_model_says_so_in_its_line(backbones):
    lines = list(measure(backbones["resnet"], repeats=1))
    said = [line for line in lines[:-1] if not re.search(r"ratio \d+\.\d\d$", line)]
    assert [line[:34].strip() for line in said] == ["FAP"]
    assert "ModifiedResNet" in said[0]
