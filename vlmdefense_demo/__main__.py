"""The command line: python -m vlmdefense_demo {compare, benchmark, trial, calibrate, mirror, methods,
speed, stories, train}.

eps is in /255.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdefense_demo import commands
from vlmdefense_demo.benchmark.quick import Quick
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.survey import methods

TRAININGS = (
    "pocket", "universal", "fare", "tecoa", "tecoa_vp", "pmg_aft", "tga_zsr", "apt", "advpt", "fap",
    "tapt", "check", "check-robust",
)  # fmt: skip

if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 if the input cannot be used."""
    args = _parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("vlmdefense_demo").setLevel(args.log_level)
    try:
        return int(args.command(args))
    except DemoError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        if error.filename is None:  # none of a file the person named
            raise
        sys.stderr.write(f"{error.filename}: {error.strerror}.\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlmdefense_demo", description=__doc__)
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING"))
    some = parser.add_subparsers(required=True)
    for add in (
        _compare, _benchmark, _trial, _calibrate, _mirror, _methods, _speed, _stories, _train,
    ):  # fmt: skip
        add(some)
    return parser


def _compare(some: Parsers) -> None:
    compare = some.add_parser("compare", help="attack one picture, defend it, print the cards")
    compare.add_argument("--image", required=True, help="path of a picture")
    compare.add_argument("--labels", required=True, help="labels, comma separated")
    compare.add_argument("--template", default=DEFAULT_TEMPLATE)
    compare.add_argument("--attack", default="pgd", choices=list(methods("attack")))
    compare.add_argument("--eps", type=float, default=4, help="radius in /255")
    compare.add_argument(
        "--defenses",
        help="ids, or empty; two in a row: fare+ttc; default: all that the model has weights for",
    )
    compare.add_argument(
        "--set", action="append", default=[], metavar="METHOD.FIELD=VALUE",
        help="a parameter in display units, e.g. rtpt.views=32, pgd.steps=20, fare+ttc.ttc_steps=5",
    )  # fmt: skip
    compare.add_argument("--truth", help="the right label; default: the model's own clean answer")
    compare.add_argument("--goal", default="", help="wrong, runner-up, least likely, label, …")
    compare.add_argument("--target", default="", help="the label or the caption to reach")
    compare.add_argument("--target-image", help="a second picture to imitate")
    compare.add_argument(
        "--attacker", default="unaware", choices=("unaware", "aware", "every-rung"),
        help="aware climbs until a rung breaks the defence; every-rung tries all, from scratch",
    )  # fmt: skip
    compare.add_argument("--budget", default="interactive", choices=("interactive", "batch"))
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    compare.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    compare.add_argument("--json", metavar="FILE", help="write the cards as JSON; - is stdout")
    compare.add_argument("--out", type=Path, help="write the PNGs and cards.json to a folder")
    compare.add_argument(
        "--report", type=Path, metavar="FILE.zip", help="write all of it as one zip"
    )
    compare.set_defaults(command=commands.compare)


def _benchmark(some: Parsers) -> None:
    bench = some.add_parser(
        "benchmark", help="the survey's table: robustness, overhead, generalisation"
    )
    bench.add_argument("--quick", action=Quick, nargs=0,
                       help="eight photos, a method a paradigm; flags after it change that")  # fmt: skip
    bench.add_argument(
        "--images", nargs="+",
        help="folder, csv, tar, zip, or “bundled”; those after the first are other worlds",
    )  # fmt: skip
    bench.add_argument(
        "--worlds", default="",
        help="where else: of names, noise, blur, contrast, pixelate, jpeg; clean and transfer only",
    )  # fmt: skip
    bench.add_argument("--photos", type=int, help="drawn at random; default: all")
    bench.add_argument("--labels", type=int, default=10, help="answers to choose from")
    bench.add_argument(
        "--defenses", help="ID or ID:FIELD=VALUE/VALUE, comma separated, e.g. undefended,rtpt:views=8/16;"
        " with --table-only the lines of the table, in this order",
    )  # fmt: skip
    bench.add_argument("--attack", default="pgd", help="of the attacker who does not know")
    bench.add_argument("--eps", default="1,2,4", help="radii in /255")
    bench.add_argument(
        "--steps", default="clean,transfer",
        help="of clean, transfer, white_box, adaptive, black_box, latency, gradient",
    )  # fmt: skip
    bench.add_argument("--budget", default="interactive", choices=("interactive", "batch"))
    bench.add_argument("--adaptive-steps", type=int, help="of the adaptive attacker")
    bench.add_argument("--draws", type=int, help="of a random defence, a step of that attacker")
    bench.add_argument("--queries", type=int, help="of the black-box attacker")
    bench.add_argument("--seeds", default="0", help="of all draws, comma separated")
    bench.add_argument("--file", type=Path, help="JSONL; an existing one goes on")
    bench.add_argument("--shard", help="this process's share, e.g. 0/2; torchrun shares by itself")
    bench.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    bench.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    bench.add_argument("--threads", type=int, help="of the processor, for each process")
    bench.add_argument("--format", default="markdown", choices=("markdown", "csv", "latex"))
    bench.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="write the table as pictures, too"
    )
    bench.add_argument(
        "--page", type=Path, metavar="FILE.md", help="write a page with tables and figures, too"
    )
    bench.add_argument("--table-only", nargs="*", type=Path, metavar="FILE",
                       help="measure nothing; print the table of these files, or of --file")  # fmt: skip
    bench.set_defaults(command=commands.benchmark)


