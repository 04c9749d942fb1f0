"""A-TPT: R-TPT on views that are scrambled, except where the model looks.

Test-time adaptation. Assumes an attacker who ignores it; the map is made from the attacked picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.defenses.augmix import pure_mix
from vlmdefense_demo.defenses.pictures import under_map
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.views import sampled, view_grid
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Cost, Images, Note

SHARE = 0.2  # of a view's pixels are protected
PROTECTED, SCRAMBLED = 0.8, 0.2  # share of the crop itself inside and outside of them
STEPS = 10_000  # of attention that are told apart


@dataclass(frozen=True)
class ATPT(RTPT):
    """R-TPT's step and vote; its crops are mixed with AugMix, less so where attention is high.

    Source: Hai et al., "Towards Fine-Grained Robustness: Attention-Guided Test-Time Prompt Tuning
    for Vision-Language Models", ICML 2026 (arXiv 2605.19956). Simplified; differs from the authors'
    code: one map, of the picture itself, is cropped and mirrored with the views (theirs encodes and
    differentiates every view once more, against texts encoded anew, 63 times), and it is made
    against the hand prompt (theirs: the prompt tuned for the picture before); that prompt is the
    request's template (theirs is rewritten for each data set, which R-TPT's is not). On a ViT the
    map is activation times gradient where the last block attends (theirs multiplies the attention
    of two blocks); on a CNN it is theirs, Grad-CAM. Equally attended pixels are treated alike and pixels
    without attention are never protected, so the share is exact only where there are no ties.
    Further differences as R-TPT. As in their code, the views are not weighted by total variation,
    and without AugMix this is R-TPT.

    Views: v = M crop + (1 - M) AugMix(crop), M = 0.8 on the fifth of the view's pixels with most
    attention and 0.2 elsewhere; the picture itself stays as it is.
    """

    augmix: Annotated[
        bool, "mix the crops with AugMix where attention is low; off: plain crops, no map"
    ] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, through mixture and vote; the map is held "
        "constant, the prompt tuned again every fifth draw."
    )

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The views of an image, each mixed by its own part of the image's attention map.

        Raises:
            MethodFailed: the image tower has no grid of locations.
        """
        if not self.augmix:
            return super().draw(clf, x, run)
        grid = view_grid(x, self.views, run.child("views"))
        views = sampled(x, grid)
        keep = protection(sampled(self.attention(clf, x, run), grid))
        # Between two equal pictures lerp returns them bit for bit: the first view stays.
        return torch.lerp(pure_mix(views, len(x), run.child("augmix")), views, keep)

    def attention(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W) in [0, 1]: where the first answer to each image comes from."""
        maps = []
        for i, image in enumerate(x.split(1)):
            run.step(i, len(x))
            # One by one: which logit is first and which pixel is in would amplify what a batch rounds.
            maps.append(clf.encode_attention(image))
        return F.interpolate(torch.stack(maps), x.shape[-2:], mode="bilinear", align_corners=False)

    def expected_cost(self, n_labels: int) -> Cost:
        """R-TPT's, and one forward and one backward for the map."""
        cost, maps = super().expected_cost(n_labels), int(self.augmix)
        return replace(cost, image_forward=self.views + maps, image_backward=maps)

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """The views, and the map that they were mixed by."""
        notes = super().exhibit(clf, pair, right, run=run)
        if not self.augmix:
            return notes
        where = self.attention(clf, pair[1:], run)[0, 0]
        picture = ["attacked", under_map(pair[1], where)]
        return (*notes, Note("where it looks, and what it scrambles least", [picture], "images"))


def protection(attention: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1] -> M: 0.8 on the fifth of each view with most attention, else 0.2."""
    # Rounded, or the noise of interpolation would order pixels that are equal.
    levels = (STEPS * attention).round().flatten(1)
    edge = levels.topk(max(1, round(SHARE * levels.shape[1])), dim=1).values[:, -1:]
    inside = (levels >= edge) & (levels > 0)
    return torch.where(inside, PROTECTED, SCRAMBLED).view_as(attention)
