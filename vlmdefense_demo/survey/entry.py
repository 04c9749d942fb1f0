"""One typed row a method."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from vlmdefense_demo.spec import Parameters, build, fields
from vlmdefense_demo.types import Paradigm

Kind = Literal["attack", "defense"]
Status = Literal["faithful", "simplified", "weights needed"]


@dataclass(frozen=True)
class Entry:
    """One method.

    Args:
        idea: what it does, in one sentence a student understands.
        cost: passes per image in words: f forward, b backward, of N steps, Q queries, S searches, D
            draws, V views, C labels; a defence's `expected_cost` is the same in numbers.
        status: "faithful", "simplified" (the class docstring says how) or "weights needed".
        flags: ids of the warnings its card always carries (see `FLAGS`).
        implementation: "module:Class" below the package.
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
            "idea": self.idea,
            "cost": self.cost,
            "flags": list(self.flags),
            "parameters": [f.schema() for f in fields(self.cls)],
        }
