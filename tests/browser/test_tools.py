"""The tab Tools, under the gradio of A1111, under that of Forge, and on its own.

The tests of a module share one server and go on from where the one before ended.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from lib_addift.demo import world
from lib_addift.lora.file import read_lora
from tests.browser.tab import Tab
from tests.support.dense import dense
from tests.support.loras import make, same, write

pytestmark = [pytest.mark.browser, pytest.mark.any_server]

LONG = 120  # s for what needs the model on a busy machine
FIELD = "#addift_tools_{} :is(input, textarea)"


@pytest.fixture
def tools(tab: Tab) -> Tab:
    """The tab Tools in front, with two LoRAs in the folder."""
    for seed, name in enumerate(("one", "other")):
        write(tab.server.lora_dir / f"{name}.safetensors", make(seed, rank=2 + seed))
    tab.choose_inner_tab("Tools")
    tab.shown("#addift_tools_run")
    return tab


def choose_operation(tab: Tab, name: str) -> None:
    tab.click(f"#addift_tools_op label:has(input[value={name}])")
    tab.wait(lambda: name in tab.text("#addift_tools_op label:has(input:checked)"), f"'{name}' chosen")


def choose_lora(tab: Tab, name: str) -> None:
    option = f"#addift_tools_loras [data-testid=dropdown-option][aria-label='{name}']"
    tab.click("#addift_tools_loras input")
    tab.click(option)
    tab.press_keys(Keys.ESCAPE, Keys.TAB)
    tab.wait(lambda: name in chosen(tab), f"'{name}' chosen")


def chosen(tab: Tab) -> str:
    return tab.text("#addift_tools_loras .wrap-inner")


def test_show(tools: Tab) -> None:
    choose_operation(tools, "show")
    tools.wait(lambda: not tools.is_shown("#addift_tools_name"), "no name for what is only shown")
    tools.click("#addift_tools_reload")
    choose_lora(tools, "one")
    tools.click("#addift_tools_run")
    tools.shown("#addift_tools table")
    assert "one.safetensors: LoRA of" in tools.text("#addift_tools pre")
    assert [each.text for each in tools.all("#addift_tools tbody th")] == ["TE", "IN04", "MID", "OUT03"]
    tools.screenshot("tools_show")


def test_merge_two(tools: Tab) -> None:
    assert "one" in chosen(tools), "a reload keeps what was chosen"
    choose_operation(tools, "merge")
    choose_lora(tools, "other")
    tools.write(FIELD.format("weights"), "1, -0.5")
    tools.write(FIELD.format("name"), "sum")
    tools.click("#addift_tools_run")
    tools.shown("#addift_tools [data-addift-made=sum]")
    assert "<lora:sum:1>" in tools.text("#addift_tools .addift-tag")
    assert "4 layers of rank 5" in tools.text("#addift_tools .addift-text")
    tools.screenshot("tools_merge")
    one, other = (read_lora(tools.server.lora_dir / f"{name}.safetensors")[0] for name in ("one", "other"))
    found = read_lora(tools.server.lora_dir / "sum.safetensors")[0]
    same(found, lambda layer: dense(one, layer) - 0.5 * dense(other, layer), 5e-3)


def test_a_taken_name_needs_permission(tools: Tab) -> None:
    tools.click("#addift_tools_run")
    assert "already has 'sum." in tools.shown("#addift_tools_alert [role=alert]").text
    tools.click("#addift_tools_overwrite input")
    tools.click("#addift_tools_run")
    tools.wait(lambda: not tools.is_shown("#addift_tools_alert [role=alert]"), "no objection")
    tools.shown("#addift_tools [data-addift-made=sum]")


def test_calibrate_needs_the_pair_and_asks_the_model(tools: Tab, tmp_path: Path) -> None:
    tools.choose_inner_tab("Pair")
    for role in ("original", "target"):
        tools.take_out(role)
    tools.settle()
    tools.choose_inner_tab("Tools")
    choose_operation(tools, "calibrate")
    tools.write(FIELD.format("name"), "right")
    tools.click("#addift_tools_run")
    assert "needs 1 LoRA" in tools.shown("#addift_tools_alert [role=alert]").text
    tools.click("#addift_tools_loras input")
    tools.press_keys(Keys.BACKSPACE, Keys.ESCAPE, Keys.TAB)
    tools.wait(lambda: "other" not in chosen(tools), "one taken out")
    tools.click("#addift_tools_run")
    tools.wait(lambda: "the two pictures" in tools.text("#addift_tools_alert"), "the pair is missing")
    tools.choose_inner_tab("Pair")
    for role, eyes in (("original", "open"), ("target", "closed")):
        world.draw(dataclasses.replace(world.Face(), eyes=eyes)).save(tmp_path / f"{role}.png")
        tools.put(role, tmp_path / f"{role}.png")
    tools.wait(lambda: "pair" in tools.text("#addift_doctor"), "the pair looked at")
    tools.choose_inner_tab("Tools")
    tools.click("#addift_tools_run")
    tools.wait(lambda: "for another model" in tools.text("#addift_tools [role=alert]"), "the model's answer", LONG)


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_it_fits_the_window(tools: Tab, theme: str) -> None:
    tools.open(f"?__theme={theme}")
    tools.choose_inner_tab("Tools")
    for operation in ("subtract", "extract"):
        choose_operation(tools, operation)
        tools.shown(FIELD.format("tuned" if operation == "extract" else "weights"))
        for width in (1280, 420):
            tools.resize(width)
            tools.screenshot(f"tools_{operation}_{theme}_{width}")
            assert tools.too_wide() == (0, []), width
        fields = tools.all("#addift_tab_tools :is(input, textarea, select, button)")
        nameless = [
            each.get_attribute("outerHTML")
            for each in fields
            if each.is_displayed() and each.rect["width"] and not each.accessible_name.strip()
        ]
        assert nameless == []
