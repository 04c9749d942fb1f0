"""Files handed out: one folder, no longer than promised."""

from __future__ import annotations

import os
import time
from pathlib import Path

from vlmdefense_demo.ui import files
from vlmdefense_demo.ui.files import KEEP_SECONDS, Outbox


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_same_content_is_the_same_file():
    outbox = Outbox()
    one, two = outbox.put(b"a", "x.png"), outbox.put(b"a", "x.png")
    assert one == two != outbox.put(b"b", "x.png")
    assert Path(one).read_bytes() == b"a"


def test_an_old_file_goes_with_the_next_one():
    outbox = Outbox()
    old, young = (Path(outbox.put(data, "x.png")) for data in (b"old", b"young"))
    age(old, KEEP_SECONDS + 1)
    age(young, KEEP_SECONDS - 60)
    outbox.put(b"new", "x.png")
    assert not old.exists()
    assert not old.parent.exists()
    assert young.exists()


def test_an_old_file_goes_although_nobody_asks_again(monkeypatch):
    monkeypatch.setattr(files, "LOOK_EVERY", 0.05)
    outbox = Outbox()
    path = Path(outbox.put(b"a", "x.png"))
    time.sleep(0.2)
    assert path.exists()
    age(path, KEEP_SECONDS + 1)
    end = time.monotonic() + 10
    while path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not path.exists()
    with outbox._lock:
        assert outbox._timer is None or not outbox._sweep()
