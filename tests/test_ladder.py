"""The attacker who knows the defence: rung by rung, on defences whose weakness is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from tests import tiny
from vlmdefense_demo import ladder
from vlmdefense_demo.attacks.apgd import APGDCE
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.engine import compare
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.ladder import BATCH, INTERACTIVE, Budget, Opponent, fresh_answers
from vlmdefense_demo.request import AWARE, Aim, Request
from vlmdefense_demo.survey import methods
from vlmdefense_demo.types import Cost, DefenseResult, Goal

EPS = 8 / 255
PICTURE = tiny.images(seed=25)  # every tiny defence answers it rightly
SMALL = Budget(steps=6, adaptive_steps=6, draws=3, queries=40, fresh=4)


@dataclass(frozen=True)
class Bare(Defender):
    """The model as it is."""

    adaptive = "exact"
    stochastic = False
    recipe = "its own gradient"

    def __call__(self, clf, x, *, run):
        return DefenseResult(clf(x))

    def expected_cost(self, n_labels):
        return Cost(image_forward=1)


@dataclass(frozen=True)
class Rounded(Bare):
    """Rounds the picture away from the gradient: masked as coded, open to who replaces the block."""

    recipe = "rounding replaced by the identity"

    def __call__(self, clf, x, *, run):
        return DefenseResult(clf((x * 51).round() / 51))

    def surrogate(self, clf, run):
        return lambda x: clf(x + ((x * 51).round() / 51 - x).detach())


@dataclass(frozen=True)
class Noisy(Bare):
    """Random noise on the picture."""

    stochastic = True
    recipe = "averaged over draws"

    def __call__(self, clf, x, *, run):
        return DefenseResult(clf((x + 0.05 * run.child("noise").normal(x)).clamp(0, 1)))


def opponent(defense, clf, x, eps=EPS, budget=SMALL, goal=None, **run):
    goal = goal or Goal(clf(x).argmax(1))
    ball = eps if isinstance(eps, Ball) else Ball("linf", eps)
    return Opponent(defense, clf, goal, ball, budget, tiny.run_for(len(x), **run).child("aware"))


def reached(defense, clf, x, goal):
    return goal.reached(defense(clf, x, run=tiny.run_for(len(x))).logits)


@pytest.fixture
def x():
    return tiny.images(6)


def test_every_rung_stays_in_the_ball_on_the_grid(clf, x):
    for defense in (Bare(), Rounded(), Noisy()):
        for name, (_, attempt) in opponent(defense, clf, x).rungs().items():
            out = attempt(x, None)
            assert Ball("linf", EPS).contains(out, x).all(), name
            assert ((out * 255) - (out * 255).round()).abs().max() < 1e-3, name


def test_a_masked_gradient_stops_the_white_box_and_not_the_adaptive_rung(clf, x):
    goal = Goal(Rounded()(clf, x, run=tiny.run_for(6)).logits.argmax(1))
    attacker = opponent(Rounded(), clf, x, 12 / 255, goal=goal)
    blind, adaptive = attacker.white_box(x), attacker.adaptive(x)
    assert torch.equal(blind, x)
    won = reached(Rounded(), clf, adaptive, goal)
    assert won.sum() > reached(Rounded(), clf, blind, goal).sum()
    assert won.float().mean() >= 0.5


def test_the_white_box_on_no_defence_is_the_attack_itself(clf, x):
    goal = Goal(clf(x).argmax(1))
    assert reached(Bare(), clf, opponent(Bare(), clf, x).white_box(x), goal).float().mean() >= 0.5


def test_the_black_box_never_asks_for_a_gradient(clf, x):
    @dataclass(frozen=True)
    class Watched(Bare):
        def __call__(self, clf, x, *, run):
            assert not torch.is_grad_enabled()
            return super().__call__(clf, x, run=run)

    out = opponent(Watched(), clf, x).black_box(x)
    assert (out != x).any()


def test_a_transfer_image_that_breaks_the_surrogate_is_delivered_as_it_is(clf, x):
    goal = Goal(clf(x).argmax(1))
    attacker = opponent(Bare(), clf, x, 16 / 255)
    warm = attacker.white_box(x)
    answers = clf(warm)
    others = answers.scatter(1, goal.labels[:, None], -torch.inf).amax(1)
    past = others - answers.gather(1, goal.labels[:, None])[:, 0] >= 1
    assert past.any()
    out = attacker.adaptive(x, warm)
    assert torch.equal(out[past], warm[past])


def test_the_attacker_never_draws_what_the_defender_draws(clf, x):
    """Same seed, another branch of the tree: a lucky draw cannot be looked up."""
    seen = []

    @dataclass(frozen=True)
    class Watched(Noisy):
        def __call__(self, clf, x, *, run):
            seen.append(run.child("noise").generator(0).initial_seed())
            return super().__call__(clf, x, run=run)

    for _, attempt in opponent(Watched(), clf, x).rungs().values():
        attempt(x, None)
    attacked, seen[:] = set(seen), []
    Watched()(clf, x, run=tiny.run_for(6))
    fresh_answers(Watched(), clf, x, 4, tiny.run_for(6))
    defended = set(seen)
    assert len(defended) == 5
    assert not attacked & defended


def test_the_expectation_draws_as_often_as_the_budget_says(clf, x):
    calls = []

    @dataclass(frozen=True)
    class Counted(Noisy):
        def __call__(self, clf, x, *, run):
            calls.append(torch.is_grad_enabled())
            return super().__call__(clf, x, run=run)

    opponent(Counted(), clf, x, 1 / 255).adaptive(x)
    assert sum(calls) == 2 * SMALL.adaptive_steps * SMALL.draws  # two starts
    assert len(calls) - sum(calls) == 2 * SMALL.draws  # the last iterate of each is judged


def test_the_transferred_image_is_a_start_of_who_knows_a_random_defence(clf, x):
    """A defence whose gradient leads nowhere falls to what breaks the model behind it."""

    @dataclass(frozen=True)
    class Blind(Noisy):
        def surrogate(self, clf, run):
            plain = super().surrogate(clf, run)
            return lambda pixels: plain(pixels.detach() + 0 * pixels)

    goal = Goal(clf(x).argmax(1))
    attacker = opponent(Blind(), clf, x, 16 / 255, goal=goal)
    transferred = attacker.ball.quantise(attacker._pgd(False)(clf, x, goal, run=tiny.run_for(6)), x)
    won = goal.reached(clf(transferred))
    assert won.any()
    out = attacker.adaptive(x)
    assert goal.reached(clf(out))[won].float().mean() >= 0.5


def test_a_lucky_draw_does_not_end_the_expectation(clf, x):
    """Every draw of a step must be through: the delivered image fools in most fresh ones."""
    goal = Goal(clf(x).argmax(1))
    attacker = opponent(Noisy(), clf, x, 16 / 255, goal=goal)
    out = attacker.adaptive(x)
    fresh = fresh_answers(Noisy(), clf, out, 20, tiny.run_for(6))
    through = goal.reached(clf(out))
    share = torch.stack([goal.reached(draw) for draw in fresh]).float().mean(0)
    assert through.any()
    assert share[through].mean() >= 0.9


def test_fresh_answers_are_independent_draws_that_repeat_with_the_seed(clf, x):
    one, two = (fresh_answers(Noisy(), clf, x, 5, tiny.run_for(6)) for _ in range(2))
    assert one.shape == (5, 6, 4)
    assert torch.equal(one, two)
    assert len({row.numpy().tobytes() for row in one}) == 5


def test_budgets_are_those_of_the_design():
    assert (INTERACTIVE.steps, INTERACTIVE.adaptive_steps, INTERACTIVE.draws) == (20, 20, 4)
    assert INTERACTIVE.queries == 300
    assert (BATCH.adaptive_steps, BATCH.draws, BATCH.queries) == (50, 20, 5000)


def test_an_l2_ball_has_no_square_and_a_free_one_no_ladder(clf, x):
    assert list(opponent(Bare(), clf, x, Ball("l2", 2.0)).rungs()) == ["white_box", "adaptive"]
    assert list(opponent(Bare(), clf, x, Ball("free")).rungs()) == []


@pytest.mark.parametrize("targeted", [False, True])
def test_two_labels_and_groups_are_no_trouble(backbone, x, targeted):
    clf = tiny.classifier(backbone, ("cat", "dog", "red car"))
    goal = Goal(clf(x).argmax(1), targeted, torch.tensor([0, 0, 1]))
    attacker = opponent(Bare(), clf, x, goal=goal)
    for _, attempt in attacker.rungs().values():
        assert attempt(x, None).isfinite().all()


def test_where_dlr_says_nothing_the_margin_follows_cross_entropy(clf, x):
    """Two answers, with flat cross-entropy: the second loss gets through, and is what is named."""
    goal = Goal(clf(x).argmax(1), groups=torch.tensor([0, 0, 0, 1]))

    @dataclass(frozen=True)
    class Sure(Bare):
        def __call__(self, clf, x, *, run):
            return DefenseResult(400 * clf(x))

    attacker = opponent(Sure(), clf, x, 16 / 255, goal=goal)
    assert attacker.rungs()["adaptive"][0] == "APGD-CE and APGD-T, 6 steps each"
    assert opponent(Sure(), clf, x).rungs()["adaptive"][0] == "APGD-CE and APGD-DLR, 6 steps each"
    alone = APGDCE(eps=16 / 255, steps=6, stop_early=True)(
        lambda pixels: 400 * clf(pixels), x, goal, run=tiny.run_for(6)
    )
    won = reached(Sure(), clf, attacker.adaptive(x), goal).sum()
    assert won > goal.reached(clf(alone)).sum()


# on the cards


def ladder_cards(backbone, **changes):
    request = Request(
        PICTURE, list(tiny.LABELS), attack_params={"eps": 8, "steps": 6, "stop_early": False},
        defenses={"fare": {}, "ttc": {"tau": 4.0}}, rungs=AWARE, budget=SMALL,
    )  # fmt: skip
    return {c.method: c for c in compare(replace(request, **changes), backbone)}


def test_the_climb_stops_at_the_first_rung_that_breaks_the_defence(backbone):
    for id, card in ladder_cards(backbone).items():
        if id == "undefended":
            assert card.ladder == ()
            continue
        *before, last = card.ladder[1:]
        assert all(rung.verdict == "held" for rung in before)
        if last.verdict == "held":
            assert last.name == "black_box"


def test_without_climbing_every_rung_is_tried(backbone):
    card = ladder_cards(backbone, climb=False)["fare"]
    assert [r.name for r in card.ladder] == ["transfer", *AWARE]


def test_who_was_climbed_is_not_said_to_have_met_the_unaware_only(backbone):
    assert "unaware" in ladder_cards(backbone, rungs=())["fare"].flags
    assert "unaware" not in ladder_cards(backbone)["fare"].flags


def test_the_worst_rung_is_the_verdict_against_one_who_knows(backbone):
    card = ladder_cards(backbone, climb=False)["fare"]
    broken = [r.name for r in card.ladder if r.verdict == "fooled"]
    assert bool(card.broken_by) == bool(broken)


def test_every_rung_delivers_a_file_that_decodes_to_what_was_judged(backbone):
    from vlmdefense_demo.images import from_png

    card = ladder_cards(backbone, climb=False)["fare"]
    for rung in card.ladder:
        delta = (from_png(rung.png) - PICTURE).abs().max() * 255
        assert rung.linf == pytest.approx(float(delta), abs=1e-3)
        assert rung.linf <= 8.001


def test_passes_of_a_rung_are_the_attackers_not_the_defenders(backbone):
    card = ladder_cards(backbone, climb=False)["fare"]
    cost = {r.name: r.cost for r in card.ladder}
    assert cost["white_box"].image_backward <= SMALL.steps
    assert cost["black_box"].image_backward == 0
    assert cost["black_box"].image_forward <= SMALL.queries
    assert cost["adaptive"].image_backward <= 2 * SMALL.adaptive_steps


def test_only_random_defences_are_judged_in_fresh_draws(backbone):
    cards = ladder_cards(backbone)
    assert all(r.wrong is None for r in cards["fare"].ladder)
    for rung in cards["ttc"].ladder:
        assert rung.draws == SMALL.fresh
        assert 0 <= rung.wrong <= 1


def test_a_defence_that_misses_the_clean_picture_is_not_attacked(backbone):
    labels = list(tiny.LABELS)
    clean = ladder_cards(backbone)["fare"].clean.label
    wrong = next(label for label in labels if label != clean)
    card = ladder_cards(backbone, reference=wrong)["fare"]
    assert card.verdict == "wrong_clean"
    assert [r.name for r in card.ladder] == ["transfer"]


def test_stop_is_heard_on_every_rung(backbone):
    from vlmdefense_demo.errors import Cancelled

    for name in AWARE:
        heard = []

        def note(path, i, total, name=name, heard=heard):
            if name in path:
                heard.append(path)

        request = Request(
            PICTURE, list(tiny.LABELS), attack_params={"eps": 1, "steps": 1},
            defenses={"fare": {}}, rungs=(name,), budget=SMALL,
        )  # fmt: skip
        with pytest.raises(Cancelled):
            list(compare(request, backbone, on_progress=note, should_stop=lambda h=heard: bool(h)))
        assert len(heard) == 1


def test_a_goal_is_the_same_for_the_attacker_who_knows(backbone):
    cards = ladder_cards(backbone, aim=Aim("least likely"), climb=False)
    assert cards["undefended"].attack.targeted
    assert len(cards["fare"].ladder) > 1


@pytest.mark.parametrize("row", methods("defense").values(), ids=lambda row: row.id)
def test_every_defence_says_how_it_is_attacked(row):
    assert 10 < len(row.cls.recipe) < 160
    assert row.cls.adaptive in ("exact", "bpda", "eot")


@pytest.mark.parametrize(
    ("eps", "steps", "levels"),
    [(1, 10, 0.25), (1, 20, 0.125), (1, 2, 1), (2, 10, 1), (4, 10, 1), (4, 4, 2), (0.5, 10, 0.125)],
)
def test_steps_along_noisy_slopes_do_not_cross_the_ball(eps, steps, levels):
    assert ladder._step_size(eps / 255, steps) * 255 == pytest.approx(levels)
