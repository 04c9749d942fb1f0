"""Test-time methods on open_clip's own architectures at full size, with random weights.

Weights from the hub change the numbers and nothing else: shapes, costs and gradients are those here.
"""

from __future__ import annotations

import zlib

import open_clip
import pytest
import torch

from tests import tiny
from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.survey import methods

IDS = [row.id for row in methods("defense").values() if row.paradigm == "test_time"]
NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP")
VIEWS = 3


class Words:
    """A tokenizer without files: a word's id is its hash, pads are 1, as in SigLIP's."""

    def __init__(self, vocabulary: int, length: int) -> None:
        self.vocabulary, self.length = vocabulary, length

    def __call__(self, texts):
        rows = torch.ones(len(texts), self.length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [zlib.crc32(w.encode()) % (self.vocabulary - 2) + 2 for w in text.split()]
            row[: len(ids)] = torch.tensor(ids)
        return rows


@pytest.fixture(scope="module", params=NAMES)
def full(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(request.param, pretrained=None, load_weights=False)
    text = open_clip.get_model_config(request.param)["text_cfg"]
    siglip = "SigLIP" in request.param
    tokenizer = (
        Words(text["vocab_size"], text["context_length"])
        if siglip
        else open_clip.get_tokenizer(request.param)
    )
    preprocess = Preprocess(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return tiny.classifier(Backbone(request.param, model, tokenizer, preprocess))


@pytest.mark.parametrize("id", IDS)
def test_a_method_answers_at_its_price_and_can_be_differentiated(full, id):
    row = methods("defense")[id]
    values = {"views": VIEWS} | ({"steps": 1} if row.takes("steps") else {})
    method = row.cls(**values)
    x = tiny.images(1, size=224).requires_grad_()
    first = method(full, x, run=tiny.run_for(1))  # what a request pays once is paid
    with full.meter.stage() as cost:
        out = method(full, x, run=tiny.run_for(1))
    expected = method.expected_cost(len(tiny.LABELS))
    assert (cost.image_forward, cost.image_backward) == (
        expected.image_forward,
        expected.image_backward,
    )
    assert (cost.text_forward, cost.text_backward) == (
        expected.text_forward,
        expected.text_backward,
    )
    assert out.logits.shape == (1, len(tiny.LABELS))
    torch.testing.assert_close(out.logits, first.logits)
    gradient = torch.autograd.grad(out.logits[0, 0] - out.logits[0, 1], x)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
