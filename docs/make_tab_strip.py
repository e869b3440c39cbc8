"""Make docs/tab.png: the tab before, during and after a training, side by side.

Starts `python -m lib_addift ui` on a free port with the bundled model, trains on the demo's pair in headless Chromium
and takes three screenshots. Needs Debian's chromium and chromium-driver, and what `python3 install.py test` installs:

    .venv/bin/python docs/make_tab_strip.py
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from selenium import webdriver

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_addift.demo import world  # noqa: E402 - the repository's root comes first
from lib_addift.demo.run import TASKS  # noqa: E402
from tests.browser.conftest import OPTIONS  # noqa: E402
from tests.browser.servers import SETUPS, serve  # noqa: E402
from tests.browser.tab import Tab  # noqa: E402

PATIENCE = 300  # s for the training, on a busy machine
WIDTH = 1280  # px of the browser's window: two columns of about a third of that
SCALE = 1.25  # px of a screenshot for one px of the page
GAP, TITLE = 24, 34  # px between the screenshots, and above them for their titles
COLOURS = 192  # of the PNG; a page has few, and the file stays small


def main() -> int:
    """Take the screenshots and write the picture."""
    parser = argparse.ArgumentParser(description="Draw the tab before, during and after a training.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "tab.png")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--chromedriver", default="/usr/bin/chromedriver")
    options = parser.parse_args()
    standalone = next(setup for setup in SETUPS if not setup.in_webui)
    with tempfile.TemporaryDirectory() as folder, serve(standalone, Path(folder)) as server:
        driver = start_browser(options.chromium, options.chromedriver, Path(folder) / "profile")
        try:
            columns = take_screenshots(Tab(driver, server, Path(folder)), Path(folder))
        finally:
            driver.quit()
    picture = side_by_side(columns).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(options.out, optimize=True)
    print(f"wrote {options.out}: {picture.width} x {picture.height} px, {options.out.stat().st_size // 1024} KiB")
    return 0


def start_browser(chromium: str, chromedriver: str, profile: Path) -> webdriver.Chrome:
    """A headless Chromium with a fresh profile."""
    choices = webdriver.ChromeOptions()
    choices.binary_location = chromium
    choices.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in (*OPTIONS, "--hide-scrollbars", f"--user-data-dir={profile}"):
        choices.add_argument(option)
    return webdriver.Chrome(options=choices, service=webdriver.ChromeService(chromedriver))


def take_screenshots(tab: Tab, folder: Path) -> dict[str, Image.Image]:
    """Fill in the form, press Train and wait for the result; a screenshot by title."""
    for role, picture in zip(("original", "target"), map(world.draw, TASKS["eyes"].faces(1)), strict=True):
        picture.save(folder / f"{role}.png")
    tab.open()
    tab.resize(WIDTH)
    for role in ("original", "target"):
        tab.put(role, folder / f"{role}.png")
    tab.shown("#addift_doctor .addift-finding")
    tab.write("#addift_name input, #addift_name textarea", "closed_eyes")
    tab.settle()
    columns = {"1  Two pictures and a name": screenshot(tab, "#addift_form")}
    tab.click("#addift_train")
    tab.wait(lambda: _steps(tab) >= 20, "a preview strip, which is drawn at half of the training", PATIENCE)
    columns["2  Training"] = screenshot(tab, "#addift_job")
    tab.wait_for_state("done", patience=PATIENCE)
    tab.shown("#addift_result [data-addift-tag]")
    tab.settle()
    columns["3  The result, measured"] = screenshot(tab, "#addift_job", last="#addift_result")
    return columns


def _steps(tab: Tab) -> int:
    """The steps done, as the progress panel says them; 0 before the first."""
    found = re.search(r"(\d+) of \d+", tab.text("#addift_progress"))
    return int(found[1]) if found else 0


def screenshot(tab: Tab, css: str, last: str = "") -> Image.Image:
    """A part of the page, however long; it ends below the element `last` where one is named."""
    box = tab.driver.execute_script(
        "const [box, last] = [...arguments].map((each) => each.getBoundingClientRect());"
        "return [box.x + scrollX, box.y + scrollY, box.width, last.bottom - box.y]",
        tab.shown(css),
        tab.shown(last or css),
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": SCALE}
    found = tab.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")


def side_by_side(columns: dict[str, Image.Image]) -> Image.Image:
    """The screenshots in a row, each under its title."""
    width = sum(picture.width for picture in columns.values()) + GAP * (len(columns) + 1)
    height = max(picture.height for picture in columns.values()) + GAP * 2 + TITLE
    row = Image.new("RGB", (width, height), "white")
    pen, left = ImageDraw.Draw(row), GAP
    for title, picture in columns.items():
        pen.text((left, GAP // 2), title, fill=(40, 50, 65), font=ImageFont.load_default(26))
        row.paste(picture, (left, GAP + TITLE))
        left += picture.width + GAP
    return row


if __name__ == "__main__":
    sys.exit(main())
