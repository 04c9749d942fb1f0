"""FAP: its loss against closed forms, what it may change, and that a short training helps."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer

from tests import tiny
from tests.training.conftest import jpeg
from vlmdefense_demo.__main__ import main
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.defenses.training_time.fap import FAP
from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.variants import Variant, find, forget_models, write_variant
from vlmdefense_demo.training.fap import (
    FAPObjective,
    FAPRecipe,
    FewShots,
    LabelledBatch,
    Prompted,
    closeness,
)
from vlmdefense_demo.training.photos import centre_crop
from vlmdefense_demo.training.schedule import epoch_cosine
from vlmdefense_demo.training.tower import _attack, train
from vlmdefense_demo.types import Goal

NAMES = ("0", "1", "2", "3")
EPS = 8 / 255


@pytest.fixture
def student(backbone):
    return Prompted(backbone, NAMES)


@pytest.fixture
def batch(student):
    return batch_of(student)


def batch_of(student, n=4):
    return LabelledBatch(tiny.images(n), student, student.classes(), torch.arange(n) % len(NAMES))


def small(**more):
    return FAPRecipe(**{"eps": EPS, "size": 32, "batch": 16, "steps": 6, "per_epoch": 2} | more)


def learn(student, photos, recipe, path, objective=None):
    train(student, student.prompts, FewShots(student, photos, recipe, path), objective or FAPObjective())  # fmt: skip


@dataclass
class Fixed:
    """A student whose features are given: the clean ones, then the attacked ones."""

    features: torch.Tensor
    logit_scale: float = 10.0

    def encode_image(self, x):
        return self.features


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cosine", "weight"), [(1.0, 2.0), (0.0, 1.0), (-1.0, 0.0)])
def test_the_divergence_weighs_nothing_to_twice_with_the_cosine(cosine, weight):
    z = torch.tensor([[2.0, 0.0]])
    other = 3 * torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])
    torch.testing.assert_close(closeness(z, other), torch.tensor([weight]))


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi])
def test_the_loss_in_closed_form(angle):
    """Two classes along the axes: every probability is a logistic function."""
    z = torch.tensor([[math.cos(0.3), math.sin(0.3)]])
    w = torch.tensor([[math.cos(0.3 + angle), math.sin(0.3 + angle)]])
    student = Fixed(torch.cat([2 * z, 5 * w]))
    batch = LabelledBatch(torch.zeros(1, 3, 2, 2), student, torch.eye(2), torch.tensor([1]))
    p, q = (1 / (1 + math.exp(10 * float(r[0, 1] - r[0, 0]))) for r in (z, w))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected = -math.log(1 - p) + 1.5 * kl * (math.cos(angle) + 1)
    loss = FAPObjective().loss(student, batch.images, batch)
    assert loss.shape == (1,)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_without_a_change_the_adversarial_term_is_zero(student, batch):
    loss = FAPObjective().loss(student, batch.images, batch)
    logits = batch.logits(student.encode_image(batch.images))
    expected = F.cross_entropy(logits, batch.known, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        FAPObjective().attack(student, batch.images, batch), torch.zeros(4), rtol=0, atol=1e-4
    )


def test_answers_are_at_the_models_own_scale_and_labels_are_the_photos(student, batch, backbone):
    z = F.normalize(student.encode_image(batch.images), dim=1)
    expected = backbone.logit_scale * z @ student.classes().T
    torch.testing.assert_close(batch.logits(student.encode_image(batch.images)), expected)
    assert torch.equal(batch.labels, torch.tensor([0, 1, 2, 3]))


def test_nothing_is_held_constant_in_the_loss(student, batch):
    """Against the same formula written out, in which every term has its gradient."""
    attacked = tiny.images(4, seed=1)

    def written_out():
        t = student.classes()
        z, w = (student.encode_image(x) for x in (batch.images, attacked))
        p, q = (F.log_softmax(student.logit_scale * F.normalize(v, dim=1) @ t.T, 1) for v in (z, w))
        kl = F.kl_div(q, p, log_target=True, reduction="none").sum(1)
        return F.nll_loss(p, batch.known) + 1.5 * (kl * (F.cosine_similarity(z, w) + 1)).mean()

    loss = FAPObjective().loss(student, attacked, batch).mean()
    torch.testing.assert_close(loss, written_out())
    weights = list(student.prompts.parameters())
    mine, theirs = (torch.autograd.grad(v, weights) for v in (loss, written_out()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_the_gradient_reaches_all_prompts_of_both_towers(student, batch):
    loss = FAPObjective().loss(student, tiny.images(4, seed=1), batch).mean()
    named = dict(student.prompts.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    for name, gradient in zip(named, gradients, strict=True):
        assert (gradient.flatten(1) if gradient.dim() > 1 else gradient).norm() > 0, name
    by_name = dict(zip(named, gradients, strict=True))
    assert (by_name["image"].norm(dim=2) > 0).all()
    assert (by_name["context"].norm(dim=1) > 0).all()


# --- the attack ----------------------------------------------------------------------------------


def test_the_attack_raises_the_divergence_inside_the_ball_and_repeats_itself(student, batch):
    student.prompts.requires_grad_(False)
    out = _attack(student, batch, FAPObjective(), small(), 0)
    assert (out - batch.images).abs().max() <= EPS + 1e-6
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, _attack(student, batch, FAPObjective(), small(), 0))
    start = _attack(student, batch, FAPObjective(), small(attack_steps=1, eps=1e-6), 0)
    values = [FAPObjective().attack(student, x, batch).mean() for x in (start, out)]
    assert values[1] > values[0] + 0.1


def test_attack_steps_are_as_long_as_the_radius():
    recipe = FAPRecipe()
    assert recipe.attack_steps == 2
    assert recipe.radius(0) == recipe.radius(10_000) == recipe.eps == 1 / 255


def test_the_attack_holds_the_prompts_and_encodes_the_clean_photos_once(student, monkeypatch):
    calls = []
    original = Prompted.encode_image

    def encode(self, x):
        calls.append(any(p.requires_grad for p in self.prompts.parameters()))
        return original(self, x)

    batch = batch_of(student)
    monkeypatch.setattr(Prompted, "encode_image", encode)
    student.prompts.requires_grad_(False)
    out = _attack(student, batch, FAPObjective(), small(attack_steps=5), 0)
    assert calls == [False] * 6
    assert not batch.original.requires_grad
    student.prompts.requires_grad_(True)
    assert all(p.grad is None for p in student.prompts.parameters())
    constant = replace(batch, text=batch.text.detach())
    assert torch.equal(out, _attack(student, constant, FAPObjective(), small(attack_steps=5), 0))


def test_the_text_encoded_before_the_attack_still_has_its_gradient_after_it(student):
    """The loop freezes the prompts in between; what the loss gives must not depend on that."""
    weights = list(student.prompts.parameters())
    attacked = tiny.images(4, seed=1)

    def gradients(freeze):
        batch = batch_of(student)
        student.prompts.requires_grad_(not freeze)
        batch.original  # noqa: B018
        student.prompts.requires_grad_(True)
        student.prompts.zero_grad()
        FAPObjective().loss(student, attacked, batch).mean().backward()
        return [w.grad.clone() for w in weights]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(a, b)


# --- photos and schedule -------------------------------------------------------------------------


def test_epochs_see_every_photo_once_as_the_model_sees_it(student, patterns, tmp_path):
    recipe = small(batch=7, per_epoch=9)
    course = FewShots(student, patterns, recipe, tmp_path / "a.pt")
    views = {centre_crop(p.open(), 32).numpy().tobytes(): int(p.label) for p in patterns}
    epochs = [list(course.batches(range(9 * e, 9 * e + 9))) for e in (0, 1)]
    seen = [[v.numpy().tobytes() for b in epoch for v in b.images] for epoch in epochs]
    assert all(set(Counter(epoch).values()) == {1} for epoch in seen)
    assert [len(epoch) for epoch in seen] == [63, 63]  # what does not fill a batch is left out
    assert seen[0] != seen[1]
    labels = [int(i) for b in epochs[0] for i in b.known]
    assert labels == [views[v] for v in seen[0]]
    later = next(course.batches(range(13, 14)))
    assert torch.equal(later.images, epochs[1][4].images)


def test_one_epoch_warms_up_and_the_cosine_goes_by_epochs():
    recipe = FAPRecipe(batch=4).over(64)
    assert (recipe.per_epoch, recipe.steps) == (16, 160)
    rates = [recipe.rate(step) for step in range(160)]
    groups = [set(rates[i : i + 16]) for i in range(0, 160, 16)]
    assert [len(group) for group in groups] == [1] * 10
    values = [group.pop() for group in groups]
    assert values[0] == 1e-5
    assert values[1] == 0.0035
    assert values[6] == pytest.approx(0.0035 / 2)
    assert values[9] == pytest.approx(0.0035 * 0.5 * (1 + math.cos(0.8 * math.pi)))
    assert all(a > b for a, b in itertools.pairwise(values[1:]))
    assert epoch_cosine(0, 1, 1.0) == 1e-5
    assert FAPRecipe(batch=4).over(3).per_epoch == 1


def test_the_optimiser_is_the_published_one(student):
    [group] = FAPRecipe().optimiser(student.prompts).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
    assert {id(p) for p in group["params"]} == {id(p) for p in student.prompts.parameters()}


# --- the loop ------------------------------------------------------------------------------------


def test_training_changes_all_prompts_and_nothing_of_the_model(backbone, patterns, tmp_path):
    with tiny.no_trace(backbone.model):
        student = Prompted(backbone, NAMES)
        before = {k: v.clone() for k, v in student.prompts.state_dict().items()}
        learn(student, patterns, small(learning_rate=0.01), tmp_path / "a.pt")
    after = student.prompts.state_dict()
    assert not any(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in student.prompts.parameters())


def test_untrained_prompts_are_those_of_their_seed(backbone):
    one, two, other = (Prompted(backbone, NAMES, seed=s).prompts().image for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_killed_run_continues_to_the_same_prompts(backbone, patterns, tmp_path):
    recipe = small(steps=12, save_every=5, learning_rate=0.01)
    whole, part = Prompted(backbone, NAMES), Prompted(backbone, NAMES)
    learn(whole, patterns, recipe, tmp_path / "whole.pt")

    class Dies:
        attack = FAPObjective().attack
        loss = tiny.fails_at(8, FAPObjective().loss)

    with pytest.raises(tiny.Boom):
        learn(part, patterns, recipe, tmp_path / "part.pt", Dies)
    assert torch.load(tmp_path / "part.pt", weights_only=True)["step"] == 5
    again = Prompted(backbone, NAMES)
    learn(again, patterns, recipe, tmp_path / "part.pt")
    for key, value in whole.prompts.state_dict().items():
        assert torch.allclose(value, again.prompts.state_dict()[key], atol=1e-6), key


@pytest.mark.parametrize("tower", ["resnet", "causal"])
def test_a_model_without_patch_tokens_is_refused(backbones, tower):
    with pytest.raises(MethodFailed, match="another kind of image tower"):
        Prompted(backbones[tower], NAMES)


# --- whether it helps ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(patterns):
    """A small ViT that knows the four patterns: random towers have nothing to keep under attack."""
    shape = {"vision_cfg": tiny.VIT, "text_cfg": tiny.TEXT | {"width": 32}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=24, **shape)
        torch.nn.init.normal_(model.token_embedding.weight, std=0.5)
    model.logit_scale.data.fill_(3.5)
    preprocess = Preprocess(32, (0.5, 0.4, 0.3), (0.25, 0.3, 0.2))
    backbone = Backbone("taught", model, SimpleTokenizer(context_length=24), preprocess)
    x, y = pictures(patterns)
    text = plain_text(backbone)
    visual = backbone.visual.requires_grad_(True)
    optimiser = torch.optim.Adam(visual.parameters(), lr=1e-3)
    for step in range(60):
        rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        optimiser.zero_grad()
        F.cross_entropy(answers(backbone, text)(x[rows]), y[rows]).backward()
        optimiser.step()
    visual.zero_grad()
    visual.requires_grad_(False)
    return backbone


def pictures(patterns):
    x = torch.stack([centre_crop(p.open(), 32) for p in patterns])
    return x, torch.tensor([int(p.label) for p in patterns])


def plain_text(backbone):
    ids = backbone.tokenize([DEFAULT_TEMPLATE.replace("{}", name) for name in NAMES])
    return F.normalize(backbone.encode_ids(ids), dim=1)


def answers(backbone, text):
    """Pixels -> logits."""
    return lambda x: backbone.logit_scale * F.normalize(backbone.encode_image(x), dim=1) @ text.T


def accuracy(target, patterns, eps=0.0):
    """Share of patterns that are told apart, under PGD-10."""
    x, y = pictures(patterns)
    goal = Goal(y)
    if eps:
        x = PGD(eps, 10)(target, x, goal, run=tiny.run_for(len(x)))
    return float((~goal.reached(target(x))).float().mean())


def prompted(backbone):
    student = Prompted(backbone, NAMES)
    student.prompts.requires_grad_(False)
    return student


def test_thirty_steps_raise_the_accuracy_under_pgd(taught, patterns, tmp_path):
    student = prompted(taught)
    before = accuracy(answers(student, student.classes()), patterns, EPS)
    recipe = small(steps=30, per_epoch=4, learning_rate=0.1)
    learn(student, patterns, recipe, tmp_path / "a.pt")
    target = answers(student, student.classes())
    after = accuracy(target, patterns, EPS)
    assert after >= before + 0.4, (before, after)
    assert accuracy(target, patterns) >= 0.98


def test_the_adversarial_term_is_what_makes_answers_agree(taught, patterns, tmp_path):
    """At a radius where no prompt saves this model, its answers still move less with the term."""
    x, y = pictures(patterns)
    recipe = small(steps=30, per_epoch=4, learning_rate=0.1, eps=12 / 255)
    gap = {}
    for weight in (0.0, 1.5):
        student, objective = prompted(taught), FAPObjective(weight)
        learn(student, patterns, recipe, tmp_path / f"{weight}.pt", objective)
        batch = LabelledBatch(x, student, student.classes(), y)
        attacked = _attack(student, batch, objective, replace(recipe, attack_steps=10), 0)
        logits = [batch.logits(student.encode_image(v)) for v in (x, attacked)]
        gap[weight] = float(divergence(*logits).mean())
    assert gap[1.5] < gap[0.0] / 4, gap


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def two_kinds(tmp_path):
    """A photo set of rhinos and wrenches."""
    (tmp_path / "sets" / "zoo").mkdir(parents=True)
    rows = [(f"{label}{i}.jpg", label) for label in ("rhino", "wrench") for i in range(8)]
    for i, (file, _) in enumerate(rows):
        (tmp_path / "sets" / "zoo" / file).write_bytes(jpeg(i))
    with (tmp_path / "sets" / "zoo.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("file", "label"), *rows])
    return tmp_path / "sets"


@pytest.fixture
def command(two_kinds, tmp_path, model_dirs):
    """Runs `train fap` on a model folder that has no prompts yet; returns code and folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / file).write_bytes((model_dirs["vit"] / file).read_bytes())

    def run(*more):
        work = ["--images", str(two_kinds), "--work", str(tmp_path / "work"), "--threads", "1"]
        return main(["train", "fap", "--model", f"local-dir:{folder}", *work, *more]), folder

    yield run
    forget_models()


