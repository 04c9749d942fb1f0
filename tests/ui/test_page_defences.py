"""In a browser: ticking, a live setting, and the classroom."""

from __future__ import annotations

import re

from tests.ui.page import RUN

CAT = 0


def test_unticked_defences_have_no_card_and_no_settings(page):
    page("#card-fare").wait_for(state="visible")
    page("#choose-training_time").get_by_label("FARE").uncheck()
    page("#card-fare").wait_for(state="hidden")
    page.tab.get_by_role("button", name="FARE settings").wait_for(state="hidden")
    page("#choose-training_time").get_by_label("FARE").check()
    page("#card-fare").wait_for(state="visible")


def test_moving_alpha_changes_both_bars_without_pressing_run(page):
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    page.run()
    before = page.card("fare")
    page.tab.get_by_role("button", name="FARE settings").click()
    field = page.tab.get_by_label("number input for alpha")
    field.fill("0")
    # The slider follows a moment later, and what is released is where it stands.
    page.tab.wait_for_function(
        "document.querySelector('input[type=range][aria-label=\"range slider for alpha\"]').value === '0'"
    )
    field.blur()
    page.wait_status("FARE again, on the same file")
    after = page.card("fare")
    assert after != before
    assert re.search(r"\bfooled\b", after)
    assert not page("body.stale").count()


def test_a_prompt_is_trained_used_and_forgotten(page):
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    page.tab.get_by_role("button", name=re.compile("Train a prompt defence")).click()
    page("#teach-fill").click()
    page.tab.wait_for_function("document.querySelectorAll('#classroom .file-preview').length == 5")
    page.tab.get_by_role("radio", name="AdvPT", exact=True).click()
    page("#teach-go").click()
    page("#teach-status").get_by_text("AdvPT is trained").wait_for(timeout=RUN)
    assert page("#teach-curve svg").count() == 1
    page("#card-advpt").wait_for(state="visible")
    page.run()
    assert "trained here" in page("#card-advpt").text_content()
    page.tab.wait_for_function("!document.body.classList.contains('stale')")
    page("#teach-forget").click()
    page("#teach-status").get_by_text("Forgotten").wait_for()
    page("body.stale").wait_for()


def test_the_classroom_says_what_is_missing(page):
    page.tab.get_by_role("button", name=re.compile("Train a prompt defence")).click()
    page("#teach-go").click()
    page("#teach-status").get_by_text("expected at least 2, got 0").wait_for()
    assert page("#teach-go").is_enabled()


def pick(page, box, title):
    page(f"#{box} input").click()
    page.tab.get_by_role("option", name=title, exact=True).click()
    page.tab.wait_for_function("!document.querySelector('[role=option]')")  # it fades


def test_two_defences_are_chained_and_their_settings_stay_at_hand(page):
    pick(page, "pipe-first", "JPEG")
    pick(page, "pipe-second", "FARE")
    page("#card-pipeline").get_by_text("JPEG, then FARE").wait_for()
    page.tab.get_by_role("button", name="JPEG settings").wait_for(state="visible")
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    page.run()
    before = page.card("pipeline")
    assert "JPEG, then FARE" in before
    assert "clean" in before
    page.tab.get_by_role("button", name="JPEG settings").click()
    field = page.tab.get_by_label("number input for quality")
    field.fill("10")
    field.blur()
    page.wait_status("JPEG, then FARE again, on the same file")
    assert page.card("pipeline") != before
    pick(page, "pipe-first", "none")
    page("#card-pipeline").wait_for(state="hidden")
    page.tab.get_by_role("button", name="JPEG settings").wait_for(state="hidden")
