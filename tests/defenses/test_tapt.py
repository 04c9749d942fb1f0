"""TAPT: statistics, prompts that start from nothing, and one step on the chosen views."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.multiview import confident, marginal_entropy
from vlmdefense_demo.defenses.test_time.tapt import TAPT, Usual
from vlmdefense_demo.defenses.test_time.tuning import WEIGHT_DECAY
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.models.border import edge
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.statistics import Moments, Stream, distance, moments, stored
from vlmdefense_demo.models.variants import load_learned

EVERY_TOWER = pytest.mark.parametrize("tower", ["vit", "resnet", "causal", "bidirectional"])


def answer(clf, x, **settings):
    method = TAPT(**{"views": 4, "learning_rate": 0.01} | settings)
    return method(clf, x, run=tiny.run_for(len(x)))


def usual(clf):
    tensors = load_learned(clf.backbone, "tapt")
    return Usual(stored(tensors, "clean"), stored(tensors, "robust"))


def expand(prompt, n):
    return prompt.expand(n, *prompt.shape)


def views_of(clf, x, n):
    """The views a call draws, and which of them it chooses."""
    views = random_views(x, n, tiny.run_for(1).child("views"))
    return views, confident(clf(views))


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- statistics ----------------------------------------------------------------------------------


def test_a_stream_agrees_with_all_samples_at_once():
    samples = 100 + seeded(23, 5, 3)
    stream = Stream()
    for part in samples.split([1, 7, 2, 13]):
        stream.add([part, 2 * part[:, 0]])
    found = stream.moments()
    torch.testing.assert_close(found.mean[0], samples.mean(0))
    torch.testing.assert_close(found.variance[0], samples.var(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.variance[1], 4 * samples[:, 0].var(0), rtol=1e-4, atol=1e-6)


def test_moments_of_a_few_samples_are_biased_and_of_one_are_zero():
    samples = seeded(4, 3)
    torch.testing.assert_close(moments([samples]).variance[0], samples.var(0) * 3 / 4)
    assert moments([samples[:1]]).variance[0].eq(0).all()


def test_the_distance_of_equal_statistics_is_nothing_and_else_half_of_each_difference():
    a = moments([seeded(4, 3), seeded(4, 6)])
    assert distance(a, a) == 0
    higher = replace(a, mean=tuple(m + 1 for m in a.mean))
    wider = replace(higher, variance=tuple(v - 3 for v in a.variance))
    assert float(distance(higher, a)) == pytest.approx(0.5)
    assert float(distance(wider, a)) == pytest.approx(2.0)


def test_every_layer_counts_the_same_however_wide():
    a = Moments((torch.zeros(2), torch.zeros(200)), (torch.zeros(2), torch.zeros(200)))
    b = replace(a, mean=(torch.ones(2), torch.zeros(200)))
    assert float(distance(a, b)) == pytest.approx(0.25)


def test_moments_come_back_from_their_file_in_the_order_of_the_layers():
    a = moments([seeded(4, 3, seed=i) for i in range(12)])
    back = stored(a.tensors("clean") | a.tensors("robust"), "clean")
    assert all(torch.equal(p, q) for p, q in zip(a.mean, back.mean, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(a.variance, back.variance, strict=True))


# --- prompts -------------------------------------------------------------------------------------


@EVERY_TOWER
def test_without_a_prompt_a_watched_pass_is_the_plain_one(backbones, tower):
    clf = tiny.classifier(backbones[tower])
    x = tiny.images_for(backbones[tower], 3)
    features, _ = clf.encode_watched(x, expand(clf.backbone.blank_prompt(), 3))
    assert torch.equal(features, clf.encode_image(x))


@EVERY_TOWER
def test_no_step_is_plain_clip(backbones, tower):
    clf = tiny.classifier(backbones[tower])
    x = tiny.images_for(backbones[tower], 3)
    assert torch.equal(answer(clf, x, steps=0).logits, clf(x))
    assert not torch.equal(answer(clf, x).logits, clf(x))


def test_a_transformer_is_watched_where_tokens_enter_its_blocks(backbone):
    x, prompts = tiny.images(2), seeded(2, 2, 32)
    _, layers = backbone.encode_watched(x, prompts)
    tokens = 1 + (32 // 8) ** 2
    assert [layer.shape for layer in layers] == [(2, tokens, 32)] * 2
    _, plain = backbone.encode_watched(x, torch.zeros_like(prompts))
    entered = layers[0] - plain[0]
    torch.testing.assert_close(entered, prompts[:, :1].expand(-1, tokens, -1), rtol=0, atol=1e-5)


def test_other_towers_get_a_frame_and_are_watched_a_channel(backbones):
    backbone = backbones["resnet"]
    x, prompts = tiny.images_for(backbone, 2), torch.ones(2, 3, 64, 64)
    features, layers = backbone.encode_watched(x, prompts)
    assert [layer.shape[1] for layer in layers] == [32, 64, 128, 256]
    std = torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1)
    framed = backbone.encode_image(x + edge(64) * std)
    torch.testing.assert_close(features, framed, rtol=1e-4, atol=1e-4)


def test_at_most_nine_blocks_are_prompted_and_watched():
    from vlmdefense_demo.models.visual_prompts import blank, watch

    tower = tiny.seeded_model("vit").visual
    blocks = tower.transformer.resblocks
    tower.transformer.resblocks = torch.nn.ModuleList([*blocks] * 6)
    zero = blank(tower, 32)
    assert zero.shape == (9, 32)
    assert len(watch(tower, tiny.images(2), expand(zero, 2))[1]) == 9


# --- the step ------------------------------------------------------------------------------------


def gradient(clf, views, picked, method):
    """Of the loss of some of the views that all went through the model."""
    leaf = clf.backbone.blank_prompt().requires_grad_()
    f, layers = clf.encode_watched(views, expand(leaf, len(views)))
    own, both = moments([layer[picked] for layer in layers]), usual(clf)
    loss = marginal_entropy(clf.logits(f[picked]))
    loss = loss + method.alignment * method.gamma * distance(own, both.robust)
    loss = loss + method.alignment * (1 - method.gamma) * distance(own, both.clean)
    return torch.autograd.grad(loss, leaf)[0]


def test_choosing_first_gives_the_gradient_of_all_views(clf):
    x, method = tiny.images(1), TAPT(views=20)
    views, picked = views_of(clf, x, 20)
    whole = gradient(clf, views, picked, method)
    few = gradient(clf, views[picked], slice(None), method)
    torch.testing.assert_close(few, whole, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("alignment", [0.0, 0.1, 5.0])
def test_the_answer_worked_out_by_hand(clf, alignment):
    """The first step of AdamW from zero: each number moves by the rate; the image answers alone."""
    x, method = tiny.images(1), TAPT(views=20, gamma=0.3, alignment=alignment, learning_rate=0.01)
    views, picked = views_of(clf, x, 20)
    prompt = -0.01 * gradient(clf, views[picked], slice(None), method).sign()
    expected = clf.logits(clf.encode_watched(x, prompt[None])[0])
    out = method(clf, x, run=tiny.run_for(1))
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-4)


def test_a_frame_moves_by_forty_times_the_rate_at_the_edge_only(backbones):
    clf = tiny.classifier(backbones["resnet"])
    x = tiny.images_for(clf.backbone)
    prompts, _ = TAPT(views=4)._prompts(clf, x, tiny.run_for(1))
    inside = edge(64)[0] == 0
    assert prompts[0][inside].eq(0).all()
    assert prompts.abs().max() == pytest.approx(0.02, rel=1e-3)


def test_several_steps_are_torchs_adamw(clf):
    x, rate = tiny.images(1), 0.01
    method = TAPT(views=4, steps=3, learning_rate=rate)
    views, picked = views_of(clf, x, 4)
    p = clf.backbone.blank_prompt().requires_grad_()
    theirs = torch.optim.AdamW([p], lr=rate, weight_decay=WEIGHT_DECAY)
    for _ in range(3):
        entropy, away = method._loss(clf, views[picked], p, usual(clf))
        theirs.zero_grad()
        (entropy + method.alignment * away).backward()
        theirs.step()
    prompts, _ = method._prompts(clf, x, tiny.run_for(1))
    torch.testing.assert_close(prompts[0], p.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alignment", [0.0, 100.0])
def test_a_small_step_lowers_what_it_should(clf, alignment):
    for image in tiny.images(4).split(1):
        out = answer(clf, image, steps=2, learning_rate=1e-4, alignment=alignment)
        entropies, distances = (note.value for note in out.notes[0][:2])
        first, second = (h + alignment * d for h, d in zip(entropies, distances, strict=True))
        assert second < first


def test_gamma_goes_from_the_clean_statistics_to_the_robust_ones(clf):
    x, both = tiny.images(2), usual(clf)
    blank = clf.backbone.blank_prompt()
    own = moments(clf.encode_watched(x, expand(blank, 2))[1])
    for gamma, statistics in ((0.0, both.clean), (1.0, both.robust)):
        away = TAPT(gamma=gamma)._loss(clf, x, blank, both)[1]
        torch.testing.assert_close(away, distance(own, statistics))
    assert TAPT()._loss(clf, x, blank, Usual(own, own))[1] == 0


def test_every_image_starts_from_the_same_prompt_whatever_came_before(clf):
    """The authors' code goes back to other prompts than it started from; here nothing is kept."""
    a, b = tiny.images(2).split(1)
    first = answer(clf, b).logits
    assert not torch.equal(answer(clf, a).logits, first)
    assert torch.equal(answer(clf, b).logits, first)


