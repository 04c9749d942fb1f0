"""Errors a person can act on: what was expected, what came, what to do.

Everything a user can cause raises a `DemoError`. The interfaces show its text; the engine turns
one raised inside a defence into that defence's card. Any other exception is a bug and propagates.
"""

from __future__ import annotations


class DemoError(Exception):
    """Base of all errors caused by input or circumstances.

    Args:
        message: what was expected and what came, one sentence.
        hint: what to do about it, one sentence.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidImage(DemoError):
    """The upload is not an image this demo can use."""


class InvalidLabels(DemoError):
    """The label list or the template cannot be used."""


class InvalidParameter(DemoError):
    """A hyperparameter is unknown, of the wrong type or outside its range."""


class UnknownMethod(DemoError):
    """No attack, defence or model has this id."""


class MissingWeights(DemoError):
    """Weights are not there: no network, no file, or none exist for this model."""


class MethodFailed(DemoError):
    """A method could not produce a finite result on this input."""


class Cancelled(DemoError):
    """The person pressed Stop."""
