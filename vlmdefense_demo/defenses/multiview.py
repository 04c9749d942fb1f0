"""What every defence that looks at an image more than once shares.

The order of work is always the same: draw views, encode them once, adapt something to them that no
gradient of an attacker passes through, and let the views vote. A method overrides what it does
differently.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vlmdefense_demo.defenses.augmix import augmix
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.images import embedded, to_array
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import (
    Adaptive,
    Cost,
    DefenseResult,
    Features,
    Images,
    LogitFn,
    Logits,
    Note,
)

KEEP = 0.1
ATTACKED_VIEWS = 8
REFRESH = 5
THUMBNAIL = 72
SHOWN = 32


@dataclass(frozen=True)
class Ballot:
    """How the views of one image voted.

    Args:
        logits: (V, K) every view's answer, differentiable in the pixels.
        weights: (V,) what each counts. Votes sum to 1; coefficients of features may be negative.
        chosen: the views something was adapted to.
        notes: what the card says about it.
    """

    logits: Logits
    weights: Tensor
    chosen: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def answer(self) -> Tensor:
        """(K,) the weighted mean of the views' logits."""
        return (self.weights.unsqueeze(1) * self.logits).sum(0)


@dataclass(frozen=True)
class MultiView(Defender):
    """Views, an adaptation, a vote. As it stands: no adaptation, and every view counts the same."""

    views: Annotated[int, Range(2, 64, 1), "views of the image, itself included"] = 16
    adaptive: ClassVar[Adaptive] = "eot"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = "Gradients averaged over freshly drawn views, through the vote."

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the vote; every image is adapted to by itself.

        What was adapted is a constant to an attacker's gradient; the views are differentiable.
        """
        run.step(0, 2)
        features = self.look(clf, self.draw(clf, x, run), len(x))
        run.step(1, 2)
        states = self.adapt(clf, features.detach(), run)
        ballots = [self.vote(clf, f, s) for f, s in zip(features, states, strict=True)]
        return DefenseResult(
            torch.stack([ballot.answer for ballot in ballots]),
            notes=tuple((*b.notes, votes(clf, b)) for b in ballots),
        )

    @abstractmethod
    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> (B * n, 3, H, W), the n pictures of an image next to each other.

        The first `views` of them are the views, the first of all the image itself.
        """

    def look(self, clf: ZeroShotClassifier, pictures: Images, batch: int) -> Tensor:
        """(B * n, 3, H, W) -> (B, n, D) unit-norm features, each picture encoded once."""
        return clf.encode_image(pictures).unflatten(0, (batch, -1))

    def adapt(self, clf: ZeroShotClassifier, features: Tensor, run: Run) -> Sequence[Any]:
        """(B, n, D) constant features -> what `vote` gets for each image."""
        return [None] * len(features)

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """(n, D) features of one image and what was adapted to them -> its ballot."""
        return Ballot(clf.logits(f), uniform(f))

    def expected_cost(self, n_labels: int) -> Cost:
        """V image forwards."""
        return Cost(image_forward=self.views)

    def attacked(self) -> MultiView:
        """With at most eight views: a step through them costs an attacker no more than that."""
        return replace(self, views=min(self.views, ATTACKED_VIEWS))

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """Fresh views at every call, at most eight; adapted anew every fifth call."""
        calls = count()
        few = self.attacked()
        states: list[Any] = []

        def target(x: Images) -> Logits:
            i = next(calls)
            draw = run.child(f"draw{i}")
            features = few.look(clf, few.draw(clf, x, draw), len(x))
            if i % REFRESH == 0:
                states[:] = few.adapt(clf, features.detach(), draw)
            rows = zip(features, states, strict=True)
            return torch.stack([few.vote(clf, f, s).answer for f, s in rows])

        return target

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """The views of the attacked picture: what each takes it for, and what it counts."""
        x = pair[1:]
        pictures = self.draw(clf, x, run)
        features = self.look(clf, pictures, 1)
        return (
            strip(clf, pictures, self.vote(clf, features[0], self.adapt(clf, features, run)[0])),
        )


@dataclass(frozen=True)
class Crops(MultiView):
    """The same on random crops, half of them mirrored."""

    augmix: Annotated[
        bool, "views are recoloured and warped as well (AugMix); the picture itself is not"
    ] = False
    kin: ClassVar[str] = "ensemble"

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The image itself, then crops of it."""
        views = random_views(x, self.views, run.child("views"))
        return augmix(views, len(x), run.child("augmix")) if self.augmix else views


def uniform(f: Tensor) -> Tensor:
    """(V, ...) -> (V,) equal weights."""
    return torch.full((len(f),), 1 / len(f), device=f.device)


def only_first(f: Tensor) -> Tensor:
    """(V, ...) -> (V,) all weight on the image itself."""
    return torch.eye(len(f), device=f.device)[0]


def entropy(logits: Tensor) -> Tensor:
    """(..., K) -> (...) entropy of the softmax in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """(V, K) -> () entropy of the mean of the views' softmax, in nats.

    Mean entropy plus the mean divergence of each view from the mean: disagreement counts as well.
    """
    log_p = logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()
    return -(log_p.exp() * log_p).sum()


def confident(logits: Tensor, share: float = KEEP, least: int = 2) -> Tensor:
    """Indices of the `share` of views (V, K) with the lowest entropy, at least two."""
    n = kept(len(logits), share, least)
    return entropy(logits.detach()).topk(n, largest=False).indices


def kept(views: int, share: float = KEEP, least: int = 2) -> int:
    """How many of the views that is."""
    return min(views, max(least, round(share * views)))


def reliability(features: Features, neighbours: int, temperature: float) -> Tensor:
    """(V, D) unit-norm view features -> (V,) weights that sum to 1.

    A view is reliable when its nearest `neighbours` are close; itself does not count.
    """
    similarity = features @ features.T
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    nearest = similarity.masked_fill(itself, -torch.inf).topk(
        min(neighbours, len(features) - 1), dim=1
    )
    return (nearest.values.mean(1) / temperature).softmax(0)


def votes(clf: ZeroShotClassifier, ballot: Ballot) -> Note:
    """Who got how much of the weight, in words."""
    total: dict[str, float] = {}
    for i, weight in zip(ballot.logits.argmax(1).tolist(), ballot.weights.tolist(), strict=True):
        total[clf.labels[i]] = total.get(clf.labels[i], 0.0) + weight
    first = sorted(total.items(), key=lambda item: -item[1])[:3]
    words = " · ".join(f"{label} {share:.0%}" for label, share in first)
    return Note("weighted votes of the views", words)


def strip(clf: ZeroShotClassifier, pictures: Images, ballot: Ballot) -> Note:
    """The pictures that voted (V, 3, H, W): what each takes the image for, and what it counts."""
    top = [clf.labels[i] for i in ballot.logits.argmax(1).tolist()]
    rows = zip(pictures, top, ballot.weights.tolist(), range(SHOWN), strict=False)
    captioned = [
        [f"{label} · {weight:.0%}{' · tuned on' * (i in ballot.chosen)}", thumbnail(picture)]
        for picture, label, weight, i in rows
    ]
    return Note("views of the attacked picture, and what each counts", captioned, "images")


def thumbnail(picture: Tensor) -> str:
    """(3, H, W) -> base64 of a small PNG."""
    small = F.interpolate(
        picture.detach()[None].clamp(0, 1), THUMBNAIL, mode="bilinear", antialias=True
    )
    return embedded(Image.fromarray(to_array(small)))
