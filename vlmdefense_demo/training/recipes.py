"""`python -m vlmdefense_demo train …`: every file in assets/pocket-clip, and the checks on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone, Preprocess
from vlmdefense_demo.models.catalog import (
    LOCAL,
    POCKET,
    UNIVERSAL,
    forget_models,
    load_model,
    load_twin,
)
from vlmdefense_demo.training.fare import fare_objective
from vlmdefense_demo.training.lesson import Language
from vlmdefense_demo.training.photos import read_photos
from vlmdefense_demo.training.report import Row, listed_words, must_show
from vlmdefense_demo.training.robust import robust_rows
from vlmdefense_demo.training.text_tower import TextRecipe, train_text_tower
from vlmdefense_demo.training.tower import TowerRecipe, fine_tune, half_precision
from vlmdefense_demo.training.trunk import closed_form, install, load_trunk
from vlmdefense_demo.training.universal import (
    UniversalRecipe,
    train_universal,
    write_universal,
)
from vlmdefense_demo.training.wordnet import read_wordnet

CONFIG, WEIGHTS, TWIN = "open_clip_config.json", "open_clip_model.safetensors", "fare.safetensors"

FIRST_RUN = TowerRecipe()
# The first twin is already in the ball's reach: full eps at once, more and smaller updates.
SECOND_RUN = TowerRecipe(steps=1500, batch=16, ramp=1e-9)


def run(args: argparse.Namespace) -> Iterator[str]:
    """Dispatch; yields lines for the terminal."""
    torch.set_num_threads(args.threads)
    recipe = {
        "pocket": pocket, "fare": fare, "universal": universal, "check": check,
        "check-robust": check_robust,
    }  # fmt: skip
    yield from recipe[args.what](args)


def pocket(args: argparse.Namespace) -> Iterator[str]:
    """Image tower and class embeddings in closed form, then the text tower by gradient."""
    folder = args.out or POCKET
    blank = _blank(folder)
    trunk = load_trunk()
    install(trunk, closed_form(trunk)[0], blank)
    language = Language(
        open_clip.IMAGENET_CLASSNAMES,
        [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES],
        read_wordnet(),
        listed_words(args.images),
    )
    how = TextRecipe(**({"steps": args.steps} if args.steps else {}))
    tower, log_scale = train_text_tower(
        blank, trunk, read_photos(args.images), language, how, args.work / "text.pt"
    )
    blank.model.text = tower
    blank.model.logit_scale.data.fill_(log_scale)
    weights = half_precision(blank.model.state_dict().items())
    # Three quarters of the model are token rows; 8 bits a number keep it below 45 MB.
    table = "text.token_embedding.weight"
    weights[table] = blank.model.state_dict()[table].to(torch.float8_e4m3fn)
    _write(weights, folder / WEIGHTS)
    yield f"wrote {folder / WEIGHTS}"
    yield from check(args)


def fare(args: argparse.Namespace) -> Iterator[str]:
    """The robust twin, from the model's own tower or, with --second-run, from the first twin."""
    folder = args.out or POCKET
    backbone = _load(folder)
    photos = [p for p in read_photos(args.images) if not p.held_out]
    how, start = FIRST_RUN, None
    if args.second_run:
        how, start = SECOND_RUN, load_twin(backbone, "fare")
    if args.steps:
        how = replace(how, steps=args.steps)
    checkpoint = args.work / ("fare2.pt" if args.second_run else "fare.pt")
    visual = fine_tune(backbone, photos, fare_objective, how, checkpoint, start)
    _write(half_precision(visual.state_dict().items()), folder / TWIN)
    yield f"wrote {folder / TWIN}"


def universal(args: argparse.Namespace) -> Iterator[str]:
    """The universal perturbation of the undefended tower."""
    folder = args.out or POCKET
    photos = [p for p in read_photos(args.images) if not p.held_out]
    how = UniversalRecipe(**({"steps": args.steps} if args.steps else {}))
    delta = train_universal(_load(folder), photos, how, args.work / "universal.pt")
    write_universal(delta, folder / UNIVERSAL)
    yield f"wrote {folder / UNIVERSAL}"


def check(args: argparse.Namespace) -> Iterator[str]:
    """What the pocket model must show."""
    folder = args.out or POCKET
    names = open_clip.IMAGENET_CLASSNAMES
    for row in must_show(_load(folder), load_trunk(), names, args.images, folder):
        yield _line(row)


def check_robust(args: argparse.Namespace) -> Iterator[str]:
    """White-box accuracy of the robust twin and of the undefended tower."""
    backbone = _load(args.out or POCKET)
    twin, names = load_twin(backbone, "fare"), open_clip.IMAGENET_CLASSNAMES
    for row in robust_rows(backbone, twin, names, args.images, args.photos):
        yield _line(row)


def _line(row: Row) -> str:
    if row.interval is None:
        return f"{row.name:44} {row.value:8.1f}   (at most {row.threshold:g}, n = {row.n})"
    low, high = row.interval
    least = f", at least {row.threshold:.0%}" if row.threshold else ""
    return f"{row.name:44} {row.value:8.1%}   [{low:.1%}, {high:.1%}]   n = {row.n}{least}"


def _load(folder: Path) -> Backbone:
    return load_model("pocket" if folder == POCKET else f"{LOCAL}{folder}", "cpu")


def _blank(folder: Path) -> Backbone:
    """An untrained model of the folder's configuration, the same on every machine."""
    config = json.loads((folder / CONFIG).read_text())
    shape = {k: v for k, v in config["model_cfg"].items() if k != "custom_text"}
    with torch.random.fork_rng():
        # The constructor draws from the global generator; the fork gives it back untouched.
        torch.random.default_generator.manual_seed(0)
        model = open_clip.CustomTextCLIP(**shape)
    how = Preprocess(
        **{k: v for k, v in config["preprocess_cfg"].items() if k in ("mean", "std", "size")}
    )
    return Backbone("pocket", model, open_clip.get_tokenizer(f"{LOCAL}{folder}"), how)


def _write(weights: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.replace(path)
    forget_models()
