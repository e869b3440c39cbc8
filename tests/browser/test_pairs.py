"""From pictures or words to the tag: the list of pairs, the clicks that it takes, the result that can be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from lib_addift.demo import world
from tests.browser.page_looks import axe_script, serious_findings, texts
from tests.browser.tab import Tab

pytestmark = pytest.mark.browser

LONG = 240  # s for a training run of the tiny world on a busy machine
NAME = "#addift_name :is(input, textarea)"
CARD = "#addift_pairs .addift-pair"
HAIRS = ("black", "blond", "red")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pairs by name."""
    folder = tmp_path_factory.mktemp("pairs")
    for hair in HAIRS:
        face = world.Face(hair=hair)
        world.draw(face).save(folder / f"{hair}.png")
        world.draw(dataclasses.replace(face, eyes="closed")).save(folder / f"{hair}_target.png")
    return sorted(folder.iterdir())


def begin_anew(tab: Tab) -> None:
    """A form without pairs: they are removed, and what is left in the slots is taken out."""
    while len(tab.all(CARD)) > 1:
        count = len(tab.all(CARD))
        tab.click(f"{CARD} [data-addift-act=pair_remove]")
        tab.wait(lambda count=count: len(tab.all(CARD)) < count, "a pair less")
    for role in ("original", "target"):
        tab.take_out(role)
    tab.settle()


def have_settings(tab: Tab, **settings: object) -> None:
    """Write settings into 'Advanced'."""
    tab.open_advanced()
    for name, value in settings.items():
        tab.write(f"#addift_set_{name} :is(textarea, input[type=text], input[type=number])", str(value))
    tab.close_advanced()


def style(tab: Tab, css: str, name: str) -> str:
    """A style variable of an element, which chromedriver does not know."""
    script = "return getComputedStyle(arguments[0]).getPropertyValue(arguments[1]).trim()"
    return str(tab.driver.execute_script(script, tab.one(css), name))


def test_many_files_become_pairs(tab: Tab, pictures: list[Path]) -> None:
    begin_anew(tab)
    tab.choose_files("#addift_files", *pictures)
    tab.wait(lambda: len(tab.all(CARD)) == 3, "three pairs")
    tab.wait(lambda: tab.text("#addift_pairs").count("This is a good pair.") == 3, "the doctor's words on each")
    assert tab.picture("#addift_original img")[:2] == [64, 64]
    tab.screenshot("pairs")
    first, _, third = (each.get_attribute("data-addift-row") for each in tab.all(CARD))
    tab.click(f"[data-addift-row={third}] [data-addift-act=pair_show]")
    red = list(world.draw(world.Face(hair="red")).convert("RGBA").tobytes())
    tab.wait(lambda: tab.picture("#addift_original img")[2:] == red, "the third pair in the slots")
    tab.click(f"[data-addift-row={third}] [data-addift-act=pair_swap]")
    tab.wait(lambda: tab.picture("#addift_target img")[2:] == red, "its pictures swapped")
    tab.click(f"[data-addift-row={first}] [data-addift-act=pair_tick]")
    tab.wait(lambda: "2 of 3 pairs are ticked" in tab.text("#addift_pairs"), "a pair less to learn from")
    tab.settle()
    tab.reload()
    tab.wait(lambda: "2 of 3 pairs are ticked" in tab.text("#addift_pairs"), "the pairs after a reload")
    assert tab.picture("#addift_target img")[2:] == red
    tab.click(f"[data-addift-row={third}] [data-addift-act=pair_remove]")
    tab.wait(lambda: len(tab.all(CARD)) == 2, "two pairs left")


@pytest.mark.long
def test_files_are_dropped_and_pasted_anywhere_on_the_form(tab: Tab, pictures: list[Path]) -> None:
    begin_anew(tab)
    tab.drop_files("#addift_basics", pictures[:2])
    tab.shown("#addift_doctor .addift-finding")
    tab.paste_files(pictures[2:])
    tab.wait(lambda: len(tab.all(CARD)) == 3, "three pairs")


