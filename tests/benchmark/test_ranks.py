"""Several processes, one benchmark: the rows of one, whoever measured them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vlmdefense_demo.__main__ import main
from vlmdefense_demo.benchmark.ranks import Share, files, own_share
from vlmdefense_demo.benchmark.rows import read_rows
from vlmdefense_demo.errors import InvalidParameter

TIMES = {"s"}


def flags(model_dirs, tree, file, **changes):
    given = {"--model": f"local-dir:{model_dirs['vit']}", "--images": str(tree), "--eps": "2,8",
             "--defenses": "undefended,ensemble:views=2/3", "--steps": "clean,transfer,adaptive",
             "--adaptive-steps": "2", "--draws": "1", "--file": str(file)} | changes  # fmt: skip
    return ["benchmark", *(part for pair in given.items() for part in pair)]


def content(*paths):
    """Rows by key, without what a clock says."""
    return {r["key"]: {k: v for k, v in r.items() if k not in TIMES} for r in read_rows(*paths)}


@pytest.mark.parametrize(
    ("shard", "name"), [(None, "rows.jsonl"), ("0/1", "rows.jsonl"), ("0/2", "rows.0.jsonl"),
                        ("3/12", "rows.3.jsonl")],
)  # fmt: skip
def test_who_shares_the_work_has_a_file_that_all_can_read(shard, name, tmp_path):
    file = own_share(shard).file(tmp_path / "rows.jsonl")
    file.touch()
    assert file.name == name
    assert file in files(tmp_path / "rows.jsonl")


def launched(arguments, n=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(n), "-m", "vlmdefense_demo", *arguments]  # fmt: skip
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=quiet)


def test_torchruns_two_processes_measure_the_rows_of_one(model_dirs, tree, tmp_path):
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    assert main(flags(model_dirs, tree, alone)) == 0
    ran = launched(flags(model_dirs, tree, shared))
    assert ran.returncode == 0, ran.stderr[-2000:]
    parts = files(shared)[1:]
    assert [p.name for p in parts] == ["shared.0.jsonl", "shared.1.jsonl"]
    first, second = (content(p) for p in parts)
    assert first
    assert second
    assert not first.keys() & second.keys()
    assert first | second == content(alone)
    assert ran.stdout.count("| View ensemble · views 2 |") == 1, "one of them prints"

    # One is lost with its last lines: what is left is read by whoever goes on, here a single process.
    kept = parts[1].read_text().splitlines(keepends=True)
    parts[1].write_text("".join(kept[: len(kept) // 2]) + kept[-1][:20])
    assert main(flags(model_dirs, tree, shared)) == 0
    assert content(*files(shared)) == content(alone)
    assert len(read_rows(shared)) == len(kept) - len(kept) // 2


def test_a_share_comes_from_the_flag_or_from_torchrun(monkeypatch, tmp_path):
    assert own_share(None) == Share()
    assert own_share("1/3") == Share(1, 3)
    assert own_share("1/3").mine(range(7)) == range(1, 7, 3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    here = own_share(None)
    assert (here.rank, here.world, here.speaks) == (2, 4, False)
    assert here.file(tmp_path / "r.jsonl") == tmp_path / "r.2.jsonl"
    with pytest.raises(InvalidParameter, match="shares the work itself"):
        own_share("0/2")


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(InvalidParameter, match="I below N"):
        own_share(text)
