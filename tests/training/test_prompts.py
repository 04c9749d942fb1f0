"""Learning the words of a prompt: what is trained, against whom, and what it may cost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.attacks.features import Embedding
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.defenses.training_time.advpt import AdvPT
from vlmdefense_demo.defenses.training_time.apt import APT
from vlmdefense_demo.errors import Cancelled, InvalidLabels, InvalidParameter, MethodFailed
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.training import prompts
from vlmdefense_demo.training.ascent import climb
from vlmdefense_demo.training.objective import Batch
from vlmdefense_demo.training.photos import centre_crop
from vlmdefense_demo.training.prompts import (
    Lesson,
    PromptRecipe,
    adversarial_bank,
    train_advpt,
    train_apt,
)
from vlmdefense_demo.training.tecoa import TeCoAObjective
from vlmdefense_demo.training.tower import Course, TowerRecipe, fine_tune
from vlmdefense_demo.types import Goal

CLASSES = ("0", "1", "2", "3")
FEW = PromptRecipe(n_ctx=4, epochs=2, batch=8, eps=2 / 255, learning_rate=0.05)
TRAINERS = {"apt": train_apt, "advpt": train_advpt}
each = pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)


@pytest.fixture
def lesson(backbone, patterns):
    return Lesson(tiny.classifier(backbone, CLASSES), patterns[:12])


# --- the prompt learner --------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_learned_words_equal_to_the_templates_are_the_zero_shot_classifier(backbones, name):
    words = tiny.classifier(backbones[name]).context_prompts().initial  # "a photo of a"
    clf = tiny.classifier(backbones[name], learned={"advpt": LearnedContext(words)})
    x = tiny.images_for(backbones[name], 2)
    out = AdvPT()(clf, x, run=tiny.run_for(2)).logits
    torch.testing.assert_close(out, clf(x), rtol=1e-4, atol=1e-4)


def test_apt_stands_on_the_tower_it_was_learned_with(clf):
    learned = clf.learned_context("apt")
    assert learned.tower == "tecoa"
    x = tiny.images(2)
    text = clf.encode_context(clf.placeholder_prompts(4), learned.context)
    robust = clf.with_backbone(load_twin(clf.backbone, "tecoa"))
    expected = clf.scale * robust.encode_image(x) @ text.T
    torch.testing.assert_close(APT()(clf, x, run=tiny.run_for(2)).logits, expected)


def test_apt_keeps_its_tower_when_a_stronger_one_comes(backbone):
    x, words = tiny.images(2), torch.randn(2, 16, generator=torch.Generator().manual_seed(8))

    def answer(eps):
        learned = {"apt": LearnedContext(words, "tecoa", tower_eps=eps)}
        return APT()(tiny.classifier(backbone, learned=learned), x, run=tiny.run_for(2)).logits

    assert torch.equal(answer(0), answer(3)), "the largest there is"
    assert not torch.allclose(answer(2), answer(3))


def test_a_requests_own_prompt_goes_before_the_shipped_one(clf):
    x = tiny.images(1)
    shipped = AdvPT()(clf, x, run=tiny.run_for(1))
    words = torch.randn(2, 16, generator=torch.Generator().manual_seed(8))
    own = LearnedContext(words, notes=shipped.notes[0][:1])
    mine = AdvPT()(tiny.classifier(clf.backbone, learned={"advpt": own}), x, run=tiny.run_for(1))
    assert not torch.allclose(mine.logits, shipped.logits)
    assert mine.notes == (shipped.notes[0][:1],)
    assert torch.equal(AdvPT()(tiny.classifier(clf.backbone), x, run=tiny.run_for(1)).logits, shipped.logits)  # fmt: skip


def test_a_label_that_does_not_fit_behind_the_learned_words_is_a_sentence(backbone):
    labels = ("cat", "a b c d e f g h i j k l m n o p q")
    clf = tiny.classifier(backbone, labels, learned={"apt": LearnedContext(torch.zeros(8, 16))})
    with pytest.raises(InvalidLabels, match="tokens"):
        APT()(clf, tiny.images(1), run=tiny.run_for(1))


def test_the_learned_words_are_encoded_once_a_request(clf):
    costs = []
    for _ in range(2):
        with clf.meter.stage() as cost:
            APT()(clf, tiny.images(1), run=tiny.run_for(1))
        costs.append((cost.image_forward, cost.text_forward))
    assert costs == [(1, len(tiny.LABELS)), (1, 0)]


# --- training ------------------------------------------------------------------------------------


@each
def test_only_the_words_are_trained(train, lesson):
    with tiny.no_trace(lesson.clf.backbone.model):
        trained = train(lesson, FEW, tiny.run_for())
    assert trained.context.shape == (4, 16)
    assert not trained.context.requires_grad
    assert len(trained.losses) == FEW.epochs
    assert all(p.grad is None for p in lesson.clf.backbone.model.parameters())


@each
def test_the_same_seed_learns_the_same_words(train, lesson):
    one, two, other = (train(lesson, FEW, tiny.run_for(seed=s)).context for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@each
def test_a_killed_training_continues_to_the_same_words(train, lesson, tmp_path):
    recipe = dataclasses.replace(FEW, save_every=1)
    whole = train(lesson, recipe, tiny.run_for())
    polls = 3 if train is train_apt else 5
    with pytest.raises(Cancelled):
        train(lesson, recipe, tiny.run_for(should_stop=tiny.stops_at(polls)), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 2
    again = train(lesson, recipe, tiny.run_for(), tmp_path / "a.pt")
    torch.testing.assert_close(again.context, whole.context)
    assert again.losses == pytest.approx(whole.losses)
    done = train(lesson, recipe, tiny.run_for(), tmp_path / "a.pt")
    assert torch.equal(done.context, again.context)
    assert done.losses == again.losses


@each
def test_a_checkpoint_of_another_lesson_is_refused(train, lesson, tmp_path):
    recipe = dataclasses.replace(FEW, epochs=1)
    train(lesson, recipe, tiny.run_for(), tmp_path / "a.pt")
    fewer = dataclasses.replace(lesson, photos=lesson.photos[1:])
    with pytest.raises(InvalidParameter, match="another set of photos"):
        train(fewer, recipe, tiny.run_for(), tmp_path / "a.pt")
    with pytest.raises(InvalidParameter, match="another recipe"):
        train(lesson, FEW, tiny.run_for(), tmp_path / "a.pt")


def test_apt_costs_one_text_pass_a_step_and_seven_image_passes_a_photo(lesson):
    cost = train_apt(lesson, FEW, tiny.run_for()).cost
    visits, steps = 2 * 12, 2 * 2
    assert (cost.image_forward, cost.image_backward) == (4 * visits, 3 * visits)
    assert (cost.text_forward, cost.text_backward) == (4 * steps, 4 * steps)


def test_apts_text_is_the_one_of_the_current_words_at_every_attack_step(lesson, monkeypatch):
    """Encoding it once a step is exact: the words do not change inside an attack."""
    texts = []

    def watched(value, x, delta, eps, step_size, steps):
        texts.append(value.__closure__)
        assert step_size * steps >= 2 * eps
        return climb(value, x, delta, eps, step_size, steps)

    monkeypatch.setattr(prompts, "climb", watched)
    train_apt(lesson, FEW, tiny.run_for())
    assert len(texts) == 2 * 2


def test_advpt_never_looks_at_a_picture_again_once_the_bank_is_full(lesson):
    one = train_advpt(lesson, FEW, tiny.run_for()).cost
    more = train_advpt(lesson, dataclasses.replace(FEW, epochs=7), tiny.run_for()).cost
    per_photo = FEW.attack_steps + 2
    assert one.image_forward == more.image_forward == per_photo * 12
    assert one.image_backward == more.image_backward == FEW.attack_steps * 12
    assert more.text_forward > one.text_forward


def test_the_bank_belongs_to_its_labels_whatever_the_order(lesson, monkeypatch):
    """With a bank that is the photo's own number, every step reads the matching labels."""
    bank = F.normalize(torch.eye(12, 24), dim=1)
    monkeypatch.setattr(prompts, "adversarial_bank", lambda *a: bank)
    seen = []
    cross_entropy = F.cross_entropy

    def watched(logits, y, **more):
        seen.append((logits.shape[0], y.tolist()))
        return cross_entropy(logits, y, **more)

    monkeypatch.setattr(F, "cross_entropy", watched)
    rows = []
    original = prompts._rows
    monkeypatch.setattr(prompts, "_rows", lambda *a: rows.append(original(*a)) or rows[-1])
    train_advpt(lesson, FEW, tiny.run_for())
    for (_, labels), chosen in zip(seen, rows, strict=True):
        assert labels == [int(lesson.photos[i].label) for i in chosen]
    assert sorted(rows[0] + rows[1]) == list(range(12))
    assert rows[:2] != rows[2:]


