"""The rows of the training-free defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import NOTHING, Entry, Published
from vlmdefense_demo.survey.sources import (
    EIGHT,
    GENERAL,
    PROBE,
    TVSS,
)

GUO = "Countering Adversarial Images using Input Transformations"
GUO_AT = "https://arxiv.org/abs/1711.00117"
XU = "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks"
XU_AT = "https://arxiv.org/abs/1704.01155"
CSR = (
    "Contrastive Spectral Rectification: Test-Time Defense towards Zero-shot Adversarial "
    "Robustness of CLIP"
)
CSR_AT = "https://arxiv.org/abs/2601.19210"

TRAINING_FREE = (
    Entry("jpeg", "JPEG", "defense", "training_free", GUO, "ICLR", 2018, GUO_AT, "own code",
          "faithful", "The picture is saved as a JPEG file before it is looked at.", "1 f",
          "defenses.training_free.filters:JPEG", ("unaware",),
          detail="Rounding its fine waves wipes out much of what an unaware attacker drew there.",
          trains=NOTHING, paid="inference"),
    Entry("bits", "Bit depth", "defense", "training_free", XU, "NDSS", 2018, XU_AT, "own code",
          "faithful", "Only a few levels of every colour are kept.", "1 f",
          "defenses.training_free.filters:BitDepth", ("unaware",),
          detail="A change smaller than half a level disappears, a larger one may grow.",
          trains=NOTHING, paid="inference"),
    Entry("median", "Median", "defense", "training_free", XU, "NDSS", 2018, XU_AT, "own code",
          "faithful", "Every pixel becomes the median of its neighbours.", "1 f",
          "defenses.training_free.filters:MedianFilter", ("unaware",),
          detail="Single odd pixels vanish while edges stay.",
          trains=NOTHING, paid="inference"),
    Entry("lowpass", "Low-pass", "defense", "training_free", CSR, "ICML", 2026, CSR_AT, "own code",
          "faithful", "The picture is blurred a little: most of a perturbation is fine-grained.",
          "1 f", "defenses.training_free.filters:LowPass", ("unaware",),
          detail="Its gradient is exact, so an attacker who knows it simply differentiates "
                 "through the blur.",
          trains=NOTHING, paid="inference",
          published=(Published("clean 78.6 %, attacked 37.4 %; AutoAttack 30.8 %",
                               f"{GENERAL}; the blur's width is not stated",
                               PROBE),)),
    Entry("tv", "Total variation", "defense", "training_free", GUO, "ICLR", 2018,
          GUO_AT, "own code", "simplified", "The nearest picture of little variation takes its place.",
          "1 f", "defenses.training_free.filters:TotalVariation", ("unaware",),
          detail="Flat areas become flat again, and noise in them goes.",
          trains=NOTHING, paid="inference",
          remark="Chambolle's algorithm on all pixels, where the paper fills in from a random "
                 "half of them."),
    Entry("nlm", "Non-local means", "defense", "training_free", XU, "NDSS", 2018, XU_AT,
          "own code", "faithful", "Pixels with similar surroundings are averaged.", "1 f",
          "defenses.training_free.filters:NonLocalMeans", ("unaware",),
          detail="Texture that repeats survives better than with a blur.",
          trains=NOTHING, paid="inference"),
    Entry("resize_pad", "Resize and pad", "defense", "training_free",
          "Mitigating Adversarial Effects Through Randomization", "ICLR", 2018,
          "https://arxiv.org/abs/1711.01991", "own code", "simplified",
          "The picture is shrunk by a random amount and put somewhere on black.", "1 f",
          "defenses.training_free.filters:ResizePad", ("unaware", "randomised"),
          detail="The attack was made for one grid of pixels and meets another.",
          trains=NOTHING, paid="inference",
          remark="The picture shrinks inside the model's size; theirs grows from 299 to at most "
                 "331 pixels."),
    Entry("clipure_cos", "CLIPure-Cos", "defense", "training_free",
          "CLIPure: Purification in Latent Space via CLIP for Adversarially Robust Zero-Shot "
          "Classification", "ICLR", 2025, "https://arxiv.org/abs/2502.18176",
          "authors' code for research only; own code", "faithful",
          "The image's feature is turned towards that of an empty sentence.", "1 f",
          "defenses.training_free.clipure:CLIPureCos", ("unaware",),
          detail="At its published setting the steps turn the feature away and back again, and "
                 "hardly any gradient passes them.",
          trains=NOTHING, paid="inference",
          remark="Every picture by itself; the authors' code normalises a step over its whole "
                 "batch.",
          published=(Published("attacked 72.6 % on ImageNet, 91.1 % on CIFAR-10",
                               "ViT-L/14, APGD-CE and APGD-T, ε 4/255",
                               "abstract of the CLIPure paper (arXiv 2502.18176)"),)),
    Entry("tte", "TTE", "defense", "training_free",
          "Enhancing Adversarial Robustness via Test-Time Transformation Ensembling", "ICCVW", 2021,
          "https://arxiv.org/abs/2107.14110", "authors' code without licence; own code", "faithful",
          "The picture, shifted copies and their mirror images answer together.", "V f",
          "defenses.training_free.votes:TTE", ("unaware",),
          detail="Places are drawn once and for all, so nothing is random and the gradient is "
                 "exact.",
          trains=NOTHING, paid="inference",
          remark="Crops are different ones, where a bug makes all of the authors' crops the last "
                 "one.",
          published=(Published("clean 80.7 %, attacked 13.4 %; AutoAttack 11.5 %", GENERAL, PROBE),
                     Published("clean 61.79 %, attacked 33.28 %",
                               "ViT-B/32, 16 sets, PGD-10 unaware of the defence, ε 1/255",
                               "TTC paper, tables 1 and 2, as lecture slides quote them"))),
    Entry("zero", "ZERO", "defense", "training_free",
          "Frustratingly Easy Test-Time Adaptation of Vision-Language Models", "NeurIPS", 2024,
          "https://arxiv.org/abs/2405.18330", "authors' code MIT; own code", "faithful",
          "The views that are most confident vote, one view one vote.", "V f",
          "defenses.training_free.votes:Zero", ("unaware", "randomised"),
          detail="Only the label counts, not how sure a view is, which is softmax at temperature "
                 "zero.",
          trains=NOTHING, paid="inference"),
    Entry("mta", "MTA", "defense", "training_free",
          "On the Test-Time Zero-Shot Generalization of Vision-Language Models: Do We Really Need "
          "Prompt Learning?", "CVPR", 2024, "https://arxiv.org/abs/2405.02266",
          "authors' code MIT; own code", "faithful",
          "The densest point among the views' features is classified.", "V f",
          "defenses.training_free.votes:MTA", ("unaware", "randomised"),
          detail="It is found by moving a mean until it settles, and views far from it lose "
                 "their say.",
          trains=NOTHING, paid="inference",
          published=(Published("clean 58.5 %, attacked 35.0 %", f"ViT-B/32, {EIGHT}", TVSS),
                     Published("attacked 27.4 %", f"ViT-B/16, {EIGHT}", TVSS))),
    Entry("anti_adversary", "Anti-Adversary", "defense", "training_free",
          "Combating Adversaries with Anti-Adversaries", "AAAI", 2022,
          "https://arxiv.org/abs/2103.14347", "authors' code MIT; own code", "simplified",
          "The picture is pushed towards the model's first answer, whatever it is.",
          "(N + 1) f + N b", "defenses.training_free.descent:AntiAdversary", ("unaware", "adapts"),
          detail="It can only bring back a picture that barely crossed the boundary.",
          trains=NOTHING, paid="inference",
          remark="Steps of 2/255 that stay in the picture's range; theirs of 0.15 are made for "
                 "other models.",
          published=(Published("clean 76.2 %, attacked 22.6 %; AutoAttack 2.7 %", GENERAL, PROBE),)),
    Entry("et3", "ET3", "defense", "training_free",
          "A Provable Energy-Guided Test-Time Defense Boosting Adversarial Robustness of Large "
          "Vision-Language Models", "CVPR", 2026, "https://arxiv.org/abs/2603.26984",
          "authors' code without licence; own code", "faithful",
          "The picture walks down the energy of all answers, which the likely ones dominate.",
          "(N + 1) f + N b", "defenses.training_free.descent:ET3", ("unaware", "adapts"),
          detail="No label has to be guessed first, yet like Anti-Adversary it mostly makes the "
                 "model surer.",
          trains=NOTHING, paid="inference",
          published=(Published("clean 72.9 %, attacked 7.7 %; AutoAttack 0.3 %", GENERAL, PROBE),)),
    Entry("hd", "Hedge defence", "defense", "training_free",
          "Attacking Adversarial Attacks as A Defense", "arXiv", 2021,
          "https://arxiv.org/abs/2106.04938", "own code", "faithful",
          "From noise, the picture is pushed away from all answers alike: the wrong one should give "
          "way first.",
          "(N + 1) f + N b", "defenses.training_free.descent:Hedge",
          ("unaware", "adapts", "randomised"),
          detail="Made for adversarially trained models, where small changes move the right answer "
                 "least; on a plain model the steps mostly make the answer to the noise surer.",
          trains=NOTHING, paid="inference",
          remark="Steps of 2/255, as in public code that may not be the authors'."),
    Entry("aom", "AOM", "defense", "training_free",
          "On the Zero-shot Adversarial Robustness of Vision-Language Models: A Truly Zero-shot and "
          "Training-free Approach", "CVPR", 2025,
          "https://openaccess.thecvf.com/content/CVPR2025/html/"
          "Tong_On_the_Zero-shot_Adversarial_Robustness_of_Vision-Language_Models_A_Truly_CVPR_2025_paper.html",
          "no code published; own code", "simplified",
          "The feature takes one step towards the mean of noisy copies' features.", "V f",
          "defenses.training_free.geodesic:AOM", ("unaware", "randomised"),
          detail="Noise moves an attacked picture back more than it harms what the picture shows.",
          trains=NOTHING, paid="inference",
          remark="Only the idea is the paper's; noise, number of copies and step are ours."),
    Entry("agc", "AGC", "defense", "training_free",
          "AGC: Adaptive Geodesic Correction for Adversarial Robustness on Vision-Language Models",
          "arXiv", 2026, "https://arxiv.org/abs/2605.15584", "authors' code said to be MIT; own code",
          "simplified",
          "The feature moves along the sphere to the mean of its views, and past it.", "V f",
          "defenses.training_free.geodesic:AGC", ("unaware", "randomised"),
          detail="Past the mean the attacked feature has a negative weight, which gives away "
                 "what an untargeted attack pushed down.",
          trains=NOTHING, paid="inference",
          remark="Bilinear perspectives, and 16 views instead of 32.",
          published=(Published("attacked +44.4 % over the best before",
                               "mean of 8 sets and 3 backbones",
                               "abstract of the AGC paper (arXiv 2605.15584)"),)),
    Entry("dbd", "DBD", "defense", "training_free",
          "Adversarial Attacks Already Tell the Answer: Directional Bias-Guided Test-time Defense for "
          "Vision-Language Models", "ICLR", 2026, "https://arxiv.org/abs/2606.06186",
          "authors' code without licence; own code", "faithful",
          "If changed copies all move one way, the feature follows, further than they do.",
          "(V + 16) f", "defenses.training_free.geodesic:DBD", ("unaware", "randomised"),
          detail="Where it goes past the mean, an untargeted attack has told it the answer, and "
                 "attacked pictures can score better than clean ones.",
          trains=NOTHING, paid="inference",
          remark="White does not wrap round to black; prompts are the page's, not descriptions "
                 "by a language model.",
          published=(Published("clean 70.9 %, attacked 60.9 %; without it 79.3 / 44.3 %",
                               "on a TeCoA tower, Caltech101",
                               TVSS),)),
    Entry("csr", "CSR", "defense", "training_free", CSR, "ICML", 2026, CSR_AT,
          "authors' code said to be MIT; own code", "faithful",
          "A picture that its own blur disagrees with is pulled towards what the blur says.",
          "(N + 4) f + N b; 3 f while the gate stays shut", "defenses.training_free.csr:CSR",
          ("unaware", "adapts"),
          detail="Steps away from the picture's own feature and towards its blur's end at the "
                 "best of them.",
          trains=NOTHING, paid="inference",
          remark="All three steps are taken; the authors' fast form stops after two."),
    Entry("smoothing", "Smoothing", "defense", "training_free",
          "Certified Adversarial Robustness via Randomized Smoothing", "ICML", 2019,
          "https://arxiv.org/abs/1902.02918", "authors' code MIT; own code", "faithful",
          "Noisy copies vote, and the votes prove how small no successful change can be.", "V f",
          "defenses.training_free.smoothing:Smoothing", ("unaware", "randomised"),
          detail="The proof holds against every attacker, inside a radius far below what a "
                 "change of a few levels is long.",
          trains=NOTHING, paid="inference",
          remark="64 copies instead of 100,000, so the radii are small; CLIP was not trained on "
                 "noise."),
    Entry("ttc", "TTC", "defense", "training_free",
          "CLIP is Strong Enough to Fight Back: Test-time Counterattacks", "CVPR", 2025,
          "https://arxiv.org/abs/2503.03613", "authors' code without licence; own code",
          "faithful",
          "If noise hardly moves the image's feature, push the image away from that feature.",
          "(N + 2) f + N b; 3 f while the gate stays shut", "defenses.training_free.ttc:TTC",
          ("unaware", "adapts", "randomised"),
          detail="An attacked picture sits unusually still, so the gate opens for it; clean ones "
                 "only get the noise.",
          trains=NOTHING, paid="inference",
          published=(Published("clean 59.75 %, attacked 39.17 %",
                               "ViT-B/32, 16 sets, PGD-10 unaware of the defence, ε 1/255",
                               "TTC paper, tables 1 and 2, as lecture slides quote them"),
                     Published("clean 55.6 %, attacked 21.2 %",
                               "PGD, ε 4/255",
                               "TTC run again in the DOC paper"),
                     Published("clean 73.3 %, attacked 14.7 %; AutoAttack 0.6 %", GENERAL, PROBE))),
    Entry("mac", "MAC", "defense", "training_free",
          "When CLIP Sees More, It Fights Back Harder: Multi-View Guided Adaptive Counterattacks for "
          "Test-Time Adversarial Robustness", "CVPR", 2026, "https://github.com/sunoh-kim/MAC",
          "authors' code MIT; own code", "faithful",
          "If a small change moves the feature far, push each view away from its own feature.",
          "V (N + 3) f + V N b; 3 V f while the gate stays shut", "defenses.training_free.mac:MAC",
          ("unaware", "adapts", "randomised"),
          detail="Its gate reads the other way round than TTC's: an attacked picture moves further.",
          trains=NOTHING, paid="inference"),
)  # fmt: skip