def test_the_command_writes_prompts_that_the_defence_uses(command, capsys):
    code, folder = command("--shots", "3", "--steps", "2")
    assert (code, capsys.readouterr().out) == (0, f"wrote {folder / 'fap.safetensors'}\n")
    backbone = load_model(f"local-dir:{folder}", "cpu")
    variant = find(backbone.name, "fap")
    assert variant.eps == 1
    assert variant.recipe == "2 steps of 4 photos, 2 attack steps"
    assert variant.data == "6 photos, up to 3 of each of 2 classes"
    clf = tiny.classifier(backbone)
    x = tiny.images(2)
    out = FAP()(clf, x, run=tiny.run_for(2))
    assert not torch.allclose(out.logits, clf(x), atol=1e-2)


def test_the_defence_answers_as_the_model_in_training_did(taught, patterns, tmp_path, monkeypatch):
    student = Prompted(taught, NAMES)
    learn(student, patterns, small(learning_rate=0.1), tmp_path / "a.pt")
    write_variant(tmp_path, Variant("fap", "fap.safetensors", 8), student.prompts().tensors())
    monkeypatch.setattr(
        "vlmdefense_demo.models.variants.entry_of",
        lambda name: type("Entry", (), {"folder": tmp_path, "name": name}),
    )
    x = tiny.images(3)
    out = FAP()(tiny.classifier(taught, NAMES), x, run=tiny.run_for(3))
    torch.testing.assert_close(out.logits, answers(student, student.classes())(x))


def test_the_embedded_model_is_refused_before_a_photo_is_read(capsys, tmp_path):
    command = ["train", "fap", "--images", str(tmp_path / "nowhere"), "--threads", "1"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "vision transformer; TimmModel is another kind" in said
    assert said.count("\n") == 1


def test_photos_of_no_two_kinds_are_refused(command, capsys):
    assert command("--shots", "0")[0] == 2
    assert "two kinds of things or more, these show 0." in capsys.readouterr().err


def test_a_model_is_named_only_to_those_who_can_use_it(capsys, tmp_path):
    assert main(["train", "fare", "--model", "ViT-B-32", "--images", str(tmp_path)]) == 2
    assert "fare is not made for ViT-B-32" in capsys.readouterr().err
