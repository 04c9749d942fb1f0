"""Files the page hands out: PNGs and reports in one temporary folder, deleted after an hour, asked or not."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

KEEP_SECONDS = 3600
LOOK_EVERY = 300


class Outbox:
    """Content-addressed files with an age limit."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vlmdefense-")
        self.root = Path(self._folder.name)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def put(self, data: bytes, name: str) -> str:
        """Write a file and return its path; files of the same content share it."""
        self._sweep()
        folder = self.root / hashlib.blake2b(data, digest_size=12).hexdigest()
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        self._wake_later()
        return str(path)

    def _wake_later(self) -> None:
        """One timer at a time, so that files of an idle server go, too."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(LOOK_EVERY, self._wake)
                self._timer.daemon = True
                self._timer.start()

    def _wake(self) -> None:
        with self._lock:
            self._timer = None
        if self._sweep():
            self._wake_later()

    def _sweep(self) -> int:
        """Delete what is old; how many files are left."""
        limit, left = time.time() - KEEP_SECONDS, 0
        for path in self.root.glob("*/*.*"):
            with suppress(FileNotFoundError):  # another thread may be sweeping, too
                if path.stat().st_mtime < limit:
                    path.unlink()
                    with suppress(OSError):  # not empty: the same content under another name
                        path.parent.rmdir()
                else:
                    left += 1
        return left
