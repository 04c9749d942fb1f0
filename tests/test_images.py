"""Uploads of every kind: what is read, how, and what is refused with a sentence."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.images import (
    MAX_BYTES,
    Upload,
    fit,
    from_png,
    load_image,
    read_upload,
    to_array,
    to_png,
)
from vlmdefense_demo.models.backbone import Preprocess

GPS, ORIENTATION = 0x8825, 0x0112


def picture(mode="RGB", size=(48, 32), seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def data(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def png_header(width, height, bits=1):
    """A PNG that states its size and holds almost nothing."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 16)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def exif(**tags):
    out = Image.Exif()
    out[ORIENTATION] = tags.get("orientation", 1)
    out.get_ifd(GPS)[1] = "N"
    out.get_ifd(GPS)[2] = (48.0, 8.0, 0.0)
    out[0x010F] = "SecretCamera"
    return out


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF"])
def test_lossless_formats_keep_every_pixel(format):
    image = picture("P" if format == "GIF" else "RGB")
    read = read_upload(data(image, format))
    assert np.array_equal(np.asarray(read.image), np.asarray(image.convert("RGB")))
    assert read.notes == ()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_are_read(format):
    read = read_upload(data(Image.new("RGB", (40, 30), (200, 100, 50)), format))
    assert read.image.size == (40, 30)
    assert np.abs(np.asarray(read.image).astype(int) - (200, 100, 50)).max() < 8


def test_a_path_and_its_bytes_give_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(data(picture()))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(read_upload(source).image), np.asarray(picture()))


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
TIFF = data(picture(), "TIFF")
PNG = data(picture())
JPEG = data(picture(), "JPEG")


@pytest.mark.parametrize(
    "source",
    [b"just text", SVG, TIFF, b"\0" * 100, b"%PDF-1.4", PNG[:8], PNG[:200], JPEG[:100], JPEG[:20]],
    ids=["text", "svg", "tiff", "zeros", "pdf", "magic only", "half png", "half jpeg", "jpeg head"],
)
def test_what_is_no_picture_is_refused(source, tmp_path):
    (tmp_path / "renamed.png").write_bytes(source)
    for given in (source, tmp_path / "renamed.png"):
        with pytest.raises(InvalidImage, match="not a picture that can be read, or it is damaged"):
            read_upload(given)


def test_an_empty_file_is_refused():
    with pytest.raises(InvalidImage, match="The file is empty"):
        read_upload(b"")


def test_a_missing_file_or_a_folder_is_refused_without_its_path(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(InvalidImage) as caught:
            read_upload(path)
        assert str(tmp_path.parent) not in str(caught.value)


@pytest.mark.parametrize("side", [20_000, 12_000, 4_000])
def test_too_many_pixels_are_refused_before_decoding(side, recwarn):
    with pytest.raises(InvalidImage, match=r"too large|at most 12\.5 million"):
        read_upload(png_header(side, side))


def test_a_real_picture_of_four_hundred_megapixels_is_refused():
    with pytest.raises(InvalidImage, match="too large"):
        read_upload(data(Image.new("1", (20_000, 20_000))))


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_too_few_pixels_are_refused(size):
    with pytest.raises(InvalidImage, match="each side needs at least 16"):
        read_upload(data(picture(size=size)))
    assert read_upload(data(picture(size=(16, 16)))).image.size == (16, 16)


def test_eight_megabytes_are_allowed_and_one_byte_more_is_not(tmp_path):
    padded = data(picture(), "BMP")
    padded += b"\0" * (MAX_BYTES - len(padded))
    assert read_upload(padded).image.size == (48, 32)
    (tmp_path / "big.bmp").write_bytes(padded + b"\0")
    for source in (padded + b"\0", tmp_path / "big.bmp"):
        with pytest.raises(InvalidImage, match="at most 8 MB"):
            read_upload(source)


def test_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "lime", "blue")]
    read = read_upload(data(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert read.image.getpixel((5, 5)) == (255, 0, 0)
    assert read.notes == ("animated: the first frame is used",)


def test_sixteen_bit_grey_keeps_its_shades():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (16, 1)))
    read = read_upload(data(image))
    assert np.array_equal(np.asarray(read.image)[0, :, 0], np.arange(256))
    assert read.image.mode == "RGB"
    assert "16-bit levels reduced to 8 bits" in read.notes


def test_a_dark_sixteen_bit_picture_stays_dark():
    image = Image.fromarray(np.full((16, 16), 200, np.uint16))
    assert np.asarray(read_upload(data(image)).image).max() <= 1


def test_cmyk_jpeg_is_converted():
    source = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    read = read_upload(data(source, "JPEG", quality=95))
    red, green, blue = read.image.getpixel((9, 9))
    assert red > 200
    assert max(green, blue) < 60
    assert read.notes == ("CMYK converted to RGB",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 20))
    if mode == "LA":
        image = image.convert("LA")
    source = data(image.convert("P") if mode == "PA" else image)
    read = read_upload(source)
    assert read.image.getpixel((2, 2)) == (255, 255, 255)
    assert read.image.getpixel((15, 15)) != (255, 255, 255)
    assert "transparency laid on white" in read.notes


