"""Rows chosen, taken and put back: the values of the masked copies they stand for."""

from __future__ import annotations

import pytest
import torch

from vlmdefense_demo.attacks.rows import choose, put, take

ONE, OTHER = torch.zeros(3, 3, 2, 2), torch.ones(3, 3, 2, 2)


@pytest.mark.parametrize("first", [[1, 1, 1], [0, 0, 0], [0, 1, 0]], ids=str)
def test_choose_is_a_choice_row_by_row(first):
    first = torch.tensor(first, dtype=torch.bool)
    chosen = choose(first, ONE, OTHER)
    assert torch.equal(chosen.flatten(1).amax(1) == 0, first)
    assert torch.equal(chosen, torch.where(first[:, None, None, None], ONE, OTHER))


def test_what_stays_as_it_is_is_not_copied():
    every = torch.ones(3, dtype=torch.bool)
    assert choose(every, ONE, OTHER) is ONE
    assert choose(~every, ONE, OTHER) is OTHER
    assert take(ONE, torch.arange(3)) is ONE
    assert put(ONE, torch.arange(3), OTHER) is OTHER


def test_some_rows_are_taken_and_put_back_where_they_were():
    whole, rows = torch.arange(3.0), torch.tensor([0, 2])
    assert take(whole, rows).tolist() == [0, 2]
    assert put(whole, rows, torch.tensor([7.0, 8.0])).tolist() == [7, 1, 8]
    assert whole.tolist() == [0, 1, 2]
