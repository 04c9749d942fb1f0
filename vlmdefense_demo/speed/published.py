"""R-TPT in the order of work of its authors' code: what the rearrangement is compared with.

For the timing script and the tests. The algorithm is the one of defenses/test_time/rtpt.py; only the
passes are those that the code at e085f13 spends: the image, then all views four times (twice for
features that are thrown away), and all prompts five times. The one thing taken from the corrected
version is the mask of a view's similarity to itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.defenses.multiview import confident, entropy, reliability
from vlmdefense_demo.defenses.test_time.rtpt import NEIGHBOURS, TEMPERATURE
from vlmdefense_demo.defenses.test_time.tuning import WEIGHT_DECAY
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.types import Images, Logits


def rtpt_as_published(
    clf: ZeroShotClassifier, views: Images, learning_rate: float = 0.005
) -> Logits:
    """(V, 3, H, W) views of one image -> (1, K) logits; 4 V + 1 image and 5 C text forwards."""
    prompts = clf.context_prompts()
    context = prompts.initial.clone().requires_grad_()

    def answers(pictures: Images) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = clf.encode_image(pictures)
        text = clf.encode_context(prompts, context)
        return clf.with_text(text).logits(features), features

    with torch.no_grad():
        answers(views[:1])
        answers(views)
        features = answers(views)[1]
    with torch.enable_grad():
        logits = answers(views)[0]
        optimiser = torch.optim.AdamW([context], lr=learning_rate, weight_decay=WEIGHT_DECAY)
        loss = entropy(logits[confident(logits)]).mean()
        context.grad = torch.autograd.grad(loss, context)[0]
        optimiser.step()
    with torch.no_grad():
        tuned = answers(views)[0]
        return reliability(features, NEIGHBOURS, TEMPERATURE)[None] @ tuned
