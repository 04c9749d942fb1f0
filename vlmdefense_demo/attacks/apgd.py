"""Auto-PGD: momentum, and a step size that halves itself when progress stalls.

Source: Croce & Hein, ICML 2020 (arXiv 2003.01690). The operations keep the reference code's order,
so iterates are bit-identical to it; bookkeeping is by `torch.where`, without a wait for the device.
Differs in what it returns: the successful iterate with the largest margin (reference: the last
successful one), or the one with the largest loss (reference: the clean image), and it skips the
backward pass after the last step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Best
from vlmdefense_demo.attacks.base import Attacker, Eps, Radius
from vlmdefense_demo.attacks.rows import choose, put, take
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.losses import LOSSES, dlr_targeted, margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Goal, Images, LogitFn, Logits

MOMENTUM = 0.75
RISES = 0.75
TARGETS = 9
Value = Callable[[Logits], Tensor]  # (B, K) -> (B,) what is ascended
Select = Callable[[Tensor], Value]  # rows of the batch -> their value
Try = tuple[str, Select, Tensor]  # a name, the value, and (B,) bool: the images it is for


@dataclass
class Schedule:
    """Per-image step sizes, halved at checkpoints where the loss rose too seldom or not at all."""

    steps: int
    size: Tensor  # (B, 1, 1, 1)
    best: Tensor  # (B,) the best loss at the last checkpoint
    previous: Tensor  # (B,) the loss one step ago; the reference counts the first from zero
    rises: Tensor  # (B,) since the last checkpoint
    halved: Tensor  # (B,) bool, at the last checkpoint
    wait: int = 0
    since: int = field(default=0, init=False)

    @classmethod
    def of(cls, steps: int, size: float, loss: Tensor) -> Schedule:
        """Before the first step; `loss` is that of the start."""
        unset, rises = torch.zeros_like(loss), torch.zeros_like(loss)
        size_of = torch.full_like(loss, size)[:, None, None, None]
        halved = torch.ones_like(loss, dtype=torch.bool)
        wait = max(int(0.22 * steps), 1)
        return cls(steps, size_of, loss, unset, rises, halved, wait)

    def halve(self, loss: Tensor, best: Tensor) -> Tensor | None:
        """Note one step; at a checkpoint (B,) bool, which images halve and restart."""
        self.rises.add_(loss > self.previous)
        self.previous = loss
        self.since += 1
        if self.since < self.wait:
            return None
        stuck = ~self.halved & (self.best >= best)
        self.halved = (self.rises <= RISES * self.wait) | stuck
        self.best, self.rises, self.since = best, torch.zeros_like(best), 0
        shorter, least = max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1)
        self.wait = max(self.wait - shorter, least)
        self.size = torch.where(self.halved[:, None, None, None], self.size / 2, self.size)
        return self.halved


def apgd(  # noqa: PLR0913 - the loop's whole state comes from outside
    target: LogitFn,
    x0: Images,
    start: Images,
    value: Value,
    goal: Goal,
    ball: Ball,
    steps: int,
    run: Run,
    enough: float = torch.inf,
    keep: Literal["best", "last"] = "best",
) -> tuple[Images, Tensor]:
    """Ascend `value` of the logits from `start`; N steps cost N + 1 forwards and N backwards.

    Args:
        goal: what counts as success, and whose margin ends an image at `enough`.
        keep: which successful iterate is delivered; "last" is the reference's choice.

    Returns:
        (B, 3, H, W) iterates, and (B,) the best margin seen.
    """
    x, old = start.detach(), start.detach()
    best = Best.of(x, enough)
    last, top = x, x

    def look(x: Images, slope: bool) -> tuple[Tensor, Tensor]:
        """Loss and gradient at an iterate; margins go to the books."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(slope)
            logits = target(leaf)
            loss = value(logits)
            reached = goal.maximise(logits.detach(), margin)
            run.record("margin", reached)
            best.update(x, reached)
            nonlocal last
            if keep == "last":
                last = choose(reached > 0, x, last)
            if not slope:
                return loss.detach(), torch.empty(0)
            return loss.detach(), torch.autograd.grad(loss, leaf, torch.ones_like(loss))[0]

    step = _stepper(x0, ball)
    loss, gradient = look(x, True)
    top_loss, top_gradient = loss, gradient
    schedule = Schedule.of(steps, 2.0 * ball.radius, loss)
    for i in range(steps):
        run.step(i, steps)
        if best.finished(i):
            break
        x, old = step(x, old, gradient, schedule.size, MOMENTUM if i else 1.0), x
        loss, gradient = look(x, i + 1 < steps)
        if not gradient.numel():
            top = choose(loss > top_loss, x, top)
            break
        better = loss > top_loss
        top = choose(better, x, top)
        top_gradient = choose(better, gradient, top_gradient)
        top_loss = torch.where(better, loss, top_loss)
        restart = schedule.halve(loss, top_loss)
        if restart is not None:
            x = choose(restart, top, x)
            gradient = choose(restart, top_gradient, gradient)
    return choose(best.margin > 0, best.images if keep == "best" else last, top), best.margin