def _trial(some: Parsers) -> None:
    trial = some.add_parser("trial", help="attacks and ladders over many photos")
    trial.add_argument("--images", type=Path, required=True, help="folder of csv + tar photo sets")
    trial.add_argument("--photos", type=int, default=200)
    trial.add_argument("--attacks", default="pgd", help="ids; with defences exactly one")
    trial.add_argument("--eps", default="4", help="radii in /255, comma separated")
    trial.add_argument(
        "--defenses", default="", help="ids, comma separated; fare+ttc is a pipeline"
    )
    trial.add_argument("--rungs", default="", help="white_box, adaptive, black_box")
    trial.add_argument("--budget", default="interactive", choices=("interactive", "batch"))
    trial.add_argument("--fresh", type=int, help="draws a random defence is judged in again")
    trial.add_argument("--queries", type=int, help="of the black-box rung; default: the budget's")
    trial.add_argument("--set", action="append", default=[], metavar="METHOD.FIELD=VALUE")
    trial.add_argument("--file", type=Path, required=True, help="JSONL; an existing one goes on")
    trial.add_argument("--shard", default="0/1", help="this process's share, e.g. 0/2")
    trial.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    trial.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    trial.add_argument("--threads", type=int, help="of the processor, for each process")
    trial.add_argument("--table-only", nargs="*", type=Path, metavar="FILE",
                       help="measure nothing; print the table of these files")  # fmt: skip
    trial.set_defaults(command=commands.trial)


def _calibrate(some: Parsers) -> None:
    it = some.add_parser("calibrate", help="thresholds of the detectors, and what they are worth")
    it.add_argument("--images", type=Path, required=True, help="folder of csv + tar photo sets")
    it.add_argument("--photos", type=int, default=300, help="clean ones, for the thresholds")
    it.add_argument("--attacked", type=int, default=100, help="validation photos to measure on")
    it.add_argument("--known", type=int, default=32, help="of these for the attacker who knows")
    it.add_argument("--eps", default="1,4", help="radii in /255")
    it.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    it.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    it.add_argument("--file", type=Path, help="JSON; default: the one the page reads")
    it.set_defaults(command=commands.calibrate)


def _mirror(some: Parsers) -> None:
    mirror = some.add_parser("mirror", help="what CLIPure-Cos makes of attacked pictures")
    mirror.add_argument("--images", required=True, help="folder, csv, tar, zip, or “bundled”")
    mirror.add_argument("--photos", type=int, help="drawn at random; default: all")
    mirror.add_argument("--labels", type=int, default=10, help="answers to choose from")
    mirror.add_argument("--eps", default="1,2,4", help="radii in /255")
    mirror.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    mirror.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    mirror.set_defaults(command=commands.mirror)


def _methods(some: Parsers) -> None:
    listing = some.add_parser("methods", help="every attack, defence and detector")
    how = listing.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="rows with parameters and ranges")
    how.add_argument("--markdown", action="store_true", help="the survey as a table")
    listing.set_defaults(command=commands.methods)


def _speed(some: Parsers) -> None:
    speed = some.add_parser("speed", help="time attack and defences against their bare passes")
    speed.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    speed.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    speed.add_argument("--only", default="all",
                       choices=("all", "attacks", "towers", "defences", "benchmark"))  # fmt: skip
    speed.add_argument("--repeats", type=int, default=15, help="runs of each, the median counts")
    speed.set_defaults(command=commands.speed)


def _stories(some: Parsers) -> None:
    stories = some.add_parser("stories", help="make the comparisons that ship with the page")
    stories.add_argument("--only", default="", help="slugs, comma separated; default: all")
    stories.add_argument("--out", type=Path, help="folder; default: where the page finds them")
    stories.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda", "mps"))
    stories.add_argument("--html", type=Path, metavar="FILE",
                         help="make nothing; write the lecture as one file for any browser")  # fmt: skip
    stories.add_argument("--lang", help="language of that file; default: en")
    stories.set_defaults(command=commands.stories)


def _train(some: Parsers) -> None:
    train = some.add_parser("train", help="make the weights in assets/, or check them")
    train.add_argument("what", choices=TRAININGS)
    train.add_argument("--images", type=Path, required=True, help="folder of csv + tar photo sets")
    train.add_argument("--out", type=Path, help="folder of the model; default: its own")
    train.add_argument(
        "--model", default="pocket", help="of fap, tapt: catalog name or local-dir:PATH"
    )
    train.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda", "mps"),
                       help="of fap, tapt")  # fmt: skip
    train.add_argument("--shots", type=int, default=16, help="photos a class of a prompt")
    train.add_argument("--work", type=Path, default=Path("runs"), help="checkpoints")
    train.add_argument("--steps", type=int, help="optimiser steps; default: the recipe's")
    train.add_argument("--eps", type=float, help="radius to train for, in /255; default: 3, fap 1")
    train.add_argument("--start", type=float,
                       help="go on from the method's own tower for this radius, in /255")  # fmt: skip
    train.add_argument("--photos", type=int, help="of check-robust, 200, and of tapt, 1000")
    train.add_argument("--towers", default="undefended,fare", help="of check-robust")
    train.add_argument("--kinds", default="words", help="words, all-words, names")
    train.add_argument("--threads", type=int, default=2)
    train.set_defaults(command=commands.train)


if __name__ == "__main__":
    sys.exit(main())
