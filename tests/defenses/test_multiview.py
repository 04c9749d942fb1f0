"""What the view methods share, and what each of them makes of it: oracles in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses.multiview import (
    confident,
    entropy,
    marginal_entropy,
    reliability,
)
from vlmdefense_demo.defenses.test_time.ctpt import CTPT, spread
from vlmdefense_demo.defenses.test_time.ensemble import ViewEnsemble
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.test_time.sstpt import (
    SSTPT,
    stability,
    stretched,
    suitability,
)
from vlmdefense_demo.defenses.test_time.tpt import TPT
from vlmdefense_demo.defenses.test_time.tuning import WEIGHT_DECAY, first_step
from vlmdefense_demo.defenses.test_time.tvss import TVSS, main_directions
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.defenses.weak import weak_copies
from vlmdefense_demo.errors import Cancelled, InvalidLabels
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit

TUNERS = (TPT, CTPT, RTPT, SSTPT)
EVERY = (ViewEnsemble, *TUNERS, TVSS)


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features_of(clf, x, n):
    views = random_views(x, n, tiny.run_for(len(x)).child("views"))
    return clf.encode_image(views).unflatten(0, (len(x), n))


# --- selection and entropies ---------------------------------------------------------------------


def test_marginal_entropy_is_mean_entropy_plus_disagreement():
    logits = 3 * seeded(7, 5)
    log_p = logits.log_softmax(1)
    mean = log_p.exp().mean(0, keepdim=True)
    expected = entropy(logits).mean() + divergence(log_p, mean.log().expand_as(log_p)).mean()
    torch.testing.assert_close(marginal_entropy(logits), expected)


def test_equal_views_have_the_same_marginal_and_mean_entropy():
    logits = seeded(1, 6).expand(4, -1)
    torch.testing.assert_close(marginal_entropy(logits), entropy(logits).mean())


def test_a_least_number_of_views_is_kept():
    assert len(confident(seeded(16, 4), 0.0, 3)) == 3
    assert len(confident(seeded(2, 4), 0.0, 3)) == 2


@pytest.mark.parametrize("gradient", [torch.zeros(5), seeded(5), 1e9 * seeded(5)])
def test_the_first_step_is_that_of_torchs_adamw(gradient):
    p = seeded(5, seed=1)
    theirs = p.clone().requires_grad_()
    theirs.grad = gradient.clone()
    torch.optim.AdamW([theirs], lr=0.01, weight_decay=WEIGHT_DECAY).step()
    torch.testing.assert_close(first_step(p, gradient, 0.01), theirs.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", TUNERS)
def test_one_step_and_an_optimiser_agree(clf, method, monkeypatch):
    """The closed form is left out by pretending that more steps follow."""
    from vlmdefense_demo.defenses.test_time import tuning

    x = tiny.images(1)
    one = method(views=4)(clf, x, run=tiny.run_for(1)).logits
    monkeypatch.setattr(tuning, "first_step", None)
    make = tuning.Adam.__init__
    monkeypatch.setattr(tuning.Adam, "__init__", lambda self, rate, steps: make(self, rate, 2))
    other = method(views=4)(clf, x, run=tiny.run_for(1)).logits
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


# --- the methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_ensemble_is_the_plain_mean_of_the_views(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 2)
    out = ViewEnsemble(views=5)(clf, x, run=tiny.run_for(2))
    expected = clf.logits(features_of(clf, x, 5)).mean(1)
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("method", [TPT, CTPT])
def test_without_steps_the_image_answers_as_it_does_undefended(backbones, name, method):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 2)
    out = method(views=4, steps=0)(clf, x, run=tiny.run_for(2))
    torch.testing.assert_close(out.logits, clf(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        (TPT, lambda logits, text: marginal_entropy(logits)),
        (CTPT, lambda logits, text: marginal_entropy(logits) - 50 * spread(text)),
        (RTPT, lambda logits, text: entropy(logits).mean()),
    ],
)
def test_the_prompt_moves_against_the_slope_of_the_methods_own_loss(clf, method, loss, monkeypatch):
    x, rate, contexts = tiny.images(1), 0.01, []
    original = ZeroShotClassifier.encode_context
    monkeypatch.setattr(
        ZeroShotClassifier,
        "encode_context",
        lambda self, p, c: contexts.append(c.detach()) or original(self, p, c),
    )
    method(views=20, learning_rate=rate)(clf, x, run=tiny.run_for(1))
    f = features_of(clf, x, 20)[0]
    chosen = f[confident(clf.logits(f))]
    prompts = clf.context_prompts()
    p = prompts.initial.clone().requires_grad_()
    text = F.normalize(prompts.encode(p), dim=1)
    gradient = torch.autograd.grad(loss(clf.scale * chosen @ text.T, text), p)[0]
    steep = gradient.abs() > gradient.abs().amax() * 1e-3  # below it rounding decides the sign
    moved = contexts[1] - contexts[0] * (1 - rate * WEIGHT_DECAY)
    assert steep.sum() > 10
    torch.testing.assert_close(
        moved[steep], -rate * gradient.sign()[steep], rtol=0, atol=rate * 1e-2
    )


def test_the_labels_spread_is_their_mean_distance_from_the_centre():
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert spread(text).item() == pytest.approx(2 / 3)
    alike = torch.ones(3, 4, requires_grad=True)
    assert spread(alike).item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(spread(alike), alike)[0].isfinite().all()


# --- SS-TPT --------------------------------------------------------------------------------------


def test_a_view_among_many_is_more_suitable_than_a_lonely_one():
    views = unit(torch.cat([torch.ones(5, 8) + 0.1 * seeded(5, 8), -torch.ones(1, 8)]))
    scores = suitability(views)
    assert scores.argmin() == 5
    distances = torch.cdist(views, views).square()
    torch.testing.assert_close(1 / scores, distances.sum(1) / 5, rtol=1e-3, atol=1e-4)


def test_an_answer_that_survives_is_stable():
    before, after = seeded(3, 6), seeded(3, 6, seed=1)
    after[1] = before[1]
    scores = stability(before, after)
    assert scores.argmax() == 1
    p, q = before[0].softmax(0), after[0].softmax(0)
    m = (p + q) / 2
    expected = 0.5 * ((m * (m / p).log()).sum() + (m * (m / q).log()).sum())
    assert 1 / scores[0].item() == pytest.approx(expected.item(), rel=1e-3)


def test_sure_views_are_compared_without_rounding_getting_in_between():
    lead = 20 + torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    before = torch.cat([lead, torch.zeros(64, 9)], 1)
    after = before + torch.tensor([1e-3] + [0.0] * 9)
    scores = stability(before, after)
    assert (scores > 0).all()
    exact = stability(before.double(), after.double())
    torch.testing.assert_close(scores.double(), exact, rtol=1e-3, atol=0)


def test_scores_are_stretched_to_the_unit_interval():
    torch.testing.assert_close(
        stretched(torch.tensor([1.0, 3.0, 2.0])), torch.tensor([0.0, 1.0, 0.5])
    )
    assert torch.equal(stretched(torch.ones(4)), torch.zeros(4))


def test_the_pull_goes_to_the_other_views_and_not_back(clf):
    """At one view's answer its reference is a constant made of the others: no gradient flows there."""
    f = unit(seeded(8, clf.text_features.shape[1]))
    text = clf.text_features.clone().requires_grad_()
    method, chosen = SSTPT(views=4), torch.tensor([0, 2, 3])
    value = method.objective(clf, clf.with_text(text), f, chosen)
    log_p = clf.with_text(text).logits(f[:4]).log_softmax(1)
    weights = method.trust(clf, f)
    expected = torch.zeros(())
    for i in chosen.tolist():
        others = [j for j in range(4) if j != i]
        reference = (weights[others, None] * log_p[others].detach().exp()).sum(0)
        reference = reference / weights[others].sum()
        expected = expected + entropy(log_p[i]) + (reference * (reference.log() - log_p[i])).sum()
    torch.testing.assert_close(value, expected / 3, rtol=1e-4, atol=1e-5)
    ours, theirs = (
        torch.autograd.grad(v, text, retain_graph=True)[0] for v in (value, expected / 3)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_weak_copies_are_small_changes_that_keep_the_range_and_reach_the_pixels():
    views = tiny.images(6, size=32).requires_grad_()
    weak = weak_copies(views, 2, tiny.run_for(2))
    assert weak.shape == views.shape
    assert weak.min() >= 0
    assert weak.max() <= 1
    assert not torch.equal(weak[0], weak[1])
    grey = torch.full((2, 3, 32, 32), 0.5)
    assert (weak_copies(grey, 2, tiny.run_for(2)) - 0.5).abs().max() < 0.16
    assert torch.autograd.grad(weak.square().sum(), views)[0].abs().sum() > 0


def test_weak_copies_of_an_image_do_not_depend_on_its_neighbours():
    views = tiny.images(4, size=32)
    both = weak_copies(views, 2, tiny.run_for(2))
    alone = weak_copies(views[2:], 1, tiny.run_for(2).select([1]))
    torch.testing.assert_close(both[2:], alone)


# --- T-VSS ---------------------------------------------------------------------------------------


def test_the_fewest_directions_with_nine_tenths_of_the_energy():
    differences = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.1]))
    assert len(main_directions(differences)) == 2  # 9 of 10.26 is 88 %, 10 is 97 %
    basis = main_directions(seeded(9, 20))
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), rtol=0, atol=1e-5)


