"""The page's own words in every language, and who is spoken to in which.

A language is two files of this folder, the page's and the lecture's, and a row of `LANGUAGES`.
`Words` looks a key up. What the page says is a `Said`: English text that can be said again in another
language. So layout and handlers stay English and free of state, and the language is chosen where an
answer leaves for the browser.

Names of methods, papers, labels and parameters, and whatever goes into a file, have one language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from string import Formatter
from typing import Any, TypeVar

import gradio as gr

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.ui.words import de, en, zh

T = TypeVar("T")
GAP = re.compile(r"(?<=[.”]) ")  # between two sentences
QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


@dataclass(frozen=True, eq=False)
class Words:
    """One language.

    Args:
        code: in an address: "zh".
        tag: for the browser (BCP 47): "zh-CN".
        name: as its speakers write it.
        table: key -> words with {places}.
        joint: what stands between two sentences.
    """

    code: str
    tag: str
    name: str
    table: Mapping[str, str]
    joint: str = " "

    def __call__(self, key: str, /, **values: Any) -> str:
        """The words of a key, with values in their places.

        Raises:
            KeyError: no such key, or a place without a value.
        """
        words = self.table[key]
        return words.format(**{k: self.say(v) for k, v in values.items()}) if values else words

    def say(self, text: T) -> T | str:
        """What was said in English, in this language; anything but a `Said` stays as it is."""
        return text.again(self) if isinstance(text, Said) else text

    def refusal(self, sentence: str) -> str:
        """A sentence of an error; one that is not in the table stays English."""
        for key, pattern in _refusals().items():
            found = pattern.fullmatch(sentence)
            if found:
                return self(key, **found.groupdict())
        return sentence

    def pair(self, message: str, hint: str) -> str:
        """Both sentences of an error, the second of which may be missing."""
        first, second = self.refusal(message), self.refusal(hint)
        joint = " " if first == message else self.joint  # what stayed English ends with a full stop
        return f"{first}{joint}{second}" if hint else first

    def refusals(self, text: str) -> str:
        """An error as one text: where message and hint are both known, else what is known of it."""
        pairs = [(text[: gap.start()], text[gap.end() :]) for gap in GAP.finditer(text)]
        said = [tuple(map(self.refusal, pair)) for pair in pairs]
        for count in (2, 1):
            for pair, now in zip(pairs, said, strict=True):
                if sum(a != b for a, b in zip(pair, now, strict=True)) == count:
                    return self.pair(*pair)
            if count == 2 and self.refusal(text) != text:
                return self.refusal(text)
        return text

    @property
    def foreign(self) -> str:
        """The attribute of an element whose words are English on a page of this language; HTML."""
        return "" if self is ENGLISH else ' lang="en"'

    @property
    def own(self) -> str:
        """The attribute of an element of this language among those that are English; HTML."""
        return "" if self is ENGLISH else f' lang="{self.tag}"'

    def english(self, text: str) -> str:
        """Words that have no other language, as such; HTML."""
        return escape(text) if self is ENGLISH else f'<span lang="en">{escape(text)}</span>'


class Said(str):
    """English text, and how to say it in another language. Slices and the like are plain text."""

    again: Callable[[Words], str]

    def __str__(self) -> str:
        return self  # str() of what is said, as Gradio calls it, does not forget the languages


def said(make: Callable[[Words], str]) -> Said:
    """What `make` says, in English until somebody asks for another language."""
    text = Said(make(ENGLISH))
    text.again = make
    return text


def tell(key: str, /, **values: Any) -> Said:
    """The words of a key; its values may be `Said` themselves."""
    return said(lambda words: words(key, **values))


def joined(*texts: str) -> Said:
    """Several texts one after the other."""
    return said(lambda words: "".join(str(words.say(text)) for text in texts))


def refused(error: DemoError) -> Said:
    """An error's sentences."""
    return said(lambda words: words.pair(error.message, error.hint))


def spoken(update: Any, words: Words) -> Any:
    """An update of the page (a value, a dictionary, a list or tuple of them) in a language."""
    if isinstance(update, dict):
        return {key: spoken(value, words) for key, value in update.items()}
    if type(update) in (list, tuple):
        return type(update)(spoken(value, words) for value in update)
    return words.say(update)


def language(code: str | None, header: str | None) -> Words:
    """The language of an address, else the first a browser accepts that is here, else English.

    Args:
        code: `lang` of the address.
        header: Accept-Language (RFC 9110).
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    ranges = []
    for part in (header or "")[:400].split(","):
        tag, _, weight = part.replace(" ", "").lower().partition(";")
        quality = QUALITY.fullmatch(weight)
        ranges.append((float(quality[1]) if quality else float(not weight), tag.partition("-")[0]))
    wanted = [name for q, name in sorted(ranges, key=lambda r: -r[0]) if q and name in LANGUAGES]
    return LANGUAGES[wanted[0]] if wanted else ENGLISH


def language_of(request: gr.Request) -> Words:
    """The language of a request's page."""
    return language(request.query_params.get("lang"), request.headers.get("accept-language"))


@cache
def _refusals() -> Mapping[str, re.Pattern[str]]:
    """Key -> what its sentence looks like in English; those with fewest places first."""
    texts = {key: words for key, words in en.WORDS.items() if key.startswith("error.")}
    return {
        key: re.compile(
            "".join(
                re.escape(text) + (f"(?P<{place}>.+?)" if place else "")
                for text, place, _, _ in Formatter().parse(words)
            )
        )
        for key, words in sorted(texts.items(), key=lambda item: item[1].count("{"))
    }


ENGLISH = Words("en", "en", "English", en.WORDS)
LANGUAGES = {
    words.code: words
    for words in (
        ENGLISH,
        Words("zh", "zh-CN", "中文", zh.WORDS, joint=""),
        Words("de", "de", "Deutsch", de.WORDS),
    )
}
