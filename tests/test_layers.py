"""Who may import whom (DESIGN §2), and what a light import stays free of."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vlmdefense_demo"
# Each line may import itself and everything above it.
LAYERS = (
    {"types", "errors", "spec", "flags"},
    {
        "run",
        "labels",
        "images",
        "lettering",
        "filters",
        "twins",
        "geometry",
        "losses",
        "measure",
        "judging",
        "heatmap",
        "failures",
    },
    {"models", "attacks"},
    {"defenses", "detectors"},
    {"survey"},
    {"ladder", "masking"},
    {"request"},
    {"stage"},
    {"side"},
    {"engine", "library", "alarms", "curves"},
    {
        "benchmark",
        "calibration",
        "export",
        "figures",
        "mirror",
        "repeat",
        "report",
        "speed",
        "stories",
        "trials",
        "trial_report",
        "training",
    },
    {"ui", "commands"},
    {"__main__"},
    {"app"},
)
STRANGERS = ({"models", "attacks"},)  # of one layer, and yet independent
ONLY_IN = {
    "gradio": {"ui", "app"},
    "spaces": {"ui"},
    "open_clip": {"models", "training"},
    "timm": {"models", "training"},
    "matplotlib": {"heatmap", "figures", "benchmark", "lettering"},
    "torchattacks": set(),
    "transformers": set(),
}
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *ROOT.glob("app.py")])


def part(path: Path) -> str:
    """The first name below the package: a module or a sub-package."""
    relative = path.relative_to(ROOT)
    return relative.stem if len(relative.parts) == 1 else Path(relative.parts[1]).stem


def layer(name: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if name in names]
    assert found, f"{name} belongs to no layer: add it to LAYERS"
    return found[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also inside functions, but not under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def imported(path: Path) -> list[str]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8"))))


def files_below_the_package():
    return [f for f in FILES if part(f) != "__init__"]


def test_the_package_is_found():
    assert {"types", "engine", "models", "defenses"} <= {part(f) for f in FILES}


@pytest.mark.parametrize("path", files_below_the_package(), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_its_own_layer_and_those_below(path):
    own = part(path)
    for name in imported(path):
        if not name.startswith(f"{PACKAGE}."):
            continue
        other = name.split(".")[1]
        if other.startswith("__version__"):
            continue
        assert layer(other) <= layer(own), f"{own} must not import {other}"
        for pair in STRANGERS:
            assert own == other or not {own, other} <= pair, f"{own} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_in_their_own_place_only(path):
    for name in imported(path):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed is None or part(path) in allowed, f"{name} in {path.name}"


def test_the_rule_would_notice_a_breach(tmp_path):
    source = "def f():\n    import gradio.themes\n    from vlmdefense_demo import ui\n"
    assert list(imports(ast.parse(source))) == ["gradio.themes", "vlmdefense_demo.ui"]
    hidden = "if TYPE_CHECKING:\n    import gradio\n"
    assert list(imports(ast.parse(hidden))) == []


def loaded_by(statement: str) -> set[str]:
    """Top-level names in sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(out.stdout.split())


def test_importing_the_engine_loads_neither_gradio_nor_open_clip():
    names = loaded_by("import vlmdefense_demo.engine")
    assert "torch" in names
    assert not names & {"gradio", "open_clip", "timm", "matplotlib", "torchvision", "transformers"}


def test_importing_the_package_loads_nothing_heavy():
    names = loaded_by("import vlmdefense_demo")
    assert not names & {"torch", "numpy", "PIL", "gradio", "open_clip"}


def test_every_public_name_can_be_imported():
    statement = (
        "import vlmdefense_demo as v\n"
        "assert all(getattr(v, name) is not None for name in v.__all__)\n"
        "assert {'load_model', 'attack', 'defend', 'compare', 'SURVEY', 'MODELS', 'Goal', 'Run',"
        " 'ZeroShotClassifier', 'load_image', 'Request'} <= set(v.__all__)"
    )
    assert "open_clip" not in loaded_by(statement)
