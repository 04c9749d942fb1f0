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
    "adaptive": (
        "adaptive",
        "made for this defence: its randomness averaged, steps without a gradient held constant",
    ),
    "black_box": ("black box", "made by asking for scores only, without a gradient"),
}
ATTACKERS = (("does not know the defence", False), ("knows it", True))
GOALS = {
    "wrong": "any wrong answer",
    "runner-up": "the runner-up",
    "least likely": "the least likely label",
    "label": "the target answer",
    "caption": "a text of my own",
    "picture": "what a second picture shows",
}
UPLOAD_NOTE = (
    "Pictures lie under an unlisted address for about an hour, then they are deleted. "
    "Up to 8 MB and 12.5 megapixels."
)
LABEL_HELP = (
    "The model only ever picks from this list. One a line, or with commas. "
    "dog = puppy makes two labels one answer."
)
TRUTH_HELP = "Leave empty to take the model's own answer on the clean picture."
TARGET_HELP = "A label of the list; any text if the goal is a text of your own."
DETECTORS_TITLE = "Detectors: was this picture attacked?"
DETECTORS_NOTE = (
    "A detector leaves the answer alone and only says whether a picture looks attacked. It raises the "
    "alarm above the threshold that 5 % of clean photos exceed. Read are the two pictures of the last "
    "run."
)
HELP = """\
**What you see.** A zero-shot model answers with one label of your list. The attack changes the picture
so that the answer changes: most attacks move each pixel by at most ε grey levels, others bound the
total length, look for the smallest change, or paint a part. Each defence then classifies the same two
files: the clean picture and the attacked PNG you can download.

**Held / fooled / wrong on clean.** All verdicts refer to one label: yours, or else the undefended
model's answer on the clean picture. *Wrong on clean* means the defence already missed it before
any attack: that is its price, not the attack's merit.

**Who is the attacker?** One who *does not know the defence* attacks the undefended model and hopes
that the picture transfers: almost every defence looks good then. One who *knows the defence* climbs
a ladder until something breaks it: gradient steps through the defence as coded (*white box*), then
the recipe made for this defence (*adaptive*: its randomness averaged, steps without a gradient held
constant), then scores without a gradient (*black box*). A defence deserves praise for the rungs it
survives, and one picture proves breakage, never robustness. The ladder needs an L∞ or L2 ball, and
the black box an L∞ ball: patch, typographic, DDN and C&W have no ladder.

**Cost.** `8 f + 4 b` counts samples through the image tower, forward and backward; text counts
stand beside it. Times are of one warm run on the attacked picture (the median of three below 0.5 s),
on the device named beside it; × compares with the undefended forward.

**Where the numbers come from.** Every answer, norm and verdict is measured on the decoded PNG. The embedded model
(pocket) is our own small model; its numbers are not a paper's numbers.
"""


def unread() -> str:
    """What the detectors' panel shows until they have run on the pictures of the page."""
    return '<p class="vd-caption">Not read yet.</p>'
