"""Files in, pixels out: every picture a person can upload becomes 8-bit RGB at model size.

The clean image is already on the 8-bit grid, so what is scored is what is shown and saved. PNG
everywhere: a lossy format destroys a perturbation of 4/255.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.geometry import from_levels, to_levels
from vlmdefense_demo.types import Images

MAX_BYTES = 8 * 1024 * 1024
MAX_PIXELS = 12_500_000
MIN_SIDE = 16
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, struct.error)
ORIENTATION = 0x0112
RECIPE = "vlmdefense_demo"
INTERPOLATIONS = {name.lower(): how for name, how in Image.Resampling.__members__.items()}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Upload:
    """A decoded upload.

    Args:
        image: RGB, upright, at its own size.
        notes: what had to be changed on the way, in words for the page.
        recipe: what a PNG of this demo says about how it was made; anybody can write one, so it
            is checked like every other input.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    recipe: dict[str, Any] | None = None


def read_upload(source: str | Path | bytes) -> Upload:
    """Decode one picture, first frame, upright, on white, 8 bits a channel.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        InvalidImage: empty, damaged, too large, too small or of another format.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise InvalidImage("The file is empty.", "Choose another picture.")
    if len(data) > MAX_BYTES:
        raise InvalidImage(
            f"The file has {len(data) / 2**20:.1f} MB; at most {MAX_BYTES // 2**20} MB are possible.",
            "Make it smaller.",
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.size)
        image.load()
        return replace(_to_rgb(image), recipe=_recipe(image))
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"The picture is too large ({error}).", "Make it smaller.") from error
    except DAMAGE as error:  # Pillow raises all of these, UnidentifiedImageError is an OSError
        raise InvalidImage(
            "This is not a picture that can be read, or it is damaged.",
            f"Use {', '.join(FORMATS)}.",
        ) from error


def load_image(source: str | Path | bytes, size: int = 224) -> Images:
    """A picture as model input: (1, 3, size, size) float32 in [0, 1] on the 8-bit grid."""
    return to_pixels(fit(read_upload(source).image, size))


def fit(
    image: Image.Image, size: int, squash: bool = False, interpolation: str = "bicubic"
) -> Image.Image:
    """Shorter side to `size` and centre crop; `squash` ignores the aspect ratio.

    A picture of exactly that size passes unchanged.

    Args:
        interpolation: open_clip's word; what Pillow does not know becomes bicubic.
    """
    if image.size == (size, size):
        return image
    how = INTERPOLATIONS.get(interpolation, Image.Resampling.BICUBIC)
    if squash:
        return image.resize((size, size), how)
    return ImageOps.fit(image, (size, size), how)


def to_pixels(image: Image.Image) -> Images:
    """RGB picture -> (1, 3, H, W) float32 in [0, 1]."""
    levels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return from_levels(levels.permute(2, 0, 1)[None])


def to_array(x: Images) -> np.ndarray:
    """(1, 3, H, W) or (3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    x = x[0] if x.dim() == 4 else x
    return to_levels(x.detach()).permute(1, 2, 0).cpu().numpy()


def to_png(x: Images, about: dict[str, Any] | None = None) -> bytes:
    """(1, 3, H, W) in [0, 1] -> the bytes of a PNG; `about` is how it was made, as JSON text."""
    text = PngInfo()
    if about is not None:
        text.add_text(RECIPE, json.dumps(about))  # ASCII, as a tEXt chunk must be
    buffer = io.BytesIO()
    Image.fromarray(to_array(x)).save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def embedded(picture: Image.Image) -> str:
    """A picture as the base64 of a PNG, for a note of a card."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def from_png(data: bytes) -> Images:
    """The bytes of a PNG -> (1, 3, H, W) in [0, 1]; the inverse of `to_png` on the 8-bit grid."""
    return to_pixels(Image.open(io.BytesIO(data)))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidImage(
                f"The file has {path.stat().st_size / 2**20:.1f} MB; "
                f"at most {MAX_BYTES // 2**20} MB are possible.",
                "Make it smaller.",
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidImage(
            f"The file {path.name} cannot be read.", "Choose another one."
        ) from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"The picture has {width}×{height} pixels; "
            f"at most {MAX_PIXELS / 1e6:.1f} million are possible.",
            "Make it smaller.",
        )
    if min(size) < MIN_SIDE:
        raise InvalidImage(
            f"The picture has {width}×{height} pixels; each side needs at least {MIN_SIDE}.",
            "Use a larger one.",
        )


def _to_rgb(image: Image.Image) -> Upload:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("animated: the first frame is used")
        image.seek(0)
    turn = UPRIGHT.get(_orientation(image))
    if turn is not None:
        notes.append("turned upright as its EXIF says")
        image = image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("16-bit levels reduced to 8 bits")
        image = _reduce_depth(image)
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        notes.append("transparency laid on white")
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # A new image from the array carries no EXIF, so no GPS position can be handed on.
    return Upload(Image.fromarray(np.asarray(image.convert("RGB"))), tuple(notes))


def _recipe(image: Image.Image) -> dict[str, Any] | None:
    """The text chunk this demo writes, if it is there and is a JSON object."""
    try:
        about = json.loads(image.info.get(RECIPE, ""))
    except (TypeError, ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, if the EXIF is damaged, as it is in many good photos."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1


def _reduce_depth(image: Image.Image) -> Image.Image:
    """Grey levels of a 16-bit PNG, whose white is 65535 -> 8-bit grey."""
    levels = np.asarray(image).astype(np.float64)
    return Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
