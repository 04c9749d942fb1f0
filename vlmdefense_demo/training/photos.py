"""Labelled photos for the recipes: a folder of csv files, each beside a tar or a folder.

`NAME.csv` has the columns file and label (and wordnet_id where there is one); the pictures lie in
`NAME.tar` or `NAME/`. Sets whose name starts with "objects" are for validation only, and one photo
in five of every other set, chosen by a hash of its name, is held out of all training.
"""

from __future__ import annotations

import csv
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.images import read_upload

VALIDATION_ONLY = "objects"
HOLD_OUT_EVERY = 5


@dataclass(frozen=True)
class Photo:
    """One labelled picture, still encoded."""

    source: str
    file: str
    label: str
    wordnet_id: str
    data: bytes

    @property
    def held_out(self) -> bool:
        """Never trained on."""
        by_hash = zlib.crc32(f"{self.source}/{self.file}".encode()) % HOLD_OUT_EVERY == 0
        return self.source.startswith(VALIDATION_ONLY) or by_hash

    def open(self) -> Image.Image:
        """The picture as a defence would see it: RGB, upright, on white.

        Raises:
            InvalidImage: it cannot be read.
        """
        try:
            return read_upload(self.data).image
        except InvalidImage as error:
            raise InvalidImage(f"{self.source}/{self.file}: {error.message}", error.hint) from error


def read_photos(folder: Path, only: Sequence[str] = ()) -> list[Photo]:
    """All photos of a folder, or of the named sets.

    Raises:
        InvalidImage: no csv file is there, or a listed picture is missing.
    """
    tables = sorted(p for p in folder.glob("*.csv") if not only or p.stem in only)
    if not tables:
        raise InvalidImage(f"No photo sets (csv beside tar or folder) in {folder}.")
    return [photo for table in tables for photo in _read_set(table)]


def _read_set(table: Path) -> Iterator[Photo]:
    files = _files(table)
    with table.open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["file"] not in files:
                raise InvalidImage(f"{table.name} lists {row['file']}, which is not there.")
            yield Photo(
                table.stem, row["file"], row["label"], row.get("wordnet_id", ""), files[row["file"]]
            )


def _files(table: Path) -> dict[str, bytes]:
    archive, folder = table.with_suffix(".tar"), table.with_suffix("")
    if archive.exists():
        with tarfile.open(archive) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def centre_crop(image: Image.Image, size: int) -> Tensor:
    """The model's own view: shorter side to `size` (bicubic), centre crop -> (3, size, size)."""
    width, height = image.size
    scale = size / min(width, height)
    image = image.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))),
        Image.Resampling.BICUBIC,
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return to_tensor(image.crop((left, top, left + size, top + size)))


def random_crop(image: Image.Image, size: int, generator: torch.Generator) -> Tensor:
    """A square crop of 50 to 100 % of the shorter side, flipped half the time."""
    draw = torch.rand(4, generator=generator).tolist()
    side = max(1, round(min(image.size) * (0.5 + 0.5 * draw[0])))
    left, top = round((image.width - side) * draw[1]), round((image.height - side) * draw[2])
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if draw[3] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_tensor(image)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def batches(
    photos: Sequence[Photo], size: int, batch: int, steps: range, seed: int
) -> Iterator[Tensor]:
    """Random crops, reproducible from (seed, step) alone, so that a resumed run continues."""
    for step in steps:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(photos), (batch,), generator=generator).tolist()
        yield torch.stack([random_crop(photos[i].open(), size, generator) for i in rows])
