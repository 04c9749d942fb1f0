"""The rows of the defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry

DEFENSES = (
    Entry("fare", "FARE", "defense", "training_time",
          "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings", "ICML",
          2024, "https://arxiv.org/abs/2402.12336",
          "authors' code MIT; embedded weights own", "faithful",
          "The image tower was fine-tuned, without labels, to keep its embeddings under attack.",
          "1 f", "defenses.training_time.fare:FARE", ("unaware",)),
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
