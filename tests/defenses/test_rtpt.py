"""R-TPT: who is trusted, what is tuned, and the step itself in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses import multiview
from vlmdefense_demo.defenses.multiview import KEEP, confident, entropy
from vlmdefense_demo.defenses.test_time.rtpt import NEIGHBOURS, RTPT, TEMPERATURE
from vlmdefense_demo.defenses.test_time.tuning import WEIGHT_DECAY
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.speed.published import rtpt_as_published


def unit(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def reliability(features):
    return multiview.reliability(features, NEIGHBOURS, TEMPERATURE)


def view_features(clf, x, n):
    """The features RTPT works on, made the way its docstring says."""
    views = random_views(x, n, tiny.run_for(len(x)).child("views"))
    return clf.encode_image(views).unflatten(0, (len(x), n))


@pytest.fixture
def contexts(monkeypatch):
    """Every context RTPT encodes, in order."""
    seen = []
    original = ZeroShotClassifier.encode_context

    def spy(self, prompts, context):
        seen.append((prompts, context.detach().clone()))
        return original(self, prompts, context)

    monkeypatch.setattr(ZeroShotClassifier, "encode_context", spy)
    return seen


@pytest.mark.parametrize("n", [2, 3, 16, 20, 21, 64])
def test_weights_are_positive_and_sum_to_one(n):
    weights = reliability(unit(n))
    assert weights.shape == (n,)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_equal_views_are_equally_reliable():
    weights = reliability(unit(1).expand(8, -1))
    torch.testing.assert_close(weights, torch.full((8,), 1 / 8))


def test_a_view_does_not_count_as_its_own_neighbour():
    """Orthogonal views: each has cosine 0 to all others, and 1 only to itself."""
    weights = reliability(torch.eye(6))
    torch.testing.assert_close(weights, torch.full((6,), 1 / 6))
    lonely = reliability(F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0.1], [0, 1, -0.1]]), dim=1))
    assert lonely[0] < 1e-6


def test_an_exact_twin_counts():
    """Views 0 and 1 are the same vector: rounding above or below 1 must not drop the pair."""
    for seed in range(20):
        features = unit(5, seed=seed)
        features[1] = features[0]
        without_mask = features @ features.T
        expected = (without_mask.sum(1) - without_mask.diagonal()) / 4
        torch.testing.assert_close(
            reliability(features), (expected / 0.01).softmax(0), rtol=1e-3, atol=1e-5
        )


def test_only_the_twenty_nearest_neighbours_count():
    features = F.normalize(torch.cat([torch.eye(30)[:1] + 0.05 * unit(22, 30), -torch.eye(30)]))
    similarity = features @ features.T
    similarity.fill_diagonal_(-torch.inf)
    expected = (similarity.topk(20, dim=1).values.mean(1) / 0.01).softmax(0)
    torch.testing.assert_close(reliability(features), expected)


def test_a_far_outlier_is_ignored():
    features = F.normalize(torch.ones(10, 8) + 0.05 * unit(10, 8), dim=1)
    features[3] = -features[3]
    assert reliability(features)[3] < 1e-6


def test_reliability_follows_the_order_of_the_views():
    features, order = unit(12), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reliability(features[order]), reliability(features)[order])


@pytest.mark.parametrize(
    ("n", "count"), [(2, 2), (8, 2), (16, 2), (20, 2), (25, 2), (30, 3), (64, 6)]
)
def test_the_most_confident_tenth_but_at_least_two_views_are_kept(n, count):
    logits = 5 * torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    chosen = confident(logits, KEEP)
    assert len(chosen) == count
    assert set(chosen.tolist()) == set(entropy(logits).argsort()[:count].tolist())


def test_entropy_in_nats():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(logits), torch.tensor([4.0, 1.0]).log(), atol=1e-6, rtol=0)
    assert entropy(torch.tensor([[1e4, -1e4]])).isfinite().all()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_without_steps_it_is_the_hand_prompts_ensemble(backbones, name):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 2)
    out = RTPT(views=8, steps=0)(clf, x, run=tiny.run_for(2))
    rows = [reliability(f) @ clf.logits(f) for f in view_features(clf, x, 8)]
    torch.testing.assert_close(out.logits, torch.stack(rows), rtol=1e-4, atol=1e-3)


def test_the_first_step_is_adamw_in_closed_form(clf, contexts):
    x, rate = tiny.images(1), 0.01
    out = RTPT(views=16, learning_rate=rate)(clf, x, run=tiny.run_for(1))
    (prompts, initial), (_, tuned) = contexts
    features = view_features(clf, x, 16)[0]
    chosen = features[confident(clf.logits(features), KEEP)]
    p = initial.clone().requires_grad_()
    text = F.normalize(prompts.encode(p), dim=1)
    loss = entropy(clf.scale * chosen @ text.T).mean()
    assert out.notes[0][0].value[0] == pytest.approx(loss.item(), rel=1e-3)
    gradient = torch.autograd.grad(loss, p)[0]
    expected = initial * (1 - rate * WEIGHT_DECAY) - rate * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(tuned, expected, rtol=0, atol=1e-5)
    assert (tuned - initial).abs().max() <= rate * (1 + WEIGHT_DECAY * initial.abs().max()) + 1e-6
    assert ((tuned - initial).abs() > rate / 2).any()


def test_every_image_starts_from_the_hand_prompt(clf, contexts):
    RTPT(views=4, learning_rate=0.05)(clf, tiny.images(3), run=tiny.run_for(3))
    (prompts, initial), *tuned = contexts  # the hand prompt is encoded once for all
    assert torch.equal(initial, prompts.initial)
    assert len(tuned) == 3
    assert not torch.equal(tuned[0][1], tuned[1][1])
    contexts.clear()
    RTPT(views=4, learning_rate=0.05)(clf, tiny.images(3)[:1], run=tiny.run_for(1))
    assert torch.equal(contexts[0][1], tuned[0][1])  # nothing is left of the others


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_tuning_lowers_the_entropy_for_a_small_rate(backbones, name, steps):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 3)
    out = RTPT(views=8, steps=steps, learning_rate=1e-4)(clf, x, run=tiny.run_for(3))
    for notes in out.notes:
        series = notes[0].value
        assert len(series) == steps + 1
        assert all(later < earlier for earlier, later in pairwise(series))


@pytest.mark.parametrize("views", [2, 8, 16, 20, 64])
def test_every_view_is_encoded_exactly_once(clf, views, monkeypatch):
    batches = []
    original = ZeroShotClassifier.encode_image
    monkeypatch.setattr(
        ZeroShotClassifier,
        "encode_image",
        lambda self, x, **k: batches.append(len(x)) or original(self, x, **k),
    )
    out = RTPT(views=views)(clf, tiny.images(1), run=tiny.run_for(1))
    assert sum(batches) == views
    assert out.logits.isfinite().all()


def test_the_answer_is_a_convex_combination_of_the_views_answers(clf):
    x = tiny.images(1)
    out = RTPT(views=8, steps=0)(clf, x, run=tiny.run_for(1))
    logits = clf.logits(view_features(clf, x, 8)[0])
    assert (out.logits[0] >= logits.amin(0) - 1e-4).all()
    assert (out.logits[0] <= logits.amax(0) + 1e-4).all()


def test_notes_say_how_the_views_voted(clf):
    notes = RTPT(views=8)(clf, tiny.images(1), run=tiny.run_for(1)).notes[0]
    moved, votes = notes[1].value, notes[2].value
    assert 0 < moved < 1
    assert any(label in votes for label in tiny.LABELS)


def test_a_template_without_a_prefix_is_refused(backbone):
    clf = tiny.classifier(backbone, template="{} in a photo")
    with pytest.raises(InvalidLabels, match="adapts the words before the label"):
        RTPT()(clf, tiny.images(1), run=tiny.run_for(1))


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("views", [2, 16, 64])
def test_a_quarter_of_the_published_codes_passes_gives_the_same_logits(backbones, name, views):
    clf, x = tiny.classifier(backbones[name]), tiny.images_for(backbones[name], 1)
    pictures = random_views(x, views, tiny.run_for(1).child("views"))
    with clf.meter.stage() as published:
        theirs = rtpt_as_published(clf, pictures)
    with clf.meter.stage() as own:
        ours = RTPT(views=views)(clf, x, run=tiny.run_for(1)).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    k = len(tiny.LABELS)
    assert (published.image_forward, published.text_forward) == (4 * views + 1, 5 * k)
    assert (own.image_forward, own.text_forward, own.text_backward) == (views, 2 * k, k)
