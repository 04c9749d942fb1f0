"""Two defences in a row: a defence like every other, its refusals, and what an attacker does to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.cases import case
from vlmdefense_demo.attacks.apgd import APGDCE
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.pipeline import Chain
from vlmdefense_demo.defenses.training_free.csr import CSR
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import InvalidParameter, UnknownMethod
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.ladder import Budget, Opponent
from vlmdefense_demo.library import defend
from vlmdefense_demo.losses import margin
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.request import AWARE, Request, check_request
from vlmdefense_demo.spec import fields, shown
from vlmdefense_demo.survey import entry, followers, leaders, methods, refusal
from vlmdefense_demo.types import Goal

LEADERS = ("tecoa", "fare", "pmg_aft", "tga_zsr", "jpeg", "bits", "median", "lowpass",
           "tv", "nlm", "resize_pad")  # fmt: skip
SOME = ("fare+ttc", "fare+rtpt", "jpeg+rtpt", "jpeg+fare", "fare+jpeg", "resize_pad+csr",
        "jpeg+median", "tecoa+mac", "median+hd", "lowpass+clipure_cos", "tga_zsr+tvss", "bits+tapt")  # fmt: skip
each = pytest.mark.parametrize("id", SOME)


def make(id, **changes):
    """A chain at the settings that make both parts do something."""
    base = {f"{part.id}_{k}": v for part in entry(id).rows for k, v in case(part.id).base.items()}
    return entry(id).cls(**base | changes)


def answer(method, clf, x, **more):
    return method(clf, x, run=tiny.run_for(len(x), meter=clf.meter, **more))


# --- the contracts of a defence ------------------------------------------------------------------


@each
@pytest.mark.parametrize("n", [1, 3])
def test_it_answers_like_a_defence(clf, id, n):
    x = tiny.images(n)
    result = answer(make(id), clf, x)
    assert result.logits.shape == (n, len(tiny.LABELS))
    assert result.logits.isfinite().all()
    assert len(result.notes) in (0, n)
    if result.image is not None:
        assert result.image.shape == x.shape
        assert 0 <= result.image.min() <= result.image.max() <= 1


@each
def test_a_batch_equals_its_single_images(backbone, id):
    clf, method, x = tiny.classifier(tiny.rowwise(backbone)), make(id), tiny.images(3)
    batch = answer(method, clf, x)
    for i in range(3):
        alone = method(clf, x[i : i + 1], run=tiny.run_for(3).select([i]))
        torch.testing.assert_close(alone.logits[0], batch.logits[i], rtol=1e-3, atol=1e-3)


@each
def test_the_same_seed_repeats_it_and_another_changes_exactly_the_random_ones(clf, id):
    method, x = make(id), tiny.images(2)
    first, again, other = (answer(method, clf, x, seed=s).logits for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) is not method.stochastic


@each
def test_it_costs_what_both_cost_together(clf, id):
    """A filter asks no tower; a swapped tower is the one the second's passes go through."""
    method = make(id)
    answer(method, clf, tiny.images(2))  # words are encoded once a request
    with clf.meter.stage() as spent:
        answer(method, clf, tiny.images(2))
    second = method.stages[1].expected_cost(len(tiny.LABELS))
    assert method.expected_cost(len(tiny.LABELS)) == second
    names = ("image_forward", "image_backward", "text_forward", "text_backward")
    assert [getattr(spent, n) for n in names] == [2 * getattr(second, n) for n in names]


@each
def test_a_gradient_reaches_the_pixels_and_none_is_built_under_no_grad(clf, id):
    x = tiny.images(2).requires_grad_()
    logits = answer(make(id), clf, x).logits
    gradient = torch.autograd.grad(logits[:, 0].sum(), x)[0]
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    with torch.no_grad():
        without = answer(make(id), clf, x).logits
    assert not without.requires_grad
    torch.testing.assert_close(without, logits.detach(), rtol=1e-4, atol=1e-4)


