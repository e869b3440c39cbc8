"""The script of the sliders, against fakes of exactly what it uses of A1111 and Forge."""

from __future__ import annotations

import copy
import os
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_addift.errors import ConfigError
from lib_addift.hosts.prompt_tag.sliders import INFOTEXT_KEY
from tests.support.fake_lora_tag import Drawing, inside


@pytest.fixture
def webui(tmp_path, monkeypatch):
    with inside(tmp_path, monkeypatch) as webui:
        yield webui


@pytest.fixture
def sliders(webui, monkeypatch):
    monkeypatch.delitem(sys.modules, "lib_addift.hosts.sliders", raising=False)
    yield import_module("lib_addift.hosts.sliders")
    sys.modules.pop("lib_addift.hosts.sliders", None)


@pytest.fixture
def script(sliders):
    return sliders.SlidersScript()


def made_here(webui, name, age):
    webui.lora(name)
    path = webui.folder / f"{name}.safetensors"
    save_file(load_file(path), path, {"addift.config": "{}"})
    os.utime(path, (1e9 - age, 1e9 - age))


def test_the_loras_made_here_the_newest_first(webui, sliders):
    webui.lora("foreign")
    made_here(webui, "older", 10)
    made_here(webui, "newer", 0)
    assert sliders.Loras().names() == ["newer", "older"]


def test_without_the_webuis_lora_extension_there_are_none(sliders, monkeypatch):
    monkeypatch.setitem(sys.modules, "networks", None)
    assert sliders.Loras().names() == []


def test_the_picture_beside_a_lora(webui, sliders):
    webui.lora("smile")
    assert sliders.Loras().picture("smile") is None
    Image.new("RGB", (128, 64), (9, 9, 9)).save(webui.folder / "smile.png")
    assert sliders.Loras().picture("smile").size == (128, 64)
    (webui.folder / "smile.png").write_bytes(b"broken")
    assert sliders.Loras().picture("smile") is None
    assert sliders.Loras().picture("unknown") is None


def test_a_slider_acts_as_its_tag_in_both_passes_and_the_prompt_stays(webui, script):
    webui.lora("smile")
    p = Drawing(webui, "a cat <lora:other:0.5>", hires=True)
    assert p.draw(script, "smile", 0.8, 1000, 0) == [["other:0.5", "smile:0.8"]] * 2
    assert p.all_prompts == ["a cat <lora:other:0.5>"]
    assert p.extra_generation_params[INFOTEXT_KEY] == "<lora:smile:0.8>"
    assert not p.comments


def test_without_tags_in_the_prompt_it_acts_too_and_is_taken_off_again(webui, script):
    webui.lora("smile")
    p = Drawing(webui, "a cat")
    assert p.draw(script, "smile", 1, 1000, 0) == [["smile:1"]]
    assert webui.tag.deactivated == 1


def test_a_slider_with_timesteps_acts_in_them_only(webui, script):
    webui.lora("smile")
    plain = {t: webui.predict(t).clone() for t in (800, 400)}
    p = Drawing(webui, "a cat")
    script.before_process_batch(p, "smile", 1, 1000, 500)
    p.parse_extra_network_prompts()
    webui.registry["lora"].activate(p, p.extra_network_data["lora"])
    assert (webui.predict(800) != plain[800]).any()
    assert (webui.predict(400) == plain[400]).all()
    assert p.extra_generation_params[INFOTEXT_KEY] == "<lora:smile:1:from=1000:to=500>"


def test_a_second_batch_has_the_tags_once(webui, script):
    webui.lora("smile")
    p = Drawing(webui, "a cat")
    for _batch in range(2):
        assert p.draw(script, "smile", 1, 1000, 0) == [["smile:1"]]
    assert "parse_extra_network_prompts" not in vars(p)


