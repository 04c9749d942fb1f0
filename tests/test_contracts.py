"""What every method of the survey must do; a new row inherits all of it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from functools import partial

import pytest
import torch

from tests import tiny
from tests.cases import TOWERS, case, turned
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import Cancelled, MethodFailed
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.ladder import Budget, Opponent
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Meter, Run
from vlmdefense_demo.spec import fields
from vlmdefense_demo.survey import methods
from vlmdefense_demo.types import DefenseResult, Goal

ATTACKS, DEFENSES = list(methods("attack").values()), list(methods("defense").values())
FIELDS = [
    (e, f) for e in (*ATTACKS, *DEFENSES) for f in fields(e.cls)
]  # detectors: tests/detectors
PAIRS = [(e, tower) for e in DEFENSES for tower in TOWERS]
SETTINGS = [(e, params) for e in ATTACKS for params in ({}, case(e.id).base, *case(e.id).also)]


def str_id(value):
    return getattr(value, "id", None) or getattr(value, "name", None) or str(value)


each_attack = pytest.mark.parametrize("entry", ATTACKS, ids=lambda e: e.id)
each_defense = pytest.mark.parametrize("entry", DEFENSES, ids=lambda e: e.id)
each_defense_and_tower = pytest.mark.parametrize(
    ("entry", "tower"), [(e, t) for e, t in PAIRS if t in case(e.id).towers], ids=str_id
)


def make(entry, **changes):
    return entry.cls(**case(entry.id).base | changes)


def plain_counts(cost):
    return (cost.image_forward, cost.image_backward, cost.text_forward, cost.text_backward)


def goal_of(target, x):
    """Away from each image's answer; attacks on the embedding head for another label's text."""
    labels = torch.stack([target(row[None])[0] for row in x]).argmax(1)
    return Goal(labels, features=target.text_features[(labels + 1) % len(tiny.LABELS)])


def attack_once(entry, target, n=1, seed=0, params=None, **run):
    """(images, (forwards, backwards) per batch row) of one attack on a function that counts."""
    method = entry.cls(**case(entry.id).base if params is None else params)
    x = tiny.images(n)
    counted = copy.copy(target)
    counted.meter = meter = Meter()
    with meter.stage() as cost:
        out = method(counted, x, goal_of(target, x), run=tiny.run_for(n, seed, meter, **run))
    return out, plain_counts(cost)[:2]


def defend_once(entry, clf, x, seed=0, params=None, **run):
    """(result, cost of the batch) of one defence."""
    method = make(entry) if params is None else entry.cls(**params)
    with clf.meter.stage() as cost:
        result = method(clf, x, run=tiny.run_for(len(x), seed, clf.meter, **run))
    return result, cost


@pytest.fixture
def target(backbone):
    """The tiny ViT as a function whose rows do not depend on the batch they are in."""
    return tiny.classifier(tiny.rowwise(backbone))


@pytest.fixture
def towers(backbone):
    return backbone.model, load_twin(backbone, "fare").model


# --- attacks -------------------------------------------------------------------------------------


@each_attack
@pytest.mark.parametrize("n", [1, 3])
def test_attack_returns_pixels_inside_the_ball(entry, target, n):
    out, _ = attack_once(entry, target, n)
    x = tiny.images(n)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert out.min() >= 0
    assert out.max() <= 1
    assert make(entry).ball.contains(out, x).all()
    assert (out != x).any()


@each_attack
def test_quantised_attack_lies_on_the_grid_inside_the_ball(entry, target):
    out, _ = attack_once(entry, target, 2)
    x = tiny.images(2)
    delivered = make(entry).ball.quantise(out, x)
    assert (delivered * 255 - (delivered * 255).round()).abs().max() < 1e-3
    assert make(entry).ball.contains(delivered, x).all()


@pytest.mark.parametrize(("entry", "params"), SETTINGS, ids=str_id)
def test_attack_on_a_batch_equals_its_single_images(entry, params, target):
    if not case(entry.id).exact and "steps" in entry.cls.__dataclass_fields__:
        # Sums of another batch size round otherwise, and how far that grows depends on the CPU.
        params = params | {"steps": 5}
    batch, _ = attack_once(entry, target, 6, params=params)
    method, x = entry.cls(**params), tiny.images(6)
    for i, row in enumerate(x):
        goal = goal_of(target, row[None])
        alone = method(target, row[None], goal, run=tiny.run_for(6).select([i]))
        if case(entry.id).exact:
            assert torch.equal(alone[0], batch[i]), f"image {i}"
        else:
            answers = target(torch.stack([alone[0], batch[i]])).detach()
            torch.testing.assert_close(answers[0], answers[1], rtol=0.01, atol=0.1)


@each_attack
def test_attack_repeats_itself_with_the_same_seed(entry, target):
    assert torch.equal(attack_once(entry, target, 2)[0], attack_once(entry, target, 2)[0])


@each_attack
def test_attack_does_not_modify_its_input(entry, target):
    x = tiny.images(2)
    make(entry)(target, x, goal_of(target, x), run=tiny.run_for(2))
    assert torch.equal(x, tiny.images(2))
    assert not x.requires_grad


@each_attack
@pytest.mark.parametrize("n", [1, 3])
def test_attack_costs_what_its_formula_says(entry, target, n):
    formula = case(entry.id).cost
    assert formula, f"state the cost of {entry.id} in tests/cases.py"
    forwards, backwards = formula(dataclasses.asdict(make(entry)))
    spent = attack_once(entry, target, n)[1]
    if case(entry.id).at_most:
        assert all(0 <= a <= n * b for a, b in zip(spent, (forwards, backwards), strict=True))
        assert spent[0] > 0
    else:
        assert spent == (n * forwards, n * backwards)


@each_attack
def test_attack_works_under_no_grad_and_under_enable_grad(entry, target):
    with torch.no_grad():
        first, _ = attack_once(entry, target)
    with torch.enable_grad():
        second, _ = attack_once(entry, target)
    assert torch.equal(first, second)


@each_attack
def test_attack_leaves_no_trace(entry, target, towers):
    with tiny.no_trace(*towers):
        attack_once(entry, target, 2)


@each_attack
def test_attack_leaves_no_trace_when_the_target_raises(entry, target, towers):
    x, calls = tiny.images(1), []
    listening = copy.copy(target)
    listening.encode_image = partial(_count, calls, target.encode_image)
    make(entry)(listening, x, goal_of(target, x), run=tiny.run_for(1))
    for call in {1, len(calls)} if calls else ():
        failing = copy.copy(target)
        failing.encode_image = tiny.fails_at(call, target.encode_image)
        with tiny.no_trace(*towers), pytest.raises(tiny.Boom):
            make(entry)(failing, x, goal_of(target, x), run=tiny.run_for(1))


@each_attack
def test_attack_leaves_no_trace_when_stopped(entry, target, towers):
    with tiny.no_trace(*towers), pytest.raises(Cancelled):
        attack_once(entry, target, 2, should_stop=lambda: True)


# --- defences ------------------------------------------------------------------------------------


@each_defense_and_tower
@pytest.mark.parametrize("n", [1, 3])
def test_defense_returns_finite_logits(entry, backbones, tower, n):
    clf = tiny.classifier(backbones[tower])
    x = tiny.images_for(backbones[tower], n)
    result, _ = defend_once(entry, clf, x)
    assert result.logits.shape == (n, len(tiny.LABELS))
    assert result.logits.dtype == torch.float32
    assert result.logits.isfinite().all()
    assert len(result.notes) in (0, n)
    if result.image is not None:
        assert result.image.shape == x.shape
        assert result.image.min() >= 0
        assert result.image.max() <= 1
    if result.features is not None:
        norms = result.features.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(n))


@each_defense_and_tower
def test_defense_of_a_batch_equals_its_single_images(entry, backbones, tower):
    clf = tiny.rowwise_classifier(backbones[tower])
    x = tiny.images_for(backbones[tower], 3)
    batch, _ = defend_once(entry, clf, x)
    for i in range(3):
        alone = make(entry)(clf, x[i : i + 1], run=tiny.run_for(3).select([i]))
        torch.testing.assert_close(alone.logits[0], batch.logits[i], rtol=1e-4, atol=1e-4)


@each_defense
def test_defense_repeats_itself_with_the_same_seed(entry, clf):
    x = tiny.images(2)
    first, second = (defend_once(entry, clf, x)[0].logits for _ in range(2))
    assert torch.equal(first, second)


@each_defense
def test_another_seed_changes_exactly_the_stochastic_defenses(entry, clf):
    x = tiny.images(2)
    first, second = (defend_once(entry, clf, x, seed)[0].logits for seed in (0, 1))
    assert torch.equal(first, second) is not entry.cls.stochastic


@each_defense
def test_defense_does_not_modify_its_input(entry, clf):
    x = tiny.images(2)
    defend_once(entry, clf, x)
    assert torch.equal(x, tiny.images(2))


@each_defense_and_tower
@pytest.mark.parametrize("n", [1, 2])
def test_defense_costs_what_it_expects_per_image(entry, backbones, tower, n):
    """The second time: what a request pays once, like encoding learned words, is not in it."""
    clf = tiny.classifier(backbones[tower])
    defend_once(entry, clf, tiny.images_for(backbones[tower], n))
    _, cost = defend_once(entry, clf, tiny.images_for(backbones[tower], n))
    expected = make(entry).expected_cost(len(tiny.LABELS))
    assert plain_counts(cost) == tuple(n * count for count in plain_counts(expected))


@each_defense_and_tower
def test_defense_has_a_gradient_to_the_pixels(entry, backbones, tower):
    clf = tiny.classifier(backbones[tower])
    x = tiny.images_for(backbones[tower], 2).requires_grad_()
    with torch.enable_grad():
        result, _ = defend_once(entry, clf, x)
        gradient = torch.autograd.grad(result.logits[:, 0].sum(), x)[0]
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@each_defense
def test_who_is_attacked_in_its_place_has_the_same_surrogate(entry, clf):
    x, method = tiny.images(2), entry.build({})
    with torch.no_grad():
        own, other = (
            one.surrogate(clf, Run(ids=("a", "b")))(x) for one in (method, method.attacked())
        )
    assert torch.equal(own, other)
    assert method.attacked().attacked() == method.attacked()


@each_defense
def test_who_knows_a_defence_can_climb_all_rungs(entry, clf):
    x, ball = tiny.images(1), Ball("linf", 4 / 255)
    budget = Budget(steps=1, adaptive_steps=2, draws=1, queries=2, fresh=1)
    goal = Goal(clf(x).argmax(1))
    rungs = Opponent(entry.build({}), clf, goal, ball, budget, Run(ids=("a",))).rungs()
    assert list(rungs) == ["white_box", "adaptive", "black_box"]
    for _, climb in rungs.values():
        assert ball.contains(climb(x, None), x).all()


@each_defense
def test_defense_builds_no_graph_under_no_grad(entry, clf):
    x = tiny.images(2).requires_grad_()
    with torch.no_grad():
        result, _ = defend_once(entry, clf, x)
    assert not result.logits.requires_grad


@each_defense
def test_defense_gives_the_same_answer_in_both_grad_modes(entry, clf):
    x = tiny.images(2)
    with torch.no_grad():
        without, _ = defend_once(entry, clf, x)
    with torch.enable_grad():
        traced, _ = defend_once(entry, clf, x)
    torch.testing.assert_close(without.logits, traced.logits.detach())


@each_defense_and_tower
def test_defense_leaves_no_trace(entry, backbones, tower):
    backbone = backbones[tower]
    clf, twin = tiny.classifier(backbone), load_twin(backbone, "fare")
    with tiny.no_trace(backbone.model, twin.model):
        defend_once(entry, clf, tiny.images_for(backbone, 2))


@pytest.mark.parametrize(
    ("entry", "tower"), [(e, t) for e, t in PAIRS if t not in case(e.id).towers], ids=str_id
)
def test_defense_refuses_a_tower_it_is_not_made_for(entry, backbones, tower):
    backbone = backbones[tower]
    clf, x = tiny.classifier(backbone), tiny.images_for(backbone, 2)
    refused = pytest.raises(MethodFailed)
    with tiny.no_trace(backbone.model), clf.meter.stage() as cost, refused as caught:
        defend_once(entry, clf, x)
    assert type(backbone.visual).__name__ in caught.value.message
    assert caught.value.hint
    assert plain_counts(cost) == (0, 0, 0, 0)


@each_defense
def test_defense_leaves_no_trace_when_the_model_raises(entry, clf, towers, monkeypatch):
    requests = [tiny.classifier(clf.backbone) for _ in range(3)]  # each encodes what it needs
    encoders = [name for name in vars(ZeroShotClassifier) if name.startswith("encode_")]
    originals = {name: getattr(ZeroShotClassifier, name) for name in encoders}
    calls = []
    for name, original in originals.items():
        counted = partial(_count, calls, original)
        monkeypatch.setattr(ZeroShotClassifier, name, lambda *a, f=counted, **k: f(*a, **k))
    defend_once(entry, requests.pop(), tiny.images(1))
    assert calls
    for fatal in {1, len(calls)}:
        calls.clear()
        for name, original in originals.items():
            failing = partial(_count, calls, original, fatal=fatal)
            monkeypatch.setattr(ZeroShotClassifier, name, lambda *a, f=failing, **k: f(*a, **k))
        with tiny.no_trace(*towers), pytest.raises(tiny.Boom):
            defend_once(entry, request := requests.pop(), tiny.images(1))
        assert not request.meter._open


def _count(calls, function, *args, fatal=0, **kwargs):
    calls.append(function)
    if len(calls) == fatal:
        raise tiny.Boom
    return function(*args, **kwargs)


@each_defense
def test_defense_of_more_than_one_pass_stops_and_leaves_no_trace(entry, clf, towers):
    expected = plain_counts(make(entry).expected_cost(len(tiny.LABELS)))
    polls = itertools.count(1)
    defend_once(entry, clf, tiny.images(1), should_stop=lambda: next(polls) < 0)
    total = next(polls) - 1
    assert total > 0 or sum(expected) == 1
    for poll in {1, total} if total else ():
        with tiny.no_trace(*towers), pytest.raises(Cancelled):
            defend_once(entry, clf, tiny.images(1), should_stop=tiny.stops_at(poll))
    assert not clf.meter._open


@pytest.mark.parametrize("entry", DEFENSES, ids=lambda e: e.id)
def test_switching_another_defense_on_does_not_change_a_card(entry, backbone):
    others = {e.id: {} for e in DEFENSES if e is not entry}
    x = tiny.images(1)

    def card(defenses):
        cards = compare(Request(x, tiny.LABELS, defenses=defenses), backbone)
        return tiny.timeless(next(c for c in cards if c.method == entry.id))

    assert card({entry.id: {}}) == card({**others, entry.id: {}})


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "f"), FIELDS, ids=str_id)
def test_every_parameter_changes_the_output_or_the_cost(entry, f, target, clf):
    base = dataclasses.asdict(make(entry))
    default = (base, base | {f.name: turned(f, base[f.name])})

    def outcome(params):
        if entry.kind == "attack":
            return attack_once(entry, target, params=params)
        result, cost = defend_once(entry, clf, tiny.images(1), params=params)
        return result.logits, plain_counts(cost)

    (one, cost_one), (two, cost_two) = map(outcome, case(entry.id).matter.get(f.name, default))
    assert cost_one != cost_two or not torch.equal(one, two)


def test_a_defence_that_does_not_say_what_it_costs_cannot_be_made():
    class Free(Defender):
        def __call__(self, clf, x, *, run):
            return DefenseResult(clf(x))

    with pytest.raises(TypeError, match="expected_cost"):
        Free()
