"""What all cards of one comparison share: the undefended model, the goal, the adversarial file.

The stage, not the attack, quantises, encodes and judges, so an attack cannot cheat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

import torch

from vlmdefense_demo import __version__, masking
from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.failures import noted
from vlmdefense_demo.images import from_png, to_array, to_png
from vlmdefense_demo.judging import find_label, judge, predict
from vlmdefense_demo.measure import distances
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Meter, Progress, Run
from vlmdefense_demo.spec import shown
from vlmdefense_demo.types import (
    AttackReport,
    Card,
    Cost,
    DefenseResult,
    Goal,
    Images,
    Note,
    Prediction,
)

T = TypeVar("T")
# One run of a few milliseconds says little about its time on a shared machine.
SHORT = 0.5
NOISES = 8
LOOKS = "where the model looks"


class Stage:
    """Lives and dies with the iterator of its comparison."""

    def __init__(
        self,
        request: Request,
        backbone: Backbone,
        on_progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self.request = request
        self.meter = Meter(backbone.device)
        labels, groups = request.words()
        self.groups = torch.tensor(groups, device=backbone.device)
        # Losses need fewer operations where every label counts alone.
        self._teams = self.groups if len(set(groups)) < len(groups) else None
        with torch.no_grad():
            self.clf = ZeroShotClassifier(
                backbone, labels, request.template, meter=self.meter, learned=request.learned
            )
        self.x = backbone.place(request.image)
        self.adversarial: Images | None = None
        self.goal: Goal | None = None
        digest = hashlib.blake2b(to_array(self.x).tobytes(), digest_size=8).hexdigest()
        self.run = Run(
            request.seed, (digest,), "", self.meter, on_progress, should_stop=should_stop
        )
        self.card = Card("undefended", "Undefended", "none", "", True, str(backbone.device))

    def undefended(self) -> Card:
        """The clean row, and the label every verdict refers to."""
        clean, cost = self._plain(self.x)
        labels, wanted = self.clf.labels, self.request.reference
        index = clean.index if wanted is None else find_label(labels, wanted)
        own = self.groups == self.groups[index]
        self.card = replace(
            self.card,
            clean=clean,
            cost=cost,
            reference=labels[index],
            right=tuple(w for w, same in zip(labels, own.tolist(), strict=True) if same),
            pseudo=wanted is None,
        )
        return self.card

    def attack(self, id: str) -> Card:
        """Make the file, measure the file, classify the file."""
        attacker = self.request.attacker()
        assert attacker is not None
        run = self.run.child(id)
        self.goal = goal = self._goal()
        with self.meter.stage() as cost:
            raw = attacker(self.clf, self.x, goal, run=run)
            png = self.png(attacker.ball.quantise(raw, self.x), {})
            self.adversarial = self.clf.backbone.place(from_png(png))
            with torch.no_grad():
                success = bool(goal.reached(self.clf(self.adversarial)))
        # Before the measures of the picture: for a while after SSIM every forward is slower.
        attacked, plain = self._plain(self.adversarial)
        report = AttackReport(
            method=id,
            params=shown(attacker),
            success=success,
            targeted=goal.targeted,
            steps_used=cost.image_backward,
            cost=cost,
            png=png,
            margins=tuple(float(m) for m in run.trace.get("margin", ())),
            **distances(to_array(self.x), to_array(self.adversarial)),
        )
        self.card = replace(
            self.card,
            attacked=attacked,
            cost=plain,
            slowdown=1.0,
            attack=report,
            verdict=judge(self.card.clean, attacked, self.card.right),
        )
        return self.card

    def resume(self, card: Card) -> None:
        """Stand where an earlier run of the same request stood: its answers, its file."""
        assert card.attack is not None
        self.card = card
        self.goal = self._goal()
        self.adversarial = self.clf.backbone.place(from_png(card.attack.png))

    def look(self) -> Card:
        """Where the undefended model looks on the clean and on the attacked picture."""
        assert self.adversarial is not None
        answers = [p.label for p in (self.card.clean, self.card.attacked) if p is not None]
        with noted(LOOKS, self._note, before=""):
            seen = [self.clf.look(x) for x in (self.x, self.adversarial)]
            grids = [grid[0].cpu().tolist() for grid, _ in seen]
            value = {"how": seen[0][1], "clean": grids[0], "attacked": grids[1], "answers": answers}
            self._note(Note(LOOKS, value, "maps"))
        return self.card

    def check(self) -> Card:
        """GM1, GM9 and GM14, on the undefended model; the first two compare changes of every pixel."""
        with noted("gradient checks", self._note):
            self.card = replace(self.card, flags=self._flags())
        return self.card

    def _flags(self) -> tuple[str, ...]:
        report, goal, attacker = self.card.attack, self.goal, self.request.attacker()
        assert report is not None
        assert goal is not None
        assert attacker is not None
        fooled = self.card.verdict != "held"
        flags = masking.stalled(report.margins, report.success)
        hit = self.card.verdict != "wrong_clean"  # else the answer was wrong before any noise
        if report.linf and hit and attacker.ball.norm == "linf":
            flags += masking.canary(report.linf, fooled, goal.targeted)
            copies = self.x.expand(NOISES, -1, -1, -1)
            run = replace(self.run.child("noise check"), ids=tuple(map(str, range(NOISES))))
            noise = run.levels(copies, int(report.linf))
            with torch.no_grad():
                answers = self.clf((copies + noise).clamp(0, 1))
            flags += masking.noise_fools(answers, goal)
        return flags

    def _note(self, note: Note) -> None:
        self.card = replace(self.card, notes=(*self.card.notes, note))

    def png(self, x: Images, more: dict[str, Any]) -> bytes:
        """A file that says how it was made."""
        request, attacker = self.request, self.request.attacker()
        labels = list(self.clf.labels)
        about = {
            "model": self.clf.backbone.name,
            "labels": labels,
            "groups": self.groups.tolist(),
            "labels_hash": hashlib.blake2b("\n".join(labels).encode(), digest_size=8).hexdigest(),
            "template": self.clf.template,
            "attack": request.attack,
            "params": shown(attacker) if attacker is not None else {},
            "goal": request.aim.kind,
            "target": request.aim.text,
            "truth": request.reference,
            "seed": request.seed,
            "version": __version__,
        }
        return to_png(x, about | more)

    def timed(self, classify: Callable[[], T]) -> tuple[T, Cost]:
        """One run's result and passes; the seconds of a short run are the median of repeats.

        The first of several is left out: it pays for what ran before it (caches, freed memory).
        """
        seconds: list[float] = []
        while True:
            with torch.no_grad(), self.meter.stage() as cost:
                result = classify()
            seconds.append(cost.seconds)
            if cost.seconds > SHORT or len(seconds) == 1 + self.request.repeats:
                return result, replace(cost, seconds=median(seconds[1:] or seconds))

    def _plain(self, x: Images) -> tuple[Prediction, Cost]:
        result, cost = self.timed(lambda: DefenseResult(self.clf(x)))
        return predict(self.clf.labels, result.logits)[0], cost

    def _goal(self) -> Goal:
        """The aim as positions in the label list, given the clean answer."""
        aim, features = self.request.aim, None
        assert self.card.clean is not None
        right = self.clf.labels.index(self.card.reference)
        own = self.groups == self.groups[right]
        said = self.groups == self.groups[self.card.clean.index]
        logits = torch.tensor(self.card.clean.logits, device=self.groups.device)
        if aim.kind == "wrong":
            return Goal(torch.tensor([right], device=self.x.device), groups=self._teams)
        if aim.kind == "runner-up":
            index = int(logits.masked_fill(own | said, -torch.inf).argmax())
        elif aim.kind == "least likely":
            index = int(logits.masked_fill(own | said, torch.inf).argmin())
        elif aim.kind == "picture":
            assert aim.picture is not None
            with torch.no_grad():
                features = self.clf.encode_image(aim.picture.to(self.x))
            index = int(self.clf.logits(features).argmax())
        else:
            index = find_label(self.clf.labels, aim.word)
            features = self.clf.text_features[index][None]
        if bool((own | said)[index]):
            what = "already the answer" if said[index] else "the right answer"
            raise InvalidLabels(
                f"The target “{self.clf.labels[index]}” is {what}.", "Choose another target."
            )
        return Goal(torch.tensor([index], device=self.x.device), True, self._teams, features)
