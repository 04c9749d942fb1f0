"""The survey as data: one typed row a method. Adding a method is one file and one row here.

After Fu & Zhang, "Adversarial defence in vision-language models" (ICICML 2025), which sorts
defences into three paradigms. Pages, endpoints, command lines, tables and contract tests are
generated from these rows; classes are imported when they are first needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from vlmdefense_demo.errors import UnknownMethod
from vlmdefense_demo.spec import Parameters, build, fields
from vlmdefense_demo.types import Paradigm

Status = Literal["faithful", "simplified", "weights needed"]


@dataclass(frozen=True)
class Entry:
    """One method.

    Args:
        idea: what it does, in one sentence a student understands.
        cost: passes per image in words; `expected_cost` of the class is the same in numbers.
        status: "faithful", "simplified" (the class docstring says how) or "weights needed".
        flags: ids of the warnings its card always carries (see `FLAGS`).
        implementation: "module:Class" below the package.
    """

    id: str
    title: str
    kind: Literal["attack", "defense"]
    paradigm: Paradigm
    paper: str
    venue: str
    year: int
    url: str
    licence: str
    status: Status
    idea: str
    cost: str
    implementation: str
    flags: tuple[str, ...] = ()

    @property
    def cls(self) -> type[Parameters]:
        """The method's dataclass."""
        module, name = self.implementation.split(":")
        return getattr(import_module(f"vlmdefense_demo.{module}"), name)

    @property
    def adjustable(self) -> bool:
        """Whether the method has any parameter."""
        return bool(fields(self.cls))

    def build(self, values: dict[str, Any] | None = None) -> Any:
        """An instance from display-unit values; raises InvalidParameter."""
        return build(self.cls, values)

    def public(self) -> dict[str, Any]:
        """The row and its parameters as JSON types."""
        return {
            "id": self.id,
            "title": self.title,
            "kind": self.kind,
            "paradigm": self.paradigm,
            "paper": self.paper,
            "venue": self.venue,
            "year": self.year,
            "url": self.url,
            "licence": self.licence,
            "status": self.status,
            "idea": self.idea,
            "cost": self.cost,
            "flags": list(self.flags),
            "parameters": [f.schema() for f in fields(self.cls)],
        }


PARADIGMS: dict[Paradigm, tuple[str, str]] = {
    "training_time": ("Training-time", "paid once, before anyone asks"),
    "test_time": ("Test-time adaptation", "paid on every image"),
    "training_free": ("Training-free", "no weight ever changes"),
}

FLAGS: dict[str, tuple[str, str]] = {
    "randomised": (
        "randomised",
        "The answer depends on a random draw. An attacker averages over draws; one held image "
        "may be luck. Repeat with another seed.",
    ),
    "adapts": (
        "optimises at test time",
        "Parameters or pixels are optimised for each image. Attacks made against the undefended "
        "model say little about an attacker who optimises through it.",
    ),
    "unaware": (
        "attacker unaware",
        "The attack was made against the undefended model. Held means: not broken by transfer. "
        "It does not mean robust.",
    ),
}

SURVEY: dict[str, Entry] = {
    e.id: e
    for e in (
        Entry("fgsm", "FGSM", "attack", "none",
              "Explaining and Harnessing Adversarial Examples", "ICLR", 2015,
              "https://arxiv.org/abs/1412.6572", "own code", "faithful",
              "One step of the full radius along the sign of the gradient.",
              "1 f + 1 b, and 1 f to verify the file", "attacks.pgd:FGSM"),
        Entry("pgd", "PGD", "attack", "none",
              "Towards Deep Learning Models Resistant to Adversarial Attacks", "ICLR", 2018,
              "https://arxiv.org/abs/1706.06083", "own code", "faithful",
              "Small steps along the sign of the gradient, each pulled back into the ball.",
              "at most N f + N b, and 1 f to verify the file", "attacks.pgd:PGD"),
        Entry("fare", "FARE", "defense", "training_time",
              "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings", "ICML",
              2024, "https://arxiv.org/abs/2402.12336",
              "authors' code MIT; embedded weights own", "faithful",
              "The image tower was fine-tuned, without labels, to keep its embeddings under attack.",
              "1 f", "defenses.training_time.fare:FARE", ("unaware",)),
        Entry("rtpt", "R-TPT", "defense", "test_time",
              "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
              "CVPR", 2025, "https://arxiv.org/abs/2504.11195",
              "authors' code without licence; own code", "faithful",
              "One step tunes the prompt on confident views; views with close neighbours vote.",
              "V f, text 2 C f + C b", "defenses.test_time.rtpt:RTPT",
              ("unaware", "adapts", "randomised")),
        Entry("ttc", "TTC", "defense", "training_free",
              "CLIP is Strong Enough to Fight Back: Test-time Counterattacks", "CVPR", 2025,
              "https://arxiv.org/abs/2503.03613", "authors' code without licence; own code",
              "faithful",
              "If noise hardly moves the image's feature, push the image away from that feature.",
              "(N + 2) f + N b; 3 f while the gate stays shut", "defenses.training_free.ttc:TTC",
              ("unaware", "adapts", "randomised")),
    )
}  # fmt: skip


def entry(id: str, kind: Literal["attack", "defense"] | None = None) -> Entry:
    """The row of a method.

    Raises:
        UnknownMethod: no such id, or it is of the other kind.
    """
    known = methods(kind)
    if id not in known:
        raise UnknownMethod(f"Unknown {kind or 'method'} {id!r}.", f"Known: {', '.join(known)}.")
    return known[id]


def methods(
    kind: Literal["attack", "defense"] | None = None, paradigm: Paradigm | None = None
) -> dict[str, Entry]:
    """The rows of one kind, or of one paradigm, in the survey's order."""
    return {
        e.id: e
        for e in SURVEY.values()
        if kind in (None, e.kind) and paradigm in (None, e.paradigm)
    }
