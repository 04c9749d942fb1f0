"""The trainer for a handful of pictures: what may be brought, what comes out, what is left behind."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vlmdefense_demo.defenses.training_time.advpt import AdvPT
from vlmdefense_demo.defenses.training_time.apt import APT
from vlmdefense_demo.errors import Cancelled, DemoError, InvalidImage, InvalidLabels, MethodFailed
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training import classroom
from vlmdefense_demo.training.classroom import RECIPES, Homework, teach

METHODS = {"apt": APT, "advpt": AdvPT}
each = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Two epochs are enough to see what is kept."""
    short = {id: dataclasses.replace(how, epochs=2, attack_steps=2) for id, how in RECIPES.items()}
    monkeypatch.setattr(classroom, "RECIPES", short)


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"{seed}.png", buffer.getvalue()


def homework(method="apt", **classes):
    classes = classes or {"cat": [png(0), png(1)], "dog": [png(2), png(3)]}
    return Homework(method, classes)


def learned(work, backbone, **run):
    return list(teach(work, backbone, tiny.run_for(**run)))


@each
def test_a_prompt_is_learned_and_used_at_once(method, backbone):
    [prompt] = learned(homework(method), backbone)
    x = tiny.images(2)
    mine = tiny.classifier(backbone, learned={method: prompt})
    shipped = METHODS[method]()(tiny.classifier(backbone), x, run=tiny.run_for(2))
    own = METHODS[method]()(mine, x, run=tiny.run_for(2))
    assert own.logits.shape == shipped.logits.shape == (2, len(tiny.LABELS))
    assert not torch.allclose(own.logits, shipped.logits)


@each
def test_the_card_says_what_the_training_cost(method, backbone):
    [prompt] = learned(homework(method), backbone)
    about = {note.title: note.value for note in prompt.notes}
    assert "4 pictures of 2 classes, 2 epochs" in about["trained"]
    assert " f + " in about["training cost"]
    assert " s" in about["training cost"]
    assert "kB" in about["weights"]
    assert len(about["training loss by epoch"]) == 2


def test_apt_stands_on_a_robust_tower_and_advpt_on_the_models_own(backbone):
    prompts = [learned(homework(m), backbone)[0] for m in ("apt", "advpt")]
    assert [(p.tower, p.tower_eps) for p in prompts] == [("tecoa", 3), ("", 0)]


def test_apt_on_a_model_without_a_robust_tower_points_to_advpt(backbone):
    bare = Backbone("RN50-openai", backbone.model, backbone.tokenizer, backbone.preprocess)
    with pytest.raises(MethodFailed, match="Train AdvPT instead"):
        learned(homework("apt"), bare)
    assert learned(homework("advpt"), bare)


@each
def test_training_leaves_no_trace_in_the_model(method, backbone):
    with tiny.no_trace(backbone.model):
        learned(homework(method), backbone)


@each
def test_stopped_half_way_nothing_comes_out_and_nothing_is_left(method, backbone, tmp_path):
    with tiny.no_trace(backbone.model), pytest.raises(Cancelled):
        learned(homework(method), backbone, should_stop=tiny.stops_at(2))


@pytest.mark.parametrize(
    ("classes", "error", "sentence"),
    [
        ({"cat": [png(0), png(1)]}, InvalidLabels, "expected at least 2, got 1"),
        ({"cat": [png(0), png(1)], " ": [png(2)]}, InvalidLabels, "at least 2, got 1"),
        ({"cat": [png(0), png(1)], "dog": [png(2)]}, InvalidImage, "“dog” has 1 picture; a class"),
        ({"cat": [png(0), png(1)], "dog": []}, InvalidImage, "“dog” has 0 pictures"),
        ({"cat": [png(0)] * 17, "dog": [png(1)] * 2}, InvalidImage, "“cat” has 17 pictures"),
        (
            {"cat": [png(0), png(1)], "dog": [png(2), ("bad.jpg", b"no picture")]},
            InvalidImage,
            "“dog”, bad.jpg: ",
        ),
        (
            {"x" * 99: [png(0), png(1)], "dog": [png(2), png(3)]},
            InvalidLabels,
            "99 characters",
        ),
        (
            {"cat": [png(0), png(1)], "CAT": [png(2), png(3)]},
            InvalidLabels,
            "at least 2, got 1",
        ),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_trained(
    backbone, monkeypatch, classes, error, sentence
):
    monkeypatch.setattr(classroom, "train_apt", lambda *a: pytest.fail("trained"))
    with pytest.raises(error) as caught:
        learned(homework(**classes), backbone)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError()])
def test_running_out_of_memory_is_a_sentence(backbone, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(classroom, "train_apt", fail)
    with pytest.raises(DemoError, match="not enough memory"):
        learned(homework(), backbone)


def test_the_radius_of_the_training_attack_can_be_chosen(backbone):
    work = dataclasses.replace(homework("advpt"), eps=2)
    [prompt] = learned(work, backbone)
    assert any("at 2/255" in str(note.value) for note in prompt.notes)


def test_classes_whose_names_are_one_label_are_one_class():
    mixed = Homework("apt", {"Cat": [png(0), png(1)], "cat ": [png(2)],
                             "red  fox": [png(3), png(4)]})  # fmt: skip
    photos = mixed.photos()
    assert [photo.label for photo in photos] == ["Cat"] * 3 + ["red fox"] * 2
