"""One line for a shell that makes a comparison again from the files of its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.export import CLEAN
from vlmdefense_demo.labels import SEPARATOR
from vlmdefense_demo.ladder import BATCH
from vlmdefense_demo.request import Request
from vlmdefense_demo.spec import shown
from vlmdefense_demo.survey import entry

TARGET, AGAIN = "target.png", "again.zip"


def command(request: Request, model: str) -> str:
    """`python -m vlmdefense_demo compare …`, quoted for a POSIX shell; run where the files lie.

    Every parameter is named, so that a later change of a default changes nothing.

    Raises:
        InvalidParameter: nothing was attacked, or a label holds what separates labels.
    """
    return shlex.join(["python", "-m", "vlmdefense_demo", "compare", *arguments(request, model)])


def arguments(request: Request, model: str) -> Iterator[str]:
    """The same, word by word. Values stand behind "=": one may begin with a dash."""
    attacker, labels = request.attacker(), request.typed()
    if attacker is None or any(map(SEPARATOR.search, labels)):
        raise InvalidParameter("This comparison cannot be written as a command.")
    values = shown(attacker)
    options = {
        "image": CLEAN,
        "labels": ",".join(labels),
        "template": request.template,
        "attack": request.attack,
        "eps": values.pop("eps", None),
        "truth": request.reference,
        "goal": request.aim.kind,
        "target": request.aim.text,
        "target-image": None if request.aim.picture is None else TARGET,
        "defenses": ",".join(request.defenses),
        "attacker": ("aware" if request.climb else "every-rung") if request.rungs else "unaware",
        "budget": "batch" if request.budget == BATCH else "interactive",
        "seed": request.seed,
        "model": model,
    }
    yield from (f"--{name}={value}" for name, value in options.items() if value is not None)
    yield from _set(str(request.attack), values)
    for id, given in request.defenses.items():
        yield from _set(id, shown(entry(id, "defense").build(dict(given))))
    yield f"--report={AGAIN}"


def _set(method: str, values: Mapping[str, Any]) -> Iterator[str]:
    return (f"--set={method}.{name}={json.dumps(value)}" for name, value in values.items())
