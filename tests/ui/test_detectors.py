"""The detectors' panel: its HTML, its stream on the pictures of the last run, and in a browser."""

from __future__ import annotations

import re
from dataclasses import replace

import gradio as gr
import pytest

from tests.ui import stories
from vlmdefense_demo.alarms import Reading, read
from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.detectors.drift import CURVE, DriftDetector
from vlmdefense_demo.detectors.thresholds import calibrated
from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.run import silent
from vlmdefense_demo.survey import methods
from vlmdefense_demo.types import Cost
from vlmdefense_demo.ui import detectors, gauges, handlers
from vlmdefense_demo.ui.detectors import card, readings, watch
from vlmdefense_demo.ui.earlier import leave

IDS = list(methods("detector"))
CHIP = re.compile(r'chip (\w+)">. ([a-z ]+)<')


def a_reading(id="detect_padding", clean=0.1, attacked=0.9, **changes):
    known = calibrated("pocket").detectors[id]
    facts = {"cost": Cost(image_forward=2, seconds=0.021), "calibration": known}
    return Reading(id, "cpu", clean, attacked, **(facts | changes))


def shown(reading):
    return card(reading, calibrated("pocket"))


# gauges


def test_a_gauge_marks_the_threshold_on_every_bar_and_says_it():
    rows = [("clean", 0.2, "no alarm"), ("attacked", 0.9, "alarm")]
    html = gauges.gauge("Padding", rows, 1.0, 0.4)
    assert html.count('<b style="left:40.00%">') == 2
    assert 'class="fill under" style="width:20.00%"' in html
    assert 'class="fill over" style="width:90.00%"' in html
    assert "Padding: clean 0.200, attacked 0.900, alarm above 0.400" in html


def test_without_a_threshold_a_gauge_has_no_mark_and_no_verdict():
    html = gauges.gauge("x", [("clean", 3.0, ""), ("attacked", -1.0, "")], 1.0, None)
    assert "<b" not in html
    assert "chip" not in html
    assert "alarm" not in html
    assert "width:100.00%" in html, "beyond the end it stands at the end"
    assert "width:0.00%" in html


def test_every_text_of_a_gauge_and_a_curve_is_escaped():
    bad = stories.HOSTILE[0]
    html = gauges.gauge(bad, [(bad, 0.1, "alarm")], 1.0, 0.4)
    html += gauges.roc([(bad, bad, [(0.0, 0.0), (1.0, 1.0)])], bad)
    assert "<img" not in html


def test_the_drift_curve_says_where_the_curves_cross():
    html = gauges.drift([1, 4, 16], [0.1, 0.2, 0.4], [0.05, 0.2, 1.0], 4.0, 16)
    assert "they cross at 4.0" in html
    assert "score read at 16" in html
    apart = gauges.drift([1, 4, 16], [0.1, 0.2, 0.4], [0.2, 0.4, 1.0], None, 16)
    assert "they do not cross" in apart
    assert 'class="cross"' not in apart
    assert "nan" not in gauges.drift([1, 4], [0.0, 0.0], [0.0, 0.0], None, 4)


# cards


@pytest.mark.parametrize(
    ("clean", "attacked", "chips"),
    [
        (0.0, 0.99, [("held", "no alarm"), ("held", "alarm")]),
        (0.0, 0.0, [("held", "no alarm"), ("fooled", "no alarm")]),
        (0.99, 0.99, [("fooled", "false alarm"), ("held", "alarm")]),
    ],
)
def test_the_verdict_is_a_word_for_each_picture(clean, attacked, chips):
    assert CHIP.findall(shown(a_reading(clean=clean, attacked=attacked))) == chips


@pytest.mark.parametrize("id", IDS)
def test_a_card_says_what_the_threshold_is_worth_and_how_it_is_evaded(id):
    known = calibrated("pocket").detectors[id]
    html = shown(a_reading(id))
    assert f"alarm above {known.threshold:.3f}" in html
    assert f"{100 * known.false_alarms.hits / known.false_alarms.n:.0f} % [" in html
    assert "an attacker who knows it" in html
    assert "AUC" in html
    assert html.count("<polyline") == 2 * (1 + len(known.against)), "curves and their legend"


def test_a_model_without_thresholds_has_scores_and_the_reason():
    html = card(a_reading(calibration=None), None)
    assert not CHIP.findall(html)
    assert "0.900" in html
    sentence = detectors._summary([a_reading(calibration=None)], "ViT-B-32")
    assert "No threshold yet for ViT-B-32" in sentence
    assert "calibrate --model ViT-B-32" in sentence


