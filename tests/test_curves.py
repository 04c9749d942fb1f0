"""Probability of the right label over the radius: its ends are the cards' own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from vlmdefense_demo import curves
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import Cancelled, InvalidParameter, MethodFailed
from vlmdefense_demo.request import Request
from vlmdefense_demo.types import Prediction

DEFENSES = {"fare": {}, "rtpt": {"views": 4}, "ttc": {}}


@pytest.fixture
def request_():
    values = {"eps": 8, "steps": 3}
    return Request(tiny.images(1), tiny.LABELS, attack_params=values, defenses=DEFENSES)


@pytest.fixture
def cards(request_, backbone):
    return {card.method: card for card in compare(request_, backbone)}


def last(how, request, backbone, cards, **more):
    return list(curves.draw(how, request, backbone, cards["undefended"], **more))[-1]


def test_labels_of_one_answer_are_added():
    answer = Prediction(("dog", "cat", "puppy"), (0.5, 0.2, 0.3), (1, 0, 0))
    assert curves.right_prob(answer, ("dog", "puppy")) == 0.8
    assert curves.right_prob(answer, ("cat",)) == 0.2


# parts of a change


def test_parts_start_at_the_clean_picture_and_end_at_the_file():
    rng = np.random.default_rng(0)
    clean, attacked = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    *_, (top, end) = parts = list(curves.parts_of(clean, attacked))
    assert (parts[0][0], len(parts)) == (0, 5)
    assert np.array_equal(parts[0][1], clean)
    assert np.array_equal(end, attacked)
    assert top == np.abs(clean.astype(int) - attacked).max()


def test_a_part_is_the_same_change_smaller_and_as_large_as_it_says():
    clean = np.full((2, 3, 3), 100, np.uint8)
    attacked = clean.copy()
    attacked[0, 0], attacked[1, 2, 0] = (108, 92, 104), 101
    for levels, picture in curves.parts_of(clean, attacked):
        delta = picture.astype(int) - 100
        assert np.abs(delta).max() == levels
        assert delta[0, 0].tolist() == [levels, -levels, levels // 2]
        assert delta[1, 2, 0] == (levels >= 4)  # 0.5 and more is a level


@pytest.mark.parametrize(
    ("top", "levels"),
    [(0, [0]), (1, [0, 1]), (2, [0, 1, 2]), (4, [0, 1, 2, 3, 4]), (16, [0, 4, 8, 12, 16])],
)
def test_there_are_at_most_five_radii_in_whole_levels(top, levels):
    clean = np.full((2, 2, 3), 50, np.uint8)
    assert [k for k, _ in curves.parts_of(clean, clean + np.uint8(top))] == levels


# curves


def test_along_a_change_both_ends_are_the_cards_numbers(request_, backbone, cards):
    curve = last("along", request_, backbone, cards)
    assert (curve.how, curve.eps, curve.failed) == ("along", (0, 2, 4, 6, 8), ())
    assert [line.method for line in curve.lines] == ["undefended", *DEFENSES]
    for line in curve.lines:
        card = cards[line.method]
        ends = [curves.right_prob(p, card.right) for p in (card.clean, card.attacked)]
        assert [line.probs[0], line.probs[-1]] == ends
        assert (line.title, line.paradigm) == (card.title, card.paradigm)


def test_attacked_again_at_the_same_radius_is_the_card_again(request_, backbone, cards):
    curve = last("again", request_, backbone, cards)
    assert curve.eps == (0, 1, 2, 4, 8)
    for line in curve.lines:
        card = cards[line.method]
        ends = [curves.right_prob(p, card.right) for p in (card.clean, card.attacked)]
        assert [line.probs[0], line.probs[-1]] == ends


def test_the_two_curves_are_different_questions(request_, backbone, cards):
    """Half of a change at 8 is not the attack at 4."""
    along, again = (last(how, request_, backbone, cards) for how in ("along", "again"))
    assert along.lines[0].probs[2] != again.lines[0].probs[3]


def test_a_curve_grows_radius_by_radius(request_, backbone, cards):
    seen = list(curves.draw("along", request_, backbone, cards["undefended"]))
    assert [len(c.eps) for c in seen] == [1, 2, 3, 4, 5]
    assert all(len(line.probs) == len(c.eps) for c in seen for line in c.lines)


def test_a_defence_that_fails_has_no_line_and_is_named(request_, backbone, cards, monkeypatch):
    def fail(*_, **__):
        raise MethodFailed("no")

    monkeypatch.setattr("vlmdefense_demo.defenses.training_free.ttc.TTC.__call__", fail)
    curve = last("along", request_, backbone, cards)
    assert curve.failed == ("TTC",)
    assert [line.method for line in curve.lines] == ["undefended", "fare", "rtpt"]


def test_an_attack_without_a_radius_is_not_made_again(request_, backbone):
    request = replace(request_, attack="ddn", attack_params={"steps": 3}, defenses={})
    cards = {card.method: card for card in compare(request, backbone)}
    with pytest.raises(InvalidParameter, match=r"DDN .* has no radius in levels"):
        last("again", request, backbone, cards)
    assert last("along", request, backbone, cards).eps[0] == 0


@pytest.mark.parametrize(
    ("attack", "params"),
    [("apgd_ce", {"norm": "l2", "radius": 1}), ("blur", {"same_budget": False})],
)
def test_a_radius_in_levels_that_plays_no_part_is_none(request_, attack, params):
    request = replace(request_, attack=attack, attack_params={"eps": 4, **params})
    with pytest.raises(InvalidParameter, match="has no radius in levels"):
        curves.check_radius(request)
    curves.check_radius(replace(request, attack_params={"eps": 4}))


@pytest.mark.parametrize("how", ["along", "again"])
def test_stop_ends_a_curve(request_, backbone, cards, how):
    with pytest.raises(Cancelled):
        last(how, request_, backbone, cards, should_stop=tiny.stops_at(4))
