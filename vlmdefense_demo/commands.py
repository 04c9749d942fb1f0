"""What the commands of `python -m vlmdefense_demo` do; heavy imports wait until one is chosen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.spec import literal
from vlmdefense_demo.survey import SURVEY, catalogue, entry, usable
from vlmdefense_demo.types import Card

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone
    from vlmdefense_demo.request import Request


def compare(args: argparse.Namespace) -> int:
    """Attack one picture, defend it, print the cards."""
    from vlmdefense_demo import engine
    from vlmdefense_demo.models.catalog import load_model

    for file in filter(None, (args.report, args.json if args.json != "-" else None)):
        _writable(Path(file))
    if args.out and args.out.exists() and not args.out.is_dir():
        raise InvalidParameter(f"{args.out} is no folder.", "Name a folder with --out.")
    backbone = load_model(args.model, args.device)
    request = asked(args, backbone)
    cards = list({card.method: card for card in engine.compare(request, backbone)}.values())
    if args.out:
        _write(args, cards, request)
    if args.report:
        from vlmdefense_demo.report import report

        args.report.write_bytes(report(request, args.model, cards))
    if args.json:
        text = json.dumps([card.to_json() for card in cards], indent=1, ensure_ascii=False) + "\n"
        if args.json == "-":
            _echo(text)
        else:
            Path(args.json).write_text(text, encoding="utf-8")
    else:
        _echo("".join(_line(card) for card in cards))
    return 0


def asked(args: argparse.Namespace, backbone: Backbone) -> Request:
    """The request of `compare`'s arguments; a report brings the cards' pictures with it."""
    from vlmdefense_demo.images import read_upload, to_pixels
    from vlmdefense_demo.labels import split_labels
    from vlmdefense_demo.ladder import BATCH, INTERACTIVE
    from vlmdefense_demo.request import AWARE, Aim, Request

    settings = _settings(args.set)
    sized = entry(args.attack, "attack").takes("eps")
    attack_params = ({"eps": args.eps} if sized else {}) | settings.pop(args.attack, {})
    chosen = _listed(args.defenses) if args.defenses is not None else usable(args.model)

    def pixels(path: str) -> Any:
        how = backbone.preprocess
        return to_pixels(how.fit(read_upload(path).image))

    picture = pixels(args.target_image) if args.target_image else None
    aim = Aim.at(args.target, args.goal, picture)
    request = Request(
        pixels(args.image), split_labels(args.labels), args.template, args.attack, attack_params,
        {id: settings.pop(id, {}) for id in chosen}, args.truth, aim, args.seed,
        rungs=() if args.attacker == "unaware" else AWARE,
        climb=args.attacker != "every-rung",
        budget=BATCH if args.budget == "batch" else INTERACTIVE,
        exhibits=bool(args.report), looks=bool(args.report or args.out),
    )  # fmt: skip
    if settings:
        raise InvalidParameter(f"--set names methods that do not run: {', '.join(settings)}.")
    return request


def _write(args: argparse.Namespace, cards: list[Card], request: Any) -> None:
    from vlmdefense_demo.export import badge, write_story

    labels = cards[0].clean.labels if cards[0].clean else ()
    line = badge(args.model, request, cards[0])
    about = {"model": args.model, "labels": list(labels), "seed": args.seed, "badge": line}
    write_story(args.out, request.image, cards, about)


def _writable(file: Path) -> None:
    """Before anything is computed.

    Raises:
        InvalidParameter: nothing can be written there.
    """
    if not file.parent.is_dir() or file.is_dir():
        raise InvalidParameter(f"{file} cannot be written.", "Name a file in a folder that exists.")


def _line(card: Card) -> str:
    if card.error:
        return f"{card.title:12} {card.error}\n"
    clean = f"{card.clean.label} {card.clean.prob:.0%}" if card.clean else ""
    attacked = f"{card.attacked.label} {card.attacked.prob:.0%}" if card.attacked else ""
    cost = f"{1000 * card.cost.seconds:.0f} ms  {card.cost.passes()}" if card.cost else ""
    rungs = "".join(
        f"{'':14}{rung.name:10} {rung.verdict:12} {rung.cost.passes()}, {rung.cost.seconds:.1f} s: "
        f"{rung.how}\n"
        for rung in card.ladder[1:]
    )
    return f"{card.title:12} {clean:24} {attacked:24} {card.verdict or '':12} {cost}\n{rungs}"


def _settings(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["rtpt.views=32"] -> {"rtpt": {"views": 32}}; values are JSON or plain text."""
    out: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, raw = pair.partition("=")
        method, dot, field = name.partition(".")
        if not (equals and dot):
            raise InvalidParameter(f"--set expects METHOD.FIELD=VALUE, got {pair!r}.")
        out.setdefault(entry(method).id, {})[field] = literal(raw)
    return out


def benchmark(args: argparse.Namespace) -> int:
    """The survey's comparison table, measured."""
    from vlmdefense_demo.benchmark import command

    for line in command.run(args):
        _echo(line)
    return 0


