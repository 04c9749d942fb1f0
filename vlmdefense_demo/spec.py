"""Hyperparameters, declared once.

A method is a frozen dataclass deriving from `Parameters`; its annotated fields are its controls,
its API schema, its command-line flags and its validation:

    @dataclass(frozen=True)
    class PGD(Parameters):
        eps: Annotated[float, Range(0, 16 / 255, scale=255, unit="/255"), "radius"] = 4 / 255

Values are stored in pixel units. `scale` is the factor of the unit people see: pages, endpoints
and command lines speak display units, Python speaks pixel units.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vlmdefense_demo.errors import InvalidParameter


@dataclass(frozen=True)
class Range:
    """A closed interval of numbers in stored units, with the unit it is displayed in."""

    low: float
    high: float
    step: float | None = None
    scale: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Choice:
    """A closed set of strings."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """One hyperparameter as declared on a method's dataclass."""

    name: str
    kind: type
    default: Any
    domain: Range | Choice | None
    help: str

    def shown(self, value: Any) -> Any:
        """A stored value in display units."""
        if isinstance(self.domain, Range) and self.domain.scale != 1:
            return _tidy(value * self.domain.scale)
        return value

    def stored(self, value: Any) -> Any:
        """A displayed value in stored units."""
        if isinstance(self.domain, Range) and self.domain.scale != 1 and _is_number(value):
            return _real(self.name, value) / self.domain.scale
        return value

    def schema(self) -> dict[str, Any]:
        """Name, type, default and range in display units, as JSON types."""
        out: dict[str, Any] = {
            "name": self.name,
            "type": self.kind.__name__,
            "default": self.shown(self.default),
            "help": self.help,
        }
        if isinstance(self.domain, Range):
            out |= {
                "minimum": self.shown(self.domain.low),
                "maximum": self.shown(self.domain.high),
                "step": None if self.domain.step is None else self.shown(self.domain.step),
                "unit": self.domain.unit,
            }
        elif isinstance(self.domain, Choice):
            out["options"] = list(self.domain.options)
        return out


class Parameters:
    """Base of every method's dataclass: construction checks each field against its domain."""

    def __post_init__(self) -> None:
        for f in fields(type(self)):
            _check(f, getattr(self, f.name))
        self.check_together()

    def check_together(self) -> None:
        """Raise InvalidParameter for values that are each in range and make no sense together."""


T = TypeVar("T", bound=Parameters)


def fields(cls: type) -> tuple[Field, ...]:
    """The declared hyperparameters of a method class, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_field(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init)


def _field(f: dataclasses.Field[Any], hint: Any) -> Field:
    kind, *extras = (
        typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    )
    domain = next((e for e in extras if isinstance(e, (Range, Choice))), None)
    text = next((e for e in extras if isinstance(e, str)), "")
    return Field(f.name, kind, f.default, domain, text)


def build(cls: type[T], values: Mapping[str, Any] | None = None) -> T:
    """An instance from display-unit values, as they come from a page, an endpoint or a flag.

    Args:
        values: field name -> value in display units; missing names keep their defaults.

    Raises:
        InvalidParameter: unknown name, wrong type, or outside the field's range.
    """
    known = {f.name: f for f in fields(cls)}
    stored = {}
    for name, value in (values or {}).items():
        if name not in known:
            raise InvalidParameter(
                f"Unknown parameter {name!r}.", f"Known: {', '.join(known) or 'none'}."
            )
        stored[name] = _coerce(known[name], known[name].stored(value))
    return cls(**stored)


def literal(text: str) -> Any:
    """A value as it is typed on a command line: JSON, or else plain text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown(instance: Parameters) -> dict[str, Any]:
    """All parameters of an instance in display units: the inverse of `build`."""
    return {f.name: f.shown(getattr(instance, f.name)) for f in fields(type(instance))}


def _coerce(f: Field, value: Any) -> Any:
    """Sliders send 10.0 for an integer; everything else must have its exact type."""
    if f.kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if f.kind is float and _is_number(value):
        return _real(f.name, value)
    return value


def _check(f: Field, value: Any) -> None:
    if f.kind is float:
        if not _is_number(value) or not math.isfinite(value):
            raise InvalidParameter(f"{f.name} expects a finite number, got {value!r}.")
    elif f.kind in (int, bool, str) and type(value) is not f.kind:
        raise InvalidParameter(f"{f.name} expects {f.kind.__name__}, got {value!r}.")
    if isinstance(f.domain, Range) and not _inside(f.domain, value):
        raise InvalidParameter(
            f"{f.name}={f.shown(value)} is outside "
            f"[{f.shown(f.domain.low)}, {f.shown(f.domain.high)}]{_unit(f.domain)}.",
            "Choose a value inside the range.",
        )
    if isinstance(f.domain, Choice) and value not in f.domain.options:
        raise InvalidParameter(f"{f.name}={value!r} is not one of {', '.join(f.domain.options)}.")


def _inside(domain: Range, value: float) -> bool:
    slack = 1e-9 * max(abs(domain.low), abs(domain.high))
    return domain.low - slack <= value <= domain.high + slack


def _unit(domain: Range) -> str:
    return f" {domain.unit}" if domain.unit else ""


def _real(name: str, value: float) -> float:
    """A float, or a refusal: JSON allows integers no float can hold."""
    try:
        return float(value)
    except OverflowError:
        raise InvalidParameter(f"{name} expects a finite number, got a very large one.") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tidy(value: float) -> float | int:
    """4.000000000000001 -> 4: the display of a multiple of 1/255 is what was typed."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
