"""The rows of the training-time defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry, Published
from vlmdefense_demo.survey.sources import (
    L14,
    ROBUSTVLM,
    TECOA,
    TGA,
    TINY,
)

OWN_CODE = "authors' code without licence; own code and weights"

TRAINING_TIME = (
    Entry("tecoa", "TeCoA", "defense", "training_time",
          "Understanding Zero-shot Adversarial Robustness for Large-Scale Models", "ICLR",
          2023, "https://arxiv.org/abs/2212.07016", OWN_CODE, "faithful",
          "The image tower was fine-tuned so that attacked photos still match their class's text.",
          "1 f", "defenses.training_time.tecoa:TeCoA", ("unaware",),
          detail="Training makes an attack on each photo and pulls its feature back to the text "
                 "of its class.",
          trains="the image tower, on labelled photos under attack", paid="training",
          published=(Published("clean 54.2 %, attacked 42.3 / 31.9 %, trained at 4/255",
                               L14,
                               ROBUSTVLM),
                     Published("clean 45.81 %, attacked 28.06 %", TINY, TGA))),
    Entry("tecoa_vp", "TeCoA frame", "defense", "training_time",
          "Understanding Zero-shot Adversarial Robustness for Large-Scale Models", "ICLR",
          2023, "https://arxiv.org/abs/2212.07016", OWN_CODE, "faithful",
          "Every picture gets a trained frame; the model itself is not touched.",
          "1 f", "defenses.training_time.tecoa_vp:TeCoAVP", ("unaware",),
          detail="It is learned like a tower would be, against attacks that go through it.",
          trains="a frame of pixels that is added to every picture", paid="training",
          published=(Published("clean 53.00 %, attacked 32.00 %",
                               "ViT-B/32, mean of zero-shot sets",
                               TECOA),)),
    Entry("fare", "FARE", "defense", "training_time",
          "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings", "ICML",
          2024, "https://arxiv.org/abs/2402.12336",
          "authors' code MIT; embedded weights own", "faithful",
          "The image tower was fine-tuned, without labels, to keep its embeddings under attack.",
          "1 f", "defenses.training_time.fare:FARE", ("unaware",),
          detail="The attacked photo's feature must stay where the original tower puts the clean "
                 "photo, which keeps every other use of the tower.",
          trains="the image tower, on photos without labels under attack", paid="training",
          published=(Published("clean 61.1 %, attacked 45.9 / 32.4 %, trained at 4/255",
                               L14,
                               ROBUSTVLM),
                     Published("clean 59.85 %, attacked 18.25 %", TINY, TGA))),
    Entry("pmg_aft", "PMG-AFT", "defense", "training_time",
          "Pre-trained Model Guided Fine-Tuning for Zero-Shot Adversarial Robustness", "CVPR",
          2024, "https://arxiv.org/abs/2401.04350", OWN_CODE, "faithful",
          "TeCoA, with every answer under attack tied to what the original model says.",
          "1 f", "defenses.training_time.pmg_aft:PMGAFT", ("unaware",),
          detail="Two divergences do the tying: to the original model on the attacked photo, and "
                 "to the new one on the clean photo.",
          trains="the image tower, on labelled photos under attack", paid="training",
          published=(Published("clean 46.60 %, attacked 32.51 %", TINY, TGA),)),
    Entry("tga_zsr", "TGA-ZSR", "defense", "training_time",
          "Text-Guided Attention is All You Need for Zero-Shot Robustness in Vision-Language "
          "Models", "NeurIPS", 2024, "https://arxiv.org/abs/2410.21802", OWN_CODE, "simplified",
          "TeCoA that must keep looking where the original model looks.",
          "1 f", "defenses.training_time.tga_zsr:TGAZSR", ("unaware",),
          detail="An attack moves the map of where the label is seen; training pulls it back to "
                 "the clean one.",
          trains="the image tower, on labelled photos under attack", paid="training",
          remark="On a tower that averages its locations the map is the class activation, which "
                 "is exact there, not the patch tokens of a ViT.",
          published=(Published("clean 56.44 %, attacked 42.09 %", TINY, TGA),)),
    Entry("apt", "APT", "defense", "training_time",
          "One Prompt Word is Enough to Boost Adversarial Robustness for Pre-trained "
          "Vision-Language Models", "CVPR", 2024, "https://arxiv.org/abs/2403.01849",
          "authors' code MIT; own code and weights", "faithful",
          "A few learned words before every label, trained under attack on a robust tower.",
          "1 f", "defenses.training_time.apt:APT", ("unaware",),
          detail="The picture's side stays as it is, so a tower that resists must stand behind "
                 "the words.",
          trains="16 vectors in front of every label, on a robust tower", paid="training",
          published=(Published("one learned word: clean +13 %, attacked +8.5 % over prompts "
                               "written by hand",
                               "mean of its data sets, ε 4/255",
                               "README of APT's code"),)),
    Entry("advpt", "AdvPT", "defense", "training_time",
          "Adversarial Prompt Tuning for Vision-Language Models", "ECCV", 2024,
          "https://arxiv.org/abs/2311.11261", "authors' code MIT; own code and weights",
          "simplified",
          "A few learned words before every label, trained to read attacked embeddings.",
          "1 f", "defenses.training_time.advpt:AdvPT", ("unaware",),
          detail="The photos are attacked once and their features kept, so learning needs no "
                 "pass of the image tower.",
          trains="16 vectors in front of every label", paid="training",
          remark="16 learned vectors instead of 32: the embedded text tower reads 32 tokens in "
                 "all."),
    Entry("fap", "FAP", "defense", "training_time",
          "Few-shot Adversarial Prompt Learning on Vision-Language Models", "NeurIPS", 2024,
          "https://arxiv.org/abs/2403.14774",
          "authors' code MIT; own code, weights to be trained for a ViT", "weights needed",
          "Learned tokens in nine blocks of both towers, trained under attack on a few photos a "
          "class.",
          "1 f", "defenses.training_time.fap:FAP", ("unaware",),
          detail="Clean and attacked photos must be answered alike while their features may "
                 "differ.",
          trains="two tokens in each of nine blocks of both towers", paid="training",
          remark="No prompts ship, as the embedded model has no patch tokens; the command train "
                 "fap makes them for a ViT.",
          published=(Published("clean 70.52 / 49.58 %, attacked 38.05 / 21.86 %, classes seen / "
                               "new",
                               "ViT-B/32, mean of 11 sets, PGD-100, ε 1/255",
                               "the FAP paper, as the CoAPT paper quotes it"),)),
)  # fmt: skip
