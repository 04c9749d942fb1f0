"""Lecture mode and the ready stories in a real browser; nothing is computed for either."""

from __future__ import annotations

import pytest

import app
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.stories.facts import load
from vlmdefense_demo.stories.lessons import LESSONS
from vlmdefense_demo.stories.recipes import RECIPES
from vlmdefense_demo.stories.slides import NUMBERS, PARADIGM, slides
from vlmdefense_demo.ui.lecture import head
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES

pytestmark = pytest.mark.browser

ROOM = {"width": 1280, "height": 720}
FIRST, STEP = RECIPES[0].slug, RECIPES[1].slug
HERE = ".lec-slide:not([hidden])"
OPEN = "!!document.querySelector('#lecture-view[open]')"
SPILL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
ON_SCREEN = """(selector) => [...document.querySelectorAll('.lec-slide:not([hidden]) ' + selector)]
  .filter((e) => { const b = e.getBoundingClientRect(), s = getComputedStyle(e);
    return b.width > 40 && b.height > 15 && b.left >= 0 && b.top >= 0 && s.visibility === 'visible'
      && b.right <= innerWidth && b.bottom <= innerHeight
      && (e.tagName !== 'IMG' || (e.complete && e.naturalWidth === 224)); }).length"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll('.lec-slide:not([hidden]) '
  + ':is(.lec-say, .lec-cards, .lec-pair) :is(p, span, b, h3, button, figcaption, .cost)')]
  .filter((e) => e.innerText && e.offsetWidth).map((e) => parseFloat(getComputedStyle(e).fontSize)))"""
FITS = """() => { const v = document.querySelector('#lecture-view'), found = [];
  const press = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  const select = v.querySelector('.lec-story');
  for (const option of select.options) {
    select.value = option.value;
    select.dispatchEvent(new Event('change', {bubbles: true}));
    for (let step = 1; step <= 8; step++) {
      v.querySelector(`[data-go="${step}"]`).click();
      press('Enter');
      found.push([option.value, step, v.scrollHeight - v.clientHeight, v.scrollWidth - v.clientWidth]);
    }
  }
  return found; }"""


INSIDE = """() => [...document.querySelectorAll('.lec-slide')].flatMap((slide) => {
  slide.hidden = false;
  slide.classList.add('open');
  const bars = [...slide.querySelectorAll('.lec-bars')].map((e) => [e.scrollWidth - e.clientWidth,
    [...e.querySelectorAll('b')].reduce((sum, bar) => sum + parseFloat(bar.style.width), 0)]);
  slide.hidden = true;
  return bars; })"""


def title(page) -> str:
    return page.text(".lec-slide:not([hidden]) h2").split("\n")[-1]


def on_screen(page, selector: str) -> int:
    return page.tab.evaluate(ON_SCREEN, selector)


def test_all_eight_steps_are_walked_by_keys_without_a_network(visit):
    page = visit("?view=lecture", viewport=ROOM)
    page.tab.wait_for_function(OPEN)
    page.context.set_offline(True)
    for slide in slides(LESSONS[FIRST], load(RECIPES[0]), ENGLISH):
        assert title(page).endswith(slide.title)
        assert f"#lecture/{FIRST}/{slide.number}" in page.tab.url
        if slide.quiz:
            asked(page, slide)
        page.tab.wait_for_function(f"({ON_SCREEN})('.lec-pair img') >= {2 - (slide.number == 1)}")
        assert on_screen(page, ".lec-verdict") == 1
        if slide.number >= min(PARADIGM):
            assert on_screen(page, ".card") >= 3
        assert page.tab.evaluate(SMALLEST) >= 20
        page.tab.keyboard.press("ArrowRight")
    assert title(page).endswith(ENGLISH("step.8"))
    page.tab.keyboard.press("PageUp")
    assert title(page).endswith(ENGLISH("step.7"))
    assert page(f"{HERE} .lec-notes").is_hidden()
    page.tab.keyboard.press("n")
    assert ENGLISH(f"lesson.{FIRST}.message") in page.text(f"{HERE} .lec-notes")
    page.tab.keyboard.press("Home")
    assert title(page).endswith(ENGLISH("step.1"))
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_function(f"!({OPEN})")
    assert "lecture" not in page.tab.url
    page.context.set_offline(False)


def asked(page, slide) -> None:
    """The question stands alone; a wrong vote at step 2, the key for "on" elsewhere, reveals."""
    options, right = slide.quiz.options, slide.quiz.right
    assert on_screen(page, ".lec-quiz button") == len(options)
    assert on_screen(page, ".lec-verdict") == on_screen(page, ".card") == 0
    wrong = next(i for i in range(len(options)) if i != right)
    page.tab.keyboard.press(str(wrong + 1) if slide.number == 2 else "Space")
    assert options[right] in page.text(f"{HERE} .lec-quiz .right")
    assert options[right] in page(".lec-live").text_content()
    if slide.number == 2:
        assert options[wrong] in page.text(f"{HERE} .lec-quiz .wrong")
    assert page.script("document.activeElement.tagName") == "H2"


