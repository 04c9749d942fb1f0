"""Nothing but uploads comes in: no large body, no data URL, no address, no file of the server."""

from __future__ import annotations

import io
import json
from urllib.parse import quote

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from vlmdefense_demo.ui.guard import JSON_LIMIT, UPLOAD_LIMIT, Guard

META = {"_type": "gradio.FileData"}
UPLOADED = "/tmp/gradio/abc/cat.png"


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def guarded():
    """A tiny app behind the guard that answers with the length of the body."""
    route = Route("/{path:path}", echo, methods=["GET", "POST"])
    return TestClient(Starlette(routes=[route], middleware=[Middleware(Guard)]))


def payload(**file) -> dict:
    return {"data": [file, ["cat", "dog"], "a photo of a {}.", "pocket"]}


def echo_url(port: int = 7860, host: str = "127.0.0.1", prefix: str = "") -> str:
    return f"http://{host}:{port}{prefix}/gradio_api/file={UPLOADED}"


@pytest.mark.parametrize(
    "file",
    [
        {"path": UPLOADED, "meta": META},
        {"path": UPLOADED, "url": None, "meta": META},
        {"path": UPLOADED, "url": echo_url(), "meta": META},
        {"path": UPLOADED, "url": echo_url(80, "demo.hf.space", "/space"), "meta": META},
        {"path": UPLOADED, "url": f"/gradio_api/file={UPLOADED}", "meta": META},
    ],
)
def test_what_gradios_clients_send_passes(guarded, file):
    body = json.dumps(payload(**file)).encode()
    answer = guarded.post("/gradio_api/queue/join", content=body)
    assert (answer.status_code, answer.text) == (200, str(len(body)))


@pytest.mark.parametrize(
    "file",
    [
        {"path": "https://example.com/cat.png", "meta": META},
        {"path": "HTTP://example.com/cat.png", "meta": META},
        {"path": " https://example.com/cat.png"},
        {"path": "file:///etc/passwd", "meta": META},
        {"path": "data:image/png;base64,AAAA", "meta": META},
        {"path": None, "url": "data:image/png;base64,AAAA", "meta": META},
        {"path": UPLOADED, "url": "data:image/png;base64,AAAA", "meta": META},
        {"path": UPLOADED, "url": "https://example.com/cat.png", "meta": META},
        {"url": echo_url(), "meta": META},  # without a path the address would be what is read
        {"nested": [{"deep": {"path": "ftp://example.com/x"}}]},
    ],
)
def test_a_file_that_is_not_an_upload_is_refused(guarded, file):
    answer = guarded.post("/gradio_api/queue/join", json=payload(**file))
    assert answer.status_code == 400
    assert answer.text == "Upload the picture first; addresses are not fetched."


@pytest.mark.parametrize(
    "body",
    [
        rb'{"data": [{"path": "\u0068ttps://example.com/cat.png"}]}',
        rb'{"data": [{"\u0070ath": "https://example.com/cat.png"}]}',
        rb'{"data": [{"path": "https:\/\/example.com\/cat.png"}]}',
        '{"data": [{"path": "https://example.com/cat.png"}]}'.encode("utf-16"),
        b"[" * 200_000,
    ],
    ids=["escaped value", "escaped key", "escaped slashes", "utf-16", "deep nesting"],
)
def test_an_address_cannot_hide_in_the_encoding(guarded, body):
    assert guarded.post("/gradio_api/queue/join", content=body).status_code == 400


def test_an_address_in_text_is_only_text(guarded):
    text = {"data": ['{"path": "https://example.com"}', "url: data:image/png", "http://x"]}
    assert guarded.post("/gradio_api/queue/join", json=text).status_code == 200


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/gradio_api/queue/join", JSON_LIMIT),
        ("/gradio_api/call/classify", JSON_LIMIT),
        ("/gradio_api/call/upload/x", JSON_LIMIT),
        ("/gradio_api/upload", UPLOAD_LIMIT),
        ("/gradio_api/upload/", UPLOAD_LIMIT),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["one piece", "chunked"])
def test_a_body_over_its_limit_is_refused(guarded, path, limit, chunked):
    def content(size: int):
        return iter([b"x" * 65_536] * (size // 65_536) + [b"x" * (size % 65_536)])

    for size, status in ((limit, 200), (limit + 1, 413)):
        body = content(size) if chunked else b"x" * size
        answer = guarded.post(path, content=body)
        assert answer.status_code == status
    assert "too large" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://example.com/x.png",
        "/gradio_api/file=HTTPS://example.com/x.png",
        "/gradio_api/file=%68ttp://example.com/x.png",
        "/gradio_api/file/https://example.com/x.png",
        "/gradio_api/proxy=https://example.hf.space/x",
    ],
)
def test_the_server_is_no_proxy(guarded, path):
    assert guarded.get(path).status_code == 400


def test_a_served_file_passes(guarded):
    assert guarded.get(f"/gradio_api/file={UPLOADED}").status_code == 200


# the running app


@pytest.fixture(scope="module")
def http(app_url):
    with httpx.Client(base_url=app_url, timeout=60) as client:
        yield client


def png(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def upload(http, data: bytes) -> httpx.Response:
    return http.post("gradio_api/upload", files={"files": ("x.png", data, "image/png")})


def called(http, file: dict) -> str:
    """The event stream of one /classify call."""
    event = http.post("gradio_api/call/classify", json=payload(**file))
    assert event.status_code == 200, event.text
    with http.stream("GET", f"gradio_api/call/classify/{event.json()['event_id']}") as answer:
        return "".join(answer.iter_text())


def test_an_upload_is_classified_with_the_url_a_browser_echoes(http, app_url):
    path = upload(http, png()).json()[0]
    for url in (None, f"{app_url}gradio_api/file={path}"):
        answer = called(http, {"path": path, "url": url, "meta": META})
        assert "event: complete" in answer
        assert '"top"' in answer


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd", "meta": META},
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "meta": META, "is_stream": True},
        {"path": "/dev/zero", "meta": META},
        {"path": "../../etc/passwd", "meta": META},
    ],
)
def test_no_file_of_the_server_is_opened(http, file):
    answer = called(http, file)
    assert "event: error" in answer
    assert "root:" not in answer
    assert "Traceback" not in answer


def test_the_apps_own_files_are_not_served(http):
    import app

    for path in ("/etc/passwd", app.__file__, str(app.ASSETS / "style.css")):
        assert http.get(f"gradio_api/file={quote(path)}").status_code in (403, 404)


def test_a_classs_pictures_may_come_together(http):
    pictures = [("files", (f"{i}.png", b"\x89PNG" + bytes(5_000_000))) for i in range(4)]
    answer = http.post("gradio_api/upload", files=pictures)
    assert (answer.status_code, len(answer.json())) == (200, 4)


def test_the_running_app_stands_behind_the_guard(http):
    data = {"path": None, "url": "data:image/png;base64,AAAA", "meta": META}
    assert http.post("gradio_api/call/classify", json=payload(**data)).status_code == 400
    assert http.post("gradio_api/queue/join", content=b"x" * (JSON_LIMIT + 1)).status_code == 413
    assert http.get("gradio_api/file=https://example.com/x.png").status_code == 400


@pytest.mark.parametrize("size", [9_000_000, 12_000_000])
def test_an_upload_over_8_mb_is_refused(http, size):
    assert upload(http, b"\0" * size).status_code == 413
