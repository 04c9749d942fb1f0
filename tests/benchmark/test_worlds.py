"""The same pictures under other words and in worse shape, and the page that puts it all together."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import torch

from tests import tiny
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark import tables
from vlmdefense_demo.benchmark.notes import notes
from vlmdefense_demo.benchmark.rows import Rows, read_headers, read_rows
from vlmdefense_demo.benchmark.sources import Picture
from vlmdefense_demo.benchmark.statistics import rate
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.benchmark.worlds import (
    CORRUPTIONS,
    WORLDS,
    corrupted,
    elsewhere,
    moved,
    origin,
    parse,
)
from vlmdefense_demo.errors import InvalidLabels, InvalidParameter
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.models.names import imagenet_names


@pytest.mark.parametrize("world", CORRUPTIONS)
def test_a_corruption_stays_on_the_grid_and_is_the_same_alone(world):
    x = torch.cat([tiny.images(seed=seed) for seed in range(3)])
    keys = [f"{world}/{name}" for name in "abc"]
    out = corrupted(x, world, keys)
    assert out.shape == x.shape
    assert (out - x).abs().mean() > 2 / LEVELS
    assert torch.equal((out * LEVELS).round() / LEVELS, out)
    for i in range(3):
        assert torch.equal(corrupted(x[i : i + 1], world, keys[i : i + 1]), out[i : i + 1])


def test_corruptions_have_the_published_strength():
    x = torch.full((1, 3, 80, 80), 0.5)
    assert corrupted(x, "noise", ["noise/a"]).std() == pytest.approx(0.18, rel=0.03)
    left = torch.zeros(1, 1, 80, 80).index_fill(3, torch.arange(40), 1.0).repeat(1, 3, 1, 1)
    low, high = corrupted(left, "contrast", ["contrast/a"]).aminmax()
    assert (low.item(), high.item()) == pytest.approx((0.4, 0.6), abs=1 / LEVELS)
    blocks = corrupted(torch.rand(1, 3, 80, 80), "pixelate", ["pixelate/a"])
    assert len(blocks[0, 0].unique(dim=0)) == 32


def test_home_is_left_alone():
    x = tiny.images()
    assert corrupted(x, OWN, ["a"]) is x
    assert corrupted(x, "names", ["names/a"]) is x


def test_a_corrupted_world_asks_the_same_questions(some_tasks, backbone):
    there = elsewhere("blur", some_tasks, backbone, 10)
    for one, other in zip(some_tasks, there, strict=True):
        assert (other.world, other.labels) == ("blur", one.labels)
        for here, far in zip(one.pictures, other.pictures, strict=True):
            assert origin(far.key, "blur") == here.key
            assert far.key != here.key


def test_names_are_the_models_own_answers(some_tasks, backbone):
    there = elsewhere("names", some_tasks, backbone, 4)
    assert sum(len(t.pictures) for t in there) == sum(len(t.pictures) for t in some_tasks)
    assert {label for task in there for label in task.labels} <= set(imagenet_names())
    assert all(p.label in task.labels for task in there for p in task.pictures)


def test_one_name_for_all_is_refused(some_tasks, backbone):
    data = some_tasks[0].pictures[0].data
    same = [moved("x", some_tasks[0]).__class__(("a", "b"), (Picture("one", "a", data),) * 2)]
    with pytest.raises(InvalidLabels, match="names all pictures the same"):
        elsewhere("names", same, backbone, 4)


@pytest.mark.parametrize(("text", "says"), [("fog", "Known"), ("blur,blur", "twice")])
def test_worlds_that_cannot_be_are_refused(text, says):
    with pytest.raises(InvalidParameter, match=says):
        parse(text)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, model_dirs, tree):
    """Eight pictures at home and in two worlds, as the command measures them."""
    file = tmp_path_factory.mktemp("worlds") / "rows.jsonl"
    command = [
        "benchmark", "--model", f"local-dir:{model_dirs['vit']}", "--file", str(file), "--images",
        str(tree), "--photos", "8", "--defenses", "undefended,bits", "--eps", "2,8",
        "--steps", "clean,transfer,adaptive", "--adaptive-steps", "1", "--worlds", "names,blur",
    ]  # fmt: skip
    assert main(command) == 0
    return file, command


def test_elsewhere_nobody_climbs(measured):
    steps = {}
    for row in read_rows(measured[0]):
        steps.setdefault(row["world"], set()).add(row["step"])
    assert steps == {
        OWN: {"clean", "transfer", "adaptive"},
        "names": {"clean", "transfer"},
        "blur": {"clean", "transfer"},
    }


def test_under_its_own_names_the_model_is_right(measured):
    rows = [r for r in read_rows(measured[0]) if (r["world"], r["step"]) == ("names", "clean")]
    assert all(row["standing"] for row in rows if row["defense"] == "undefended")


def test_the_table_has_a_column_for_elsewhere_and_one_a_world_below(measured):
    rows = read_rows(measured[0])
    first, *others = tables.markdown(rows).split("\n\n")
    assert "elsewhere, clean | elsewhere, unaware, 8/255 | passes" in first.splitlines()[0]
    heads = [table.splitlines()[0] for table in others]
    assert heads == [
        f"| {title} | own | names | blur |"
        for title in ("clean", "unaware, 2/255", "unaware, 8/255")
    ]
    line = next(line for line in tables.lines(rows) if line.title == "Bit depth")
    clean = tables.Cell("clean", 0.0)
    far = [r for r in rows if r["defense"] == "bits" and r["step"] == "clean" and r["world"] != OWN]
    assert line.worlds[clean][OWN] == line.rates[clean]
    assert line.elsewhere[clean] == rate(
        (origin(r["picture"], r["world"]), r["standing"]) for r in far
    )
    assert line.elsewhere[clean].n == 8
    assert "elsewhere is names, blur" in "\n".join(notes(rows))


def test_csv_names_the_world(measured):
    found = list(csv.DictReader(io.StringIO(tables.csv_text(read_rows(measured[0])))))
    assert {row["world"] for row in found} == {OWN, "names", "blur"}
    assert len({(r["defence"], r["step"], r["eps"], r["world"]) for r in found}) == len(found)


def test_a_finished_run_says_once_how_it_was_measured(measured, capsys):
    file, command = measured
    before = file.read_bytes()
    [about] = read_headers(file)
    assert about["plan"]["eps"] == [2.0, 8.0]
    assert re.fullmatch(r"[0-9a-f]{64}", about["model"]["sha256"])
    assert about["pictures"]["n"] == 24
    assert {"torch", "python"} <= about["versions"].keys()
    assert main(command) == 0
    capsys.readouterr()
    assert file.read_bytes() == before


def test_another_plan_has_a_header_of_its_own(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    for n in (1, 1, 2):
        rows.begin({"plan": (n,)})
    assert read_headers(rows.file) == [{"plan": [1]}, {"plan": [2]}]
    assert read_rows(rows.file) == []
    assert all(json.loads(line) for line in rows.file.read_text().splitlines())


def test_a_second_source_is_a_world_of_its_name(model_dirs, tree, tmp_path, capsys):
    other = tmp_path / "other"
    other.symlink_to(tree)
    file = tmp_path / "rows.jsonl"
    command = [
        "benchmark", "--model", f"local-dir:{model_dirs['vit']}", "--file", str(file), "--photos", "4",
        "--defenses", "undefended", "--steps", "clean", "--images", str(tree), str(other),
    ]  # fmt: skip
    assert main(command) == 0
    assert {row["world"] for row in read_rows(file)} == {OWN, "other"}
    assert main([*command, str(other)]) == 2
    assert "names of their own" in capsys.readouterr().err


def test_the_page_has_everything_that_stands_beside_a_number(measured, tmp_path, capsys):
    file, _ = measured
    page = tmp_path / "results.md"
    assert main(["benchmark", "--table-only", str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert "python -m vlmdefense_demo" in text.split("```")[1]
    assert tables.as_markdown(*tables.cells(read_rows(file))) in text
    assert "8 pictures, seeds 0; " in text
    assert "cannot be separated" in text
    assert "## Generalisation" in text
    for path in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / path).is_file()
    assert "results/curves.png" in text
    assert "What the papers report" not in text  # nobody published numbers of bit depth for CLIP


def test_worlds_are_listed_where_they_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    said = capsys.readouterr().out
    assert all(world in said for world in WORLDS)
