"""Thresholds from photos: who is calibrated on, what is measured, and the file it ends in."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests import tiny
from vlmdefense_demo import calibration
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.alarms import Reading
from vlmdefense_demo.calibration import Plan, cases
from vlmdefense_demo.detectors.thresholds import calibrated
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import to_levels
from vlmdefense_demo.survey import methods
from vlmdefense_demo.training.photos import read_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two sets of noise: one to calibrate on, and one for validation only."""
    root = tmp_path_factory.mktemp("photos")
    for name, n, seed in (("things", 32, 0), ("objects4", 4, 1)):
        (root / name).mkdir()
        rows = ["file,label"]
        for i, picture in enumerate(to_levels(tiny.images(n, seed=seed))):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(root / name / f"{i}.png")
            rows.append(f"{i}.png,{('sea_lion', 'dog', 'bird', 'car')[i % 4]}")
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_no_photo_is_both_calibrated_on_and_measured_on(photos):
    found = read_photos(photos)
    calibration, measured = cases(found, Plan(photos=20, attacked=3))
    held = {p.data for p in found if p.held_out}
    assert len(calibration) == 20
    assert len(measured) == 3
    assert not {c.data for c in calibration} & held
    assert {c.data for c in measured} <= {p.data for p in found if p.source == "objects4"}
    assert all(set(c.labels) == {"sea lion", "dog", "bird", "car"} for c in calibration)
    assert cases(found, Plan(photos=20, attacked=3)) == (calibration, measured)


@pytest.fixture(scope="module")
def run(photos, model_dirs, tmp_path_factory):
    """The command on the tiny model: its exit code and its file."""
    file = tmp_path_factory.mktemp("out") / "detectors.json"
    model = f"local-dir:{model_dirs['vit']}"
    code = main(
        ["calibrate", "--images", str(photos), "--photos", "20", "--attacked", "3", "--known", "3",
         "--eps", "1,32", "--model", model, "--device", "cpu", "--file", str(file)]
    )  # fmt: skip
    return code, file, model


def test_the_command_writes_every_detector_of_the_model(run):
    code, file, model = run
    assert code == 0
    found = calibrated(model, file)
    assert json.loads(file.read_text(encoding="utf-8"))[model]["recipe"] == found.recipe
    assert "PGD, 10 steps, ε 1 and 32 of 255" in found.recipe
    assert set(found.detectors) == set(methods("detector"))
    for row in found.detectors.values():
        assert row.n == 20
        assert row.quantiles["0.95"] == row.threshold
        assert [a.eps for a in row.against] == [1, 32]
        assert row.false_alarms.n == row.against[0].detected.n == 3
        assert row.false_alarms.low <= row.false_alarms.hits / 3 <= row.false_alarms.high
        assert row.knowing is None or row.knowing.n <= row.tried == 3
        assert len(row.clean) == len(row.attacked) == len(found.bundled)


def test_the_table_says_what_was_measured(run):
    _, file, model = run
    lines = list(calibration.table(calibrated(model, file)))
    assert sum("threshold" in line for line in lines) == len(methods("detector"))
    assert any("AUC" in line and "of 3" in line for line in lines)


def test_a_reading_above_the_threshold_is_an_alarm_and_at_it_is_none(run):
    _, file, model = run
    known = calibrated(model, file).detectors["detect_padding"]
    t = known.threshold
    at = Reading("detect_padding", "cpu", clean=t, attacked=t, calibration=known)
    above = Reading("detect_padding", "cpu", clean=t + 0.01, attacked=t + 0.01, calibration=known)
    assert at.words() == ("no alarm", "missed")
    assert above.words() == ("false alarm", "alarm")
    assert Reading("detect_padding", "cpu").words() is None


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--photos", "19"], "needs a radius, at least 20 photos"),
        (["--attacked", "0"], "one that is attacked"),
        (["--eps", ""], "needs a radius"),
        (["--eps", "four"], "--eps expects numbers"),
        (["--model", "nope"], "Unknown model 'nope'"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence_and_code_2(more, sentence, photos, capsys):
    assert main(["calibrate", "--images", str(photos), *more]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_validation_set_or_another_one_it_says_so(photos, tmp_path, capsys):
    for name in ("things", "objects4"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.csv").write_bytes((photos / f"{name}.csv").read_bytes())
        (folder / name).symlink_to(photos / name)
        assert main(["calibrate", "--images", str(folder)]) == 2
        assert "Calibration needs a set whose name starts with 'objects'" in capsys.readouterr().err


def test_a_plan_needs_enough_photos_for_its_threshold():
    with pytest.raises(InvalidParameter, match="at least 20 photos"):
        Plan(photos=10)
