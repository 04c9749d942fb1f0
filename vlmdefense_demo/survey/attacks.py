"""The rows of the attacks, weakest first within a family; controls last."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry

ATTACKS = (
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
)  # fmt: skip