@each
def test_it_leaves_no_trace(clf, id):
    twin = load_twin(clf.backbone, "fare")
    with tiny.no_trace(clf.backbone.model, twin.model):
        answer(make(id), clf, tiny.images(2))


@each
def test_its_parameters_are_those_of_both_and_reach_them(id):
    one, two = entry(id).rows
    names = [f"{row.id}_{f.name}" for row in (one, two) for f in fields(row.cls)]
    assert [f.name for f in fields(entry(id).cls)] == names
    method = make(id)
    both = {
        f"{row.id}_{k}": v
        for row, part in zip((one, two), method.stages, strict=True)
        for k, v in shown(part).items()
    }
    assert shown(method) == both
    assert entry(id).build(both) == method


# --- what a chain is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "off"),
    [
        ("fare+anti_adversary", {"anti_adversary_steps": 0}),
        ("jpeg+et3", {"et3_steps": 0}),
        ("median+hd", {"hd_steps": 0}),
        ("fare+mac", {"mac_views": 1, "mac_eps": 0.0}),
        ("fare+jpeg", {"jpeg_quality": 100}),
        ("fare+aom", {"aom_sigma": 0.0}),
        ("tecoa+clipure_cos", {"clipure_cos_steps": 0}),
    ],
)
def test_a_second_of_no_strength_leaves_the_first_alone(clf, id, off):
    x = tiny.images(2)
    chain = make(id, **off)
    first = answer(chain.stages[0], clf, x).logits
    torch.testing.assert_close(answer(chain, clf, x).logits, first, rtol=1e-4, atol=1e-3)
    assert not torch.equal(first, clf(x))


@pytest.mark.parametrize(
    ("id", "off"),
    [
        ("fare+ttc", {"fare_alpha": 0.0}),
        ("jpeg+rtpt", {"jpeg_quality": 100}),
        ("lowpass+csr", {"lowpass_sigma": 0.0}),
    ],
)
def test_a_first_of_no_strength_leaves_the_second_alone(clf, id, off):
    x = tiny.images(2)
    chain = make(id, **off)
    torch.testing.assert_close(answer(chain, clf, x).logits, answer(chain.stages[1], clf, x).logits)


def test_the_second_works_on_the_firsts_model_and_picture(clf):
    x = tiny.images(2)
    chain = make("fare+ttc", fare_alpha=1.0)
    robust = clf.with_backbone(load_twin(clf.backbone, "fare"))
    expected = answer(chain.stages[1], robust, x).logits
    torch.testing.assert_close(answer(chain, clf, x).logits, expected)
    jpeg, rtpt = make("jpeg+rtpt").stages
    expected = answer(rtpt, clf, jpeg.purify(x, tiny.run_for(2))).logits
    torch.testing.assert_close(answer(make("jpeg+rtpt"), clf, x).logits, expected)


def test_a_filter_and_a_tower_commute(clf):
    x = tiny.images(2)
    both = (answer(make(id), clf, x).logits for id in ("fare+jpeg", "jpeg+fare"))
    torch.testing.assert_close(*both)


def test_words_are_encoded_once_a_request_behind_any_tower(clf):
    method = make("fare+rtpt")
    costs = []
    for _ in range(3):
        with clf.meter.stage() as cost:
            answer(method, clf, tiny.images(1))
        costs.append(cost.text_forward)
    k = len(tiny.LABELS)
    assert costs == [2 * k, k, k]


