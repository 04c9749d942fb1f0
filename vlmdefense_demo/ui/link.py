"""A recipe as the query string of an address, and back.

    ?v=1&picture=cat&labels=cat,dog&attack=pgd&pgd.eps=4&attacker=aware&defenses=ttc&ttc.steps=2&seed=0&lang=de

`METHOD.FIELD` is what `--set` takes on the command line. Only the keys below are read, each one
checked as a recipe in a file is; what cannot be used is left out and named, and the rest is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.labels import plain
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.spec import fields, shown
from vlmdefense_demo.survey import entry, usable
from vlmdefense_demo.ui.recipe import Recipe, checked, label_list
from vlmdefense_demo.ui.words import LANGUAGES, Said, joined, said, tell

VERSION = "1"
KEYS = ("labels", "template", "model", "attack", "goal", "target", "truth", "seed", "attacker",
        "defenses", "picture")  # fmt: skip
LANGUAGE = "lang"  # of the page; a link without a recipe may have it, too
ELSEWHERE = re.compile(r"view|hide|story|__\w+")  # switches of the page that are no recipe
OWN = "own"  # the picture was somebody's own, and does not travel
LONGEST, MOST_KEYS = 6000, 400
UNCHANGED = "Nothing was changed."
NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,12})?(e-?\d{1,2})?", re.ASCII)
About = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """What a link says.

    Args:
        recipe: complete: what the link leaves open is as on a fresh page.
        picture: a caption of the gallery, `OWN`, or "" for the picture of a fresh page.
        left_out: what could not be used, a sentence each.
        language: code of the language it asks for; "" leaves that to the browser.
    """

    recipe: Recipe
    picture: str
    left_out: tuple[str, ...] = ()
    language: str = ""

    def sentence(self) -> str:
        """What was set, and what was not, for the status line."""
        recipe = self.recipe
        parts = [tell("link.set", attack=recipe.attack_in_words(), seed=recipe.seed)]
        if self.picture == OWN:
            parts.append(tell("link.not_here"))
        if recipe.goal == "picture":
            parts.append(tell("link.no_second"))
        if self.left_out:
            parts.append(tell("link.left_out", some=_reasons(self.left_out[:3])))
            more = len(self.left_out) - 3
            if more > 0:
                parts.append(tell("link.more", more=more))
        return joined(*parts)


def read_query(search: str) -> dict[str, str]:
    """What an address says: key -> value; {} if none of it is about a recipe.

    Raises:
        DemoError: it is too long to be a link of this page.
    """
    try:
        if len(search) > 2 * LONGEST:
            raise ValueError
        pairs = parse_qsl(search.lstrip("?"), keep_blank_values=True, max_num_fields=MOST_KEYS)
    except ValueError:  # or too many fields
        raise DemoError("This link is too long to be one of this page.", UNCHANGED) from None
    query = dict(pairs)
    return query if any(key == "v" or key in KEYS or "." in key for key in query) else {}


def write_link(about: Mapping[str, Any], picture: str, language: str = "") -> str:
    """The query string of a recipe.

    Args:
        language: code of the language to open it in; "" leaves that to the browser.

    Raises:
        DemoError: the recipe cannot be used, or is too long for an address.
    """
    recipe = checked(about)
    pairs: dict[str, Any] = {"v": VERSION, "picture": picture, "labels": ",".join(about["labels"]),
                             "template": recipe.template, "model": recipe.model,
                             "attack": recipe.attack}  # fmt: skip
    pairs |= _pairs(recipe.attack, recipe.params)
    if recipe.goal != "wrong":
        pairs |= {"goal": recipe.goal, "target": recipe.target}
    pairs |= {"truth": recipe.truth, "attacker": "aware" if recipe.knows else "unaware"}
    defenses = recipe.defenses or {}
    given = {key: value for key, value in pairs.items() if value not in ("", None)}
    given |= {"seed": recipe.seed, "defenses": ",".join(defenses)}
    for id, values in defenses.items():
        given |= _pairs(id, values)
    if language:
        given[LANGUAGE] = language
    query = "?" + urlencode(given, safe=",", quote_via=quote_plus)
    if len(query) > LONGEST:
        raise DemoError(
            f"The link would have {len(query)} characters; at most {LONGEST} are sure to arrive.",
            "Shorten the list of labels.",
        )
    return query


def read_link(
    query: Mapping[str, str],
    fresh: Mapping[str, Any],
    captions: Mapping[str, Any],
    models: Collection[str] = tuple(MODELS),
) -> Link:
    """The recipe of a link, on top of that of a fresh page.

    Args:
        query: of `read_query`.
        fresh: the recipe the page opens with, as `checked` takes it.
        captions: of the gallery's photos.
        models: that can be chosen.

    Raises:
        DemoError: it is not a link of this version.
    """
    version = query.get("v", "")
    if version != VERSION:
        was = f"version {_clip(version, 20)!r}" if version else "no version"
        raise DemoError(
            f"This link has {was}; this page reads v={VERSION}.", "Nothing was changed."
        )
    if len(query) > MOST_KEYS or sum(map(len, (*query, *query.values()))) > 2 * LONGEST:
        raise DemoError("This link is too long to be one of this page.", "Nothing was changed.")
    reader = _Reader(query, dict(fresh))
    reader.read(captions, models)
    recipe = _complete(checked(reader.about))
    return Link(recipe, reader.picture, tuple(reader.left_out), reader.language)


class _Reader:
    """Takes one key after the other: what `checked` refuses is left out."""

    def __init__(self, query: Mapping[str, str], about: About) -> None:
        self.query, self.about = query, about
        self.picture = self.language = ""
        self.left_out: list[str] = []

    def read(self, captions: Mapping[str, Any], models: Collection[str]) -> None:
        """Read all keys, those first that others depend on."""
        query = self.query
        self._text("labels", label_list)
        self._text("template")
        self._aimed()
        self._text("truth")
        self._text("seed", _number)
        self._text("attacker")
        if "model" in query:
            self._model(query["model"], models)
        if "defenses" in query:
            self.about["defenses"] = {}
            for id in filter(None, query["defenses"].split(",")):
                self._defense(id)
        if "picture" in query:
            self._picture(query["picture"], captions)
        if LANGUAGE in query:
            self._language(query[LANGUAGE])
        for key in query:
            if "." in key:
                self._field(key)
            elif key not in (*KEYS, LANGUAGE, "v") and not ELSEWHERE.fullmatch(key):
                self.left_out.append(f"Unknown key {_clip(key, 40)!r}.")

    def _take(self, **changes: Any) -> str:
        """Take changes over if the recipe can be used with them, else why not."""
        try:
            checked(self.about | changes)
        except DemoError as error:
            return error.message
        self.about |= changes
        return ""

    def _try(self, **changes: Any) -> None:
        why = self._take(**changes)
        if why:
            self.left_out.append(why)

    def _text(self, key: str, convert: Callable[[str], Any] = str) -> None:
        if key in self.query:
            self._try(**{key: convert(self.query[key])})

    def _aimed(self) -> None:
        """Attack, goal and target depend on each other; an attack may still do without the others."""
        changes: About = {key: self.query[key] for key in ("goal", "target") if key in self.query}
        if "attack" in self.query:
            changes |= {"attack": self.query["attack"], "params": {}}
        why = self._take(**changes)
        if why:
            self.left_out.append(why)
            self._take(**{key: v for key, v in changes.items() if key in ("attack", "params")})

    def _language(self, code: str) -> None:
        if code in LANGUAGES:
            self.language = code
        else:
            self.left_out.append(f"Unknown language {_clip(code, 40)!r}.")

    def _model(self, name: str, models: Collection[str]) -> None:
        if name in models:
            self.about["model"] = name
        else:
            self.left_out.append(f"Unknown model {_clip(name, 40)!r}.")

    def _defense(self, id: str) -> None:
        model = self.about["model"]
        why = self._take(defenses=self.about["defenses"] | {id: {}})
        if not why and any(row.id not in usable(model) for row in entry(id).rows):
            why = f"{entry(id).title} has no weights for {model}."
            del self.about["defenses"][id]
        if why:
            self.left_out.append(why)

    def _picture(self, name: str, captions: Mapping[str, Any]) -> None:
        if name == OWN or name in captions:
            self.picture = name
        else:
            self.left_out.append(f"There is no picture {_clip(name, 40)!r} in the gallery.")

    def _field(self, key: str) -> None:
        method, _, name = key.partition(".")
        if method == self.about["attack"]:
            value = _typed(method, name, self.query[key])
            self._try(params=self.about["params"] | {name: value})
        elif method in self.about["defenses"]:
            value = _typed(method, name, self.query[key])
            values = self.about["defenses"][method] | {name: value}
            self._try(defenses=self.about["defenses"] | {method: values})
        else:
            self.left_out.append(f"{_clip(key, 40)!r} belongs to no method of this link.")


def _reasons(left_out: Sequence[str]) -> Said:
    """The first of what was left out, each not too long, in a language."""
    some = [_clip(why, 150) for why in left_out]
    return said(lambda words: words.joint.join(map(words.refusal, some)))


def _complete(recipe: Recipe) -> Recipe:
    """With every parameter, so that nothing of an earlier state is left on the page."""
    every = {id: shown(entry(id).build(dict(v))) for id, v in (recipe.defenses or {}).items()}
    return replace(
        recipe, params=shown(entry(recipe.attack).build(dict(recipe.params))), defenses=every
    )


def _pairs(id: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{id}.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def _typed(method: str, name: str, text: str) -> Any:
    """A value in the type its field has; what has no field or is of no such type stays text."""
    kind = next((f.kind for f in fields(entry(method).cls) if f.name == name), str)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    return _number(text) if kind in (int, float) else text


def _number(text: str) -> Any:
    """A plain number as such, everything else as text."""
    if not NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _clip(text: str, length: int) -> str:
    """Whatever somebody typed, on one line and not too much of it."""
    text = plain(text)
    return text if len(text) <= length else f"{text[:length]}…"