def test_the_banks_attack_starts_above_zero_and_moves_the_embedding(lesson):
    run = lesson.run(tiny.run_for()).child("bank")
    x = torch.stack([centre_crop(p.open(), 32) for p in lesson.photos])
    start = run.uniform(x, 0, FEW.eps)
    assert start.min() >= 0
    clean = lesson.clf.encode_image(x, normalize=False).detach()
    bank = adversarial_bank(lesson, FEW, run)
    drift = 1 - F.cosine_similarity(bank, clean)
    noise = 1 - F.cosine_similarity(lesson.clf.encode_image((x + start).clamp(0, 1)), clean)
    assert drift.mean() > 2 * noise.mean()
    torch.testing.assert_close(divergence(clean, clean), torch.zeros(12))


def test_a_loss_that_is_not_finite_ends_the_training(lesson):
    wild = dataclasses.replace(FEW, learning_rate=1e30, epochs=6)
    with pytest.raises(MethodFailed, match="not finite"):
        train_advpt(lesson, wild, tiny.run_for())


def prompted(backbone, method, words):
    """A classifier whose prompt for a method are these words."""
    return tiny.classifier(backbone, CLASSES, learned={method: LearnedContext(words)})


def accuracy(defence, clf, x, y, attack=None, target=None):
    """Share right, on clean images or after an attack on `target` (default: the defence)."""

    def deployed(z):
        return defence(clf, z, run=tiny.run_for(len(z))).logits

    goal = Goal(y, features=clf.text_features[y])
    if attack is not None:
        x = attack(target or deployed, x, goal, run=tiny.run_for(len(x)))
    return float((deployed(x).argmax(1) == y).float().mean())


