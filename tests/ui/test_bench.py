"""A small benchmark on the page: what is ticked, on photos or on a zip, stopped, refused, downloaded."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import gradio as gr
import pytest

from tests import tiny
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.errors import InvalidImage, InvalidParameter
from vlmdefense_demo.images import to_png
from vlmdefense_demo.ui import bench, results
from vlmdefense_demo.ui.bench import BUNDLED, ZIP, Asked, asked
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES

NONE = {"file": None, "photos": 2, "eps": (4.0,), "knows": False, "defenses": {}}
HOSTILE = "<img src=x onerror=alert(1)>"


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def words(update) -> str:
    return re.sub("<[^>]*>", " ", update[0]).strip()


def test_the_table_grows_and_its_files_hold_what_it_shows(site, pocket):
    wanted = Asked(**NONE | {"defenses": {"jpeg": {"quality": 50}, "bits": {"bits": 3}}})
    first, *middle, last = list(bench.measured(site, "pocket", wanted, "me"))
    assert (first[2].interactive, first[3].interactive) == (False, True)
    assert any("JPEG" in update[1] for update in middle) or "JPEG" in last[1]
    assert words(last) == "Done."
    assert (last[2].interactive, last[3].interactive) == (True, False)
    assert "JPEG · quality 50<" in last[1]
    assert "Bit depth<" in last[1], "a default has no name"
    assert last[1].count("<img") == len(results.SHOWN)
    jsonl, table = (Path(button.value["path"]) for button in last[4:])
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert {(r["defense"], r["step"]) for r in rows} == {
        (d, s) for d in ("undefended", "jpeg", "bits") for s in ("clean", "transfer", "latency")
    }
    assert {r["defence"] for r in csv.DictReader(io.StringIO(table.read_text()))} == {
        "Undefended", "JPEG · quality 50", "Bit depth"
    }  # fmt: skip


def test_what_was_measured_elsewhere_has_tables_of_its_own(site, pocket):
    wanted = Asked(**NONE | {"defenses": {"jpeg": {}}, "worlds": ("noise", "names")})
    *middle, last = list(bench.measured(site, "pocket", wanted, "me"))
    assert words(last) == "Done."
    captions = re.findall("<caption>(.*?)</caption>", last[1])
    assert captions[1:] == ["elsewhere: clean", "elsewhere: unaware, 4/255"]
    clean = last[1].split("<caption>elsewhere: clean")[1]
    heads = re.findall('<th scope="col">(.*?)</th>', clean)[:4]
    assert heads == ["defence", "as they are", "noise", "ImageNet’s names"]
    [first] = re.findall('<th scope="row">Undefended</th>(.*?)</tr>', clean)[:1]
    assert first.endswith("<td>100.0 [34.2, 100.0]</td>"), "it names what it answers itself"
    rows = [json.loads(line) for line in Path(last[4].value["path"]).read_text().splitlines()]
    assert {(r["world"], r["step"]) for r in rows if r["world"] != OWN} == {
        (world, step) for world in ("noise", "names") for step in ("clean", "transfer")
    }
    total = [words(update) for update in middle if isinstance(update[0], str)][-1]
    assert total == "6 of 6 parts …"


def test_a_zip_of_ones_own_is_measured_and_its_words_are_escaped(site, pocket, tmp_path):
    picture = to_png(tiny.images(1, size=64))
    broken = {"cat/2.png": b"no picture", f"{HOSTILE[:12]}/3.png": picture, "dog/1.png": picture}
    file = zipped(tmp_path / "mine.zip", {"cat/1.png": picture} | broken)
    *_, last = bench.measured(site, "pocket", Asked(**NONE | {"file": file, "photos": 3}), "me")
    assert words(last) == "Done."
    assert "<img src" not in last[1].replace('src="data:', "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eps": ()}, "--eps|different radii"),
        ({"file": "missing.zip"}, "no folder, csv, tar or zip"),
        ({"defenses": {"jpeg": {"quality": 3}}}, "outside"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(site, pocket, change, says):
    *_, last = bench.measured(site, "pocket", Asked(**NONE | change), "me")
    assert re.search(says, words(last))
    assert "failed" in last[0]
    assert last[1:2] + last[4:] == (gr.skip(),) * 3, "what was measured before is kept"


def test_a_zip_is_asked_for(tmp_path):
    with pytest.raises(InvalidImage, match="no zip"):
        asked([ZIP, None, 8, ["4"], False, []], {})
    assert asked([BUNDLED, "left over.zip", 8, ["4", "1"], True, []], {}).file is None
    mine = zipped(tmp_path / "a.zip", {"cat/1.png": b"1"})
    wanted = asked([ZIP, mine, 8, ["4", "1"], True, ["noise"]], {})
    assert (wanted.eps, wanted.worlds) == ((1.0, 4.0), ("noise",))


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_table_and_remarks_are_said_in_the_language(code):
    told = LANGUAGES[code]
    rows = tables_of(error="There are no apt weights for pocket.")
    english, mine = (re.sub("<[^>]*>", "|", say(results.finished(rows, {}))) for say in
                     (ENGLISH.say, told.say))  # fmt: skip
    cell = told("bench.column", attacker=told("rung.transfer"), eps="4")
    for text in (told("bench.defence"), told("undefended"), told("clean"), cell, told("not_run"),
                 told("bench.elsewhere", column=told("clean")), told("world.own"), told("world.noise"),
                 told("bench.passes"), told("flag.no_gradient"), told("cost.text"),
                 told("bench.caption", n=8, model="pocket", attack="PGD")):  # fmt: skip
        assert text in mine
    assert "4 f · text 8 f + 8 b" in english
    left = set(re.findall("[A-Za-z]{2,}", mine)) & set(re.findall("[A-Za-z]{2,}", english))
    assert left <= {"FARE", "APT", "PGD", "ms", "pocket", "apt", "GM"}


def tables_of(error: str) -> list[dict]:
    """Rows of two defences and one that could not run, with each remark there is on this page."""
    base = {"model": "pocket", "conditions": "", "values": {}, "world": OWN, "group": "", "error": "",
            "f": 4, "b": 0, "tf": 8, "tb": 8, "s": 0.01, "flags": [], "eps": 0.0, "standing": True, "attack": ""}  # fmt: skip
    rows = []
    for picture in "abcdefgh":
        for defense in ("undefended", "fare", "apt"):
            mine = base | {"picture": picture, "defense": defense}
            rows += [mine | {"step": "clean"}, mine | {"step": "transfer", "eps": 4.0, "attack": "pgd"},
                     mine | {"step": "gradient", "flags": ["no_gradient"]},
                     mine | {"step": "clean", "world": "noise", "picture": f"noise/{picture}"}]  # fmt: skip
    return [row | {"error": error} if row["defense"] == "apt" else row for row in rows]


def test_a_small_zip_may_not_unpack_to_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "MOST_BYTES", 3 << 20)
    much = {f"cat/{i}.png": b"0" * (1 << 20) for i in range(4)}
    with pytest.raises(InvalidImage, match="unpacks to more than 3 MB"):
        asked([ZIP, zipped(tmp_path / "a.zip", much), 8, ["4"], False, []], {})
    beside = {f"cat/{i}.bin": b"0" * (1 << 20) for i in range(4)} | {"cat/0.png": b"0"}
    assert asked([ZIP, zipped(tmp_path / "b.zip", beside), 8, ["4"], False, []], {}).file


def test_without_a_radius_nothing_starts():
    with pytest.raises(InvalidParameter, match="no radius"):
        asked([BUNDLED, None, 8, [], False, []], {})


def test_stop_keeps_what_was_measured(site, pocket, stop_at):
    stop_at("/attacker")
    wanted = Asked(**NONE | {"knows": True, "defenses": {"fare": {}}})
    *_, last = bench.measured(site, "pocket", wanted, "me")
    assert words(last) == "Stopped."
    assert "failed" not in last[0]
    assert "Undefended" in last[1]
    assert "FARE" in last[1]


# in a browser


def test_the_tab_measures_what_is_ticked(page):
    page.tab.get_by_role("tab", name="Benchmark").click()
    page("#bench-photos input[type=number]").fill("2")
    page.tab.locator("#bench-worlds").get_by_text("noise").click()
    page("#bench-go").click()
    page("#bench-status").get_by_text("Done.").wait_for(timeout=120_000)
    table, clean, *attacked = page.tab.locator("#bench-table table").all_inner_texts()
    assert "Undefended" in table
    assert "elsewhere: clean" in clean
    assert ["4/255" in text for text in attacked] == [False, True]
    assert "FARE" in table
    assert "unaware, 4/255" in table
    page("#bench-go:enabled").wait_for()
    page.tab.wait_for_timeout(500)  # its colours fade in
    assert page.violations("#bench-table") == []
    page.tab.set_viewport_size({"width": 390, "height": 844})
    spill = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.script(spill) == 0
    assert page.script("document.querySelector('#tabs').getBoundingClientRect().right") <= 390
