"""Start the demo: parse flags, build the page, load the model in the background, launch.

`demo` stands at module level for Spaces and `gradio app.py`.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Sequence
from typing import Any

from vlmdefense_demo.ui import gpu

# isort: split
# Below this line CUDA may be touched, and `spaces` has to come first.
import gradio as gr
import huggingface_hub
from starlette.middleware import Middleware

from vlmdefense_demo import __version__
from vlmdefense_demo.models.catalog import ASSETS, LOCAL, MODELS
from vlmdefense_demo.ui.guard import Guard
from vlmdefense_demo.ui.languages import Languages
from vlmdefense_demo.ui.layout import build
from vlmdefense_demo.ui.lecture import STYLE, head
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.theme import theme


def launch_options(lecture: bool = False, page: gr.Blocks | None = None) -> dict[str, Any]:
    """What `launch` needs besides an address; tests use the same.

    Args:
        lecture: open every visit with the lecture.
        page: what is launched, `demo` if not given.
    """
    languages = Middleware(Languages, page=page or demo)
    return {
        "theme": theme(),
        "css_paths": [ASSETS / "style.css", STYLE],
        "head": head(lecture),
        "app_kwargs": {"middleware": [Middleware(Guard), languages]},
        "max_file_size": "8mb",
        "footer_links": ["api", "settings"],
        "run_history": False,
        "ssr_mode": False,
        "show_error": False,
        "enable_monitoring": False,
        "state_session_capacity": 200,
    }


def model_name(value: str) -> str:
    """A catalog name, or the address of an open_clip model directory."""
    if value in MODELS or value.startswith(LOCAL):
        return value
    raise argparse.ArgumentTypeError(f"unknown model {value!r}; known: {', '.join(MODELS)}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is not set is left to Gradio's environment variables."""
    parser = argparse.ArgumentParser(description="Fool CLIP, then defend it.")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument(
        "--model", default="pocket", type=model_name, help="catalog name or local-dir:PATH"
    )
    parser.add_argument("--offline", action="store_true", help="never ask the model hub")
    parser.add_argument("--lecture", action="store_true", help="open with the lecture")
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING"))
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until interrupted."""
    args = parse(argv)
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("vlmdefense_demo").setLevel(args.log_level)
    if args.offline:
        # The environment variable was read when gradio imported the hub's client.
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    page, chosen = demo, site
    if (args.device, args.model) != (site.device, site.model):
        chosen = Site(args.device, args.model)
        page = build(chosen)
    if not gpu.ZERO:
        # The page is up before its model is, and the first click finds it there.
        threading.Thread(target=chosen.load, daemon=True).start()
    page.launch(server_name=args.host, server_port=args.port, **launch_options(args.lecture, page))


site = Site()
if gpu.ZERO:
    # What a fork loads is lost with it, and threads do not take part in the emulation of CUDA.
    for name in site.models():
        site.at(name).preload()
demo = build(site)

if __name__ == "__main__":
    main()
