"""The tab as a person sees it: what can be done in it and what can be read from it, under every version of gradio."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.servers import Server

T = TypeVar("T")
PATIENCE = 30  # s for whatever should happen at once; a busy machine may be slow

_DROP = """
const [input, name, base64] = arguments;
const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, {type: "image/png"}));
for (const kind of ["dragenter", "dragover", "drop"])
    input.parentElement.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
"""
_FILES = """
const [kind, place, files] = arguments;
const transfer = new DataTransfer();
for (const [name, base64] of files) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
}
const options = {bubbles: true, cancelable: true};
place.dispatchEvent(kind === "drop" ? new DragEvent("drop", {...options, dataTransfer: transfer})
    : new ClipboardEvent("paste", {...options, clipboardData: transfer}));
"""
_HOLD = """
window.held = true; // while it is, answers to calls do not reach the page; files go to the server as ever
const fetched = window.fetch;
window.fetch = async (...call) => {
    const answer = await fetched(...call);
    const isCall = (call[1]?.method ?? "GET") === "POST" && !String(call[0]?.url ?? call[0]).includes("upload");
    while (isCall && window.held) await new Promise((resolve) => setTimeout(resolve, 20));
    return answer;
};
"""
_PIXELS = """
const [image, done] = [arguments[0], arguments[1]];
image.decode().then(() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    done([canvas.width, canvas.height, ...pen.getImageData(0, 0, canvas.width, canvas.height).data]);
}).catch((error) => done(String(error)));
"""
_TOO_WIDE = """
const wide = [...document.querySelectorAll("#addift_root *")].filter((each) => {
    const fits = (other) => other.getBoundingClientRect().right <= innerWidth + 1;
    const cuts = (other) => getComputedStyle(other).overflowX !== "visible" && fits(other);
    if (each.getBoundingClientRect().width === 0 || fits(each)) return false;
    let up = each.parentElement;
    while (up && !cuts(up)) up = up.parentElement;
    return !up;
});
const names = wide.slice(0, 5).map((each) => each.outerHTML.slice(0, 120));
const page = document.documentElement;
return [page.scrollWidth - page.clientWidth, names];
"""
# At every frame: how opaque what our code wrote is in its surroundings, as each panel's faintest moment.
_WATCH = """
const seen = window.addiftSeen = {frames: 0, faintest: {}};
const look = () => {
    seen.frames += 1;
    for (const panel of document.querySelectorAll("#addift_root [id^=addift_]:has([class*=addift-])")) {
        if (!panel.checkVisibility()) continue;
        let opacity = 1;
        for (let up = panel.querySelector("[class*=addift-]").parentElement; up; up = up.parentElement)
            opacity *= Number(getComputedStyle(up).opacity);
        seen.faintest[panel.id] = Math.min(seen.faintest[panel.id] ?? 1, opacity);
    }
    requestAnimationFrame(look);
};
look();
"""


class Tab:
    """One page with the tab in front."""

    def __init__(self, driver: Chrome, server: Server, screenshots: Path) -> None:
        self.driver, self.server = driver, server
        self._screenshots = screenshots

    # Looking.

    def all(self, css: str) -> list[WebElement]:
        """The elements, in the page's order."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """The first of the elements, as soon as it is there."""
        return self.wait(lambda: next(iter(self.all(css)), None), f"'{css}' on the page")

    def shown(self, css: str) -> WebElement:
        """The first of the elements that can be seen, as soon as one can."""
        return self.wait(lambda: next(filter(WebElement.is_displayed, self.all(css)), None), f"'{css}' in sight")

    def is_shown(self, css: str) -> bool:
        """Whether such an element can be seen now."""
        try:
            return any(each.is_displayed() for each in self.all(css))
        except StaleElementReferenceException:
            return self.is_shown(css)

    def text(self, css: str) -> str:
        """What the first of the elements says; '' while there is none."""
        try:
            return next((str(each.get_property("textContent")).strip() for each in self.all(css)), "")
        except StaleElementReferenceException:
            return self.text(css)

    def attribute(self, css: str, name: str) -> str:
        """An attribute of the first of the elements; '' while there is none."""
        try:
            return next((each.get_attribute(name) or "" for each in self.all(css)), "")
        except StaleElementReferenceException:
            return self.attribute(css, name)

    def value(self, css: str) -> str:
        """What stands in a field."""
        return str(self.one(css).get_property("value"))

    def wait(self, look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
        """What `look` gives as soon as that is something. Fails with `what` when it takes too long."""
        end = time.monotonic() + patience
        while True:
            try:
                found = look()
            except StaleElementReferenceException:  # gradio replaced it meanwhile
                found = None
            if found:
                return found
            assert time.monotonic() < end, f"not within {patience:g} s: {what}\n{self.situation()}"
            time.sleep(0.1)

    def situation(self) -> str:
        """What a failed test should tell."""
        parts = ("#addift_alert", "#addift_progress", "#addift_doctor", "#addift_settings_note", "#addift_name_note")
        parts += ("#addift_batch_alert", "#addift_batch", "#addift_queue_alert", "#addift_queue")
        lines = [f"{css}: {self.text(css)}" for css in parts]
        return "\n".join([*lines, *self.errors(), self.server.output()[-2000:]])

    def errors(self) -> list[str]:
        """What the browser's console has noted since the last call, except that the rest of the world is missing."""
        entries = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        messages = [str(entry["message"]) for entry in entries]
        return [each for each in messages if not _is_about_the_network(each, self.server.address)]

    def picture(self, css: str) -> list[int]:
        """Width, height and RGBA values of an image; one that is replaced while it is decoded is looked at again."""

        def pixels() -> list[int] | None:
            found: list[int] | str = self.driver.execute_async_script(_PIXELS, self.shown(css))
            return found if isinstance(found, list) else None

        return self.wait(pixels, f"an image that can be decoded in '{css}'")

    def too_wide(self) -> tuple[int, list[str]]:
        """How far the page is wider than its window (px), and what sticks out."""
        excess, elements = self.driver.execute_script(_TOO_WIDE)
        return int(excess), list(elements)

    def watch_opacity(self) -> None:
        """From now on, until the page is loaded anew, note how faint gradio makes our panels."""
        self.driver.execute_script(_WATCH)

    def opacity_seen(self) -> tuple[int, dict[str, float]]:
        """How often it was looked since `watch_opacity`, and the lowest opacity of each panel, 0 to 1."""
        seen = self.driver.execute_script("return window.addiftSeen")
        return int(seen["frames"]), {name: float(value) for name, value in seen["faintest"].items()}

    def screenshot(self, name: str) -> None:
        """A picture of the whole page, however long."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        width = self.driver.execute_script("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 6000), "scale": 1}
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        folder = self._screenshots / self.server.setup.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(base64.b64decode(found["data"]))

    # Doing.

    def open(self, query: str = "") -> None:
        """Load the page, 1280 px wide, and wait until the tab has what the server remembers."""
        self.resize(1280)
        self.driver.get(self.server.address + query)
        self.wait(lambda: self.all("#addift_page [data-addift-restored]"), "the tab restored")
        self.to_front()

    def reload(self) -> None:
        """As F5 does."""
        self.driver.refresh()
        self.wait(lambda: self.all("#addift_page [data-addift-restored]"), "the tab restored")
        self.to_front()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A page that is opened anew, to which no answer comes before the block ends; then wait for all answers."""
        added = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _HOLD})
        self.driver.refresh()
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        self.to_front()
        time.sleep(1.6)  # until it has asked more than once
        assert not self.all("#addift_page [data-addift-restored]")
        yield
        assert not self.all("#addift_page [data-addift-restored]")
        self.driver.execute_script("window.held = false")
        self.wait(lambda: self.all("#addift_page [data-addift-restored]"), "the tab restored")
        time.sleep(1.5)  # for answers to what it had asked before

    def resize(self, width: int) -> None:
        """Make the window so wide (px)."""
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def settle(self) -> None:
        """Wait until all is told to the server that was touched so far."""
        time.sleep(1)

    def answer_after(self, seconds: float) -> None:
        """Let every answer of the server take this long, as over a slow line."""
        line = {"offline": False, "latency": seconds * 1000, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", line)

    def to_front(self) -> None:
        """Choose the tab in the WebUI's row of tabs, and 'Pair' in it."""
        if self.server.setup.in_webui:
            self.choose_webui_tab("Train Difference LoRA")
        self.choose_inner_tab("Pair")
        self.shown("#addift_train")

    def choose_inner_tab(self, label: str) -> None:
        """Choose Pair, Batch or Queue."""
        buttons = "#addift_tabs > .tab-nav > button, #addift_tabs > .tab-wrapper button[role=tab]"
        found = self.wait(
            lambda: [each for each in self.all(buttons) if each.is_displayed() and each.text.strip() == label],
            f"the inner tab '{label}'",
        )
        found[0].click()

    def choose_webui_tab(self, label: str) -> None:
        """Choose a tab of the WebUI by its label."""
        buttons = "#tabs > .tab-nav > button, #tabs > .tab-wrapper button[role=tab]"
        found = self.wait(
            lambda: [each for each in self.all(buttons) if each.text.strip() == label], f"the tab '{label}'"
        )
        found[0].click()

    def click(self, css: str) -> None:
        """Press what can be seen, scrolled into sight; a label that lies over it is pressed in its stead."""

        def press() -> bool:
            element = self.shown(css)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            try:
                element.click()
            except StaleElementReferenceException:
                return False
            except WebDriverException as error:
                if "intercepted" not in str(error):
                    raise
                return False
            return True

        self.wait(press, f"'{css}' pressed")

    def write(self, css: str, text: str) -> None:
        """Replace what stands in a field, by typing, and leave the field."""
        field = self.shown(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        # In one go to the field itself: a click beforehand misses it when an answer moves the page in between.
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, text or Keys.BACKSPACE, Keys.TAB)
        self.wait(lambda: self.value(css) == text, f"'{text}' in '{css}'")

    def put(self, role: str, picture: Path, *, drop: bool = False) -> None:
        """Choose a file for a slot, or drop it there; a picture that is in the slot is taken out before."""
        self.take_out(role)
        if drop:
            data = base64.b64encode(picture.read_bytes()).decode("ascii")
            self.driver.execute_script(_DROP, self.one(f"#addift_{role} input[type=file]"), picture.name, data)
        else:
            field = self.one(f"#addift_{role} input[type=file]")
            self.driver.execute_script("arguments[0].value = ''", field)  # as gradio does when a person wants to choose
            field.send_keys(str(picture))
        self.shown(f"#addift_{role} img")

    def choose_files(self, css: str, *files: Path) -> None:
        """Choose several files for a box at once."""
        self.one(f"{css} input[type=file]").send_keys("\n".join(map(str, files)))

    def drop_files(self, css: str, files: Sequence[Path]) -> None:
        """Drop several files on an element."""
        self.driver.execute_script(_FILES, "drop", self.shown(css), _contents(files))

    def paste_files(self, files: Sequence[Path]) -> None:
        """Paste several files, with nothing in particular in focus."""
        self.driver.execute_script(_FILES, "paste", self.one("#addift_form"), _contents(files))

    def drag(self, css: str, *, share: float) -> None:
        """Press a slider that lies over its picture at its left end and let go at a share of its width."""
        slider = self.shown(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        width = slider.rect["width"]
        actions = ActionChains(self.driver).move_to_element_with_offset(slider, round(4 - width / 2), 0)
        actions.click_and_hold().move_to_element_with_offset(
            slider, round((share - 0.5) * width), 0
        ).release().perform()

    def choose_way(self, label: str) -> None:
        """Choose one of the three ways to pairs."""
        css = "#addift_ways > .tab-nav > button, #addift_ways > .tab-wrapper button[role=tab]"
        found = self.wait(
            lambda: [each for each in self.all(css) if each.is_displayed() and each.text.strip() == label],
            f"the way '{label}'",
        )
        found[0].click()

    def tab_to(self, css: str, most: int = 120) -> None:
        """Press the tab key until an element has the focus."""
        for _ in range(most):
            if self.driver.execute_script("return document.activeElement.matches(arguments[0])", css):
                return
            self.press_keys(Keys.TAB)
        raise AssertionError(f"'{css}' was not reached within {most} steps of the tab key")

    def take_out(self, role: str) -> None:
        """Empty a slot."""
        names = ("Clear", "Remove Image", "Remove")
        css = ", ".join(f"#addift_{role} button[{kind}='{name}']" for kind in ("aria-label", "title") for name in names)
        if self.is_shown(f"#addift_{role} img"):
            self.click(css)
        self.one(f"#addift_{role} input[type=file]")

    def open_advanced(self) -> None:
        """Show the advanced settings."""
        if not self.is_shown("#addift_set_max_train_steps"):
            self.click("#addift_advanced .label-wrap")
        self.shown("#addift_set_max_train_steps")

    def close_advanced(self) -> None:
        """Hide them again."""
        if self.is_shown("#addift_set_max_train_steps"):
            self.click("#addift_advanced .label-wrap")
        self.wait(lambda: not self.is_shown("#addift_set_max_train_steps"), "the advanced settings hidden")

    def press_keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        """The element that has the focus."""
        return self.driver.switch_to.active_element

    def state(self) -> str:
        """The state of the job on show."""
        return self.attribute("#addift_progress [data-addift-state]", "data-addift-state")

    def wait_for_state(self, *states: str, patience: float = PATIENCE) -> str:
        """Wait until the job on show is in one of these states."""
        return self.wait(lambda: self.state() if self.state() in states else None, f"a job that is {states}", patience)


def _contents(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Names, and what is in the files in base64."""
    return [(file.name, base64.b64encode(file.read_bytes()).decode("ascii")) for file in files]


def _is_about_the_network(message: str, address: str) -> bool:
    """Fonts and scripts of gradio's that lie elsewhere, and fonts that gradio names but does not bring."""
    is_elsewhere = address not in message and "Failed to load resource" in message
    return is_elsewhere or ".woff2" in message or "fonts.googleapis.com" in message
