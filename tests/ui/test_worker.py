"""One compute thread: jobs in order, each session stops only its own, nothing lingers."""

from __future__ import annotations

import threading
import time

import pytest

from vlmdefense_demo.errors import Cancelled, InvalidLabels
from vlmdefense_demo.ui.worker import Step, Worker

WAIT = 20.0


@pytest.fixture
def worker():
    return Worker()


def endless(log: list, started: threading.Event):
    """A job that counts steps until it is stopped, as every loop of a method does."""

    def job(note, stopped):
        for i in range(10**6):
            if stopped():
                log.append("stopped")
                raise Cancelled("Stopped.")
            log.append(i)
            note("pgd", i, 10**6)
            started.set()
            time.sleep(0.02)
        yield "never"

    return job


def nothing(note, stopped):
    return iter(())


def drain(stream, into: list):
    def read():
        try:
            into.extend(stream)
        except BaseException as error:
            into.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def test_cards_come_in_order_and_steps_in_between(worker):
    release = threading.Event()

    def job(note, stopped):
        yield "first"
        note("pgd", 3, 10)
        release.wait(WAIT)
        yield "second"

    seen = []
    for item in worker.stream("a", job):
        seen.append(item)
        if isinstance(item, Step):
            release.set()
    assert [x for x in seen if not isinstance(x, Step)] == ["first", "second"]
    assert Step("pgd", 3, 10) in seen


def test_stop_ends_a_job_within_one_step(worker):
    log, started, out = [], threading.Event(), []
    thread = drain(worker.stream("a", endless(log, started)), out)
    assert started.wait(WAIT)
    assert worker.stop("a")
    at_stop = len(log)
    thread.join(WAIT)
    assert isinstance(out[-1], Cancelled)
    assert log[-1] == "stopped"
    assert len(log) <= at_stop + 3  # the step in flight, one that read the flag early, "stopped"


def test_another_sessions_job_is_not_stopped(worker):
    log, started, out = [], threading.Event(), []
    thread = drain(worker.stream("a", endless(log, started)), out)
    assert started.wait(WAIT)
    assert not worker.stop("b")
    before = len(log)
    time.sleep(0.3)
    assert len(log) > before
    assert "stopped" not in log
    worker.stop("a")
    thread.join(WAIT)


def test_stopping_a_waiting_job_leaves_the_running_one_alone(worker):
    log, started, running, waiting = [], threading.Event(), [], []
    first = drain(worker.stream("a", endless(log, started)), running)
    assert started.wait(WAIT)
    later = []
    second = drain(worker.stream("b", endless(later, threading.Event())), waiting)
    deadline = time.monotonic() + WAIT
    while not worker.stop("b"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second.join(WAIT)
    assert isinstance(waiting[-1], Cancelled)
    assert later == [], "it never began"
    before = len(log)
    time.sleep(0.2)
    assert len(log) > before
    assert first.is_alive()
    worker.stop("a")
    first.join(WAIT)


def test_jobs_run_one_after_another(worker):
    log = []

    def job(name):
        def work(note, stopped):
            log.append(f"{name} begins")
            time.sleep(0.1)
            log.append(f"{name} ends")
            yield name

        return work

    threads = [drain(worker.stream(n, job(n)), []) for n in ("a", "b", "c")]
    for thread in threads:
        thread.join(WAIT)
    assert len(log) == 6
    for begin, end in zip(log[::2], log[1::2], strict=True):
        assert begin.split()[0] == end.split()[0]
        assert (begin.split()[1], end.split()[1]) == ("begins", "ends")


def test_what_nobody_can_stop_waits_for_the_running_job(worker):
    log = []

    def job(note, stopped):
        time.sleep(0.2)
        log.append("job")
        yield "card"

    thread = drain(worker.stream("a", job), [])
    time.sleep(0.05)
    assert worker.collect(lambda note, stopped: iter([log.append("call") or 7])) == [7]
    thread.join(WAIT)
    assert log == ["job", "call"]


def test_an_exception_reaches_the_caller_and_the_next_job_runs(worker):
    def job(note, stopped):
        yield "card"
        raise InvalidLabels("too few")

    seen = []
    with pytest.raises(InvalidLabels, match="too few"):
        seen.extend(worker.stream("a", job))
    with pytest.raises(ZeroDivisionError):
        worker.collect(lambda note, stopped: iter([1 / 0]))
    assert list(worker.stream("a", lambda note, stopped: iter(["again"]))) == ["again"]


def test_a_closed_browser_stops_the_job(worker):
    log, started = [], threading.Event()
    stream = worker.stream("a", endless(log, started))
    assert isinstance(next(stream), Step)
    stream.close()
    worker.collect(nothing)  # returns only after the job has ended
    assert log[-1] == "stopped"


def test_a_closed_browser_takes_its_waiting_job_out_of_the_line(worker):
    log, started, out = [], threading.Event(), []
    thread = drain(worker.stream("a", endless(log, started)), out)
    assert started.wait(WAIT)
    later = []
    waiting = worker.stream("b", endless(later, threading.Event()))
    next(waiting)
    waiting.close()
    worker.stop("a")
    thread.join(WAIT)
    worker.collect(nothing)
    assert later == []


@pytest.mark.parametrize("how", ["done", "stop", "error", "close"])
def test_no_session_is_remembered(worker, how):
    log, started = [], threading.Event()

    def fails(note, stopped):
        yield "card"
        raise ValueError

    jobs = {"done": lambda note, stopped: iter(["card"]), "error": fails}
    stream = worker.stream("a", jobs.get(how, endless(log, started)))
    next(stream)
    assert worker.stop("a")
    if how == "close":
        stream.close()
    else:
        drain(stream, []).join(WAIT)
    assert worker._stops == {}
    assert not worker.stop("a")


def test_a_newer_run_of_a_session_keeps_its_own_stop(worker):
    log, started = [], threading.Event()
    old = worker.stream("a", lambda note, stopped: iter(["old", "old"]))
    next(old)
    out = []
    thread = drain(worker.stream("a", endless(log, started)), out)
    assert started.wait(WAIT)
    old.close()
    assert worker.stop("a")
    thread.join(WAIT)
    assert log[-1] == "stopped"
