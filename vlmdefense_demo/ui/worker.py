"""One compute thread, so that latencies are comparable and Stop really stops.

Handlers run in Gradio's threads; tensors move in this one. A handler that streams cards wakes up
several times a second, so a closed browser or the Stop button ends the work within one step, and
the next request cannot start before this one has ended.

On ZeroGPU a job runs in a forked process instead. That has this one's memory, and none of its
threads; nothing it writes comes back. So jobs are data: they pickle, and yield all they find out.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vlmdefense_demo.ui import gpu

# isort: split
# `spaces` has to come before whatever may touch CUDA.
import gradio as gr

from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.run import Progress

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
TICK = 0.25
# Of every event that computes: Gradio takes the lowest limit of a group. Who is let in is told what is
# waited for; who waits in Gradio's own queue sees nothing move.
COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 12}
START, MOST = 5.0, 45.0  # seconds: to fork and to move the weights; what is ever asked for


class Job(Protocol[T_co]):
    """Work as data."""

    @property
    def seconds(self) -> float:
        """How long a GPU may take for it."""

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[T_co]:
        """What it finds out, as it comes."""


@dataclass(frozen=True)
class Step:
    """Progress of the running method; without a total, a sentence about what is waited for."""

    method: str
    done: int
    total: int


class Worker:
    """Runs jobs one after another and lets each session stop its own.

    Args:
        forks: run them in processes of their own, as ZeroGPU wants it; the one place that decides.
    """

    def __init__(self, forks: bool = gpu.ZERO) -> None:
        self._events = _apart if forks else self._here
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._stops: dict[str, threading.Event] = {}

    def collect(self, job: Job[T]) -> list[T]:
        """All that a job yields, once it is over; nobody can stop it.

        Raises:
            DemoError: whatever the job raises.
        """
        events = self._events(job, threading.Event())
        return [event for event in events if not isinstance(event, Step)]

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
        try:
            yield from self._events(job, flag)
        finally:
            flag.set()
            if self._stops.get(session) is flag:
                del self._stops[session]

    def _here(self, job: Job[T], flag: threading.Event) -> Iterator[T | Step]:
        """In the compute thread."""
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
                    if flag.is_set() and future.cancel():  # it was still waiting in line
                        raise Cancelled("Stopped.") from None
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


def _apart(job: Job[T], flag: threading.Event) -> Iterator[T | Step]:
    """In a process of its own; Stop is heard at its next event, which comes within a tick."""
    try:
        with closing(alone(job)) as events:
            for event in events:
                if flag.is_set():
                    raise Cancelled("Stopped.")
                if isinstance(event, DemoError):
                    raise event
                yield event
    except gr.Error as error:  # of ZeroGPU itself: a quota, an aborted process
        raise DemoError(re.sub("<[^>]*>", "", str(error.message))) from error


def reserved(job: Job[object]) -> float:
    """Seconds of a GPU to ask for; what is asked for is taken from the visitor's quota."""
    return min(MOST, START + job.seconds)


@gpu.lent(reserved)
def alone(job: Job[T]) -> Generator[T | Step | DemoError]:
    """A job's events where there is no compute thread; an error of it is the last of them.

    As data, because ZeroGPU hands on only the class name of an exception.
    """
    try:
        yield from Worker(forks=False).stream("", job)
    except DemoError as error:
        yield error
