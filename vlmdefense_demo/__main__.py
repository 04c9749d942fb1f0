"""The command line: python -m vlmdefense_demo {compare, methods, speed, train}. eps is in /255."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from vlmdefense_demo.errors import DemoError, InvalidParameter
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.survey import SURVEY, entry, methods
from vlmdefense_demo.types import Card


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlmdefense_demo", description=__doc__)
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING"))
    commands = parser.add_subparsers(required=True)

    compare = commands.add_parser("compare", help="attack one picture, defend it, print the cards")
    compare.add_argument("--image", required=True, help="path of a picture")
    compare.add_argument("--labels", required=True, help="labels, comma separated")
    compare.add_argument("--template", default=DEFAULT_TEMPLATE)
    compare.add_argument("--attack", default="pgd", choices=list(methods("attack")))
    compare.add_argument("--eps", type=float, default=4, help="radius in /255")
    compare.add_argument("--defenses", default=",".join(methods("defense")), help="ids, or empty")
    compare.add_argument(
        "--set", action="append", default=[], metavar="METHOD.FIELD=VALUE",
        help="a parameter in display units, e.g. rtpt.views=32 or pgd.steps=20",
    )  # fmt: skip
    compare.add_argument("--truth", help="the right label; default: the model's own clean answer")
    compare.add_argument("--target", help="the label to reach; default: any wrong one")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    compare.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    compare.add_argument("--json", metavar="FILE", help="write the cards as JSON; - is stdout")
    compare.add_argument("--out", type=Path, help="write the PNGs and cards.json to a folder")
    compare.set_defaults(command=_compare)

    listing = commands.add_parser("methods", help="every attack and defence")
    listing.add_argument("--json", action="store_true", help="rows with parameters and ranges")
    listing.set_defaults(command=_methods)

    speed = commands.add_parser("speed", help="time attack and defences against their bare passes")
    speed.add_argument("--model", default="pocket", help="catalog name or local-dir:PATH")
    speed.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    speed.set_defaults(command=_speed)

    train = commands.add_parser("train", help="make the weights in assets/, or check them")
    train.add_argument("what", choices=("pocket", "fare", "check", "check-robust"))
    train.add_argument("--images", type=Path, required=True, help="folder of csv + tar photo sets")
    train.add_argument("--out", type=Path, help="folder of the model; default: assets/pocket-clip")
    train.add_argument("--work", type=Path, default=Path("runs"), help="checkpoints")
    train.add_argument("--steps", type=int, help="optimiser steps; default: the recipe's")
    train.add_argument("--second-run", action="store_true", help="fare: continue from the twin")
    train.add_argument("--photos", type=int, default=200, help="photos of check-robust")
    train.add_argument("--threads", type=int, default=2)
    train.set_defaults(command=_train)
    return parser


def _compare(args: argparse.Namespace) -> int:
    from vlmdefense_demo.engine import Request, compare
    from vlmdefense_demo.images import fit, read_upload, to_pixels
    from vlmdefense_demo.models.catalog import load_model

    settings = _settings(args.set)
    attack_params = {"eps": args.eps} | settings.pop(args.attack, {})
    chosen = [id.strip() for id in args.defenses.split(",") if id.strip()]
    backbone = load_model(args.model, args.device)
    how = backbone.preprocess
    request = Request(
        to_pixels(fit(read_upload(args.image).image, how.size, how.squash)),
        args.labels.split(","), args.template, args.attack, attack_params,
        {id: settings.pop(id, {}) for id in chosen}, args.truth, args.target, args.seed,
    )  # fmt: skip
    if settings:
        raise InvalidParameter(f"--set names methods that do not run: {', '.join(settings)}.")
    cards = list({card.method: card for card in compare(request, backbone)}.values())
    if args.out:
        _write(args, cards, request)
    if args.json:
        text = json.dumps([card.to_json() for card in cards], indent=1, ensure_ascii=False) + "\n"
        if args.json == "-":
            _echo(text)
        else:
            Path(args.json).write_text(text, encoding="utf-8")
    else:
        _echo("".join(_line(card) for card in cards))
    return 0


def _write(args: argparse.Namespace, cards: list[Card], request: Any) -> None:
    from vlmdefense_demo.export import write_story

    labels = cards[0].clean.labels if cards[0].clean else ()
    badge = (
        f"precomputed · {args.model} · {entry(args.attack).title} · ε {args.eps:g}/255 · "
        f"seed {args.seed} · {cards[0].device}, {date.today():%B %Y}"
    )
    about = {"model": args.model, "labels": list(labels), "seed": args.seed, "badge": badge}
    write_story(args.out, request.image, cards, about)


def _line(card: Card) -> str:
    if card.error:
        return f"{card.title:12} {card.error}\n"
    clean = f"{card.clean.label} {card.clean.prob:.0%}" if card.clean else ""
    attacked = f"{card.attacked.label} {card.attacked.prob:.0%}" if card.attacked else ""
    cost = f"{1000 * card.cost.seconds:.0f} ms  {card.cost.passes()}" if card.cost else ""
    return f"{card.title:12} {clean:24} {attacked:24} {card.verdict or '':12} {cost}\n"


def _settings(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["rtpt.views=32"] -> {"rtpt": {"views": 32}}; values are JSON or plain text."""
    out: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, raw = pair.partition("=")
        method, dot, field = name.partition(".")
        if not (equals and dot):
            raise InvalidParameter(f"--set expects METHOD.FIELD=VALUE, got {pair!r}.")
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw
        out.setdefault(entry(method).id, {})[field] = value
    return out


def _methods(args: argparse.Namespace) -> int:
    if args.json:
        _echo(json.dumps([row.public() for row in SURVEY.values()], indent=1) + "\n")
    else:
        _echo("".join(f"{r.id:8} {r.kind:8} {r.paradigm:14} {r.venue} {r.year}  {r.title}\n"
                      for r in SURVEY.values()))  # fmt: skip
    return 0


def _speed(args: argparse.Namespace) -> int:
    from vlmdefense_demo.models.catalog import load_model
    from vlmdefense_demo.speed import measure

    for line in measure(load_model(args.model, args.device)):
        _echo(f"{line}\n")
    return 0


def _train(args: argparse.Namespace) -> int:
    from vlmdefense_demo.training import recipes

    for line in recipes.run(args):
        _echo(f"{line}\n")
    return 0


def _echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
