"""From a request to cards: order, honesty, isolation, Stop."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import pytest
import torch

from tests import tiny
from vlmdefense_demo import engine, masking
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.training_free.ttc import TTC
from vlmdefense_demo.defenses.training_time.fare import FARE
from vlmdefense_demo.engine import compare, redefend
from vlmdefense_demo.errors import (
    Cancelled,
    InvalidLabels,
    InvalidParameter,
    MethodFailed,
    MissingWeights,
    UnknownMethod,
)
from vlmdefense_demo.images import from_png, to_array
from vlmdefense_demo.judging import find_label, judge, predict
from vlmdefense_demo.library import attack, defend
from vlmdefense_demo.measure import distances
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.request import Aim, Request, check_request
from vlmdefense_demo.types import DefenseResult, Goal, Prediction

ALL = {"fare": {}, "rtpt": {"views": 4}, "ttc": {}}
CLEAN = "dog"  # the undefended answer on `images()`


def request(**changes):
    base = Request(tiny.images(1), tiny.LABELS, defenses=ALL, attack_params={"steps": 5})
    return replace(base, **changes)


def first_pass(cards):
    """The cards before their gradient checks are added: each method's first complete one."""
    cards = list(cards)
    return cards[: 2 + len({c.method for c in cards}) - 1]


@pytest.fixture
def cards(backbone):
    return first_pass(compare(request(), backbone))


def failing(error):
    def call(self, clf, x, *, run):
        raise error

    return call


# --- the stream ------------------------------------------------------------------------------


def test_cards_come_in_the_requests_order(backbone):
    for order in (["fare", "rtpt", "ttc"], ["ttc", "fare", "rtpt"], []):
        cards = compare(request(defenses={id: ALL[id] for id in order}), backbone)
        names = ["undefended", "undefended", *order]
        assert [c.method for c in cards] == [*names, "undefended", *order]  # and again with checks


def test_the_first_card_has_the_clean_row_alone(cards):
    first, second = cards[:2]
    assert first.clean == second.clean
    assert (first.attacked, first.attack, first.verdict) == (None, None, None)
    assert second.attacked is not None
    assert second.attack.method == "pgd"


def test_the_first_card_does_not_wait_for_the_attack(backbone, monkeypatch):
    monkeypatch.setattr(PGD, "__call__", failing(AssertionError("attacked too early")))
    assert next(compare(request(), backbone)).clean.label == CLEAN


def test_only_the_undefended_card_reports_the_attack(cards):
    assert [c.attack is not None for c in cards] == [False, True, False, False, False]


def test_defended_cards_say_who_they_are(cards):
    fare, rtpt, ttc = cards[2:]
    assert (fare.title, fare.paradigm) == ("FARE", "training_time")
    assert rtpt.params == {"views": 4, "augmix": False, "steps": 1, "learning_rate": 0.005}
    assert ttc.params["eps"] == 4
    assert "randomised" in ttc.flags
    assert [note.title for note in fare.notes] == ["weights", "file", "trained"]
    assert {n.title for n in ttc.notes} >= {"gate"}
    assert all(c.reference == CLEAN and c.pseudo and c.device == "cpu" for c in cards)


def test_cards_state_the_cost_per_image(cards):
    for card, method in zip(cards[2:], (FARE(), RTPT(views=4), TTC()), strict=True):
        expected = method.expected_cost(len(tiny.LABELS))
        spent, expected = (
            (c.image_forward, c.image_backward, c.text_forward, c.text_backward)
            for c in (card.cost, expected)
        )
        assert spent == expected
        assert card.cost.seconds > 0
        assert card.slowdown > 0
    assert cards[1].cost.image_forward == 1
    assert cards[1].slowdown == 1


