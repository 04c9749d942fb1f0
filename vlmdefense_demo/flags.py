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
}
