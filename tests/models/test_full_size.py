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
from vlmdefense_demo.models.statistics import Stream
from vlmdefense_demo.models.variants import Variant, write_variant
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
def full(request, tmp_path_factory):
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
    folder = tmp_path_factory.mktemp(request.param)
    backbone = Backbone(f"local-dir:{folder}", model, tokenizer, preprocess)
    write_statistics(backbone, folder)
    return tiny.classifier(backbone)


def write_statistics(backbone, folder):
    """What `train tapt` would gather, from two pictures each."""
    zero, tensors = backbone.blank_prompt(), {}
    for seed, kind in enumerate(("clean", "robust")):
        x, stream = tiny.images(2, size=backbone.preprocess.size, seed=seed), Stream()
        with torch.no_grad():
            stream.add(backbone.encode_watched(x, zero.expand(2, *zero.shape))[1])
        tensors |= stream.moments().tensors(kind)
    write_variant(folder, Variant("tapt", "tapt.safetensors", 1, "two pictures"), tensors)


@pytest.mark.parametrize("id", IDS)
def test_a_method_answers_at_its_price_and_can_be_differentiated(full, id):
    row = methods("defense")[id]
    all_of_it = {"views": VIEWS, "steps": 1, "threshold": 1.0}  # 1 opens TTP's gate for all
    values = {name: value for name, value in all_of_it.items() if row.takes(name)}
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
