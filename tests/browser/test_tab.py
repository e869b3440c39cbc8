"""What a person does in the tab, under the gradio of A1111, under that of Forge, and on its own.

The tests of a module share one server, so each leaves things behind; each therefore says all that it needs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from lib_addift.demo import world
from lib_addift.demo.run import TASKS
from lib_addift.lora.file import read_lora
from tests.browser.tab import Tab

_NOTE_MASKS = """
const find = () => document.querySelector(arguments[0]).value;
window.masks = []; // what the field held whenever the form was told to the server
document.getElementById("addift_keep_draft").addEventListener("click", () => masks.push(find()));
"""

pytestmark = pytest.mark.browser

LONG = 180  # s for a training run of the tiny world on a busy machine
QUICK = {"max_train_steps": 4, "preview_every": 2, "sampling_steps": 4}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's pair, and a picture of another size."""
    folder = tmp_path_factory.mktemp("pictures")
    original, target = map(world.draw, TASKS["eyes"].faces(1))
    files = {"original": original, "target": target, "wide": target.resize((256, 64))}
    for name, picture in files.items():
        picture.save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in files}


def fill(tab: Tab, pictures: dict[str, Path], name: str, **settings: object) -> None:
    """The form filled with the demo's pair, a name and some settings on top of the preset's."""
    for role in ("original", "target"):
        tab.put(role, pictures[role])
    tab.shown("#addift_doctor .addift-finding")
    tab.write("#addift_name input, #addift_name textarea", name)
    tab.open_advanced()
    for setting, value in settings.items():
        tab.write(f"#addift_set_{setting} :is(textarea, input[type=text], input[type=number])", str(value))
    tab.close_advanced()


def train(tab: Tab, pictures: dict[str, Path], name: str, **settings: object) -> None:
    """Fill in the form and press Train; returns when the job is on show. From then on the opacity is watched."""
    fill(tab, pictures, name, **settings)
    tab.watch_opacity()
    tab.click("#addift_train")
    tab.wait(lambda: tab.text("#addift_progress h3") == name, f"the job '{name}' on show")


def have_trained(tab: Tab, pictures: dict[str, Path]) -> str:
    """The name of a LoRA that was trained in the tab, with its job on show; trains one when no test has yet."""
    tag = "#addift_result [data-addift-tag]"
    if tab.state() != "done":
        train(tab, pictures, f"trained_{len(list(tab.server.lora_dir.iterdir()))}", **QUICK)
        tab.wait_for_state("done", patience=LONG)
        nothing_has_faded(tab)
    tab.shown(tag)
    return tab.attribute(tag, "data-addift-tag").split(":")[1]


def nothing_has_faded(tab: Tab) -> None:
    """gradio makes an HTML panel faint whenever it is asked for, and ours are asked for all the time."""
    frames, faintest = tab.opacity_seen()
    assert frames > 50
    assert "addift_progress" in faintest
    assert {name: opacity for name, opacity in faintest.items() if opacity < 1} == {}


@pytest.mark.smoke
def test_a_first_look(tab: Tab) -> None:
    tab.screenshot("first")
    assert tab.state() == "none"
    assert "From two pictures" in tab.text("#addift_progress")
    assert not tab.is_shown("#addift_stop")
    assert not tab.is_shown("#addift_result .addift-verdict")
    assert tab.is_shown("#addift_wait_note") is tab.server.setup.in_webui


def test_pictures_are_chosen_dropped_swapped_and_examined(tab: Tab, pictures: dict[str, Path]) -> None:
    tab.put("original", pictures["original"])
    tab.wait(lambda: "the target" in tab.text("#addift_doctor"), "the doctor asks for the target")
    tab.put("target", pictures["target"], drop=True)
    tab.shown("#addift_doctor .addift-finding")
    assert tab.picture("#addift_doctor img.addift-overlay")[:2] == [64, 64]
    original, target = (tab.picture(f"#addift_{role} img") for role in ("original", "target"))
    assert original[2:] == pixels(pictures["original"])
    assert target[2:] == pixels(pictures["target"])
    tab.screenshot("pictures")
    tab.click("#addift_swap")
    tab.wait(lambda: tab.picture("#addift_original img") == target, "the target in the original's slot")
    tab.wait(lambda: tab.picture("#addift_target img") == original, "the original in the target's slot")