def _stepper(x0: Images, ball: Ball) -> Callable[[Images, Tensor, Tensor, Tensor, float], Images]:
    """One step with momentum, inside the ball: (x, the x before, gradient, size, a) -> the next."""
    radius = ball.radius
    # Clamping to both sets at once selects the same values as one after the other.
    low, high = (x0 - radius).clamp_min(0.0), (x0 + radius).clamp_max(1.0)
    scratch = torch.empty_like(x0)  # new memory costs a CPU more than what is written to it

    def linf(x: Images, old: Images, gradient: Tensor, size: Tensor, a: float) -> Images:
        # A sign, and 1 - a, 0 or a quarter, scale exactly: sums round once, fused or not.
        ahead = torch.addcmul(x, torch.sign(gradient, out=scratch), size).clamp_(low, high)
        ahead.sub_(x).mul_(a).add_(x)
        return ahead.add_(torch.sub(x, old, out=scratch), alpha=1 - a).clamp_(low, high)

    def l2(x: Images, old: Images, gradient: Tensor, size: Tensor, a: float) -> Images:
        ahead = _into_l2(x + size * _unit(gradient), x0, radius)
        return _into_l2(x + (ahead - x) * a + (x - old) * (1 - a), x0, radius)

    return l2 if ball.norm == "l2" else linf


def _into_l2(x: Images, x0: Images, radius: float) -> Images:
    delta = x - x0
    length = torch.min(radius * torch.ones_like(x), _length(delta))
    return (x0 + _unit(delta) * length).clamp(0.0, 1.0)


def _length(delta: Tensor) -> Tensor:
    return (delta**2).flatten(1).sum(-1).sqrt()[:, None, None, None]


def _unit(delta: Tensor) -> Tensor:
    return delta / (_length(delta) + 1e-12)


