"""The page in three languages: what a request's language reaches, and the page in a browser."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vlmdefense_demo.spec import fields
from vlmdefense_demo.survey import first, methods
from vlmdefense_demo.ui import handlers
from vlmdefense_demo.ui.handlers import OUTPUTS, as_outputs
from vlmdefense_demo.ui.languages import CONFIG, Languages, speak
from vlmdefense_demo.ui.layout import build
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES, language_of

GERMAN, CHINESE = LANGUAGES["de"], LANGUAGES["zh"]
LION = 1
TAGS = {"en": "en", "zh": "zh-CN", "de": "de"}
SPILL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
STALE = "document.body.classList.contains('stale')"
# id -> key of words that are to be seen in it
SEEN = {
    "#title": ("title", "subtitle"), "#open-lecture": ("lecture",), "#share": ("share",),
    "#go": ("go",), "#stop": ("stop",), "#download": ("verdict.png",), "#report": ("verdict.report",),
    "#attack": ("attack",), "#eps": ("eps",), "#steps": ("steps",), "#change": ("change.kicker",),
    "#knows": ("attacker", "attacker.unaware", "attacker.aware"),
    "#labels": ("image.labels", "image.labels.info"), "#preset": ("image.preset",),
    "#view": ("view.pair", "view.signed", "view.looks"),
    "#verdict": ("verdict.result", "verdict.changed", "verdict.precomputed"),
    "#undefended": ("undefended", "clean", "attacked", "card.others"),
    "#card-fare": ("clean", "attacked", "rung.transfer", "rung.adaptive", "card.more"),
    "#pipeline": ("pair", "pair.first", "pair.then"), "#curves": ("curves",),
    "#detectors": ("detectors",), "#classroom": ("class",),
    "#tabs": ("tab.help", "tab.bench", "tab.survey"),
    "#stories": ("lesson.one-step", "lesson.written-word"),
}  # fmt: skip


def request(query="", header=None):
    headers = {} if header is None else {"accept-language": header}
    params = dict(pair.split("=") for pair in query.split("&") if pair)
    return SimpleNamespace(query_params=params, headers=headers)


def chinese(text):
    return bool(re.search("[\u4e00-\u9fff]", text))


# handlers


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request("lang=de"), GERMAN),
        (request("lang=xx", "zh-CN,zh;q=0.9"), CHINESE),
        (request("v=1&lang=en", "de"), ENGLISH),
        (request(), ENGLISH),
    ],
)
def test_a_request_says_its_language(asked, words):
    assert language_of(asked) is words


def test_two_runs_in_different_languages_do_not_touch_each_other(site, form, pocket):
    """The same handlers, taken step by step in turns, each in its own language."""
    runs = {words: [] for words in (GERMAN, CHINESE, ENGLISH)}
    for update in handlers.run(site, form, "me"):
        for words, seen in runs.items():
            seen.append(as_outputs(update, words))
    last = {words: dict(zip(OUTPUTS, seen[-1], strict=True)) for words, seen in runs.items()}
    assert ">Fertig: " in last[GERMAN]["status"]
    assert "了解防御" in last[CHINESE]["status"]
    assert ">Done: " in last[ENGLISH]["status"]
    assert type(last[GERMAN]["status"]) is str
    cards = {}
    for words, seen in runs.items():
        shown = [dict(zip(OUTPUTS, out, strict=True))["fare"] for out in seen]
        cards[words] = [card for card in shown if isinstance(card, str)]
    assert any("wartet" in card for card in cards[GERMAN])
    assert "sauber" in cards[GERMAN][-1]
    assert 'lang="en"' in cards[GERMAN][-1], "what the method says of itself is English"
    assert chinese(cards[CHINESE][-1])
    assert not chinese("".join(cards[GERMAN] + cards[ENGLISH]))
    assert "sauber" not in "".join(cards[ENGLISH] + cards[CHINESE])
    assert 'lang="en"' not in cards[ENGLISH][-1]


def test_what_is_refused_is_said_in_the_language(site, form):
    *_, last = handlers.run(site, replace(form, picture=None), "me")
    assert "There is no picture yet." in last["status"]
    assert "Es gibt noch kein Bild. Wählen Sie" in as_outputs(last, GERMAN)[0]
    assert "还没有图像。请选择" in as_outputs(last, CHINESE)[0]


def test_stopped_is_no_failure_in_any_language(site, form, pocket, stop_at):
    stop_at("/pgd")
    *_, last = handlers.run(site, form, "me")
    for words, sentence in ((ENGLISH, "Stopped."), (GERMAN, "Gestoppt."), (CHINESE, "已停止。")):
        status = as_outputs(last, words)[0]
        assert sentence in status
        assert "failed" not in status


# the page as it is served


@pytest.fixture(scope="module")
def demo():
    return build(Site("cpu"))


def served(demo, query="", header=None, body=None):
    """(headers, HTML) of a page that is sent in two pieces."""
    if body is None:
        config = json.dumps(demo.config, default=str).replace("<", "\\u003c")
        body = f'<html lang="en"><head></head><script>{CONFIG}{config};</script></html>'

    async def app(scope, receive, send):
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        data = body.encode()
        await send({"type": "http.response.body", "body": data[:999], "more_body": True})
        await send({"type": "http.response.body", "body": data[999:]})

    sent = []

    async def send(message):
        sent.append(message)

    headers = [] if header is None else [(b"accept-language", header.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers,
             "query_string": query.encode()}  # fmt: skip
    # In a thread of its own: while a browser is open, this one has a running loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, Languages(app, demo)(scope, None, send)).result()
    start, done = sent
    assert dict(start["headers"])[b"content-length"] == str(len(done["body"])).encode()
    return dict(start["headers"]), done["body"].decode()


def config_of(html):
    return json.JSONDecoder().raw_decode(html.partition(CONFIG)[2])[0]


@pytest.mark.parametrize(("query", "header"), [("lang=de", "zh"), ("", "de-CH"), ("lang=x", "de")])
def test_the_first_paint_is_served_in_the_language(demo, query, header):
    headers, html = served(demo, query, header)
    assert '<html lang="de">' in html
    assert headers[b"content-language"] == b"de"
    assert headers[b"vary"] == b"Accept-Language"
    config = config_of(html)
    props = {c["props"].get("elem_id"): c["props"] for c in config["components"]}
    assert config["title"] == "CLIP täuschen, dann verteidigen"
    assert props["go"]["value"] == "Angriff & Abwehr"
    assert props["labels"]["label"] == "Labels"
    assert [name for name, _ in props["knows"]["choices"]][1] == "kennt sie"
    assert "sauber" in props["card-fare"]["value"]
    assert "kein Gewicht ändert sich je" in html
    assert "<" not in html.partition(CONFIG)[2].removesuffix("</script></html>")


def test_english_is_served_as_it_was_built(demo):
    _, html = served(demo, "lang=en", "de")
    assert config_of(html) == json.loads(json.dumps(demo.config, default=str))
    assert '<html lang="en">' in html


def test_other_html_stays_as_it_is(demo):
    _, html = served(demo, "lang=de", body="<html lang='en'>something else</html>")
    assert html == "<html lang='en'>something else</html>"


def test_one_language_after_another_leaves_no_trace(demo):
    before = json.dumps(demo.config, default=str)
    pages = [served(demo, f"lang={code}")[1] for code in ("de", "zh", "de", "en")]
    assert pages[0] == pages[2]
    assert json.dumps(demo.config, default=str) == before


def test_values_names_and_endpoints_have_no_language(demo):
    """Only words change: no value of a control, no id, no file, no event."""
    english = json.loads(json.dumps(demo.config, default=str))
    german = json.loads(json.dumps(demo.config, default=str))
    speak(german, demo, GERMAN)
    worded = {"label", "info", "alt_text", "choices"}
    for before, after in zip(english["components"], german["components"], strict=True):
        own = before["props"]
        changed = {k for k in own if own[k] != after["props"][k]}
        says = {"html", "markdown", "button"}
        assert changed <= worded | ({"value"} if before["type"] in says else set()), own
        values = [[v for _, v in p.get("choices") or []] for p in (own, after["props"])]
        assert values[0] == values[1]
    assert english["dependencies"] == german["dependencies"]
    assert english["layout"] == german["layout"]


@pytest.mark.parametrize("words", [GERMAN, CHINESE], ids=lambda w: w.code)
def test_no_label_of_the_page_is_left_in_english(demo, words):
    """Names of methods, parameters and models, and hidden components may be."""
    config = json.loads(json.dumps(demo.config, default=str))
    speak(config, demo, words)
    fields_of = [fields(row.cls) for row in methods().values()]
    parameters = {f.name.replace("_", " ") for some in fields_of for f in some}
    said = set(ENGLISH.table.values()) - set(words.table.values()) - parameters
    visible = {c["id"]: c["props"].get("visible") is not False for c in config["components"]}

    def seen_below(node):
        """The endpoints' arguments lie in a hidden row; they have no language."""
        if visible.get(node["id"], True):
            yield node["id"]
            for child in node.get("children") or ():
                yield from seen_below(child)

    shown = set(seen_below(config["layout"]))
    for component in config["components"]:
        props = component["props"]
        if component["id"] not in shown:
            continue
        seen = {props.get("label"), props.get("info"), *(n for n, _ in props.get("choices") or [])}
        if component["type"] == "button":
            seen.add(props["value"])
        assert not seen & said


