"""Typographic: write a word on the picture. No gradient, no norm, and every person can see it.

Source: Goh et al., "Multimodal Neurons in Artificial Neural Networks", Distill 2021. CLIP learned
from images with text in them, so it reads; norm-ball defences never saw this coming.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated

import torch
from PIL import Image, ImageDraw

from vlmdefense_demo.attacks.base import Attacker, encoder
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import Ball, from_levels, to_levels
from vlmdefense_demo.lettering import lettering
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Encoder, Goal, Images, LogitFn

CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
SIZES = (1.0, 1.5)
BOXED = (True, False)
EDGE = 4


@dataclass(frozen=True)
class Typographic(Attacker):
    """Sixteen variants (four places, two sizes, white box or outline); the worst is delivered.

    The word is the target's, or the strongest wrong label's. Writing the right word instead may help
    a model that reads.
    """

    word: Annotated[str, Choice(("wrong label", "right label")), "what is written"] = "wrong label"
    size: Annotated[float, Range(0.04, 0.3, 0.01), "letter height, share of the image"] = 0.11

    @property
    def ball(self) -> Ball:
        """No norm: the box of pixels."""
        return Ball("free")

    @torch.no_grad()
    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the worst of sixteen variants; 16 forwards, 17 to find a wrong word.

        Raises:
            InvalidParameter: the target has no label words, a letter that no font here has, or a goal
                that the right word does not lead to.
        """
        if goal.targeted and self.word == "right label":
            raise InvalidParameter(
                "The right word leads to no other answer.",
                "Write the wrong label, or choose any wrong answer as goal.",
            )
        model = encoder(target, "The typographic attack")
        rows = []
        for i, word in enumerate(self._words(model, x, goal)):
            run.step(i, len(x))
            variants = torch.stack(self._variants(x[i], word)).to(x)
            copies = goal.select(torch.full((len(variants),), i))
            values = goal_margin(model, variants, copies)
            rows.append(variants[int(values.argmax())])
        return torch.stack(rows)

    def _words(self, model: Encoder, x: Images, goal: Goal) -> list[str]:
        if goal.targeted or self.word == "right label":  # then the goal names it
            return [model.labels[i] for i in goal.labels.tolist()]
        logits = model(x)
        wrong = logits.masked_fill(goal.allies(logits), -torch.inf).argmax(1)
        return [model.labels[i] for i in wrong.tolist()]

    def _variants(self, x: Images, word: str) -> list[torch.Tensor]:
        """Sixteen (3, H, W) pictures with the word on them."""
        picture = Image.fromarray(to_levels(x).permute(1, 2, 0).cpu().numpy())
        drawn = [
            write(picture, word, self.size * scale * x.shape[1], place, boxed)
            for place, scale, boxed in product(CORNERS, SIZES, BOXED)
        ]
        raw = [torch.frombuffer(bytearray(d.tobytes()), dtype=torch.uint8) for d in drawn]
        return [from_levels(r.view(*x.shape[1:], 3).permute(2, 0, 1)) for r in raw]


def goal_margin(model: LogitFn, x: Images, goal: Goal) -> torch.Tensor:
    """(B,) margin of the goal, in one batch."""
    return goal.maximise(model(x), margin)


def write(
    picture: Image.Image, word: str, height: float, place: tuple[float, float], boxed: bool
) -> Image.Image:
    """A copy with the word at a place given in shares of the free space, never cut off.

    Raises:
        InvalidParameter: no font here has its letters.
    """
    font_of = lettering(word)
    out = picture.copy()
    draw = ImageDraw.Draw(out)
    font = font_of(max(6, height))
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    widest = picture.width - 2 * EDGE
    if right - left > widest:
        font = font_of(max(1, height * widest / (right - left)))
        left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    x = EDGE + place[0] * max(0, widest - (right - left))
    y = EDGE + place[1] * max(0, picture.height - 2 * EDGE - (bottom - top))
    if boxed:
        draw.rectangle((x - 2, y - 2, x + right - left + 2, y + bottom - top + 2), fill="white")
        draw.text((x - left, y - top), word, font=font, fill="black")
    else:
        draw.text(
            (x - left, y - top), word, font=font, fill="white", stroke_width=2, stroke_fill="black"
        )
    return out
