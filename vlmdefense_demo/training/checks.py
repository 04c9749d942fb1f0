"""`python -m vlmdefense_demo train check` and `check-robust`: what the shipped weights must show."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import open_clip

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import LOCAL, POCKET, load_model
from vlmdefense_demo.models.variants import load_learned, load_twin
from vlmdefense_demo.training.report import Row, must_show
from vlmdefense_demo.training.robust import accuracies, names_trial, words_trial
from vlmdefense_demo.training.tecoa_vp import Framed
from vlmdefense_demo.training.trunk import load_trunk

CHECKED = 200


def check(args: argparse.Namespace) -> Iterator[str]:
    """What the pocket model must show."""
    folder = args.out or POCKET
    names = open_clip.IMAGENET_CLASSNAMES
    for row in must_show(load_folder(folder), load_trunk(), names, args.images, folder):
        yield _line(row)


def check_robust(args: argparse.Namespace) -> Iterator[str]:
    """White-box accuracy of the towers named in --towers, under the labels named in --kinds."""
    backbone = load_folder(args.out or POCKET)
    names, photos = open_clip.IMAGENET_CLASSNAMES, args.photos or CHECKED
    make = {
        "words": lambda: words_trial(backbone, args.images, photos),
        "all-words": lambda: words_trial(backbone, args.images, photos, 0),
        "names": lambda: names_trial(backbone, names, args.images, photos),
    }
    for kind in args.kinds.split(","):
        given = make[kind]()
        for tower in args.towers.split(","):
            clean = tower == "undefended"
            attacked = backbone if clean else _defended(backbone, tower)
            for row in accuracies(f"{kind}: {tower}", attacked, given):
                yield _line(row)


def _defended(backbone: Backbone, method: str) -> Backbone:
    """The model as a method deploys it, for methods that change the picture's way only."""
    if method == "tecoa_vp":
        framed = Framed(backbone)
        framed.border.load_state_dict(
            {f"parts.{k}": v for k, v in load_learned(backbone, method).items()}
        )
        return framed
    return load_twin(backbone, method)


def _line(row: Row) -> str:
    if row.interval is None:
        return f"{row.name:44} {row.value:8.1f}   (at most {row.threshold:g}, n = {row.n})"
    low, high = row.interval
    least = f", at least {row.threshold:.0%}" if row.threshold else ""
    return f"{row.name:44} {row.value:8.1%}   [{low:.1%}, {high:.1%}]   n = {row.n}{least}"


def load_folder(folder: Path) -> Backbone:
    """The model of a folder, on the processor."""
    return load_model("pocket" if folder == POCKET else f"{LOCAL}{folder}", "cpu")