def random_start(x: Images, ball: Ball, run: Run) -> Images:
    """A random direction, stretched to the ball's surface."""
    if ball.norm == "l2":
        return (x + ball.radius * _unit(run.normal(x))).clamp(0.0, 1.0)
    noise = run.uniform(x, -1, 1)
    widest = noise.abs().flatten(1).amax(1)[:, None, None, None]
    return noise.div_(widest + 1e-12).mul_(ball.radius).add_(x).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class AutoPGD(Attacker):
    """What the three attacks share: the ball, the budget, restarts on what still stands."""

    norm: Annotated[str, Choice(("linf", "l2")), "which ball"] = "linf"
    eps: Eps = 4 / 255
    radius: Radius = 3.0
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 50
    restarts: Annotated[int, Range(0, 4, 1), "extra random starts"] = 0
    stop_early: Annotated[bool, "stop one logit past the boundary"] = False

    @property
    def ball(self) -> Ball:
        """L-infinity of radius eps, or L2 of radius radius."""
        return Ball("l2", self.radius) if self.norm == "l2" else Ball("linf", self.eps)

    @property
    def enough(self) -> float:
        """The margin at which an image is finished."""
        return PAST_BOUNDARY if self.stop_early else torch.inf

    @abstractmethod
    def losses(self, target: LogitFn, x: Images, goal: Goal) -> Iterator[Try]:
        """What to ascend, one after the other, each from its own random start."""

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        images = x
        best = torch.full((len(x),), -torch.inf, device=x.device)
        for name, select, among in self.losses(target, x, goal):
            for i in range(self.restarts + 1):
                rows = ((best < self.enough) & among).nonzero().squeeze(1)
                if not len(rows):
                    break
                here = run.child(f"{name}{i}").select(rows.tolist())
                if len(rows) < len(x):  # a series of some rows cannot stand beside one of all
                    here = replace(here, trace={})
                clean = take(x, rows)
                start = random_start(clean, self.ball, here)
                found, reached = apgd(
                    target, clean, start, select(rows), goal.select(rows), self.ball, self.steps,
                    here, self.enough,
                )  # fmt: skip
                kept = choose(reached > best[rows], found, take(images, rows))
                images = put(images, rows, kept)
                best = best.index_copy(0, rows, torch.maximum(reached, best[rows]))
        return images


@dataclass(frozen=True)
class APGDCE(AutoPGD):
    """Auto-PGD on the cross-entropy."""

    def losses(self, target: LogitFn, x: Images, goal: Goal) -> Iterator[Try]:
        """Cross-entropy of the label to leave, or minus that of the target."""
        yield "ce", _of_goal(goal, "ce"), _all(x)


@dataclass(frozen=True)
class APGDDLR(AutoPGD):
    """Auto-PGD on the difference of logits ratio, which no temperature can flatten.

    Needs three labels, and has no target.
    """

    def losses(self, target: LogitFn, x: Images, goal: Goal) -> Iterator[Try]:
        """DLR of the label to leave."""
        if goal.targeted:
            raise InvalidParameter(
                "The DLR loss is for untargeted attacks.", "Choose APGD-T or APGD-CE for a target."
            )
        yield "dlr", _of_goal(goal, "dlr"), _all(x)


@dataclass(frozen=True)
class APGDT(AutoPGD):
    """Auto-PGD towards the strongest wrong labels in turn, at most nine; any wrong answer counts.

    Below four labels the targeted DLR loss has no meaning and the margin to the target stands in.
    With a target of one's own only that one is approached, by its margin.
    """

    steps: Annotated[int, Range(1, 200, 1), "gradient steps for each target"] = 50

    def expected_steps(self, n_labels: int) -> int:
        """As many for every target."""
        return min(TARGETS, n_labels - 1) * super().expected_steps(n_labels)

    def losses(self, target: LogitFn, x: Images, goal: Goal) -> Iterator[Try]:
        """Targeted DLR against each wrong label, strongest first; 1 forward to rank them."""
        if goal.targeted:
            yield "t", _of_goal(goal, "margin"), _all(x)
            return
        with torch.no_grad():
            logits = target(x)
        allies = goal.allies(logits)
        ranked = logits.masked_fill(allies, -torch.inf).argsort(1, descending=True)
        wrong = (~allies).sum(1)
        for i in range(min(TARGETS, int(wrong.max()))):
            yield f"t{i}", _towards(goal, ranked[:, i]), wrong > i


def _of_goal(goal: Goal, loss: str) -> Select:
    def select(rows: Tensor) -> Value:
        own = goal.select(rows)
        return lambda logits: own.maximise(logits, LOSSES[loss])

    return select


def _towards(goal: Goal, target: Tensor) -> Select:
    def select(rows: Tensor) -> Value:
        own, aim = goal.select(rows), target[rows]
        return lambda logits: own.maximise(logits, partial(dlr_targeted, target=aim))

    return select


def _all(x: Images) -> Tensor:
    return torch.ones(len(x), dtype=torch.bool, device=x.device)