def test_equal_views_are_not_shifted(clf):
    assert len(main_directions(torch.zeros(5, 8))) == 0
    f = unit(seeded(1, clf.text_features.shape[1])).expand(1, 6, -1)
    method = TVSS(views=6)
    shift = method.adapt(clf, f, tiny.run_for(1))[0]
    assert torch.equal(shift.delta, torch.zeros_like(shift.delta))
    answer = method.vote(clf, f[0], shift).answer
    torch.testing.assert_close(answer.softmax(0), clf.logits(f[0])[0].softmax(0))


def test_the_shift_is_a_step_of_the_rate_along_each_direction_against_the_slope(clf):
    f = unit(seeded(10, clf.text_features.shape[1]))
    shift = TVSS(views=10).adapt(clf, f[None], tiny.run_for(1))[0]
    basis = main_directions(f[1:] - f[0])
    a = (basis @ shift.delta).detach()
    torch.testing.assert_close(a.abs(), torch.full_like(a, 0.1), rtol=0, atol=1e-5)
    torch.testing.assert_close(a @ basis, shift.delta)  # inside the span
    weights = reliability(f, 5, 0.05)
    leaf = torch.zeros(len(basis), requires_grad=True)
    value = (weights * entropy(clf.logits(F.normalize(f + leaf @ basis, dim=1)))).sum()
    assert torch.equal(a.sign(), -torch.autograd.grad(value, leaf)[0].sign())


