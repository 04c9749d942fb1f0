"""FAP: learned tokens join the picture's patches and the label's words, the model stays as it is.

Training-time. The prompts of both towers were learned together, from a few photos of every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.models import variants
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.deep_prompts import DeepPrompts, vision_transformer
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images

TRAIN = "python -m vlmdefense_demo train fap --model {} --images DIR"


@dataclass(frozen=True)
class FAP(Defender):
    """Source: Zhou et al., "Few-shot Adversarial Prompt Learning", NeurIPS 2024 (arXiv 2403.14774).

    Two tokens enter each of the first nine blocks of both towers, in place of what the block before
    made of them (models/deep_prompts.py). They were trained on 16 photos a class: clean photos must
    be classified, and attacked ones answered alike (training/fap.py). The prompts are part of the
    method, so the template of the request is not used.

    Weights needed: none ship, as the embedded model has no patch tokens. For a model with a ViT:
    `python -m vlmdefense_demo train fap --model ViT-B-32 --images DIR`.

    Differs from the authors' code: prompts read "[c1][c2] of a cat." where a bug left the
    template's braces in every one ("[c1][c2] of a {}. cat."), the first words start from those of
    the template in use, where the configured ones were ignored, and everything is computed in full
    precision. Their couplings of the two towers do not depend on the input, so their results are
    stored in their place: 92 kB of prompts for ViT-B/32 instead of 14 MB of layers, the same function.
    """

    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    weights: ClassVar[str] = "fap"
    recipe: ClassVar[str] = (
        "APGD with two losses through the prompted towers; its gradient is exact."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the prompted picture against the prompted labels.

        Raises:
            MethodFailed: the model has no vision transformer of open_clip's own.
            MissingWeights: no prompts were trained for this model.
            InvalidLabels: a label does not fit behind "a photo of a".
        """
        vision_transformer(clf.backbone.visual)
        name = clf.backbone.name
        absent = variants.missing(name, self.weights)
        if absent:
            raise MissingWeights(absent, f"Train them: {TRAIN.format(name)}")
        prompts = DeepPrompts(**variants.load_learned(clf.backbone, self.weights))
        prompted = clf.with_prompted(self.weights, prompts)
        features = clf.encode_prompted_image(x, prompts)
        notes = variants.training_notes(clf.backbone, self.weights)
        return DefenseResult(prompted.logits(features), features=features, notes=(notes,) * len(x))

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward; the prompted labels are encoded once a request, as the template's are."""
        return Cost(image_forward=1)
