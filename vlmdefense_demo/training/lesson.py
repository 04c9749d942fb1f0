"""What a text tower is taught: phrases, where they should land, and the logit scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.photos import Photo
from vlmdefense_demo.training.targets import (
    Refinement,
    calibrate,
    photo_features,
    refine,
    seen_words,
    separate,
)
from vlmdefense_demo.training.trunk import Trunk, closed_form
from vlmdefense_demo.training.wordnet import WordNet
from vlmdefense_demo.training.words import Meanings, Vocabulary, build_vocabulary, photo_words

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Language:
    """What a text tower is taught with.

    Args:
        names: the 1000 class names zero-shot classification is tested with.
        templates: prompts with ``{}``, drawn now and then beside the plain ones.
        wordnet: the noun hierarchy.
        listed: further words with their WordNet ids, e.g. a validation set's labels.
    """

    names: Sequence[str]
    templates: Sequence[str]
    wordnet: WordNet
    listed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """Everything the loop needs: phrases with targets, the classes, and the logit scale.

    Args:
        vocabulary: phrases and where they should land.
        classes: (1000, D) unit-norm class embeddings, the landmarks of the contrast.
        log_scale: logarithm of the logit scale that fits the classifier's confidence.
    """

    vocabulary: Vocabulary
    classes: Tensor
    log_scale: float


def prepare(
    backbone: Backbone,
    trunk: Trunk,
    photos: Sequence[Photo],
    language: Language,
    how: Refinement,
) -> Lesson:
    """Targets of all phrases, from the classifier, WordNet and the training photos."""
    seen = [p for p in photos if not p.held_out]
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(how.seed))
    seen = [seen[i] for i in order[: how.photos].tolist()]
    features = photo_features(trunk, seen)
    projection, classes = closed_form(trunk)
    width = backbone.text.ln_final.weight.shape[0]
    rank = min(width, classes.shape[1])
    classes = refine(trunk, features, projection, classes, rank, how)
    meanings = Meanings(classes, language.names, trunk.wordnet_ids, language.wordnet)
    basis = torch.linalg.svd(classes, full_matrices=False)[2][:rank]
    # What a narrow tower cannot reach must not shape its words.
    images = F.normalize(features @ projection.T, dim=1) @ basis.T @ basis
    labels = [p.label for p in seen]

    def common(word: str) -> bool:
        return len(word) > 2 and len(backbone.tokenizer.encode(word)) == 1

    words = seen_words(images, labels)
    vocabulary = build_vocabulary(meanings, words, language.listed, common)
    _separate_seen(vocabulary, images, labels, meanings)
    log_scale = calibrate(trunk, features, projection, classes)
    logger.info("%d phrases, logit scale %.1f", len(vocabulary.phrases), math.exp(log_scale))
    return Lesson(vocabulary, classes, log_scale)


def _separate_seen(
    vocabulary: Vocabulary, images: Tensor, labels: Sequence[str], meanings: Meanings
) -> None:
    """Tell the photo sets' words apart, in place, with all words of a label moving as one."""
    shown = sorted(label for label in set(labels) if photo_words(label))
    index = {phrase: i for i, phrase in enumerate(vocabulary.phrases)}
    rows = [i for i, label in enumerate(labels) if photo_words(label)]
    start = vocabulary.targets[[index[photo_words(label)[0]] for label in shown]]
    free = torch.tensor([photo_words(label)[0] not in meanings.by_name for label in shown])
    given = torch.tensor([shown.index(labels[i]) for i in rows])
    for label, vector in zip(shown, separate(images[rows], given, start, free), strict=True):
        for word in photo_words(label):
            if word not in meanings.by_name:
                vocabulary.targets[index[word]] = vector