def test_from_two_pictures_to_the_tag_in_four_clicks_and_a_name(tab: Tab, pictures: list[Path]) -> None:
    begin_anew(tab)
    have_settings(tab, max_train_steps=4, preview_every=2, sampling_steps=4, resolution=64)
    clicks = 1  # the box for files, for which the browser opens its own window
    tab.choose_files("#addift_files", *pictures[:2])
    tab.shown("#addift_doctor .addift-finding")
    clicks += 1
    tab.click(NAME)
    tab.write(NAME, "clicked")
    clicks += 1
    tab.click("#addift_train")
    tab.wait(lambda: tab.text("#addift_progress h3") == "clicked", "the job on show")
    tab.watch_opacity()
    tab.wait_for_state("done", patience=LONG)
    frames, faintest = tab.opacity_seen()
    assert frames > 20
    assert {name: opacity for name, opacity in faintest.items() if opacity < 1} == {}
    tab.shown("#addift_result [data-addift-tag='<lora:clicked:1>']")
    tab.wait(lambda: tab.value(NAME) == "clicked_2", "the next free name")
    assert not tab.is_shown("#addift_overwrite")
    if tab.server.setup.in_webui:
        clicks += 1
        tab.click("#addift_insert_txt2img")
        assert tab.value("#txt2img_prompt textarea").endswith("<lora:clicked:1>")
        tab.to_front()
    assert clicks <= 4
    tab.screenshot("result")


def test_the_result_can_be_compared_with_pointer_and_keyboard(tab: Tab, pictures: list[Path]) -> None:
    have_result(tab, pictures)
    compare, wipe = "#addift_result .addift-compare:has(input)", "#addift_result [data-addift-wipe]"
    tab.drag(wipe, share=0.5)
    tab.wait(lambda: 30 < int(tab.value(wipe)) < 70, "half of the picture without the LoRA")
    assert style(tab, compare, "--wipe") == f"{tab.value(wipe)}%"
    tab.driver.execute_script("arguments[0].focus()", tab.one(wipe))
    before = int(tab.value(wipe))
    tab.press_keys(Keys.ARROW_RIGHT)
    assert int(tab.value(wipe)) == before + 1
    walk = "#addift_strip [data-addift-walk]"
    assert tab.attribute(walk, "aria-valuetext") == "1"
    tab.driver.execute_script("arguments[0].focus()", tab.shown(walk))
    tab.press_keys(Keys.ARROW_LEFT)
    assert tab.attribute(walk, "aria-valuetext") == "0.5"
    assert style(tab, "#addift_strip .addift-walk", "--place") == "3"
    assert len(tab.all("#addift_strip img, #addift_result img.addift-strip-img")) == 1, "one strip on the page"


def have_result(tab: Tab, pictures: list[Path]) -> None:
    """A finished LoRA on show; trains one when no test has yet."""
    if tab.state() == "done":
        return
    begin_anew(tab)
    have_settings(tab, max_train_steps=4, preview_every=2, sampling_steps=4, resolution=64)
    tab.choose_files("#addift_files", *pictures[:2])
    tab.shown("#addift_doctor .addift-finding")
    tab.write(NAME, "compared")
    tab.click("#addift_train")
    tab.wait_for_state("done", patience=LONG)
    tab.shown("#addift_result [data-addift-tag]")


@pytest.mark.long
def test_from_words_to_the_tag_in_four_clicks_and_two_prompts(tab: Tab) -> None:
    begin_anew(tab)
    tab.write(NAME, "")
    have_settings(tab, max_train_steps=4, preview_every=2, sampling_steps=4, resolution=64)
    clicks = 1
    tab.choose_way("From words")
    rest = "black hair, light skin, closed mouth, blue background"
    tab.write("#addift_words_original textarea", f"a face, open eyes, {rest}")
    tab.write("#addift_words_target textarea", f"a face, closed eyes, {rest}")
    tab.write("#addift_words_count input", "2")  # the keyboard leads there from the prompts
    clicks += 1
    tab.click("#addift_draw_words")
    tab.wait(lambda: tab.value(NAME) == "closed_eyes", "a name made of the words")
    tab.wait(lambda: "drawn" in tab.text("#addift_drawing .addift-drawn").lower().split(), "the drawing's end", LONG)
    assert len(tab.all(CARD)) == 2
    tab.screenshot("words")
    clicks += 1
    tab.click("#addift_train")
    tab.wait(lambda: tab.text("#addift_progress h3") == "closed_eyes", "the job on show")
    tab.wait_for_state("done", patience=LONG)
    if tab.server.setup.in_webui:
        clicks += 1
        tab.click("#addift_insert_txt2img")
        assert tab.value("#txt2img_prompt textarea").endswith("<lora:closed_eyes:1>")
    assert clicks <= 4


