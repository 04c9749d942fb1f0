"""What a benchmark measures, as data: which defences with which settings, against whom."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.errors import InvalidParameter, UnknownMethod
from vlmdefense_demo.geometry import LEVELS, Ball
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.ladder import INTERACTIVE, Budget
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.variants import variants
from vlmdefense_demo.request import AWARE
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import literal, shown
from vlmdefense_demo.survey import defender, entry
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, RungName

UNDEFENDED = "undefended"
Step = Literal["clean", "transfer", "white_box", "adaptive", "black_box", "latency", "gradient"]
STEPS: tuple[Step, ...] = get_args(Step)
WITHOUT_RADIUS: tuple[Step, ...] = ("clean", "latency", "gradient")


@dataclass(frozen=True)
class Undefended(Defender):
    """The model itself, as the row all others are compared with."""

    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    recipe: ClassVar[str] = "The model itself is differentiated."

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> the model's own logits."""
        return DefenseResult(clf(x))

    def expected_cost(self, n_labels: int) -> Cost:
        """One image forward."""
        return Cost(image_forward=1)


@dataclass(frozen=True)
class Setting:
    """A defence with its parameters.

    Args:
        id: of the survey, or "undefended".
        values: parameters in display units that differ from the defaults.
    """

    id: str
    values: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Defender:
        """The defence.

        Raises:
            UnknownMethod, InvalidParameter: it cannot be built as asked.
        """
        if self.id == UNDEFENDED:
            return Undefended()
        method: Defender = entry(self.id, "defense").build(dict(self.values))
        return method

    @property
    def kin(self) -> Setting | None:
        """The simpler defence whose adversarial images carry over, with as many views, if there is one."""
        method = self.build()
        if not method.kin:
            return None
        plain, views = Setting(method.kin), shown(method)["views"]
        return (
            plain if shown(plain.build())["views"] == views else Setting(plain.id, {"views": views})
        )

    @property
    def attacked(self) -> str:
        """The name of the setting its adaptive attacker differentiates; siblings may have it in common."""
        method = self.build()
        own, other = shown(method), shown(method.attacked())
        return Setting(self.id, self.values | {k: v for k, v in other.items() if v != own[k]}).name

    def weights(self, model: str) -> list[str]:
        """Checksums, or addresses, of all that was trained for this defence and a model."""
        if self.id == UNDEFENDED:
            return []
        trained = [defender(row).weights for row in entry(self.id, "defense").rows]
        found = (v for method in trained if method for v in variants(model, method))
        return sorted(v.sha256 or v.source for v in found)

    @property
    def name(self) -> str:
        """ "rtpt:views=8": how it is asked for, and what the table calls it."""
        return ":".join([self.id, *(f"{k}={v}" for k, v in sorted(self.values.items()))])


def settings(text: str) -> tuple[Setting, ...]:
    """ "fare,rtpt:views=8/16:steps=1" -> FARE, and R-TPT at 8 and at 16 views.

    Raises:
        UnknownMethod, InvalidParameter: one of them cannot be built.
    """
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        id, *pairs = item.split(":")
        grid = [_choices(item, pair) for pair in pairs]
        found += [Setting(id, dict(values)) for values in itertools.product(*grid)]
    if len({s.name for s in found}) < len(found):
        raise InvalidParameter(f"--defenses names the same thing twice: {text}.")
    for setting in found:
        setting.build()
    return tuple(found)


def _choices(item: str, pair: str) -> list[tuple[str, Any]]:
    name, equals, values = pair.partition("=")
    if not (name and equals and values):
        raise InvalidParameter(f"--defenses expects ID:FIELD=VALUE/VALUE, got {item!r}.")
    return [(name, literal(text)) for text in values.split("/")]


