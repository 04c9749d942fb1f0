"""The rows of the detectors: they say whether a picture was attacked, and change no answer."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry
from vlmdefense_demo.survey.training_free import CSR, CSR_AT, XU, XU_AT

THRESHOLD = "one threshold a model, on clean photos without labels"

DETECTORS = (
    Entry("detect_padding", "Padding cosine", "detector", "none",
          "TTP: Test-Time Padding for Adversarial Detection and Robust Adaptation on Vision-Language "
          "Models", "CVPR", 2026, "https://arxiv.org/abs/2512.16523",
          "authors' code not read; own code", "simplified",
          "A black frame moves every pixel, and an attacked feature turns much further than a clean "
          "one.", "2 f", "detectors.padding:PaddingDetector",
          detail="The frame is differentiable, so an attacker can fool the model and the cosine at "
                 "once.",
          trains=THRESHOLD, paid="both",
          remark="The picture is shrunk into the frame, which the text leaves open; the threshold is "
                 "calibrated here, not 0.8."),
    Entry("detect_lowpass", "Low-pass cosine", "detector", "none", CSR, "ICML", 2026, CSR_AT,
          "authors' code said to be MIT; own code", "faithful",
          "A small blur takes little from a photo and much from what an attack drew on it.",
          "2 f", "detectors.lowpass:LowPassDetector",
          detail="An attacker who knows it draws with low frequencies, which the blur lets through.",
          trains=THRESHOLD, paid="both",
          remark="The threshold is calibrated here; theirs of 0.85 belongs to OpenAI's ViT-B/16."),
    Entry("detect_drift", "Noise drift", "detector", "none",
          "CLIP is Strong Enough to Fight Back: Test-time Counterattacks", "CVPR", 2025,
          "https://arxiv.org/abs/2503.03613",
          "authors' code without licence; own code", "simplified",
          "Weak noise moves an attacked feature less than a clean one, strong noise moves it more.",
          "(D + 1) f", "detectors.drift:DriftDetector", ("randomised",),
          detail="The score is read beyond the crossing, under noise stronger than most attacks.",
          trains=THRESHOLD, paid="both",
          remark="Read under strong noise, after arXiv 2606.03730, of which only a summary was read; "
                 "amplitude and draws are ours."),
    Entry("detect_squeeze", "Feature squeezing", "detector", "none", XU, "NDSS", 2018, XU_AT,
          "own code", "faithful",
          "Three filters that change nothing a person sees should leave the answer where it is.",
          "4 f", "detectors.squeeze:SqueezeDetector",
          detail="The largest shift of the answer counts, so the score belongs to the label list.",
          trains=THRESHOLD, paid="both",
          remark="5 bits, a 2 x 2 median and fast non-local means; the threshold is calibrated here."),
)  # fmt: skip
