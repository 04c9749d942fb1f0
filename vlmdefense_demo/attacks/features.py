"""Attacks on the embedding: away from the image's own, or towards a text's or a picture's.

Sources: the threat FARE trains against, Schlarmann et al., ICML 2024 (arXiv 2402.12336); caption and
image targets, Zhao et al., "On Evaluating Adversarial Robustness of Large VLMs", NeurIPS 2023
(arXiv 2305.16934). Their loss needs no label; which iterate is delivered is read from the labels of the same forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.attacks.ascent import Ascent, Objective
from vlmdefense_demo.attacks.base import Attacker, Eps, Needs, StepSize, encoder
from vlmdefense_demo.attacks.pgd import sign_move
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import LEVELS, lattice_step_size
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Encoder, Features, Goal, Images, LogitFn

Steps = Annotated[int, Range(1, 200, 1), "gradient steps"]


def drift_objective(model: Encoder, x: Images, goal: Goal, run: Run) -> Objective:
    """The squared distance of un-normalised embeddings from the clean ones (B,)."""
    with torch.no_grad():
        clean = model.encode_image(x, normalize=False)

    def objective(pixels: Images) -> tuple[Tensor, Tensor]:
        features = model.encode_image(pixels, normalize=False)
        run.record("cosine", F.cosine_similarity(features.detach(), clean))
        return (features - clean).square().sum(1), _margin(model, features, goal)

    return objective


def approach_objective(model: Encoder, point: Features, goal: Goal, run: Run) -> Objective:
    """The cosine to a point of the embedding space (B,)."""

    def objective(pixels: Images) -> tuple[Tensor, Tensor]:
        features = model.encode_image(pixels, normalize=False)
        cosine = F.cosine_similarity(features, point)
        run.record("cosine", cosine.detach())
        return cosine, _margin(model, features, goal)

    return objective


def _margin(model: Encoder, features: Features, goal: Goal) -> Tensor:
    with torch.no_grad():
        return goal.maximise(model.logits(F.normalize(features, dim=1)), margin)


@dataclass(frozen=True)
class Embedding(Attacker):
    """Push the embedding as far from the clean one as the ball allows; the loss knows no label.

    At the clean image the distance is at its minimum and its gradient is rounding noise, so the
    start is random: integer noise in {-e .. e}.
    """

    eps: Eps = 4 / 255
    steps: Steps = 10
    step_size: StepSize = 0.0

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball.

        Raises:
            InvalidParameter: the target shows answers only.
        """
        model = encoder(target, "Embedding")
        noise = run.child("start").levels(x, int(self.eps * LEVELS + 1e-6))
        move = sign_move(x, self.eps, self.step_size or lattice_step_size(self.eps, self.steps))
        objective = drift_objective(model, x, goal, run)
        return Ascent(self.steps, judge_last=True)(objective, move, (x + noise).clamp(0, 1), run)[0]


@dataclass(frozen=True)
class Caption(Attacker):
    """Turn the image's embedding towards that of a text.

    Update: sign steps on the cosine of image and text features, inside the L-infinity ball.
    Differs from the paper: the tower that is attacked is the tower that answers.
    """

    needs: ClassVar[Needs] = "caption"
    eps: Eps = 8 / 255
    steps: Steps = 30
    step_size: StepSize = 0.0

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball.

        Raises:
            InvalidParameter: the goal has no features, or the target shows answers only.
        """
        model = encoder(target, "An attack with a target in the embedding space")
        if goal.features is None:
            raise InvalidParameter(
                "This attack aims at a point of the embedding space, and the goal names none.",
                "Aim at a text of your own or at a second picture.",
            )
        move = sign_move(x, self.eps, self.step_size or lattice_step_size(self.eps, self.steps))
        objective = approach_objective(model, goal.features, goal, run)
        return Ascent(self.steps, judge_last=True)(objective, move, x, run)[0]


@dataclass(frozen=True)
class ImageTarget(Caption):
    """Turn the image's embedding towards that of another picture.

    Update: sign steps on the cosine of both pictures' features, inside the L-infinity ball.
    Differs from the paper: the tower that is attacked is the tower that answers.
    """

    needs: ClassVar[Needs] = "picture"