def test_more_steps_of_the_shift_are_adamws(clf):
    f = unit(seeded(10, clf.text_features.shape[1]))
    shift = TVSS(views=10, steps=3).adapt(clf, f[None], tiny.run_for(1))[0]
    basis, weights = main_directions(f[1:] - f[0]), reliability(f, 5, 0.05)
    leaf = torch.zeros(len(basis), requires_grad=True)
    optimiser = torch.optim.AdamW([leaf], lr=0.1)
    for _ in range(3):
        value = (weights * entropy(clf.logits(F.normalize(f + leaf @ basis, dim=1)))).sum()
        leaf.grad = torch.autograd.grad(value, leaf)[0]
        optimiser.step()
    torch.testing.assert_close(shift.delta, (leaf @ basis).detach(), rtol=1e-3, atol=1e-4)


def test_the_signs_of_the_directions_do_not_matter(clf, monkeypatch):
    from vlmdefense_demo.defenses.test_time import tvss

    f = unit(seeded(8, clf.text_features.shape[1]))[None]
    one = TVSS(views=8).adapt(clf, f, tiny.run_for(1))[0]
    original = tvss.main_directions
    monkeypatch.setattr(tvss, "main_directions", lambda d: -original(d))
    other = TVSS(views=8).adapt(clf, f, tiny.run_for(1))[0]
    torch.testing.assert_close(one.delta, other.delta, rtol=0, atol=1e-6)