def test_palette_with_a_transparent_colour_is_laid_on_white():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (10, 0, 20, 20))
    read = read_upload(data(image, transparency=0))
    assert read.image.getpixel((2, 2)) == (255, 255, 255)
    assert read.image.getpixel((15, 2)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_mode_becomes_rgb(mode):
    read = read_upload(data(picture(mode)))
    assert read.image.mode == "RGB"
    assert np.array_equal(np.asarray(read.image), np.asarray(picture(mode).convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (1, 0)),
        (3, (1, 1)),
        (4, (0, 1)),
        (5, (0, 0)),
        (6, (1, 0)),
        (7, (1, 1)),
        (8, (0, 1)),
    ],
)
def test_exif_rotation_is_applied(orientation, corner):
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 16, 16))
    read = read_upload(data(image, "JPEG", exif=exif(orientation=orientation), quality=95)).image
    assert read.size == ((32, 64) if orientation >= 5 else (64, 32))
    x, y = (7 if side == 0 else length - 8 for side, length in zip(corner, read.size, strict=True))
    assert read.getpixel((x, y))[0] > 200


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("position", range(0, 40, 2))
def test_a_photo_with_damaged_exif_is_still_read(position):
    source = data(picture(), "JPEG", exif=exif(orientation=6))
    start = source.index(b"Exif") + 6 + position
    read = read_upload(source[:start] + b"\xff\xff" + source[start + 2 :])
    assert read.image.size in ((48, 32), (32, 48))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_and_gps_are_dropped(format):
    source = data(picture(), format, exif=exif())
    assert b"SecretCamera" in source
    image = read_upload(source).image
    assert not image.getexif()
    assert not image.info
    assert b"SecretCamera" not in data(image, format)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_damaged_bytes_never_raise_anything_else(format):
    """Seeded corruptions, most of them near the header: a picture comes out, or a sentence."""
    options = {"exif": exif(orientation=6)} if format in ("PNG", "JPEG", "WEBP") else {}
    if format in ("GIF", "WEBP"):
        options |= {"save_all": True, "append_images": [picture(size=(20, 20), seed=1)]}
    clean = data(picture(size=(20, 20)), format, **options)
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(clean)
        window = len(clean) if rng.random() < 0.3 else min(len(clean), 200)
        for position in rng.integers(0, window, rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        with contextlib.suppress(InvalidImage):
            assert isinstance(read_upload(bytes(damaged)), Upload)


def test_a_picture_of_the_models_size_passes_unchanged():
    image = picture(size=(224, 224))
    assert fit(image, 224) is image
    x = load_image(data(image))
    assert x.shape == (1, 3, 224, 224)
    assert np.array_equal(to_array(x), np.asarray(image))


def test_fit_crops_the_middle_and_squash_keeps_everything():
    image = Image.new("RGB", (90, 30), "black")
    image.paste("red", (30, 0, 60, 30))
    assert np.asarray(fit(image, 30)).reshape(-1, 3).min(0)[0] > 200
    squashed = np.asarray(fit(image, 30, squash=True))
    assert squashed.shape == (30, 30, 3)
    assert squashed[15, 15, 0] > 200
    assert squashed[15, 2, 0] == 0


def test_pictures_are_made_smaller_as_the_model_was_trained():
    image = picture(size=(60, 60))
    ways = [np.asarray(fit(image, 30, False, way)) for way in ("bicubic", "bilinear", "random")]
    assert np.array_equal(ways[0], np.asarray(fit(image, 30)))
    assert np.array_equal(ways[0], ways[2])  # a word only training knows
    assert np.array_equal(ways[1], image.resize((30, 30), Image.Resampling.BILINEAR))
    assert not np.array_equal(ways[0], ways[1])
    how = Preprocess(30, (0, 0, 0), (1, 1, 1), "bilinear")
    assert np.array_equal(how.fit(image), ways[1])


@pytest.mark.parametrize("size", [(16, 16), (17, 400), (3000, 20)])
def test_fit_gives_the_models_size_from_any_size(size):
    assert fit(Image.new("RGB", size), 32).size == (32, 32)


def test_pixels_lie_on_the_grid_in_float32():
    x = load_image(data(picture(size=(300, 231))), 64)
    assert x.dtype == torch.float32
    assert (x * 255 - (x * 255).round()).abs().max() < 1e-4
    assert x.min() >= 0
    assert x.max() <= 1


def test_png_round_trip_is_bit_exact():
    x = tiny.images(1, 32)
    assert torch.equal(from_png(to_png(x)), x)
    assert to_png(x).startswith(b"\x89PNG")
    assert to_png(x) == to_png(from_png(to_png(x)))


def test_png_rounds_instead_of_truncating():
    x = tiny.images(1, 16) + 0.4 / 255
    assert torch.equal(from_png(to_png(x)), tiny.images(1, 16))


def test_array_is_height_by_width_by_channel():
    x = torch.zeros(1, 3, 4, 6)
    x[0, 2, 1, 5] = 1
    assert to_array(x).shape == to_array(x[0]).shape == (4, 6, 3)
    assert to_array(x)[1, 5].tolist() == [0, 0, 255]
