"""The tabs Batch and Queue, under the gradio of A1111, under that of Forge, and on its own.

The tests of a module share one server and go on from where the one before ended.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from lib_addift.demo import world
from tests.browser.tab import Tab

pytestmark = pytest.mark.browser

LONG = 120  # s for a training run of the tiny world on a busy machine
QUICK = "max_train_steps = 3\nsampling_steps = 2\npreview_every = 2\n"
FACE = world.Face()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets: eyes of two pairs, mouth of one, and one without a partner."""
    folder = tmp_path_factory.mktemp("sets")
    mouth, closed = dataclasses.replace(FACE, mouth="open"), dataclasses.replace(FACE, eyes="closed")
    pictures = {
        "eyes": {"a": FACE, "a_closed": closed, "b": mouth, "b_closed": dataclasses.replace(mouth, eyes="closed")},
        "mouth": {"a": FACE, "a_open": mouth},
        "broken": {"a": FACE},
    }
    for name, faces in pictures.items():
        (folder / name).mkdir()
        (folder / name / "addift.toml").write_text(QUICK, encoding="utf-8")
        for file, face in faces.items():
            world.draw(face).save(folder / name / f"{file}.png")
    return folder


_JOBS = """
return [...document.querySelectorAll("#addift_queue [data-addift-row]")].map(
    (row) => [row.querySelector("h4").textContent, row.getAttribute("data-addift-state") || ""]);
"""


def found(tab: Tab) -> dict[str, str]:
    """The sets on show, each with its state."""
    rows = tab.all("#addift_batch [data-addift-set]")
    return {str(row.get_attribute("data-addift-set")): str(row.get_attribute("data-addift-state")) for row in rows}


def jobs(tab: Tab) -> list[tuple[str, str]]:
    """The jobs in the queue, from top to bottom, each with its state: read at once, for rows come and go."""
    return [(name, state) for name, state in tab.driver.execute_script(_JOBS)]


def rows(tab: Tab) -> list[WebElement]:
    return tab.all("#addift_queue [data-addift-row]")


def queue(tab: Tab) -> None:
    """Open the queue, in which there is something."""
    tab.choose_inner_tab("Queue")
    tab.shown("#addift_queue [data-addift-row]")


def act(tab: Tab, action: str, name: str) -> None:
    """Press a button in the row of a job."""
    number = [each for each, _state in jobs(tab)].index(name)
    tab.click(f"#addift_queue [data-addift-row]:nth-child({number + 1}) [data-addift-act={action}]")


def test_an_empty_queue_and_a_bad_folder(tab: Tab) -> None:
    tab.choose_inner_tab("Queue")
    assert "Nothing was trained yet" in tab.shown("#addift_queue").text
    tab.choose_inner_tab("Batch")
    tab.write("#addift_batch_folder :is(input, textarea)", "/no/such/folder")
    tab.click("#addift_look_at_folder")
    assert "/no/such/folder" in tab.shown("#addift_batch_alert .addift-error").text


def test_look_train_all_and_the_queue(tab: Tab, sets: Path) -> None:
    tab.choose_inner_tab("Queue")
    tab.click("#addift_pause")
    tab.shown("#addift_resume")

    tab.choose_inner_tab("Batch")
    tab.write("#addift_batch_folder :is(input, textarea)", str(sets))
    tab.press_keys(Keys.TAB)
    tab.click("#addift_look_at_folder")
    tab.wait(lambda: len(found(tab)) == 3, "three sets")
    tab.wait(lambda: "together" in tab.text("#addift_batch .addift-sum"), "how long they will take", LONG)
    assert found(tab) == {"broken": "problem", "eyes": "ready", "mouth": "ready"}
    assert tab.text("#addift_batch .addift-sum").startswith("2 of 3 sets can be trained, together in about")
    assert "2 pairs" in tab.text("#addift_batch [data-addift-set=eyes]")
    assert tab.shown("#addift_batch_train").text.strip() == "Train all 2"
    tab.screenshot("batch")
    tab.click("#addift_batch_train")
    tab.wait(lambda: found(tab) == {"broken": "problem", "eyes": "queued", "mouth": "queued"}, "both queued")
    tab.wait(lambda: not tab.is_shown("#addift_batch_train"), "nothing more to queue")

    tab.choose_inner_tab("Queue")
    tab.wait(lambda: jobs(tab) == [("eyes", "queued"), ("mouth", "queued")], "both in the queue")
    tab.screenshot("queue_waiting")
    act(tab, "up", "mouth")
    tab.wait(lambda: jobs(tab) == [("mouth", "queued"), ("eyes", "queued")], "mouth first")
    focused = tab.focused()
    assert focused.get_attribute("data-addift-job") == rows(tab)[0].get_attribute("data-addift-row")
    act(tab, "cancel", "eyes")
    tab.wait(lambda: jobs(tab) == [("mouth", "queued"), ("eyes", "stopped")], "eyes taken out")


