"""TAPT: tune visual prompts on one image, until its layers look as those of ordinary pictures do.

Test-time adaptation. Assumes an attacker who ignores it. The layers' usual statistics were measured
once, on training photos; nothing else is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.multiview import (
    ATTACKED_VIEWS,
    REFRESH,
    Ballot,
    confident,
    kept,
    marginal_entropy,
    only_first,
    strip,
)
from vlmdefense_demo.defenses.test_time.tuning import Adam
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.models import variants
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.statistics import Moments, distance, moments, stored
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, LogitFn, Logits, Note

FRAME_RATE = 40


@dataclass(frozen=True)
class Usual:
    """The layers' statistics on ordinary photos.

    Args:
        clean: of the model itself.
        robust: of its robust twin.
    """

    clean: Moments
    robust: Moments


@dataclass(frozen=True)
class TAPT(Defender):
    """One AdamW step on visual prompts: agreement of confident views, and usual layer statistics.

    Source: Wang et al., "TAPT", CVPR 2025 (arXiv 2411.13136), the visual design with fixed text.
    Simplified: their trained prompts and statistics were never published. Prompts here start from
    nothing and are added, one vector to all tokens entering each of the first nine blocks, in place
    of two more tokens a block, whose mere presence would change the model: no step is plain CLIP,
    exactly, and no prompt rows enter the statistics. Other towers get an added frame, as wide as TeCoA's,
    and statistics a channel of what leaves their stages.

    Update: p <- AdamW step on H(mean of the softmax over the 10 % most confident views)
    + alignment * (gamma A(robust) + (1 - gamma) A(clean)), A the mean over layers of half the mean
    absolute difference of the views' means and half that of their variances. Output: the image
    itself through p, no ensemble.

    Robust means the same photos through the model's robust twin; without one, photos attacked at
    1/255. A frame's numbers are some forty times as large as a token's, and so is its rate: 0.02 of a
    normalised pixel. Differs from the authors' code: it resets to random prompts instead
    of the trained ones, aligns one layer fewer than it divides by, differentiates through all views,
    and takes 64 of them; 16 here, and at least two are kept.

    Without their trained prompts a step defends little: of 24 photos the embedded model was fooled on
    by PGD it turned back 1 at 1/255 and none at 4/255.

    Statistics needed: `python -m vlmdefense_demo train tapt --images DIR`.
    """

    views: Annotated[int, Range(2, 64, 1), "views of the image, itself included"] = 16
    steps: Annotated[int, Range(0, 4, 1), "prompt steps; 0 is the plain model"] = 1
    learning_rate: Annotated[
        float, Range(0, 0.01, 0.0001), "of AdamW; a frame's is 40 times it"
    ] = 0.0005
    alignment: Annotated[float, Range(0, 200, 5), "weight of the statistics beside the entropy"] = (
        100.0
    )
    gamma: Annotated[float, Range(0, 1, 0.05), "share of the robust tower's statistics"] = 0.5
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = True
    weights: ClassVar[str] = "tapt"
    recipe: ClassVar[str] = (
        "Gradients through the prompted model, the tuned prompt held constant and tuned again on "
        "fresh views every fifth call."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the images through their own prompts.

        The prompts are constants to an attacker's gradient.

        Raises:
            MissingWeights: no statistics were gathered for this model.
            MethodFailed: the layers of the image tower are not known.
        """
        prompts, found = self._prompts(clf, x.detach(), run)
        run.step(self.steps + 1, self.steps + 2)
        features = clf.encode_watched(x, prompts)[0]
        return DefenseResult(clf.logits(features), features=features, notes=found)

    def expected_cost(self, n_labels: int) -> Cost:
        """V image forwards, n of them again and back per step, and the prompted image."""
        n = kept(self.views)
        return Cost(image_forward=self.views + n * self.steps + 1, image_backward=n * self.steps)

    def attacked(self) -> TAPT:
        """With at most eight views."""
        return replace(self, views=min(self.views, ATTACKED_VIEWS))

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The prompted model; prompts tuned on eight fresh views at most, every fifth call."""
        calls = count()
        few = self.attacked()
        prompts: list[Tensor] = []

        def target(x: Images) -> Logits:
            i = next(calls)
            if i % REFRESH == 0:
                prompts[:] = [few._prompts(clf, x.detach(), run.child(f"draw{i}"))[0]]
            return clf.logits(clf.encode_watched(x, prompts[0])[0])

        return target

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """The views of the attacked picture, and which of them the prompt was tuned on."""
        views = self._views(pair[1:], run)[0]
        logits = clf(views)
        ballot = Ballot(logits, only_first(logits), tuple(confident(logits).tolist()))
        return (strip(clf, views, ballot),)

    def _views(self, x: Images, run: Run) -> Tensor:
        """(B, V, 3, H, W), the first of each the image itself."""
        return random_views(x, self.views, run.child("views")).unflatten(0, (len(x), -1))

    def _prompts(
        self, clf: ZeroShotClassifier, x: Images, run: Run
    ) -> tuple[Tensor, tuple[tuple[Note, ...], ...]]:
        """(B, *blank) a prompt for every image, tuned by itself, and how that went.

        Views are chosen first and only the chosen ones are differentiated: the others would add
        nothing to the gradient.
        """
        run.step(0, self.steps + 2)
        tensors = variants.load_learned(clf.backbone, self.weights)
        usual = Usual(stored(tensors, "clean"), stored(tensors, "robust"))
        views = self._views(x, run)
        with torch.no_grad():
            features = clf.encode_image(views.flatten(0, 1)).unflatten(0, (len(x), -1))
            chosen = [confident(clf.logits(f)) for f in features]
        tuned = [self._tune(clf, v[c], usual, run) for v, c in zip(views, chosen, strict=True)]
        about = variants.training_notes(clf.backbone, self.weights)
        return torch.stack([p for p, _ in tuned]), tuple((*n, *about) for _, n in tuned)

    def _tune(
        self, clf: ZeroShotClassifier, views: Images, usual: Usual, run: Run
    ) -> tuple[Tensor, tuple[Note, ...]]:
        """The prompt of the image whose chosen views (n, 3, H, W) these are."""
        prompt = clf.backbone.blank_prompt()
        frame = FRAME_RATE if prompt.dim() == 3 else 1
        step = Adam(self.learning_rate * frame, self.steps)
        seen = []
        for i in range(self.steps):
            run.step(i + 1, self.steps + 2)
            with torch.enable_grad():
                leaf = prompt.detach().requires_grad_()
                parts = self._loss(clf, views, leaf, usual)
                value = parts[0] + self.alignment * parts[1]
                gradient = torch.autograd.grad(value, leaf)[0]
            seen.append(torch.stack(parts).detach())
            prompt = step(prompt, gradient.nan_to_num(0, 0, 0))
        titles = ("entropy of the confident views' mean", "distance from the usual statistics")
        series = torch.stack(seen).T.tolist() if seen else []
        return prompt.detach(), tuple(
            Note(f"{title}, before each step", values, "series")
            for title, values in zip(titles, series, strict=False)
        )

    def _loss(
        self, clf: ZeroShotClassifier, views: Images, prompt: Tensor, usual: Usual
    ) -> tuple[Tensor, Tensor]:
        """() marginal entropy and () distance of the layers' statistics, both of one image's views."""
        f, layers = clf.encode_watched(views, prompt.expand(len(views), *prompt.shape))
        own = moments(layers)
        away = self.gamma * distance(own, usual.robust)
        return marginal_entropy(clf.logits(f)), away + (1 - self.gamma) * distance(own, usual.clean)
