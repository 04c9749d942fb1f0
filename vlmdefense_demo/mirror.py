"""What CLIPure-Cos makes of attacked pictures, counted: the figures of docs/measurements.md.

At its published step length a feature that is far from the blank ends as its own mirror image, whose
first answer is what the picture looks least like. An attack that pushes the right label to the last
place then makes the defence look good. Here it is counted how often, on the benchmark's pictures and
on images made for the undefended model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.benchmark.plan import UNDEFENDED, Plan, settings
from vlmdefense_demo.benchmark.scene import Scene
from vlmdefense_demo.benchmark.tasks import Task
from vlmdefense_demo.defenses.training_free.clipure import MODES, CLIPureCos
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.types import Images


@dataclass(frozen=True)
class Seen:
    """One picture each row, (B,) all: what the defence made of them.

    Args:
        before: answered rightly without the defence.
        after: answered rightly with it.
        changed: the two answers differ.
        mirrored: the cosine of the feature with the one it started from is negative.
        last: the right label is the undefended model's last.
        slopes: (B, 3) norm of the gradient at the picture over the undefended model's, by mode.
    """

    before: Tensor
    after: Tensor
    changed: Tensor
    mirrored: Tensor
    last: Tensor
    slopes: Tensor


COLUMNS = (
    "radius", "undefended right", "CLIPure-Cos right", "answer changed", "mirrored",
    "right and mirrored", "right, and last undefended", *(f"gradient, {mode}" for mode in MODES),
)  # fmt: skip


def table(backbone: Backbone, asked: Sequence[Task], eps: Sequence[float]) -> Iterator[str]:
    """Lines of a Markdown table, a radius a row, the clean pictures first.

    Args:
        eps: radii in units of 1/255.
    """
    plan = Plan(settings(UNDEFENDED), eps=tuple(eps), steps=("transfer",))
    found: dict[float, list[Seen]] = {radius: [] for radius in (0.0, *eps)}
    for task in tqdm(asked, desc="mirror", mininterval=5):
        scene = Scene(plan, backbone, task, seed=0)
        scene.prepare()
        for radius, seen in found.items():
            seen.append(_look(scene, scene.attacked(radius)[0] if radius else scene.x))
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for radius, seen in found.items():
        yield f"| {radius:g}/255 | {' | '.join(_cells(seen))} |"


def _look(scene: Scene, x: Images) -> Seen:
    method, right = CLIPureCos(), scene.goal.labels
    run = scene.run.child("judge")
    shares = [
        method.gradient_shares(scene.clf, x[i : i + 1], int(label), run=run.select([i]))
        for i, label in enumerate(right)
    ]
    with torch.no_grad():
        features, plain = scene.judge.encode_image(x), scene.judge(x)
        result = method(scene.judge, x, run=run)
        assert result.features is not None
        answer, own = result.logits.argmax(1), plain.argmax(1)
        return Seen(
            before=own == right,
            after=answer == right,
            changed=own != answer,
            mirrored=(features * result.features).sum(1) < 0,
            last=plain.argmin(1) == right,
            slopes=torch.tensor(shares),
        )


def _cells(seen: Sequence[Seen]) -> Iterator[str]:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in seen])

    after, mirrored = joined("after"), joined("mirrored")
    counted = (
        joined("before"), after, joined("changed"), mirrored, after & mirrored,
        after & joined("last"),
    )  # fmt: skip
    for which in counted:
        yield f"{100 * float(which.float().mean()):.1f} %"
    for share in joined("slopes").median(0).values.tolist():
        yield f"{share:.1g}"
