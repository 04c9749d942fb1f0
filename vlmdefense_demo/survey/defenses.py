"""The rows of the defences, in the order of the page."""

from __future__ import annotations

from vlmdefense_demo.survey.entry import Entry

# One of each paradigm, ticked when the page opens: a comparison a laptop finishes in seconds.
FIRST = ("fare", "rtpt", "ttc")
GUO = "Countering Adversarial Images using Input Transformations"
GUO_AT = "https://arxiv.org/abs/1711.00117"
XU = "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks"
XU_AT = "https://arxiv.org/abs/1704.01155"
CSR = (
    "Contrastive Spectral Rectification: Test-Time Defense towards Zero-shot Adversarial "
    "Robustness of CLIP"
)
CSR_AT = "https://arxiv.org/abs/2601.19210"
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
    Entry("ensemble", "View ensemble", "defense", "test_time",
          "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
          "CVPR", 2025, "https://arxiv.org/abs/2504.11195", "own code", "faithful",
          "Many crops of the picture are classified and their answers averaged; nothing is adapted.",
          "V f", "defenses.test_time.ensemble:ViewEnsemble", ("unaware", "randomised")),
    Entry("tpt", "TPT", "defense", "test_time",
          "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models",
          "NeurIPS", 2022, "https://arxiv.org/abs/2209.07511", "authors' code MIT; own code",
          "faithful",
          "One step tunes the prompt until confident views agree; made for new domains, not attacks.",
          "V f, text C f + C b", "defenses.test_time.tpt:TPT",
          ("unaware", "adapts", "randomised")),
    Entry("ctpt", "C-TPT", "defense", "test_time",
          "C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via Text Feature "
          "Dispersion", "ICLR", 2024, "https://arxiv.org/abs/2403.14119",
          "authors' code MIT; own code", "faithful",
          "TPT that keeps the labels' texts apart, so that its confidence can be trusted.",
          "V f, text C f + C b", "defenses.test_time.ctpt:CTPT",
          ("unaware", "adapts", "randomised")),
    Entry("rtpt", "R-TPT", "defense", "test_time",
          "R-TPT: Improving Adversarial Robustness of VLMs through Test-Time Prompt Tuning",
          "CVPR", 2025, "https://arxiv.org/abs/2504.11195",
          "authors' code without licence; own code", "faithful",
          "One step tunes the prompt on confident views; views with close neighbours vote.",
          "V f, text C f + C b", "defenses.test_time.rtpt:RTPT",
          ("unaware", "adapts", "randomised")),
    Entry("sstpt", "SS-TPT", "defense", "test_time",
          "SS-TPT: Stability and Suitability-Guided Test-Time Prompt Tuning for Adversarially "
          "Robust Vision-Language Models", "ICML", 2026, "https://arxiv.org/abs/2606.06943",
          "authors' code MIT; own code", "simplified",
          "Views that lie near the others and survive a small change tune the prompt and vote.",
          "2 V f, text C f + C b", "defenses.test_time.sstpt:SSTPT",
          ("unaware", "adapts", "randomised")),
    Entry("tvss", "T-VSS", "defense", "test_time",
          "T-VSS: Test-Time Visual Subspace Steering for Adversarial Robustness of "
          "Vision-Language Models", "arXiv", 2026, "https://arxiv.org/abs/2606.23132",
          "no code published; own code", "simplified",
          "All views' features are shifted along the directions in which the views differ.",
          "V f", "defenses.test_time.tvss:TVSS", ("unaware", "adapts", "randomised")),
    Entry("jpeg", "JPEG", "defense", "training_free", GUO, "ICLR", 2018, GUO_AT, "own code",
          "faithful", "The picture is saved as a JPEG file before it is looked at.", "1 f",
          "defenses.training_free.filters:JPEG", ("unaware",)),
    Entry("bit_depth", "Bit depth", "defense", "training_free", XU, "NDSS", 2018, XU_AT, "own code",
          "faithful", "Only a few levels of every colour are kept.", "1 f",
          "defenses.training_free.filters:BitDepth", ("unaware",)),
    Entry("median", "Median", "defense", "training_free", XU, "NDSS", 2018, XU_AT, "own code",
          "faithful", "Every pixel becomes the median of its neighbours.", "1 f",
          "defenses.training_free.filters:MedianFilter", ("unaware",)),
    Entry("low_pass", "Low-pass", "defense", "training_free", CSR, "ICML", 2026, CSR_AT, "own code",
          "faithful", "The picture is blurred a little: most of a perturbation is fine-grained.",
          "1 f", "defenses.training_free.filters:LowPass", ("unaware",)),
    Entry("total_variation", "Total variation", "defense", "training_free", GUO, "ICLR", 2018,
          GUO_AT, "own code", "simplified", "The nearest picture of little variation takes its place.",
          "1 f", "defenses.training_free.filters:TotalVariation", ("unaware",)),
    Entry("non_local_means", "Non-local means", "defense", "training_free", XU, "NDSS", 2018, XU_AT,
          "own code", "faithful", "Pixels with similar surroundings are averaged.", "1 f",
          "defenses.training_free.filters:NonLocalMeans", ("unaware",)),
    Entry("resize_pad", "Resize and pad", "defense", "training_free",
          "Mitigating Adversarial Effects Through Randomization", "ICLR", 2018,
          "https://arxiv.org/abs/1711.01991", "own code", "simplified",
          "The picture is shrunk by a random amount and put somewhere on black.", "1 f",
          "defenses.training_free.filters:ResizePad", ("unaware", "randomised")),
    Entry("clipure", "CLIPure-Cos", "defense", "training_free",
          "CLIPure: Purification in Latent Space via CLIP for Adversarially Robust Zero-Shot "
          "Classification", "ICLR", 2025, "https://arxiv.org/abs/2502.18176",
          "authors' code for research only; own code", "faithful",
          "The image's feature is turned towards that of an empty sentence.", "1 f",
          "defenses.training_free.clipure:CLIPureCos", ("unaware",)),
    Entry("ttc", "TTC", "defense", "training_free",
          "CLIP is Strong Enough to Fight Back: Test-time Counterattacks", "CVPR", 2025,
          "https://arxiv.org/abs/2503.03613", "authors' code without licence; own code",
          "faithful",
          "If noise hardly moves the image's feature, push the image away from that feature.",
          "(N + 2) f + N b; 3 f while the gate stays shut", "defenses.training_free.ttc:TTC",
          ("unaware", "adapts", "randomised")),
)  # fmt: skip