def pixels(path: Path) -> list[int]:
    """RGBA values of a file."""
    return list(world.Image.open(path).convert("RGBA").tobytes())


def test_bad_input_is_answered_with_one_sentence(tab: Tab, pictures: dict[str, Path]) -> None:
    tab.put("original", pictures["original"])
    tab.put("target", pictures["original"])
    assert sentence(tab, "#addift_doctor") != ""
    tab.put("target", pictures["wide"])
    tab.wait(lambda: "256 x 64" in tab.text("#addift_doctor .addift-note"), "a word about the sizes")
    tab.put("target", pictures["target"])
    tab.shown("#addift_doctor .addift-finding")
    tab.write("#addift_name input, #addift_name textarea", "a/b")
    assert "'a/b'" in sentence(tab, "#addift_name_note")
    tab.click("#addift_train")
    assert "'a/b'" in sentence(tab, "#addift_alert")
    tab.screenshot("bad_name")
    tab.write("#addift_name input, #addift_name textarea", "fine")
    tab.wait(lambda: not tab.is_shown("#addift_name_note .addift-error"), "no more fault in the name")
    tab.open_advanced()
    tab.write("#addift_set_batch_size input[type=number]", "0")
    assert "batch_size" in sentence(tab, "#addift_settings_note")
    tab.click("#addift_train")
    tab.wait(lambda: "batch_size" in sentence(tab, "#addift_alert"), "the sentence about the batch size")
    tab.write("#addift_set_batch_size input[type=number]", "1")
    tab.wait(lambda: not tab.is_shown("#addift_settings_note .addift-error"), "no more fault in the settings")
    tab.wait(
        lambda: not tab.is_shown("#addift_alert .addift-error"), "nor beside Train: a sentence goes with its cause"
    )


def sentence(tab: Tab, css: str) -> str:
    """What is said there about a fault: one sentence, read out by screen readers."""
    element = tab.shown(f"{css} .addift-error")
    text = str(element.get_property("textContent"))
    assert element.get_attribute("role") == "alert"
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_a_preset_fills_in_its_settings(tab: Tab) -> None:
    tab.open_advanced()
    strength = "#addift_set_strength input[type=number]"
    choose(tab, "detail")
    tab.wait(lambda: float(tab.value(strength)) == 2, "the detail preset's strength")
    choose(tab, "style")
    tab.wait(lambda: tab.value("#addift_set_mask input") == "off", "the style preset's mask")
    assert float(tab.value(strength)) == 1.25
    tab.settle()
    tab.reload()
    tab.open_advanced()
    assert tab.value("#addift_set_mask input") == "off"
    choose(tab, "action")
    tab.wait(lambda: tab.value("#addift_set_mask input") == "auto", "the action preset's mask")


@pytest.mark.long
def test_a_preset_is_kept_however_slowly_its_settings_come(tab: Tab) -> None:
    mask, name = "#addift_set_mask input", "#addift_name input, #addift_name textarea"
    tab.open_advanced()
    choose(tab, "action")
    tab.wait(lambda: tab.value(mask) == "auto", "the action preset's mask")
    tab.settle()
    tab.driver.execute_script(_NOTE_MASKS, mask)
    tab.answer_after(1)
    try:
        choose(tab, "style")
        tab.wait(lambda: tab.value(mask) == "off", "the style preset's mask")
        assert "auto" not in tab.driver.execute_script("return masks"), "the form as it was before the choice"
        tab.wait(lambda: tab.driver.execute_script("return masks.at(-1)") == "off", "the style preset told")
        choose(tab, "action")
        tab.write(name, "meanwhile")
        tab.wait(lambda: tab.value(mask) == "auto", "the action preset's mask")
        tab.wait(lambda: tab.driver.execute_script("return masks.at(-1)") == "auto", "the action preset told")
    finally:
        tab.answer_after(0)
    tab.reload()
    tab.open_advanced()
    assert tab.value(mask) == "auto"
    assert tab.value(name) == "meanwhile"