def test_a_detector_that_fails_says_so_and_whatever_it_says_stays_text():
    html = shown(a_reading(error=stories.HOSTILE[0]))
    assert "did not run" in html
    assert "<img" not in html


def test_what_is_to_come_is_named():
    html = readings([a_reading(IDS[0])], "pocket", running=True)
    assert html.count("<article") == len(IDS)
    assert html.count("running …") == 1
    assert html.count("queued") == len(IDS) - 2


# the stream


@pytest.fixture
def earlier(site, form):
    updates = list(handlers.run(site, replace(form, defenses={}), "me"))
    assert any("readings" in update for update in updates), "readings of an earlier file must go"
    assert updates[0]["detect"].interactive is False
    assert updates[-1]["detect"].interactive is True
    return [u["earlier"] for u in updates if "earlier" in u][-1]


def test_before_the_first_run_there_is_nothing_to_read(site):
    [(html, stop)] = watch(site, None, "me")
    assert "Attack &amp; defend" in html
    assert stop == gr.skip()


def test_numbers_of_pictures_that_are_no_longer_shown_are_kept_back(site, earlier):
    reading = watch(site, earlier, "me")
    next(reading)
    leave(earlier)
    [(html, stop)] = reading
    assert html == gr.skip()
    assert stop.interactive is False


def test_the_detectors_read_the_pictures_of_the_last_run(site, earlier):
    *_, (html, stop) = watch(site, earlier, "me")
    assert stop.interactive is False
    assert html.count("<article") == len(IDS)
    alarms = html.count("✓ alarm")
    assert f"{alarms} of 4 detectors raise the alarm for the attacked file" in html
    assert len(CHIP.findall(html)) == 2 * len(IDS)
    assert "they cross at" in html


def test_a_reading_is_the_detector_on_the_very_file(site, earlier, pocket):
    once = replace(earlier.request, repeats=0)
    found, again = (
        list(read(once, pocket, earlier.card, on_progress=silent, should_stop=bool))
        for _ in range(2)
    )
    assert [r.detector for r in found] == IDS
    for one, two in zip(found, again, strict=True):
        assert (one.clean, one.attacked) == (two.clean, two.attacked)
        row = methods("detector")[one.detector]
        assert one.cost.image_forward == row.cls().expected_cost(3).image_forward
        assert one.cost.image_backward == 0
        assert one.calibration == calibrated("pocket").detectors[one.detector]
    drift = found[IDS.index("detect_drift")]
    [curve] = [note.value for note in drift.notes if note.title == CURVE]
    at = curve["x"].index(16)
    assert curve["clean"][at] == pytest.approx(drift.clean, abs=1e-4)
    assert curve["attacked"][at] == pytest.approx(drift.attacked, abs=1e-4)


def test_a_failing_detector_leaves_the_others(site, earlier, monkeypatch):
    def broken(self, *_, **__):
        raise MethodFailed("no drift today.")

    monkeypatch.setattr(DriftDetector, "__call__", broken)
    *_, (html, _stop) = watch(site, earlier, "me")
    assert "no drift today." in html
    assert len(CHIP.findall(html)) == 2 * (len(IDS) - 1)


def test_stop_ends_the_reading_and_nothing_else(site, earlier, monkeypatch):
    call = Detector.__call__

    def pressing(self, *some, **more):
        assert site.worker.stop(detectors.session("me"))
        return call(self, *some, **more)

    monkeypatch.setattr(Detector, "__call__", pressing)
    *_, (html, stop) = watch(site, earlier, "me")
    assert "Stopped." in html
    assert stop.interactive is False
    assert not CHIP.findall(html)


# in a browser


def test_the_panel_is_opened_and_read(page):
    page.choose(0)
    page.labels("cat, dog, lion, car")
    page.run()
    assert not page("#readings article").count(), "nothing is computed before it is asked for"
    page.tab.get_by_role("button", name=re.compile("Detectors: was this")).click()
    page("#detect-go").click()
    page("#readings").get_by_text(re.compile("of 4 detectors raise the alarm")).wait_for()
    assert page("#readings article").count() == len(IDS)
    assert page("#readings svg.plot").count() == len(IDS) + 1
    page("#detect-go:enabled").wait_for()
    page.tab.wait_for_timeout(500)  # its colours fade in
    assert page.violations("#detectors") == []
    page.tab.set_viewport_size({"width": 390, "height": 844})
    spill = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.script(spill) == 0
    page.run()
    page("#readings").get_by_text("Not read yet.").wait_for()