def test_settings_are_found_marked_and_reset(tab: Tab) -> None:
    tab.open_advanced()
    seed, rank = "#addift_set_seed input[type=number]", "#addift_set_rank"
    tab.click("#addift_preset label:has(input[value=concept])")
    tab.wait(lambda: not tab.is_shown(rank), "no rank, which a shift does not use")
    tab.click("#addift_show_all")
    tab.shown(rank)
    tab.click("#addift_show_all")
    tab.write("#addift_search", "seed")
    tab.wait(lambda: not tab.is_shown("#addift_set_max_train_steps"), "what was not searched for hidden")
    tab.write(seed, "7")
    tab.wait(lambda: "Seed 7" in tab.text("#addift_settings_changed"), "the seed named as changed")
    tab.click("#addift_settings_changed [data-addift-job=seed]")
    tab.wait(lambda: tab.value(seed) == "1", "the seed as it was")
    tab.wait(lambda: "Seed" not in tab.text("#addift_settings_changed"), "nothing more to say of the seed")
    tab.write("#addift_search", "")
    tab.shown("#addift_set_max_train_steps")


@pytest.mark.long
def test_the_keyboard_alone_leads_from_the_pictures_to_the_tag(tab: Tab, pictures: list[Path]) -> None:
    begin_anew(tab)
    have_settings(tab, max_train_steps=4, preview_every=0, sampling_steps=4, resolution=64)
    tab.choose_files("#addift_files", *pictures[:2])
    tab.shown("#addift_doctor .addift-finding")
    tab.tab_to("#addift_name :is(input, textarea)")
    tab.focused().send_keys(Keys.CONTROL, "a", Keys.NULL, "by_keys")
    tab.tab_to("#addift_train")
    tab.settle()
    tab.press_keys(Keys.ENTER)
    tab.wait(lambda: tab.text("#addift_progress h3") == "by_keys", "the job on show")
    tab.wait_for_state("done", patience=LONG)
    tab.shown("#addift_result [data-addift-tag='<lora:by_keys:1>']")
    if tab.server.setup.in_webui:
        tab.tab_to("#addift_insert_txt2img")
        tab.press_keys(Keys.ENTER)
        assert tab.value("#txt2img_prompt textarea").endswith("<lora:by_keys:1>")


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_read_it(tab: Tab, pictures: list[Path], theme: str) -> None:
    if not axe_script():
        pytest.skip("axe-core-python is not installed: 'python3 install.py test' does it")
    have_result(tab, pictures)
    begin_anew(tab)
    tab.choose_files("#addift_files", *pictures)
    tab.wait(lambda: len(tab.all(CARD)) == 3, "three pairs")  # before the page is left
    tab.open(f"?__theme={theme}")
    tab.wait(lambda: len(tab.all(CARD)) == 3, "three pairs")
    for width in (1400, 390):
        tab.resize(width)
        for inner in ("Pair", "Batch", "Queue", "Tools"):
            tab.choose_inner_tab(inner)
            if inner == "Pair":
                tab.open_advanced()
            tab.settle()
            tab.screenshot(f"{theme}_{width}_{inner}")
            seen = texts(tab.driver)
            assert (seen["faint"], seen["cut"]) == ([], []), (inner, width)
            assert seen["count"] > (2 if inner == "Pair" else 0)
            assert serious_findings(tab.driver) == [], (inner, width)
            assert tab.too_wide() == (0, []), (inner, width)
        tab.choose_inner_tab("Pair")
