"""The rows of the defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry

# One of each paradigm, ticked when the page opens: a comparison a laptop finishes in seconds.
FIRST = ("fare", "rtpt", "ttc")
OWN_CODE = "authors' code without licence; own code and weights"

DEFENSES = (
    Entry("tecoa", "TeCoA", "defense", "training_time",
          "Understanding Zero-shot Adversarial Robustness for Large-Scale Models", "ICLR",
          2023, "https://arxiv.org/abs/2212.07016", OWN_CODE, "faithful",
          "The image tower was fine-tuned so that attacked photos still match their class's text.",
          "1 f", "defenses.training_time.tecoa:TeCoA", ("unaware",)),
    Entry("tecoa_vp", "TeCoA frame", "defense", "training_time",
          "Understanding Zero-shot Adversarial Robustness for Large-Scale Models", "ICLR",
          2023, "https://arxiv.org/abs/2212.07016", OWN_CODE, "faithful",
          "Every picture gets a trained frame; the model itself is not touched.",
          "1 f", "defenses.training_time.tecoa_vp:TeCoAVP", ("unaware",)),
    Entry("fare", "FARE", "defense", "training_time",
          "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings", "ICML",
          2024, "https://arxiv.org/abs/2402.12336",
          "authors' code MIT; embedded weights own", "faithful",
          "The image tower was fine-tuned, without labels, to keep its embeddings under attack.",
          "1 f", "defenses.training_time.fare:FARE", ("unaware",)),
    Entry("pmg_aft", "PMG-AFT", "defense", "training_time",
          "Pre-trained Model Guided Fine-Tuning for Zero-Shot Adversarial Robustness", "CVPR",
          2024, "https://arxiv.org/abs/2401.04350", OWN_CODE, "faithful",
          "TeCoA, with every answer under attack tied to what the original model says.",
          "1 f", "defenses.training_time.pmg_aft:PMGAFT", ("unaware",)),
    Entry("tga_zsr", "TGA-ZSR", "defense", "training_time",
          "Text-Guided Attention is All You Need for Zero-Shot Robustness in Vision-Language "
          "Models", "NeurIPS", 2024, "https://arxiv.org/abs/2410.21802", OWN_CODE, "simplified",
          "TeCoA that must keep looking where the original model looks.",
          "1 f", "defenses.training_time.tga_zsr:TGAZSR", ("unaware",)),
    Entry("apt", "APT", "defense", "training_time",
          "One Prompt Word is Enough to Boost Adversarial Robustness for Pre-trained "
          "Vision-Language Models", "CVPR", 2024, "https://arxiv.org/abs/2403.01849",
          "authors' code MIT; own code and weights", "faithful",
          "A few learned words before every label, trained under attack on a robust tower.",
          "1 f", "defenses.training_time.apt:APT", ("unaware",)),
    Entry("advpt", "AdvPT", "defense", "training_time",
          "Adversarial Prompt Tuning for Vision-Language Models", "ECCV", 2024,
          "https://arxiv.org/abs/2311.11261", "authors' code MIT; own code and weights",
          "simplified",
          "A few learned words before every label, trained to read attacked embeddings.",
          "1 f", "defenses.training_time.advpt:AdvPT", ("unaware",)),
    Entry("fap", "FAP", "defense", "training_time",
          "Few-shot Adversarial Prompt Learning on Vision-Language Models", "NeurIPS", 2024,
          "https://arxiv.org/abs/2403.14774",
          "authors' code MIT; own code, weights to be trained for a ViT", "weights needed",
          "Learned tokens in nine blocks of both towers, trained under attack on a few photos a "
          "class.",
          "1 f", "defenses.training_time.fap:FAP", ("unaware",)),
    Entry("rtpt", "R-TPT", "defense", "test_time",
          "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
          "CVPR", 2025, "https://arxiv.org/abs/2504.11195",
          "authors' code without licence; own code", "faithful",
          "One step tunes the prompt on confident views; views with close neighbours vote.",
          "V f, text 2 C f + C b", "defenses.test_time.rtpt:RTPT",
          ("unaware", "adapts", "randomised")),
    Entry("ttc", "TTC", "defense", "training_free",
          "CLIP is Strong Enough to Fight Back: Test-time Counterattacks", "CVPR", 2025,
          "https://arxiv.org/abs/2503.03613", "authors' code without licence; own code",
          "faithful",
          "If noise hardly moves the image's feature, push the image away from that feature.",
          "(N + 2) f + N b; 3 f while the gate stays shut", "defenses.training_free.ttc:TTC",
          ("unaware", "adapts", "randomised")),
)  # fmt: skip
