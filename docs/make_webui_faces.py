"""Make docs/webui_faces.png: faces drawn by a running A1111, without a LoRA and with it.

The WebUI runs with --api, this extension and the bundled checkpoint (docs/world.md says how). The LoRA was trained in
the tab, with the default settings, on the pair that `TASKS["eyes"].faces(1)` of lib_addift/demo/run.py gives.

    .venv/bin/python docs/make_webui_faces.py --address http://127.0.0.1:7860 --tag "<lora:closed_eyes:1>"
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import sys
import urllib.request
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_addift.demo import world  # noqa: E402 - the repository's root comes first

FACES = 8
FACE_SEED = 500  # added to the seed of a picture: the face whose caption is its prompt
SCALE = 2  # px of the picture for one px of a face
COLOURS = 192


def main() -> int:
    """Draw every caption without the tag (upper row) and with it (lower row)."""
    parser = argparse.ArgumentParser(description="Draw faces in a running WebUI, without a LoRA and with it.")
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--tag", default="<lora:closed_eyes:1>")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "webui_faces.png")
    options = parser.parse_args()
    grid = Image.new("RGB", (FACES * world.SIZE, 2 * world.SIZE))
    for column in range(FACES):
        face = world.random_face(random.Random(column + 1 + FACE_SEED), eyes="open")
        caption = world.caption(face, frozenset({"eyes"}))
        for row, prompt in enumerate((caption, f"{caption} {options.tag}")):
            picture = draw(options.address, prompt, seed=column + 1)
            print(f"seed {column + 1}, {prompt}: {world.detect(picture)['eyes']} eyes")
            grid.paste(picture, (column * world.SIZE, row * world.SIZE))
    grid = grid.resize((grid.width * SCALE, grid.height * SCALE), Image.Resampling.NEAREST)
    grid.quantize(COLOURS, dither=Image.Dither.NONE).save(options.out, optimize=True)
    return 0


def draw(address: str, prompt: str, seed: int) -> Image.Image:
    """The WebUI's picture of a prompt; the samplers' other settings are its defaults."""
    body = {
        "prompt": prompt, "seed": seed, "steps": 20, "width": world.SIZE, "height": world.SIZE, "cfg_scale": 4,
        "sampler_name": "Euler", "do_not_save_samples": True,
    }  # fmt: skip
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/sdapi/v1/txt2img", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=900) as answer:
        return Image.open(io.BytesIO(base64.b64decode(json.loads(answer.read())["images"][0]))).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
