"""Pictures with their labels, from every place they may lie in; nothing is skipped in silence."""

from __future__ import annotations

import csv
import io
import itertools
import tarfile
import zipfile

import pytest
from PIL import Image

from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.errors import InvalidImage, InvalidLabels
from vlmdefense_demo.images import MAX_BYTES


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def found(source):
    return [(p.key, p.label) for p in source.pictures]


def test_a_tree_of_folders(tmp_path):
    for word, file in (("sea_lion", "b.png"), ("dog", "deep/a.PNG")):
        path = tmp_path / word / file
        path.parent.mkdir(parents=True)
        path.write_bytes(png(3))
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    (tmp_path / "loose.png").write_bytes(png(1))
    assert found(read_source(tmp_path)) == [
        ("dog/deep/a.PNG", "dog"),
        ("sea_lion/b.png", "sea lion"),
    ]


def test_a_csv_lists_what_is_missing_and_what_has_no_label(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    with (tmp_path / "list.csv").open("w", newline="") as out:
        csv.writer(out).writerows(
            [("file", "label"), ("a.png", "cat"), ("gone.png", "dog"), ("b.png", " ")]
        )
    source = read_source(tmp_path / "list.csv")
    assert found(source) == [("a.png", "cat")]
    assert source.skipped.keys() == {"gone.png", "b.png"}
    assert "empty" in source.skipped["gone.png"]


def test_a_csv_without_its_columns_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path,class\na.png,cat\n")
    with pytest.raises(InvalidImage, match="columns file and label"):
        read_source(tmp_path / "list.csv")


def test_a_tar_of_classes(tmp_path):
    path = tar(tmp_path / "x.tar", {"cat/1.png": png(1), "dog/2.png": png(2), "dog/bad.png": b"no"})
    source = read_source(path)
    assert found(source) == [("cat/1.png", "cat"), ("dog/2.png", "dog")]
    assert source.skipped.keys() == {"dog/bad.png"}


def test_a_webdataset_shard(tmp_path):
    members = {"000.png": png(1), "000.cls": b"cat\n", "001.png": png(2), "001.txt": b"red car"}
    source = read_source(tar(tmp_path / "shard-0.tar", members))
    assert [label.strip() for _, label in found(source)] == ["cat", "red car"]


def test_photos_that_ship_inside_dependencies():
    assert {label for _, label in found(read_source("bundled"))} >= {"cat", "coffee", "rocket"}


def test_photo_sets_give_only_what_nothing_was_trained_on(tmp_path):
    for name, n in (("objects", 2), ("things", 40)):
        (tmp_path / name).mkdir()
        for i in range(n):
            (tmp_path / name / f"{i}.png").write_bytes(png(i))
        rows = "".join(f"{i}.png,word {i % 3}\n" for i in range(n))
        (tmp_path / f"{name}.csv").write_text(f"file,label\n{rows}")
    assert {key.split("/")[0] for key, _ in found(read_source(tmp_path))} == {"objects"}
    (tmp_path / "objects.csv").unlink()
    assert 0 < len(read_source(tmp_path).pictures) < 40


@pytest.mark.parametrize("name", ["nothing.tar", "empty", "broken.tar"])
def test_a_place_without_pictures_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar").write_bytes(b"not a tar")
    with pytest.raises(InvalidImage):
        read_source(tmp_path / name)


def test_words_go_in_groups_and_every_picture_is_asked_about_its_own(tree):
    pictures = read_source(tree).pictures
    parts = tasks(pictures, n_labels=2, batch=3)
    assert {len(t.labels) for t in parts} == {2}
    assert max(len(t.pictures) for t in parts) <= 3
    for task in parts:
        assert {p.label for p in task.pictures} <= set(task.labels)
    assert sorted(p.key for t in parts for p in t.pictures) == sorted(p.key for p in pictures)


def test_a_smaller_draw_asks_the_same_questions(tree):
    pictures = read_source(tree).pictures
    questions = {p.key: t.labels for t in tasks(pictures, n_labels=2) for p in t.pictures}
    few = tasks(pictures, 7, n_labels=2)
    assert sum(len(t.pictures) for t in few) == 7
    for task in few:
        for picture in task.pictures:
            assert questions[picture.key] == task.labels


def test_a_larger_draw_is_the_smaller_one_and_more(tree):
    pictures = read_source(tree).pictures
    drawn = [
        {p.key for t in tasks(pictures, n, n_labels=2) for p in t.pictures}
        for n in range(1, len(pictures) + 1)
    ]
    assert [len(keys) for keys in drawn] == list(range(1, len(pictures) + 1))
    for fewer, more in itertools.pairwise(drawn):
        assert fewer < more
    assert drawn[5] != {p.key for p in pictures[:6]}, "at random, not the first"


def test_one_word_is_no_question(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(png(1))
    with pytest.raises(InvalidLabels, match="another class"):
        tasks(read_source(tmp_path).pictures)


def test_a_zip_of_classes(tmp_path):
    members = {
        "cat/1.png": png(1),
        "dog/2.png": png(2),
        "dog/bad.png": b"no",
        "__MACOSX/dog/2.png": b"",
    }
    members["dog/bomb.png"] = b"\0" * (MAX_BYTES + 10)  # a few kilobytes in the archive
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    source = read_source(tmp_path / "x.zip")
    assert found(source) == [("cat/1.png", "cat"), ("dog/2.png", "dog")]
    assert source.skipped.keys() == {"dog/bad.png", "dog/bomb.png"}
    (tmp_path / "y.zip").write_bytes(b"not a zip")
    damaged = bytearray((tmp_path / "x.zip").read_bytes())
    damaged[60:80] = b"\xff" * 20
    (tmp_path / "z.zip").write_bytes(damaged)
    for name in ("y.zip", "z.zip"):
        with pytest.raises(InvalidImage, match="not a zip file"):
            read_source(tmp_path / name)


@pytest.mark.parametrize("name", [".", "/", "notes.txt/", "huge.bin", "cat/.png"])
def test_what_is_no_picture_is_not_unpacked(tmp_path, name, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/1.png", png(1))
        archive.writestr(name, b"0")
    opened = []
    original = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda it, m, *a: opened.append(m.filename) or original(it, m, *a)
    )
    assert found(read_source(tmp_path / "x.zip")) == [("cat/1.png", "cat")]
    assert opened == ["cat/1.png"]
