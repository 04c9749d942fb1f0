"""Learning the words of a prompt under attack: APT and AdvPT.

Both tune only the context vectors that stand in front of every label. APT attacks the deployed
classifier anew at every step; AdvPT attacks the image tower once, keeps the attacked embeddings and
never looks at a picture again. Used by the recipes and, with few photos, by the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.ascent import climb
from vlmdefense_demo.training.checkpoint import Checkpoint, about
from vlmdefense_demo.training.photos import Photo, centre_crop, random_crop
from vlmdefense_demo.training.schedule import warm_cosine
from vlmdefense_demo.types import Cost, Features, Images, Labels

SPREAD = 0.02  # of the initial context, N(0, 0.02^2)
FeaturesOf = Callable[[list[int], Features, Run], Features]


@dataclass(frozen=True)
class PromptRecipe:
    """Hyperparameters of one prompt; pixel units. The defaults are APT's.

    Args:
        momentum, weight_decay: of SGD.
        save_every: steps between checkpoints, where there is one.
    """

    n_ctx: int = 16
    eps: float = 3 / 255
    attack_steps: int = 3
    epochs: int = 50
    batch: int = 32
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    save_every: int = 50


ADVPT = PromptRecipe(eps=8 / 255, attack_steps=10, epochs=100)


@dataclass(frozen=True)
class Lesson:
    """Photos of named classes, in front of the model whose prompt is to be learned.

    Args:
        clf: its labels are the classes; APT's stands on a robust tower.
        photos: with labels among the classifier's.
    """

    clf: ZeroShotClassifier
    photos: Sequence[Photo]

    @property
    def labels(self) -> Labels:
        """(N,) every photo's place among the classifier's labels."""
        return torch.tensor([self.clf.labels.index(p.label) for p in self.photos])

    def run(self, run: Run) -> Run:
        """A run whose rows are the photos."""
        return replace(run, ids=tuple(f"{p.source}/{p.file}" for p in self.photos))


@dataclass(frozen=True)
class Trained:
    """A learned prompt and what it took.

    Args:
        context: (n_ctx, d) vectors.
        losses: mean cross-entropy of every epoch.
        cost: passes and seconds; after a kill, of what was still to do.
    """

    context: Tensor
    losses: tuple[float, ...]
    cost: Cost


def train_apt(
    lesson: Lesson, recipe: PromptRecipe, run: Run, checkpoint: Path | None = None
) -> Trained:
    """Adversarial prompt tuning, with the attack made on the fly against the current prompt.

    Source: Li et al., CVPR 2024 (arXiv 2403.01849). The prompt is constant inside an attack, so its
    text is encoded once a step, not once per attack step; the result is the same.

    Raises:
        Cancelled: the person pressed Stop.
        MethodFailed: the loss is not finite.
    """
    clf, labels = lesson.clf, lesson.labels

    def attacked(rows: list[int], text: Features, run: Run) -> Features:
        views = [random_crop(lesson.photos[i].open(), _size(clf), run.select([k]).generator(0))
                 for k, i in enumerate(rows)]  # fmt: skip
        x, y = torch.stack(views).to(text.device), labels[rows].to(text.device)
        prompted = clf.with_text(text)
        delta = run.child("start").uniform(x, -recipe.eps, recipe.eps)
        step_size = 2 * recipe.eps / recipe.attack_steps
        x = climb(
            lambda leaf: F.cross_entropy(prompted(leaf), y, reduction="none"),
            x, delta, recipe.eps, step_size, recipe.attack_steps,
        )  # fmt: skip
        with torch.no_grad():
            return clf.encode_image(x)

    return _learn(lesson, recipe, run, attacked, checkpoint)


def train_advpt(
    lesson: Lesson, recipe: PromptRecipe, run: Run, checkpoint: Path | None = None
) -> Trained:
    """Prompt tuning on a bank of attacked embeddings that is made once.

    Source: Zhang et al., ECCV 2024 (arXiv 2311.11261).

    Raises:
        Cancelled: the person pressed Stop.
        MethodFailed: the loss is not finite.
    """
    with lesson.clf.meter.stage() as cost:
        bank = adversarial_bank(lesson, recipe, lesson.run(run).child("bank"))
    device = lesson.clf.backbone.device
    trained = _learn(
        lesson, recipe, run, lambda rows, text, run: bank[torch.tensor(rows)].to(device), checkpoint
    )
    return replace(trained, cost=cost + trained.cost)


def adversarial_bank(lesson: Lesson, recipe: PromptRecipe, run: Run) -> Features:
    """(N, D) unit-norm embeddings of the photos, attacked without label or text.

    The attack raises KL(softmax v(x) || softmax v(x + d)) of un-normalised embeddings, as if they
    were logits, from a start in [0, eps] and with steps of 1.25 eps / N: both as published, although
    such steps hardly reach the ball's negative corners.
    """
    clf, rows = lesson.clf, []
    step_size = 1.25 * recipe.eps / recipe.attack_steps
    for first in range(0, len(lesson.photos), recipe.batch):
        run.step(first, len(lesson.photos))
        part = list(range(first, min(first + recipe.batch, len(lesson.photos))))
        views = [centre_crop(lesson.photos[i].open(), _size(clf)) for i in part]
        x = torch.stack(views).to(clf.backbone.device)
        with torch.no_grad():
            clean = clf.encode_image(x, normalize=False)
        delta = run.select(part).uniform(x, 0, recipe.eps)
        x = climb(_moved(clf, clean), x, delta, recipe.eps, step_size, recipe.attack_steps)
        with torch.no_grad():
            rows.append(clf.encode_image(x))
    return torch.cat(rows)


def _moved(clf: ZeroShotClassifier, clean: Features) -> Callable[[Images], Tensor]:
    return lambda leaf: divergence(clean, clf.encode_image(leaf, normalize=False))


def _learn(
    lesson: Lesson, recipe: PromptRecipe, run: Run, features_of: FeaturesOf, checkpoint: Path | None
) -> Trained:
    """SGD on the context: one epoch of warm-up, then cosine to zero."""
    clf, labels, run = lesson.clf, lesson.labels, lesson.run(run)
    prompts = clf.placeholder_prompts(recipe.n_ctx)
    start = SPREAD * torch.randn(prompts.initial.shape, generator=run.child("words").generator(0))
    words = nn.ParameterDict({"context": start.to(prompts.initial)})
    optimiser = torch.optim.SGD(
        words.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    file = checkpoint and Checkpoint(
        checkpoint, about(recipe, lesson.photos, clf.backbone.model, words)
    )
    first, losses = file.resume(words, optimiser) if file else (0, [])
    per_epoch = -(-len(labels) // recipe.batch)
    steps = recipe.epochs * per_epoch
    with clf.meter.stage() as cost:
        for step in range(first, steps):
            run.step(step, steps)
            rows = _rows(len(labels), recipe.batch, step, per_epoch, run)
            context = words["context"]
            with torch.enable_grad():
                text = clf.encode_context(prompts, context)
                z = features_of(rows, text.detach(), run.select(rows).child(f"step{step}"))
                loss = F.cross_entropy(clf.with_text(text).logits(z), labels[rows].to(z.device))
                context.grad = torch.autograd.grad(loss, context)[0]
            if not torch.isfinite(loss):
                raise MethodFailed("The training loss is not finite.", "Lower the learning rate.")
            for group in optimiser.param_groups:
                group["lr"] = warm_cosine(step, steps, 1 / recipe.epochs, recipe.learning_rate)
            optimiser.step()
            losses.append(float(loss.detach()))
            run.record("loss", loss)
            if file and ((step + 1) % recipe.save_every == 0 or step + 1 == steps):
                file.save(words, optimiser, step + 1, losses)
    means = [sum(part) / len(part) for part in _chunks(losses, per_epoch)]
    return Trained(words["context"].detach(), tuple(means), cost)


def _rows(n: int, batch: int, step: int, per_epoch: int, run: Run) -> list[int]:
    """The photos of one step: every epoch is a new order of all."""
    epoch, part = divmod(step, per_epoch)
    order = torch.randperm(n, generator=run.child(f"epoch{epoch}").generator(0)).tolist()
    return order[part * batch : (part + 1) * batch]


def _chunks(values: list[float], size: int) -> list[list[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _size(clf: ZeroShotClassifier) -> int:
    return clf.backbone.preprocess.size
