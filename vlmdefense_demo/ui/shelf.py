"""The gallery's photos, told apart by content: a link can name one of them, and no other picture."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from vlmdefense_demo.images import fit, from_png, read_upload, to_png
from vlmdefense_demo.ui.link import OWN
from vlmdefense_demo.ui.page import Controls

SIDE = 224


class Shelf:
    """Tells which picture of the gallery a file is, by its content.

    Args:
        page: with its photos, and its stories, each of one of them.
        first: path of the picture on the first paint, a photo of the gallery cut to `SIDE` or not.
    """

    def __init__(self, page: Controls, first: str | None) -> None:
        self.paths = {photo.caption: photo.path for photo in page.photos}
        self.captions = {_digest(p.read_bytes()): caption for caption, p in self.paths.items()}
        self._cut = {_pixels(path): caption for caption, path in self.paths.items()}
        for facts in page.stories:
            self._add(to_png(from_png(facts.story.clean)))  # as choosing it writes it
        self.first = "" if first is None else self._add(Path(first).read_bytes())

    def _add(self, data: bytes) -> str:
        """Know a photo of the gallery in another form, too; `OWN` if it is none."""
        name = self.captions.get(_digest(data)) or self._cut.get(_pixels(data), OWN)
        self.captions[_digest(data)] = name
        return name

    def name(self, path: str | None) -> str:
        """Its caption, `OWN` for any other file, "" for none."""
        try:
            return self.captions.get(_digest(Path(path).read_bytes()), OWN) if path else ""
        except OSError:  # deleted, as all files of the page are after a while
            return OWN


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _pixels(source: Path | bytes) -> str:
    return _digest(fit(read_upload(source).image, SIDE).tobytes())