def choose(tab: Tab, preset: str) -> None:
    """Choose a preset."""
    tab.click(f"#addift_preset label:has(input[value='{preset}'])")


def test_train_see_it_learn_reload_scrub_and_save(tab: Tab, pictures: dict[str, Path]) -> None:
    choose(tab, "action")
    prompt = world.caption(TASKS["eyes"].faces(1)[0], frozenset({"eyes"}))
    train(tab, pictures, "closed_eyes", max_train_steps=40, preview_every=10, preview_prompt=prompt, sampling_steps=6)
    tab.wait_for_state("running")

    percent = "#addift_progress [role=progressbar]"
    tab.wait(lambda: int(tab.attribute(percent, "aria-valuenow") or 0) > 0, "progress", LONG)
    tab.wait(lambda: "left" in tab.text("#addift_progress .addift-left"), "the time left")
    tab.shown("#addift_progress svg.addift-curve")
    strip = "#addift_strip img.addift-strip-img"
    first = tab.wait(lambda: tab.attribute(strip, "data-addift-step"), "the first strip", LONG)
    assert tab.is_shown("#addift_stop")
    tab.screenshot("training")
    nothing_has_faded(tab)

    tab.reload()
    assert tab.text("#addift_progress h3") == "closed_eyes"
    assert tab.value("#addift_name :is(input, textarea)") == "closed_eyes"
    assert tab.picture("#addift_original img")[2:] == pixels(pictures["original"])
    tab.open_advanced()  # before, gradio 6 has nothing of it on the page
    steps = "#addift_set_max_train_steps input[type=number]"
    tab.wait(lambda: float(tab.value(steps)) == 40, "the steps that the job was given")
    assert tab.state() == "running", "40 steps were over too soon to see the reload in the middle"
    tab.wait(lambda: int(tab.attribute(strip, "data-addift-step") or 0) > int(first), "another strip", LONG)

    tab.wait_for_state("done", patience=LONG)
    assert "%" in tab.text("#addift_result .addift-verdict")
    tab.click("#addift_result summary")
    assert tab.picture("#addift_result img.addift-pictures")[0] >= 4 * 64
    assert tab.picture(strip)[0] >= 5 * 64
    assert tab.attribute("#addift_result [data-addift-tag]", "data-addift-tag") == "<lora:closed_eyes:1>"
    assert not tab.is_shown("#addift_stop")
    assert len(read_lora(tab.server.lora_dir / "closed_eyes.safetensors")[0]) > 0
    tab.screenshot("done")

    assert tab.attribute(strip, "data-addift-step") == "40"
    last = tab.picture(strip)
    slider = tab.shown("#addift_scrub input[type=range]")
    tab.driver.execute_script("arguments[0].focus()", slider)
    tab.press_keys(Keys.ARROW_LEFT)
    tab.press_keys(Keys.ARROW_LEFT)
    tab.wait(lambda: tab.attribute(strip, "data-addift-step") == "20", "the strip of step 20")
    assert tab.picture(strip) != last
    tab.click("#addift_save_step")
    saved = tab.server.lora_dir / "closed_eyes-step20.safetensors"
    tag = "#addift_result [data-addift-tag='<lora:closed_eyes-step20:1>']"
    tab.wait(lambda: tab.is_shown(tag), "the saved step on show", patience=LONG)  # it is proven once more
    assert saved.is_file()
    tab.screenshot("saved_step")
    tab.click("#addift_choice label:has(input[value='closed_eyes'])")
    tab.shown("#addift_result [data-addift-tag='<lora:closed_eyes:1>']")


