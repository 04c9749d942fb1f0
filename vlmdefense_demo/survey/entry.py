"""One typed row a method."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Literal

from vlmdefense_demo.spec import Parameters, build, fields
from vlmdefense_demo.types import Paradigm

Kind = Literal["attack", "defense", "detector"]
Status = Literal["faithful", "simplified", "weights needed"]
Paid = Literal["training", "inference", "both"]
NOTHING = "nothing"


@dataclass(frozen=True)
class Published:
    """What somebody else measured, and where it was read. No number of this demo's own models.

    Args:
        result: the numbers, "clean 61.1 %, attacked 39.9 %".
        setting: model, data, attack and radius.
        source: paper and table, README or abstract; "as X quotes it" where X was read instead.
    """

    result: str
    setting: str
    source: str


@dataclass(frozen=True)
class Entry:
    """One method.

    Args:
        idea: what it does, in one sentence a student understands.
        detail: a second sentence: how it does it, or where that ends.
        cost: passes per image in words: f forward, b backward, of N steps, Q queries, S searches, D
            draws, V views, C labels; the `expected_cost` of a defence or a detector is the same in numbers.
        trains: what is learned, and on what; "nothing" if the method learns nothing.
        paid: when the price is paid: before anyone asks, for every image, or both.
        status: "faithful", "simplified" or "weights needed".
        remark: what is simplified, which weights are missing, or what else differs (the class
            docstring says all of it); "" only for a faithful row.
        flags: ids of the warnings its card starts with (see `FLAGS`).
        implementation: "module:Class" below the package.
        published: numbers of others; () where none was found together with its source.
    """

    id: str
    title: str
    kind: Kind
    paradigm: Paradigm
    paper: str
    venue: str
    year: int
    url: str
    licence: str
    status: Status
    idea: str
    cost: str
    implementation: str
    flags: tuple[str, ...] = ()
    detail: str = field(kw_only=True)
    trains: str = field(kw_only=True)
    paid: Paid = field(kw_only=True)
    remark: str = field(kw_only=True, default="")
    published: tuple[Published, ...] = field(kw_only=True, default=())

    @property
    def cls(self) -> type[Parameters]:
        """The method's dataclass."""
        module, name = self.implementation.split(":")
        return getattr(import_module(f"vlmdefense_demo.{module}"), name)

    @property
    def rows(self) -> tuple[Entry, ...]:
        """The rows it is made of: itself, or the parts of a pipeline."""
        return (self,)

    @property
    def words(self) -> dict[str, str]:
        """Every parameter's name -> what people read."""
        return {f.name: f.name.replace("_", " ") for f in fields(self.cls)}

    @property
    def adjustable(self) -> bool:
        """Whether the method has any parameter."""
        return bool(fields(self.cls))

    @property
    def needs_training(self) -> bool:
        """Whether something must be trained or measured before the first image comes."""
        return self.paid != "inference"

    def takes(self, name: str) -> bool:
        """Whether the method has a parameter of this name."""
        return any(f.name == name for f in fields(self.cls))

    def build(self, values: dict[str, Any] | None = None) -> Any:
        """An instance from display-unit values; raises InvalidParameter."""
        return build(self.cls, values)

    def public(self) -> dict[str, Any]:
        """The row and its parameters as JSON types."""
        return {
            "id": self.id,
            "title": self.title,
            "kind": self.kind,
            "paradigm": self.paradigm,
            "paper": self.paper,
            "venue": self.venue,
            "year": self.year,
            "url": self.url,
            "licence": self.licence,
            "status": self.status,
            "remark": self.remark,
            "idea": self.idea,
            "detail": self.detail,
            "trains": self.trains,
            "paid": self.paid,
            "cost": self.cost,
            "flags": list(self.flags),
            "published": [asdict(p) for p in self.published],
            "parameters": [f.schema() for f in fields(self.cls)],
        }
