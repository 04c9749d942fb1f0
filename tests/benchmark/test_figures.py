"""The table as pictures: what is drawn is what was counted, and nothing is drawn of nothing."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.benchmark.test_tables import many
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark import figures
from vlmdefense_demo.benchmark.rows import Rows
from vlmdefense_demo.benchmark.tables import columns, lines
from vlmdefense_demo.figures import LIGHT


@pytest.fixture(scope="module")
def rows():
    found = []
    for defense, clean, unaware, adaptive, seconds in (
        ("undefended", 10, 2, 0, 0.01), ("fare", 9, 8, 5, 0.01), ("rtpt", 10, 6, 1, 0.2),
    ):  # fmt: skip
        found += many(defense, clean, 10)
        found += many(defense, clean, 10, step="latency", s=seconds)
        for eps, less in ((1.0, 0), (4.0, 1)):
            found += many(defense, max(0, unaware - less), 10, step="transfer", eps=eps)
            found += many(defense, max(0, adaptive - less), 10, step="adaptive", eps=eps)
    return found


def drawn(name, rows):
    return figures.FIGURES[name](lines(rows), columns(rows))


def test_a_curve_starts_clean_and_has_a_panel_an_attacker(rows):
    unaware, adaptive = drawn("curves", rows).axes
    assert (unaware.get_title(), adaptive.get_title()) == (
        "attacker: unaware",
        "attacker: adaptive",
    )
    fare = adaptive.get_lines()[1]
    assert fare.get_xdata().tolist() == [0, 1, 4]
    assert fare.get_ydata().tolist() == [0.9, 0.5, 0.4]
    assert fare.get_color() == LIGHT.colours["training_time"]
    assert unaware.get_lines()[2].get_ydata().tolist() == [1.0, 0.6, 0.5]
    band = unaware.collections[2].get_paths()[0].vertices[:, 1]
    assert band.min() < 0.5 < 0.6 < band.max()


def test_a_crowd_has_a_panel_a_defence_with_the_model_itself_in_each(rows):
    crowd = [*rows, *(r | {"defense": "tpt", "values": {"views": 2 + i}, "key": f"{i}{r['key']}"}
                      for i in range(7) for r in rows if r["defense"] == "rtpt")]  # fmt: skip
    axes = [found for found in drawn("curves", crowd).axes if found.get_visible()]
    assert [found.get_title() for found in axes] == ["FARE", "R-TPT", "TPT"]
    plain, unaware, adaptive = axes[0].get_lines()
    assert plain.get_ydata().tolist() == [1.0, 0.2, 0.1]
    assert unaware.get_ydata().tolist() == [0.9, 0.8, 0.7]
    assert adaptive.get_ydata().tolist() == [0.9, 0.5, 0.4]
    assert unaware.get_linestyle() != adaptive.get_linestyle()
    strengths = [line.get_alpha() for line in axes[2].get_lines()[1::2]]
    assert strengths == sorted(strengths)
    assert len(set(strengths)) == 7


def test_the_trade_is_clean_against_the_hardest_attacker_where_he_parts_most(rows):
    axes = drawn("trade", rows).axes[0]
    assert axes.get_ylabel() == "answered rightly, adaptive, 1/255"
    points = [line for line in axes.get_lines() if line.get_marker() in "Ds^o"]
    assert [(float(p.get_xdata()[0]), float(p.get_ydata()[0])) for p in points] == [
        (1.0, 0.0), (0.9, 0.5), (1.0, 0.1)
    ]  # fmt: skip
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "Undefended": (1.0, 0.0), "FARE": (0.9, 0.5), "R-TPT": (1.0, 0.1)
    }  # fmt: skip


def test_settings_of_a_defence_are_one_path_with_its_name_at_the_last(rows):
    more = [
        r | {"values": {"views": 32}, "key": f"more{r['key']}"}
        | ({"standing": False} if r["step"] == "adaptive" else {})
        for r in rows if r["defense"] == "rtpt"
    ]  # fmt: skip
    axes = drawn("trade", [*rows, *more]).axes[0]
    paths = [line.get_ydata().tolist() for line in axes.get_lines() if line.get_marker() == "None"]
    assert [0.1, 0.0] in paths
    names = {text.get_text(): text.xy for text in axes.texts}
    assert names["R-TPT … views 32"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("wanted", "gap", "places"),
    [
        ([0.2, 0.6], 0.1, [0.2, 0.6]),
        ([0.5, 0.5], 0.1, [0.45, 0.55]),
        ([0.0, 0.0, 0.9], 0.1, [0.0, 0.1, 0.9]),
        ([0.3, 1.0, 1.0], 0.2, [0.3, 0.8, 1.0]),
        ([0.7] * 4, 0.25, [0.25, 0.5, 0.75, 1.0]),
        ([0.4], 1.0, [0.4]),
    ],
)
def test_names_keep_a_distance_and_stay_inside(wanted, gap, places):
    assert figures._apart(wanted, gap) == pytest.approx(places)


def test_a_right_answer_costs_the_time_over_the_share(rows):
    bars = drawn("price", rows).axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([10 / 0.5, 200 / 0.1])  # one has none
    times = drawn("latency", rows).axes[0].patches
    assert [bar.get_width() for bar in times] == pytest.approx([10, 10, 200])


def test_an_attacker_who_broke_down_everywhere_is_not_drawn(rows):
    failed = [r | {"error": "out of memory"} if r["step"] == "adaptive" else r for r in rows]
    assert drawn("trade", failed) is None
    assert drawn("price", failed) is None


def test_nothing_is_drawn_of_nothing(rows):
    clean = [row for row in rows if row["step"] == "clean"]
    assert all(drawn(name, clean) is None for name in figures.FIGURES)


def test_the_command_writes_them(tmp_path, rows, capsys):
    Rows(tmp_path / "rows.jsonl").add(rows)
    out = tmp_path / "figures"
    assert (
        main(["benchmark", "--table-only", str(tmp_path / "rows.jsonl"), "--figures", str(out)])
        == 0
    )
    told = capsys.readouterr().out
    for name in figures.FIGURES:
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 150
        assert f"{name}.png" in told


def test_rows_need_a_file(capsys):
    assert main(["benchmark", "--images", "bundled"]) == 2
    assert "--file" in capsys.readouterr().err
