"""The plan of the tests as a process that can be killed: MODEL PICTURES FILE."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.benchmark.conftest import SMALL
from vlmdefense_demo.benchmark.measure import measure
from vlmdefense_demo.benchmark.plan import Plan, settings
from vlmdefense_demo.benchmark.rows import Rows
from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.models.catalog import load_model

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, pictures, file = sys.argv[1:]
    plan = Plan(
        settings("undefended,ensemble:views=2/3,bit_depth"), (2.0, 8.0), attack_values={"steps": 2},
        steps=("clean", "transfer", "adaptive"), budget=SMALL,
    )  # fmt: skip
    given = tasks(read_source(pictures).pictures, batch=5)
    measure(plan, load_model(f"local-dir:{model}", "cpu"), given, Rows(Path(file)))
