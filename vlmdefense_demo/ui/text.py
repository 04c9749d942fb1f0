"""The page's own words."""

from __future__ import annotations

TITLE = "Fool CLIP, then defend it"
SUBTITLE = "Adversarial defence in vision-language models, on your own image"

VERDICTS = {
    "held": ("✓", "held"),
    "fooled": ("✗", "fooled"),
    "wrong_clean": ("~", "wrong on clean"),
}
RUNGS = {
    "unaware": "made against the undefended model, then shown to the defence",
    "aware": "made through the defence",
    "black box": "made by asking for answers only",
}
UPLOAD_NOTE = (
    "Pictures are kept for up to an hour under an unlisted address, then deleted. "
    "Up to 8 MB and 12.5 megapixels."
)
LABEL_HELP = "The model only ever picks from this list. One a line, or with commas."
TRUTH_HELP = "Leave empty to take the model's own answer on the clean picture."
TARGET_HELP = "Leave empty for any wrong answer."
CHOOSE_DEFENCE = "Tick it to run it."
HELP = """\
**What you see.** A zero-shot model answers with one label of your list. The attack changes every
pixel by at most ε grey levels so that the answer changes. Each defence then classifies the same
two files: the clean picture and the attacked PNG you can download.

**Held / fooled / wrong on clean.** All verdicts refer to one label: yours, or else the undefended
model's answer on the clean picture. *Wrong on clean* means the defence already missed it before
any attack: that is its price, not the attack's merit.

**Who is the attacker?** These attacks were made against the undefended model. *Held* means: not
broken by such a transfer. The rungs marked *not run* were not tried, and one picture proves
breakage, never robustness.

**Cost.** `8 f + 4 b` counts samples through the image tower, forward and backward; text counts
stand beside it. Times are of one warm run on the attacked picture (the median of three below 0.5 s),
on the device named beside it; × compares with the undefended forward.

**Where the numbers come from.** Every number is measured on the decoded PNG. The embedded model
(pocket) is our own small model; its numbers are not a paper's numbers.
"""
