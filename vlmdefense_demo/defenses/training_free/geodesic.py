"""Feature geometry: move the picture's feature along the sphere, past what its views say.

Training-free, and no gradient is taken. Past means: the attacked feature gets a negative weight. An
untargeted attack pushes the right label down in it, so subtracting it gives the label away; a
targeted attack, or one that knows the defence, is another matter.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, perspective

from vlmdefense_demo import filters
from vlmdefense_demo.defenses.multiview import Ballot, MultiView, confident
from vlmdefense_demo.defenses.training_free.votes import combined
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import in_range, passed_by
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Features, Images, Note

DISTORTION = 0.5
POWER = 0.9
TINY = 1e-6
LARGE = (0.5, 1.0)  # of the picture's area, for DBD's crops
BITS, QUALITIES, NOISES, NOISE, KERNEL, SIGMA = 3, (50, 60, 75), 6, 0.1, 5, 1.1


@dataclass(frozen=True)
class Geodesic(MultiView):
    """Along the great circle from the feature to its views' mean direction; a subclass says how far."""

    @abstractmethod
    def reach(self, x: Tensor, views: Features) -> Tensor:
        """(D,) the picture's feature, (V - 1, D) its views' -> () beta: 0 is the picture, 1 the mean."""

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """The moved feature answers."""
        x, views = f[0], f[1:]
        anchor = unit(views.mean(0, keepdim=True))[0]
        beta = self.reach(x, views)
        own, others = geodesic(x, anchor, beta)
        each = others / (len(views) * views.mean(0).norm())
        weights = torch.cat([own[None], each.expand(len(views))])
        notes = (
            Note(
                "beta: 0 the picture, 1 its views, more is past them",
                float(beta.detach()),
                "number",
            ),
            Note("angle between the picture and its views, degrees", _degrees(x, anchor), "number"),
        )
        return combined(clf, f, weights, notes=notes)


@dataclass(frozen=True)
class AGC(Geodesic):
    """Along the great circle from the feature to the mean of its views, and further if they disagree.

    Source: Li et al., "AGC: Adaptive Geodesic Correction", 2026 (arXiv 2605.15584). Differs from the authors' code:
    bilinear instead of bicubic perspectives, 16 views instead of 32.

    Update: z = slerp(f, a, beta), a the views' mean direction; beta = low + (high - low) o^0.9 q, o how
    far the views are from the feature, q how well they agree among themselves. beta > 1 goes past a.
    """

    views: Annotated[int, Range(3, 64, 1), "perspectives, the picture itself included"] = 17
    low: Annotated[float, Range(0, 1, 0.05), "beta where all views agree with the picture"] = 0.45
    high: Annotated[
        float, Range(0, 4, 0.05), "beta where none does, and they do with each other"
    ] = 2.25
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn perspectives, through the geodesic."
    )

    def check_together(self) -> None:
        """The low end may not lie above the high one."""
        if self.low > self.high:
            raise InvalidParameter(
                f"low={self.low:g} is above high={self.high:g}: pictures whose views disagree would "
                "move less than those whose views agree.",
                "Choose low at most high.",
            )

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The picture, then random perspectives of it on black."""
        height, width = x.shape[2:]
        draws = run.child("views").uniform(torch.empty(len(x), self.views - 1, 8)).tolist()
        corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
        rows = []
        for row, drawn in zip(x, draws, strict=True):
            rows.append(row)
            rows += [perspective(row, corners, _bent(corners, d, width, height)) for d in drawn]
        return torch.stack(rows)

    def reach(self, x: Tensor, views: Features) -> Tensor:
        """Further the more the views differ from the picture and agree with each other."""
        outlying = (1 - (views @ x).mean()).clamp(0, 1)
        pairs = views @ views.T
        others = len(views) * (len(views) - 1)
        trust = (((pairs.sum() - pairs.diagonal().sum()) / others + 1) / 2).clamp(0, 1)
        # A power below one has an infinite slope at zero.
        return self.low + (self.high - self.low) * outlying.clamp_min(TINY) ** POWER * trust


@dataclass(frozen=True)
class AOM(Geodesic):
    """One step along the great circle from the feature to the mean of noisy copies' features.

    Source: Tong et al., "On the Zero-shot Adversarial Robustness of Vision-Language Models", CVPR
    2025. Simplified: the authors' code is not public, and this is their idea (Gaussian noise anchors,
    one move in the embedding space) on AGC's machinery; sigma, the number of copies and how far the step
    goes are ours. Nothing measured here says anything about their numbers.

    Update: z = slerp(f, a, beta), a the mean direction of the copies' features; beta > 1 goes past a.
    """

    views: Annotated[int, Range(2, 64, 1), "noisy copies, the picture itself included"] = 17
    sigma: Annotated[float, Range(0, 0.5, 0.01), "of the noise; 0 leaves the picture alone"] = 0.1
    beta: Annotated[float, Range(0, 4, 0.05), "0 the picture, 1 its copies, more is past them"] = (
        1.0
    )
    recipe: ClassVar[str] = "Gradients averaged over freshly drawn noise, through the geodesic."

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The picture, then copies with noise of their own."""
        copies = x.unsqueeze(1).expand(-1, self.views - 1, -1, -1, -1)
        noise = self.sigma * run.child("noise").normal(copies)
        return torch.cat([x.unsqueeze(1), in_range(copies + noise)], dim=1).flatten(0, 1)

    def reach(self, x: Tensor, views: Features) -> Tensor:
        """The same for every picture."""
        return torch.tensor(self.beta, device=x.device)


