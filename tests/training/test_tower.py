"""The loop every tower method shares: its attack, its schedule, what it may change, and resuming."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import tiny
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.models.border import Border, assemble, framed
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.training.fare import FAREObjective
from vlmdefense_demo.training.objective import Batch
from vlmdefense_demo.training.photos import centre_crop, read_photos
from vlmdefense_demo.training.pmg_aft import PMGObjective
from vlmdefense_demo.training.tecoa import TeCoAObjective
from vlmdefense_demo.training.tecoa_vp import Framed
from vlmdefense_demo.training.tga_zsr import TGAObjective
from vlmdefense_demo.training.tower import Course, Student, TowerRecipe, _attack, fine_tune, train
from vlmdefense_demo.types import Goal

OBJECTIVES = {
    "fare": FAREObjective(), "tecoa": TeCoAObjective(), "pmg_aft": PMGObjective(),
    "tga_zsr": TGAObjective(),
}  # fmt: skip
each = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture
def text():
    rows = torch.randn(4, 24, generator=torch.Generator().manual_seed(5))
    return F.normalize(rows, dim=1)


@pytest.fixture
def photos(photos_dir):
    return read_photos(photos_dir, ["things"])


@dataclass
class Recorder:
    """The TeCoA objective, keeping what the loop showed it."""

    seen: list = field(default_factory=list)

    def attack(self, student, x, batch):
        self.seen.append(
            (
                "attack",
                x.detach().clone(),
                any(p.requires_grad for p in student.trained.parameters()),
            )
        )
        return TeCoAObjective().attack(student, x, batch)

    def loss(self, student, attacked, batch):
        self.seen.append(("loss", attacked.clone(), batch.images))
        return TeCoAObjective().loss(student, attacked, batch)


def small(**more):
    return TowerRecipe(**{"steps": 12, "batch": 2, "size": 32, "ramp": 1e-9} | more)


def test_rate_warms_up_linearly_and_ends_at_zero():
    recipe = TowerRecipe(steps=100, learning_rate=1.0, warm_up=0.1)
    assert [round(recipe.rate(i), 6) for i in (0, 4, 9, 10, 55)] == [0.1, 0.5, 1.0, 1.0, 0.5]
    assert recipe.rate(100) == pytest.approx(0)


def test_radius_grows_to_eps_and_stays():
    recipe = TowerRecipe(steps=100, eps=0.5, ramp=0.4)
    assert recipe.radius(0) == pytest.approx(0.5 / 40)
    assert recipe.radius(39) == recipe.radius(99) == 0.5


@each
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_attack_stays_in_the_ball_and_in_the_picture(name, steps, backbone, text):
    x = tiny.images(3)
    batch, recipe = Batch(x, backbone, text), small(attack_steps=steps, eps=8 / 255)
    out = _attack(Student(backbone), batch, OBJECTIVES[name], recipe, 0)
    assert (out - x).abs().max() <= 8 / 255 + 1e-6
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.requires_grad
    assert torch.equal(out, _attack(Student(backbone), batch, OBJECTIVES[name], recipe, 0))
    assert not torch.equal(out, _attack(Student(backbone), batch, OBJECTIVES[name], recipe, 1))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_linear_student_is_attacked_to_the_corner_of_the_ball(steps, backbone, text):
    """steps x step_size reaches 2 eps: from any start the sign of the slope decides every pixel."""

    class Slope:
        weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(3))

        def attack(self, student, x, batch):
            return (x * self.weight).sum((1, 2, 3))

    x = torch.full((2, 3, 32, 32), 0.5)
    out = _attack(backbone, Batch(x, backbone, text), Slope(), small(attack_steps=steps), 0)
    torch.testing.assert_close(out, x + small().eps * Slope.weight.sign(), rtol=0, atol=1e-6)


def test_eps_zero_changes_nothing(backbone, text):
    x = tiny.images(2)
    batch = Batch(x, backbone, text)
    assert torch.equal(_attack(Student(backbone), batch, TeCoAObjective(), small(eps=0.0), 0), x)


def test_the_attack_sees_frozen_weights_and_leaves_no_gradient(backbone, text, photos, tmp_path):
    student, recorder = Student(backbone), Recorder()
    train(
        student,
        student.trained,
        Course(backbone, photos, text, small(steps=2), tmp_path / "a.pt"),
        recorder,
    )
    kinds = [kind for kind, *_ in recorder.seen]
    assert kinds == ["attack", "attack", "loss"] * 2
    assert not any(trainable for kind, _, trainable in recorder.seen if kind == "attack")
    assert all(p.grad is None for p in backbone.model.parameters())
    batch = Batch(tiny.images(2), backbone, text)
    fresh = Student(backbone)
    _attack(fresh, batch, TeCoAObjective(), small(), 0)
    assert all(p.grad is None for p in fresh.trained.parameters())


@each
@pytest.mark.parametrize("tower", ["vit", "resnet", "causal"])
def test_training_changes_the_copy_of_the_tower_and_nothing_else(
    name, tower, backbones, text, photos, tmp_path
):
    original = backbones[tower]
    with tiny.no_trace(original.model):
        size = original.preprocess.size
        recipe = small(steps=2, size=size, learning_rate=1e-3, warm_up=1e-9)
        trained = fine_tune(
            Course(original, photos, text, recipe, tmp_path / "a.pt"), OBJECTIVES[name]
        )
    before, after = original.visual.state_dict(), trained.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], v) for k, v in after.items())
    statistics = [k for k in after if "running" in k or "num_batches" in k]
    assert all(torch.equal(before[k], after[k]) for k in statistics)
    assert not any(p.requires_grad for p in trained.parameters())
    assert not trained.training


def test_a_student_computes_what_its_tower_computes():
    """The folded forward is the tower's own, for features and for the tower's own gradients."""
    student = Student(load_model("pocket", "cpu"))
    student.trained.requires_grad_(True)
    x = tiny.images(2, 96)
    plain = student.visual(torch.addcmul(student._shift, x, student._gain))
    torch.testing.assert_close(student.encode_image(x), plain, rtol=1e-4, atol=1e-4)
    weights = list(student.trained.parameters())
    one, two = (
        torch.autograd.grad(out.square().sum(), weights, allow_unused=True)
        for out in (plain, student.encode_image(x))
    )
    for a, b in zip(one, two, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).norm() <= 1e-3 * a.norm().clamp_min(1e-6)


@each
def test_a_killed_run_continues_to_the_same_weights(name, backbone, text, photos, tmp_path):
    recipe, objective = small(save_every=5), OBJECTIVES[name]
    whole = fine_tune(Course(backbone, photos, text, recipe, tmp_path / "whole.pt"), objective)

    class Dies:
        attack = objective.attack
        loss = tiny.fails_at(8, objective.loss)

    with pytest.raises(tiny.Boom):
        fine_tune(Course(backbone, photos, text, recipe, tmp_path / "part.pt"), Dies)
    assert torch.load(tmp_path / "part.pt", weights_only=True)["step"] == 5
    again = fine_tune(Course(backbone, photos, text, recipe, tmp_path / "part.pt"), objective)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, again.state_dict()[key], atol=1e-6), key


@pytest.mark.parametrize("other", ["recipe", "start", "set of photos"])
def test_a_checkpoint_of_another_training_is_refused(other, backbone, text, photos, tmp_path):
    file, recipe = tmp_path / "a.pt", small(steps=1)
    fine_tune(Course(backbone, photos, text, recipe, file), OBJECTIVES["fare"])
    written, start = file.read_bytes(), None
    if other == "recipe":
        recipe = dataclasses.replace(recipe, eps=4 / 255)
    elif other == "start":
        start = load_twin(backbone, "fare").visual
    else:
        photos = photos[1:]
    with pytest.raises(InvalidParameter, match=f"with another {other}"):
        fine_tune(Course(backbone, photos, text, recipe, file), OBJECTIVES["fare"], start)
    assert file.read_bytes() == written


def robust_accuracy(student, teacher, photos, text):
    """Share of photos that keep the teacher's clean answer under PGD-10 at 1/255."""
    batch = Batch(torch.stack([centre_crop(p.open(), 32) for p in photos]), teacher, text)
    goal = Goal(batch.labels)

    def target(x):
        return batch.logits(student.encode_image(x))

    out = PGD(1 / 255, 10)(target, batch.images, goal, run=tiny.run_for(len(photos)))
    return float((~goal.reached(target(out))).float().mean())


