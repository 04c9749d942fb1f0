"""The page in a real browser, on the embedded model. Any console error or dialog is a failure."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from tests.ui import stories
from vlmdefense_demo.survey import entry, first
from vlmdefense_demo.ui.first import STORY
from vlmdefense_demo.ui.words import ENGLISH

pytestmark = pytest.mark.browser

CAT, LION, COFFEE = 0, 1, 3
TICKED = first("pocket")
VERDICT = re.compile("held|fooled|wrong on clean|untested")
SPILL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def left(page, selector: str) -> float:
    return page(selector).bounding_box()["x"]


def order_on_page(page) -> list[str]:
    """Titles of the cards column by column, from top to bottom."""
    articles = page("article.card:visible").all()  # the lecture has cards of its own
    boxes = [(a.bounding_box(), a.locator("h3").inner_text()) for a in articles]
    return [t for _, t in sorted(boxes, key=lambda b: (round(b[0]["x"] / 40), b[0]["y"]))]


# first paint


def test_first_paint_shows_title_and_a_finished_story_without_a_click(page):
    assert page.tab.title() == ENGLISH("title")
    assert page.text("#title h1") == ENGLISH("title")
    assert page("#gallery .thumbnail-item").count() == 8
    assert page.script("document.body.classList.contains('stale')") is False
    assert page("#go").is_enabled()
    assert not page("#stop").is_enabled()
    if STORY.exists():
        assert "precomputed" in page.text("#verdict .badge")
        assert "→" in page.text("#verdict h2")
        assert VERDICT.search(page.text("#undefended .chip"))
        assert all(VERDICT.search(page.card(id)) for id in TICKED)
        assert page("#download").is_enabled()
    else:
        assert all("ready" in page.card(id) for id in TICKED)


# the default path


def test_thumbnail_and_run_give_a_card_a_defence_with_a_verdict(page):
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    status = page.run()
    assert re.match(r"Done: \d of \d defences held against an attacker who does not know", status)
    assert page.text("#verdict h2").startswith("cat")
    assert VERDICT.search(page.text("#undefended .chip"))
    for id in TICKED:
        assert VERDICT.search(page.text(f"#card-{id} .chip"))
        assert "not run" in page.text(f"#card-{id} .ladder")
        assert " f" in page.text(f"#card-{id} .cost")
    titles = [row.title for row in map(entry, TICKED)]
    assert order_on_page(page) == ["Undefended", *titles]
    assert page("#pair img").count() == 2


def test_cards_appear_before_the_run_is_over(page):
    page.choose(CAT)
    page.labels("cat, dog, lion")
    page.attacker_knows(False)
    page.press_run()
    page.tab.wait_for_function(
        "document.querySelector('#card-ttc').innerText.match(/queued|running/)"
        " && document.querySelector('#undefended .chip.held, #undefended .chip.fooled')"
    )
    assert page("#stop").is_enabled()
    assert not page("#go").is_enabled()
    page.wait_status("Done")


def test_unticking_a_defence_leaves_it_off(page):
    page.choose(CAT)
    page("#choose-test_time").get_by_label("R-TPT").uncheck()
    page("#choose-training_free").get_by_label("TTC").uncheck()
    page.run()
    assert page("#card-rtpt").is_hidden()
    assert page("#card-ttc").is_hidden()
    assert VERDICT.search(page.text("#card-fare .chip"))
    page("#choose-test_time").get_by_label("R-TPT").check()
    page("#card-rtpt").wait_for(state="visible")
    page.run()
    assert VERDICT.search(page.text("#card-rtpt .chip"))


def test_changing_a_control_marks_results_stale_and_run_clears_it(page):
    page.choose(CAT)
    page.run()
    stale = "document.body.classList.contains('stale')"
    assert page.script(stale) is False
    opacity = "+getComputedStyle(document.querySelector('#card-fare article')).opacity"
    assert page.script(opacity) == 1
    assert page.text(".stale-note") == ""
    page.eps(8)
    page.tab.wait_for_function(stale)
    page.tab.wait_for_function(f"{opacity} < 0.9")
    page.tab.wait_for_function(
        "+getComputedStyle(document.querySelector('#compare .result')).opacity < .9"
    )
    assert page.text(".stale-note") == (
        "The controls have changed: these results are of the run before."
    )
    assert page(".stale-note").get_attribute("role") == "status"
    page.run()
    assert page.text(".stale-note") == ""
    assert page.script(stale) is False
    page.tab.wait_for_function(f"{opacity} === 1")


def test_a_preset_is_named_as_long_as_its_labels_stand_there(page):
    assert page("#preset input").input_value() == "Everyday things"
    page.labels("lynx, lion")
    page("#labels textarea").press("Tab")
    page.tab.wait_for_function("document.querySelector('#preset input').value === ''")
    page.labels("coffee, pizza, hamburger\nstrawberry，wine, ice cream, soup, bread,")
    page("#labels textarea").press("Tab")
    page.tab.wait_for_function("document.querySelector('#preset input').value === 'Food and drink'")


# uploads


def test_results_stay_stale_where_the_server_refuses(page):
    stale = "document.body.classList.contains('stale')"
    page.steps(7)
    page.tab.wait_for_function(stale)
    full = {"status": 503, "json": {"detail": "Queue is full."}}
    page.tab.route("**/queue/join*", lambda route: route.fulfill(**full))
    page("#go").click()
    page.tab.get_by_text("currently busy").first.wait_for()  # Gradio's words
    assert page.script(stale), "the results are still those of other settings"
    page.tab.unroute("**/queue/join*")
    page.troubles.clear()  # the console tells of the 503
    page.run()
    assert not page.script(stale)


def test_an_upload_is_run(page, tmp_path, photos):
    path = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    Image.open(photos["coffee"]).convert("RGB").save(path, quality=95)
    page.upload(path)
    page.labels("coffee, dog, car")
    page.run()
    assert page.text("#verdict h2").startswith("coffee")


def test_the_downloaded_file_still_fools_after_upload(page, tmp_path):
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    page.eps(8)
    page.run()
    before, after = (x.strip() for x in page.text("#verdict h2").split("→"))
    assert before.split()[0] == "cat" != after.split()[0]
    with page.tab.expect_download() as download:
        page("#download").click()
    path = tmp_path / "adversarial.png"
    download.value.save_as(path)
    page.upload(path)
    page.run()
    assert page.text("#verdict h2").split("→")[0].split()[0] == after.split()[0]


def test_an_upload_made_here_sets_the_controls_as_they_were(page, visit, tmp_path):
    page.choose(CAT)
    page.labels("cat, dog = wolf, lion, car")
    page.eps(8)
    page.steps(3)
    page.run()
    with page.tab.expect_download() as download:
        page("#download").click()
    path = tmp_path / "adversarial.png"
    download.value.save_as(path)
    other = visit()
    other.labels("a, b")
    other.eps(1)
    other.upload(path)
    said = other.wait_status("Made by this demo")
    assert said.startswith("Made by this demo: PGD, ε 8, seed 0.")
    assert other("#labels textarea").input_value() == "cat, dog = wolf, lion, car"
    assert other("#eps").get_by_label("8", exact=True).is_checked()
    assert other("#steps input[type=number]").input_value() == "3"


def test_an_attack_shows_its_own_controls_only(page):
    page.attack("Typographic")
    page("#eps").wait_for(state="hidden")
    assert page("#steps").is_hidden()
    page.attack("PGD · L2")
    page("#steps").wait_for(state="visible")
    assert page("#eps").is_hidden()
    page.open_details()
    assert page.tab.get_by_label("number input for radius").is_visible()
    page.attack("PGD")
    page("#eps").wait_for(state="visible")
    assert page.tab.get_by_label("number input for radius").is_hidden()


def test_an_attacker_who_knows_the_defence_is_shown_beside_the_one_who_does_not(page):
    page.choose(CAT)
    page.labels("cat, dog, lion, car")
    page.eps(4)
    page("#choose-test_time").get_by_label("R-TPT").uncheck()
    page("#choose-training_free").get_by_label("TTC").uncheck()
    status = page.run(knows=True)
    card = page.card("fare")
    assert "against one who does" in status
    assert "attacker knows" in card
    assert re.search(r"white box\s+(held|fooled)", card)
    assert re.search("(Broken by|Not broken; last tried:) ", page.text("#card-fare .story"))


def test_a_corrupt_upload_is_one_sentence_and_loses_nothing(page, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    page.choose(CAT)
    page.run()
    card = page.card("fare")
    page.labels("cat, dog, lion")
    page.eps(8)
    page.steps(7)
    page.upload(path)
    sentence = "This is not a picture that can be read, or it is damaged"
    page.wait_status(sentence)
    page.press_run_in_vain()
    page.wait_status(sentence)
    assert page("#labels textarea").input_value() == "cat, dog, lion"
    assert page("#eps").get_by_label("8", exact=True).is_checked()
    assert page("#steps input[type=number]").input_value() == "7"
    assert page.card("fare") == card
    assert page("#go").is_enabled()
    page.choose(LION)
    page.run()
    assert page.text("#verdict h2").startswith("lion")


# stop


def test_stop_ends_a_long_run_and_the_next_one_works(page):
    page.choose(CAT)
    page.labels("cat, dog, lion")
    page.eps(1)
    page.steps(200)
    page.tab.get_by_role("button", name="R-TPT settings").click()
    views = page.tab.get_by_label("number input for views")
    views.fill("64")
    views.press("Enter")
    page.press_run()
    page.wait_status("PGD: step")
    page.press_stop()
    assert page.wait_status("Stopped.", "Done") == "Stopped."
    for id in TICKED:
        assert page.text(f"#card-{id} .chip") == "stopped"
    assert page.text("#undefended .chip") == "stopped"
    assert page("#pair img").count() == 0
    assert not page("#download").is_enabled()
    assert not page("#stop").is_enabled()
    page.steps(2)
    views.fill("2")
    views.press("Enter")
    page.run()
    assert all(VERDICT.search(page.text(f"#card-{id} .chip")) for id in TICKED)
    assert page("#pair img").count() == 2


# hostile text


def test_labels_stay_text_everywhere(page):
    page.choose(CAT)
    page.labels(", ".join(stories.HOSTILE))
    page.eps(8)
    page.run()
    shown = page.text("body")
    assert stories.HOSTILE[3] in page.text("#undefended")
    assert any(label in shown for label in stories.HOSTILE[:3])
    assert page("img[src=x]").count() == 0
    page.labels(f"{stories.HOSTILE[0]}, dog")
    page.open_details()
    page("#truth textarea, #truth input").first.fill(stories.HOSTILE[0] + "?")
    page.press_run()
    page("#status .failed").wait_for()
    assert "<img src=x" in page.text("#status")
    assert page("img[src=x]").count() == 0


# two people


def test_two_people_at_once_see_only_their_own_labels(visit):
    ours = {"cat, dog, lion": CAT, "coffee, soup, wine": COFFEE}
    pages = {labels: visit() for labels in ours}
    for labels, page in pages.items():
        page.choose(ours[labels])
        page.attacker_knows(False)
        page.labels(labels)
    for page in pages.values():
        page.press_run()
    for labels, page in pages.items():
        page.wait_status("Done")
        mine, theirs = (set(w.split(", ")) for w in (labels, *(set(ours) - {labels})))
        answers = {b.inner_text() for b in page("article.card:visible .answer b").all()}
        assert answers <= mine
        assert not answers & theirs
        assert page.text("#verdict h2").split()[0] in mine


# shape


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_horizontal_scroll_at_any_width(visit, scheme):
    page = visit(color_scheme=scheme)
    page.choose(CAT)
    page.labels(f"cat, {'w' * 38} {'i' * 38}, lion, dog")
    page.run()
    page("details.more summary").first.click()
    page.open_details()
    for width in (390, 768, 1280, 1920):
        page.tab.set_viewport_size({"width": width, "height": 900})
        page.tab.wait_for_function(f"window.innerWidth === {width}")
        assert page.script(SPILL) <= 0, f"scrolls sideways at {width} px"


def test_three_paradigms_stand_in_three_columns_on_a_laptop_and_in_one_on_a_phone(visit):
    page = visit(viewport={"width": 1440, "height": 900})
    cards = [f"#card-{id}" for id in ("fare", "rtpt", "ttc")]
    lefts = [left(page, card) for card in cards]
    assert lefts == sorted(lefts)
    assert lefts[2] - lefts[0] > 600
    page.tab.set_viewport_size({"width": 390, "height": 844})
    page.tab.wait_for_function("window.innerWidth === 390")
    assert len({round(left(page, card)) for card in cards}) == 1


def test_a_single_long_word_is_broken_and_not_cut_off_on_a_phone(visit):
    page = visit(viewport={"width": 390, "height": 844})
    page.labels(f"{'supercalifragilistic' * 4}, cat")
    page.run()
    found = page.script(
        "[...document.querySelectorAll('#verdict h2, #verdict dd, #undefended .num, .legend span')]"
        ".map(e => [e.innerText, e.getBoundingClientRect().right])"
    )
    assert len(found) > 8
    assert [(text, right) for text, right in found if right > 392] == []


def test_the_page_stands_in_the_middle_of_a_projector(visit):
    page = visit(viewport={"width": 1920, "height": 1080})
    left, right = page.script(
        "(({left, right}) => [left, innerWidth - right])"
        "(document.getElementById('top').getBoundingClientRect())"
    )
    assert left > 100
    assert abs(left - right) <= 1


def test_the_controls_of_an_attack_stand_in_one_line_on_a_laptop(visit):
    page = visit(viewport={"width": 1280, "height": 720})
    tops = page.script(
        "['attack', 'eps', 'steps', 'knows'].map(id => document.getElementById(id).offsetTop)"
    )
    assert len(set(tops)) == 1
    ends = "e => e.scrollWidth - e.clientWidth"
    assert page("#steps").evaluate(ends) <= 0


def test_examples_are_called_what_they_show(visit):
    items = visit()("#gallery .thumbnail-item")
    items.first.and_(items.page.locator("[aria-label=cat]")).wait_for()
    named = items.evaluate_all("all => all.map(one => [one.ariaLabel, one.innerText.trim()])")
    assert len(named) == 8
    assert [told for told, seen in named if told != seen] == []


def test_examples_are_not_clipped(visit):
    for width in (390, 1440):
        page = visit(viewport={"width": width, "height": 900})
        box = page("#gallery").bounding_box()
        last = page("#gallery .thumbnail-item").last.bounding_box()
        assert last["y"] + last["height"] <= box["y"] + box["height"] + 1
        assert abs(last["width"] - last["height"]) <= 2
        assert last["y"] + last["height"] <= page("#picture").bounding_box()["y"] + 1


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system(visit, scheme, dark):
    page = visit(color_scheme=scheme)
    brightness = (
        "s => { const c = getComputedStyle(document.querySelector(s)).{};"
        " return c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3 }"
    )
    for selector in ("#card-fare article", ".vd-panel", ".gradio-container"):
        paper = page.tab.evaluate(brightness.replace("{}", "backgroundColor"), selector)
        assert (paper < 60) == dark
        assert (paper > 200) != dark
    ink = page.tab.evaluate(brightness.replace("{}", "color"), "#card-fare h3")
    assert (ink > 200) == dark


# keyboard


def test_run_is_reached_by_tab_and_pressed_by_enter(page):
    page.choose(CAT)
    page.attacker_knows(False)
    page("#labels textarea").focus()
    for _ in range(40):
        page.tab.keyboard.press("Tab")
        if page.script("document.activeElement.id") == "go":
            break
    else:
        pytest.fail("Tab never reached Run")
    page.tab.keyboard.press("Enter")
    assert page.wait_status("Done")


def test_no_request_leaves_the_machine(visit, app_url):
    page = visit()
    foreign = []
    page.tab.on("request", lambda r: foreign.append(r.url) if app_url not in r.url else None)
    page.tab.reload()
    page("#go").wait_for()
    page.choose(CAT)
    page.run()
    assert [url for url in foreign if not url.startswith(("data:", "blob:"))] == []


@pytest.mark.parametrize("width", [390, 1920])
def test_nothing_is_wider_than_the_window(visit, width):
    page = visit(viewport={"width": width, "height": 900})
    assert page.script(SPILL) <= 0
    blocks = "#top, #stories, #change, #strip, #undefended, #curves, #detectors, #tabs"
    rights = page.script(
        f"[...document.querySelectorAll('{blocks}')].map(e => e.getBoundingClientRect().right)"
    )
    assert len(rights) == 8
    assert max(rights) <= width
    for name in ("What is going on?", "Benchmark", "Survey"):
        page.open_tab(name)
