"""The mirror table against counting picture by picture."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests import tiny
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark.plan import Plan, settings
from vlmdefense_demo.benchmark.scene import Scene
from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.defenses.training_free.clipure import CLIPureCos
from vlmdefense_demo.mirror import COLUMNS, table


@pytest.fixture
def asked(tree):
    return tasks(read_source(tree).pictures, 10, batch=5)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("radius", [0, 8])
def test_every_share_is_that_of_the_pictures_counted_one_by_one(backbones, asked, radius):
    head, _, *rows = table(backbones["vit"], asked, [8])
    assert cells(head) == list(COLUMNS)
    found = dict(zip(COLUMNS, cells(rows[radius > 0]), strict=True))
    counts = dict.fromkeys(COLUMNS[1:7], 0)
    n = 0
    for task in asked:
        scene = Scene(Plan(settings("undefended"), eps=(8.0,)), backbones["vit"], task, 0)
        scene.prepare()
        images = scene.attacked(8.0)[0] if radius else scene.x
        for x, right in zip(images, scene.goal.labels.tolist(), strict=True):
            with torch.no_grad():
                u, logits = scene.clf.encode_image(x[None])[0], scene.clf(x[None])[0].tolist()
                result = CLIPureCos()(scene.clf, x[None], run=tiny.run_for(1))
            answer = result.logits[0].tolist()
            own, after = logits.index(max(logits)), answer.index(max(answer))
            mirrored = float(u @ result.features[0]) < 0
            facts = (
                own == right, after == right, own != after, mirrored,
                mirrored and after == right, after == right == logits.index(min(logits)),
            )  # fmt: skip
            for name, fact in zip(counts, facts, strict=True):
                counts[name] += fact
            n += 1
    assert {name: found[name] for name in counts} == {
        name: f"{100 * count / n:.1f} %" for name, count in counts.items()
    }


def test_past_the_steps_all_of_the_gradient_arrives(backbones, asked):
    _, _, clean, _ = table(backbones["vit"], asked, [8])
    coded, _, past = map(float, cells(clean)[-3:])
    assert coded < 0.1
    assert past == pytest.approx(1, abs=0.05)


def test_one_class_is_refused(tmp_path, tree, capsys):
    shutil.copytree(tree / "cat", tmp_path / "cat")
    assert main(["mirror", "--images", str(tmp_path)]) == 2
    assert "no answer can be wrong" in capsys.readouterr().err
