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
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import AttackReport, Images, Note
from vlmdefense_demo.ui.files import Outbox
from vlmdefense_demo.ui.words import ENGLISH, Said, Words, said, tell

VIEWS = ("pair", "flicker", "signed", "magnitude", "spectrum", "looks")
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
PAUSE = """() => {
  const stopped = document.querySelector('#flicker').classList.toggle('paused');
  const words = document.querySelector('.flicker-moves').dataset;
  return stopped ? words.go : words.pause;
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
        [(tell(f"view.{view}"), view) for view in VIEWS], value="pair", label=tell("view"), show_label=False, container=False, elem_id="view",
        interactive=True,
    )  # fmt: skip
    with gr.Row(elem_classes="pictures result"):
        with gr.Column(scale=7, min_width=300, elem_classes="shot shot-pair"):
            out["pair"] = gr.ImageSlider(
                first.get("pair"), type="filepath", format="png", interactive=False,
                label=tell("alt.pair"), show_label=False, buttons=["fullscreen"],
                elem_id="pair", elem_classes="pix",
            )  # fmt: skip
            caption("pair_caption")
        with gr.Column(scale=3, min_width=150, elem_classes="shot shot-signed shot-magnitude"):
            for name, key in (("signed", "alt.signed"), ("magnitude", "view.magnitude")):
                with gr.Column(elem_classes=f"part part-{name}"):
                    picture(name, tell(key))
                    caption(f"{name}_caption")
        with gr.Column(elem_classes="shot shot-flicker"):
            with gr.Column(elem_id="flicker"):
                picture("flick_clean", tell("alt.original"), buttons=[])
                picture("flick_attacked", tell("alt.attacked"), buttons=[])
            pause = gr.Button(
                tell("flicker.pause"), size="sm", elem_id="pause", elem_classes="tool"
            )
            gr.HTML(said(flicker))
        with gr.Column(elem_classes="shot shot-spectrum"):
            picture("spectrum", tell("alt.spectrum"))
            caption("spectrum_caption")
        with gr.Column(elem_classes="shot shot-looks"):
            with gr.Row(elem_id="looks"):
                picture("look_clean", tell("alt.look.clean"))
                picture("look_attacked", tell("alt.look.attacked"))
            caption("look_caption")
    pause.click(None, None, pause, js=PAUSE, api_visibility="private", show_progress="hidden")


def flicker(words: Words = ENGLISH) -> str:
    """The captions of the flicker, the words of its button, and those the style writes on it."""
    names = "".join(
        f'#flick-{id}::after {{ content: "{words(f"flicker.{key}")}"; }}'
        for id, key in (("clean", "original"), ("attacked", "attacked"))
    )
    return (
        f"<style>{names}</style>"
        f'<p class="vd-caption flicker-moves" data-go="{words("flicker.go")}" '
        f'data-pause="{words("flicker.pause")}">{words("flicker.moves")}</p>'
        f'<p class="vd-caption flicker-still">{words("flicker.still")}</p>'
    )


def made(outbox: Outbox, clean: Images, report: AttackReport) -> Update:
    """Everything that follows from the two files; where the model looks comes later."""
    before, after = to_array(clean), to_array(from_png(report.png))
    top = heatmap.top_for(report.linf, report.params)
    gain = heatmap.gain_for(top)
    ball = entry(report.method, "attack").build(dict(report.params)).ball
    size = f"-{ball.levels}of255" if ball.norm == "linf" else ""
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
        "pair_caption": _caption(tell("caption.drag")),
        "signed_caption": signed_caption(gain),
        "magnitude_caption": magnitude_caption(top),
        "spectrum_caption": spectrum_caption(*heatmap.fine_share(before, after)),
        "look_caption": _caption(tell("caption.later")),
        "download": gr.DownloadButton(value=path, interactive=True),
    }


def looked(clean: Images, report: AttackReport, notes: Sequence[Note]) -> Update:
    """Where the model looks, if a card's notes say so already; a tower without a map is a sentence."""
    note = next((note for note in notes if note.title == LOOKS), None)
    if note is None:
        return {}
    if note.kind != "maps":
        return {
            "look_clean": None,
            "look_attacked": None,
            "look_caption": _caption(note.value),
        }  # a sentence of the model's, in English
    pair = to_array(clean), to_array(from_png(report.png))
    one, two, top = heatmap.looks(*pair, note.value)
    return {"look_clean": one, "look_attacked": two, "look_caption": look_caption(note.value, top)}


def cleared() -> Update:
    """No file, no pictures."""
    return dict.fromkeys(PICTURES) | dict.fromkeys(CAPTIONS, "")


def signed_caption(gain: int) -> Said:
    """The amplification, and which change is black and which is white."""
    grey = f"{127 / gain:.1f}"
    return _caption(tell("caption.signed", gain=gain), _scale("grey", f"−{grey}", "0", f"+{grey}"))


def magnitude_caption(top: float) -> Said:
    """The scale of the size: from nothing to what the attack was allowed."""
    return _caption(tell("caption.magnitude"), _scale("", "0", f"{top:g}"))


def spectrum_caption(fine: float, noise: float) -> Said:
    """The logarithmic scale, and the share of fine waves in words."""
    text = tell("caption.spectrum", fine=f"{fine:.0%}", noise=f"{noise:.0%}")
    return _caption(text, _scale("", "0.001", "0.03", "1"))


def look_caption(value: Mapping[str, Any], top: float) -> Said:
    """How the map was made, for which answers, and its one scale."""
    grid = f"{len(value['clean'])}×{len(value['clean'][0])}"
    rollout = value["how"] == "rollout"
    key, most = ("caption.rollout", 100 * top) if rollout else ("caption.gradient", top)
    clean, attacked = (f"<b>{escape(answer)}</b>" for answer in value["answers"])

    def caption(words: Words) -> str:
        text = words("caption.looks", clean=clean, attacked=attacked, how=words(key, grid=grid))
        end = words(f"{key}.end", top=f"{most:.2g}")
        return f'<p class="vd-caption">{text}</p>{_scale("", "0", end)}'

    return said(caption)


def _caption(text: str, scale: str = "") -> Said:
    return said(lambda words: f'<p class="vd-caption">{escape(words.say(text))}</p>{scale}')


def _scale(kind: str, *ends: str) -> str:
    marks = "".join(f"<span>{end}</span>" for end in ends)
    return f'<div class="scale {kind}"></div><div class="ends">{marks}</div>'
