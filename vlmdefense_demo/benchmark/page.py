"""The results as a page of a repository: command, tables, figures, and apart from them what papers report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmdefense_demo.benchmark import figures, tables
from vlmdefense_demo.benchmark.notes import notes
from vlmdefense_demo.benchmark.plan import UNDEFENDED
from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.request import AWARE
from vlmdefense_demo.survey import entry

CAPTIONS = {
    "curves": "Accuracy over the radius, by attacker.",
    "trade": "Clean accuracy against what the hardest attacker leaves at the radius where that parts the "
    "defences most; settings of one from faint to strong.",
    "latency": "Median time of a single picture.",
    "price": "Time for one right answer against that attacker at that radius.",
}
WARNING = (
    "Other models, other data, other attackers: these numbers are quoted beside the table above because "
    "they are what the papers claim, not because the two could be compared."
)
Header = Mapping[str, Any]


def write(rows: Sequence[Row], headers: Sequence[Header], file: Path) -> Iterator[Path]:
    """Write the page, titled as its file is, and its figures into a folder of that name beside it."""
    folder = file.with_suffix("")
    drawn = list(figures.write(rows, folder))
    yield from drawn
    pictures = {path.stem: f"{folder.name}/{path.name}" for path in drawn}
    title = file.stem.replace("-", " ").capitalize()
    file.write_text(f"# {title}\n\n{''.join(_lines(rows, headers, pictures))}", encoding="utf-8")
    yield file


def _lines(
    rows: Sequence[Row], headers: Sequence[Header], pictures: Mapping[str, str]
) -> Iterator[str]:
    yield from _origin(rows, headers)
    yield "\n## Answered rightly, per cent of all pictures, with 95 % intervals\n\n"
    yield tables.as_markdown(*tables.cells(rows)) + "\n"
    yield from (f"- {note}\n" for note in notes(rows))
    for name, path in pictures.items():
        yield f"\n![{CAPTIONS[name]}]({path})\n\n{CAPTIONS[name]}\n"
    far = tables.columns(rows, abroad=True)
    if far:
        yield "\n## Generalisation: the same defences in other worlds\n"
        yield from ("\n" + tables.as_markdown(*tables.abroad(rows, cell)) for cell in far)
    yield from _published(rows)
    yield "\n## Measured with\n\n"
    yield from (f"- {line}\n" for line in dict.fromkeys(map(_machine, headers)))


def _origin(rows: Sequence[Row], headers: Sequence[Header]) -> Iterator[str]:
    commands = dict.fromkeys(header["command"] for header in headers)
    yield "Made by\n\n```\n" + "".join(f"{command}\n" for command in commands) + "```\n\n"
    n = len({row["picture"] for row in rows if row["world"] == OWN})
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    models = dict.fromkeys(_model(header) for header in headers)
    yield f"{n} pictures, seeds {seeds}; {'; '.join(models)}.\n"
    for plan in _distinct(header["plan"] for header in headers):
        yield f"The attacker who does not know a defence: {plan['attack']}"
        if set(plan["steps"]) & set(AWARE):
            budget = (f"{name.replace('_', ' ')} {n}" for name, n in plan["budget"].items())
            yield f"; budget of those who do: {', '.join(budget)}"
        yield ".\n"


def _distinct(plans: Iterator[Header]) -> Iterator[Header]:
    """One of each attack and budget, of those that attacked."""
    attacking = [plan for plan in plans if set(plan["steps"]) & {"transfer", *AWARE}]
    seen = {str((p["attack"], p["attack_values"], p["budget"])): p for p in attacking}
    yield from seen.values()


def _model(header: Header) -> str:
    return f"{header['model']['name']}, weights {header['model']['sha256'][:12]}"


def _machine(header: Header) -> str:
    machine = header["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    return (
        f"{machine['system']}, {machine['device']}, {machine['cores']} cores, threads {machine['threads']}: "
        f"{versions}"
    )


def _published(rows: Sequence[Row]) -> Iterator[str]:
    """What was measured here, in the papers' own numbers."""
    ids = dict.fromkeys(row["defense"] for row in rows if row["defense"] != UNDEFENDED)
    methods = {part.id: part for id in ids for part in entry(id).rows}
    body = [
        [row.title, number.result, number.setting, number.source]
        for row in methods.values()
        for number in row.published
    ]
    if body:
        yield f"\n## What the papers report\n\n{WARNING}\n\n"
        yield tables.as_markdown(["defence", "numbers", "setting", "read in"], body)
