"""A prompt defence trained on a handful of photos, in under a minute: what the page's trainer does.

Everything a person may bring is checked before the first pass; nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vlmdefense_demo.errors import DemoError, InvalidImage, InvalidLabels, MethodFailed
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.labels import clean_labels, plain
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.models.variants import find, load_twin, missing
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.photos import Photo
from vlmdefense_demo.training.prompts import (
    Lesson,
    PromptRecipe,
    Trained,
    train_advpt,
    train_apt,
)
from vlmdefense_demo.types import Note

MOST_PHOTOS, LEAST_PHOTOS = 16, 2
TOWERS = ("tecoa", "fare", "pmg_aft", "tga_zsr")
RECIPES = {
    "apt": PromptRecipe(n_ctx=4, epochs=8, batch=10, learning_rate=0.05),
    "advpt": PromptRecipe(
        n_ctx=4, eps=8 / 255, attack_steps=10, epochs=60, batch=20, learning_rate=0.05
    ),
}
TITLES = {"apt": "APT", "advpt": "AdvPT"}


@dataclass(frozen=True)
class Homework:
    """What a person brings: named classes with pictures, and the method to train.

    Args:
        classes: name -> pictures, encoded, each with a name for error messages.
        eps: radius of the training attack, in levels of 255; 0 keeps the recipe's.
    """

    method: str
    classes: Mapping[str, Sequence[tuple[str, bytes]]]
    eps: float = 0
    seed: int = 0

    def photos(self) -> list[Photo]:
        """Checked photos, labelled with their class.

        Raises:
            InvalidLabels: fewer than two classes, or an unusable name.
            InvalidImage: too few or too many pictures in a class, or one that cannot be read.
        """
        named: dict[str, list[tuple[str, bytes]]] = {}
        spelled: dict[str, str] = {}  # "Cat" and "cat" are one label, hence one class
        for name, files in self.classes.items():
            if plain(name):
                first = spelled.setdefault(plain(name).casefold(), plain(name))
                named.setdefault(first, []).extend(files)
        if len(named) < 2:
            raise InvalidLabels(
                f"A prompt is learned by telling classes apart: expected at least 2, got {len(named)}.",
                "Name another class and give it pictures.",
            )
        clean_labels(named)
        for name, files in named.items():
            if not LEAST_PHOTOS <= len(files) <= MOST_PHOTOS:
                raise InvalidImage(
                    f"“{name}” has {len(files)} picture{'' if len(files) == 1 else 's'}; "
                    f"a class needs {LEAST_PHOTOS} to {MOST_PHOTOS}.",
                    "Add or remove some.",
                )
        return [
            _photo(name, i, *file) for name, files in named.items() for i, file in enumerate(files)
        ]


def _photo(label: str, i: int, file: str, data: bytes) -> Photo:
    try:
        read_upload(data)
    except InvalidImage as error:
        raise InvalidImage(f"“{label}”, {file}: {error.message}", error.hint) from error
    return Photo("classroom", f"{label}/{i}", label, "", data)


def tower_for(backbone: Backbone, method: str) -> str:
    """The robust tower an APT prompt stands on; AdvPT stands on the model's own.

    Raises:
        MethodFailed: the model has no robust tower.
    """
    if method == "advpt":
        return ""
    for tower in TOWERS:
        if not missing(backbone.name, tower):
            return tower
    raise MethodFailed(
        f"APT needs a robust image tower, and {backbone.name} has none.", "Train AdvPT instead."
    )


def teach(homework: Homework, backbone: Backbone, run: Run) -> Iterator[LearnedContext]:
    """Train; yields the one learned prompt.

    Raises:
        DemoError: what was brought cannot be used, the person pressed Stop, or memory ran out.
    """
    photos = homework.photos()
    tower = tower_for(backbone, homework.method)
    recipe = RECIPES[homework.method]
    if homework.eps:
        recipe = replace(recipe, eps=homework.eps / 255)
    with torch.no_grad():
        clf = ZeroShotClassifier(
            backbone, list(dict.fromkeys(p.label for p in photos)), meter=run.meter
        )
    if tower:
        clf = clf.with_backbone(load_twin(backbone, tower))
    learn = train_apt if homework.method == "apt" else train_advpt
    try:
        trained = learn(Lesson(clf, photos), recipe, run)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise DemoError(
            "There is not enough memory for this training.", "Use fewer pictures or another model."
        ) from error
    notes = _notes(trained, recipe, photos)
    eps = find(backbone.name, tower).eps if tower else 0
    yield LearnedContext(trained.context, tower, notes, backbone.name, eps)


def _notes(trained: Trained, recipe: PromptRecipe, photos: Sequence[Photo]) -> tuple[Note, ...]:
    size = 4 * trained.context.numel() / 1000
    return (
        Note("weights", f"{size:.1f} kB, trained here; gone when the page is closed"),
        Note(
            "trained",
            f"at {recipe.eps * 255:g}/255 on {len(photos)} pictures of "
            f"{len({p.label for p in photos})} classes, {recipe.epochs} epochs",
        ),
        Note("training cost", f"{trained.cost.passes()} · {trained.cost.seconds:.0f} s"),
        Note("training loss by epoch", list(trained.losses), "series"),
    )
