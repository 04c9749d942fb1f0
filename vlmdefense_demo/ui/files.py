"""Files the page hands out: PNGs in one temporary folder, deleted after an hour."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

KEEP_SECONDS = 3600


class Outbox:
    """Content-addressed PNG files with an age limit."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vlmdefense-")
        self.root = Path(self._folder.name)

    def put(self, data: bytes, name: str) -> str:
        """Write a file and return its path; files of the same content share it."""
        self._sweep()
        folder = self.root / hashlib.blake2b(data, digest_size=12).hexdigest()
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        return str(path)

    def _sweep(self) -> None:
        limit = time.time() - KEEP_SECONDS
        for path in self.root.glob("*/*.png"):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
