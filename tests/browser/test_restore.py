"""What a person does while the page still waits for what the server remembers: that goes before the server's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.demo import world
from tests.browser.tab import Tab

pytestmark = [pytest.mark.browser, pytest.mark.any_server]

NAME = "#addift_name :is(input, textarea)"
PROMPT = "#addift_set_prompt :is(input, textarea)"
PREVIEW = "#addift_set_preview_prompt :is(input, textarea)"
BATCH = "#addift_set_batch_size input[type=number]"
STEPS = "#addift_set_max_train_steps input[type=number]"
FOLDER = "#addift_batch_folder :is(input, textarea)"


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four different pictures."""
    folder = tmp_path_factory.mktemp("faces")
    for mouth, hair in (("open", "black"), ("open", "red"), ("closed", "blond"), ("closed", "red")):
        world.draw(world.Face(mouth=mouth, hair=hair)).save(folder / f"{mouth}_{hair}.png")
    return sorted(folder.iterdir())


def pixels(path: Path) -> list[int]:
    """RGBA values of a file."""
    return list(world.Image.open(path).convert("RGBA").tobytes())


def shown(tab: Tab, role: str) -> list[int]:
    """RGBA values of what a slot shows."""
    return tab.picture(f"#addift_{role} img")[2:]


def remember(tab: Tab, faces: list[Path]) -> None:
    """Fill in the form, for the server to remember."""
    tab.put("original", faces[0])
    tab.put("target", faces[1])
    tab.write(NAME, "before")
    tab.open_advanced()
    for field, text in ((PROMPT, "a face before"), (PREVIEW, "another"), (BATCH, "7"), (STEPS, "33")):
        tab.write(field, text)
    tab.settle()
    tab.settle()


def check(tab: Tab, faces: tuple[Path, Path], name: str, prompt: str, batch: float, steps: float) -> None:
    """What the form holds, now and after a reload, which shows that the server was told."""
    for is_reloaded in (False, True):
        if is_reloaded:
            tab.settle()
            tab.reload()
        tab.open_advanced()
        assert [shown(tab, "original"), shown(tab, "target")] == [pixels(face) for face in faces], is_reloaded
        found = tab.value(NAME), tab.value(PROMPT), tab.value(PREVIEW), float(tab.value(BATCH)), float(tab.value(STEPS))
        assert found == (name, prompt, "another", batch, steps), is_reloaded


def test_a_late_answer_fills_only_what_was_not_touched(tab: Tab, faces: list[Path]) -> None:
    remember(tab, faces)
    with tab.held():
        tab.put("original", faces[2])
        tab.write(NAME, "meanwhile")
        tab.open_advanced()
        tab.write(BATCH, "9")
    check(tab, (faces[2], faces[1]), "meanwhile", "a face before", 9, 33)


@pytest.mark.long
def test_the_other_fields_and_the_other_slot(tab: Tab, faces: list[Path]) -> None:
    remember(tab, faces)
    with tab.held():
        tab.put("target", faces[3], drop=True)
        tab.open_advanced()
        tab.write(PROMPT, "")
        tab.write(STEPS, "44")
        tab.choose_inner_tab("Batch")
        tab.write(FOLDER, "/a/folder")
        tab.choose_inner_tab("Pair")
    assert tab.value(FOLDER) == "/a/folder"
    check(tab, (faces[0], faces[3]), "before", "a face before", 7, 44)


@pytest.mark.long
def test_an_untouched_page_gets_everything(tab: Tab, faces: list[Path]) -> None:
    remember(tab, faces)
    with tab.held():
        pass
    check(tab, (faces[0], faces[1]), "before", "a face before", 7, 33)
