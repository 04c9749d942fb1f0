"""The trainer on the page: its form, its progress, and whose prompt is used."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path

import gradio as gr
import pytest

from vlmdefense_demo.training import classroom as trainer
from vlmdefense_demo.ui import classroom, handlers
from vlmdefense_demo.ui.classroom import example_classes, forget, homework, learn
from vlmdefense_demo.ui.form import own_prompts
from vlmdefense_demo.ui.words import LANGUAGES


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    short = {
        id: dataclasses.replace(how, epochs=2, attack_steps=1)
        for id, how in trainer.RECIPES.items()
    }
    monkeypatch.setattr(trainer, "RECIPES", short)


@pytest.fixture
def work(site):
    names_and_files = example_classes(site)
    names, files = names_and_files[:2], [f[:2] for f in names_and_files[5:7]]
    return homework("advpt", names, files)


def words(html):
    return re.sub(r"<[^>]*>", " ", html).strip()


def test_the_example_photos_are_four_crops_of_five(site):
    filled = example_classes(site)
    names, files = filled[:5], filled[5:]
    assert len(set(names)) == 5
    assert [len(f) for f in files] == [4] * 5
    assert len({Path(p).read_bytes() for f in files for p in f}) == 20


def test_fields_of_one_name_are_put_together_and_empty_ones_left_out(site):
    files = example_classes(site)[5:]
    work = homework("apt", [" cat", "cat ", "", "dog", None], [files[0], files[1], None, None, []])  # fmt: skip
    assert {name: len(found) for name, found in work.classes.items()} == {"cat": 8, "dog": 0}


def test_a_training_streams_progress_and_hands_over_the_prompt(site, work, pocket):
    updates = list(learn(site, "pocket", lambda: work, {}, "me/classroom"))
    first, last = updates[0], updates[-1]
    assert (first[2].interactive, first[3].interactive) == (False, True)
    assert (last[2].interactive, last[3].interactive, last[4].interactive) == (True, False, True)
    assert "AdvPT is trained" in words(last[0])
    assert re.search(r" f \+ .* text ", words(last[0]))
    assert re.search(r"已训练：.* f \+ \d+ b", LANGUAGES["zh"].say(last[0]))
    assert "text" not in LANGUAGES["zh"].say(last[0]), "its one word is said in the language"
    assert "<polyline" in last[1]
    assert set(last[5]) == {"advpt"}


def test_a_second_training_keeps_the_prompt_of_the_other_method(site, work, pocket):
    kept = object()
    last = list(learn(site, "pocket", lambda: work, {"apt": kept}, "me/classroom"))[-1]
    assert last[5]["apt"] is kept


@pytest.mark.parametrize(
    ("names", "files", "says"),
    [
        (["cat"], [None], "expected at least 2, got 1"),
        (
            ["cat", " ", "dog"],
            [None, ["/somewhere/x.png"], None],
            "Class 2 has pictures and no name",
        ),
        (["cat"], [["/nowhere/x.png"]], "The file x.png cannot be read"),
    ],
)
def test_bad_input_is_a_sentence_and_what_was_in_use_stays(site, pocket, names, files, says):
    asked = partial(homework, "apt", names, files)
    updates = list(learn(site, "pocket", asked, {"apt": 1}, "me"))
    assert says in words(updates[-1][0])
    assert "failed" in updates[-1][0]
    assert updates[-1][5] == gr.skip()
    assert updates[-1][2].interactive


def test_stop_ends_the_training_and_keeps_nothing(site, work, pocket, monkeypatch):
    from vlmdefense_demo.run import Run

    step = Run.step

    def pressing(self, i, total):
        site.worker.stop("me/classroom")
        step(self, i, total)

    monkeypatch.setattr(Run, "step", pressing)
    last = list(learn(site, "pocket", lambda: work, {}, "me/classroom"))[-1]
    assert words(last[0]).startswith("Stopped. Nothing was kept")
    assert last[5] == gr.skip()


def test_a_bug_gives_the_buttons_back(site, work, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr(classroom, "teach", fail)
    last = list(learn(site, "pocket", lambda: work, {}, "me/classroom"))[-1]
    assert "the log has the details" in words(last[0])
    assert last[2].interactive
    assert "boom" in caplog.text


def test_forgetting_brings_the_shipped_prompt_back():
    update = forget()
    assert update[5] == {}
    assert update[4].interactive is False


def test_a_trained_prompt_is_used_by_its_card_of_this_session_only(site, form, work, pocket):
    prompt = list(learn(site, "pocket", lambda: work, {}, "me/classroom"))[-1][5]
    assert own_prompts("ViT-B-32", prompt) == {}
    form = dataclasses.replace(form, defenses={"advpt": {}}, learned=prompt)
    mine = [u["advpt"] for u in handlers.run(site, form, "me") if "How it decided" in u.get("advpt", "")]  # fmt: skip
    assert "trained here" in mine[-1]
    other = dataclasses.replace(form, learned={})
    theirs = [u.get("advpt", "") for u in handlers.run(site, other, "you")]
    assert not any("trained here" in html for html in theirs)