def test_it_is_called_by_one_id_from_python(clf):
    x = tiny.images(2)
    result = defend("fare+ttc", clf, x, ttc_steps=3, ttc_tau=4.0)
    assert (result.cost.image_forward, result.cost.image_backward) == (10, 6)
    with pytest.raises(InvalidParameter, match="Unknown parameter 'steps'"):
        defend("fare+ttc", clf, x, steps=3)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "why", "hint"),
    [
        ("ttc+fare", "FARE after TTC comes too late", "The other way round it works: fare+ttc."),
        ("rtpt+jpeg", "R-TPT ends with an answer", "The other way round it works: jpeg+rtpt."),
        ("fare+tecoa", "each trained to stand alone", "can come first"),
        ("fare+apt", "each trained to stand alone", "can come first"),
        ("apt+ttc", "APT ends with an answer", "can come first"),
        ("tecoa_vp+ttc", "TeCoA frame ends with an answer", "can come first"),
        ("tte+rtpt", "TTE and R-TPT both end in a vote over views", "can come first"),
        ("csr+ttc", "it hands TTC neither a filtered picture nor another model", "can come first"),
        ("fare+tapt", "TAPT was fitted to the model itself", "can come first"),
        ("fare+fare", "FARE after FARE is one defence of another strength", "can come first"),
        (
            "bits+smoothing",
            "What Smoothing proves would be about the picture Bit depth hands over",
            "can",
        ),
        ("jpeg+fare+ttc", "A pipeline has two defences, 'jpeg+fare+ttc' names 3", "fare+ttc"),
    ],
)
def test_senseless_orders_are_refused_with_the_reason(id, why, hint):
    with pytest.raises(InvalidParameter) as refused:
        entry(id, "defense")
    assert why in refused.value.message
    assert hint in refused.value.hint
    with pytest.raises(InvalidParameter):
        check_request(Request(tiny.images(1), tiny.LABELS, defenses={id: {}}))


@pytest.mark.parametrize("id", ["fare+nope", "+ttc", "fare+", "pgd+ttc", "fare+pgd"])
def test_unknown_parts_are_unknown_defences(id):
    with pytest.raises(UnknownMethod, match="Unknown defense"):
        entry(id)


def test_a_setting_out_of_range_or_of_a_bad_pair_is_refused_under_the_chains_name():
    with pytest.raises(InvalidParameter, match="ttc_steps=99 is outside"):
        entry("fare+ttc").build({"ttc_steps": 99})
    with pytest.raises(InvalidParameter, match="wider than the whole ball"):
        entry("fare+ttc").build({"ttc_eps": 1, "ttc_step_size": 4})


def test_filters_and_robust_towers_lead_and_nothing_else_does():
    rows = methods("defense")
    assert tuple(id for id, row in rows.items() if row.cls.leads) == LEADERS
    own = [id for id, row in rows.items() if row.cls.model is not Defender.model]
    own += [id for id, row in rows.items() if row.cls.picture is not Defender.picture]
    assert tuple(own) == LEADERS


def test_every_pair_is_a_row_or_has_a_reason():
    rows = list(methods("defense").values())
    for first in rows:
        for second in rows:
            why = refusal(first, second)
            if why:
                assert why.endswith(".")
                continue
            row = entry(f"{first.id}+{second.id}", "defense")
            assert row.title == f"{first.title}, then {second.title}"
            assert issubclass(row.cls, Chain)
            assert row.cls.stochastic is ("randomised" in row.flags)
            assert row.cls.recipe.startswith(f"{second.title}: ")
            assert row.public()["id"] == row.id
    assert "ttc" in followers("pocket", "fare")
    assert "tecoa" not in followers("pocket", "fare")
    assert leaders("pocket") == LEADERS
    filters = tuple(id for id in LEADERS if entry(id).paradigm != "training_time")
    assert leaders("RN50-openai") == filters, "no robust tower of it is known"


# --- attackers -----------------------------------------------------------------------------------


def test_the_recipe_says_what_becomes_of_the_first_ones_slope():
    ends = {
        "fare+ttc": "The gradient goes on through FARE, exactly.",
        "jpeg+rtpt": "The gradient goes through a differentiable twin of JPEG.",
        "tv+rtpt": "The gradient goes past Total variation, as if it were not there.",
        "resize_pad+fare": "Resize and pad is drawn anew every time.",
    }
    for id, words in ends.items():
        assert entry(id).cls.recipe.endswith(words)
    natures = {id: entry(id).cls.adaptive for id in (*ends, "fare+median", "jpeg+fare")}
    assert natures == {"fare+ttc": "bpda", "jpeg+rtpt": "eot", "tv+rtpt": "eot", "resize_pad+fare": "eot",
                       "fare+median": "exact", "jpeg+fare": "bpda"}  # fmt: skip


