"""Rates with intervals, pairs on the same pictures, and the table in three formats."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json

import pytest

from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark import page, tables
from vlmdefense_demo.benchmark.notes import notes
from vlmdefense_demo.benchmark.rows import SCHEMA, Rows, read_rows
from vlmdefense_demo.benchmark.statistics import mcnemar, rate, separable
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.survey import entry
from vlmdefense_demo.training.report import wilson


def row(defense, picture, standing, step="clean", eps=0.0, **more):
    return {
        "schema": SCHEMA, "key": f"{defense}{picture}{step}{eps}{more}", "picture": picture,
        "defense": defense, "values": {}, "step": step, "eps": eps, "standing": standing,
        "world": "own", "model": "pocket", "conditions": "same", "error": "", "f": 1, "b": 0, "tf": 0, "tb": 0, "s": 0.01, "flags": [], "seed": 0,
    } | more  # fmt: skip


def many(defense, hits, n, **more):
    return [row(defense, f"p{i}", i < hits, **more) for i in range(n)]


def test_a_rate_without_repeats_is_wilsons():
    found = rate((f"p{i}", i < 37) for i in range(50))
    assert (found.value, found.n) == (0.74, 50)
    assert (found.low, found.high) == pytest.approx(wilson(37, 50))


def test_draws_that_agree_add_nothing():
    once = rate((f"p{i}", i < 37) for i in range(50))
    thrice = rate((f"p{i}", i < 37) for i in range(50) for _ in range(3))
    assert thrice == pytest.approx(once)


def test_draws_that_differ_narrow_the_interval():
    once = rate((f"p{i}", i < 25) for i in range(50))
    mixed = rate((f"p{i}", (i + d) % 2 == 0) for i in range(50) for d in range(4))
    assert mixed.value == once.value
    assert mixed.high - mixed.low < once.high - once.low


def test_mcnemar_counts_what_only_one_gets_right():
    first = {"a": True, "b": True, "c": False, "only here": True}
    second = {"a": True, "b": False, "c": False}
    pair = mcnemar(first, second)
    assert (pair.only_first, pair.only_second, pair.p) == (1, 0, 1.0)
    clear = mcnemar({str(i): True for i in range(6)}, {str(i): False for i in range(6)})
    assert clear.p == pytest.approx(2 / 2**6)
    assert clear.differ


def test_what_n_pictures_cannot_tell_apart():
    # Five pictures on one side are not enough for the exact test, six are.
    assert not mcnemar(dict.fromkeys("abcde", True), dict.fromkeys("abcde", False)).differ
    assert separable(200) == 6 / 200


def test_the_table_has_a_line_a_setting_and_says_what_did_not_run():
    rows = [
        *many("undefended", 9, 10),
        *many("ttc", 8, 10),
        *many("ttc", 2, 10, step="transfer", eps=4.0),
        *many("ttc", 8, 10, step="latency", s=0.25),
    ]
    lines = tables.markdown(rows).splitlines()
    assert lines[0] == "| defence | clean | unaware, 4/255 | passes | ms |"
    assert lines[2].startswith("| Undefended | 90.0 [")
    assert "not run" in lines[2]
    assert lines[3].startswith("| TTC | 80.0 [")
    assert lines[3].endswith("| 1 f | 250 |")


def test_settings_of_one_defence_are_lines_of_their_own():
    rows = [row("rtpt", "p", True, values={"views": n}) for n in (8, 16)]
    assert [line.title for line in tables.lines(rows)] == ["R-TPT · views 8", "R-TPT · views 16"]


@pytest.mark.parametrize("change", [{"model": "ViT-B-32"}, {"conditions": "another budget"}])
def test_what_was_measured_in_different_ways_is_no_table(change):
    one, other = row("ttc", "a", True), row("fare", "b", True, **change)
    tables.check_alike([one, row("fare", "b", True)])
    with pytest.raises(InvalidParameter, match="different models, attacks or budgets"):
        tables.check_alike([one, other])


def test_csv_has_a_line_a_rate():
    found = list(csv.DictReader(io.StringIO(tables.csv_text(many("ttc", 8, 10)))))
    assert [(r["defence"], float(r["rate"]), r["n"]) for r in found] == [("TTC", 0.8, "10")]


def test_latex_escapes_what_has_a_meaning_there():
    text = tables.latex([row("rtpt", "p", True, values={"a_b": 1})])
    assert r"a\_b" in text
    assert text.count(r"\\") == 2


def test_notes_name_errors_and_ties():
    rows = [*many("ttc", 9, 10), *many("fare", 8, 10), row("rtpt", "p", False, error="no memory")]
    text = "\n".join(notes(rows))
    assert "R-TPT: 1 results are errors: no memory" in text
    assert "TTC cannot be separated from FARE" in text


def test_where_most_are_alike_the_notes_name_those_that_are_not():
    alike = [r for id in ("rtpt", "tpt", "ctpt", "sstpt", "mta") for r in many(id, 19, 20)]
    rows = [*many("ttc", 20, 20), *alike, *many("fare", 2, 20)]
    [text] = [note for note in notes(rows) if note.startswith("clean")]
    assert text == "clean: TTC can be separated from FARE and no more"


def test_a_defence_whose_settings_are_all_alike_is_named_once():
    weak = [r for i in range(2) for r in many("rtpt", 4, 20, values={"views": i + 2})]
    mixed = [*many("tpt", 3, 20, values={"views": 8}), *many("tpt", 19, 20, values={"views": 16})]
    [text] = [n for n in notes([*many("ttc", 20, 20), *weak, *mixed]) if n.startswith("clean")]
    assert text == "clean: TTC cannot be separated from TPT · views 16"
    alike = [r for i in range(5) for r in many("mta", 19, 20, values={"views": i + 2})]
    rows = [*many("ttc", 20, 20), *weak, *mixed, *alike]
    [text] = [n for n in notes(rows) if n.startswith("clean")]
    assert text == "clean: TTC cannot be separated from TPT · views 16, MTA"


def test_notes_count_flags_and_doubt_attacks_that_are_weak():
    rows = [
        *many("ttc", 9, 10, step="gradient", flags=["wrong_gradient"]),
        *many("fare", 9, 10, step="gradient"),
        *many("undefended", 5, 10, step="transfer", eps=4.0),
        *many("ttc", 1, 10, step="transfer", eps=128.0),
    ]
    text = "\n".join(notes(rows))
    assert "TTC: misleading gradient on 10 of 10 pictures" in text
    assert "FARE: misleading" not in text
    assert "Undefended: 50.0 [23.7, 76.3] % survive unaware, 4/255: a weak attack (GM1)" in text
    assert "TTC: 10.0 [1.8, 40.4] % survive unaware, 128/255, which has no bound (GM8)" in text


def test_the_page_quotes_the_papers_apart_from_what_was_measured(tmp_path):
    file = tmp_path / "test-time.md"
    list(page.write([*many("undefended", 9, 10), *many("fare", 8, 10)], [], file))
    assert file.read_text().startswith("# Test time\n\nMade by\n")
    measured, papers = file.read_text().split("## What the papers report")
    for number in entry("fare").published:
        assert number.source in papers
        assert number.source not in measured
    assert "| FARE | 80.0 [" in measured


def test_the_page_names_the_budgets_of_those_who_attacked(tmp_path):
    file, budget = tmp_path / "results.md", {"adaptive_steps": 10, "draws": 1}
    common = {"command": "python -m vlmdefense_demo benchmark", "model": {"name": "pocket", "sha256": "0" * 64},
              "machine": {"system": "Linux", "device": "cpu", "cores": 2, "threads": 1}, "versions": {}}  # fmt: skip
    plans = [{"attack": attack, "attack_values": {}, "budget": budget, "steps": steps}
             for attack, steps in (("pgd", ["clean", "adaptive"]), ("apgd_ce", ["transfer"]), ("fgsm", ["latency"]))]  # fmt: skip
    list(page.write(many("undefended", 9, 10), [common | {"plan": plan} for plan in plans], file))
    told = [line for line in file.read_text().splitlines() if line.startswith("The attacker who")]
    assert told == [
        "The attacker who does not know a defence: pgd; budget of those who do: adaptive steps 10, draws 1.",
        "The attacker who does not know a defence: apgd_ce.",
    ]


def test_a_full_disk_says_what_to_do_and_keeps_what_is_written(tmp_path, monkeypatch):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add([row("ttc", "first", True)])
    written = json.dumps

    def full(*args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(InvalidParameter, match="make room"):
        rows.add([row("ttc", "second", True)])
    monkeypatch.setattr(json, "dumps", written)
    rows.add([row("ttc", "second", True)])
    assert [r["picture"] for r in read_rows(rows.file)] == ["first", "second"]


def test_packed_rows_are_rows_and_half_of_them_are_refused(tmp_path, capsys):
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.gz"
    # An end of a line to Python's splitlines, a sign like others to JSON.
    Rows(plain).add([row("ttc", "first\u2028picture", True), row("ttc", "second", False)])
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_rows(packed) == read_rows(plain)
    assert [r["picture"] for r in read_rows(packed)] == ["first\u2028picture", "second"]
    packed.write_bytes(packed.read_bytes()[:-20])
    assert main(["benchmark", "--table-only", str(packed)]) == 2
    assert "cannot be unpacked" in capsys.readouterr().err


def test_a_line_cut_inside_a_letter_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    Rows(file).add([row("ttc", "first", True), row("ttc", "zweite für", True)])
    data = file.read_bytes()
    file.write_bytes(data[: data.index("ü".encode()) + 1])
    assert [r["picture"] for r in read_rows(file)] == ["first"]


def test_the_command_measures_then_only_prints(model_dirs, tree, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    model = f"local-dir:{model_dirs['vit']}"
    asked = [
        "benchmark",
        "--model",
        model,
        "--file",
        str(file),
        "--defenses",
        "undefended,bits",
    ]
    assert main([*asked, "--images", str(tree), "--eps", "4", "--photos", "6"]) == 0
    first = capsys.readouterr().out
    assert "| Bit depth |" in first
    assert len(read_rows(file)) == 6 * 2 * 2
    assert main([*asked, "--table-only"]) == 0
    assert capsys.readouterr().out == first
    assert main([*asked[:-1], "bits", "--table-only"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == ["| defence", "| ---", "| Bit depth"]
    assert main([*asked[:-1], "bits:bits=3", "--table-only"]) == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--images", "/nowhere"], "no folder, csv, tar or zip"),
        ([], "--images"),
        (["--images", "bundled", "--defenses", "fap"], "Leave fap out"),
        (["--images", "bundled", "--shard", "2/2"], "I below N"),
        (["--images", "bundled", "--eps", "four"], "expects numbers"),
        (["--table-only"], "no rows"),
    ],
)
def test_contradictions_end_with_two(flags, says, tmp_path, capsys):
    assert main(["benchmark", "--file", str(tmp_path / "rows.jsonl"), *flags]) == 2
    assert says in capsys.readouterr().err


def test_two_answers_to_one_question_are_no_table():
    rows = many("fare", 5, 10)
    tables.check_alike(rows)
    again = [row | {"key": f"other labels {row['key']}"} for row in rows[:3]]
    with pytest.raises(InvalidParameter, match=r"3 questions have several answers, .*FARE on"):
        tables.check_alike([*rows, *again])
    tables.check_alike([*rows, *(row | {"seed": 1} for row in again)])
