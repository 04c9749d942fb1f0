"""Where published numbers were read, and settings that several of them share."""

from __future__ import annotations

TECOA = "README of github.com/cvlab-columbia/ZSRobust4FoundationModel"
TGA = "README of TGA-ZSR's code"
TVSS_TABLE_1 = "T-VSS paper (arXiv 2606.23132), table 1"
TVSS_TABLE_14 = "T-VSS paper (arXiv 2606.23132), table 14"
TVSS = "T-VSS paper (arXiv 2606.23132)"
PROBE = "“Backdoor as Probe”, comparison of defences"
KNOWS = "attacker knows the defence: EOT-PGD, 100 steps, ε 4/255, ViT-B/16, Flowers / DTD"
L14 = "ViT-L/14, mean of zero-shot sets, APGD-CE and APGD-T at 2 and 4/255"
TINY = "ViT-B/32 trained on Tiny-ImageNet, 16 sets, PGD-100, ε 1/255"
EIGHT = "8 sets, PGD-100 unaware of the defence, ε 4/255"
GENERAL = "ViT-B/16, general sets, PGD unaware of the defence, ε 4/255"
ROBUSTVLM = "README of github.com/chs20/RobustVLM"
TVSS_QUOTES = "the authors' results, as the T-VSS paper (arXiv 2606.23132) quotes them"