@dataclass(frozen=True)
class Plan:
    """Everything that could change a row, but for the picture.

    Args:
        defenses: in the order of the table; settings of one defence are attacked together.
        attack: of the survey, made once a radius against the undefended model, at full budget.
        attack_values: its parameters in display units, without the radius.
        eps: radii in grey levels, ascending.
        steps: "clean", "transfer", the attackers who know the defence, in the order they climb,
            "latency", the time of a single picture, and "gradient", the checks of masking.py.
        budget: of those attackers.
        seeds: of all draws; several make several rows a picture.
    """

    defenses: tuple[Setting, ...]
    eps: tuple[float, ...] = (1.0, 2.0, 4.0)
    attack: str = "pgd"
    attack_values: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ("clean", "transfer")
    budget: Budget = INTERACTIVE
    seeds: tuple[int, ...] = (0,)
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        unknown = set(self.steps) - set(STEPS)
        if unknown:
            raise InvalidParameter(
                f"Unknown step {sorted(unknown)[0]!r}.", f"Known: {', '.join(STEPS)}."
            )
        if not self.defenses or not self.steps or not self.seeds:
            raise InvalidParameter("There is nothing to measure.", "Name a defence and a step.")
        if list(self.eps) != sorted(set(self.eps)) or not self.eps:
            raise InvalidParameter("--eps expects different radii, the smallest first.")
        for eps in self.eps:
            self.attacker(eps)
            Ball("linf", eps / LEVELS)

    @property
    def rungs(self) -> tuple[RungName, ...]:
        """The attackers who know the defence, in the order they climb."""
        return tuple(step for step in self.steps if step in AWARE)

    def abroad(self) -> Plan:
        """The same in other worlds, where nobody climbs and time is no other."""
        steps = tuple(step for step in self.steps if step in ("clean", "transfer"))
        return replace(self, steps=steps)

    def attacker(self, eps: float) -> Attacker:
        """The attack at one radius.

        Raises:
            UnknownMethod, InvalidParameter: it cannot be built, or has no such radius.
        """
        attacker: Attacker = entry(self.attack, "attack").build(self.attack_values | {"eps": eps})
        if attacker.needs or not attacker.interactive:
            raise UnknownMethod(f"{self.attack} cannot be used here.", "Choose pgd or apgd_ce.")
        return attacker

    def groups(self) -> list[tuple[Setting, ...]]:
        """Settings of the same defence, which are attacked together."""
        ids = dict.fromkeys(s.id for s in self.defenses)
        return [tuple(s for s in self.defenses if s.id == id) for id in ids]

    def cells(self, group: Sequence[Setting]) -> list[tuple[Setting, Step, float]]:
        """What a batch must have of a group, radius 0 where none matters."""
        found: list[tuple[Setting, Step, float]] = []
        for setting in group:
            found += [(setting, step, 0.0) for step in WITHOUT_RADIUS if step in self.steps]
            found += [
                (setting, step, eps)
                for eps in self.eps
                for step in ("transfer", *self.rungs)
                if step in self.steps
            ]
        return found

    def conditions(self, step: Step) -> dict[str, Any]:
        """What all rows of a step have in common, whatever the defence; a table mixes no two of them."""
        about: dict[str, Any] = {"template": self.template}
        if step not in WITHOUT_RADIUS:
            about["attack"] = {self.attack: self.attack_values}
        if step in AWARE:
            # Radii build on one another, and so do the attackers.
            about |= {
                "budget": str(self.budget),
                "rungs": self.rungs[: self.rungs.index(step) + 1],
                "radii": self.eps,
            }
        return about

    def company(
        self, group: Sequence[Setting], setting: Setting, step: Step, model: str
    ) -> dict[str, Any]:
        """What a row's defence is: its settings and weights, and those of the siblings before it.

        Pictures that broke one setting are tried on those after it.
        """
        before = group[: group.index(setting)] if step in AWARE else ()
        about: dict[str, Any] = {
            "settings": shown(setting.build()), "before": [s.name for s in before]
        }  # fmt: skip
        if step == "adaptive" and setting.attacked != setting.name:
            about["attacked"] = setting.attacked
        if weights := setting.weights(model):
            about["weights"] = weights
        return about


def digest(*parts: Any) -> str:
    """A short name of JSON-able data."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
