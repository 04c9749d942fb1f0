"""Photo sets made here: no test needs a photo of anybody."""

from __future__ import annotations

import csv
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlmdefense_demo.training.photos import Photo


def jpeg(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def photos_dir(tmp_path):
    """One set in a tar, one in a folder; "objects…" is validation only."""
    with tarfile.open(tmp_path / "things.tar", "w") as tar:
        for i in range(40):
            data, info = jpeg(i), tarfile.TarInfo(f"a/{i}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "objects1").mkdir()
    (tmp_path / "objects1" / "x.jpg").write_bytes(jpeg(99))
    tables = {"things": [f"a/{i}.jpg" for i in range(40)], "objects1": ["x.jpg"]}
    for name, files in tables.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["file", "label"])
            writer.writerows([f, "thing"] for f in files)
    return tmp_path


WAVES = (
    lambda x, y: np.sin(x / 2),
    lambda x, y: np.sin(y / 2),
    lambda x, y: np.sin((x + y) / 3),
    lambda x, y: np.cos(np.hypot(x - 16, y - 16) / 2),
)


@pytest.fixture(scope="session")
def patterns():
    """64 noisy pictures of four kinds of waves, labelled "0" to "3"."""
    return [_wave(i) for i in range(64)]


def _wave(i):
    y, x = np.mgrid[0:32, 0:32]
    noise = np.random.default_rng(i).normal(0, 25, (32, 32, 3))
    pixels = 128 + 60 * WAVES[i % 4](x, y)[..., None] + noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return Photo("waves", f"{i}.png", str(i % 4), "", buffer.getvalue())
