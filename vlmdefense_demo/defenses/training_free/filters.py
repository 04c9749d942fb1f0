"""Input purification: filters that were there long before the attacks.

Training-free, and a fraction of a forward in price. Each assumes an attacker who ignores it: all of
them fell to attackers who did not (Athalye et al., ICML 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vlmdefense_demo import filters
from vlmdefense_demo.defenses.training_free.purifier import BY_TWIN, THROUGH, TWIN, Purifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Adaptive, Images


@dataclass(frozen=True)
class JPEG(Purifier):
    """Save the picture as a JPEG file and open it again.

    Source: Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018
    (arXiv 1711.00117), quality 75. Pillow's encoder, with colour at half the resolution. Differs:
    100 stands for no file at all.
    """

    quality: Annotated[int, Range(10, 100, 5), "of the file; 100 leaves the picture alone"] = 75
    recipe: ClassVar[str] = TWIN
    passage: ClassVar[str] = BY_TWIN

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> what is left in the file."""
        return x if self.quality == 100 else filters.jpeg(x, self.quality)


@dataclass(frozen=True)
class BitDepth(Purifier):
    """Keep fewer levels of every colour.

    Source: Xu et al., "Feature Squeezing", NDSS 2018 (arXiv 1704.01155), and Guo et al., ICLR 2018,
    who keep 3 bits.
    """

    bits: Annotated[int, Range(1, 8, 1), "a channel; 8 leaves the picture alone"] = 3

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> rounded to 2^bits levels."""
        return x if self.bits == 8 else filters.bit_depth(x, self.bits)


@dataclass(frozen=True)
class MedianFilter(Purifier):
    """Replace every pixel by the median of its neighbours.

    Source: Xu et al., "Feature Squeezing", NDSS 2018 (arXiv 1704.01155), 2 x 2 and 3 x 3.
    """

    size: Annotated[
        int, Range(1, 7, 1), "side of the neighbourhood; 1 leaves the picture alone"
    ] = 3
    adaptive: ClassVar[Adaptive] = "exact"
    recipe: ClassVar[str] = THROUGH

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the medians; the slope goes to the pixel that was taken."""
        return x if self.size == 1 else filters.median(x, self.size)


@dataclass(frozen=True)
class LowPass(Purifier):
    """Blur: high frequencies, where most of a perturbation lies, are damped.

    Source: the low-pass filter of CSR, ICML 2026 (arXiv 2601.19210): exp(-f^2 / 3200) in cycles a
    picture of 224, which is a Gaussian of 0.89 pixels. Differs: edges are mirrored, not wrapped.
    """

    sigma: Annotated[float, Range(0, 4, 0.1), "width in pixels; 0 leaves the picture alone"] = 0.9
    adaptive: ClassVar[Adaptive] = "exact"
    recipe: ClassVar[str] = THROUGH

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the blurred pictures."""
        return filters.blur(x, self.sigma) if self.sigma else x


@dataclass(frozen=True)
class TotalVariation(Purifier):
    """Look for the nearest picture with little variation.

    Source: Guo et al., ICLR 2018 (arXiv 1711.00117). Differs: Chambolle's algorithm on all pixels,
    where the paper fills in from a random half of them.
    """

    weight: Annotated[float, Range(0, 0.5, 0.01), "of smoothness; 0 leaves the picture alone"] = (
        0.05
    )

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the denoised pictures."""
        return filters.total_variation(x, self.weight) if self.weight else x


@dataclass(frozen=True)
class NonLocalMeans(Purifier):
    """Average every pixel with those that have similar surroundings.

    Source: Xu et al., "Feature Squeezing", NDSS 2018 (arXiv 1704.01155): window 11, patch 3,
    strength 4 of 255. Differs: scikit-image's fast form.
    """

    strength: Annotated[
        float, Range(0, 32 / 255, 1 / 255, scale=255, unit="/255"), "0 leaves the picture alone"
    ] = 4 / 255
    patch: Annotated[int, Range(3, 7, 2), "side of the surroundings"] = 3
    distance: Annotated[int, Range(3, 11, 1), "how far similar ones may be"] = 5
    recipe: ClassVar[str] = TWIN
    passage: ClassVar[str] = BY_TWIN

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> the denoised pictures."""
        if not self.strength:
            return x
        return filters.non_local_means(x, self.strength, self.patch, self.distance)


@dataclass(frozen=True)
class ResizePad(Purifier):
    """Shrink the picture by a random amount and put it somewhere on black.

    Source: Xie et al., "Mitigating Adversarial Effects Through Randomization", ICLR 2018 (arXiv
    1711.01991). Differs: they enlarge 299 to at most 331 pixels; a model of fixed size shrinks
    instead.
    """

    smallest: Annotated[float, Range(0.5, 1, 0.05), "smallest side; 1 leaves the picture alone"] = (
        0.8
    )
    adaptive: ClassVar[Adaptive] = "eot"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = "Gradients averaged over freshly drawn sizes and places."

    def purify(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> shrunk and padded; every picture by a draw of its own."""
        if self.smallest == 1:
            return x
        return filters.shrunk_and_padded(x, run.child("place"), self.smallest)
