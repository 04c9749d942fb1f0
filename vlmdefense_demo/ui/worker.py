"""One compute thread, so that latencies are comparable and Stop really stops.

Handlers run in Gradio's threads; tensors move in this one. A handler that streams cards wakes up
several times a second, so a closed browser or the Stop button ends the work within one step, and
the next request cannot start before this one has ended.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from vlmdefense_demo.run import Progress

T = TypeVar("T")
Job = Callable[[Progress, Callable[[], bool]], Iterator[T]]
TICK = 0.25


@dataclass(frozen=True)
class Step:
    """Progress of the running method."""

    method: str
    done: int
    total: int


class Worker:
    """Runs jobs one after another and lets each session stop its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._stops: dict[str, threading.Event] = {}

    def call(self, work: Callable[[], T]) -> T:
        """Run one function in the compute thread and wait for it."""
        return self._pool.submit(work).result()

    def stop(self, session: str) -> bool:
        """Ask a session's job to stop; False if it has none."""
        flag = self._stops.get(session)
        if flag is not None:
            flag.set()
        return flag is not None

    def stream(self, session: str, job: Job[T]) -> Iterator[T | Step]:
        """What a job yields (cards, mostly) as it comes, and the newest progress in between.

        Raises:
            DemoError: whatever the job raises, Cancelled after a stop.
        """
        flag = threading.Event()
        self._stops[session] = flag
        items: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        latest: list[Step] = []

        def note(method: str, done: int, total: int) -> None:
            latest[:] = [Step(method, done, total)]

        def work() -> None:
            try:
                for item in job(note, flag.is_set):
                    items.put(item)
                items.put(None)
            except BaseException as error:
                items.put(error)

        future = self._pool.submit(work)
        try:
            while True:
                try:
                    item = items.get(timeout=TICK)
                except queue.Empty:
                    yield latest[0] if latest else Step("", 0, 0)
                    continue
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            flag.set()
            future.cancel()
            if self._stops.get(session) is flag:
                del self._stops[session]
