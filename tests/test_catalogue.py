"""The survey as a table: what a filter leaves, in which order, and the Markdown of it."""

from __future__ import annotations

from itertools import chain
from typing import get_args

import pytest

from vlmdefense_demo.survey import SURVEY, methods
from vlmdefense_demo.survey.catalogue import (
    COLUMNS,
    ORDERS,
    STATUSES,
    Filter,
    Group,
    cost,
    defaults,
    markdown,
    paid,
)


def ids(**choice) -> list[str]:
    return [row.id for row in Filter(**choice).rows()]


def test_without_a_choice_all_defences_stand_in_the_order_of_the_survey():
    assert ids() == list(methods("defense"))


def test_the_groups_are_kinds_and_paradigms():
    assert ids(group="all") == list(SURVEY)
    assert ids(group="attacks") == list(methods("attack"))
    assert ids(group="detectors") == list(methods("detector"))
    for group in get_args(Group)[1:4]:
        assert ids(group=group) == [row.id for row in SURVEY.values() if row.paradigm == group]


@pytest.mark.parametrize("group", get_args(Group))
def test_status_and_training_split_a_group_without_loss(group):
    everything = ids(group=group)
    by_status = chain(*(ids(group=group, status=status) for status in STATUSES))
    by_training = chain(*(ids(group=group, training=needs) for needs in (True, False)))
    assert sorted(by_status) == sorted(by_training) == sorted(everything)


def test_filters_are_joined():
    found = Filter("test_time", "simplified", True, 2025).rows()
    assert [row.id for row in found] == ["tapt"]
    assert ids(group="training_time", training=False) == []


def test_since_includes_its_own_year():
    newest = max(row.year for row in SURVEY.values())
    found = Filter("all", since=newest).rows()
    assert found
    assert {row.year for row in found} == {newest}
    assert ids(since=newest + 1) == []


def test_orders_sort_and_ties_keep_the_survey_order():
    place = {id: i for i, id in enumerate(SURVEY)}
    for order, key in (("newest", lambda r: -r.year), ("oldest", lambda r: r.year)):
        rows = Filter("all", order=order).rows()
        assert rows == sorted(rows, key=lambda r: (key(r), place[r.id]))
        assert rows[0].year != rows[-1].year
    names = [row.title.casefold() for row in Filter("all", order="name").rows()]
    assert names == sorted(names)


def test_cost_sorts_by_image_passes_then_text_passes_and_attacks_come_last():
    rows = Filter("all", order="cost").rows()
    found = [c for c in map(defaults, rows) if c]
    assert not any(map(defaults, rows[len(found) :]))
    passes = [(c.image_forward + c.image_backward, c.text_forward + c.text_backward) for c in found]
    assert passes == sorted(passes)
    assert passes[0] == (1, 0)
    assert rows[len(found) - 1].id == "smoothing"


def test_every_order_keeps_every_row():
    assert all(sorted(ids(group="all", order=order)) == sorted(SURVEY) for order in ORDERS)


def test_a_formula_is_counted_out_unless_it_is_a_number_already():
    assert cost(SURVEY["fare"]) == "1 f"
    assert cost(SURVEY["rtpt"]) == (
        "V f, text C f + C b (at its defaults, 10 labels: 16 f · text 10 f + 10 b)"
    )
    assert cost(SURVEY["pgd"]) == SURVEY["pgd"].cost


def test_who_pays_is_said():
    assert paid(SURVEY["fare"]) == "at training, once"
    assert paid(SURVEY["universal"]) == "in advance, by the attacker"
    assert paid(SURVEY["detect_drift"]) == "once for the threshold, then for every image"


def test_markdown_has_a_cell_for_every_column_of_every_row():
    head, rule, *lines = markdown(SURVEY.values())
    assert head == f"| {' | '.join(COLUMNS)} |"
    assert rule.count("---") == len(COLUMNS)
    assert len(lines) == len(SURVEY)
    for line, row in zip(lines, SURVEY.values(), strict=True):
        cells = line.strip("| ").split(" | ")
        assert len(cells) == len(COLUMNS)
        assert cells[0] == row.title
        assert "\n" not in line
        assert all(number.source in line for number in row.published)
