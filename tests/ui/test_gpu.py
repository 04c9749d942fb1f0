"""ZeroGPU without one: what is asked of it, what crosses the fork, and what a fork finds out."""

from __future__ import annotations

import dataclasses
import importlib
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
import pytest
import torch

from vlmdefense_demo.errors import Cancelled, DemoError, InvalidLabels
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.request import Request
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import gpu, worker
from vlmdefense_demo.ui.api import Called
from vlmdefense_demo.ui.bench import Asked, Measurement
from vlmdefense_demo.ui.classroom import Training, example_classes, homework
from vlmdefense_demo.ui.curves import Drawing
from vlmdefense_demo.ui.detectors import Watching
from vlmdefense_demo.ui.form import Comparison, Form
from vlmdefense_demo.ui.jobs import Loading, Place
from vlmdefense_demo.ui.live import Again
from vlmdefense_demo.ui.wire import read_request
from vlmdefense_demo.ui.worker import MOST, START, Step, Worker, alone, reserved

ROOT = Path(__file__).resolve().parents[2]
POCKET = Place("pocket", "cpu")
WAIT = 120.0
JOBS = ("comparison", "call", "again", "watching", "drawing", "training", "measurement", "loading")


@pytest.fixture(scope="module", autouse=True)
def loaded(pocket):
    """Before any fork, as on a Space: a fork that loads pays for it every time."""
    POCKET.preload()


@pytest.fixture(scope="module")
def earlier(photos, loaded) -> tuple[Request, Card]:
    """What a page shows after a run: the request and its undefended card."""
    form = Form(
        picture=str(photos["cat"]), labels="cat, dog", template="a photo of a {}.", truth="",
        goal="wrong", target="", second=None, knows=False, model="pocket", attack="fgsm",
        attack_params={"eps": 4}, defenses={"jpeg": {}}, seed=0,
    )  # fmt: skip
    request, *cards = Worker().collect(Comparison(form, POCKET))
    return request, [card for card in cards if card.method == "undefended"][-1]


@pytest.fixture
def jobs(form, photos, site, earlier, tmp_path) -> Callable[[str], worker.Job]:
    """A small job of every kind that a handler starts."""

    def teach() -> Training:
        filled = example_classes(site)
        work = homework("advpt", filled[:2], [files[:2] for files in filled[5:7]])
        return Training(work, POCKET, {})

    def call() -> Called:
        upload = read_upload(photos["cat"])
        request = read_request(["cat", "dog"], "{}", attack="fgsm", defenses=["fare"])
        return Called(request, upload, upload, POCKET)

    def measurement() -> Measurement:
        asked = Asked(None, 2, (4.0,), False, {"jpeg": {}})
        return Measurement(asked, tmp_path / "rows.jsonl", POCKET)

    some = {"rtpt": {"views": 4}, "ttc": {}}
    make = {
        "comparison": lambda: Comparison(replace(form, defenses=some), POCKET),
        "call": call,
        "again": lambda: Again(*earlier, POCKET),
        "watching": lambda: Watching(*earlier, POCKET),
        "drawing": lambda: Drawing("along", *earlier, POCKET),
        "training": teach,
        "measurement": measurement,
        "loading": lambda: Loading(POCKET),
    }
    assert tuple(make) == JOBS
    return lambda name: make[name]()


@pytest.fixture(autouse=True)
def _short_training(monkeypatch):
    from vlmdefense_demo.training import classroom

    short = {id: replace(r, epochs=2, attack_steps=1) for id, r in classroom.RECIPES.items()}
    monkeypatch.setattr(classroom, "RECIPES", short)


# what is asked


def fake_spaces(asked: list) -> types.ModuleType:
    """The package as it is off ZeroGPU: the decorator hands the function back."""
    module = types.ModuleType("spaces")

    def decorate(*, duration):
        def same(function):
            asked.append((function, duration))
            return function

        return same

    module.GPU = decorate
    return module


@pytest.fixture
def reloaded(monkeypatch):
    """`gpu` as a fresh import finds it; afterwards as it was."""

    def again(spaces: types.ModuleType | None) -> types.ModuleType:
        monkeypatch.setitem(sys.modules, "spaces", spaces)
        return importlib.reload(gpu)

    yield again
    monkeypatch.undo()
    importlib.reload(gpu)


