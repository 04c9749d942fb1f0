"""AdvPT: learned words that classify a bank of attacked embeddings; the image tower is untouched.

Training-time and cheap: pictures pass the image tower once. Assumes an attacker who attacks the
image tower without knowing the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.training_time.apt import LearnedPrompt


@dataclass(frozen=True)
class AdvPT(LearnedPrompt):
    """Source: Zhang et al., "Adversarial Prompt Tuning for VLMs", ECCV 2024 (arXiv 2311.11261).

    The published evaluation attacks the image tower label-free, with no knowledge of the prompt.
    One who knows the prompt faces a plain tower. Simplified: 16 learned vectors instead of 32,
    because the embedded text tower reads 32 tokens in all.
    """

    weights: ClassVar[str] = "advpt"
    recipe: ClassVar[str] = (
        "APGD with two losses through the model's own tower and the learned prompt; its gradient is exact."
    )
