"""A page as A1111 and Forge build theirs, with the real tab in it, over the tiny world: `webui_page.py PORT LORA_DIR`.

Runs where PYTHONPATH names one of the folders that install.py makes from gradio_*.txt. The page has what the extension
looks for in a WebUI: the row of tabs, the prompts, the galleries with their buttons; and it takes in the extension's
script and style sheet in the same way, by writing them into the page that gradio sends.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path
from typing import Any

import huggingface_hub

ROOT = Path(__file__).resolve().parents[2]
TABS = ("txt2img", "img2img", "extras")

# gradio 3 and 4 name it when they are imported, and the release that transformers 5 needs has it no more.
if not hasattr(huggingface_hub, "HfFolder"):
    huggingface_hub.HfFolder = type("HfFolder", (), {"get_token": staticmethod(lambda: None)})

import gradio as gr  # noqa: E402 - after the line above
from PIL import Image  # noqa: E402

from lib_addift import TITLE  # noqa: E402
from lib_addift.demo import world  # noqa: E402
from lib_addift.demo.run import CHECKPOINT, TASKS  # noqa: E402
from lib_addift.hosts.prompt_tag.sliders import infotext_of, tags_of  # noqa: E402
from lib_addift.hosts.standalone import StandaloneHost  # noqa: E402
from lib_addift.jobs.queue import Jobs  # noqa: E402
from lib_addift.ui.sliders import build_sliders  # noqa: E402
from lib_addift.ui.tab import build_tab  # noqa: E402
from lib_addift.webui import TAB_ID  # noqa: E402


def main(port: int, lora_dir: Path) -> None:
    """Serve the page until the process is ended."""
    _add_to_head_and_body()
    jobs = Jobs(StandaloneHost(CHECKPOINT, lora_dir=lora_dir))
    pictures = lora_dir.parent / "pictures"
    interfaces = [(_interface(tab, _generated(pictures), lora_dir), tab, tab) for tab in TABS]
    interfaces.append((build_tab(jobs, in_webui=True), TITLE, TAB_ID))
    with gr.Blocks(analytics_enabled=False, title="Stable Diffusion") as page, gr.Tabs(elem_id="tabs"):
        for interface, label, tab in interfaces:
            with gr.TabItem(label, id=tab, elem_id=f"tab_{tab}"):
                interface.render()
    page.queue(64)
    allowed = [str(ROOT), str(pictures)]
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, allowed_paths=allowed)
    threading.Event().wait()


def _generated(folder: Path) -> list[str]:
    """What was generated, as files: from those a WebUI fills its galleries."""
    folder.mkdir(exist_ok=True)
    face = TASKS["eyes"].faces(1)[0]
    faces = [face, dataclasses.replace(face, hair="red")]
    for number, face in enumerate(faces):
        world.draw(face).save(folder / f"{number:05}.png")
    return [str(folder / f"{number:05}.png") for number in range(len(faces))]


@dataclasses.dataclass
class _Loras:
    """The LoRAs of a folder, as the sliders ask for them."""

    folder: Path

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def picture(self, name: str) -> Image.Image | None:
        path = self.folder / f"{name}.png"
        return Image.open(path).convert("RGB") if path.is_file() else None


def _interface(tab: str, pictures: list[str], lora_dir: Path) -> Any:
    """What a WebUI shows in one tab, as far as the extension looks at it."""
    with gr.Blocks(analytics_enabled=False) as interface:
        if tab != "extras":
            prompt = gr.Textbox(label="Prompt", show_label=False, lines=3, elem_id=f"{tab}_prompt")
            generate = gr.Button("Generate", variant="primary", elem_id=f"{tab}_generate")
            used = gr.Textbox(label="Prompt that was used", elem_id=f"{tab}_used")
            sliders = build_sliders(tab, _Loras(lora_dir))
            generate.click(_used, inputs=[prompt, *sliders], outputs=[used])
        gr.Gallery(
            value=pictures, label="Output", show_label=False, elem_id=f"{tab}_gallery", columns=4, preview=True
        )  # fmt: skip
        with gr.Row(elem_id=f"image_buttons_{tab}", elem_classes="image-buttons"):
            gr.Button("Save", elem_id=f"save_{tab}")
    return interface


def _used(prompt: str, *values: Any) -> str:
    return f"{prompt} {infotext_of(tags_of(values))}".strip()


def _add_to_head_and_body() -> None:
    def address(name: str) -> str:
        return f"file={name}?{(ROOT / name).stat().st_mtime}"

    scripts = [f"javascript/{name}.js" for name in ("addift", "addift_language")]
    script = "".join(f'<script type="text/javascript" src="{address(name)}"></script>' for name in scripts) + "</head>"
    style = f'<link rel="stylesheet" property="stylesheet" href="{address("style.css")}"></body>'
    original = gr.routes.templates.TemplateResponse

    def response(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        result.body = result.body.replace(b"</head>", script.encode()).replace(b"</body>", style.encode())
        result.init_headers()
        return result

    gr.routes.templates.TemplateResponse = response


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
