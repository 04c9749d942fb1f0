"""What a person does on the page, in terms of Playwright. Everything is found by id or role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

READY = 60_000  # ms: a busy two-core machine is slow to start a page
RUN = 90_000


class Page:
    """One browser context with the page open, and everything that went wrong in it."""

    def __init__(self, context: Any, url: str) -> None:
        self.context = context
        self.troubles: list[str] = []
        self.tab = context.new_page()
        self.tab.set_default_timeout(READY)
        self.tab.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.tab.on("console", self._console)
        self.tab.on("dialog", self._dialog)
        self.tab.goto(url, timeout=READY)
        self("#go").wait_for()
        self.tab.wait_for_function("document.querySelectorAll('#gallery img').length > 3")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.troubles.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def __call__(self, selector: str) -> Any:
        return self.tab.locator(selector)

    def text(self, selector: str) -> str:
        return self(selector).inner_text()

    def card(self, method: str) -> str:
        """The words of a card, without Gradio's own hidden "processing" beside them."""
        return self.text(f"#card-{method} article")

    def choose(self, number: int) -> None:
        """Click a thumbnail and wait until its photo is the picture."""
        before = self._shown()
        self("#gallery .thumbnail-item").nth(number).click()
        self.tab.wait_for_function(
            "before => { const i = document.querySelector('#picture img');"
            " return i && i.complete && i.src !== before }",
            arg=before,
        )

    def upload(self, path: Path) -> None:
        """Put a file into the picture's file input and wait for the upload to end."""
        if self("#picture img").count():
            self("#picture").get_by_label("Remove Image").click()
            self("#picture img").wait_for(state="detached")
        self("#picture input[type=file]").set_input_files(str(path))
        self("#picture img").wait_for(state="attached")

    def _shown(self) -> str:
        images = self("#picture img")
        return images.get_attribute("src") if images.count() else ""

    def labels(self, words: str) -> None:
        self("#labels textarea").fill(words)

    def steps(self, number: int) -> None:
        box = self("#steps input[type=number]")
        box.fill(str(number))
        box.press("Enter")

    def eps(self, levels: int) -> None:
        self("#eps").get_by_label(str(levels), exact=True).check()

    def attacker_knows(self, knows: bool) -> None:
        words = "knows it" if knows else "does not know the defence"
        self("#knows").get_by_label(words, exact=True).check()

    def attack(self, title: str) -> None:
        self("#attack input").click()
        self.tab.get_by_role("option", name=title, exact=True).click()

    def open_details(self) -> None:
        self.tab.get_by_role("button", name="Details").click()
        self("#seed").wait_for(state="visible")

    def press_run(self) -> None:
        self("#go").click()

    def press_run_in_vain(self) -> None:
        """Press Run on a form that is refused, and wait until the button is back."""
        self.script(
            "() => { const go = document.querySelector('#go'); window.refused = false;"
            " new MutationObserver(() => { window.refused ||= !go.disabled })"
            ".observe(go, {attributes: true, attributeFilter: ['disabled']}) }"
        )
        self.press_run()
        self.tab.wait_for_function("window.refused", timeout=RUN)

    def press_stop(self) -> None:
        self("#stop").click()

    def wait_status(self, *starts: str) -> str:
        """Wait until the status line starts with one of these words."""
        self.tab.wait_for_function(
            "starts => starts.some(s => "
            "document.querySelector('#status').innerText.trim().startsWith(s))",
            arg=list(starts),
            timeout=RUN,
        )
        return self.text("#status").strip()

    def run(self, knows: bool = False) -> str:
        """Run to the end; the run before is over, so its "Done" must go first."""
        self.attacker_knows(knows)
        self.press_run()
        self.tab.wait_for_function(
            "document.querySelector('#stop').disabled === false"
            " || document.querySelector('#status .failed')",
            timeout=RUN,
        )
        return self.wait_status("Done")

    def open_tab(self, name: str) -> None:
        self.tab.get_by_role("tab", name=name).click()

    def pick(self, id: str, option: str) -> None:
        """Choose an option of a dropdown that cannot be typed into."""
        self(f"#{id} input").click()
        self.tab.get_by_role("option", name=option, exact=True).click()

    def violations(self, selector: str) -> list[str]:
        """What axe finds inside an element, by WCAG 2 A and AA, as one line each."""
        from axe_playwright_python.sync_playwright import Axe

        self.settle()
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
        found = Axe().run(self.tab, context=selector, options=rules).response["violations"]
        return [f"{v['id']}: {node['html']}" for v in found for node in v["nodes"]]

    def settle(self) -> None:
        """Wait until nothing fades: halfway between two colours neither is what a person reads."""
        self.script(
            "async () => { for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);"
            " const ends = a => a.playState === 'running'"
            " && a.effect.getComputedTiming().endTime !== Infinity;"
            " await Promise.allSettled(document.getAnimations().filter(ends)"
            ".map(a => a.finished)) }"
        )

    def script(self, code: str) -> Any:
        return self.tab.evaluate(code)
