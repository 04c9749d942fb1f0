"""One running app, one API client and one browser for all tests of the page."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ui.page import Page
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.run import Run
from vlmdefense_demo.ui.examples import examples
from vlmdefense_demo.ui.form import Form
from vlmdefense_demo.ui.site import Site


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """caption -> path of the gallery's photos, which ship inside installed packages."""
    return {example.caption: example.path for example in examples()}


@pytest.fixture(scope="session")
def pocket() -> Any:
    """The shared embedded model."""
    return load_model("pocket", "auto")


@pytest.fixture(scope="session")
def app_url(pocket: Any) -> Iterator[str]:
    """The address of the app, launched exactly as `python app.py` launches it."""
    import app

    _, url, _ = app.demo.launch(prevent_thread_lock=True, quiet=True, **app.launch_options())
    yield url
    app.demo.close(verbose=False)


@pytest.fixture(scope="session")
def client(app_url: str) -> Any:
    from gradio_client import Client

    return Client(app_url, verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium. In CI its absence is a failure, elsewhere a skip."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        no = pytest.fail if os.environ.get("CI") else pytest.skip
        no("the browser tests need chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, app_url: str) -> Iterator[Any]:
    """Opens the page in a context of its own; any dialog or console error fails the test."""
    opened: list[Page] = []

    def open_page(query: str = "", **context: Any) -> Page:
        opened.append(Page(browser.new_context(**context), app_url + query))
        return opened[-1]

    yield open_page
    for page in opened:
        page.context.close()
    assert [trouble for page in opened for trouble in page.troubles] == []


@pytest.fixture
def page(visit: Any) -> Page:
    return visit()


@pytest.fixture
def site() -> Site:
    """A page's shared state of its own, beside the running app's."""
    return Site("cpu")


@pytest.fixture
def form(photos: dict[str, Path]) -> Form:
    """What the page sends: a cat, three labels, three steps, two defences."""
    return Form(
        picture=str(photos["cat"]), labels="cat, dog\nlion", template="a photo of a {}.", truth="",
        goal="wrong", target="", second=None, knows=False, model="pocket", attack="pgd", attack_params={"eps": 4, "steps": 3},
        defenses={"fare": {}, "ttc": {}}, seed=0,
    )  # fmt: skip


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch, site: Site) -> Any:
    """Presses Stop, as session "me", when a method at a path takes its second step."""
    step = Run.step

    def arm(path: str) -> None:
        def pressing(self: Run, i: int, total: int) -> None:
            if self.path.startswith(path) and i == 1:
                assert site.worker.stop("me")
            step(self, i, total)

        monkeypatch.setattr(Run, "step", pressing)

    return arm
