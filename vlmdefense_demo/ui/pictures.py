"""What changed, as pictures: one switch, six views, and under each what it shows on which scale.

All of them are drawn from the decoded file. The switch is CSS alone: it needs no server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo import heatmap
from vlmdefense_demo.images import from_png, to_array, to_png
from vlmdefense_demo.stage import LOOKS
from vlmdefense_demo.types import AttackReport, Images, Note
from vlmdefense_demo.ui.files import Outbox

VIEWS = (
    ("Slider", "pair"), ("Flicker", "flicker"), ("Difference", "signed"), ("Size of δ", "magnitude"),
    ("Spectrum", "spectrum"), ("Where it looks", "looks"),
)  # fmt: skip
PICTURES = ("pair", "flick_clean", "flick_attacked", "signed", "magnitude", "spectrum", "look_clean",
            "look_attacked")  # fmt: skip
CAPTIONS = (
    "pair_caption",
    "signed_caption",
    "magnitude_caption",
    "spectrum_caption",
    "look_caption",
)
OUTPUTS = (*PICTURES, *CAPTIONS)
DRAG = "Drag. The right half is the file you can download."
FLICKER = (
    '<p class="vd-caption flicker-moves">Original and attacked in turn, half a second each, so one '
    "cycle a second. What moves is the attack.</p>"
    '<p class="vd-caption flicker-still">Your system asks for less motion, so nothing flickers: '
    "the original, then the attacked picture.</p>"
)
LATER = "Drawn once every defence has answered."
PAUSE = """(label) => {
  const stopped = document.querySelector('#flicker').classList.toggle('paused');
  return stopped ? 'Go on' : 'Pause';
}"""
Update = dict[str, Any]


def panel(out: dict[str, Any], first: Mapping[str, Any]) -> None:
    """The pictures with their switch; `first` are the values of the first paint."""

    def picture(name: str, label: str, **more: Any) -> None:
        out[name] = gr.Image(
            first.get(name), format="png", interactive=False, label=label, show_label=False,
            elem_id=name.replace("_", "-"), elem_classes="pix", alt_text=label,
            **({"buttons": ["fullscreen"]} | more),
        )  # fmt: skip

    def caption(name: str) -> None:
        out[name] = gr.HTML(first.get(name, ""))

    gr.Radio(
        list(VIEWS), value="pair", label="View", show_label=False, container=False, elem_id="view",
        interactive=True,
    )  # fmt: skip
    with gr.Row(elem_classes="pictures result"):
        with gr.Column(scale=7, min_width=300, elem_classes="shot shot-pair"):
            out["pair"] = gr.ImageSlider(
                first.get("pair"), type="filepath", format="png", interactive=False,
                label="Original | attacked", show_label=False, buttons=["fullscreen"],
                elem_id="pair", elem_classes="pix",
            )  # fmt: skip
            caption("pair_caption")
        with gr.Column(scale=3, min_width=150, elem_classes="shot shot-signed shot-magnitude"):
            for name, label in (("signed", "Signed difference"), ("magnitude", "Size of δ")):
                with gr.Column(elem_classes=f"part part-{name}"):
                    picture(name, label)
                    caption(f"{name}_caption")
        with gr.Column(elem_classes="shot shot-flicker"):
            with gr.Column(elem_id="flicker"):
                picture("flick_clean", "Original", buttons=[])
                picture("flick_attacked", "Attacked", buttons=[])
            pause = gr.Button("Pause", size="sm", elem_id="pause", elem_classes="tool")
            gr.HTML(FLICKER)
        with gr.Column(elem_classes="shot shot-spectrum"):
            picture("spectrum", "Spectrum of δ")
            caption("spectrum_caption")
        with gr.Column(elem_classes="shot shot-looks"):
            with gr.Row(elem_id="looks"):
                picture("look_clean", "Where the model looks on the original")
                picture("look_attacked", "Where the model looks on the attacked picture")
            caption("look_caption")
    pause.click(None, pause, pause, js=PAUSE, api_visibility="private", show_progress="hidden")


def made(outbox: Outbox, clean: Images, report: AttackReport) -> Update:
    """Everything that follows from the two files; where the model looks comes later."""
    before, after = to_array(clean), to_array(from_png(report.png))
    top = heatmap.top_for(report.linf, report.params)
    gain = heatmap.gain_for(top)
    size = f"-{report.params['eps']:g}of255" if "eps" in report.params else ""
    path = outbox.put(report.png, f"adversarial-{report.method}{size}.png")
    original = outbox.put(to_png(clean), "clean.png")
    return {
        "pair": (original, path),
        "flick_clean": original,
        "flick_attacked": path,
        "signed": heatmap.signed_difference(before, after, gain),
        "magnitude": heatmap.magnitude(before, after, top),
        "spectrum": heatmap.spectrum(before, after),
        "look_clean": None,
        "look_attacked": None,
        "pair_caption": _caption(DRAG),
        "signed_caption": signed_caption(gain),
        "magnitude_caption": magnitude_caption(top),
        "spectrum_caption": spectrum_caption(*heatmap.fine_share(before, after)),
        "look_caption": _caption(LATER),
        "download": gr.DownloadButton(value=path, interactive=True),
    }


def looked(clean: Images, report: AttackReport, notes: Sequence[Note]) -> Update:
    """Where the model looks, if a card's notes say so already; a tower without a map is a sentence."""
    note = next((note for note in notes if note.title == LOOKS), None)
    if note is None:
        return {}
    if note.kind != "maps":
        return {"look_clean": None, "look_attacked": None, "look_caption": _caption(note.value)}
    pair = to_array(clean), to_array(from_png(report.png))
    one, two, top = heatmap.looks(*pair, note.value)
    return {"look_clean": one, "look_attacked": two, "look_caption": look_caption(note.value, top)}


