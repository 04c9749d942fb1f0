"""What stands before the rows of a run: everything one needs to measure them again, or to doubt them."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from vlmdefense_demo.benchmark.plan import Plan, digest
from vlmdefense_demo.benchmark.tasks import Task
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.fingerprint import fingerprint
from vlmdefense_demo.report import versions


def header(
    args: argparse.Namespace, plan: Plan, backbone: Backbone, asked: Sequence[Task]
) -> dict[str, Any]:
    """Command, plan and seeds, hashes of weights and pictures, versions and machine."""
    return {
        "command": shlex.join(["python", "-m", "vlmdefense_demo", *sys.argv[1:]]),
        "plan": asdict(plan),
        "model": {"name": backbone.name, "sha256": fingerprint(backbone.model)},
        "pictures": {
            "n": sum(len(task.pictures) for task in asked),
            "digest": digest([(t.world, t.labels, _pictures(t)) for t in asked]),
        },
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "device": str(backbone.device),
            "cores": os.cpu_count(),
            "threads": args.threads or torch.get_num_threads(),
        },
    }


def _pictures(task: Task) -> str:
    found = hashlib.sha256()
    for picture in task.pictures:
        found.update(picture.key.encode() + picture.data)
    return found.hexdigest()
