"""The checks for masked gradients, each on a defence that commits the sin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import tiny
from vlmdefense_demo import masking
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.engine import compare
from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.request import Request
from vlmdefense_demo.survey import methods
from vlmdefense_demo.types import Cost, Goal, Prediction, Rung


def middle(n=1):
    return (tiny.images(n, 8) * 100 + 78).round() / 255


@pytest.fixture
def line():
    return tiny.Linear(k=3)


def flags_of(target, x):
    return masking.slope(target, x, Goal(tiny.Linear(k=3)(x).argmax(1))).flags()


def prediction(logits, labels=("a", "b", "c")):
    probs = torch.tensor(logits).softmax(0).tolist()
    return Prediction(labels=tuple(labels), logits=tuple(logits), probs=tuple(probs))


# GM2, GM3: the gradient


def test_the_true_gradient_raises_no_flag(line):
    assert flags_of(line, middle()) == ()
    found = masking.slope(line, middle(), Goal(line(middle()).argmax(1)))
    torch.testing.assert_close(found.claimed, found.measured, rtol=1e-2, atol=1e-4)
    assert found.blank == 0


@pytest.mark.parametrize("sin", [
    lambda f: lambda x: f(x.detach()),
    lambda f: lambda x: f((x * 255).round() / 255),
    lambda f: lambda x: 0 * f(x),
], ids=["detached", "rounded", "constant"])  # fmt: skip
def test_a_gradient_that_is_not_there(line, sin):
    assert flags_of(sin(line), middle()) == ("no_gradient",)


def test_a_gradient_on_a_few_pixels_only_counts_as_none(line):
    mask = torch.zeros(1, 3, 8, 8)
    mask[..., :3] = 1
    assert flags_of(lambda x: line(x * mask), middle()) == ("no_gradient",)


def test_an_inner_loop_that_is_detached_promises_too_much(line):
    """A purifier that pulls the picture back ten times, unseen by autograd."""

    def purified(x):
        home = torch.full_like(x, 0.5)
        moved = x
        for _ in range(10):
            moved = moved + 0.2 * (home - moved)
        return line(x + (moved - x).detach())

    assert flags_of(purified, middle()) == ("wrong_gradient",)


def test_an_inner_loop_whose_gradient_flows_raises_no_flag(line):
    def purified(x):
        for _ in range(10):
            x = x + 0.1 * (0.5 - x)
        return line(x)

    assert flags_of(purified, middle()) == ()


@pytest.mark.parametrize("times", [1, 3])
def test_a_gradient_with_its_sign_turned_is_misleading(line, times):
    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -g

    def target(x):
        for _ in range(times):
            x = Turned.apply(x)
        return line(x)

    assert flags_of(target, middle()) == ("wrong_gradient",)


def test_a_scaled_gradient_is_misleading_from_a_quarter_on(line):
    def scaled(by):
        return lambda x: line(x.detach() + by * (x - x.detach()))

    assert flags_of(scaled(1.1), middle()) == ()
    assert flags_of(scaled(1.4), middle()) == ("wrong_gradient",)


# GM5, GM11: the answer


def test_probabilities_in_place_of_logits():
    assert masking.probabilities(prediction([0.7, 0.2, 0.1])) == ("not_logits",)
    assert masking.probabilities(prediction([7.0, 2.0, 1.0])) == ()
    assert masking.probabilities(prediction([1.7, -0.5, -0.2])) == ()


def test_a_defence_that_is_not_there():
    one = prediction([3.0, 2.0, 1.0])
    assert masking.inactive(prediction([9.0, 6.0, 3.0]), one) == ("inactive",)
    assert masking.inactive(prediction([3.0, 1.0, 2.0]), one) == ()
    assert masking.inactive(prediction([1.0, 1.0, 1.0]), one) == ()


def test_two_logits_always_correlate_and_say_nothing():
    assert masking.inactive(prediction([9.0, 6.0]), prediction([0.3, 0.1])) == ()


# GM1, GM7, GM9, GM14: the attack


def test_an_undefended_survivor_says_that_the_attack_is_weak():
    assert masking.canary(4, fooled=False, targeted=False) == ("weak_attack",)
    assert masking.canary(8, fooled=True, targeted=False) == ()
    assert masking.canary(3, fooled=False, targeted=False) == ()
    assert masking.canary(8, fooled=False, targeted=True) == ()


def test_an_attack_that_stood_still_or_lost_what_it_had():
    assert masking.stalled([-1.0] * 10, False) == ("flat_start",)
    assert masking.stalled([-1.0, -0.9, -0.8, -0.5, 0.4], True) == ()
    assert masking.stalled([-1.0, -0.5, 0.5, -0.1], False) == ("lost_success",)
    assert masking.stalled([-1.0, -1.0], False) == ()
    assert masking.stalled([-2.0, -2.0, -1.0, 0.3], True) == ()  # a few questions, and through
    assert masking.stalled([], False) == ()


def rung(name, verdict):
    answer = prediction([3.0, 2.0, 1.0])
    return Rung(name, "", answer, verdict, Cost(), 4.0, None, 0, b"")


@pytest.mark.parametrize(
    ("ladder", "flags"),
    [
        ({"transfer": "fooled", "white_box": "held"}, ("blind_wins",)),
        ({"transfer": "held", "white_box": "held", "black_box": "fooled"}, ("blind_wins",)),
        ({"transfer": "fooled", "white_box": "fooled"}, ()),
        ({"transfer": "held", "white_box": "held"}, ()),
        ({"transfer": "fooled"}, ()),
    ],
)
def test_a_blind_attacker_who_wins_where_a_seeing_one_does_not(ladder, flags):
    assert masking.blind_beats_gradient([rung(n, v) for n, v in ladder.items()]) == flags


@pytest.mark.parametrize(("wrong", "flags"), [(0.75, ()), (0.25, ("blind_wins",))])
def test_a_lucky_draw_of_a_random_defence_is_no_sign(wrong, flags):
    lucky = [replace(rung("transfer", "fooled"), wrong=0.6, draws=8)]
    held = replace(rung("white_box", "held"), wrong=wrong, draws=8)
    assert masking.blind_beats_gradient([*lucky, held]) == flags


def test_noise_that_does_it_in_half_of_the_draws():
    goal = Goal(torch.tensor([0]))
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert masking.noise_fools(torch.cat([right] * 4 + [wrong] * 4), goal) == ("noise_enough",)
    assert masking.noise_fools(torch.cat([right] * 5 + [wrong] * 3), goal) == ()


# on the cards


def test_every_flag_a_check_or_a_row_can_raise_has_its_paragraph():
    raised = {f for row in methods().values() for f in row.flags} | {
        "no_gradient", "wrong_gradient", "inactive", "not_logits", "weak_attack", "flat_start",
        "lost_success", "blind_wins", "noise_enough", "attack_failed",
    }  # fmt: skip
    assert raised == set(FLAGS)
    for word, paragraph in FLAGS.values():
        assert 5 < len(word) < 40
        assert 80 < len(paragraph) < 400
        assert paragraph.endswith((".", "?"))


def cards_of(backbone, **changes):
    request = Request(tiny.images(), list(tiny.LABELS), attack_params={"steps": 3, "eps": 4})
    return {c.method: c for c in compare(replace(request, **changes), backbone)}


def test_a_defence_with_a_hidden_gradient_carries_the_flag(backbone, monkeypatch):
    fare = methods("defense")["fare"].cls
    plain = cards_of(backbone, defenses={"fare": {}})["fare"]
    whole = fare.__call__

    def hidden(self, clf, x, *, run):
        return whole(self, clf, (x * 255).round() / 255, run=run)

    monkeypatch.setattr(fare, "__call__", hidden)
    masked = cards_of(backbone, defenses={"fare": {}})["fare"]
    assert "no_gradient" not in plain.flags
    assert "no_gradient" in masked.flags
    assert masked.clean.label == plain.clean.label


def test_a_control_that_leaves_the_model_standing_is_called_weak(backbone):
    sure = tiny.images(seed=4)  # held against FGSM, too
    cards = cards_of(
        backbone, image=sure, attack="jpeg_control", attack_params={"eps": 4, "quality": 80}
    )
    assert cards["undefended"].verdict == "held"
    assert cards["undefended"].attack.linf == 4
    assert "weak_attack" in cards["undefended"].flags


@pytest.mark.parametrize("attack", ["patch", "typographic", "pgd_l2"])
def test_noise_of_a_patchs_height_everywhere_is_not_its_equal(backbone, monkeypatch, attack):
    """A few pixels may change a lot: uniform noise of that size would fool anything."""
    monkeypatch.setattr(masking, "noise_fools", lambda *a: ("noise_enough",))
    monkeypatch.setattr(masking, "canary", lambda *a: ("weak_attack",))
    found = cards_of(backbone, attack=attack, attack_params={})["undefended"].flags
    assert not {"noise_enough", "weak_attack"} & set(found)
    assert "noise_enough" in cards_of(backbone)["undefended"].flags


def test_noise_changes_no_answer_that_was_wrong_before(backbone):
    """The goal of leaving the right label is reached in every draw, by no merit of the noise."""
    right = cards_of(backbone)["undefended"].clean
    worst = right.labels[min(range(4), key=right.logits.__getitem__)]
    card = cards_of(backbone, reference=worst)["undefended"]
    assert card.verdict == "wrong_clean"
    assert card.flags == ()


def test_checks_can_be_left_out(backbone, monkeypatch):
    monkeypatch.setattr("vlmdefense_demo.masking.slope", None)
    monkeypatch.setattr("vlmdefense_demo.masking.canary", None)
    request = Request(tiny.images(), list(tiny.LABELS), defenses={"ttc": {}}, checks=False)
    cards = list(compare(request, backbone))
    assert [card.method for card in cards] == ["undefended", "undefended", "ttc"]


def test_no_check_books_its_passes_on_a_card(backbone, monkeypatch):
    checked = cards_of(backbone, defenses={"fare": {}})
    monkeypatch.setattr(masking, "slope", lambda *a: masking.Slope(*torch.ones(3, 1)))
    bare = cards_of(backbone, defenses={"fare": {}})
    for id in ("undefended", "fare"):
        assert checked[id].cost.passes() == bare[id].cost.passes()
    assert issubclass(methods("defense")["fare"].cls, Defender)
