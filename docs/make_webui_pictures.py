"""Make docs/webui_tab.png and docs/webui_txt2img.png: a training in AUTOMATIC1111's WebUI, and what its LoRA draws.

Put the bundled checkpoint into the WebUI in which this extension is installed, start the WebUI with it, and run this
with a Python that has what `python3 install.py test` installs, and with Debian's chromium and chromium-driver:

    .venv/bin/python -m lib_addift.experiments.webui_checkpoint --out WEBUI/models/Stable-diffusion
    .venv/bin/python docs/make_webui_pictures.py --address http://127.0.0.1:7860

The LoRA 'closed_eyes' must not be there yet.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from make_tab_strip import COLOURS, PATIENCE, screenshot, side_by_side, start_browser
from PIL import Image
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_addift.demo import world  # noqa: E402 - the repository's root comes first
from lib_addift.demo.run import TASKS  # noqa: E402
from tests.browser.servers import Server, Setup  # noqa: E402
from tests.browser.tab import Tab  # noqa: E402

EYES = TASKS["eyes"]
FACES = 8
FACE_SEED = 500  # of the captions, away from the training's
PAGE_SCALE = 0.8  # px of a screenshot for one px of the page
_SET = """
const [field, text] = arguments;
Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, text);
field.dispatchEvent(new Event("input", {bubbles: true}));
"""


def main() -> int:
    """Train, draw and write the pictures."""
    parser = argparse.ArgumentParser(description="Draw a training in a running WebUI, and what its LoRA does.")
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--seed", type=int, default=3, help="of the face that is trained on")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--chromedriver", default="/usr/bin/chromedriver")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "server.log"
        log.touch()  # the WebUI's own output is somewhere else
        driver = start_browser(options.chromium, options.chromedriver, folder / "profile")
        try:
            tab = Tab(driver, Server(Setup("webui", in_webui=True), options.address, folder, log), folder)
            save(train(tab, options.seed, folder), options.out / "webui_tab.png")
            save(draw(tab), options.out / "webui_txt2img.png")
        finally:
            driver.quit()
    return 0


def train(tab: Tab, seed: int, folder: Path) -> Image.Image:
    """Train on a random face with the default settings; the page with the result."""
    faces = EYES.faces(seed)
    tab.open()
    for role, face in zip(("original", "target"), faces, strict=True):
        world.draw(face).save(folder / f"{role}.png")
        tab.put(role, folder / f"{role}.png")
    tab.write("#addift_name input, #addift_name textarea", EYES.name)
    tab.open_advanced()
    tab.write("#addift_set_prompt :is(textarea, input)", world.caption(faces[0], frozenset({EYES.attribute})))
    tab.close_advanced()
    tab.settle()
    tab.click("#addift_train")
    tab.wait_for_state("queued", "running", patience=PATIENCE)  # not that of an earlier training
    tab.wait_for_state("done", patience=PATIENCE)
    tab.shown("#addift_result [data-addift-tag]")
    tab.settle()
    print(tab.text("#addift_result"))
    tab.driver.execute_script("scrollTo(0, 0)")
    return screenshot(tab, "body", last="#addift_result", scale=PAGE_SCALE)


def draw(tab: Tab) -> Image.Image:
    """The same captions and seeds in txt2img, without the tag and with it: both pages side by side."""
    tab.click("#addift_insert_txt2img")
    prompt = "#txt2img_prompt textarea"
    tag = tab.wait(lambda: tab.value(prompt), "the tag in the prompt")
    for setting, value in {"width": 64, "height": 64, "cfg_scale": 4}.items():
        tab.write(f"#txt2img_{setting} input[type=number]", str(value))
    tab.write("#txt2img_seed input", "1")
    _choose_prompts(tab)
    pages = {}
    for title, text in {"without the LoRA": "", f"with {tag}": tag}.items():
        tab.driver.execute_script(_SET, tab.shown(prompt), text)
        tab.settle()
        pages[title] = _generate(tab)
    return side_by_side(pages)


def _choose_prompts(tab: Tab) -> None:
    """The WebUI's own script that draws a picture for each line; the lines are captions that do not mention eyes."""
    rng = random.Random(FACE_SEED)
    faces = [world.random_face(rng) for _ in range(FACES)]
    lines = "\n".join(world.caption(face, frozenset({EYES.attribute})) for face in faces)
    tab.shown("#tab_txt2img #script_list input").send_keys(Keys.CONTROL, "a", Keys.NULL, "Prompts from", Keys.ENTER)
    script = "#tab_txt2img [id$=prompts_from_file_or_textbox_{}]"
    tab.driver.execute_script(_SET, tab.shown(script.format("prompt_txt") + " textarea"), lines)
    tab.click(script.format("checkbox_iterate") + " input")
    tab.settle()


def _generate(tab: Tab) -> Image.Image:
    """Press Generate; the page as soon as all pictures are there."""
    pictures = "#txt2img_gallery .thumbnails img, #txt2img_gallery .grid-container img"
    before = [each.get_property("src") for each in tab.all(pictures)]
    tab.click("#txt2img_generate")

    def drawn() -> bool:
        now = [each.get_property("src") for each in tab.all(pictures)]
        return len(now) == FACES and now != before

    tab.wait(drawn, "the pictures", PATIENCE)
    if tab.is_shown("#txt2img_gallery button[aria-label=Close]"):
        tab.click("#txt2img_gallery button[aria-label=Close]")
    tab.settle()
    return screenshot(tab, "#tab_txt2img", scale=PAGE_SCALE)


def save(picture: Image.Image, path: Path) -> None:
    """A PNG of few colours, as small as Pillow makes it."""
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}: {picture.width} x {picture.height} px, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    sys.exit(main())
