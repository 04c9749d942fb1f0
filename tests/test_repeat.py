"""The command in a report makes the same request, whatever people wrote into it."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from tests import tiny
from vlmdefense_demo import commands, repeat
from vlmdefense_demo.__main__ import _parser
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.images import to_png
from vlmdefense_demo.ladder import BATCH
from vlmdefense_demo.report import asked
from vlmdefense_demo.request import AWARE, Aim, Request

HOSTILE = [
    "cat; rm -rf ~",
    " $(touch x)",
    'it\'s a "dog" = `puppy`',
    "-dash",
    "--seed",
    "猫\\n",
    "a\tb",
]
REQUESTS = {
    "default": {},
    "hostile": {"labels": HOSTILE, "template": "$HOME 'of' a {} --x", "reference": "-dash"},
    "settings": {
        "attack_params": {"eps": 2, "steps": 7, "loss": "dlr", "stop_early": True},
        "defenses": {"rtpt": {"views": 8, "augmix": True}, "fare+ttc": {"ttc_steps": 3}},
        "seed": 12, "rungs": AWARE,
    },
    "no defences": {"defenses": {}},
    "labels as one text": {"labels": "cat = puppy, dog、bird"},
    "one text in a list": {"labels": ["cat, dog\nbird"]},
    "without a radius": {"attack": "ddn", "attack_params": {"steps": 5}},
    "a label": {"aim": Aim.at("bird")},
    "the runner-up": {"aim": Aim("runner-up"), "rungs": AWARE, "climb": False, "budget": BATCH},
    "a caption": {"attack": "caption", "attack_params": {}, "aim": Aim("caption", "-a hot, dog's; $x")},
    "a picture": {"attack": "image_target", "attack_params": {}, "aim": Aim.at("", "", tiny.images(1, seed=5))},
}  # fmt: skip


@pytest.fixture(params=REQUESTS)
def request_(request):
    base = Request(tiny.images(1), ["cat", " dog", "bird"], defenses={"ttc": {"tau": 0.3}})
    return replace(base, exhibits=True, looks=True, **REQUESTS[request.param])


@pytest.fixture
def folder(tmp_path, monkeypatch, request_):
    (tmp_path / "clean.png").write_bytes(to_png(request_.image))
    if request_.aim.picture is not None:
        (tmp_path / repeat.TARGET).write_bytes(to_png(request_.aim.picture))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_line_makes_the_same_request(request_, folder, backbone):
    line = repeat.command(request_, backbone.name)
    assert "\n" not in line
    python, *words = shlex.split(line)
    assert (python, words[:3]) == ("python", ["-m", "vlmdefense_demo", "compare"])
    args = _parser().parse_args(words[2:])
    again = commands.asked(args, backbone)
    assert args.model == backbone.name
    assert asked(again) == asked(request_)
    assert again.words() == request_.words()
    assert (again.image == request_.image).all()
    if request_.aim.picture is not None:
        assert (again.aim.picture == request_.aim.picture).all()
    settled = {"image": 0, "aim": 0, "labels": 0, "attack_params": {}, "defenses": {}}
    assert replace(again, **settled) == replace(request_, **settled)


def test_what_cannot_be_written_is_refused():
    for label in ("cat, small", "猫、狗", "cat，small", "cat\nsmall"):
        request = Request(tiny.images(1), [label, "dog"])
        with pytest.raises(InvalidParameter, match="cannot be written as a command"):
            repeat.command(request, "pocket")
    with pytest.raises(InvalidParameter, match="cannot be written as a command"):
        repeat.command(replace(request, labels=["cat", "dog"], attack=None), "pocket")