def test_where_the_model_looks_is_on_the_undefended_card_where_it_is_asked_for(backbone):
    def newest(**changes):
        asked = request(defenses={"ttc": {}}, **changes)
        return {card.method: card for card in compare(asked, backbone)}

    cards = newest(looks=True)
    (note,) = cards["undefended"].notes
    assert (note.title, note.kind) == ("where the model looks", "maps")
    assert note.value["answers"] == [
        cards["undefended"].clean.label,
        cards["undefended"].attacked.label,
    ]
    assert torch.tensor([note.value["clean"], note.value["attacked"]]).shape == (2, 4, 4)
    assert json.loads(json.dumps(cards["undefended"].to_json(), allow_nan=False))
    assert newest()["undefended"].notes == ()
    assert tiny.timeless(cards["ttc"]) == tiny.timeless(newest()["ttc"])
    assert newest(looks=True, checks=False)["undefended"].notes == (note,)


def test_a_tower_without_a_map_says_so_and_the_run_goes_on(backbone, monkeypatch):
    def no_map(self, x):
        raise MethodFailed("Tower has no map of locations.", "Choose another model.")

    monkeypatch.setattr("vlmdefense_demo.models.classifier.ZeroShotClassifier.look", no_map)
    cards = {card.method: card for card in compare(request(looks=True), backbone)}
    (note,) = cards["undefended"].notes
    assert note.kind == "text"
    assert note.value.startswith("Tower has no map of locations.")
    assert cards["ttc"].error is None


def test_without_an_attack_everything_is_only_classified(backbone):
    first, *defended = compare(request(attack=None), backbone)
    assert first.attacked is None
    assert [c.method for c in defended] == list(ALL)
    assert all(c.clean and not c.attacked and not c.verdict and not c.error for c in defended)


def test_cards_are_json(cards):
    for card in cards:
        data = json.loads(json.dumps(card.to_json(), allow_nan=False))
        assert data["method"] == card.method
    assert data["clean"]["labels"] == list(tiny.LABELS)
    report = json.loads(json.dumps(cards[1].to_json()))["attack"]
    assert report["png"] == len(cards[1].attack.png) > 100


def test_predictions_are_probabilities_of_the_logits(cards, clf):
    clean = cards[0].clean
    assert sum(clean.probs) == pytest.approx(1)
    logits = clf(tiny.images(1))
    assert list(clean.probs) == pytest.approx(logits[0].softmax(0).tolist(), rel=1e-4)
    assert clean.label == tiny.LABELS[int(logits.argmax())]
    assert clean.prob == max(clean.probs)


def test_the_same_request_gives_the_same_cards(backbone):
    first, second = ([tiny.timeless(c) for c in compare(request(), backbone)] for _ in range(2))
    assert first == second


def test_another_seed_changes_the_randomised_defenses_only(backbone):
    first, second = (list(compare(request(seed=s), backbone)) for s in (0, 1))
    assert first[2].attacked == second[2].attacked
    assert first[3].attacked != second[3].attacked
    assert first[4].attacked != second[4].attacked


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_tower_runs_every_defense(backbones, name):
    x = tiny.images_for(backbones[name])
    cards = list(compare(request(image=x), backbones[name]))
    assert [c.error for c in cards] == [None] * 9


# --- the delivered file ----------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1, 2, 4, 8])
def test_the_report_is_measured_on_the_decoded_file(backbone, clf, eps):
    x = tiny.images(1)
    card = list(compare(request(attack_params={"eps": eps}, defenses={}), backbone))[1]
    report, decoded = card.attack, from_png(card.attack.png)
    assert report.linf <= eps
    measured = distances(to_array(x), to_array(decoded))
    assert {k: getattr(report, k) for k in measured} == measured
    assert card.attacked == predict(tiny.LABELS, clf(decoded))[0]
    assert report.success is (card.attacked.label != card.reference)
    assert report.params["eps"] == eps


def test_the_report_counts_the_attacks_passes(backbone):
    params = {"steps": 5, "eps": 1, "stop_early": False}
    report = list(compare(request(attack_params=params, defenses={}), backbone))[1].attack
    assert (report.steps_used, report.cost.image_backward) == (5, 5)
    assert report.cost.image_forward == 6
    assert len(report.margins) == 5


