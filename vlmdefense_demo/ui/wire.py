"""Requests from JSON that anybody may have written: calls of the endpoints, recipes in files."""

from __future__ import annotations

from typing import Any

import torch

from vlmdefense_demo.errors import InvalidLabels, InvalidParameter
from vlmdefense_demo.request import AWARE, Aim, Request, check_request
from vlmdefense_demo.survey import attacker as attacker_of
from vlmdefense_demo.survey import entry

ATTACKERS = {"unaware": (), "aware": AWARE}


def read_request(  # noqa: PLR0913 - the fields of a request as they come
    labels: Any,
    template: Any,
    *,
    attack: Any = None,
    attack_params: Any = None,
    defenses: Any = None,
    goal: Any = "",
    target: Any = "",
    second: bool = False,
    attacker: Any = "unaware",
    seed: Any = 0,
    truth: Any = None,
) -> Request:
    """A checked request without its pictures; `second` says that one to imitate will follow.

    Raises:
        DemoError: JSON of the wrong shape, or anything `check_request` refuses.
    """
    if not isinstance(labels, (list, str)):
        raise InvalidLabels(f"labels expects a list of text, got {type(labels).__name__}.")
    attack_params = attack_params or {}
    if not isinstance(attack_params, dict):
        raise InvalidParameter(f"attack_params expects an object, got {attack_params!r}.")
    seed = seed or 0
    if not isinstance(seed, int):
        raise InvalidParameter(f"seed expects a whole number, got {seed!r}.")
    words = {"template": template, "attack": attack, "goal": goal, "target": target,
             "attacker": attacker, "truth": truth}  # fmt: skip
    for name, value in words.items():
        if not isinstance(value, str | None):
            raise InvalidParameter(f"{name} expects text, got {value!r}.")
    if attacker not in ATTACKERS:
        raise InvalidParameter(f"Unknown attacker {attacker!r}.", f"Known: {', '.join(ATTACKERS)}.")
    empty = torch.empty(0)
    request = Request(
        empty,
        labels,
        template or "",
        attack,
        attack_params,
        _defenses(defenses or {}),
        truth or None,
        aim=Aim.at(target, goal or "", empty if second else None),
        seed=seed,
        rungs=ATTACKERS[attacker],
    )
    check_request(request)
    if attack and not attacker_of(entry(attack)).interactive:
        raise InvalidParameter(
            f"{entry(attack).title} takes minutes a picture and is for batches.",
            "Use it from Python or the command line.",
        )
    return request


def _defenses(chosen: Any) -> dict[str, Any]:
    """["fare"] or {"fare": {…}} -> {"fare": {…}}."""
    if isinstance(chosen, list) and all(isinstance(id, str) for id in chosen):
        return {id: {} for id in chosen}
    if isinstance(chosen, dict) and all(isinstance(v, dict) for v in chosen.values()):
        return chosen
    raise InvalidParameter(f"defenses expects a list of ids or an object, got {chosen!r}.")
