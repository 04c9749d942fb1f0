"""What a defence that fine-tunes a tower has to say: what it keeps, and what its attack raises."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.types import Features, Images, Labels, Logits


@dataclass(frozen=True)
class Batch:
    """Clean photos, and what the frozen original model makes of them (computed when asked for).

    Args:
        images: (B, 3, H, W) in [0, 1].
        teacher: the original model.
        text: (C, D) unit-norm class embeddings of the training labels.
    """

    images: Images
    teacher: Backbone
    text: Features

    @cached_property
    def original(self) -> Features:
        """(B, D) un-normalised features of the clean photos."""
        with torch.no_grad():
            return self.teacher.encode_image(self.images)

    @cached_property
    def labels(self) -> Labels:
        """(B,) the original model's own clean answers.

        The photos' folders name things at another level than the class names, and many photos have
        no label; the teacher knows all crops equally well.
        """
        return self.logits(self.original).argmax(1)

    def logits(self, features: Features) -> Logits:
        """(B, C) at the scale of inference: cross-entropy on bare cosines trains and attacks weakly."""
        return self.teacher.logit_scale * F.normalize(features, dim=1) @ self.text.T


class Objective(Protocol):
    """One method's losses."""

    def attack(self, student: Backbone, x: Images, batch: Batch) -> Tensor:
        """(B,) what the training attack raises at the pixels x."""
        ...

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) what training lowers, given the attacked photos."""
        ...


class LabelAttack:
    """The attack TeCoA, PMG-AFT and TGA-ZSR share: away from the label, by cross-entropy."""

    def attack(self, student: Backbone, x: Images, batch: Batch) -> Tensor:
        """(B,) cross-entropy of the student's answer with the label."""
        logits = batch.logits(student.encode_image(x))
        return F.cross_entropy(logits, batch.labels, reduction="none")
