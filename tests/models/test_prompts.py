"""Explicit prompt context: the same text tower, opened up."""

from __future__ import annotations

import pytest
import torch
from open_clip import SimpleTokenizer

from tests import tiny
from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.prompts import ContextPrompts

TEMPLATE = "a photo of a {}."
CAUSAL = ("vit", "resnet", "causal")


def prompts_of(labels=tiny.LABELS, template=TEMPLATE):
    return [template.replace("{}", label) for label in labels]


def opened(backbone, labels=tiny.LABELS, template=TEMPLATE):
    return ContextPrompts(backbone, prompts_of(labels, template), template.split("{}")[0].strip())


def encoded(backbone, labels=tiny.LABELS, template=TEMPLATE):
    return backbone.encode_ids(backbone.tokenize(prompts_of(labels, template)))


def variant(name, **text):
    """A backbone whose text tower differs from the tiny ones in a detail of its configuration."""
    config = tiny.CONFIGS[name] | {"text_cfg": tiny.TEXT | text}
    before = tiny.CONFIGS[name]
    tiny.CONFIGS[name] = config
    try:
        model = tiny.seeded_model(name)
    finally:
        tiny.CONFIGS[name] = before
    preprocess = Preprocess(32, (0.5,) * 3, (0.5,) * 3)
    return Backbone(name, model, SimpleTokenizer(context_length=24), preprocess)


@pytest.mark.parametrize("template", [TEMPLATE, "an image showing the {} in the snow", "the {}"])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_hand_context_reproduces_the_text_tower(backbones, name, template):
    labels = ("cat", "a very long label with words", "dog")
    ours = opened(backbones[name], labels, template)
    expected = encoded(backbones[name], labels, template)
    difference = ours.encode(ours.initial) - expected
    assert difference.abs().max() <= 2e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("causal", {"pool_type": "eos", "eos_id": 49407}),
        ("vit", {"pool_type": "eos", "eos_id": 49407}),
        ("vit", {"pool_type": "eos", "eos_id": 0}),
        ("causal", {"pool_type": "first"}),
        ("causal", {"pool_type": "last"}),
        ("causal", {"proj_bias": True}),
        ("causal", {"proj_type": "none", "width": 24}),
    ],
    ids=str,
)
def test_other_poolings_and_projections_are_reproduced(name, text):
    backbone = variant(name, **text)
    ours, expected = opened(backbone), encoded(backbone)
    assert (ours.encode(ours.initial) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_ids_are_trimmed_only_where_nothing_looks_ahead(backbones, name):
    ours = opened(backbones[name])
    longest = int(backbones[name].tokenize(prompts_of()).argmax(1).max()) + 1
    assert ours.ids.shape[1] == (longest if name in CAUSAL else tiny.TEXT["context_length"])
    assert longest < tiny.TEXT["context_length"]


def test_pooling_at_the_last_position_is_never_trimmed():
    assert opened(variant("causal", pool_type="last")).ids.shape[1] == 24


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_context_has_a_gradient_and_nothing_else_has(backbones, name):
    ours = opened(backbones[name])
    context = ours.initial.clone().requires_grad_()
    with tiny.no_trace(backbones[name].model):
        gradient = torch.autograd.grad(ours.encode(context).square().sum(), context)[0]
    assert gradient.isfinite().all()
    assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_hook_on_the_embedding_gives_the_same_values_and_gradients(backbones, name):
    """Replacing the words' embeddings from outside is what a prompt learner does."""
    backbone, ours = backbones[name], opened(backbones[name])
    context = (ours.initial + 0.1).requires_grad_()

    def replace(_module, _inputs, output):
        start, stop = ours.span.start, ours.span.stop
        shared = context.expand(len(output), -1, -1)
        return torch.cat([output[:, :start], shared, output[:, stop:]], 1)

    def gradient(features):
        return torch.autograd.grad(features.square().sum(), context)[0]

    hook = backbone.text.token_embedding.register_forward_hook(replace)
    try:
        expected = encoded(backbone)
    finally:
        hook.remove()
    mine = ours.encode(context)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(mine), gradient(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("labels", [("red car", "red bus"), ("red", "red car"), ("a cat", "a dog")])
def test_words_shared_by_all_labels_are_not_taken_for_context(backbone, labels):
    ours = opened(backbone, labels)
    assert ours.span == slice(1, 5)  # a photo of a
    words = backbone.text.token_embedding(backbone.tokenize(["a photo of a"])[0, 1:5])
    torch.testing.assert_close(ours.initial, words)


def test_the_context_is_every_word_of_the_prefix(backbone):
    assert opened(backbone, template="the {}").span == slice(1, 2)
    assert len(opened(backbone, template="a photo of a nice {}").initial) == 5


def test_a_template_without_words_before_the_label_is_refused(backbone):
    with pytest.raises(InvalidLabels, match="this template has none"):
        opened(backbone, template="{} outdoors")


def test_prompts_that_do_not_start_with_the_prefix_are_refused(backbone):
    with pytest.raises(MethodFailed, match="do not start with"):
        ContextPrompts(backbone, prompts_of(), "some other words")
