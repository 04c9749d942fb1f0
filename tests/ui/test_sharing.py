"""A file or a link sets the page's controls; a button makes the link."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.ui import stories
from vlmdefense_demo.images import from_png, to_png
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.survey import first
from vlmdefense_demo.ui import sharing
from vlmdefense_demo.ui.examples import examples
from vlmdefense_demo.ui.lecture import shipped
from vlmdefense_demo.ui.link import OWN
from vlmdefense_demo.ui.recipe import checked
from vlmdefense_demo.ui.sharing import make_link
from vlmdefense_demo.ui.shelf import SIDE, Shelf

CAT, LION = 0, 1
TICKED = "[...document.querySelectorAll('[id^=choose-] input:checked')].map(i => i.name)"
STALE = "document.body.classList.contains('stale')"
SPILL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def shelf():
    return Shelf(SimpleNamespace(photos=examples(), stories=()), None)


def test_what_was_learned_here_stays_on_offer_whatever_is_chosen():
    page = SimpleNamespace(params={}, model=SimpleNamespace(value="ViT-B-32"))
    about = {"labels": ["cat", "dog"], "template": "a photo of a {}.", "model": "ViT-B-32",
             "attack": "pgd", "seed": 0, "defenses": {"fare": {}}}  # fmt: skip
    learned = {"apt": LearnedContext(torch.zeros(4, 8), model="ViT-B-32")}
    boxes = {
        own: sharing._defences(page, checked(about), learned if own else {})[0]
        for own in (False, True)
    }
    offered = {own: "apt" in [id for _, id in box["choices"]] for own, box in boxes.items()}
    assert offered == {False: False, True: True}
    assert [box["value"] for box in boxes.values()] == [["fare"]] * 2


# making a link


def test_a_picture_is_known_by_its_content(shelf, photos, tmp_path):
    copy = tmp_path / "x.png"
    copy.write_bytes(photos["cat"].read_bytes())
    assert shelf.name(str(copy)) == "cat"
    copy.write_bytes(photos["cat"].read_bytes() + b" ")
    assert shelf.name(str(copy)) == OWN
    assert shelf.name(None) == ""
    copy.unlink()
    assert shelf.name(str(copy)) == OWN, "what was uploaded is deleted after a while"


def test_the_first_picture_is_the_photo_it_was_cut_from(photos, tmp_path):
    from PIL import Image

    from vlmdefense_demo.images import fit, read_upload

    page, path = SimpleNamespace(photos=examples(), stories=()), tmp_path / "clean.png"
    fit(read_upload(photos["coffee"]).image, SIDE).save(path)
    shelf = Shelf(page, str(path))
    assert shelf.first == shelf.name(str(path)) == "coffee"
    changed = Image.open(path).convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)
    assert Shelf(page, str(path)).first == OWN


def test_the_picture_of_every_story_is_a_photo_of_the_gallery(tmp_path):
    told = shipped()
    shelf = Shelf(SimpleNamespace(photos=examples(), stories=told), None)
    assert told
    for facts in told:
        path = tmp_path / f"{facts.recipe.slug}.png"
        path.write_bytes(to_png(from_png(facts.story.clean)))
        assert shelf.name(str(path)) in shelf.paths, facts.recipe.slug


def test_the_note_says_what_does_not_travel(form, shelf, tmp_path):
    box, note = make_link(form, shelf)
    assert box["value"].startswith("?v=1&picture=cat&labels=cat,dog,lion&")
    assert "does not travel" not in note
    own = tmp_path / "own.png"
    own.write_bytes(b"mine")
    lost = replace(form, picture=str(own), model="local-dir:/x", goal="picture", second=str(own))
    box, note = make_link(lost, shelf)
    assert "picture=own" in box["value"]
    assert "Your own picture does not travel" in note
    assert "The second picture does not travel" in note
    assert "not named in it" in note


def test_a_form_that_cannot_run_makes_no_link_but_a_sentence(form, shelf):
    box, note = make_link(replace(form, labels="<b>cat</b>"), shelf)
    assert (box["value"], box["visible"]) == ("", False)
    assert "at least 2 different ones" in note
    assert "failed" in note


def test_on_a_space_the_link_is_the_one_of_the_space(form, shelf, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "me/demo")
    box, _ = make_link(form, shelf)
    assert box["value"].startswith("https://huggingface.co/spaces/me/demo?v=1&")


# in a browser


@pytest.fixture
def go(visit, app_url):
    """Opens the page at a query string and waits for what the link says."""

    def open_at(query: str, **context):
        page = visit(**context)
        page.tab.goto(app_url + query)
        page("#go").wait_for()
        page("#link-note").get_by_text("link").wait_for()
        return page

    return open_at


@pytest.mark.browser
def test_a_copied_link_restores_every_control_and_runs_nothing(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.choose(LION)
    page.labels("lion, dog = wolf, <b>cat</b>")
    page.attack("APGD-CE")
    page.eps(2)
    page.steps(7)
    page.attacker_knows(False)
    page("#choose-training_time").get_by_label("FARE").uncheck()
    page("#choose-training_free").get_by_label("JPEG").check()
    page.tab.get_by_role("button", name="JPEG settings").click()
    quality = page.tab.get_by_label("number input for quality")
    quality.fill("35")
    quality.blur()
    page("#share").click()
    page("#link-note").get_by_text("brings the settings back").wait_for()
    page.tab.wait_for_function("document.activeElement.closest('#link') !== null")
    address = page.script("navigator.clipboard.readText()")
    assert address == page("#link textarea, #link input").input_value()

    other = visit()
    other.tab.goto(address)
    other("#link-note").get_by_text("Set as in the link: APGD-CE, ε 2, seed 0.").wait_for()
    other.tab.wait_for_function("document.querySelector('#attack input').value === 'APGD-CE'")
    assert other("#labels textarea").input_value() == "lion, dog = wolf, <b>cat</b>"
    assert other("#eps").get_by_label("2", exact=True).is_checked()
    assert other("#steps input[type=number]").input_value() == "7"
    assert other("#knows").get_by_label("does not know the defence").is_checked()
    assert set(other.script(TICKED)) == {*first("pocket"), "jpeg"} - {"fare"}
    other("#card-jpeg").wait_for(state="visible")
    assert other("#card-fare").is_hidden()
    other.tab.get_by_role("button", name="JPEG settings").click()
    assert other.tab.get_by_label("number input for quality").input_value() == "35"
    assert "lion" in other("#picture img").get_attribute("src")
    assert other.script(STALE)
    assert not other("#stop").is_enabled()
    assert "precomputed" in other.text("#verdict .badge")
    assert other.run().startswith("Done")
    assert other.text("#verdict h2").startswith("lion")
    assert other.text("#link-note") == ""
    page.run()
    assert page("#link").is_hidden()


@pytest.mark.browser
def test_a_link_brings_back_one_defence_after_another(go):
    page = go("?v=1&attack=pgd&defenses=jpeg%2Bfare&jpeg%2Bfare.jpeg_quality=35")
    page.tab.wait_for_function("document.querySelector('#pipe-second input')?.value === 'FARE'")
    assert page("#pipe-first input").input_value() == "JPEG"
    assert "Left out" not in page.text("#link-note")
    page.tab.get_by_role("button", name="JPEG settings").click()
    assert page.tab.get_by_label("number input for quality").input_value() == "35"
    page("#share").click()
    page("#link-note").get_by_text("brings the settings back").wait_for()
    address = page("#link textarea, #link input").input_value()
    assert "jpeg%2Bfare.jpeg_quality=35" in address


@pytest.mark.browser
def test_the_link_of_a_fresh_page_opens_its_story_as_it_is(visit):
    page = visit()
    page("#share").click()
    box = page("#link textarea, #link input")
    box.wait_for()
    page.tab.wait_for_function(
        "document.querySelector('#link textarea, #link input').value.startsWith('http')"
    )
    assert "picture=coffee" in box.input_value()
    other = visit()
    other.tab.goto(box.input_value())
    other("#link-note").get_by_text("Set as in the link: PGD, ε 4, seed 0.").wait_for()
    assert other.script(STALE) is False
    assert other("#picture img").count() == 1


@pytest.mark.browser
def test_a_link_of_somebody_with_an_own_picture_asks_for_one(go, visit, tmp_path, photos):
    page = visit()
    path = tmp_path / "mine.jpg"
    path.write_bytes(photos["lion"].read_bytes() + b"\0")
    page.upload(path)
    page("#share").click()
    page("#link-note").get_by_text("Your own picture does not travel").wait_for()
    assert "picture=own" in page("#link textarea, #link input").input_value()
    other = go("?v=1&picture=own&attack=fgsm")
    assert "choose or drop one" in other.text("#link-note")
    other("#picture img").wait_for(state="detached")
    other.press_run()
    other.wait_status("There is no picture yet")
    other.choose(CAT)
    other.run()


@pytest.mark.browser
def test_after_a_link_an_upload_is_checked_as_ever(go, tmp_path):
    page = go("?v=1&picture=lion&attack=fgsm")
    page.tab.wait_for_function("document.querySelector('#picture img')?.src.includes('lion')")
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    page.upload(path)
    page.wait_status("This is not a picture that can be read, or it is damaged")


@pytest.mark.browser
def test_a_hostile_link_is_a_sentence_and_what_can_be_used_is(go):
    hostile = "<img src=x onerror=alert(1)>"
    page = go(
        f"?v=1&labels={hostile},${{alert(1)}},{{{{x}}}}&pgd.eps=999&{hostile}=1&picture={hostile}"
        f"&truth={hostile}&template={hostile}&seed=3&defenses=ttc,{hostile}"
    )
    assert "Left out:" in page.text("#link-note")
    assert page("#link-note .failed").count() == 1
    assert page("img[src=x]").count() == 0
    assert page("#labels textarea").input_value() == ", ".join(stories.HOSTILE[:3])
    assert page.script(TICKED) == ["ttc"]
    assert page("#eps").get_by_label("4", exact=True).is_checked()
    page.open_details()
    assert page("#seed input").input_value() == "3"
    assert page.text("#link-note").count("alert") >= 1


@pytest.mark.browser
@pytest.mark.parametrize("query", ["?v=99&attack=fgsm", "?attack=fgsm&fgsm.eps=1"])
def test_a_link_of_another_version_changes_nothing(go, query):
    page = go(query)
    assert "Nothing was changed." in page.text("#link-note")
    assert page("#attack input").input_value() == "PGD"
    assert page.script(STALE) is False


@pytest.mark.browser
def test_a_link_that_cannot_be_made_loses_nothing(page):
    page.labels("cat")
    page("#share").click()
    page("#link-note").get_by_text("at least 2 different ones").wait_for()
    assert page("#link").is_hidden()
    assert page("#labels textarea").input_value() == "cat"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_in_the_button_the_note_and_the_link(go, scheme, width):
    page = go("?v=1&attack=nope", viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.violations("#link-note") == []
    page("#share").click()
    page("#link").wait_for(state="visible")
    assert page.script(SPILL) <= 0
    for part in ("#top", "#link-note", "#link"):
        assert page.violations(part) == []
    page.tab.keyboard.press("Shift+Tab")
    assert page.script("document.activeElement.id") == "share"
