"""Where the pictures of a benchmark come from: anything that pairs a picture with its label.

a folder of photo sets (csv beside a tar or a folder)     training/photos.py
a tree of folders, one a class                            torchvision's ImageFolder
a csv with the columns file and label                     paths beside it
a tar or a zip: class/picture.jpg, or WebDataset's pairs  x.jpg with x.cls or x.txt
"bundled"                                                 photos that ship inside dependencies
"""

from __future__ import annotations

import csv
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.images import FORMATS, MAX_BYTES, read_upload
from vlmdefense_demo.labels import plain
from vlmdefense_demo.training.photos import VALIDATION_ONLY, read_photos
from vlmdefense_demo.training.report import BUNDLED

BUNDLED_NAME = "bundled"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
LABEL_SUFFIXES = (".cls", ".txt")


@dataclass(frozen=True)
class Picture:
    """One labelled picture, still encoded.

    Args:
        key: names it in every row; unique within its source.
        label: the word for what it shows.
        data: the bytes of the file.
    """

    key: str
    label: str
    data: bytes


@dataclass(frozen=True)
class Source:
    """Pictures that can be read, in the order of their keys, and why others cannot.

    Args:
        skipped: key -> reason.
    """

    pictures: tuple[Picture, ...]
    skipped: dict[str, str]


def read_source(where: str | Path) -> Source:
    """All pictures of a source, each checked for being a picture.

    Raises:
        InvalidImage: there is nothing at this place, or no labelled picture in it.
    """
    pictures, skipped = [], {}
    for picture in sorted(_found(where), key=lambda p: p.key):
        if not plain(picture.label):
            skipped[picture.key] = "It has no label."
            continue
        try:
            read_upload(picture.data)
        except InvalidImage as error:
            skipped[picture.key] = str(error)
        else:
            pictures.append(picture)
    if not pictures:
        raise InvalidImage(
            f"No labelled picture in {where}.",
            "Expected a folder a class, a csv with file and label, a tar, a zip, or “bundled”; pictures "
            f"are {', '.join(FORMATS)}.",
        )
    return Source(tuple(pictures), skipped)


def _found(where: str | Path) -> Iterator[Picture]:
    path = Path(where)
    if str(where) == BUNDLED_NAME:
        return _bundled()
    if path.is_dir():
        return _photo_sets(path) if any(path.glob("*.csv")) else _tree(path)
    if path.suffix == ".csv" and path.is_file():
        return _table(path)
    if path.suffix in ARCHIVES and path.is_file():
        return _archive(path, ARCHIVES[path.suffix])
    raise InvalidImage(
        f"{where} is no folder, csv, tar or zip that can be read.", "Check the path of --images."
    )


def _bundled() -> Iterator[Picture]:
    for (package, folder), file, word in BUNDLED:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        data = (Path(spec.origin).parent / folder / file).read_bytes()
        yield Picture(f"{BUNDLED_NAME}/{file}", word, data)


def _photo_sets(folder: Path) -> Iterator[Picture]:
    """Photos nothing was trained on: the sets kept for validation, else every fifth of the others."""
    photos = read_photos(folder)
    validation = [p for p in photos if p.source.startswith(VALIDATION_ONLY)]
    for photo in validation or [p for p in photos if p.held_out]:
        yield Picture(f"{photo.source}/{photo.file}", photo.label, photo.data)


def _tree(folder: Path) -> Iterator[Picture]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and path.parent != folder:
            name = path.relative_to(folder)
            yield Picture(name.as_posix(), _word(name.parts[0]), path.read_bytes())


def _table(table: Path) -> Iterator[Picture]:
    with table.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise InvalidImage(f"{table.name} needs the columns file and label.")
        for row in reader:
            path = table.parent / row["file"]
            # A missing file is an empty one: it is listed as skipped, not passed over.
            yield Picture(row["file"], row["label"], path.read_bytes() if path.is_file() else b"")


def _tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def _zip(path: Path) -> dict[str, bytes]:
    """At most one byte more of a member than a picture may have: what is longer is refused as one."""
    with zipfile.ZipFile(path) as archive:
        files = {}
        for member in _pictures(archive):
            with archive.open(member) as handle:
                files[member.filename] = handle.read(MAX_BYTES + 1)
        return files


def _pictures(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Members that are a picture or a label, without the shadows that macOS adds."""
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        wanted = name.suffix.lower() in (*SUFFIXES, *LABEL_SUFFIXES)
        if wanted and not member.is_dir() and name.parts[0] != "__MACOSX":
            yield member


def check_zip(path: str | Path, most: int) -> None:
    """A small zip may unpack to anything; no member gives more bytes than its header says.

    Args:
        most: bytes of all its pictures and labels together.

    Raises:
        InvalidImage: there is more in it, or it is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = sum(min(member.file_size, MAX_BYTES) for member in _pictures(archive))
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidImage(f"{Path(path).name} is not a zip file that can be read.") from error
    if whole > most:
        raise InvalidImage(
            f"{Path(path).name} unpacks to more than {most // 2**20} MB.",
            "Take fewer pictures, or smaller ones.",
        )


DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
           NotImplementedError)  # fmt: skip
ARCHIVES: Mapping[str, Callable[[Path], dict[str, bytes]]] = {".tar": _tar, ".zip": _zip}


def _archive(path: Path, read: Callable[[Path], dict[str, bytes]]) -> Iterator[Picture]:
    """Members named class/…/picture, or WebDataset's pairs of the same stem."""
    try:
        files = read(path)
    except DAMAGED as error:
        kind = path.suffix[1:]
        raise InvalidImage(f"{path.name} is not a {kind} file that can be read.") from error
    for name, data in files.items():
        member = PurePosixPath(name)
        if member.suffix.lower() not in SUFFIXES:
            continue
        beside = (str(member.with_suffix(suffix)) for suffix in LABEL_SUFFIXES)
        label = next((files[other] for other in beside if other in files), None)
        if label is not None:
            yield Picture(name, label.decode("utf-8", "replace"), data)
        else:
            yield Picture(name, _word(member.parts[0]) if len(member.parts) > 1 else "", data)


def _word(folder: str) -> str:
    """A class folder as a word: "sea_lion" -> "sea lion"."""
    return folder.replace("_", " ")