def test_a_filter_without_a_slope_is_passed_by_in_the_surrogate(clf):
    """BPDA: forwards through it, gradients past it, then through the second's own recipe."""
    x = tiny.images(1).requires_grad_()
    chain = make("tv+csr")
    tv, csr = chain.stages
    target = chain.surrogate(clf, tiny.run_for(1))
    ours = torch.autograd.grad(target(x)[0, 0], x)[0]
    seen = tv.purify(x.detach(), tiny.run_for(1)).requires_grad_()
    theirs = torch.autograd.grad(csr.surrogate(clf, tiny.run_for(1))(seen)[0, 0], seen)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("id", ["csr", "lowpass+csr", "tv+csr", "fare+csr"])
def test_who_climbs_by_the_answer_is_told_the_one_to_the_file(clf, monkeypatch, id):
    """CSR's gate is a threshold: what a filter hands over is not rounded, the file is."""
    method = make(id, csr_threshold=1.0) if "+" in id else CSR(threshold=1.0)
    x, run = tiny.images(2), tiny.run_for(2)
    told = []

    def remember(self, target, x, run):
        told.append(target)
        return x

    monkeypatch.setattr(Opponent, "_two_losses", remember)
    goal = Goal(clf(x).argmax(1))
    Opponent(method, clf, goal, Ball("linf", 1 / 255), Budget(), run).adaptive(x)
    answer_to_file = method(clf, x, run=run).logits
    for picture in (x, x + 0.3 / 255):
        torch.testing.assert_close(told[0](picture), answer_to_file, rtol=1e-3, atol=1e-3)


def test_the_surrogate_of_the_second_runs_on_the_firsts_tower(clf):
    x = tiny.images(1)
    chain = make("fare+csr", fare_alpha=1.0)
    robust = clf.with_backbone(load_twin(clf.backbone, "fare"))
    ours = chain.surrogate(clf, tiny.run_for(1))(x)
    torch.testing.assert_close(ours, chain.stages[1].surrogate(robust, tiny.run_for(1))(x))
    goal = Goal(ours.argmax(1))
    target = chain.surrogate(clf, tiny.run_for(1))
    attack = APGDCE(eps=16 / 255, steps=10)
    found = attack(target, x, goal, run=tiny.run_for(1))
    assert goal.maximise(target(found), margin).item() > goal.maximise(ours, margin).item()


@pytest.mark.parametrize("id", ["fare+ttc", "jpeg+fare", "jpeg+rtpt"])
def test_the_ladder_runs_through_the_chain(backbone, id):
    settings = {"jpeg+rtpt": {"rtpt_views": 4}}.get(id, {})
    request = Request(tiny.images(1), tiny.LABELS, defenses={id: settings}, rungs=AWARE,
                      climb=False, exhibits=True, attack_params={"steps": 3})  # fmt: skip
    request = replace(request, budget=replace(request.budget, steps=3, adaptive_steps=3, queries=5))
    cards = {card.method: card for card in compare(request, backbone)}
    card = cards[id]
    assert card.error is None
    assert card.title == entry(id).title
    assert not [n for n in card.notes if str(n.value).startswith("stopped")]
    if card.verdict != "wrong_clean":
        assert [rung.name for rung in card.ladder] == ["transfer", *AWARE]
    assert any(note.title.startswith(f"{entry(id).rows[0].title} alone: ") for note in card.notes)


def test_a_chains_card_does_not_change_its_parts_cards(backbone):
    def cards(*ids):
        request = Request(tiny.images(1), tiny.LABELS, defenses={id: {} for id in ids})
        return {card.method: tiny.timeless(card) for card in compare(request, backbone)}

    together, alone = cards("fare", "ttc", "fare+ttc"), cards("fare", "ttc")
    assert {id: together[id] for id in alone} == alone
    assert together["fare+ttc"]["attacked"] != together["ttc"]["attacked"]