@each
def test_thirty_steps_raise_the_accuracy_under_pgd(name, backbones, text, patterns, tmp_path):
    teacher = backbones["causal"]
    eps = (4 if name == "fare" else 2) / 255
    recipe = small(steps=30, batch=16, eps=eps, learning_rate=1e-3)
    trained = fine_tune(
        Course(teacher, patterns, text, recipe, tmp_path / "a.pt"), OBJECTIVES[name]
    )
    before = robust_accuracy(teacher, teacher, patterns, text)
    after = robust_accuracy(teacher.with_visual(trained, "student"), teacher, patterns, text)
    images = torch.stack([centre_crop(p.open(), 32) for p in patterns])
    constant = Batch(images, teacher, text).labels.bincount().max() / len(patterns)
    assert after >= before + 0.3, (before, after)
    assert after > constant


# --- the visual prompt ---------------------------------------------------------------------------


def test_a_border_is_a_frame_of_thirty_pixels_and_69840_numbers():
    border = Border(224)
    assert sum(p.numel() for p in border.parameters()) == 69_840
    frame = border()
    assert frame.shape == (1, 3, 224, 224)
    assert not frame[..., 30:194, 30:194].any()
    assert (frame[..., :30, :] != 0).all()
    assert (frame[..., :30] != 0).all()
    assert torch.equal(frame, assemble({k: v.data for k, v in border.parts.items()}))


def test_a_framed_picture_is_the_normalised_picture_plus_the_frame(backbone):
    x, frame = tiny.images(2), Border(32)()
    with torch.no_grad():
        got = backbone.encode_image(framed(backbone, x, frame))
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1)
            for v in (backbone.preprocess.mean, backbone.preprocess.std)
        )
        expected = backbone.visual((x - mean) / std + frame)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_frame_is_all_that_is_trained_and_the_attack_goes_through_it(
    backbone, text, photos, tmp_path
):
    student = Framed(backbone)
    before = [p.detach().clone() for p in student.border.parameters()]
    recipe = small(steps=3, learning_rate=0.1, weight_decay=0.0)
    seen = []

    class Watched(nn.Module):
        attack = TeCoAObjective().attack

        def loss(self, student, attacked, batch):
            seen.append(attacked)
            return TeCoAObjective().loss(student, attacked, batch)

    with tiny.no_trace(backbone.model):
        train(
            student,
            student.border,
            Course(backbone, photos, text, recipe, tmp_path / "a.pt"),
            Watched(),
        )
    after = list(student.border.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    plain = _attack(backbone, Batch(seen[0], backbone, text), TeCoAObjective(), recipe, 0)
    through = _attack(student, Batch(seen[0], backbone, text), TeCoAObjective(), recipe, 0)
    assert not torch.equal(plain, through)
