"""Many people at once, on the page as it is really launched: nobody sees another's results, who
comes too late is refused politely, and afterwards the server is as it was.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, QUEUE = 36, 16
RUNS, WARM = 200, 100  # it takes a hundred until all caches and the heap have their size
PATIENCE = 200.0  # of a client; nothing here is expected to take a quarter of it
MARK = re.compile(r"marker\d\d")
OVER = ("process_completed", "close_stream", "unexpected_error")


@dataclass
class Server:
    """The app in a process of its own."""

    url: str
    pid: int
    config: dict[str, Any] = field(default_factory=dict)
    picture: dict[str, Any] = field(default_factory=dict)

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000

    def seconds(self) -> float:
        """Processor time spent up to now."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def idle(self) -> bool:
        """Whether it comes to rest: a job that nobody waits for would keep it busy."""

        def resting() -> bool:
            before = self.seconds()
            time.sleep(1.0)
            return self.seconds() - before < 0.2

        return eventually(resting)

    def queued(self) -> int:
        """How many requests wait."""
        return httpx.get(f"{self.url}/gradio_api/queue/status", timeout=PATIENCE).json()[
            "queue_size"
        ]

    def function(self, name: str) -> dict[str, Any]:
        """What the page's config says of an endpoint, or of the button "go"."""
        parts = {c["id"]: c["props"].get("elem_id") for c in self.config["components"]}
        for one in self.config["dependencies"]:
            pressed = [parts.get(id) for id, event in one["targets"] if event == "click"]
            if name in (one["api_name"], *pressed) and one["backend_fn"]:
                return one
        raise LookupError(name)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


