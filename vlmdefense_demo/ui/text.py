"""The page's own words."""

from __future__ import annotations

from vlmdefense_demo.types import RungName

TITLE = "Fool CLIP, then defend it"
SUBTITLE = "Adversarial defence in vision-language models, on your own image"

VERDICTS = {
    "held": ("✓", "held"),
    "fooled": ("✗", "fooled"),
    "wrong_clean": ("~", "wrong on clean"),
}
RUNGS: dict[RungName, tuple[str, str]] = {
    "transfer": ("unaware", "made against the undefended model, then shown to the defence"),
    "white_box": ("white box", "PGD through the defence as it is coded"),
    "adaptive": ("adaptive", "made for this defence: its randomness averaged, its blocks replaced"),
    "black_box": ("black box", "made by asking for answers only"),
}
ATTACKERS = (("does not know the defence", False), ("knows it", True))
GOALS = {
    "wrong": "any wrong answer",
    "runner-up": "the runner-up",
    "least likely": "the least likely label",
    "label": "the target below",
    "caption": "a text of my own",
    "picture": "what a second picture shows",
}
UPLOAD_NOTE = (
    "Pictures are kept for up to an hour under an unlisted address, then deleted. "
    "Up to 8 MB and 12.5 megapixels."
)
LABEL_HELP = (
    "The model only ever picks from this list. One a line, or with commas. "
    "dog = puppy makes two labels one answer."
)
TRUTH_HELP = "Leave empty to take the model's own answer on the clean picture."
TARGET_HELP = "A label of the list, or your own text. Empty: any wrong answer."
CHOOSE_DEFENCE = "Tick it to run it."
HELP = """\
**What you see.** A zero-shot model answers with one label of your list. The attack changes every
pixel by at most ε grey levels so that the answer changes. Each defence then classifies the same
two files: the clean picture and the attacked PNG you can download.

**Held / fooled / wrong on clean.** All verdicts refer to one label: yours, or else the undefended
model's answer on the clean picture. *Wrong on clean* means the defence already missed it before
any attack: that is its price, not the attack's merit.

**Who is the attacker?** One who *does not know the defence* attacks the undefended model and hopes
that the picture transfers: almost every defence looks good then. One who *knows the defence* climbs
a ladder until something breaks it: gradient steps through the defence as coded (*white box*), then
the recipe made for this defence (*adaptive*: its randomness averaged, its blocked gradients
replaced), then questions alone (*black box*). A defence deserves praise for the rungs it survives,
and one picture proves breakage, never robustness.

**Cost.** `8 f + 4 b` counts samples through the image tower, forward and backward; text counts
stand beside it. Times are of one warm run on the attacked picture (the median of three below 0.5 s),
on the device named beside it; × compares with the undefended forward.

**Where the numbers come from.** Every number is measured on the decoded PNG. The embedded model
(pocket) is our own small model; its numbers are not a paper's numbers.
"""
