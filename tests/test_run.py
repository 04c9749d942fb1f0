"""Noise that belongs to an image, books that add up, and a Stop that is heard."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
import torch

from tests import tiny
from vlmdefense_demo.errors import Cancelled
from vlmdefense_demo.run import Meter, Run
from vlmdefense_demo.types import Cost

LIKE = torch.empty(3, 2, 4)
DRAWS = {
    "uniform": lambda run, like: run.uniform(like, -2, 3),
    "normal": lambda run, like: run.normal(like),
    "levels": lambda run, like: run.levels(like, 4),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def run(seed=0, ids=("a", "b", "c"), path="/p", **kwargs):
    return Run(seed, ids, path, **kwargs)


@each_draw
def test_noise_repeats_for_the_same_seed_path_and_id(draw):
    assert torch.equal(draw(run(), LIKE), draw(run(), LIKE))


@each_draw
@pytest.mark.parametrize("other", [{"seed": 1}, {"path": "/q"}, {"ids": ("d", "e", "f")}])
def test_noise_differs_for_another_seed_path_or_id(draw, other):
    assert not torch.equal(draw(run(), LIKE), draw(run(**other), LIKE))


@each_draw
def test_rows_follow_their_id_not_their_place(draw):
    batch = draw(run(), LIKE)
    assert torch.equal(draw(run(ids=("c", "a", "b")), LIKE), batch[[2, 0, 1]])
    assert torch.equal(draw(run().select([1]), LIKE[:1]), batch[[1]])
    assert not torch.equal(batch[0], batch[1])


@each_draw
def test_noise_leaves_the_global_generator_alone(draw):
    with tiny.no_trace():
        draw(run(), LIKE)


def test_children_are_different_branches_of_one_tree():
    parent = run()
    one, two = parent.child("noise"), parent.child("views")
    assert one.path == "/p/noise"
    assert not torch.equal(one.uniform(LIKE), two.uniform(LIKE))
    assert one.trace is parent.trace
    assert one.meter is parent.meter


def test_noise_has_the_distribution_it_names():
    like, one = torch.empty(1, 20_000), run(ids=("a",))
    uniform = one.uniform(like, -2, 3)
    assert -2 <= uniform.min() < -1.9
    assert 2.9 < uniform.max() <= 3
    normal = one.normal(like)
    assert abs(float(normal.mean())) < 0.05
    assert abs(float(normal.std()) - 1) < 0.05
    levels = one.levels(like, 2) * 255
    assert torch.equal(levels.round().unique(), torch.arange(-2.0, 3.0))
    assert (levels - levels.round()).abs().max() < 1e-5


def test_noise_has_the_type_of_what_it_is_like():
    assert run().normal(LIKE.double()).dtype == torch.float64


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected 3 rows"):
        run().normal(torch.empty(2, 4))


def test_step_reports_its_place():
    heard = []
    run(on_progress=lambda *a: heard.append(a)).child("pgd").step(2, 10)
    assert heard == [("p/pgd", 2, 10)]


def test_step_raises_when_stopped_and_reports_nothing():
    heard = []
    stopped = run(should_stop=lambda: True, on_progress=lambda *a: heard.append(a))
    with pytest.raises(Cancelled):
        stopped.step(0, 1)
    assert heard == []


def test_record_keeps_detached_series():
    one = run()
    one.child("x").record("margin", torch.ones(3, requires_grad=True) * 2)
    one.record("margin", torch.zeros(3))
    assert [v.tolist() for v in one.trace["margin"]] == [[2, 2, 2], [0, 0, 0]]
    assert not one.trace["margin"][0].requires_grad


def test_passes_are_booked_on_every_open_stage():
    meter = Meter()
    with meter.stage() as outer:
        meter.tick("image", torch.zeros(3, 2))
        with meter.stage() as inner:
            meter.tick("text", torch.zeros(5, 2))
        meter.tick("image", torch.zeros(1, 2))
    meter.tick("image", torch.zeros(9, 2))
    assert (outer.image_forward, outer.text_forward) == (4, 5)
    assert (inner.image_forward, inner.text_forward) == (0, 5)


def test_backwards_are_booked_when_they_happen():
    meter, x = Meter(), torch.ones(4, 2, requires_grad=True)
    with meter.stage() as cost:
        out = x * 2
        meter.tick("image", out)
        assert cost.image_backward == 0
        torch.autograd.grad(out.sum(), x)
    assert (cost.image_forward, cost.image_backward) == (4, 4)


def test_stages_end_in_order_even_when_the_clock_stands_still(monkeypatch):
    """Two empty costs are equal, but only the inner stage is over."""
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    meter = Meter()
    with meter.stage() as outer:
        with meter.stage():
            pass
        meter.tick("image", torch.zeros(2, 2))
    assert outer.image_forward == 2


def test_a_stage_is_closed_when_its_block_raises():
    meter = Meter()
    with pytest.raises(tiny.Boom), meter.stage() as cost:
        raise tiny.Boom
    meter.tick("image", torch.zeros(2, 2))
    assert cost.image_forward == 0


def test_seconds_are_wall_time(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with Meter().stage() as cost:
        pass
    assert cost.seconds == 2.5


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (Cost(), "0 f"),
        (Cost(8), "8 f"),
        (Cost(8, 4), "8 f + 4 b"),
        (Cost(16, 0, 20, 10), "16 f · text 20 f + 10 b"),
    ],
)
def test_passes_in_words(cost, words):
    assert cost.passes() == words


def test_a_booked_pass_keeps_no_graph_alive():
    """Without the collector's help: a graph nobody walks back must go with its last name."""
    meter = Meter()
    with meter.stage():
        x = torch.ones(2, 3, requires_grad=True)
        hidden = x * 2
        gone = weakref.ref(hidden)
        out = hidden.exp()
        meter.tick("image", out)
    gc.disable()
    try:
        del hidden, out
        assert gone() is None
    finally:
        gc.enable()