def test_an_attack_cannot_cheat(backbone, monkeypatch):
    """Whatever it returns, the file decides: here pixels between two grey levels."""
    x = tiny.images(1)
    monkeypatch.setattr(PGD, "__call__", lambda self, target, x, goal, *, run: x + 0.4 / 255)
    card = list(compare(request(defenses={}), backbone))[1]
    assert torch.equal(from_png(card.attack.png), x)
    assert (card.attack.linf, card.attack.psnr, card.attack.success) == (0, None, False)


def test_an_attack_that_leaves_its_ball_is_pulled_back(backbone, monkeypatch):
    monkeypatch.setattr(PGD, "__call__", lambda self, target, x, goal, *, run: x + 0.5)
    card = list(compare(request(defenses={}), backbone))[1]
    assert card.attack.linf == 4


def test_defenses_see_the_decoded_file(backbone, monkeypatch):
    seen = []

    def spy(self, clf, x, *, run):
        seen.append(x)
        return DefenseResult(clf(x))

    monkeypatch.setattr(FARE, "__call__", spy)
    cards = list(compare(request(defenses={"fare": {}}), backbone))
    assert torch.equal(seen[0], tiny.images(1))
    file = from_png(cards[1].attack.png)
    assert any(torch.equal(x, file) for x in seen)
    assert cards[2].attacked == cards[1].attacked


# --- verdicts and references -----------------------------------------------------------------


def saying(label):
    z = tuple(float(label == other) for other in tiny.LABELS)
    return Prediction(tiny.LABELS, z, z)


@pytest.mark.parametrize(
    ("clean", "attacked", "verdict"),
    [
        ("cat", "cat", "held"),
        ("cat", "dog", "fooled"),
        ("dog", "cat", "wrong_clean"),
        ("dog", "dog", "wrong_clean"),
        ("dog", "bird", "wrong_clean"),
        (None, "cat", "held"),
        (None, "dog", "fooled"),
    ],
)
def test_verdict_truth_table(clean, attacked, verdict):
    clean = None if clean is None else saying(clean)
    assert judge(clean, saying(attacked), ("cat",)) == verdict


def test_the_undefended_answer_is_a_pseudo_label(cards):
    assert cards[0].pseudo
    assert cards[0].reference == cards[0].clean.label == CLEAN


def test_a_persons_label_is_the_reference_of_every_card(backbone):
    cards = list(compare(request(reference="  CAT "), backbone))
    assert all(c.reference == "cat" and not c.pseudo for c in cards)
    assert cards[1].verdict == "wrong_clean"


def test_every_card_is_judged_by_the_same_label(backbone):
    for card in list(compare(request(reference="cat"), backbone))[1:]:
        assert card.verdict == judge(card.clean, card.attacked, ("cat",))


def test_a_target_is_reached_or_the_attack_failed(backbone):
    params = {"eps": 32, "steps": 40}
    cards = compare(request(aim=Aim.at("bird"), attack_params=params, defenses={}), backbone)
    card = list(cards)[1]
    assert card.attack.targeted
    assert card.attack.success
    assert card.attacked.label == "bird"
    untargeted = list(compare(request(defenses={}), backbone))[1]
    assert not untargeted.attack.targeted


def test_a_target_that_is_already_the_answer_is_refused(backbone):
    right = {"aim": Aim.at("cat"), "reference": "Cat"}
    for changes, why in (
        ({"aim": Aim.at(CLEAN)}, "already the answer"),
        (right, "the right answer"),
    ):
        with pytest.raises(InvalidLabels, match=f"is {why}"):
            list(compare(request(**changes), backbone))