def cleared() -> Update:
    """No file, no pictures."""
    return dict.fromkeys(PICTURES) | dict.fromkeys(CAPTIONS, "")


def signed_caption(gain: int) -> str:
    """The amplification, and which change is black and which is white."""
    grey = f"{127 / gain:.1f}"
    words = f"Difference, signed, amplified ×{gain}, in levels of 255"
    return _caption(words) + _scale("grey", f"−{grey}", "0", f"+{grey}")


def magnitude_caption(top: float) -> str:
    """The scale of the size: from nothing to what the attack was allowed."""
    return _caption("Largest |δ| of a pixel, in levels of 255") + _scale("", "0", f"{top:g}")


def spectrum_caption(fine: float, noise: float) -> str:
    """The logarithmic scale, and the share of fine waves in words."""
    words = (
        "Spectrum of δ, its colours averaged: slow waves in the middle, the finest at the edge; "
        f"amplitude in levels, logarithmic. {fine:.0%} of its energy lies above half Nyquist, in "
        f"waves shorter than four pixels; white noise has {noise:.0%}."
    )
    return _caption(words) + _scale("", "0.001", "0.03", "1")


def look_caption(value: Mapping[str, Any], top: float) -> str:
    """How the map was made, for which answers, and its one scale."""
    grid = f"{len(value['clean'])}×{len(value['clean'][0])}"
    if value["how"] == "rollout":
        how = (
            f"Attention rollout: what each of {grid} patches adds to the answer's token, all layers"
        )
        end = f"{100 * top:.2g} % of it"
    else:
        how = f"Gradient × activation on the last {grid} grid: what speaks for the answer"
        end = f"{top:.2g} logits"
    clean, attacked = (f"<b>{escape(answer)}</b>" for answer in value["answers"])
    return (
        f'<p class="vd-caption">Original: {clean}. Attacked: {attacked}. {how}. One scale for both.'
        f"</p>{_scale('', '0', end)}"
    )


def _caption(words: str) -> str:
    return f'<p class="vd-caption">{escape(words)}</p>'


def _scale(kind: str, *ends: str) -> str:
    marks = "".join(f"<span>{end}</span>" for end in ends)
    return f'<div class="scale {kind}"></div><div class="ends">{marks}</div>'