def health(url: str) -> dict[str, Any]:
    """What /health answers, asked as a monitor would."""
    return httpx.post(f"{url}/gradio_api/run/health", json={"data": []}, timeout=10).json()["data"][
        0
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory, photos) -> Iterator[Server]:
    """`python app.py`, its model loaded."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    env = os.environ | {"GRADIO_TEMP_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
    found = Server(f"http://127.0.0.1:{port}", process.pid)

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return health(found.url)["status"] == "ready"
        except httpx.TransportError:
            return False

    try:
        assert eventually(ready)
        found.config = httpx.get(f"{found.url}/config", timeout=PATIENCE).json()
        with photos["cat"].open("rb") as file:
            path = httpx.post(
                f"{found.url}/gradio_api/upload", files={"files": file}, timeout=PATIENCE
            ).json()[0]
        found.picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        yield found
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Client:
    """One person: labels, radius and session of their own."""

    server: Server
    number: int
    steps: int = 1

    @property
    def mark(self) -> str:
        return f"marker{self.number:02d}"

    @property
    def eps(self) -> int:
        return (1, 2, 4, 8)[self.number % 4]

    @property
    def session(self) -> str:
        return f"session{self.number:02d}"

    def call(self) -> tuple[dict[str, Any], list[Any]]:
        """The endpoint /compare."""
        params = {"eps": self.eps} | (
            {"steps": self.steps, "stop_early": False} if self.slow else {}
        )
        labels = ["cat", "dog", self.mark]
        attack = "pgd" if self.slow else "fgsm"
        given = {"image": self.server.picture, "labels": labels, "attack": attack,
                 "attack_params": params, "defenses": ["jpeg"], "seed": self.number}  # fmt: skip
        return self._filled("compare", "label", given)

    def press(self) -> tuple[dict[str, Any], list[Any]]:
        """The page's button, with every other control as it stands."""
        given = {"picture": self.server.picture, "labels": f"cat, dog, {self.mark}", "eps": self.eps, "knows": False,
                 "attack": "pgd" if self.slow else "fgsm", "steps": self.steps, "choose-training_time": [],
                 "choose-test_time": [], "choose-training_free": ["jpeg"],
                 "seed": self.number}  # fmt: skip
        return self._filled("go", "elem_id", given)

    @property
    def slow(self) -> bool:
        return self.steps > 1

    def _filled(
        self, name: str, key: str, given: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Any]]:
        function = self.server.function(name)
        parts = {c["id"]: c["props"] for c in self.server.config["components"]}
        props = [parts[id] for id in function["inputs"]]
        left = given.keys() - {p.get(key) for p in props}
        assert not left, left
        return function, [given.get(p.get(key), p.get("value")) for p in props]

    def join(self, what: tuple[dict[str, Any], list[Any]]) -> httpx.Response:
        """Ask for a place in the line."""
        function, data = what
        body = {"data": data, "fn_index": function["id"], "session_hash": self.session}
        return httpx.post(f"{self.server.url}/gradio_api/queue/join", json=body, timeout=PATIENCE)

    def events(self) -> Iterator[dict[str, Any]]:
        """The server's messages to this session, until its request is over."""
        address = f"{self.server.url}/gradio_api/queue/data?session_hash={self.session}"
        with httpx.stream("GET", address, timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    event = json.loads(line[5:])
                    yield event
                    if event["msg"] in OVER:
                        return

    def finish(self) -> list[dict[str, Any]]:
        """All of them; the last one says that it went well."""
        found = list(self.events())
        assert found[-1]["msg"] == "process_completed", found[-1]
        assert found[-1]["success"], found[-1]
        return found

    def answered(self) -> list[dict[str, Any]]:
        """One small call, alone."""
        assert self.join(self.call()).status_code == 200
        return self.finish()


def parallel(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Everybody at once."""
    barrier = threading.Barrier(len(items))

    def one(item: Any) -> Any:
        barrier.wait(PATIENCE)
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(one, items))


def own(client: Client, events: list[dict[str, Any]]) -> bool:
    """Whether this client's label stands in what came back, and nobody else's."""
    return set(MARK.findall(json.dumps(events))) == {client.mark}


def test_many_clients_at_once_get_their_own_results_or_a_polite_refusal(
    server, record_testsuite_property
):
    everybody = [Client(server, i) for i in range(CLIENTS)]
    for client in everybody[:2]:
        client.answered()
        assert client.join(client.press()).status_code == 200
        client.finish()
    before, start = server.memory(), time.monotonic()
    first = Client(server, 99, steps=60)  # holds the processor while the others arrive
    assert first.join(first.call()).status_code == 200

    def visit(client: Client) -> tuple[httpx.Response, list[dict[str, Any]]]:
        answer = client.join(client.call() if client.number % 2 else client.press())
        return answer, client.finish() if answer.status_code == 200 else []

    found = parallel(visit, everybody)
    first.finish()
    wall = time.monotonic() - start
    refused = [answer for answer, _ in found if answer.status_code != 200]
    for client, (answer, events) in zip(everybody, found, strict=True):
        if answer.status_code == 200:
            assert own(client, events)
            if client.number % 2:
                undefended = events[-1]["output"]["data"][1]["cards"][0]
                assert undefended["attack"]["params"]["eps"] == client.eps
                assert undefended["clean"]["labels"] == ["cat", "dog", client.mark]
        else:
            assert answer.status_code == 503
            assert "Queue is full" in answer.text
    assert 1 <= len(refused) <= CLIENTS - QUEUE, len(refused)
    assert eventually(lambda: server.queued() == 0)
    late = Client(server, 98)
    assert own(late, late.answered())
    after = server.memory()
    record_testsuite_property("accepted", CLIENTS - len(refused))
    record_testsuite_property("refused", len(refused))
    record_testsuite_property("seconds", wall)
    record_testsuite_property("memory", (before, after))
    assert after - before < 200


def test_half_of_them_leave_and_no_job_is_left(server):
    chance = random.Random(0)

    def visit(client: Client) -> bool:
        """Whether they stayed to the end; the others close the page, or press Stop, at some event."""
        what = client.press()
        if client.join(what).status_code != 200:
            return False
        if client.number % 2:
            return own(client, client.finish())
        leave = chance.randrange(1, 6)
        stop = server.function("stop")
        for i, _ in enumerate(client.events()):
            if i == leave and client.number % 4:
                client.join((stop, []))
            elif i == leave:
                break
        return True

    everybody = [Client(server, i, steps=10) for i in range(QUEUE)]
    assert all(parallel(visit, everybody))
    assert eventually(lambda: server.queued() == 0)
    assert server.idle()
    late = Client(server, 97)
    assert own(late, late.answered())


def test_memory_is_flat_over_200_runs(server, record_testsuite_property):
    sizes = []
    for i in range(RUNS):
        client = Client(server, i % 90)
        client.answered()
        sizes.append(server.memory())
    record_testsuite_property("memory", sizes[19::20])
    assert sizes[-1] - sizes[WARM - 1] < 60
