"""`python -m vlmdefense_demo benchmark`: from flags to rows and a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlmdefense_demo.benchmark import tables
from vlmdefense_demo.benchmark.header import header
from vlmdefense_demo.benchmark.measure import measure
from vlmdefense_demo.benchmark.notes import notes
from vlmdefense_demo.benchmark.plan import UNDEFENDED, Plan, Setting, settings
from vlmdefense_demo.benchmark.ranks import Share, files, own_share
from vlmdefense_demo.benchmark.rows import Row, Rows, read_headers, read_rows
from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import OWN, tasks
from vlmdefense_demo.benchmark.worlds import WORLDS, elsewhere, moved, parse
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.ladder import BATCH, INTERACTIVE
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.survey import entry, unavailable

DEFENSES = "undefended,fare,ensemble,ttc"
FORMATS = {"markdown": tables.markdown, "csv": tables.csv_text, "latex": tables.latex}


def run(args: argparse.Namespace) -> Iterator[str]:
    """Measure what is missing, then print the table and its notes.

    Raises:
        DemoError: what was asked for cannot be done, in a sentence.
    """
    if args.file is None and not args.table_only:
        raise InvalidParameter("There is no file for the rows.", "Name one with --file.")
    if args.table_only is None:
        here = own_share(args.shard)
        yield from _measure(args, here)
        here.wait()
        if not here.speaks:
            return
    given = args.table_only or files(args.file)
    rows = read_rows(*given)
    if args.table_only is not None and args.defenses is not None:
        rows = _chosen(rows, settings(args.defenses))
    if not rows:
        raise InvalidParameter(
            "There are no rows to make a table of.", "Check the files, and --defenses."
        )
    tables.check_alike(rows)
    if args.figures:
        from vlmdefense_demo.benchmark import figures  # matplotlib is slow to import

        yield from (f"wrote {path}\n" for path in figures.write(rows, args.figures))
    if args.page:
        from vlmdefense_demo.benchmark import page

        yield from (f"wrote {p}\n" for p in page.write(rows, read_headers(*given), args.page))
    yield FORMATS[args.format](rows)
    if args.format == "markdown":
        yield "\n"
        yield from (f"- {note}\n" for note in notes(rows))


def _chosen(rows: Sequence[Row], wanted: Sequence[Setting]) -> list[Row]:
    """The rows of these settings, in their order: a file may hold more of them than were asked for."""
    return [r for s in wanted for r in rows if (r["defense"], r["values"]) == (s.id, s.values)]


def _measure(args: argparse.Namespace, here: Share) -> Iterator[str]:
    plan, worlds = plan_of(args), parse(args.worlds)
    if not args.images:
        raise InvalidParameter("There are no pictures.", "Name them with --images.")
    sources = {name: read_source(where) for name, where in _named(args.images).items()}
    if here.speaks:
        for source in sources.values():
            yield from (f"skipped {key}: {why}\n" for key, why in source.skipped.items())
    _check_weights(plan, args.model)
    if args.threads:
        torch.set_num_threads(args.threads)
    backbone = load_model(args.model, args.device)
    asked = {name: tasks(s.pictures, args.photos, args.labels) for name, s in sources.items()}
    home = asked.pop(OWN)
    far = [task for name, found in asked.items() for task in map(partial(moved, name), found)]
    for world in worlds:
        far += elsewhere(world, home, backbone, args.labels)
    rows = Rows(here.file(args.file), files(args.file))
    rows.begin(header(args, plan, backbone, [*home, *far]))
    measure(plan, backbone, here.mine(home), rows)
    if far:
        measure(plan.abroad(), backbone, here.mine(far), rows)


def _named(places: Sequence[str]) -> dict[str, str]:
    """The first source is the one the table is about; others are called what they are called.

    Raises:
        InvalidParameter: two of them have one name, or a world's.
    """
    names = [OWN, *(Path(place).stem for place in places[1:])]
    if len(set(names)) < len(names) or set(names) & set(WORLDS):
        raise InvalidParameter(
            f"The sources after the first need names of their own, got {', '.join(names[1:])}.",
            f"Rename the files; {', '.join((OWN, *WORLDS))} are taken.",
        )
    return dict(zip(names, places, strict=True))


def plan_of(args: argparse.Namespace) -> Plan:
    """The flags as a plan.

    Raises:
        DemoError: they contradict each other, or name what does not exist.
    """
    budget = BATCH if args.budget == "batch" else INTERACTIVE
    changes = {
        "adaptive_steps": args.adaptive_steps, "draws": args.draws, "queries": args.queries
    }  # fmt: skip
    return Plan(
        defenses=settings(DEFENSES if args.defenses is None else args.defenses),
        eps=tuple(numbers("--eps", args.eps, float)),
        attack=args.attack,
        steps=tuple(part.strip() for part in args.steps.split(",") if part.strip()),
        budget=replace(budget, **{k: v for k, v in changes.items() if v is not None}),
        seeds=tuple(numbers("--seeds", args.seeds, int)),
    )


def numbers(flag: str, text: str, kind: Any) -> list[Any]:
    """ "1,2" -> [1, 2].

    Raises:
        InvalidParameter: one of them is no number.
    """
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InvalidParameter(f"{flag} expects numbers, got {text!r}.") from None


def _check_weights(plan: Plan, model: str) -> None:
    """What has no weights is refused before anything is measured."""
    greyed = unavailable(model)
    for setting in plan.defenses:
        rows = () if setting.id == UNDEFENDED else entry(setting.id, "defense").rows
        for row in rows:
            if row.id in greyed:
                raise InvalidParameter(greyed[row.id], f"Leave {setting.id} out.")
