"""The nouns of the project: tensors with a meaning, goals, results, cards.

Tensor aliases carry their shape and range in the annotation. Pixels are always float32 in [0, 1]
at the model's own input size; normalisation lives inside the backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vlmdefense_demo.models.classifier import ZeroShotClassifier
    from vlmdefense_demo.run import Run

Images = Annotated[Tensor, "(B, 3, H, W) float32 in [0, 1]"]
Features = Annotated[Tensor, "(B, D) float32"]
Logits = Annotated[Tensor, "(B, K) float32 at the model's own scale"]
Labels = Annotated[Tensor, "(B,) int64"]
LogitFn = Callable[[Images], Logits]
Loss = Callable[[Logits, Labels, Tensor | None], Tensor]

Paradigm = Literal["none", "training_time", "test_time", "training_free"]
Adaptive = Literal["exact", "bpda", "eot"]
Verdict = Literal["held", "fooled", "wrong_clean"]
RungName = Literal["transfer", "white_box", "adaptive", "black_box"]


@dataclass(frozen=True)
class Goal:
    """What the attacker wants, for a batch of images.

    Args:
        labels: (B,) the label to leave (untargeted) or to reach (targeted).
        targeted: reach `labels` instead of leaving them.
        groups: (K,) group number of every label; labels of one group count as the same answer
            ("puppy" = "dog"). None: every label is its own group.
        features: (B, D) unit-norm point of the embedding space to approach, for attacks that aim
            at a caption or at another picture.
    """

    labels: Labels
    targeted: bool = False
    groups: Tensor | None = None
    features: Features | None = None
    _allies: dict[tuple[int, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def allies(self, logits: Logits) -> Tensor:
        """(B, K) bool: the labels that count as the goal's label. Asked for at every step."""
        key = logits.shape[1], logits.device
        if key not in self._allies:
            labels = self.labels.to(logits.device)
            groups = torch.arange(logits.shape[1]) if self.groups is None else self.groups
            groups = groups.to(logits.device)
            self._allies[key] = groups[labels].unsqueeze(1) == groups
        return self._allies[key]

    def maximise(self, logits: Logits, loss: Loss) -> Tensor:
        """(B,) value an attacker ascends: the loss of the label to leave, or minus the target's."""
        allies = None if self.groups is None else self.allies(logits)
        value = loss(logits, self.labels.to(logits.device), allies)
        return -value if self.targeted else value

    def reached(self, logits: Logits) -> Tensor:
        """(B,) bool: the top label is outside the group to leave, or inside the target's."""
        top = logits.argmax(1, keepdim=True)
        inside = self.allies(logits).gather(1, top).squeeze(1)
        return inside if self.targeted else ~inside

    def select(self, rows: Tensor) -> Goal:
        """The goal of a subset of the batch; `rows` are indices or a mask."""
        features = None if self.features is None else self.features[rows.to(self.features.device)]
        return Goal(self.labels[rows.to(self.labels.device)], self.targeted, self.groups, features)


@dataclass
class Cost:
    """What a stage spent, counted in samples through the towers.

    seconds is wall time (synchronised on a GPU), peak_bytes the accelerator memory (0 on a CPU).
    """

    image_forward: int = 0
    image_backward: int = 0
    text_forward: int = 0
    text_backward: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """What two stages spent, one after the other."""
        return Cost(
            self.image_forward + other.image_forward,
            self.image_backward + other.image_backward,
            self.text_forward + other.text_forward,
            self.text_backward + other.text_backward,
            self.seconds + other.seconds,
            max(self.peak_bytes, other.peak_bytes),
        )

    def passes(self, text: str = "text") -> str:
        """The count as a card shows it: "8 f + 4 b · text 20 f + 10 b"; `text` is its one word."""
        parts = [_passes("", self.image_forward, self.image_backward)]
        if self.text_forward or self.text_backward:
            parts.append(_passes(f"{text} ", self.text_forward, self.text_backward))
        return " · ".join(parts)


def _passes(tower: str, forward: int, backward: int) -> str:
    return f"{tower}{forward} f" + (f" + {backward} b" if backward else "")


@dataclass(frozen=True)
class Note:
    """One fact a method reports about its own run, for the card's disclosure.

    kind: "text" (value is a string), "number" (float), "gauge" ({"value", "threshold"}),
    "series" (list of floats), "curves" ({"x", "clean", "attacked"}, lists of numbers from 0 to 1),
    "images" (list of [caption, base64 of a PNG]), "maps" ({"how", "clean", "attacked", "answers"}:
    two grids (h, w) of numbers >= 0 on one scale, and what was answered) — all JSON-able.
    """

    title: str
    value: Any
    kind: Literal["text", "number", "gauge", "series", "curves", "images", "maps"] = "text"


