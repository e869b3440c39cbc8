"""The difference sliders in a page as a WebUI builds it."""

from __future__ import annotations

import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from tests.browser.tab import Tab

pytestmark = [pytest.mark.browser, pytest.mark.any_server]
ROW = "#addift_slider_txt2img_{}"


@pytest.mark.smoke("4.40.0")
@pytest.mark.in_webui
@pytest.mark.slow
def test_a_lora_is_chosen_shown_and_drawn_with(tab: Tab) -> None:
    (tab.server.lora_dir / "smile.safetensors").write_bytes(b"")
    Image.new("RGB", (2560, 512), (200, 30, 30)).save(tab.server.lora_dir / "smile.png")
    tab.choose_webui_tab("txt2img")
    tab.click("#addift_sliders_txt2img .label-wrap")
    first, second = ROW.format(1), ROW.format(2)
    tab.shown(f"{first}_name input")
    assert not tab.is_shown(f"{second}_name input"), "the next row comes with the first LoRA"
    tab.click("#addift_sliders_refresh_txt2img")
    choose(tab, f"{first}_name", "smile")
    width, height, *pixels = tab.picture(f"{first}_picture img")
    assert (width, height) == (640, 128)
    assert pixels[0] > 150
    tab.shown(f"{second}_name input")
    tab.write(f"{first}_weight input[type=number]", "-0.5")
    tab.write(f"{first}_to input[type=number]", "500")
    tab.screenshot("sliders")
    tab.write("#txt2img_prompt textarea", "a cat")
    tab.click("#txt2img_generate")
    wanted = "a cat <lora:smile:-0.5:from=1000:to=500>"
    tab.wait(lambda: tab.value("#txt2img_used textarea") == wanted, wanted)
    choose(tab, f"{first}_name", "None")
    tab.wait(lambda: not tab.is_shown(f"{second}_name input"), "the second row hidden again")
    assert not tab.is_shown(f"{first}_picture img")


def choose(tab: Tab, name: str, text: str) -> None:
    """Choose from a dropdown by typing."""
    field = tab.shown(f"{name} input")
    tab.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, text, Keys.ENTER, Keys.TAB)
    tab.wait(lambda: tab.value(f"{name} input") == text, f"'{text}' chosen")
