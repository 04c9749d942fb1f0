"""Several processes of one benchmark: who measures what, and into which file.

Either by hand (`--shard 0/2`), or all at once and on as many machines as one likes:

    torchrun --nproc-per-node 2 -m vlmdefense_demo benchmark …

Every process appends to a file of its own and reads those of all others before it starts, so that no
line is ever torn by two writers, and a run goes on after the loss of a process, with as many processes
as there are then. No tensor travels between them: gloo serves on CPUs and GPUs alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from vlmdefense_demo.benchmark.tasks import Task
from vlmdefense_demo.errors import InvalidParameter

# The others may wait that long for the slowest.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Share:
    """One process among all.

    Args:
        launched: by torchrun, which starts the others as well.
    """

    rank: int = 0
    world: int = 1
    launched: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it prints: of those that torchrun started only the first does."""
        return self.rank == 0 or not self.launched

    def mine(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Its share; a batch is what it is whoever measures it."""
        return tasks[self.rank :: self.world]

    def file(self, rows: Path) -> Path:
        """Its own file, where there are others."""
        alone = self.world == 1 and not self.launched
        return rows if alone else rows.with_name(f"{rows.stem}.{self.rank}{rows.suffix}")

    def wait(self) -> None:
        """For all processes to get here."""
        if self.launched:
            dist.init_process_group("gloo", timeout=PATIENCE)
            dist.barrier()
            dist.destroy_process_group()


def own_share(shard: str | None) -> Share:
    """This process's, from `--shard` or from torchrun's environment.

    With torchrun and GPUs each process takes the one of its local rank.

    Raises:
        InvalidParameter: the shard is not I/N with I below N, or torchrun says another thing.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if shard is None:
        if not launched:
            return Share()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), True)
    if launched:
        raise InvalidParameter("torchrun shares the work itself.", "Leave --shard out.")
    one, slash, all_ = shard.partition("/")
    if not (slash and one.isdigit() and all_.isdigit() and int(one) < int(all_)):
        raise InvalidParameter(f"--shard expects I/N with I below N, got {shard!r}.")
    return Share(int(one), int(all_))


def files(rows: Path) -> list[Path]:
    """A file of rows, and those that the processes of a shared run wrote beside it."""
    return [rows, *sorted(rows.parent.glob(f"{rows.stem}.[0-9]*{rows.suffix}"))]
