"""The page in the language of who asks: what is served first, and the switch beside the title.

Gradio has translations of its own (`gr.I18n`). They follow the browser's language only, and reach
labels but no HTML, which is most of this page: a card would be English until an event had replaced
it. So the words of the first paint are put into the page where it is served, from what the
components were built with. Gradio's own words ("Drop image here") are chosen by `navigator.language`
when its script starts; a line before that script makes it the language of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import gradio as gr

from vlmdefense_demo.ui.guard import App, Message, Receive, Scope, Send
from vlmdefense_demo.ui.link import LANGUAGE
from vlmdefense_demo.ui.words import ENGLISH, LANGUAGES, Said, Words, language, said

CONFIG = "window.gradio_config = "
ROOT = re.compile(r'(<html\b[^>]*?\blang=")[^"]*')
# Inside a script element, as JSON allows it.
SAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
# The settings go along, if the server answers; the link alone does without them.
ASK = """element.addEventListener('click', (event) => {
  const link = event.target.closest('a[hreflang]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  document.body.dataset.language = link.hreflang;
  setTimeout(() => location.assign(link.href), 5000);
  trigger('click');
});"""
SPEAK = """(query) => {
  const address = new URL(query || '?', location.origin + location.pathname);
  for (const [key, value] of new URLSearchParams(location.search))
    if (/^(view|hide|story|__\\w+)$/.test(key)) address.searchParams.set(key, value);
  address.searchParams.set('lang', document.body.dataset.language);
  address.hash = location.hash;
  location.assign(address);
}"""
Place = tuple[Any, ...]


def switch() -> gr.HTML:
    """The languages by their own names, as links."""
    return gr.HTML(said(_links), elem_id="languages", js_on_load=ASK, padding=False)


def _links(words: Words) -> str:
    here = ' aria-current="true"'
    links = "".join(
        f'<a href="?{LANGUAGE}={code}" hreflang="{code}" lang="{other.tag}"'
        f"{here if other is words else ''}>{other.name}</a>"
        for code, other in LANGUAGES.items()
    )
    return f'<nav aria-label="{words("language")}">{links}</nav>'


class Languages:
    """ASGI middleware: the page as it is served, in the language of its address or of the browser.

    Args:
        page: whose components were built with `Said`.
    """

    def __init__(self, app: App, page: gr.Blocks) -> None:
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; of HTML the whole body first."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def translated(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                words = _wanted(scope)
                done = self.served(body.decode(), words).encode()
                await send(_started(start, words, len(done)))
                await send({"type": "http.response.body", "body": done})

        await self.app(scope, receive, translated)

    def served(self, html: str, words: Words) -> str:
        """The page's HTML in a language; HTML of anything else stays as it is."""
        head, found, rest = html.partition(CONFIG)
        if not found:
            return html
        head = ROOT.sub(rf"\g<1>{words.tag}", head, count=1)
        head = head.replace("<head>", f"<head>{_early(words)}", 1)
        if words is ENGLISH:
            return head + found + rest
        config, end = json.JSONDecoder().raw_decode(rest)
        speak(config, self.page, words)
        return head + found + json.dumps(config, ensure_ascii=False).translate(SAFE) + rest[end:]


def speak(config: MutableMapping[str, Any], page: gr.Blocks, words: Words) -> None:
    """Put a language's words in the places of a configuration where the page's own has `Said`."""
    components = {component["id"]: component for component in config["components"]}
    config["title"] = words.say(page.title)
    for component in page.config["components"]:
        for place, text in _places(component):
            target = components.get(component["id"])
            for step in place[:-1]:
                target = target and target[step]
            if target:
                target[place[-1]] = words.say(text)


def _places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Said]]:
    """Where there is something `Said`, and what."""
    if isinstance(value, Said):
        yield place, value
    elif isinstance(value, dict):
        for key, some in value.items():
            yield from _places(some, (*place, key))
    elif isinstance(value, (list, tuple)):
        for i, some in enumerate(value):
            yield from _places(some, (*place, i))


def _early(words: Words) -> str:
    """What Gradio's script takes for the browser's language; it sets that of the document by it."""
    return (
        "<script>for (const [name, value] of Object.entries("
        f"{{language: {json.dumps(words.tag)}, languages: {json.dumps([words.tag])}}}))"
        "Object.defineProperty(navigator, name, {get: () => value, configurable: true});</script>"
    )


def _wanted(scope: Scope) -> Words:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    headers = dict(scope["headers"])
    code = query.get(LANGUAGE, [""])[-1]
    return language(code, headers.get(b"accept-language", b"").decode("latin-1"))


def _is_html(message: Message) -> bool:
    return dict(message["headers"]).get(b"content-type", b"").startswith(b"text/html")


def _started(start: Message, words: Words, length: int) -> Message:
    """The headers of a page in a language."""
    kept = [(k, v) for k, v in start["headers"] if k not in (b"content-length", b"vary")]
    mine = {"content-length": str(length), "content-language": words.tag, "vary": "Accept-Language"}
    return {**start, "headers": [*kept, *((k.encode(), v.encode()) for k, v in mine.items())]}
