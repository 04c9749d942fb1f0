"""What Gradio lets through and this demo does not: large bodies, data URLs, remote paths.

Gradio's own limit covers the upload route only; a picture inside a JSON body passes it, and a
path that is a URL makes the server fetch it. No file or URL of a client's choosing is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON_LIMIT = 1_000_000
UPLOAD_LIMIT = 135_000_000  # sixteen pictures at once, and their envelopes; Gradio measures each
REMOTE = re.compile(r"\s*(?:data|https?|ftp|file):", re.IGNORECASE)
# Gradio's client echoes the address this very server gave the upload; only `path` is then read.
ECHO = re.compile(r"https?://[^/]+/(?:.*/)?gradio_api/file=", re.IGNORECASE)
FETCH = re.compile(r"/(?:file|proxy)[=/]\s*\w+:", re.IGNORECASE)


class TooLarge(Exception):
    """A body that is being passed on has grown over its limit."""


class Guard:
    """ASGI middleware: 413 for a body over the limit, 400 for a file that is not an upload."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a POST, check it, and replay it; uploads pass through, and are counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if FETCH.search(path):
            await _refuse(send, 400, b"Remote files are not served.")
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if path.rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, send)
            return
        body = await _read(receive, JSON_LIMIT)
        if body is None:
            await _refuse(send, 413, b"The request is too large.")
        elif _names_remote(body):
            await _refuse(send, 400, b"Upload the picture first; addresses are not fetched.")
        else:
            await self.app(scope, _replay(body, receive), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passed on as it comes: many pictures together are too much to keep in memory."""
        size, answered = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > UPLOAD_LIMIT:
                raise TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except TooLarge:
            if not answered:
                await _refuse(send, 413, b"These pictures are too large together: at most 128 MB.")


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is over the limit or the client has gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return body


def _names_remote(body: bytes) -> bool:
    """Whether any file in a JSON body is an address; parsed, because text can hide in escapes."""
    try:
        todo = [json.loads(body)]
    except RecursionError:
        return True
    except ValueError:
        return False  # not JSON: nothing Gradio would take a file from
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if _remote(value):
                return True
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return False


def _remote(file: dict[str, Any]) -> bool:
    path, url = (file.get(key) or "" for key in ("path", "url"))
    if isinstance(path, str) and REMOTE.match(path):
        return True
    return isinstance(url, str) and bool(REMOTE.match(url)) and not (path and ECHO.match(url))


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
