"""The survey's rows: complete, consistent with their classes, and JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import get_args

import pytest

from vlmdefense_demo.errors import InvalidParameter, UnknownMethod
from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.spec import Choice, Parameters, Range, fields
from vlmdefense_demo.survey import (
    PARADIGMS,
    SURVEY,
    defender,
    detector,
    entry,
    followers,
    leaders,
    methods,
    unavailable,
    usable,
)
from vlmdefense_demo.survey.entry import NOTHING, Entry, Kind, Paid
from vlmdefense_demo.types import Cost

each_row = pytest.mark.parametrize("row", SURVEY.values(), ids=SURVEY)
each_defense = pytest.mark.parametrize("row", methods("defense").values(), ids=methods("defense"))


@each_row
def test_row_is_complete(row):
    assert SURVEY[row.id] is row
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.id)
    assert row.url.startswith("https://")
    assert 2000 < row.year < 2030
    assert row.status in ("faithful", "simplified", "weights needed")
    assert all([row.title, row.paper, row.venue, row.licence, row.idea, row.cost])
    assert row.idea.endswith(".")
    assert set(row.flags) <= set(FLAGS)


@each_row
def test_row_says_all_that_the_survey_shows(row):
    for sentence in filter(None, (row.idea, row.detail, row.remark)):
        assert not sentence[0].islower()
        assert sentence.endswith(".")
        assert len(sentence) <= 160
    assert row.detail != row.idea
    assert row.trains
    assert not row.trains.endswith(".")
    assert row.paid in get_args(Paid)
    assert row.remark or row.status == "faithful", "say what is simplified, or which weights"


@each_row
def test_published_numbers_name_their_setting_and_source(row):
    for number in row.published:
        assert re.search(r"\d", number.result)
        assert "%" in number.result
        assert number.setting
        assert re.search("README|paper|abstract|Backdoor as Probe", number.source)
        assert "pocket" not in f"{number}", "own measurements are no published numbers"


@each_defense
def test_what_is_trained_and_when_it_is_paid_agree_with_the_method(row):
    assert row.needs_training is bool(defender(row).weights)
    if row.paradigm == "training_free":
        assert row.trains == NOTHING
    if row.needs_training:
        assert row.trains != NOTHING
    assert (row.paid == "training") is (row.paradigm == "training_time")


def test_no_row_can_leave_out_what_it_trains_and_when_that_is_paid():
    parts = {f.name: f for f in dataclasses.fields(Entry)}
    for name in ("detail", "trains", "paid"):
        assert parts[name].default is dataclasses.MISSING
    with pytest.raises(TypeError, match="trains"):
        Entry(**{n: getattr(SURVEY["ttc"], n) for n in parts if n != "trains"})


@each_row
def test_class_is_a_frozen_dataclass_of_parameters_that_can_be_called(row):
    assert issubclass(row.cls, Parameters)
    assert dataclasses.is_dataclass(row.cls)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        row.build().anything = 1
    assert callable(row.build())


@each_row
def test_docstring_names_source_or_update_and_what_differs(row):
    text = f"{inspect.getmodule(row.cls).__doc__}\n{row.cls.__doc__}"
    assert re.search("Sources?:|Update:", text)
    assert row.status != "simplified" or "simplif" in text.lower() or "differs" in text.lower()
    assert row.status != "weights needed" or f"python -m vlmdefense_demo train {row.id} " in text


@each_row
def test_every_parameter_is_explained_and_has_a_domain(row):
    for f in fields(row.cls):
        assert f.help, f"{row.id}.{f.name} has no help text"
        assert isinstance(f.domain, (Range, Choice)) or f.kind is bool
        assert f.kind in (int, float, bool, str)


@each_row
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_of_every_range_can_be_built_from_display_units(row, end):
    ranges = [f for f in fields(row.cls) if isinstance(f.domain, Range)]
    ends = {f.name: f.shown(getattr(f.domain, end)) for f in ranges}
    row.build(ends)  # alone, an end may not fit the defaults of the others
    for f in ranges:
        beyond = getattr(f.domain, end) + (-1 if end == "low" else 1)
        with pytest.raises(InvalidParameter, match="outside"):
            row.build({f.name: f.shown(f.kind(beyond))})


@each_row
def test_public_row_is_json_with_the_schema_of_its_parameters(row):
    data = json.loads(json.dumps(row.public(), allow_nan=False))
    assert data["id"] == row.id
    assert [p["name"] for p in data["parameters"]] == [f.name for f in fields(row.cls)]


@each_defense
def test_defense_lies_in_the_folder_of_its_paradigm(row):
    assert row.paradigm in PARADIGMS
    assert row.implementation.startswith(f"defenses.{row.paradigm}.")


@each_defense
def test_defense_states_its_nature(row):
    assert row.cls.adaptive in ("exact", "bpda", "eot")
    assert row.cls.stochastic is ("randomised" in row.flags)
    cost = row.build().expected_cost(4)
    assert isinstance(cost, Cost)
    assert cost.image_forward >= 1


@pytest.mark.parametrize("row", methods("attack").values(), ids=methods("attack"))
def test_attack_belongs_to_no_paradigm(row):
    assert row.paradigm == "none"
    assert row.implementation.startswith("attacks.")


@pytest.mark.parametrize("row", methods("detector").values(), ids=methods("detector"))
def test_detector_belongs_to_no_paradigm_and_states_its_nature(row):
    assert row.paradigm == "none"
    assert row.id.startswith("detect_")
    assert row.implementation.startswith("detectors.")
    kind = detector(row)
    assert kind.stochastic is ("randomised" in row.flags)
    assert kind.measure
    assert kind.evasion.endswith(".")
    assert kind().expected_cost(4).image_forward >= 2
    assert row.paid == "both", "a threshold has to be calibrated first"


def test_no_detector_is_offered_as_a_defence():
    found = set(methods("detector"))
    assert found == {"detect_padding", "detect_lowpass", "detect_drift", "detect_squeeze"}
    offered = {*usable("pocket"), *unavailable("pocket"), *leaders("pocket")}
    for id in leaders("pocket"):
        offered |= set(followers("pocket", id))
    assert not found & offered
    for id in ("detect_drift", "jpeg+detect_drift", "detect_padding+fare"):
        with pytest.raises(UnknownMethod, match="Unknown defense 'detect_"):
            entry(id, "defense")


def test_one_concept_has_one_name_across_all_methods():
    """`research/style.md` §4: names that mean the same as one in use are refused."""
    synonyms = {
        "epsilon": "eps", "alpha": "step_size", "stepsize": "step_size",
        "lr": "learning_rate", "n_steps": "steps", "iterations": "steps", "n_iter": "steps",
        "n_restarts": "restarts", "num_views": "views", "n_views": "views", "temp": "temperature",
    }  # fmt: skip
    for row in SURVEY.values():
        used = {f.name for f in fields(row.cls)}
        wrong = used & (synonyms.keys() - ({"alpha"} if row.paradigm == "training_time" else set()))
        assert not wrong, f"{row.id}: " + ", ".join(f"{w} -> {synonyms[w]}" for w in wrong)


def test_rows_can_be_selected_by_kind_and_paradigm():
    kinds = [set(methods(kind)) for kind in get_args(Kind)]
    assert sum(map(len, kinds)) == len(SURVEY)
    assert set().union(*kinds) == set(SURVEY) == set(methods())
    by_paradigm = [set(methods("defense", p)) for p in PARADIGMS]
    assert set().union(*by_paradigm) == set(methods("defense"))
    assert list(methods()) == list(SURVEY)


@pytest.mark.parametrize(
    ("id", "kind", "message"),
    [
        ("nope", None, "Unknown method 'nope'. Known: "),
        ("pgd", "defense", "Unknown defense 'pgd'. Known: "),
        ("ttc", "attack", "Unknown attack 'ttc'. Known: "),
        ("", None, "Unknown method ''"),
    ],
)
def test_an_unknown_method_is_refused_with_the_known_ones(id, kind, message):
    with pytest.raises(UnknownMethod) as caught:
        entry(id, kind)
    assert message in str(caught.value)
    known = str(caught.value).split("Known: ")[1].rstrip(".").split(", ")
    assert known == list(methods(kind))