@dataclass(frozen=True)
class DefenseResult:
    """What a defence returns.

    Args:
        logits: (B, K) at the model's own scale, differentiable if the ambient grad mode is on.
        image: (B, 3, H, W) the pixels it finally classified, where it changed them.
        features: (B, D) unit-norm image features, where there is one per image.
        notes: one tuple of notes per image, or empty.
        cost: filled by `defend`, not by the method.
    """

    logits: Logits
    image: Images | None = None
    features: Features | None = None
    notes: tuple[tuple[Note, ...], ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class AttackResult:
    """What `attack` returns, all of it recomputed from the 8-bit image.

    Args:
        images: (B, 3, H, W) on the 8-bit grid, inside the ball.
        success: (B,) bool, judged on `images`.
        cost: of the attack and its verification.
        trace: one dict of series per image ("margin": value after every step).
    """

    images: Images
    success: Tensor
    cost: Cost
    trace: tuple[dict[str, list[float]], ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Probabilities over the request's labels, in the request's label order."""

    labels: tuple[str, ...]
    probs: tuple[float, ...]
    logits: tuple[float, ...]

    @property
    def index(self) -> int:
        """Position of the most probable label."""
        return max(range(len(self.logits)), key=self.logits.__getitem__)

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[self.index]

    @property
    def prob(self) -> float:
        """Its probability."""
        return self.probs[self.index]


@dataclass(frozen=True)
class AttackReport:
    """The attack as delivered: every field is measured on the decoded PNG."""

    method: str
    params: dict[str, Any]
    success: bool
    targeted: bool
    steps_used: int | None
    linf: float
    l2: float
    changed: float
    psnr: float | None
    ssim: float
    cost: Cost
    png: bytes = field(repr=False)
    margins: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rung:
    """One attacker tried against one defence; everything is measured on its own PNG.

    Args:
        how: the attack in words, with its budget.
        attacked: the defence's answer, in the same draw as the rest of the card.
        cost: what the attacker spent.
        wrong: share of `draws` fresh draws in which a random defence answers wrongly; None for
            defences that do not draw.
    """

    name: RungName
    how: str
    attacked: Prediction
    verdict: Verdict
    cost: Cost
    linf: float
    wrong: float | None = None
    draws: int = 0
    png: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Card:
    """One method on one image: plain data that page, API, export and benchmark share.

    `attacked` is None while the attack still runs; `error` replaces both predictions.
    `reference` is the label all verdicts refer to, `right` are all labels that count as it, and
    `pseudo` says that it is the undefended model's own clean answer rather than a person's.
    `attacked` and `verdict` belong to the attacker who does not know the defence; `ladder` holds
    every attacker that was tried, that one first. A card is yielded again whenever it grows.
    """

    method: str
    title: str
    paradigm: Paradigm
    reference: str
    pseudo: bool
    device: str
    clean: Prediction | None = None
    attacked: Prediction | None = None
    verdict: Verdict | None = None
    cost: Cost | None = None
    slowdown: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    flags: tuple[str, ...] = ()
    attack: AttackReport | None = None
    error: str | None = None
    right: tuple[str, ...] = ()
    ladder: tuple[Rung, ...] = ()

    @property
    def broken_by(self) -> Rung | None:
        """The first rung that fooled the defence."""
        return next((rung for rung in self.ladder if rung.verdict == "fooled"), None)

    @property
    def overall(self) -> Verdict | None:
        """The verdict against the strongest attacker that was tried."""
        return "fooled" if self.broken_by else self.verdict

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types; every PNG becomes its length in bytes."""
        data = asdict(self)
        for part in (data["attack"] or {}, *data["ladder"]):
            if "png" in part:
                part["png"] = len(part["png"])
        return data


@runtime_checkable
class Encoder(Protocol):
    """A target that is more than a function: a zero-shot model with features and label words."""

    labels: tuple[str, ...]

    def __call__(self, x: Images) -> Logits:
        """(B, 3, H, W) -> (B, K) logits."""
        ...

    def encode_image(self, x: Images, normalize: bool = True) -> Features:
        """(B, 3, H, W) -> (B, D) image features."""
        ...

    def logits(self, features: Features) -> Logits:
        """(B, D) unit-norm image features -> (B, K) logits."""
        ...

    def universal(self) -> Images:
        """(1, 3, H, W) a perturbation made for this model in advance."""
        ...


class Attack(Protocol):
    """Pixels in, adversarial pixels out, through a function that maps pixels to logits."""

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """Return the best iterate found for every image."""
        ...


class Defense(Protocol):
    """One signature for the three paradigms."""

    adaptive: Adaptive
    stochastic: bool

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """Classify `x` under the defence, in the ambient grad mode."""
        ...
