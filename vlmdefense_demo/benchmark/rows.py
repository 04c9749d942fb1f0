"""Rows of a benchmark: one JSON line each, appended as it is measured.

A row's key names everything that could change it. What was cut off by a kill is measured again. Before
the rows of a run stands where and with what they were measured.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmdefense_demo.errors import InvalidParameter

Row = dict[str, Any]
SCHEMA = 2


class Rows:
    """A JSONL file that several runs may extend, one after the other or each process its own.

    Args:
        file: made when the first row is written.
        shared: files of other processes or earlier runs, which are read only.
    """

    def __init__(self, file: Path, shared: Iterable[Path] = ()) -> None:
        self.file = file
        if file.exists():
            cut_torn_line(file)
        # What failed once, for want of memory for instance, is tried again.
        self.done = {row["key"] for row in read_rows(file, *shared) if not row["error"]}

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write down how what follows is measured, unless it is how what stands there was.

        Raises:
            InvalidParameter: the file cannot be written, or is about other weights of the same name.
        """
        headers = read_headers(self.file)
        for before in headers:
            _check_weights(before.get("model", {}), about.get("model", {}), self.file)
        if not headers or headers[-1] != json.loads(json.dumps(about)):
            self._append([{"schema": SCHEMA, "about": about}])

    def add(self, rows: Iterable[Row]) -> None:
        """Append what is not there yet; each row is on disk before the next one is measured.

        Raises:
            InvalidParameter: the file cannot be written, for instance because the disk is full.
        """
        self._append(row for row in rows if row["key"] not in self.done)

    def _append(self, lines: Iterable[Row]) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as out:
                for line in lines:
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                    out.flush()
                    self.done.add(line.get("key", ""))
        except OSError as error:
            raise InvalidParameter(
                f"{self.file} cannot be written ({error.strerror}).",
                "Rows written so far are kept: make room and start again.",
            ) from error


_FAILED: Row = {"error": "not measured"}


def _check_weights(before: Mapping[str, str], now: Mapping[str, str], file: Path) -> None:
    """A model keeps its name when it is trained again, and its rows their keys."""
    if before.get("name") == now.get("name") and before.get("sha256") != now.get("sha256"):
        raise InvalidParameter(
            f"{file} is about {now['name']} with other weights.", "Name another --file."
        )


def read_rows(*files: Path) -> list[Row]:
    """The rows of files that exist, each key once, a failure only where nothing else is.

    A file may be packed by gzip.

    Raises:
        InvalidParameter: what is packed cannot be unpacked.
    """
    found: dict[str, Row] = {}
    for file in files:
        if file.exists():
            for row in _parsed(_lines(file)):
                if "key" in row and found.get(row["key"], _FAILED)["error"]:
                    found[row["key"]] = row
    return list(found.values())


def read_headers(*files: Path) -> list[dict[str, Any]]:
    """How what stands in files that exist was measured, in the order it was."""
    return [
        line["about"]
        for file in files
        if file.exists()
        for line in _parsed(_lines(file))
        if "about" in line
    ]


def _lines(file: Path) -> list[str]:
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise InvalidParameter(f"{file} cannot be unpacked ({error}).") from error
    # Not splitlines, which knows ends of lines that JSON keeps as they are.
    return data.decode("utf-8", errors="replace").split("\n")


def _parsed(lines: Iterable[str]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        if isinstance(row, dict) and row.get("schema") == SCHEMA:
            yield row


def cut_torn_line(file: Path) -> None:
    """Half a line would swallow the next one."""
    whole = file.read_bytes()
    if not whole.endswith(b"\n"):
        file.write_bytes(whole[: whole.rfind(b"\n") + 1])