@EVERY_TOWER
def test_no_trace_is_left_in_the_folded_tower_either(backbones, tower, monkeypatch):
    backbone = backbones[tower]
    clf, x = tiny.classifier(backbone), tiny.images_for(backbone, 2)
    with tiny.no_trace(backbone.model, backbone._tower):
        answer(clf, x)
    failing = tiny.fails_at(2, ZeroShotClassifier.encode_watched)
    monkeypatch.setattr(ZeroShotClassifier, "encode_watched", failing)
    with tiny.no_trace(backbone.model, backbone._tower), pytest.raises(tiny.Boom):
        answer(clf, x)


@pytest.mark.parametrize(("views", "steps"), [(2, 0), (4, 1), (30, 2)])
def test_the_gradient_is_paid_for_the_chosen_views_only(clf, views, steps):
    n = max(2, round(0.1 * views))
    with clf.meter.stage() as cost:
        answer(clf, tiny.images(2), views=views, steps=steps)
    assert cost.image_forward == 2 * (views + n * steps + 1)
    assert cost.image_backward == 2 * n * steps


def test_the_attacker_tunes_anew_every_fifth_call(clf):
    x = tiny.images(1)
    target = TAPT(views=4, learning_rate=0.01).surrogate(clf, tiny.run_for(1))
    answers = [target(x) for _ in range(6)]
    assert all(torch.equal(a, answers[0]) for a in answers[:5])
    assert not torch.equal(answers[5], answers[0])
    with clf.meter.stage() as cost:
        target(x)
    assert (cost.image_forward, cost.image_backward) == (1, 0)


def test_a_model_without_statistics_is_refused_before_any_pass(clf, monkeypatch):
    monkeypatch.setattr(TAPT, "weights", "nothing")
    with clf.meter.stage() as cost, pytest.raises(MissingWeights):
        answer(clf, tiny.images(1))
    assert cost.image_forward == 0
