"""The plan of the tests as a process that can be killed: MODEL PICTURES FILE."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.benchmark.conftest import small_plan
from vlmdefense_demo.benchmark.measure import measure
from vlmdefense_demo.benchmark.rows import Rows
from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.models.catalog import load_model

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, pictures, file = sys.argv[1:]
    given = tasks(read_source(pictures).pictures, batch=5)
    measure(small_plan(), load_model(f"local-dir:{model}", "cpu"), given, Rows(Path(file)))