@pytest.mark.smoke("3.41.2")
def test_the_tag_goes_into_the_prompt_once(tab: Tab, pictures: dict[str, Path]) -> None:
    if not tab.server.setup.in_webui:
        assert not tab.all("#addift_insert_txt2img")
        return
    name = have_trained(tab, pictures)
    for webui_tab in ("txt2img", "img2img"):
        tab.choose_webui_tab(webui_tab)
        tab.write(f"#{webui_tab}_prompt textarea", "a face")
        for _ in range(2):
            tab.to_front()
            tab.click(f"#addift_insert_{webui_tab}")
            tab.shown(f"#{webui_tab}_generate")  # it goes to where the prompt is
        assert tab.value(f"#{webui_tab}_prompt textarea") == f"a face <lora:{name}:1>"
        tab.click(f"#{webui_tab}_generate")  # what gradio knows of it, not only the page
        used = f"#{webui_tab}_used :is(input, textarea)"
        tab.wait(lambda css=used: tab.value(css) == f"a face <lora:{name}:1>", "the tag used")


@pytest.mark.long
def test_another_prompt_is_drawn_at_several_weights(tab: Tab, pictures: dict[str, Path]) -> None:
    have_trained(tab, pictures)
    if not tab.is_shown("#addift_test_prompt textarea"):
        tab.click("#addift_test_box .label-wrap")
    tab.write("#addift_test_prompt textarea", world.caption(TASKS["mouth"].faces(1)[0]))
    tab.click("#addift_test")
    tab.wait(lambda: "at each weight" in tab.text("#addift_test_grid"), "a drawn test", LONG)
    assert tab.picture("#addift_test_grid img.addift-grid")[0] >= 6 * 64
    tab.screenshot("test")


def test_a_taken_name_needs_leave_to_be_overwritten(tab: Tab, pictures: dict[str, Path]) -> None:
    name = have_trained(tab, pictures)
    path = tab.server.lora_dir / f"{name}.safetensors"
    before = path.read_bytes()
    fill(tab, pictures, name, **QUICK, seed=9)
    checkbox = "#addift_overwrite input[type=checkbox]"
    tab.shown(checkbox)
    tab.click("#addift_train")
    assert "exists already" in sentence(tab, "#addift_alert")
    assert f"Previous: {name}" in tab.text("#addift_result")
    assert not tab.is_shown("#addift_insert_txt2img"), "nothing of an older LoRA to insert beside a refusal"
    tab.screenshot("taken_name")
    tab.click(checkbox)
    tab.click("#addift_train")
    tab.wait(lambda: not tab.text("#addift_alert"), "no more refusal")
    tab.wait_for_state("done", patience=LONG)
    tab.wait(lambda: path.read_bytes() != before, "another file", LONG)


def test_pictures_come_from_the_galleries(tab: Tab) -> None:
    if not tab.server.setup.in_webui:
        assert not tab.all(".addift-send")
        return
    for webui_tab, role in (("txt2img", "original"), ("img2img", "target"), ("extras", "original")):
        tab.take_out(role)
        tab.choose_webui_tab(webui_tab)
        tab.click(f"#addift_send_{webui_tab}_{role}")
        tab.shown(f"#addift_{role} img")
        assert tab.picture(f"#addift_{role} img")[2:] == list(
            world.draw(TASKS["eyes"].faces(1)[0]).convert("RGBA").tobytes()
        )
    tab.choose_webui_tab("txt2img")
    tab.click("#txt2img_gallery .thumbnail-item:nth-of-type(2), #txt2img_gallery .thumbnails button:nth-of-type(2)")
    tab.click("#addift_send_txt2img_original")  # a filled slot; the other picture
    red = list(world.draw(dataclasses.replace(TASKS["eyes"].faces(1)[0], hair="red")).convert("RGBA").tobytes())
    tab.wait(lambda: tab.picture("#addift_original img")[2:] == red, "the chosen picture")


