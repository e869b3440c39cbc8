"""The form as data, and the draft that survives a reload."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from lib_addift.config.presets import DEFAULT_PRESET, PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.data import pictures
from lib_addift.errors import ConfigError
from lib_addift.training.events import Request
from lib_addift.training.methods import from_mapping
from lib_addift.ui import form
from lib_addift.ui.form import FORM, SETTINGS, Draft
from lib_addift.ui.pairs import ROLES
from tests.support.page import NASTY, QUICK, Page, pair

# The form.


def test_a_sets_own_preset_acts_on_top_of_the_form() -> None:
    assert form.base_settings_of({**form.empty_form(), "seed": 5}) == {"seed": 5}, (
        "the default may be another for a set"
    )
    values = {**form.empty_form(), **form.preset_values("action"), "preset": "action", "rank": 8}
    base = form.base_settings_of(values)
    assert base == {"preset": "action", "rank": 8}, "only what a person changed"
    assert from_mapping({**base, "preset": "style"}).mask == "off"
    assert from_mapping(form.base_settings_of({**values, "mask": "off"})).mask == "off"


def test_every_setting_stands_in_one_part_of_the_form() -> None:
    parts = form.parts()
    assert sorted(name for names in parts.values() for name in names) == sorted(SETTINGS)
    assert "" not in parts
    assert parts[form.OFTEN_USED] == [n for n, s in SETTINGS.items() if s.metadata.get("advanced") is False]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_config_survives_the_form(preset: str) -> None:
    rank = {} if preset == DEFAULT_PRESET else {"rank": 7, "layers": ("convolutions",)}
    config = TrainConfig.create(preset, prompt=NASTY, calibrate=False, **rank)
    request = Request.of("a.png", "b.png", "name", config)
    values = form.form_of(request, form.preset_of(config))
    assert set(values) == set(FORM)
    assert values["preset"] == preset
    assert form.config_of(json.loads(json.dumps(values))) == config


def test_the_empty_form_is_the_default_config() -> None:
    assert form.config_of(form.empty_form()) == TrainConfig.create()


def test_a_bad_value_is_named() -> None:
    with pytest.raises(ConfigError, match="rank = 0 is out of bounds"):
        form.config_of({**form.empty_form(), "rank": 0})


def test_numbers_show_their_bounds_in_the_help() -> None:
    assert form.help_text("rank").endswith("(1 to 256)")
    assert form.widget("mask_floor") == "slider"
    assert form.widget("learning_rate") == "number"
    assert 0 < form.number_step("learning_rate") <= 1e-4


# The draft.


def test_the_draft_keeps_pictures_upright_and_in_modes_that_browsers_show() -> None:
    sideways = Image.new("RGB", (100, 64))
    sideways.getexif()[0x0112] = 6
    draft = Draft()
    draft.set_pictures(original=sideways, target=Image.new("CMYK", (64, 64)))
    original, target = draft.pictures["original"], draft.pictures["target"]
    assert original is not None
    assert target is not None
    assert original.size == (64, 100)
    assert target.mode == "RGB"
    draft.set_pictures(original=Image.new("P", (8, 8)))  # too small to train on, but to be seen
    original = draft.pictures["original"]
    assert original is not None
    assert original.size == (8, 8)
    assert draft.pictures["target"] is target, "each slot speaks for itself"
    draft.set_pictures(target=None)
    assert draft.pictures["target"] is None


def test_a_picture_is_decoded_once_for_each_time_that_it_is_sent(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Image.Image] = []
    is_supported = pictures.is_supported  # asked once for each picture that is decoded
    monkeypatch.setattr(pictures, "is_supported", lambda each: (decoded.append(each), is_supported(each))[1])

    def uploaded() -> dict[str, Image.Image]:
        files = {role: io.BytesIO() for role in ROLES}
        for picture, file in zip(pair(), files.values(), strict=True):
            picture.save(file, "PNG")
        return {role: Image.open(file) for role, file in files.items()}

    page.do("pause")
    page.do("take_pictures", **uploaded())
    assert "This is a good pair." in page.shown["doctor"]
    page.do("keep_draft", mask="off")
    assert len(decoded) == 2, "the doctor looks at what the draft has"
    page.do("train", **{**QUICK, **uploaded(), "name": "x"})
    assert page.shown["alert"] == ""
    assert len(decoded) == 4, "the checks and the job's files take what the draft has"


def test_the_draft_takes_no_unknown_fields() -> None:
    draft = Draft()
    draft.set_values({"name": "x", "other": 1})
    assert draft.values == {**form.empty_form(), "name": "x"}
