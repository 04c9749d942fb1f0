"""The survey tab: its HTML from the rows, and the table in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.ui import stories
from vlmdefense_demo.survey import SURVEY
from vlmdefense_demo.survey.catalogue import ORDERS, Filter
from vlmdefense_demo.survey.entry import Published
from vlmdefense_demo.ui import survey
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES

SPILL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COUNT = "document.querySelector('.survey-count').innerText"


class Reader(HTMLParser):
    """Every start tag of a text, and all text between tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def cells(html: str) -> int:
    return html.count('<td role="cell"')


# the HTML


def test_every_row_has_a_cell_for_every_head_and_says_all_it_knows():
    html = survey.table(Filter("all"), "pocket")
    assert cells(html) == len(SURVEY) * (len(survey.HEADS) - 1)
    words = "".join(Reader(html).words)
    for row in SURVEY.values():
        said = (row.title, row.paper, row.licence, row.idea, row.detail, row.trains, row.cost,
                row.remark, f"{row.venue} {row.year}")  # fmt: skip
        assert all(text in words for text in said), row.id
        for number in row.published:
            assert number.result.replace(" %", "\u00a0%") in words
            assert number.setting in words
            assert number.source in words


def test_a_method_without_weights_says_why_for_the_model_of_the_page():
    assert "There are no fap weights for pocket." in survey.table(Filter(), "pocket")
    html = survey.table(Filter("test_time"), "ViT-B-32")
    assert "There are no tapt weights for ViT-B-32." in html


@pytest.mark.parametrize("order", ORDERS)
def test_the_sorted_column_is_marked(order):
    marked = [a["aria-sort"] for _, a in Reader(survey.table(Filter(order=order), "pocket")).tags
              if "aria-sort" in a]  # fmt: skip
    assert marked == ([survey.SORTED[order][1]] if order != "survey" else [])
    assert all(column in survey.HEADS for column, _ in survey.SORTED.values())


def test_nothing_that_fits_is_a_sentence_and_no_table():
    html = survey.table(Filter("training_time", training=False), "pocket")
    assert "No method fits. Widen a filter." in html
    assert "<table" not in html


def test_whatever_a_row_says_stays_text(monkeypatch):
    hostile = stories.HOSTILE[0]
    row = replace(
        SURVEY["ttc"], title=hostile, paper=hostile, venue=hostile, licence=hostile, idea=hostile,
        detail=hostile, trains=hostile, cost=hostile, remark=hostile, url='https://x/"onx="1',
        published=(Published(hostile, hostile, f"{hostile} arXiv 1234.56789 {hostile}"),),
    )  # fmt: skip
    monkeypatch.setitem(SURVEY, "ttc", row)
    reader = Reader(survey.table(Filter(), "pocket"))
    assert "img" not in {tag for tag, _ in reader.tags}
    assert not [a for _, a in reader.tags if "onx" in a or "onerror" in a]
    assert "".join(reader.words).count(hostile) == 13


def test_what_a_row_says_in_words_of_the_page_is_in_its_language():
    german = LANGUAGES["de"]
    html = survey.table(Filter("all"), "pocket", german)
    for key in ("training_free", "survey.attack", "survey.detector", "status.faithful",
                "status.simplified", "survey.unquoted"):  # fmt: skip
        assert f' lang="de">{german(key)}<' in html, key
        assert f">{ENGLISH(key)}<" not in html, key
    assert "Es gibt keine fap-Gewichte für pocket." in html
    assert "Lizenz: " in html
    assert "Licence: " not in html
    assert 'lang="' not in survey.table(Filter("all"), "pocket")


def test_papers_and_repositories_of_sources_are_links():
    links = [
        a["href"] for tag, a in Reader(survey.table(Filter("all"), "pocket")).tags if tag == "a"
    ]
    assert "https://arxiv.org/abs/2606.23132" in links
    assert "https://github.com/chs20/RobustVLM" in links
    assert all(link.startswith("https://") for link in links)


def test_the_filters_of_the_page_become_a_filter():
    asked = survey.choose("test_time", "simplified", "yes", 2025, "newest", "pocket")
    assert asked == (Filter("test_time", "simplified", True, 2025, "newest"), "pocket")
    widest = survey.choose("all", "", "", 0, "survey", "pocket")
    assert cells(survey.table(*widest)) > cells(survey.table(*asked)) > 0


# in a browser


@pytest.fixture
def tab(page):
    page.open_tab("Survey")
    page("#survey table").wait_for()
    return page


@pytest.mark.browser
def test_filters_and_sorting_change_the_table_without_a_run(tab):
    assert tab.script(COUNT) == f"{len(Filter().rows())} of {len(SURVEY)} methods"
    tab.pick("survey-show", "Training-free")
    n = len(Filter("training_free").rows())
    tab.tab.wait_for_function(f"{COUNT} === '{n} of {len(SURVEY)} methods'")
    tab.pick("survey-sort", "year, newest first")
    tab("#survey th[aria-sort=descending]").wait_for()
    years = re.findall(r"\b(20\d\d)\nLicence", tab.text("#survey"))
    assert len(years) == n
    assert years == sorted(years, reverse=True)
    tab.pick("survey-needs", "yes, before use")
    tab("#survey").get_by_text("No method fits").wait_for()
    assert "stale" not in (tab.script("document.body.className"))


@pytest.mark.browser
def test_a_filter_is_set_with_the_keyboard(tab):
    tab("#survey-status input").focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        tab.tab.keyboard.press(key)
    n = len(Filter(status="simplified").rows())
    tab.tab.wait_for_function(f"{COUNT}.startsWith('{n} of')")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 768, 1024, 1280, 1920])
def test_the_survey_fits_the_window_and_every_cell_is_inside(visit, width):
    page = visit(viewport={"width": width, "height": 900})
    page.open_tab("Survey")
    page("#survey table").wait_for()
    assert page.script(SPILL) <= 0
    outside = page.script(
        "[...document.querySelectorAll('#survey td, #survey td *')].filter(e =>"
        " e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).display !== 'inline').length"
    )
    assert outside == 0
    assert page("#survey [role=columnheader]").count() == len(survey.HEADS)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_in_the_survey(visit, scheme, width):
    page = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.open_tab("Survey")
    page("#survey table").wait_for()
    page.pick("survey-show", "Defences, detectors and attacks")
    page.tab.wait_for_function(f"{COUNT}.startsWith('{len(SURVEY)} of')")
    assert page.violations("#tabs") == []
