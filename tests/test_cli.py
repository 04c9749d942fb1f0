"""python -m vlmdefense_demo, called in this process on the embedded model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import skimage

from vlmdefense_demo.__main__ import main
from vlmdefense_demo.commands import _settings
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.export import read_story
from vlmdefense_demo.images import from_png, load_image, to_array
from vlmdefense_demo.survey import SURVEY, usable
from vlmdefense_demo.survey.catalogue import markdown

CAT = str(Path(skimage.__file__).parent / "data" / "chelsea.png")
LABELS = ["cat", "dog", "lion"]


@pytest.fixture
def call(capsys):
    """Runs `compare` on the cat; returns the exit code, stdout and stderr."""

    def run(*more: str, image: str = CAT, labels: str = "cat, dog, lion"):
        code = main(["compare", "--image", image, "--labels", labels, *more])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def cards(out: str) -> dict[str, dict]:
    return {card["method"]: card for card in json.loads(out)}


def test_methods_as_json_are_the_rows_of_the_survey(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [row.public() for row in SURVEY.values()]


def test_methods_as_text_is_one_line_a_method(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SURVEY)


def test_methods_as_markdown_is_the_survey_as_a_table(capsys):
    assert main(["methods", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == list(markdown(SURVEY.values()))


def test_methods_is_printed_in_one_form_at_a_time(capsys):
    with pytest.raises(SystemExit):
        main(["methods", "--json", "--markdown"])
    assert "not allowed with" in capsys.readouterr().err


def test_compare_prints_all_cards_as_json(call):
    code, out, err = call("--json", "-", "--eps", "2", "--set", "rtpt.views=4")
    found = cards(out)
    assert (code, err) == (0, "")
    assert list(found) == ["undefended", *usable("pocket")]
    assert found["undefended"]["clean"]["labels"] == LABELS
    assert found["undefended"]["reference"] == "cat"
    assert found["undefended"]["attack"]["params"]["eps"] == 2
    assert 0 < found["undefended"]["attack"]["linf"] <= 2
    assert found["rtpt"]["params"]["views"] == found["rtpt"]["cost"]["image_forward"] == 4


def test_compare_prints_one_line_a_card(call):
    code, out, _ = call("--defenses", "fare")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["Undefended", "FARE"]
    assert " 1 f" in out


def test_compare_writes_json_to_a_file(call, tmp_path):
    code, out, _ = call("--defenses", "", "--json", str(tmp_path / "cards.json"))
    assert (code, out) == (0, "")
    assert list(cards((tmp_path / "cards.json").read_text(encoding="utf-8"))) == ["undefended"]


@pytest.mark.parametrize("flag", ["--json", "--report"])
def test_what_cannot_be_written_is_refused_before_anything_runs(call, tmp_path, flag, monkeypatch):
    monkeypatch.setattr("vlmdefense_demo.engine.compare", lambda *_: pytest.fail("it ran"))
    code, out, err = call(flag, str(tmp_path / "nowhere" / "x"))
    assert (code, out) == (2, "")
    assert "x cannot be written." in err


def test_a_story_is_written_into_a_folder_only(call, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmdefense_demo.engine.compare", lambda *_: pytest.fail("it ran"))
    (tmp_path / "x").write_text("mine")
    code, _, err = call("--out", str(tmp_path / "x"))
    assert code == 2
    assert "x is no folder. Name a folder" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["stories", "--lang", "de"], "--lang is the language of a file. Name one with --html."),
        (["stories", "--html", "x.html", "--only", "one-step"], "all of them. Leave --only"),
        (["stories", "--html", "/nowhere/x.html"], "/nowhere/x.html cannot be written."),
        (["stories", "--html", "x.html", "--lang", "fr"], "Unknown language 'fr'."),
        (["trial", "--images", ".", "--file", "a", "--table-only", "/nowhere/b"],
         "/nowhere/b: No such file or directory."),
    ],
)  # fmt: skip
def test_what_a_command_cannot_do_is_one_sentence_and_code_2(argv, says, capsys):
    assert main(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err


@pytest.mark.parametrize(
    ("more", "radius"),
    [
        (("--attack", "noise", "--set", "noise.eps=8"), "ε 8/255"),
        (("--attack", "pgd_l2"), "PGD · L2 · L2 3 · seed"),
    ],
)
def test_the_badge_of_a_story_names_the_radius_it_was_made_with(call, tmp_path, more, radius):
    code, _, _ = call("--out", str(tmp_path), "--defenses", "", *more)
    assert code == 0
    assert radius in read_story(tmp_path).about["badge"]


def test_compare_writes_a_story_the_page_can_show(call, tmp_path):
    code, _, _ = call("--defenses", "fare", "--eps", "1", "--seed", "7", "--out", str(tmp_path))
    story = read_story(tmp_path)
    assert code == 0
    assert [card.method for card in story.cards] == ["undefended", "fare"]
    assert story.about["labels"] == LABELS
    assert story.about["seed"] == 7
    assert "pocket · PGD · ε 1/255 · seed 7" in story.about["badge"]
    clean = from_png(story.clean)
    assert (clean == load_image(CAT)).all()
    change = to_array(from_png(story.cards[0].attack.png)).astype(int) - to_array(clean)
    assert abs(change).max() == story.cards[0].attack.linf == 1


def test_compare_writes_a_report_whose_command_makes_the_same_file(call, tmp_path, monkeypatch):
    code, _, _ = call("--defenses", "fare", "--eps", "2", "--report", str(tmp_path / "r.zip"))
    archive = zipfile.ZipFile(tmp_path / "r.zip")
    assert code == 0
    assert {"figures/margin.png", "pictures/looks-attacked.png"} <= set(archive.namelist())
    archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    *_, line = archive.read("repeat.txt").decode().splitlines()
    assert main(shlex.split(line)[3:]) == 0
    again = zipfile.ZipFile(tmp_path / "again.zip")
    assert again.read("adversarial.png") == archive.read("adversarial.png")


def test_truth_and_target_are_taken(call):
    code, out, _ = call("--defenses", "", "--truth", "DOG", "--target", "lion", "--json", "-")
    card = cards(out)["undefended"]
    assert code == 0
    assert (card["reference"], card["pseudo"], card["verdict"]) == ("dog", False, "wrong_clean")
    assert card["attack"]["targeted"]


def test_two_defences_in_a_row_are_one_card_with_the_settings_of_both(call):
    code, out, err = call("--defenses", "fare+ttc", "--set", "fare+ttc.ttc_steps=3", "--json", "-")
    assert (code, err) == (0, "")
    card = cards(out)["fare+ttc"]
    assert card["title"] == "FARE, then TTC"
    assert card["params"]["ttc_steps"] == 3
    assert card["params"]["fare_alpha"] == 1
    assert call("--defenses", "ttc+fare")[::2] == (2, (
        "FARE after TTC comes too late: TTC has answered with the model as it was. "
        "The other way round it works: fare+ttc.\n"
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--eps", "129"], "eps=129 is outside [0, 128] /255"),
        (["--eps", "nan"], "eps expects a finite number"),
        (["--defenses", "fare,nope"], "Unknown defense 'nope'"),
        (["--set", "pgd.steps=0"], "steps=0 is outside"),
        (["--set", "pgd.nope=1"], "Unknown parameter 'nope'"),
        (["--set", "nope.steps=1"], "Unknown method 'nope'"),
        (["--set", "pgd.steps"], "--set expects METHOD.FIELD=VALUE, got 'pgd.steps'"),
        (["--set", "steps=3"], "--set expects METHOD.FIELD=VALUE, got 'steps=3'"),
        (["--defenses", "fare", "--set", "ttc.steps=1"], "methods that do not run: ttc"),
        (["--truth", "zebra"], "“zebra” is not among the labels"),
        (["--target", "cat"], "The target “cat” is already the answer"),
        (["--template", "a photo"], "exactly one {}"),
        (["--model", "nope"], "Unknown model 'nope'"),
        (["--model", "local-dir:/nowhere"], "could not be loaded"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_input_that_cannot_be_used_is_one_sentence_and_code_2(call, more, sentence):
    code, out, err = call(*more, "--json", "-")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_bad_labels_and_pictures_are_one_sentence_and_code_2(call, tmp_path):
    text = tmp_path / "x.png"
    text.write_text("hello", encoding="utf-8")
    for more, sentence in (
        ({"labels": "cat"}, "at least 2 different ones, got 1"),
        ({"labels": "x" * 400 + ",dog"}, "400 characters"),
        ({"image": "/nowhere/cat.png"}, "The file cat.png cannot be read"),
        ({"image": str(text)}, "not a picture that can be read"),
    ):
        code, out, err = call("--json", "-", **more)
        assert (code, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["nope"], ["compare"], ["compare", "--device", "tpu"]])
def test_a_command_line_that_makes_no_sense_is_refused_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as raised:
        main(argv)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pairs", "settings"),
    [
        ([], {}),
        (["rtpt.views=32"], {"rtpt": {"views": 32}}),
        (["pgd.eps=0.5", "pgd.loss=dlr"], {"pgd": {"eps": 0.5, "loss": "dlr"}}),
        (["pgd.stop_early=false"], {"pgd": {"stop_early": False}}),
        (["pgd.steps=1", "ttc.steps=2", "pgd.steps=3"], {"pgd": {"steps": 3}, "ttc": {"steps": 2}}),
        (["pgd.loss=a=b"], {"pgd": {"loss": "a=b"}}),
    ],
)
def test_settings_are_grouped_by_method(pairs, settings):
    assert _settings(pairs) == settings


@pytest.mark.parametrize("pair", ["", "=", "pgd", "pgd.steps", "pgd=3", "nope.steps=1"])
def test_settings_of_another_form_are_refused(pair):
    with pytest.raises(DemoError):
        _settings([pair])


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "vlmdefense_demo", "methods"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=root
    )
    assert done.returncode == 0
    assert "R-TPT" in done.stdout