def test_apt_raises_the_accuracy_under_attack_on_a_robust_tower(backbones, patterns, tmp_path):
    """From words that say nothing, against an attacker who knows the words as they stand."""
    backbone = backbones["causal"]
    text = F.normalize(torch.randn(4, 24, generator=torch.Generator().manual_seed(5)), dim=1)
    recipe = TowerRecipe(steps=90, batch=16, size=32, ramp=1e-9, eps=2 / 255, learning_rate=1e-3)
    course = Course(backbone, patterns, text, recipe, tmp_path / "tower.pt")
    tower = backbone.with_visual(fine_tune(course, TeCoAObjective()), "tecoa")
    x = torch.stack([centre_crop(p.open(), 32) for p in patterns])
    y = Batch(x, backbone, text).labels
    named = [dataclasses.replace(p, label=str(int(k))) for p, k in zip(patterns, y, strict=True)]
    how = dataclasses.replace(FEW, epochs=20, eps=1 / 255, batch=16, learning_rate=0.2)
    trained = train_apt(Lesson(tiny.classifier(tower, CLASSES), named), how, tiny.run_for())
    start = tiny.classifier(tower, CLASSES).context_prompts().initial
    before, after = (
        accuracy(APT(), prompted(tower, "apt", words), x, y, PGD(1 / 255, 10))
        for words in (start, trained.context)
    )
    assert after >= before + 0.2, (before, after)
    assert trained.losses[-1] < trained.losses[0] - 0.1


def test_advpt_helps_against_the_attacker_who_does_not_know_the_words(backbones, patterns):
    """The published evaluation; one who knows the words takes it back."""
    clf = tiny.classifier(backbones["causal"], CLASSES)
    x = torch.stack([centre_crop(p.open(), 32) for p in patterns])
    y = torch.tensor([int(p.label) for p in patterns])
    how = dataclasses.replace(FEW, epochs=30, eps=1 / 255, attack_steps=10, batch=64)
    trained = train_advpt(Lesson(clf, patterns), how, tiny.run_for())
    plain = prompted(clf.backbone, "advpt", clf.context_prompts().initial)
    learned = prompted(clf.backbone, "advpt", trained.context)
    blind = Embedding(1 / 255, 10)
    before = accuracy(AdvPT(), plain, x, y, blind, plain)
    after = accuracy(AdvPT(), learned, x, y, blind, learned)
    assert after >= before + 0.15, (before, after)
    assert accuracy(AdvPT(), learned, x, y, PGD(1 / 255, 10)) < after


def test_steps_that_reach_twice_eps_end_in_the_corner_from_any_start():
    """A linear value is climbed to the corner, from any start, by steps that reach it."""
    x = torch.full((1, 3, 4, 4), 0.5)
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    delta = torch.full_like(x, 0.01)
    out = climb(lambda z: (z * weight).sum((1, 2, 3)), x, delta, 0.01, 0.01, 2)
    torch.testing.assert_close(out, x + 0.01 * weight.sign())
    short = climb(lambda z: (z * weight).sum((1, 2, 3)), x, delta, 0.01, 0.004, 2)
    assert not torch.allclose(short, out)