# in a browser


@pytest.mark.browser
@pytest.mark.parametrize("code", ["de", "zh"])
def test_the_first_paint_and_its_controls_speak_the_language(visit, code):
    words = LANGUAGES[code]
    page = visit(f"?lang={code}")
    assert page.script("document.documentElement.lang") == TAGS[code]
    assert page.tab.title() == words("title")
    assert page.text("#languages [aria-current]") == words.name
    for selector, keys in SEEN.items():
        text = page.text(selector).casefold()  # the style writes some in capitals
        for key in keys:
            mine, english = words(key).casefold(), ENGLISH(key).casefold()
            assert mine in text, (selector, key)
            left = re.search(rf"(?<!\w){re.escape(english)}(?!\w)", text)
            assert mine == english or not left, (selector, key)
    assert all(words("card.more") in page.card(id) for id in first("pocket"))
    page.open_tab(words("tab.help"))
    assert "PNG" in page.text("#tabs")
    assert "What you see" not in page.text("#tabs")
    page.open_tab(words("tab.survey"))
    page("#survey table").wait_for()
    assert words("head.published") in page.text("#survey thead")


@pytest.mark.browser
def test_the_browsers_language_is_taken_where_the_address_names_none(visit):
    page = visit(locale="de-DE")
    assert page.script("document.documentElement.lang") == "de"
    assert page.text("#title h1") == GERMAN("title")
    assert visit("?lang=en", locale="de-DE").text("#title h1") == ENGLISH("title")
    odd = visit("?lang=xx", locale="fr-FR")
    assert odd.text("#title h1") == ENGLISH("title")
    assert odd.script("document.documentElement.lang") == "en"


