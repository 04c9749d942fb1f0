"""The warnings a card can carry, each with the paragraph a student reads."""

from __future__ import annotations

FLAGS: dict[str, tuple[str, str]] = {
    "randomised": (
        "randomised",
        "The answer depends on a random draw. An attacker averages over draws; one held image "
        "may be luck. Repeat with another seed.",
    ),
    "adapts": (
        "optimises at test time",
        "Parameters or pixels are optimised for each image. Attacks made against the undefended "
        "model say little about an attacker who optimises through it.",
    ),
    "unaware": (
        "attacker unaware",
        "The attack was made against the undefended model. Held means: not broken by transfer. "
        "It does not mean robust.",
    ),
    "attack_failed": (
        "attack failed",
        "The attack did not fool the undefended model either, so that its file is held says "
        "nothing about this defence. Only an attacker who knows it puts it to the test, or a "
        "stronger attack.",
    ),
    "inactive": (
        "inactive here",
        "On the clean picture and on the attacked one this defence answers as the undefended model "
        "does: with three labels or more, its logits correlate above 0.999. It does nothing here.",
    ),
    "no_gradient": (
        "no gradient",
        "Seen through this defence the gradient is zero, or zero on most pixels. A gradient "
        "attack then stands still, which looks like resistance and is blindness. Trust transfer "
        "and the black-box rung instead.",
    ),
    "wrong_gradient": (
        "misleading gradient",
        "We moved the picture a little along the gradient and measured how far the answer moved. "
        "It is not what the gradient promised (outside 0.8 to 1.25 of it), so an attacker who "
        "follows this gradient is misled, and surviving such an attack proves little.",
    ),
    "not_logits": (
        "probabilities, not logits",
        "The defence returns probabilities. Their slope fades as the model grows sure, and "
        "attacks fade with it.",
    ),
    "blind_wins": (
        "a blind attacker wins",
        "An attacker without any gradient (transfer, or scores only) broke this defence where one "
        "with its gradient did not. More knowledge cannot hurt an attacker who has steps enough: "
        "the gradient is masked, or the steps were too few. A random defence counts as broken "
        "where most fresh draws are wrong.",
    ),
    "weak_attack": (
        "weak attack",
        "The undefended model survived a change of 4/255 or more. Almost no undefended model "
        "does: suspect the attack (too few steps, too small a step, a control) before praising "
        "a defence.",
    ),
    "flat_start": (
        "flat start",
        "In the first 30 % of its steps the margin did not move. A gradient attack sees no slope "
        "there, and another loss or a random start may do better; Square found no square that "
        "helps.",
    ),
    "lost_success": (
        "success lost",
        "One of the attack's steps had fooled the model, but the delivered 8-bit file does not. "
        "Rounding or too small a margin undid it, the attack delivers its last step, or the "
        "success was on a shifted or shrunken copy.",
    ),
    "noise_enough": (
        "noise does it too",
        "Random noise of the same size already changes the answer in at least half of eight "
        "draws. This picture is easy; the attack deserves no credit.",
    ),
}
