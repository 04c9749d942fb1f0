"""Per-sample losses and goals, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.losses import LOSSES, cross_entropy, dlr, dlr_targeted, margin
from vlmdefense_demo.types import Goal

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 1.0, 1.5]])
LABELS = torch.tensor([0, 3])


def no_allies(logits, labels):
    return torch.nn.functional.one_hot(labels, logits.shape[1]).bool()


def towards_the_last(logits, labels, allies):
    return dlr_targeted(logits, labels, allies, torch.full_like(labels, logits.shape[1] - 1))


ALLIES = no_allies(LOGITS, LABELS)


def test_cross_entropy_is_minus_the_log_probability():
    expected = [-math.log(math.exp(z[y]) / sum(map(math.exp, z)))
                for z, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]  # fmt: skip
    assert cross_entropy(LOGITS, LABELS, ALLIES).tolist() == pytest.approx(expected)


def test_margin_is_best_other_minus_own():
    assert margin(LOGITS, LABELS, ALLIES).tolist() == [-2.0, 0.5]


def test_margin_takes_the_best_of_each_side():
    allies = torch.tensor([[True, True, False, False], [True, False, False, True]])
    assert margin(LOGITS, LABELS, allies).tolist() == [-3.0, 0.5]


def test_dlr_is_the_ratio_of_differences():
    assert dlr(LOGITS, LABELS, ALLIES).tolist() == pytest.approx([-2 / 3, 0.5 / 1.0])


def test_dlr_ignores_shift_and_scale():
    first = dlr(LOGITS, LABELS, ALLIES)
    torch.testing.assert_close(dlr(7 * LOGITS - 5, LABELS, ALLIES), first)


def test_dlr_refuses_two_labels():
    logits, labels = LOGITS[:, :2], torch.tensor([0, 1])
    with pytest.raises(InvalidLabels, match="at least 3 labels, got 2"):
        dlr(logits, labels, no_allies(logits, labels))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_have_the_gradient_of_their_value(loss):
    logits = LOGITS.double().requires_grad_()
    torch.autograd.gradcheck(lambda z: loss(z, LABELS, ALLIES), logits)


@pytest.mark.parametrize("k", [3, 4, 9])
@pytest.mark.parametrize("loss", [*LOSSES.values(), towards_the_last], ids=[*LOSSES, "dlr_t"])
def test_labels_without_groups_are_groups_of_one_to_the_bit(loss, k):
    logits = torch.randn(64, k, generator=torch.Generator().manual_seed(k)).mul(20)
    labels = torch.arange(64) % (k - 1)
    found = []
    for allies in (None, no_allies(logits, labels)):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels, allies)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), leaf)))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_treat_every_row_alone(loss):
    batch = loss(LOGITS, LABELS, ALLIES)
    for i in range(2):
        row = slice(i, i + 1)
        torch.testing.assert_close(loss(LOGITS[row], LABELS[row], ALLIES[row]), batch[row])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_no_loss_gains_from_moving_to_an_ally(loss):
    logits = torch.tensor([[5.0, 4.0, 1.0, 0.0, -1.0]], requires_grad=True)
    allies = torch.tensor([[True, True, False, False, False]])
    slope = torch.autograd.grad(loss(logits, torch.tensor([0]), allies).sum(), logits)[0][0]
    assert slope[1] <= 0
    assert slope[2] > 0


def test_targeted_dlr_gains_nothing_from_an_ally():
    logits = torch.tensor([[5.0, 4.0, 1.0, 0.0, -1.0]], requires_grad=True)
    allies, target = torch.tensor([[True, True, False, False, False]]), torch.tensor([2])
    slope = torch.autograd.grad(
        dlr_targeted(logits, torch.tensor([0]), allies, target).sum(), logits
    )[0][0]
    assert slope[1] == 0
    assert slope[2] > 0 > slope[0]


@pytest.mark.parametrize("outside", [1, 2])
def test_ratios_without_enough_answers_are_the_bare_margin(outside):
    logits = torch.tensor([[5.0, 4.0, 3.5, 1.0, 0.5]], requires_grad=True)
    allies = torch.arange(5)[None] < 5 - outside
    plain = margin(logits, torch.tensor([0]), allies)
    ratios = [dlr_targeted(logits, torch.tensor([0]), allies, torch.tensor([5 - outside]))]
    if outside == 1:
        ratios.append(dlr(logits, torch.tensor([0]), allies))
    for ratio in ratios:
        torch.testing.assert_close(ratio, plain)
        assert torch.autograd.grad(ratio.sum(), logits)[0].isfinite().all()


def test_cross_entropy_of_a_group_is_that_of_its_summed_probability():
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    allies = torch.tensor([[True, True, False]])
    expected = -logits.softmax(1)[0, :2].sum().log()
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0]), allies)[0], expected)


def test_cross_entropy_without_groups_is_torchs_to_the_bit():
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0)).mul(20)
    labels = torch.arange(64) % 9
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(cross_entropy(logits, labels, no_allies(logits, labels)), plain)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_grow_when_the_label_loses(loss):
    worse = LOGITS.clone()
    worse[torch.arange(2), LABELS] -= 0.25
    assert (loss(worse, LABELS, ALLIES) > loss(LOGITS, LABELS, ALLIES)).all()


@pytest.mark.parametrize("k", [3, 4, 5, 9, 10, 50, 100])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_are_finite_for_any_number_of_labels(loss, k):
    logits = torch.randn(2, k, generator=torch.Generator().manual_seed(k))
    labels = torch.tensor([0, k - 1])
    assert loss(logits, labels, no_allies(logits, labels)).isfinite().all()


@pytest.mark.parametrize(
    ("label", "targeted", "groups", "reached"),
    [
        (0, False, None, False),
        (1, False, None, True),
        (0, True, None, True),
        (1, True, None, False),
        (1, False, [5, 5, 6, 7], False),  # the answer is an ally of the label to leave
        (1, True, [5, 5, 6, 7], True),  # the answer is an ally of the target
        (2, False, [5, 5, 6, 7], True),
        (2, True, [5, 5, 6, 7], False),
    ],
)
def test_goal_truth_table(label, targeted, groups, reached):
    groups = None if groups is None else torch.tensor(groups)
    goal = Goal(torch.tensor([label]), targeted, groups)
    assert bool(goal.reached(LOGITS[:1])) is reached


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 0, 1, 1])])
@pytest.mark.parametrize("targeted", [False, True])
def test_goal_is_reached_exactly_when_its_margin_is_positive(groups, targeted):
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 4
    goal = Goal(labels, targeted, groups)
    assert torch.equal(goal.reached(logits), goal.maximise(logits, margin) > 0)


def test_targeted_goal_ascends_the_negative_loss():
    goal = Goal(LABELS, targeted=True)
    torch.testing.assert_close(
        goal.maximise(LOGITS, cross_entropy), -cross_entropy(LOGITS, LABELS, ALLIES)
    )


def test_goal_selects_rows():
    goal = Goal(torch.tensor([4, 5, 6]), True, torch.tensor([1, 2]))
    assert goal.select(torch.tensor([True, False, True])).labels.tolist() == [4, 6]
    assert goal.select(torch.tensor([1])).labels.tolist() == [5]
    assert goal.select(torch.tensor([1])).targeted
    assert goal.select(torch.tensor([1])).groups is goal.groups