def test_a_label_is_found_as_it_stands_in_the_list():
    assert tiny.LABELS[find_label(tiny.LABELS, " RED   car ")] == "red car"
    with pytest.raises(InvalidLabels, match="not among the labels"):
        find_label(tiny.LABELS, "boat")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"labels": ["cat"]}, InvalidLabels),
        ({"template": "no place"}, InvalidLabels),
        ({"reference": "boat"}, InvalidLabels),
        ({"aim": Aim.at("boat")}, InvalidLabels),
        ({"attack": "nope"}, UnknownMethod),
        ({"attack": "ttc"}, UnknownMethod),
        ({"attack_params": {"eps": 999}}, InvalidParameter),
        ({"attack_params": {"epsilon": 1}}, InvalidParameter),
        ({"defenses": {"pgd": {}}}, UnknownMethod),
        ({"defenses": {"ttc": {"tau": -1}}}, InvalidParameter),
    ],
)
def test_a_request_that_cannot_run_is_refused_before_the_first_card(backbone, changes, error):
    with pytest.raises(error):
        next(compare(request(**changes), backbone))
    with pytest.raises(error):
        check_request(request(**changes))


def test_check_request_returns_the_clean_labels():
    assert check_request(request(labels=["cat", " Cat", "dog"])) == ("cat", "dog")


# --- failures and Stop -----------------------------------------------------------------------


@pytest.mark.parametrize("error", [MissingWeights("No weights.", "Fetch them."), MethodFailed("x")])
def test_a_failing_defense_is_a_card_and_the_others_still_render(backbone, monkeypatch, error):
    plain = {c.method: tiny.timeless(c) for c in first_pass(compare(request(), backbone))}
    monkeypatch.setattr(RTPT, "__call__", failing(error))
    cards = list(compare(request(), backbone))
    assert [c.method for c in cards[2:5]] == list(ALL)
    assert [c.method for c in cards[5:]] == ["undefended", "fare", "ttc"]
    broken = cards[3]
    assert broken.error == str(error)
    assert (broken.clean, broken.attacked, broken.verdict, broken.cost) == (None,) * 4
    assert broken.title == "R-TPT"
    json.dumps(broken.to_json(), allow_nan=False)
    for card in (cards[2], cards[4]):
        assert tiny.timeless(card) == plain[card.method]


def test_a_defence_that_fails_under_its_checks_keeps_its_card(backbone, monkeypatch):
    """Out of memory in a backward, say: both stay, with the reason among the notes."""
    plain = {c.method: c for c in compare(request(rungs=("white_box",)), backbone)}

    def fail(error):
        def call(*args, **kwargs):
            raise error

        return call

    monkeypatch.setattr("vlmdefense_demo.masking.slope", fail(MethodFailed("no room")))
    monkeypatch.setattr(
        "vlmdefense_demo.ladder.Opponent.white_box", fail(NotImplementedError("no kernel"))
    )
    cards = {c.method: c for c in compare(request(rungs=("white_box",)), backbone)}
    assert cards.keys() == plain.keys()
    for id in ALL:
        assert cards[id].error is None
        assert cards[id].attacked == plain[id].attacked
        said = {note.title: note.value for note in cards[id].notes}
        assert said["gradient checks"] == "stopped: no room"
        if cards[id].verdict != "wrong_clean":
            assert said["the attacker who knows the defence"] == "stopped: no kernel"