def test_what_waits_outlives_a_reload(tab: Tab, sets: Path) -> None:
    tab.choose_inner_tab("Batch")
    tab.shown("#addift_batch [data-addift-set]")
    assert found(tab) == {"broken": "problem", "eyes": "queued", "mouth": "queued"}
    assert tab.value("#addift_batch_folder :is(input, textarea)") == str(sets)
    queue(tab)
    assert jobs(tab) == [("mouth", "queued"), ("eyes", "stopped")]
    assert tab.is_shown("#addift_resume")
    assert not tab.is_shown("#addift_pause")


def test_retry_and_go_on(tab: Tab) -> None:
    queue(tab)
    act(tab, "retry", "eyes")
    tab.wait(lambda: jobs(tab) == [("mouth", "queued"), ("eyes", "queued")], "eyes in the queue again")
    tab.click("#addift_queue [data-addift-row]:nth-child(2) summary")
    tab.click("#addift_resume")
    tab.wait(lambda: int(tab.attribute("#addift_queue .addift-bar", "aria-valuenow") or 0) > 0, "progress", LONG)
    tab.screenshot("queue_running")
    tab.wait(lambda: ("mouth", "done") in jobs(tab), "mouth done", LONG)
    tab.wait(lambda: jobs(tab) == [("eyes", "done"), ("mouth", "done")], "both done", LONG)
    logs = [log.get_property("open") for log in tab.all("#addift_queue details")]
    assert logs == [True, False], "an open log stays open, wherever its row goes"
    assert tab.is_shown("#addift_pause")
    assert {path.stem for path in tab.server.lora_dir.glob("*.safetensors")} == {"eyes", "mouth"}
    tab.screenshot("queue_done")


def test_show_repeat_and_remove(tab: Tab) -> None:
    queue(tab)
    act(tab, "show", "eyes")
    tab.wait(lambda: tab.text("#addift_progress h3") == "eyes", "eyes on show")
    tab.shown("#addift_result .addift-verdict")
    queue(tab)
    act(tab, "repeat", "mouth")
    tab.shown("#addift_original img")
    assert tab.value("#addift_name :is(input, textarea)") == "mouth_2"  # the next free name
    queue(tab)
    act(tab, "remove", "mouth")
    tab.wait(lambda: jobs(tab) == [("eyes", "done")], "mouth forgotten")
    assert (tab.server.lora_dir / "mouth.safetensors").is_file()


def test_taken_names_need_permission(tab: Tab) -> None:
    tab.choose_inner_tab("Batch")
    tab.click("#addift_look_at_folder")
    tab.wait(lambda: set(found(tab).values()) == {"problem"}, "names that are taken")
    tab.click("#addift_batch_overwrite input")
    tab.wait(lambda: found(tab)["eyes"] == found(tab)["mouth"] == "ready", "permission")


@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_it_fits_the_window(tab: Tab, theme: str) -> None:
    tab.open(f"?__theme={theme}")
    for inner in ("Batch", "Queue"):
        tab.choose_inner_tab(inner)
        for width in (1280, 420):
            tab.resize(width)
            tab.screenshot(f"{inner.lower()}_{theme}_{width}")
            assert tab.too_wide() == (0, []), width
        fields = tab.all(f"#addift_tab_{inner.lower()} :is(input, textarea, select, button, summary)")
        assert all(each.accessible_name.strip() for each in fields if each.is_displayed() and each.rect["width"])