@pytest.mark.browser
def test_answers_of_the_server_speak_the_language(visit):
    page = visit("?lang=de")
    page("#labels textarea").fill("cat")
    page("#go").click()
    page("#status").get_by_text("mindestens 2 verschiedene, hier 1").wait_for()
    page("#stories").get_by_text(GERMAN("lesson.one-step"), exact=True).click()
    page("#status").get_by_text("ein mitgeliefertes Ergebnis").wait_for()
    assert GERMAN("verdict.result") in page.text("#verdict")
    page.tab.keyboard.press("l")
    page("#lecture-view[open]").wait_for()
    assert GERMAN("step.1") in page.text(".lec-slide:not([hidden]) h2")
    said = page.text(".lec-slide:not([hidden]) .lec-said")
    assert GERMAN("slide.see.labels", count=10) in said


@pytest.mark.browser
def test_the_switch_keeps_the_settings_and_the_picture(visit):
    page = visit()
    page.choose(LION)
    page.labels("lion, dog = wolf")
    page.eps(2)
    page("#languages").get_by_text("Deutsch").click()
    page.tab.wait_for_function("document.documentElement.lang === 'de'")
    page("#link-note").get_by_text("Eingestellt wie im Link: PGD, ε 2").wait_for()
    assert "lang=de" in page.tab.url
    assert page("#labels textarea").input_value() == "lion, dog = wolf"
    assert page("#eps").get_by_label("2", exact=True).is_checked()
    assert "lion" in page("#picture img").get_attribute("src")
    assert page.script(STALE)


@pytest.mark.browser
def test_the_switch_of_an_untouched_page_is_an_untouched_page(visit):
    page = visit("?__theme=dark")
    page("#languages").get_by_text("中文").focus()
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_function("document.documentElement.lang === 'zh-CN'")
    page("#go").wait_for()
    assert page.tab.url.endswith("?__theme=dark&lang=zh")
    assert page("#link-note p").text_content() == ""
    assert page.script(STALE) is False
    page("#share").click()
    page("#link").wait_for()
    box = page("#link textarea, #link input")
    page.tab.wait_for_function("document.querySelector('#link textarea, #link input').value !== ''")
    assert "&lang=zh" in box.input_value()
    assert page.text("#link-note p").startswith("这个链接")


@pytest.mark.browser
@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_language_is_accessible_and_fits_a_phone(visit, code, scheme):
    page = visit(f"?lang={code}", color_scheme=scheme, viewport={"width": 390, "height": 844})
    assert page.script(SPILL) <= 0
    blocks = "#top, #stories, #change, #strip, #undefended, article, #pipeline, #tabs, #go"
    rights = page.script(
        f"[...document.querySelectorAll('{blocks}')].map(e => e.getBoundingClientRect().right)"
    )
    assert max(rights) <= 390
    assert page.violations("#top, #strip, #undefended, #pipeline") == []
    narrow = page.script(
        "[...document.querySelectorAll('#languages a')].map(a => a.getBoundingClientRect())"
        ".map(b => [b.right <= innerWidth, b.height >= 24])"
    )
    assert narrow == [[True, True]] * 3
    page.tab.set_viewport_size({"width": 1280, "height": 800})
    page.tab.wait_for_function("window.innerWidth === 1280")
    assert page.script(SPILL) <= 0
    assert page.violations("#top, #strip, #verdict, #undefended") == []


def test_the_switch_names_every_language_in_itself(demo):
    nav = next(c for c in demo.config["components"] if c["props"].get("elem_id") == "languages")
    for words in LANGUAGES.values():
        assert f'lang="{words.tag}"' in nav["props"]["value"]
        assert words.name in nav["props"]["value"]
