"""Colours, type and spacing of the page, as far as Gradio decides them."""

from __future__ import annotations

import gradio as gr


def theme() -> gr.themes.Base:
    """The one Gradio theme with AA contrast in both modes, in system fonts that need no network."""
    return gr.themes.Monochrome(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        layout_gap="16px",
        # The theme greys a button under the pointer until it can hardly be read.
        button_secondary_text_color_hover="*button_secondary_text_color",
        button_secondary_text_color_hover_dark="*button_secondary_text_color",
        # In the dark it makes what is chosen, and the one button to press, as grey as all others.
        button_primary_background_fill_dark="*neutral_100",
        button_primary_background_fill_hover_dark="*neutral_300",
        button_primary_border_color_dark="*neutral_100",
        button_primary_border_color_hover_dark="*neutral_300",
        button_primary_text_color_dark="*neutral_950",
        checkbox_label_background_fill_selected_dark="*button_primary_background_fill",
        checkbox_label_text_color_selected_dark="*button_primary_text_color",
    )