def test_sliders_that_are_not_used_leave_the_picture_as_it_is(webui, script):
    p = Drawing(webui, "a cat")
    assert p.draw(script, "smile", 0, 1000, 0, "None", 1, 1000, 0) == [[]]
    assert not p.extra_generation_params.keys() & {INFOTEXT_KEY}
    assert not p.comments


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("absent", 1, 1000, 0), "there is no LoRA called 'absent', so it was left off"),
        (("smile", "much", 1000, 0), "the weight 'much' is no number"),
        (("smile", 1, 2000, 0), "from=2000 is no number from 0 to 1000"),
    ],
)
def test_a_wrong_value_is_said_under_the_picture(webui, script, values, words):
    webui.lora("smile")
    p = Drawing(webui, "a cat <lora:other:1>")
    assert p.draw(script, *values) == [["other:1"]]
    assert f"Difference sliders: {words}" in " ".join(p.comments)
    assert INFOTEXT_KEY not in p.extra_generation_params


def test_the_webui_learns_how_values_are_read_back(sliders, webui):
    class Script(sliders.SlidersScript):
        def build(self, tab, loras):
            return [f"{tab} {number}" for number in range(24)]

    script = Script()
    assert script.show(False) is webui.scripts.AlwaysVisible
    for is_img2img, tab in ((False, "txt2img"), (True, "img2img")):
        assert script.ui(is_img2img)[0] == f"{tab} 0"
        component, read = script.infotext_fields[1]
        assert component == f"{tab} 1"
        assert read({INFOTEXT_KEY: "<lora:smile:0.8>"}) == 0.8
        assert read in script.paste_field_names


# The X/Y/Z plot


class AxisOption:
    def __init__(self, label, kind, apply, confirm=None):
        self.label, self.type, self.apply, self.confirm = label, kind, apply, confirm


@pytest.fixture
def axes(webui, sliders):
    plot, other = ModuleType("xyz_grid.py"), ModuleType("other.py")
    plot.AxisOption, plot.axis_options = AxisOption, [AxisOption("Seed", int, None)]
    webui.scripts.scripts_data += [SimpleNamespace(module=each) for each in (plot, plot, other)]
    sliders.add_axes()
    sliders.add_axes()
    return {option.label: option for option in plot.axis_options}, plot.axis_options


def test_the_plot_has_our_axes_once(axes):
    by_label, listed = axes
    assert list(by_label) == ["Seed", "Difference LoRA weight", "Difference LoRA from", "Difference LoRA to"]
    assert len(listed) == len(by_label)


def test_each_picture_of_a_plot_has_its_own_value(axes, webui, script):
    webui.lora("smile")
    by_label, _listed = axes
    p = Drawing(webui, "a cat")
    drawn, texts = [], []
    for weight in (1.0, 0.0, -1.0):
        copied = copy.copy(p)  # as the plot does
        by_label["Difference LoRA weight"].apply(copied, weight, [])
        drawn.append(copied.draw(script, "smile", 0.5, 1000, 0))
        texts.append(copied.extra_generation_params.get(INFOTEXT_KEY))
    assert drawn == [[["smile:1"]], [[]], [["smile:-1"]]]
    assert texts == ["<lora:smile:1>", None, "<lora:smile:-1>"]


def test_two_axes_vary_two_values(axes, webui, script):
    webui.lora("smile")
    by_label, _listed = axes
    p = Drawing(webui, "a cat")
    by_label["Difference LoRA weight"].apply(p, 2.0, [])
    by_label["Difference LoRA to"].apply(p, 500.0, [])
    p.draw(script, "smile", 1, 1000, 0)
    assert p.extra_generation_params[INFOTEXT_KEY] == "<lora:smile:2:from=1000:to=500>"


def test_wrong_values_of_an_axis_are_refused_before_the_first_picture(axes):
    by_label, _listed = axes
    by_label["Difference LoRA from"].confirm(None, [0.0, 1000.0])
    with pytest.raises(ConfigError, match="from=1200 is no number from 0 to 1000"):
        by_label["Difference LoRA from"].confirm(None, [500.0, 1200.0])
