"""What the page does when something is pressed, without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from vlmdefense_demo.errors import DemoError, InvalidImage, InvalidLabels, InvalidParameter
from vlmdefense_demo.images import from_png, to_array
from vlmdefense_demo.request import Request
from vlmdefense_demo.spec import Choice, Range, fields
from vlmdefense_demo.survey import SURVEY, methods, usable
from vlmdefense_demo.types import Cost, Rung
from vlmdefense_demo.ui import handlers
from vlmdefense_demo.ui.controls import collect, widgets
from vlmdefense_demo.ui.form import prepare
from vlmdefense_demo.ui.handlers import DEFENSES, OUTPUTS, as_outputs
from vlmdefense_demo.ui.layout import build
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.worker import COMPUTE

PNG = gr.Image, gr.Gallery, gr.ImageSlider


@pytest.fixture(scope="module")
def demo():
    return build(Site("cpu"))


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", html)).strip()


def interactive(update: dict) -> tuple[bool, bool]:
    """Whether Run and Stop can be pressed after an update."""
    return update["go"].interactive, update["stop"].interactive


# prepare


def test_prepare_reads_labels_from_lines_and_commas(form, pocket):
    request = prepare(form, pocket)
    assert isinstance(request, Request)
    assert [label.strip() for label in request.labels] == ["cat", "dog", "lion"]
    assert request.image.shape == (1, 3, 224, 224)
    assert (request.image * 255 == (request.image * 255).round()).all()


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"picture": None}, DemoError, "There is no picture yet. Choose an example"),
        ({"picture": ""}, DemoError, "There is no picture yet"),
        ({"picture": "/nowhere/x.png"}, InvalidImage, "The file x.png cannot be read"),
        ({"picture": "/etc/passwd"}, InvalidImage, "not a picture that can be read"),
        ({"labels": ""}, InvalidLabels, "at least 2 different ones, got 0"),
        ({"labels": "cat, CAT ,cat"}, InvalidLabels, "at least 2 different ones, got 1"),
        ({"labels": "x" * 400 + ",dog"}, InvalidLabels, "400 characters"),
        ({"labels": ",".join(map(str, range(500)))}, InvalidLabels, "at most 100 labels, got 500"),
        ({"template": "a photo"}, InvalidLabels, "exactly one {}"),
        ({"template": "{} {}"}, InvalidLabels, "exactly one {}"),
        ({"truth": "zebra"}, InvalidLabels, "“zebra” is not among the labels"),
        ({"target": "zebra"}, InvalidLabels, "“zebra” is not among the labels"),
        ({"attack_params": {"eps": 129}}, InvalidParameter, "eps=129 is outside"),
        ({"attack_params": {"steps": 0}}, InvalidParameter, "steps=0 is outside"),
        ({"defenses": {"rtpt": {"views": 1}}}, InvalidParameter, "views=1 is outside"),
        ({"attack": "nope"}, DemoError, "Unknown attack 'nope'"),
    ],
)
def test_prepare_says_what_is_wrong(form, pocket, change, error, sentence):
    with pytest.raises(error) as raised:
        prepare(replace(form, **change), pocket)
    assert sentence in str(raised.value)


# run


def test_run_streams_clean_then_attacked_then_defences(site, form, pocket):
    updates = list(handlers.run(site, form, "me"))
    assert interactive(updates[0]) == (False, True)
    assert interactive(updates[-1]) == (True, False)
    assert words(updates[-1]["status"]).startswith("Done")
    shown = [set(u) for u in updates if "undefended" in u or set(u) & set(DEFENSES)]
    assert not {"pair", "signed", "magnitude"} & shown[0]
    assert {"pair", "signed", "magnitude", "download"} <= shown[1]
    finals = [id for u in updates for id in DEFENSES if "How it decided" in str(u.get(id, ""))]
    assert finals == ["fare", "ttc"] * 2  # and again with their gradient checks


def test_pictures_of_an_earlier_attack_are_faded_until_the_new_one_is_there(site, form, pocket):
    seen = list(handlers.run(site, form, "me"))
    first = next(i for i, u in enumerate(seen) if "undefended" in u)
    made = next(i for i, u in enumerate(seen) if "pair" in u)
    for i, update in enumerate(seen):
        line = update.get("status", "")
        assert ("making" in line) == (first <= i < made and bool(line))
    assert seen[first]["download"].interactive is False
    assert seen[made]["download"].interactive is True


def test_run_says_queued_running_and_ready_before_it_is_done(site, form, pocket):
    updates = list(handlers.run(site, form, "me"))
    first = next(u for u in updates if "undefended" in u)
    assert [("queued" in first[id], "ready" in first[id]) for id in ("fare", "rtpt", "ttc")] == [
        (True, False), (False, True), (True, False),
    ]  # fmt: skip
    assert any("running …" in u.get("fare", "") for u in updates)
    assert not any("How it decided" in str(u.get("rtpt", "")) for u in updates)


def test_the_picture_on_the_page_is_the_file_to_download(site, form, pocket):
    update = next(u for u in handlers.run(site, form, "me") if "pair" in u)
    before, after = update["pair"]
    delivered, *shown = (
        Path(p).read_bytes() for p in (update["download"].value["path"], after, before)
    )
    assert delivered == shown[0]
    adversarial, clean = (to_array(from_png(png)).astype(int) for png in shown)
    assert 0 < np.abs(clean - adversarial).max() <= 4


@pytest.mark.parametrize(
    "change",
    [{"picture": None}, {"labels": "cat"}, {"attack_params": {"eps": 129}}, {"model": "nope"}],
)
def test_a_refused_form_says_why_and_loses_nothing_on_screen(site, form, pocket, change):
    *_, last = updates = list(handlers.run(site, replace(form, **change), "me"))
    assert interactive(last) == (True, False)
    assert "failed" in last["status"]
    assert words(last["status"]).endswith(".")
    assert set().union(*updates) == {"status", "go", "stop", "detect", "story"}


def test_results_count_as_stale_from_the_click_to_the_first_card(site, form, pocket):
    seen = [("pending" in u["status"]) for u in handlers.run(site, form, "me") if "status" in u]
    assert seen[0]
    assert not seen[-1]
    refused = list(handlers.run(site, replace(form, labels=""), "me"))
    assert "pending" in refused[-1]["status"]


def test_no_story_is_chosen_once_a_run_begins():
    assert handlers.opening()["story"]["value"] is None


def test_files_of_the_run_before_are_not_offered_while_a_new_one_is_made(site, form, pocket):
    updates = list(handlers.run(site, form, "me"))
    (at,) = (i for i, u in enumerate(updates) if "making" in u.get("status", "") and "verdict" in u)
    assert not updates[at]["report"].interactive
    assert not updates[at]["download"].interactive
    assert not any("report" in u for u in (*updates[:at], *updates[at + 1 : -1]))
    assert updates[-1]["report"].interactive


def test_an_unexpected_exception_gives_the_buttons_back_and_no_details(
    site, form, pocket, monkeypatch, caplog
):
    def broken(*_, **__):
        raise KeyError("secret internals")

    monkeypatch.setattr("vlmdefense_demo.defenses.training_time.fare.FARE.__call__", broken)
    *_, last = handlers.run(site, form, "me")
    assert interactive(last) == (True, False)
    assert words(last["status"]) == "Something broke inside the demo; the log has the details."
    assert "not run" in last["ttc"]
    assert "secret internals" in caplog.text


def test_a_failing_defence_is_a_card_and_the_others_still_run(site, form, pocket):
    chosen = {"rtpt": {"views": 2}, "fare": {}}
    form = replace(form, template="{}", defenses=chosen)  # R-TPT needs words before the label
    updates = list(handlers.run(site, form, "me"))
    assert any("did not run" in u.get("rtpt", "") for u in updates)
    assert any("How it decided" in u.get("fare", "") for u in updates)
    assert words(updates[-1]["status"]).startswith("Done")


def test_stop_during_the_attack_clears_pictures_of_an_earlier_one(site, form, pocket, stop_at):
    stop_at("/pgd")
    form = replace(form, attack_params={"eps": 1, "steps": 200})
    *_, last = updates = list(handlers.run(site, form, "me"))
    assert words(last["status"]) == "Stopped."
    assert "failed" not in last["status"]
    assert interactive(last) == (True, False)
    assert not any("pair" in u for u in updates[:-1])
    assert last["pair"] is None
    assert last["download"].interactive is False
    assert last["earlier"] is None, "reports and sliders would still be of the run before"
    assert "readings" in last, "and so would the detectors"
    assert "stopped" in last["undefended"]
    assert all("stopped" in last[id] for id in form.defenses)
    assert "rtpt" not in last


def test_stop_after_a_card_keeps_it(site, form, pocket, stop_at):
    stop_at("/rtpt")
    form = replace(form, defenses={"fare": {}, "rtpt": {"views": 2}, "ttc": {}})
    *_, last = updates = list(handlers.run(site, form, "me"))
    assert words(last["status"]) == "Stopped."
    assert any("How it decided" in u.get("fare", "") for u in updates)
    assert set(last) == {"status", "go", "stop", "detect", "story", "report", "rtpt", "ttc"}


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (("held", "fooled", "wrong_clean"), "Done: 1 of 2 defences held against"),
        (("held", "held"), "Done: 2 of 2 defences held against"),
        ((None,), "Done."),
    ],
)
def test_summary_counts_defences_that_were_right_on_clean(verdicts, sentence):
    from tests.ui import stories

    def card(id, verdict):
        return stories.defended(id, verdict=verdict)

    done = [stories.undefended(), *map(card, DEFENSES, verdicts)]
    said = handlers._summary(done, knows=False)
    assert said.startswith(sentence)
    assert "this attack has none" not in said
    assert ("1 wrong on clean" in said) == ("wrong_clean" in verdicts)


def test_summary_gives_no_credit_for_an_attack_that_failed_on_the_model_itself():
    from tests.ui import stories

    one, two = (stories.defended(id) for id in ("fare", "jpeg"))
    rung = Rung("adaptive", "", one.attacked, "held", Cost(), 4.0)
    done = [stories.undefended(verdict="held"), one, two]
    assert "speaks for no defence. One picture" in handlers._summary(done, knows=False)
    done[1] = replace(one, ladder=(replace(rung, name="transfer"), rung))
    said = handlers._summary(done, knows=True)
    assert "speaks for no defence; 2 of 2 held against one who knows them" in said


def test_an_attack_without_a_ball_says_why_nobody_climbed(site, form):
    *_, last = handlers.run(
        site, replace(form, attack="typographic", attack_params={}, knows=True), "me"
    )
    said = words(last["status"])
    assert said.startswith("Done:")
    assert "L2 balls only, and this attack has none. One picture" in said


def test_outputs_are_full_length_tuples():
    out = as_outputs({"status": "x", "ttc": "y", "pair": None})
    assert len(out) == len(OUTPUTS) == len(set(OUTPUTS))
    named = dict(zip(OUTPUTS, out, strict=True))
    assert (named["status"], named["ttc"], named["pair"]) == ("x", "y", None)
    assert named["fare"] == gr.skip()


def test_a_model_that_cannot_be_loaded_leaves_the_embedded_one_selected(site, pocket):
    (_, loading), (name, said) = handlers.change_model(site, "ViT-B-32")
    assert "Loading ViT-B-32" in loading
    assert name == "pocket"
    assert "failed" in said
    assert "embedded model" in said


# what is built


@pytest.mark.parametrize("id", SURVEY)
def test_controls_follow_the_fields_in_display_units(id):
    row = SURVEY[id]
    found = widgets(row)
    assert [name for _, name in found] == [f.name for f in fields(row.cls)]
    for f in fields(row.cls):
        widget = found[id, f.name]
        assert widget.value == f.shown(f.default)
        if isinstance(f.domain, Range):
            assert isinstance(widget, gr.Slider)
            assert (widget.minimum, widget.maximum) == (
                f.shown(f.domain.low),
                f.shown(f.domain.high),
            )
        elif isinstance(f.domain, Choice):
            assert [value for _, value in widget.choices] == list(f.domain.options)


def test_untouched_controls_build_the_default_method():
    for row in SURVEY.values():
        found = widgets(row)
        values = collect(row, found, {w: w.value for w in found.values()})
        assert row.build(values) == row.cls()


def test_a_slider_in_255ths_shows_whole_levels():
    slider = widgets(SURVEY["pgd"])["pgd", "eps"]
    assert (slider.minimum, slider.maximum, slider.step, slider.value) == (0, 128, 1, 4)
    assert slider.label == "eps (/255)"


def test_every_image_component_is_lossless(demo):
    pictures = [b for b in demo.blocks.values() if isinstance(b, PNG)]
    assert len(pictures) >= 5
    assert {p.format for p in pictures} == {"png"}


def test_no_html_goes_through_a_template(demo):
    blocks = [b for b in demo.blocks.values() if isinstance(b, gr.HTML)]
    assert blocks
    assert {b.html_template for b in blocks} == {"${value}"}


def test_the_queue_is_bounded(demo):
    assert demo._queue.max_size == 16


def test_all_that_computes_shares_one_limit(demo):
    limits = {fn.concurrency_limit for fn in demo.fns.values() if fn.concurrency_id == "compute"}
    assert limits == {COMPUTE["concurrency_limit"]}, "Gradio takes the lowest of a group"


def test_every_defence_has_a_card_and_a_tick_box(demo):
    ids = {getattr(b, "elem_id", None) for b in demo.blocks.values()}
    assert {f"card-{id}" for id in methods("defense")} <= ids
    groups = [b for b in demo.blocks.values() if isinstance(b, gr.CheckboxGroup)]
    boxes = [b for b in groups if str(b.elem_id).startswith("choose-")]
    assert sorted(v for b in boxes for _, v in b.choices) == sorted(usable("pocket"))


def test_only_the_endpoints_are_public(demo):
    public = {fn.api_name for fn in demo.fns.values() if fn.api_visibility == "public"}
    assert public == {"classify", "attack", "defend", "compare", "methods", "version", "health"}