def test_without_the_package_the_decorator_changes_nothing(reloaded, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    fresh = reloaded(None)
    assert fresh.ZERO is False
    assert fresh.lent(reserved)(alone) is alone


def test_off_zerogpu_the_package_changes_nothing_and_hears_the_duration(reloaded, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    asked: list = []
    fresh = reloaded(fake_spaces(asked))
    assert fresh.ZERO is False
    assert fresh.lent(reserved)(alone) is alone
    assert asked == [(alone, reserved)]


@pytest.mark.parametrize(("value", "zero"), [("true", True), ("1", True), ("false", False)])
def test_zerogpu_is_on_where_the_space_says_so(reloaded, monkeypatch, value, zero):
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert reloaded(fake_spaces([])).ZERO is zero


def test_models_to_load_before_the_page_opens(monkeypatch):
    monkeypatch.delenv(gpu.OFFERED, raising=False)
    assert gpu.offered("pocket") == ("pocket",)
    monkeypatch.setenv(gpu.OFFERED, "ViT-B-32, pocket RN50-openai")
    assert gpu.offered("pocket") == ("pocket", "ViT-B-32", "RN50-openai")


def test_a_gpu_is_asked_for_as_long_as_the_job_is(form):
    def asked(**change) -> float:
        return reserved(Comparison(replace(form, **change), POCKET))

    one = asked(defenses={}, attack="fgsm", attack_params={})
    few = asked(defenses={}, attack_params={"steps": 10, "restarts": 1})
    many = asked(defenses={}, attack_params={"steps": 200, "restarts": 1})
    assert START < one < few < many <= MOST
    assert few < asked(defenses={"rtpt": {"views": 64}}, attack_params={"steps": 10, "restarts": 1})
    assert asked() < asked(knows=True) <= MOST
    assert asked(attack_params={"steps": -1}) == START  # refused before any pass


@pytest.mark.parametrize("name", JOBS)
def test_no_job_asks_for_more_than_the_bound(jobs, name):
    assert START <= reserved(jobs(name)) <= MOST


# what crosses the fork


def flat(value: object, path: str = "") -> dict[str, object]:
    """Every leaf of nested dataclasses and containers, but none that measures time."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        skip = ("seconds", "slowdown", "peak_bytes", "training cost")
        items = [(k, v) for k, v in value.items() if k not in skip]
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif isinstance(value, torch.Tensor):
        assert value.device.type == "cpu"
        return {path: (tuple(value.shape), value.tolist())}
    else:
        return {path: value}
    return {k: v for key, item in items for k, v in flat(item, f"{path}.{key}").items()}


def found(events: list) -> list[dict[str, object]]:
    """What a job found out, without progress and durations."""
    kept = [flat(event) for event in events if not isinstance(event, Step)]
    times = "training cost"  # a note whose value names seconds
    return [
        {k: v for k, v in leaves.items() if leaves.get(k.replace(".value", ".title")) != times}
        for leaves in kept
    ]


def in_a_fork(job: worker.Job) -> list:
    """All events of a job in a forked child, pickled. One thread: those of OpenMP do not survive."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(1)
        for event in alone(job):
            theirs.send_bytes(pickle.dumps(event))
        theirs.send_bytes(pickle.dumps(None))

    child = context.Process(target=work, daemon=True)
    child.start()
    events: list = []
    try:
        while True:
            assert ours.poll(WAIT), "the child is silent"
            event = pickle.loads(ours.recv_bytes())
            if event is None:
                return events
            events.append(event)
    finally:
        child.join(5)
        child.kill()


@pytest.mark.parametrize("name", [name for name in JOBS if name != "measurement"])
def test_a_pickled_job_in_a_fork_finds_out_the_same_bit_for_bit(jobs, name):
    job = jobs(name)
    there, here = in_a_fork(pickle.loads(pickle.dumps(job))), list(alone(job))
    assert not [event for event in here if isinstance(event, DemoError)]
    assert found(here)
    assert found(there) == found(here)


def test_what_a_fork_measures_is_in_the_file(jobs):
    job = jobs("measurement")
    assert [event for event in in_a_fork(job) if isinstance(event, tuple)][-1] == (2, 2)
    rows = job.rows.read_text().splitlines()
    assert rows
    assert [event for event in alone(job) if isinstance(event, tuple)][-1] == (2, 2)
    assert job.rows.read_text().splitlines() == rows  # there already, so nothing was added


# errors and Stop


@dataclass(frozen=True)
class Endless:
    """Counts until it is stopped, as every loop of a method does."""

    log: io.StringIO
    seconds: float = 1.0

    def __call__(self, note, stopped) -> Iterator[str]:
        for i in range(10**6):
            if stopped():
                self.log.write("stopped")
                raise Cancelled("Stopped.")
            note("pgd", i, 10**6)
            threading.Event().wait(0.01)
        yield "never"


def ended(log: io.StringIO) -> bool:
    """Whether the endless job was stopped, within a step of its own and a busy machine's patience."""
    for _ in range(2000):
        if log.getvalue():
            break
        threading.Event().wait(0.01)
    return log.getvalue() == "stopped"


def test_a_refusal_crosses_as_its_sentence(form):
    job = Comparison(replace(form, labels="cat"), POCKET)
    last = pickle.loads(pickle.dumps(list(alone(job))))[-1]
    assert isinstance(last, InvalidLabels)
    assert last.hint
    with pytest.raises(InvalidLabels) as raised:
        Worker(forks=True).collect(job)
    assert str(raised.value) == str(last)


def test_stop_is_heard_between_events():
    log, there = io.StringIO(), Worker(forks=True)
    events = there.stream("me", Endless(log))
    assert isinstance(next(events), Step)
    assert there.stop("me")
    with pytest.raises(Cancelled):
        list(events)
    assert ended(log)
    assert not there.stop("me")


def test_a_closed_browser_ends_the_job_in_its_process():
    log = io.StringIO()
    events = Worker(forks=True).stream("me", Endless(log))
    next(events)
    events.close()
    assert ended(log)


def test_a_used_up_quota_reaches_the_person_in_its_own_words(monkeypatch):
    def refused(job):
        raise gr.Error("You have exceeded your GPU quota. <a href='x'>Sign in</a>")
        yield

    monkeypatch.setattr(worker, "alone", refused)
    with pytest.raises(DemoError, match=r"You have exceeded your GPU quota\. Sign in$"):
        Worker(forks=True).collect(Loading(POCKET))


# the order of imports


@pytest.mark.parametrize("module", ["app", "vlmdefense_demo.ui.worker"])
def test_spaces_comes_before_whatever_may_touch_cuda(tmp_path, module):
    """A `spaces` that says what was there when it was imported, and ends the import."""
    (tmp_path / "spaces.py").write_text("import sys\nsys.exit(50 + ('torch' in sys.modules))\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import {module}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 50
