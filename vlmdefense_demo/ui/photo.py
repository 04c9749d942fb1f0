"""An image input that hands over the uploaded file unopened.

Gradio's own preprocessing opens the picture first, so a damaged, huge or renamed file would fail
before this demo could say what is wrong with it, and a data URL would be decoded unchecked.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from pydantic import ConfigDict, ValidationError


class Picture(ImageData):
    """A file as Gradio's clients send it; anything else is refused with a sentence."""

    model_config = ConfigDict(title="ImageData")

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Any:
        """The same as Gradio's, with an error a person can read."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError:
            sentence = "A picture is expected as an uploaded file. Upload it first."
            raise gr.Error(sentence, print_exception=False) from None


def photo_input(**options: Any) -> gr.Image:
    """A `gr.Image` whose value is the path of the upload, or None; data URLs count as none."""
    component = gr.Image(type="filepath", image_mode=None, format="png", **options)
    # On the instance: a subclass would make Gradio write a stub file beside this one.
    component.preprocess = _path  # type: ignore[method-assign]
    component.data_model = Picture
    return component


def _path(payload: ImageData | None) -> str | None:
    return payload.path if payload is not None else None