def test_what_comes_after_the_answers_fails_on_its_own(backbone, monkeypatch):
    """Eight noisy copies, or a defence's fresh draws, may be more than a GPU holds."""
    plain = {c.method: c for c in compare(request(rungs=("white_box",)), backbone)}

    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("no room")

    for place in ("stage.masking.noise_fools", "side.fresh_answers"):
        monkeypatch.setattr(f"vlmdefense_demo.{place}", fail)
    monkeypatch.setattr("vlmdefense_demo.models.classifier.ZeroShotClassifier.look", fail)
    cards = {c.method: c for c in compare(request(rungs=("white_box",), looks=True), backbone)}
    assert cards.keys() == plain.keys()
    for id, card in cards.items():
        assert card.error is None
        assert card.attacked == plain[id].attacked
    said = {note.title: note.value for note in cards["undefended"].notes}
    assert said == {
        "gradient checks": "stopped: no room",
        "where the model looks": "no room",
    }
    for id in ("rtpt", "ttc"):
        said = {note.title: note.value for note in cards[id].notes}
        assert said["draws nobody has seen"] == "stopped: no room"
        assert cards[id].verdict == plain[id].verdict
        assert [(r.name, r.verdict) for r in cards[id].ladder] == [
            (r.name, r.verdict) for r in plain[id].ladder
        ]
        assert all((r.wrong, r.draws) == (None, 0) for r in cards[id].ladder)


def test_a_card_that_failed_says_nothing_of_the_undefended_models(backbone, monkeypatch):
    """Run again on a file whose card has grown since: where the model looks, for instance."""
    asked = request(looks=True)
    *_, earlier = (card for card in compare(asked, backbone) if card.method == "undefended")
    assert earlier.notes
    monkeypatch.setattr(FARE, "__call__", failing(MethodFailed("no")))
    (card,) = (c for c in redefend(asked, backbone, earlier) if c.method == "fare")
    assert (card.error, card.notes) == ("no", ())


def test_logits_that_are_not_finite_are_an_error_card(backbone, monkeypatch):
    nan = DefenseResult(torch.full((1, 4), math.nan))
    monkeypatch.setattr(FARE, "__call__", lambda self, clf, x, *, run: nan)
    cards = list(compare(request(), backbone))
    assert "not finite" in cards[2].error
    assert cards[3].error is None


def test_a_bug_in_a_defense_is_not_hidden(backbone, monkeypatch):
    monkeypatch.setattr(FARE, "__call__", failing(tiny.Boom("bug")))
    with pytest.raises(tiny.Boom):
        list(compare(request(), backbone))


def test_stop_is_heard_within_one_step_of_the_attack(backbone):
    heard = []
    stopping = compare(
        request(attack_params={"steps": 50, "stop_early": False}),
        backbone,
        on_progress=lambda path, i, total: heard.append((path, i)),
        should_stop=lambda: ("pgd", 3) in heard,
    )
    with pytest.raises(Cancelled):
        list(stopping)
    assert heard[-1] == ("pgd", 3)


@pytest.mark.parametrize("id", ALL)
def test_stop_between_two_cards_is_heard_by_every_defense(backbone, id):
    pressed = []
    cards = compare(
        request(defenses={id: ALL[id], "ttc": {}}), backbone, should_stop=lambda: bool(pressed)
    )
    next(cards), next(cards)
    pressed.append(True)
    with pytest.raises(Cancelled):
        next(cards)


def test_stop_counts_even_if_it_is_answered_only_once(backbone, monkeypatch):
    monkeypatch.setattr(FARE, "__call__", failing(Cancelled("Stopped.")))
    with pytest.raises(Cancelled):
        list(compare(request(), backbone))


def test_stopping_leaves_no_trace_and_the_next_request_is_unaffected(backbone):
    plain = [tiny.timeless(c) for c in compare(request(), backbone)]
    twin = load_twin(backbone, "fare")
    for poll in (1, 4, 8):
        with tiny.no_trace(backbone.model, twin.model), pytest.raises(Cancelled):
            list(compare(request(), backbone, should_stop=tiny.stops_at(poll)))
    assert [tiny.timeless(c) for c in compare(request(), backbone)] == plain


def test_a_comparison_leaves_no_trace(backbone):
    with tiny.no_trace(backbone.model, load_twin(backbone, "fare").model):
        list(compare(request(), backbone))


def test_progress_names_the_method_and_its_step(backbone):
    heard = []
    list(compare(request(), backbone, on_progress=lambda *a: heard.append(a)))
    assert {path.split("/")[0] for path, _, _ in heard} == {"pgd", *ALL}
    assert all(0 <= i < total for _, i, total in heard)


