"""The rows of the test-time adaptations, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import NOTHING, Entry, Published
from vlmdefense_demo.survey.sources import (
    EIGHT,
    KNOWS,
    TVSS,
    TVSS_QUOTES,
    TVSS_TABLE_1,
    TVSS_TABLE_14,
)

TEST_TIME = (
    Entry("ensemble", "View ensemble", "defense", "test_time",
          "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
          "CVPR", 2025, "https://arxiv.org/abs/2504.11195", "own code", "faithful",
          "Many crops of the picture are classified and their answers averaged; nothing is adapted.",
          "V f", "defenses.test_time.ensemble:ViewEnsemble", ("unaware", "randomised"),
          detail="Much of what this family holds is due to the averaging, which is why it is "
                 "shown without the rest.",
          trains=NOTHING, paid="inference",
          published=(Published("attacked 40.4 %, where R-TPT has 45.2 %",
                               "RN50, 8 sets, PGD unaware of the defence, ε 1/255",
                               TVSS_TABLE_1),
                     Published("attacked 31.8 %, where R-TPT has 39.9 %",
                               f"ViT-B/16, {EIGHT}",
                               TVSS_TABLE_1))),
    Entry("tpt", "TPT", "defense", "test_time",
          "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models",
          "NeurIPS", 2022, "https://arxiv.org/abs/2209.07511", "authors' code MIT; own code",
          "faithful",
          "One step tunes the prompt until confident views agree; made for new domains, not attacks.",
          "V f, text C f + C b", "defenses.test_time.tpt:TPT",
          ("unaware", "adapts", "randomised"),
          detail="The answer comes from the picture itself, attacked as it is, so it is the "
                 "control that does not defend.",
          trains="four vectors of the prompt, anew for every image", paid="inference",
          published=(Published("attacked 1.5 %",
                               "RN50, 8 sets, PGD unaware of the defence, ε 1/255",
                               TVSS_TABLE_1),
                     Published("clean 60.74 % on ImageNet; no attack",
                               "RN50",
                               "README of TPT's code"))),
    Entry("ctpt", "C-TPT", "defense", "test_time",
          "C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature "
          "Dispersion", "ICLR", 2024, "https://arxiv.org/abs/2403.14119",
          "authors' code MIT; own code", "faithful",
          "TPT that keeps the labels' texts apart, so that its confidence can be trusted.",
          "V f, text C f + C b", "defenses.test_time.ctpt:CTPT",
          ("unaware", "adapts", "randomised"),
          detail="It was made for calibration, and nothing in it resists an attack.",
          trains="four vectors of the prompt, anew for every image", paid="inference"),
    Entry("tapt", "TAPT", "defense", "test_time",
          "TAPT: Test-Time Adversarial Prompt Tuning for Robust Inference in Vision-Language Models",
          "CVPR", 2025, "https://arxiv.org/abs/2411.13136",
          "authors' code MIT; own code and statistics", "simplified",
          "One step tunes the picture's side until the layers look as they do on ordinary photos.",
          "(1.1 V + 1) f + 0.1 V b", "defenses.test_time.tapt:TAPT",
          ("unaware", "adapts", "randomised"),
          detail="The usual statistics come from clean photos, one set through the model and one "
                 "through its robust twin.",
          trains="visual prompts or a frame, anew for every image; layer statistics are measured "
                 "once", paid="both",
          remark="The published prompts and statistics are not to be had: prompts start from "
                 "nothing, statistics are our own.",
          published=(Published("attacked +36.6 % or more over adversarial prompt tuning",
                               "several backbones",
                               "abstract of the TAPT paper, as read second-hand"),)),
    Entry("rtpt", "R-TPT", "defense", "test_time",
          "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
          "CVPR", 2025, "https://arxiv.org/abs/2504.11195",
          "authors' code without licence; own code", "faithful",
          "One step tunes the prompt on confident views; views with close neighbours vote.",
          "V f, text C f + C b", "defenses.test_time.rtpt:RTPT",
          ("unaware", "adapts", "randomised"),
          detail="Views that lie far from the others, as an attacked picture does from its "
                 "crops, hardly count.",
          trains="four vectors of the prompt, anew for every image", paid="inference",
          remark="A view is not its own neighbour, as rounding lets it be in the authors' code; "
                 "16 views, without AugMix unless asked for.",
          published=(Published("clean 61.1 %, attacked 39.9 %", f"ViT-B/16, {EIGHT}", TVSS_QUOTES),
                     Published("clean 68.4 %, attacked 49.6 %", f"ViT-L/14, {EIGHT}", TVSS_QUOTES),
                     Published("attacked 0.5 / 4.4 %", KNOWS, TVSS_TABLE_14))),
    Entry("atpt", "A-TPT", "defense", "test_time",
          "Towards Fine-Grained Robustness: Attention-Guided Test-Time Prompt Tuning for "
          "Vision-Language Models", "ICML", 2026, "https://arxiv.org/abs/2605.19956",
          "authors' code without licence; own code", "simplified",
          "R-TPT on views that are recoloured and warped, less so where the model looks.",
          "(V + 1) f + 1 b, text C f + C b", "defenses.test_time.atpt:ATPT",
          ("unaware", "adapts", "randomised"),
          detail="The map is made once from the attacked picture, so an attack that moves it "
                 "moves the protection, too.",
          trains="four vectors of the prompt, anew for every image", paid="inference",
          remark="One attention map for all views instead of one each, made with the prompt as "
                 "written."),
    Entry("sstpt", "SS-TPT", "defense", "test_time",
          "SS-TPT: Stability and Suitability-Guided Test-Time Prompt Tuning for Adversarially "
          "Robust Vision-Language Models", "ICML", 2026, "https://arxiv.org/abs/2606.06943",
          "authors' code MIT; own code", "simplified",
          "Views that lie near the others and survive a small change tune the prompt and vote.",
          "2 V f, text C f + C b", "defenses.test_time.sstpt:SSTPT",
          ("unaware", "adapts", "randomised"),
          detail="Two fifths of a view's weight are geometry, three whether its answer outlives "
                 "a small shift and recolouring.",
          trains="four vectors of the prompt, anew for every image", paid="inference",
          remark="The reference of a view is the weighted mean of all others, and small changes "
                 "are drawn for each view."),
    Entry("tvss", "T-VSS", "defense", "test_time",
          "T-VSS: Test-Time Visual Subspace Steering for Adversarial Robustness of "
          "Vision-Language Models", "arXiv", 2026, "https://arxiv.org/abs/2606.23132",
          "no code published; own code", "simplified",
          "All views' features are shifted along the directions in which the views differ.",
          "V f", "defenses.test_time.tvss:TVSS", ("unaware", "adapts", "randomised"),
          detail="No tower is differentiated for it, so it costs little more than the views.",
          trains="a shift of the features, anew for every image", paid="inference",
          remark="Written from the text, as no code was found; crops and flips without AugMix, "
                 "16 by default.",
          published=(Published("clean 60.4 %, attacked 45.8 %", f"ViT-B/16, {EIGHT}", TVSS),
                     Published("attacked 1.3 / 4.8 %", KNOWS, TVSS_TABLE_14))),
    Entry("ttp", "TTP", "defense", "test_time",
          "TTP: Test-Time Padding for Adversarial Detection and Robust Adaptation on Vision-Language "
          "Models", "CVPR", 2026, "https://arxiv.org/abs/2512.16523",
          "authors' code not read; own code", "simplified",
          "A frame changes what an attacked picture is taken for; then the frame is tuned to it.",
          "(1.2 V + 1) f + 0.1 V b; 2 f while the gate stays shut", "defenses.test_time.ttp:TTP",
          ("unaware", "adapts", "randomised"),
          detail="A cosine with the framed picture decides who is left alone, so an attacker can "
                 "aim at the gate as well.",
          trains="a frame of pixels, anew for every image that the gate stops", paid="inference",
          remark="Written from the text: the picture is shrunk into the frame, and the one step "
                 "is a sign step; 16 views without AugMix.",
          published=(Published("clean 61.2 %, attacked 42.9 %", f"ViT-B/16, {EIGHT}", TVSS_QUOTES),
                     Published("attacked 0.9 / 1.7 %", KNOWS, TVSS_TABLE_14))),
)  # fmt: skip
