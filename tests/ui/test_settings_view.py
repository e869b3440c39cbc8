"""Which settings are hidden, marked and reset."""

from __future__ import annotations

import pytest

from lib_addift.config.relevance import ACTS_WITH, acts
from lib_addift.config.settings import METHODS
from lib_addift.ui import form, settings_view
from lib_addift.ui.form import SETTINGS
from tests.support.page import NASTY, Page


def hidden(**values: object) -> set[str]:
    preset = {**form.empty_form(), **form.preset_values("action"), "preset": "action", **values}
    return set(settings_view.state(preset).idle)


def test_what_the_method_does_not_use_is_hidden() -> None:
    assert {"first_lora", "first_train_steps", "result_rank", "prior_loss_weight", "lokr_factor"} <= hidden()
    assert not {"rank", "directions", "search"} & hidden()
    assert {"directions", "first_direction", "reverse_ratio", "search"} <= hidden(method="copier")
    assert not {"first_lora", "first_train_steps"} & hidden(method="copier")
    assert "huber_delta" not in hidden(loss="huber")
    assert {"rank", "alpha", "layers", "dora"} <= hidden(algorithm="shift")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_most_settings(method: str) -> None:
    assert len(hidden(method=method)) < len(SETTINGS) / 2
    assert not hidden(method=method) & {"method", "algorithm", "max_train_steps", "learning_rate", "seed"}


def test_the_rules_name_settings_and_values_that_exist() -> None:
    for name, others in ACTS_WITH.items():
        assert name in SETTINGS
        for other, values in others.items():
            choices = SETTINGS[other].metadata.get("choices", (True, False))
            assert set(values) < set(choices), f"{name}: else it would never be hidden"
    assert acts("seed", {})


def test_changed_settings_are_named_and_reset(page: Page) -> None:
    assert "as the preset and the method say" in page.shown["settings_changed"]
    page.do("keep_draft", seed=7, align=True, prompt=NASTY)
    for words in ("<b>Seed</b> 7", "<b>Align</b> on", "<b>Prompt</b>"):
        assert words in page.shown["settings_changed"]
    assert "<img src=x" not in page.shown["settings_changed"]
    assert "#addift_set_seed" in page.shown["settings_marks"]
    page.do("press_row_button", act="reset seed")
    assert (page.shown["seed"], page.shown["align"]) == (1, True)
    assert "<b>Seed</b>" not in page.shown["settings_changed"]
    page.do("press_row_button", act="reset_all settings")
    assert (page.shown["align"], page.shown["prompt"]) == (False, "")
    assert page.handlers.draft.values["align"] is False


def test_a_preset_changes_what_is_called_changed(page: Page) -> None:
    page.do("choose_preset", preset="style")
    assert "as the preset and the method say" in page.shown["settings_changed"]
    page.do("keep_draft", mask="auto")
    assert "<b>Mask</b> auto" in page.shown["settings_changed"]