def test_probabilities_vote_not_logits(clf):
    x = tiny.images(1)
    out = TVSS(views=5, steps=0)(clf, x, run=tiny.run_for(1))
    f = features_of(clf, x, 5)[0]
    expected = reliability(f, 5, 0.05) @ clf.logits(f).softmax(1)
    torch.testing.assert_close(out.logits[0].softmax(0), expected, rtol=1e-3, atol=1e-4)


def test_no_tower_is_differentiated_and_no_text_is_read(clf):
    with clf.meter.stage() as cost:
        TVSS(views=6, steps=3)(clf, tiny.images(1), run=tiny.run_for(1, 0, clf.meter))
    assert (cost.image_forward, cost.image_backward, cost.text_forward) == (6, 0, 0)


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("views", [2, 3, 16, 64])
def test_any_number_of_views_works(clf, method, views):
    out = method(views=views)(clf, tiny.images(1), run=tiny.run_for(1))
    assert out.logits.isfinite().all()
    assert out.notes[0][-1].title == "weighted votes of the views"


@pytest.mark.parametrize("method", EVERY)
def test_a_picture_of_one_colour_is_answered(clf, method):
    """All views are equal: distances, divergences and differences are zero."""
    flat = torch.full((1, 3, 32, 32), 0.4)
    assert method(views=8)(clf, flat, run=tiny.run_for(1)).logits.isfinite().all()


@pytest.mark.parametrize("method", [*TUNERS, TVSS])
def test_stop_is_honoured_in_the_middle(clf, method):
    seen = []

    def stop():
        seen.append(1)
        return len(seen) > 2

    with pytest.raises(Cancelled):
        method(views=4, steps=3)(clf, tiny.images(1), run=tiny.run_for(1, should_stop=stop))
    assert len(seen) == 3


@pytest.mark.parametrize("method", TUNERS)
def test_a_template_without_words_before_the_label_is_refused(backbone, method):
    clf = tiny.classifier(backbone, template="{} in a photo")
    with pytest.raises(InvalidLabels, match="adapts the words before the label"):
        method()(clf, tiny.images(1), run=tiny.run_for(1))


def test_the_hand_prompt_is_encoded_once_a_request(clf):
    x = tiny.images(1)
    with clf.meter.stage() as first:
        TPT(views=4)(clf, x, run=tiny.run_for(1, 0, clf.meter))
    with clf.meter.stage() as second:
        RTPT(views=4)(clf, x, run=tiny.run_for(1, 0, clf.meter))
    k = len(tiny.LABELS)
    assert (first.text_forward, first.text_backward) == (2 * k, k)
    assert (second.text_forward, second.text_backward) == (k, k)


@pytest.mark.parametrize("method", EVERY)
def test_the_strip_shows_the_views_that_voted(clf, method):
    pair = tiny.images(2)
    out = method(views=5)(clf, pair[1:], run=tiny.run_for(1))
    note = method(views=5).exhibit(clf, pair, 0, run=tiny.run_for(1))[0]
    assert note.kind == "images"
    assert len(note.value) == 5
    total = {}
    for caption, _ in note.value:
        label, share = caption.split(" · ")[:2]
        total[label] = total.get(label, 0) + int(share.rstrip("%"))
    best = max(total, key=total.get)
    said = out.notes[0][-1].value.split(" · ")[0].rsplit(" ", 1)
    assert said[0] == best
    assert abs(int(said[1].rstrip("%")) - total[best]) <= 3


def test_the_strip_marks_the_views_the_prompt_was_tuned_on(clf):
    note = RTPT(views=20).exhibit(clf, tiny.images(2), 0, run=tiny.run_for(1))[0]
    assert sum("tuned on" in caption for caption, _ in note.value) == 2
