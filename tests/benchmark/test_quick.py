"""The first look: a plan that can be measured, and that later flags change."""

from __future__ import annotations

from vlmdefense_demo.__main__ import _parser
from vlmdefense_demo.benchmark.command import plan_of
from vlmdefense_demo.benchmark.plan import UNDEFENDED
from vlmdefense_demo.benchmark.worlds import parse
from vlmdefense_demo.survey import PARADIGMS, entry, usable


def asked(*flags):
    return _parser().parse_args(["benchmark", *flags])


def test_a_first_look_has_a_method_of_every_paradigm_and_the_three_columns():
    args = asked("--quick")
    plan = plan_of(args)
    ids = [setting.id for setting in plan.defenses if setting.id != UNDEFENDED]
    assert {entry(id).paradigm for id in ids} == set(PARADIGMS)
    assert set(ids) <= set(usable("pocket"))
    assert {"clean", "transfer", "adaptive", "latency"} <= set(plan.steps)
    assert parse(args.worlds)


def test_what_is_written_after_it_changes_it():
    assert plan_of(asked("--quick", "--eps", "2")).eps == (2.0,)
    assert plan_of(asked("--eps", "2", "--quick")).eps == plan_of(asked("--quick")).eps