@dataclass(frozen=True)
class DBD(MultiView):
    """From the feature along the mean direction of its changed copies, further if all point one way.

    Source: Liu et al., ICLR 2026 (arXiv 2606.06186), directional bias: 16 crops, 3 bits rounded three ways, three JPEGs, six
    noises, three filters; the half with the lowest entropy counts. Differs from the authors' code:
    rounding up white does not wrap round to black, as it does in their 8-bit arithmetic, and
    prompts are the page's, not descriptions by a language model.

    Update: z = normalise(f + factor R), R the mean of f_i - f; factor is 1, or `past` where the mean
    cosine of the directions with R is above the threshold.
    """

    views: Annotated[int, Range(2, 32, 1), "crops, beside fifteen other copies"] = 16
    threshold: Annotated[float, Range(0, 1, 0.01), "attacked above this agreement"] = 0.8
    past: Annotated[float, Range(0, 4, 0.1), "factor for attacked pictures; 1 is the mean"] = 2.5
    recipe: ClassVar[str] = (
        "Gradients averaged over fresh crops and noises, through the active branch; JPEG has the slope "
        "of a smooth twin, rounding is passed as if it were not there."
    )

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The picture, its crops, and fifteen other copies of it."""
        crops = random_views(x, self.views + 1, run.child("views"), LARGE)
        crops = crops.unflatten(0, (len(x), -1))
        copies = [passed_by(x, c) for c in _rounded(x.detach())]
        copies += [filters.jpeg(x, q) for q in QUALITIES]
        copies += [in_range(x + NOISE * run.child(f"noise{i}").normal(x)) for i in range(NOISES)]
        mean = F.avg_pool2d(F.pad(x, (KERNEL // 2,) * 4, mode="reflect"), KERNEL, 1)
        soft = in_range(gaussian_blur(x, [KERNEL, KERNEL], [SIGMA, SIGMA]))
        copies += [filters.median(x, KERNEL), mean, soft]
        return torch.cat([crops, torch.stack(copies, 1)], dim=1).flatten(0, 1)

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """The moved feature answers."""
        x, logits = f[0], clf.logits(f)
        kept = 1 + confident(logits[1:], 0.5)
        away = f[kept] - x
        mean = away.mean(0)
        agreement = F.cosine_similarity(away, mean[None].expand_as(away), dim=1).mean()
        factor = self.past if agreement.item() > self.threshold else 1.0
        weights = torch.zeros(len(f), device=f.device).index_fill(0, kept, factor / len(kept))
        weights[0] = 1 - factor
        notes = (
            Note(
                "agreement of the directions",
                {"value": agreement.item(), "threshold": self.threshold},
                "gauge",
            ),
            Note("weight of the picture's own feature", f"{1 - factor:+.1f}"),
        )
        return combined(clf, f, weights, tuple(kept.tolist()), notes)

    def expected_cost(self, n_labels: int) -> Cost:
        """A forward for the picture, each crop and each copy."""
        return Cost(image_forward=self.views + 1 + 3 + len(QUALITIES) + NOISES + 3)


def geodesic(x: Tensor, anchor: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Where (D,) x arrives at `beta` of the way along the great circle to (D,) anchor; beyond at > 1.

    Returns:
        the coefficients of x and of the anchor: sin((1 - beta) t) / sin t and sin(beta t) / sin t.
    """
    cosine = (x @ anchor).clamp(-1, 1)
    length = (anchor - cosine * x).norm()  # sin t
    if float(length.detach()) < TINY:
        return torch.ones_like(length), torch.zeros_like(length)
    way = beta * torch.atan2(length, cosine)
    share = way.sin() / length
    return way.cos() - share * cosine, share


def _degrees(x: Tensor, anchor: Tensor) -> float:
    return float(torch.rad2deg(torch.acos((x @ anchor).detach().clamp(-1, 1))))


def _bent(corners: list[list[int]], d: list[float], width: int, height: int) -> list[list[int]]:
    """Each corner moved inwards by up to half of half the side."""
    inwards = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return [
        [
            round(x + a * DISTORTION * (width // 2) * d[2 * i]),
            round(y + b * DISTORTION * (height // 2) * d[2 * i + 1]),
        ]
        for i, ((x, y), (a, b)) in enumerate(zip(corners, inwards, strict=True))
    ]


def _rounded(x: Images) -> list[Images]:
    """Three bits: down, to the nearest, up; of 8-bit values, and never above white."""
    step = 2 ** (8 - BITS)
    levels = (x * 255).round()
    ways = (levels / step).floor(), (levels / step).round(), (levels / step).ceil()
    return [(way * step).clamp(0, 255) / 255 for way in ways]