def test_the_keyboard_reaches_train(tab: Tab) -> None:
    for role in ("original", "target"):
        tab.take_out(role)
    for key in (Keys.ENTER, Keys.SPACE):
        tab.write("#addift_name :is(input, textarea)", f"by_{'enter' if key == Keys.ENTER else 'space'}")
        # The draft's name may be a taken one: its box goes, and with it the focus, while the keys are pressed.
        tab.wait(lambda: not tab.is_shown("#addift_overwrite"), "a name that is free")
        tab.click("#addift_name :is(input, textarea)")
        for _ in range(30):
            tab.press_keys(Keys.TAB)
            if tab.focused().get_attribute("id") == "addift_train":
                break
        assert tab.focused().get_attribute("id") == "addift_train"
        tab.press_keys(key)
        assert "both pictures are missing" in sentence(tab, "#addift_alert").lower()
        tab.reload()


def test_every_field_has_a_name_for_screen_readers(tab: Tab, pictures: dict[str, Path]) -> None:
    have_trained(tab, pictures)
    tab.open_advanced()
    every = tab.all("#addift_root :is(input, textarea, select, button):not([aria-hidden=true] *)")
    fields = [each for each in every if each.is_displayed() and each.rect["width"]]  # gradio 4 hides one by its size
    assert len(fields) > 40
    nameless = [str(each.get_attribute("outerHTML"))[:200] for each in fields if not each.accessible_name.strip()]
    assert not nameless


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_it_fits_the_window(tab: Tab, pictures: dict[str, Path], theme: str) -> None:
    have_trained(tab, pictures)
    for role in ("original", "target"):
        tab.put(role, pictures[role])
    tab.shown("#addift_doctor .addift-finding")
    tab.open(f"?__theme={theme}")
    assert ("dark" in tab.attribute("body", "class")) is (theme == "dark")
    for width in (1280, 420):
        tab.resize(width)
        tab.close_advanced()
        tab.screenshot(f"{theme}_{width}")
        assert tab.too_wide() == (0, []), width
        tab.open_advanced()
        tab.screenshot(f"{theme}_{width}_advanced")
        assert tab.too_wide() == (0, []), width


@pytest.mark.long
def test_stop(tab: Tab, pictures: dict[str, Path]) -> None:
    train(tab, pictures, "stopped", max_train_steps=500, preview_every=0)
    tab.wait(lambda: "Step 1" in tab.text("#addift_progress .addift-step"), "some steps", LONG)
    tab.click("#addift_stop")
    tab.wait_for_state("stopped", patience=LONG)
    assert not list(tab.server.lora_dir.glob("stopped*"))
    assert "nothing was saved" in tab.text("#addift_progress")
    assert not tab.is_shown("#addift_stop")


def test_stop_and_keep_and_train_again(tab: Tab, pictures: dict[str, Path]) -> None:
    train(tab, pictures, "kept", max_train_steps=500, preview_every=0, sampling_steps=4)
    tab.wait(lambda: "Step 1" in tab.text("#addift_progress .addift-step"), "some steps", LONG)
    tab.click("#addift_stop_keep")
    tab.wait_for_state("stopped", patience=LONG)
    (kept,) = tab.server.lora_dir.glob("kept*.safetensors")
    assert kept.stem.startswith("kept-step")
    tab.shown(f"#addift_result [data-addift-tag='<lora:{kept.stem}:1>']")
    tab.screenshot("stopped_and_kept")
    tab.write("#addift_name :is(input, textarea)", "other")
    tab.take_out("target")
    tab.click("#addift_again")
    tab.shown("#addift_target img")
    assert tab.value("#addift_name :is(input, textarea)") == "kept"
