"""How far the delivered file is from the original, measured on the 8-bit arrays."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


class Distances(TypedDict):
    """linf in grey levels; l2 in pixel units; changed in 0..1; psnr in dB, None if identical."""

    linf: float
    l2: float
    changed: float
    psnr: float | None
    ssim: float


def distances(clean: np.ndarray, attacked: np.ndarray) -> Distances:
    """Norms, PSNR and SSIM of two (H, W, 3) uint8 pictures.

    SSIM: scikit-image, 7x7 window, mean over channels, data range 255.
    """
    delta = attacked.astype(np.int16) - clean.astype(np.int16)
    identical = not delta.any()
    return {
        "linf": float(np.abs(delta).max()),
        "l2": float(np.linalg.norm(delta / 255)),
        "changed": float(delta.any(axis=2).mean()),
        "psnr": None if identical else float(peak_signal_noise_ratio(clean, attacked)),
        "ssim": float(structural_similarity(clean, attacked, channel_axis=2)),
    }
