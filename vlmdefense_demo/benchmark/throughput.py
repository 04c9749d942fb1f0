"""How much of a benchmark's time is the bare model's, as a ratio taken in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from vlmdefense_demo.benchmark.measure import measuring
from vlmdefense_demo.benchmark.plan import UNDEFENDED, Plan, settings
from vlmdefense_demo.benchmark.rows import Rows
from vlmdefense_demo.benchmark.sources import BUNDLED_NAME, read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.geometry import differentiated
from vlmdefense_demo.models.backbone import Backbone

Call = tuple[int, bool]  # pictures, and whether their gradient was asked for
PLAN = Plan(settings(UNDEFENDED), steps=("clean", "transfer"))


@contextmanager
def listening(backbone: Backbone) -> Iterator[list[Call]]:
    """Write down every call of the image tower, whoever makes it."""
    calls: list[Call] = []

    def note(_: object, given: tuple[Tensor, ...]) -> None:
        [x] = given
        calls.append((len(x), differentiated(x)))

    hook = backbone._tower.register_forward_pre_hook(note)
    try:
        yield calls
    finally:
        hook.remove()


def throughput(backbone: Backbone, repeats: int = 5) -> Iterator[str]:
    """A line: clean and transferred pictures of a benchmark per second, over those of the bare passes.

    The same passes of the image tower in the same batches, forwards and backwards, with nothing around
    them; the benchmark reads, decodes, attacks, quantises, judges and writes rows to disk.
    """
    with listening(backbone) as calls:
        _seconds_of_benchmark(backbone)  # warms up, too
    pairs = []
    for i in range(repeats):  # each goes first in turn
        bare = _seconds_of(calls, backbone) if i % 2 else 0.0
        whole = _seconds_of_benchmark(backbone)
        pairs.append((bare or _seconds_of(calls, backbone), whole))
    ratio = statistics.median(bare / whole for bare, whole in pairs)
    bare, whole = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    forward = sum(n for n, _ in calls)
    backward = sum(n for n, slope in calls if slope)
    yield (
        f"benchmark, clean and transfer: {whole:.0f} ms for {forward} f + {backward} b, bare passes "
        f"{bare:.0f} ms: throughput {ratio:.2f} of the bare model's"
    )


def _seconds_of_benchmark(backbone: Backbone) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        asked = tasks(read_source(BUNDLED_NAME).pictures)
        for _ in measuring(PLAN, backbone, asked, Rows(Path(folder) / "rows.jsonl")):
            pass
        return time.perf_counter() - start


def _seconds_of(calls: Sequence[Call], backbone: Backbone) -> float:
    size = backbone.preprocess.size
    x = backbone.place(torch.rand(max(n for n, _ in calls), 3, size, size))
    start = time.perf_counter()
    for n, slope in calls:
        batch = x[:n].detach().requires_grad_(slope)
        with torch.set_grad_enabled(slope):
            z = backbone.encode_image(batch)
            if slope:
                torch.autograd.grad(z.sum(), batch)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - start
