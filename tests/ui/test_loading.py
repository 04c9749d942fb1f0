"""While the model loads the page works, says so, and stops saying so."""

from __future__ import annotations

import threading
from dataclasses import replace

import gradio as gr
import pytest

from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.ui import gpu, handlers, jobs
from vlmdefense_demo.ui.api import Calls
from vlmdefense_demo.ui.first import first_paint
from vlmdefense_demo.ui.layout import build
from vlmdefense_demo.ui.loading import again, first
from vlmdefense_demo.ui.site import Site


@pytest.fixture
def elsewhere(tmp_path) -> Site:
    """A page whose model was never loaded."""
    return Site("cpu", f"local-dir:{tmp_path}")


def test_a_page_opened_early_says_so_and_looks_again(elsewhere):
    words, clock = first(elsewhere)
    assert "is loading. The ready stories need no model." in words
    assert clock.active
    assert again(elsewhere) == (gr.skip(), gr.skip())
    assert Calls(elsewhere).health()["status"] == "loading"


def test_it_says_when_the_model_is_there(site, pocket):
    site.load()
    assert first(site) == (gr.skip(), gr.skip())
    words, clock = again(site)
    assert "pocket is ready." in words
    assert not clock.active
    assert Calls(site).health() == {
        "schema": 1, "status": "ready", "model": "pocket", "error": "",
    }  # fmt: skip


def test_a_failure_is_a_sentence_on_the_page_and_in_health(elsewhere, caplog):
    elsewhere.load()
    for words, clock in (first(elsewhere), again(elsewhere)):
        assert "failed" in words
        assert "could not be loaded" in words
        assert not clock.active
    answer = Calls(elsewhere).health()
    assert answer["status"] == "failed"
    assert answer["error"] == elsewhere.trouble
    assert "could not be loaded" in caplog.text


def test_a_device_that_is_not_there_is_a_failure(monkeypatch):
    def missing(name):
        raise MissingWeights(f"There is no {name} device on this machine.", "Use --device auto.")

    monkeypatch.setattr("vlmdefense_demo.models.catalog.pick_device", missing)
    site = Site("cuda")
    assert site.health() == "loading"
    site.load()
    assert site.health() == "failed"


def test_a_run_that_waits_for_the_model_says_for_what(elsewhere, site, pocket):
    assert "is loading" in elsewhere.waiting()
    assert site.at("pocket").ready
    assert site.waiting() == "Waiting for the processor …"


def test_a_download_is_named_while_it_lasts(site, form, monkeypatch):
    sentence = "Loading CLIP ViT-B/32: up to 605 MB on first use."

    def load(name, device, *, say):
        say(sentence)
        threading.Event().wait(1.0)
        raise MissingWeights("No network.", "")

    monkeypatch.setattr(jobs, "load_model", load)
    said = [u["status"] for u in handlers.run(site, replace(form, model="ViT-B-32"), "me")]
    assert any(sentence in words for words in said)
    assert "No network." in said[-1]


def test_on_zerogpu_only_what_was_loaded_before_is_offered(site, monkeypatch):
    assert len(site.models()) > 2
    monkeypatch.setattr(gpu, "ZERO", True)
    monkeypatch.setenv(gpu.OFFERED, "ViT-B-32")
    assert site.models() == ("pocket", "ViT-B-32")


def test_a_page_whose_first_story_is_damaged_opens_with_its_controls(monkeypatch, tmp_path):
    monkeypatch.setattr("vlmdefense_demo.ui.first.STORY", tmp_path / "gone")
    site = Site("cpu")
    assert set(first_paint(site)) >= {"labels", "attack", "eps", "steps", "seed"}
    assert isinstance(build(site), gr.Blocks)
