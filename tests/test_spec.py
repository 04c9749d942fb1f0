"""Hyperparameters: declared once, checked everywhere, shown in the unit people use."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.spec import Choice, Parameters, Range, build, fields, shown
from vlmdefense_demo.survey import methods


@dataclass(frozen=True)
class Sample(Parameters):
    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "radius"] = 4 / 255
    steps: Annotated[int, Range(1, 20, 1), "steps"] = 10
    share: Annotated[float, Range(0, 1)] = 0.5
    loss: Annotated[str, Choice(("ce", "dlr")), "loss"] = "ce"
    stop: Annotated[bool, "stop early"] = True


def test_fields_are_declared_once_in_order():
    eps, steps, share, loss, stop = fields(Sample)
    assert [eps.name, steps.name, share.name, loss.name, stop.name] == list(shown(Sample()))
    assert (eps.kind, steps.kind, loss.kind, stop.kind) == (float, int, str, bool)
    assert (eps.help, share.help) == ("radius", "")
    assert isinstance(loss.domain, Choice)
    assert stop.domain is None


def test_display_units_are_stored_as_pixels():
    assert build(Sample, {"eps": 8}).eps == pytest.approx(8 / 255)
    assert build(Sample, {"eps": 0.5}).eps == pytest.approx(0.5 / 255)
    assert build(Sample, {}) == build(Sample) == Sample()


@pytest.mark.parametrize("level", range(17))
def test_every_grey_level_is_shown_as_the_number_typed(level):
    assert shown(build(Sample, {"eps": level}))["eps"] == level


@pytest.mark.parametrize("entry", methods().values(), ids=lambda e: e.id)
def test_build_and_shown_are_inverse_on_the_survey(entry):
    assert shown(entry.build(shown(entry.cls()))) == shown(entry.cls())


def test_a_slider_may_send_a_whole_float_for_an_integer():
    steps = build(Sample, {"steps": 7.0}).steps
    assert steps == 7
    assert type(steps) is int
    assert type(build(Sample, {"share": 1}).share) is float


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"eps": 17}, "outside [0, 16] /255"),
        ({"eps": -1}, "eps=-1 is outside"),
        ({"eps": math.nan}, "finite number"),
        ({"eps": math.inf}, "finite number"),
        ({"eps": "4"}, "finite number"),
        ({"eps": None}, "finite number"),
        ({"eps": True}, "finite number"),
        ({"eps": [4]}, "finite number"),
        ({"steps": 2.5}, "steps expects int"),
        ({"steps": True}, "steps expects int"),
        ({"steps": 0}, "outside [1, 20]"),
        ({"steps": math.nan}, "steps expects int"),
        ({"steps": 10**30}, "outside [1, 20]"),
        ({"loss": "mse"}, "not one of ce, dlr"),
        ({"loss": 1}, "loss expects str"),
        ({"stop": 1}, "stop expects bool"),
        ({"stop": "false"}, "stop expects bool"),
        ({"epsilon": 4}, "Unknown parameter 'epsilon'. Known: eps, steps"),
    ],
)
def test_wrong_values_are_refused_with_one_sentence(values, expected):
    with pytest.raises(InvalidParameter) as caught:
        build(Sample, values)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_construction_in_python_is_checked_too():
    with pytest.raises(InvalidParameter):
        Sample(eps=1.0)


def test_bounds_themselves_are_allowed():
    assert build(Sample, {"eps": 16, "steps": 20, "share": 0}).eps == pytest.approx(16 / 255)
    assert build(Sample, {"eps": 0, "steps": 1, "share": 1}).eps == 0


def test_schema_speaks_display_units_and_json():
    eps, steps, _, loss, stop = (f.schema() for f in fields(Sample))
    assert (eps["default"], eps["minimum"], eps["maximum"], eps["step"]) == (4, 0, 16, 1)
    assert (eps["unit"], eps["type"]) == ("/255", "float")
    assert steps["maximum"] == 20
    assert loss["options"] == ["ce", "dlr"]
    assert "minimum" not in stop
    json.dumps([f.schema() for f in fields(Sample)], allow_nan=False)


def test_an_integer_no_float_can_hold_is_refused():
    with pytest.raises(InvalidParameter, match="eps expects a finite number"):
        build(methods("attack")["pgd"].cls, {"eps": 10**400})