def test_no_story_has_to_be_scrolled_and_a_reload_stays_where_it_was(visit):
    page = visit("?view=lecture", viewport=ROOM, reduced_motion="reduce")
    page.tab.wait_for_function(OPEN)
    found = page.script(FITS)
    assert len(found) == len(RECIPES) * len(NUMBERS)
    assert [row for row in found if row[2] > 0 or row[3] > 0] == []
    page(".lec-story").select_option(STEP)
    page(".lec-bar [data-go='4']").click()
    page.tab.reload()
    page.tab.wait_for_function(OPEN)
    assert f"#lecture/{STEP}/4" in page.tab.url
    assert title(page).endswith(ENGLISH("step.4"))
    assert page(".lec-story").input_value() == STEP
    assert page.violations("#lecture-view") == []


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_no_story_has_to_be_scrolled_in_another_language(visit, code):
    page = visit(f"?view=lecture&lang={code}", viewport=ROOM, reduced_motion="reduce")
    page.tab.wait_for_function(OPEN)
    found = page.script(FITS)
    assert len(found) == len(RECIPES) * len(NUMBERS)
    assert [row for row in found if row[2] > 0 or row[3] > 0] == []
    page(".lec-bar [data-go='2']").click()
    mark = "getComputedStyle(document.querySelector('.lec-slide.step-2.open .right'), '::after')"
    assert LANGUAGES[code]("lec.right") in page.script(f"{mark}.content")
    assert page.violations("#lecture-view") == []


def test_bars_are_all_there_is_and_stay_in_their_column_on_a_phone(visit):
    page = visit("?view=lecture", viewport={"width": 390, "height": 844})
    page.tab.wait_for_function(OPEN)
    bars = page.script(f"({INSIDE})()")
    assert len(bars) == 2 * len(RECIPES)
    for over, together in bars:
        assert over <= 0
        assert together == pytest.approx(100, abs=0.1)


def test_axe_finds_nothing_in_the_dark(visit):
    page = visit(f"#lecture/{FIRST}/8", viewport=ROOM, color_scheme="dark", reduced_motion="reduce")
    page.tab.wait_for_function(OPEN)
    page.tab.keyboard.press("1")
    page.tab.keyboard.press("n")
    assert page.violations("#lecture-view") == []


def test_the_key_opens_it_on_a_phone_too_but_not_while_somebody_types(visit):
    page = visit(viewport={"width": 390, "height": 844})
    page.tab.wait_for_function("!!document.querySelector('#lecture-view')")
    before = page("#labels textarea").input_value()
    page("#labels textarea").press("l")
    assert len(page("#labels textarea").input_value()) == len(before) + 1
    assert page.script(OPEN) is False
    assert page.script(SPILL) == 0
    page("#open-lecture").focus()
    page.tab.keyboard.press("l")
    page.tab.wait_for_function(OPEN)
    assert max(row[3] for row in page.script(FITS)) == 0
    page(".lec-bar").get_by_role("button", name="Leave").click()
    page.tab.wait_for_function(f"!({OPEN})")
    assert page.script("document.activeElement.id") == "open-lecture"
    page("#open-lecture").click()
    page.tab.wait_for_function(OPEN)


def test_a_ready_story_is_on_the_page_at_once(page):
    facts = load(RECIPES[1])
    page("#stories").get_by_text(ENGLISH(f"lesson.{STEP}"), exact=True).click()
    status = page.wait_status(ENGLISH(f"lesson.{STEP}"))
    assert "nothing was computed" in status
    assert f"{facts.clean.label} " in page.text("#verdict h2")
    assert f"{facts.attacked.label} " in page.text("#verdict h2")
    page.tab.wait_for_function("document.querySelector('#attack input').value === 'FGSM'")
    for card in facts.defended:
        page(f"#card-{card.method} .chip").wait_for(state="visible")
    page.tab.wait_for_timeout(500)  # the controls' own events follow
    assert page.script("document.body.classList.contains('stale')") is False
    page.eps(8)  # somebody touches a control: now it is
    page.tab.wait_for_function("document.body.classList.contains('stale')")


def test_the_flag_opens_every_visit_with_the_lecture():
    meta = '<meta name="vd-view" content="lecture">'
    assert app.parse(["--lecture"]).lecture is True
    assert app.launch_options(lecture=True)["head"] == meta + app.launch_options()["head"]
    assert not head().startswith(meta)


def test_the_lecture_is_one_file_that_needs_nothing_else(browser, tmp_path):
    file = tmp_path / "lecture.html"
    assert main(["stories", "--html", str(file)]) == 0
    context = browser.new_context(viewport=ROOM, offline=True)
    tab, asked, troubles = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.goto(file.as_uri())
    tab.wait_for_function(OPEN)
    for _ in range(16):  # each question takes a key more
        tab.keyboard.press("ArrowRight")
    assert tab.url.endswith(f"#lecture/{FIRST}/8")
    assert tab.evaluate(ON_SCREEN, "article") >= 3
    assert tab.evaluate(ON_SCREEN, ".lec-pair img") == 2
    tab.keyboard.press("Escape")
    assert not tab.evaluate(OPEN)
    tab.get_by_role("button", name="Open the lecture").click()
    assert tab.evaluate(OPEN)
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert troubles == []