# --- the functions for scripts ---------------------------------------------------------------


def test_attack_is_judged_on_the_grid(clf):
    x = tiny.images(3)
    goal = Goal(clf(x).argmax(1))
    out = attack("pgd", clf, x, goal, eps=4 / 255, steps=4)
    assert torch.equal(out.images, (out.images * 255).round() / 255)
    assert ((out.images - x).abs() * 255).max().round() <= 4
    assert torch.equal(out.success, goal.reached(clf(out.images)))
    assert out.cost.image_forward > out.cost.image_backward > 0
    assert len(out.trace) == 3
    assert out.trace[0]["margin"][0] < 0


def test_defend_returns_the_methods_result_with_its_cost(clf):
    x = tiny.images(2)
    out = defend("ttc", clf, x, tau=4.0, steps=1)
    assert (out.cost.image_forward, out.cost.image_backward) == (6, 2)
    assert torch.equal(out.logits, defend("ttc", clf, x, tau=4.0, steps=1).logits)
    assert not torch.equal(out.logits, defend("ttc", clf, x, seed=1, tau=4.0, steps=1).logits)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda clf, x: attack("nope", clf, x, Goal(torch.tensor([0]))), UnknownMethod),
        (lambda clf, x: attack("pgd", clf, x, Goal(torch.tensor([0])), nope=1), InvalidParameter),
        (lambda clf, x: attack("pgd", clf, x, Goal(torch.tensor([0])), eps=4), InvalidParameter),
        (lambda clf, x: defend("pgd", clf, x), UnknownMethod),
        (lambda clf, x: defend("ttc", clf, x, eps=1.0), InvalidParameter),
    ],
)
def test_wrong_calls_are_sentences(clf, call, error):
    with pytest.raises(error):
        call(clf, tiny.images(1))


def test_an_attack_made_by_hand_defeats_the_model_it_was_made_for(clf):
    x = tiny.images(8)
    label = clf(x).argmax(1)
    out = attack("pgd", clf, x, Goal(label), eps=8 / 255)
    assert out.success.float().mean() > 0.5
    assert (clf(out.images).argmax(1) != label).sum() == out.success.sum()


def test_requests_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        request().seed = 1
    assert engine.Request(tiny.images(1), tiny.LABELS).seed == 0


@pytest.mark.parametrize("call", [
    lambda clf, x: attack("pgd", clf, x, Goal(torch.tensor([0]))),
    lambda clf, x: defend("fare", clf, x),
])  # fmt: skip
def test_inference_mode_is_refused_in_a_sentence(clf, call):
    with torch.inference_mode(), pytest.raises(InvalidParameter, match="need gradients"):
        call(clf, tiny.images(1))


def test_an_attack_that_failed_on_the_model_itself_puts_no_defence_to_the_test(backbone):
    weak = {"attack": "jpeg_control", "attack_params": {"eps": 1, "quality": 95}}
    *_, plain, fare = compare(request(**weak, defenses={"fare": {"alpha": 0}}), backbone)
    assert (plain.verdict, fare.verdict) == ("held", "held")
    assert "attack_failed" in fare.flags
    assert "attack_failed" not in plain.flags


def test_a_defence_is_idle_only_if_it_answers_both_pictures_as_the_model_does(
    backbone, monkeypatch
):
    idle = request(defenses={"fare": {"alpha": 0}})
    *_, card = compare(idle, backbone)
    assert "inactive" in card.flags
    asked = []

    def of_the_first(own, _):
        asked.append(own)
        return ("inactive",) if len(asked) == 1 else ()

    monkeypatch.setattr(masking, "inactive", of_the_first)
    *_, card = compare(idle, backbone)
    assert asked == [card.clean, card.attacked]
    assert "inactive" not in card.flags