def trial(args: argparse.Namespace) -> int:
    """Attacks and ladders over many photos."""
    import torch

    from vlmdefense_demo import trial_report, trials
    from vlmdefense_demo.benchmark.command import numbers
    from vlmdefense_demo.benchmark.ranks import own_share
    from vlmdefense_demo.ladder import BATCH, INTERACTIVE
    from vlmdefense_demo.models.catalog import load_model

    budget = BATCH if args.budget == "batch" else INTERACTIVE
    changes = {"fresh": args.fresh, "queries": args.queries}
    budget = replace(budget, **{k: v for k, v in changes.items() if v is not None})
    if args.table_only is None:
        plan = trials.Plan(
            _listed(args.attacks),
            tuple(numbers("--eps", args.eps, float)),
            _listed(args.defenses),
            _listed(args.rungs),  # type: ignore[arg-type]
            budget,
            _settings(args.set),
        )
        here = own_share(args.shard)
        photos = trials.chosen_photos(args.images, args.photos, (here.rank, here.world))
        if args.threads:
            torch.set_num_threads(args.threads)
        trials.measure(plan, load_model(args.model, args.device), photos, args.file)
    rows = trial_report.read_rows(*(args.table_only or [args.file]))
    for line in (*trial_report.table(rows), *trial_report.indicators(rows)):
        _echo(f"{line}\n")
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """Thresholds of the detectors, and what they are worth."""
    from vlmdefense_demo import calibration
    from vlmdefense_demo.benchmark.command import numbers
    from vlmdefense_demo.detectors import thresholds
    from vlmdefense_demo.models.catalog import load_model

    eps = tuple(numbers("--eps", args.eps, float))
    plan = calibration.Plan(args.photos, args.attacked, args.known, eps)
    found = calibration.calibrate(plan, load_model(args.model, args.device), args.images)
    thresholds.write(found, args.file or thresholds.FILE)
    for line in calibration.table(found):
        _echo(f"{line}\n")
    return 0


def mirror(args: argparse.Namespace) -> int:
    """What CLIPure-Cos makes of attacked pictures."""
    from vlmdefense_demo.benchmark.command import numbers
    from vlmdefense_demo.benchmark.sources import read_source
    from vlmdefense_demo.benchmark.tasks import tasks
    from vlmdefense_demo.mirror import table
    from vlmdefense_demo.models.catalog import load_model

    source = read_source(args.images)
    for key, why in source.skipped.items():
        _echo(f"skipped {key}: {why}\n")
    asked = tasks(source.pictures, args.photos, args.labels)
    eps = numbers("--eps", args.eps, float)
    for line in table(load_model(args.model, args.device), asked, eps):
        _echo(f"{line}\n")
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def methods(args: argparse.Namespace) -> int:
    """Every attack, defence and detector."""
    if args.json:
        _echo(json.dumps([row.public() for row in SURVEY.values()], indent=1) + "\n")
    elif args.markdown:
        _echo("".join(f"{line}\n" for line in catalogue.markdown(SURVEY.values())))
    else:
        _echo("".join(f"{r.id:8} {r.kind:8} {r.paradigm:14} {r.venue} {r.year}  {r.title}\n"
                      for r in SURVEY.values()))  # fmt: skip
    return 0


def speed(args: argparse.Namespace) -> int:
    """Time attacks, defences and the benchmark against their bare passes."""
    from vlmdefense_demo.benchmark.throughput import throughput
    from vlmdefense_demo.models.catalog import load_model
    from vlmdefense_demo.speed import attacks, defences, towers

    parts = {
        "attacks": attacks, "towers": towers, "defences": defences, "benchmark": throughput,
    }  # fmt: skip
    backbone = load_model(args.model, args.device)
    for part in parts.values() if args.only == "all" else [parts[args.only]]:
        for line in part(backbone, args.repeats):
            _echo(f"{line}\n")
    return 0


def train(args: argparse.Namespace) -> int:
    """Make the weights in assets/, or check them."""
    from vlmdefense_demo.training import recipes

    for line in recipes.run(args):
        _echo(f"{line}\n")
    return 0


def stories(args: argparse.Namespace) -> int:
    """Make the stories that ship with the page, or a file of those that do."""
    if args.lang and not args.html:
        raise InvalidParameter("--lang is the language of a file.", "Name one with --html.")
    if args.html:
        if args.only or args.out:
            raise InvalidParameter(
                "--html writes the stories that ship, all of them.", "Leave --only and --out away."
            )
        _writable(args.html)
        from vlmdefense_demo.ui.lecture import shipped, standalone
        from vlmdefense_demo.ui.words import LANGUAGES

        code = args.lang or "en"
        if code not in LANGUAGES:
            raise InvalidParameter(f"Unknown language {code!r}.", f"Known: {', '.join(LANGUAGES)}.")
        args.html.write_text(standalone(shipped(), LANGUAGES[code]), encoding="utf-8")
        _echo(f"wrote {args.html}\n")
        return 0
    from vlmdefense_demo.stories.make import make
    from vlmdefense_demo.stories.recipes import FOLDER, RECIPES

    known = {recipe.slug: recipe for recipe in RECIPES}
    chosen = _listed(args.only) or tuple(known)
    unknown = [slug for slug in chosen if slug not in known]
    if unknown:
        raise InvalidParameter(f"Unknown story {unknown[0]!r}.", f"Known: {', '.join(known)}.")
    for line in make([known[slug] for slug in chosen], args.out or FOLDER, args.device):
        _echo(f"{line}\n")
    return 0


def _echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
