"""The front matter of README.md: what a Space reads before it builds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
KEYS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file",
    "short_description", "license", "header", "suggested_hardware", "tags", "pinned", "models",
    "startup_duration_timeout", "disable_embedding", "preload_from_hub",
}  # fmt: skip


@pytest.fixture(scope="module")
def front() -> str:
    return (ROOT / "README.md").read_text("utf-8").split("---\n")[1]


@pytest.fixture(scope="module")
def matter(front) -> dict:
    return yaml.safe_load(front)


def required(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [r for r in map(Requirement, filter(None, lines)) if r.name == name]


def test_a_space_knows_every_key(matter):
    assert matter.keys() <= KEYS
    assert (matter["sdk"], matter["header"]) == ("gradio", "mini")
    assert {matter["colorFrom"], matter["colorTo"]} <= COLOURS
    assert len(matter["short_description"]) <= 60
    assert all(isinstance(tag, str) for tag in matter["tags"])


def test_gradio_is_one_that_is_required(matter):
    [gradio] = required("gradio")
    assert gradio.specifier.contains(matter["sdk_version"])


def test_python_is_quoted_and_one_this_code_is_for(front, matter):
    assert re.search(r'^python_version: "3\.\d+"$', front, re.MULTILINE)  # 3.10 would be 3.1
    assert matter["python_version"] in ("3.10", "3.11", "3.12")


def test_the_app_file_has_a_page_at_module_level(matter):
    tree = ast.parse((ROOT / matter["app_file"]).read_text("utf-8"))
    names = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets}
    assert "demo" in names


def test_the_image_brings_spaces_along_itself():
    assert required("spaces") == []
