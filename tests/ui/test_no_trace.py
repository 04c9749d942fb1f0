"""A request leaves nothing behind: not after success, not after an exception, not after Stop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import tiny
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.ui import handlers

KEYS = ("torch rng", "grad mode", "dtype", "weights", "gradients", "requires_grad", "training",
        "hooks")  # fmt: skip


def traces(pocket) -> dict:
    towers = (pocket.model, load_twin(pocket, "fare").visual)
    found = tiny.fingerprint(*towers)
    return {key: found[key] for key in KEYS}


@pytest.fixture
def unchanged(pocket):
    before = traces(pocket)
    yield
    after = traces(pocket)
    assert [key for key in KEYS if after[key] != before[key]] == []


@pytest.fixture
def full(form):
    return replace(form, defenses={"fare": {}, "rtpt": {"views": 4, "steps": 2}, "ttc": {}})


def ended(site, form) -> str:
    *_, last = handlers.run(site, form, "me")
    return last["status"]


@pytest.mark.usefixtures("unchanged")
def test_a_run_leaves_no_trace(site, full):
    assert "Done" in ended(site, full)


@pytest.mark.usefixtures("unchanged")
def test_an_exception_inside_an_inner_loop_leaves_no_trace(site, full, monkeypatch):
    calls = []

    def broken(self, clf, *_):
        calls.append(clf)
        raise RuntimeError

    monkeypatch.setattr(RTPT, "vote", broken)  # after the prompt has been tuned
    assert "Something broke" in ended(site, full)
    assert calls


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", ["/pgd", "/rtpt", "/ttc"])
def test_stop_leaves_no_trace(site, full, stop_at, path):
    stop_at(path)
    ttc = {"tau": 4.0, "steps": 3}  # the gate is open, so that TTC takes a second step
    attack = {"eps": 1, "steps": 4}
    full = replace(full, attack_params=attack, defenses={**full.defenses, "ttc": ttc})
    assert "Stopped." in ended(site, full)
