"""What every defence that filters the picture before it is looked at shares."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from PIL import Image

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.geometry import differentiated, passed_by
from vlmdefense_demo.images import embedded, to_array
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, Note

GAIN = 4
TWIN = "APGD with two losses; forwards go through the filter, gradients through a differentiable twin of it."
BY_TWIN = "The gradient goes through a differentiable twin of {}."
THROUGH = "APGD with two losses through the filter; its gradient is exact."
PAST = "APGD with two losses; forwards go through the filter, gradients past it, as if it were not there."


class Purifier(Defender):
    """One forward of the filtered picture; a subclass says how it is filtered.

    The gradient of a filter whose own is zero almost everywhere or not known is that of the identity
    (Athalye et al., ICML 2018), unless `purify` has a better one.
    """

    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = False
    leads: ClassVar[bool] = True
    recipe: ClassVar[str] = PAST

    @abstractmethod
    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the filtered pictures, with a slope if there is one; at strength 0 the very same tensor."""

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the filtered pictures."""
        image = self.picture(x, run)
        features = clf.encode_image(image)
        return DefenseResult(clf.logits(features), image.detach(), features)

    def picture(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the filtered pictures, with the slope an attacker is given."""
        image = self.purify(x, run)
        return passed_by(x, image) if differentiated(x) and not image.requires_grad else image

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward; the filter itself asks no tower."""
        return Cost(image_forward=1)

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """What the model sees of the attacked picture, what was taken away, and both spectra."""
        from vlmdefense_demo import heatmap  # matplotlib is slow to import

        attacked = pair[1:]
        seen = self.purify(attacked, run)
        before, after, clean = (to_array(t) for t in (attacked, seen, pair[:1]))
        pictures = [
            ["what the model sees", embedded(Image.fromarray(after))],
            [f"taken away, ×{GAIN}", embedded(heatmap.signed_difference(after, before, GAIN))],
            ["spectrum of the attack", embedded(heatmap.spectrum(clean, before))],
            ["what is left of it", embedded(heatmap.spectrum(to_array(self.purify(pair[:1], run)), after))],
        ]  # fmt: skip
        return (Note("the filtered picture", pictures, "images"),)
