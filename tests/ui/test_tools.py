"""The tab Tools without a browser: its handlers over real files and a fake host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lib_addift.errors import HostError
from lib_addift.jobs.queue import Jobs
from lib_addift.lora.file import read_lora
from lib_addift.ui import tools as tools_module
from lib_addift.ui.handlers import Handlers
from lib_addift.ui.tools import OPERATIONS, USED_BY
from tests.support.dense import dense, layers_of
from tests.support.fake_host import FakeHost
from tests.support.loras import CONV, LINEAR, SHAPES, make, same, write
from tests.support.page import NASTY, Page


class ToolsPage(Page):
    """A page whose tab Tools is used."""

    def use(self, operation: str, *loras: str, **fields: Any) -> None:
        """Choose an operation, fill in its fields, press the button, and wait."""
        self.do("choose_tool", tools_op=operation)
        self.do("use_tool", tools_loras=list(loras), **{f"tools_{name}": value for name, value in fields.items()})
        self.settle()

    def settle(self) -> None:
        for thread in [each for each in threading.enumerate() if each.name == "addift-tools"]:
            thread.join(60)
        self.do("refresh")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    folder = tmp_path / "Lora"
    (folder / "sub").mkdir(parents=True)
    write(folder / "one.safetensors", make(1))
    write(folder / "sub" / "other.safetensors", make(2, rank=5))
    return FakeHost(folder)


@pytest.fixture
def page(host: FakeHost) -> ToolsPage:
    page = ToolsPage(Handlers(Jobs(host)))
    page.do("keep_draft", save_precision="fp32")
    return page


def test_the_list_has_the_loras_of_the_folder(page: ToolsPage, host: FakeHost) -> None:
    assert page.handlers.tools.names == ["one", "sub/other"]
    write(host.lora_dir / "third.safetensors", make(3))
    (host.lora_dir / "one.safetensors").unlink()
    page.do("refresh_loras", tools_loras=["one"])
    assert page.changed["tools_loras"] == {"choices": ["sub/other", "third"], "value": []}, "what is gone is not chosen"
    page.do("use_tool", tools_op="show")
    assert "needs 1 LoRA, and 0 are chosen" in page.shown["tools_alert"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_has_its_fields_and_a_hint(page: ToolsPage, operation: str) -> None:
    page.do("choose_tool", tools_op="extract")
    page.do("choose_tool", tools_op=operation)
    for name, operations in USED_BY.items():
        assert page.shown[f"{name} is visible"] == (operation in operations), name
    assert len(page.shown["tools_hint"]) > 60
    assert page.shown["tools_run"] == ("Show it" if operation == "show" else "Make it")


def test_subtract(page: ToolsPage, host: FakeHost) -> None:
    page.use("subtract", "one", "sub/other", weights="0.5", blocks="OUT=0", name="less")
    assert page.shown["tools_alert"] == ""
    html = page.shown["tools"]
    assert 'data-addift-made="less"' in html
    assert "4 layers of rank 3 to 8, " in html
    assert "&lt;lora:less:1&gt;" in html
    assert "data-addift-active" not in html
    one, other = (load_file(host.lora_dir / f"{name}.safetensors") for name in ("one", "sub/other"))
    found = read_lora(host.lora_dir / "less.safetensors")[0]
    same(found, lambda layer: dense(one, layer) - 0.5 * (layer != CONV) * dense(other, layer))
    assert host.refreshed == [host.lora_dir / "less.safetensors"]
    assert "less" in page.handlers.tools.names


def test_merge_average_and_resize(page: ToolsPage, host: FakeHost) -> None:
    one, other = (load_file(host.lora_dir / f"{name}.safetensors") for name in ("one", "sub/other"))
    page.use("merge", "one", "sub/other", weights="2, -1", name="sum")
    same(read_lora(host.lora_dir / "sum.safetensors")[0], lambda layer: 2 * dense(one, layer) - dense(other, layer))
    page.use("average", "one", "sub/other", weights="9", name="mean")
    wanted = {layer: (dense(one, layer) + dense(other, layer)) / 2 for layer in SHAPES}
    same(read_lora(host.lora_dir / "mean.safetensors")[0], wanted.__getitem__)
    page.use("resize", "mean", rank=2, name="small")
    assert "4 layers of rank 2, " in page.shown["tools"]
    assert "% of the energy" in page.shown["tools"]
    page.use("resize", "mean", rank=0, energy=0.9, name="small", overwrite=True)
    assert page.shown["tools_overwrite"] is False, "a permission is for one file"
    assert "4 layers of rank" in page.shown["tools"]


def test_show(page: ToolsPage) -> None:
    page.use("show", "one", name="", rank=-5)
    assert page.shown["tools_alert"] == ""
    html = page.shown["tools"]
    assert "one.safetensors: LoRA of" in html
    assert '<th scope="row">IN04</th>' in html
    assert "&lt;lora:" not in html


def test_extract(page: ToolsPage, host: FakeHost, tmp_path: Path) -> None:
    from lib_addift.demo.run import CHECKPOINT

    tensors = load_file(CHECKPOINT)
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    before = tensors[key].double().numpy()
    tensors[key] = tensors[key] * 1.5
    save_file(tensors, tmp_path / "tuned.safetensors")
    page.use("extract", tuned=f'"{tmp_path / "tuned.safetensors"}"', base=str(CHECKPOINT), rank=64, name="learnt")
    assert page.shown["tools_alert"] == ""
    found = read_lora(host.lora_dir / "learnt.safetensors")[0]
    (layer,) = layers_of(found)
    assert np.allclose(dense(found, layer), tensors[key].double().numpy() - before, atol=1e-5)
    page.use("extract", tuned="", base="x", name="more")
    assert "The tuned checkpoint is not named" in page.shown["tools_alert"]
    page.use("extract", tuned=str(CHECKPOINT), base=str(CHECKPOINT), rank=4, name="more")
    assert "do not differ" in page.shown["tools"]
    assert 'role="alert"' in page.shown["tools"]


def test_calibrate_uses_the_pair_and_the_hosts_model(
    page: ToolsPage, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.use("calibrate", "one", name="right")
    assert "needs the two pictures of the tab &#x27;Pair&#x27;" in page.shown["tools_alert"]
    page.put_pair()
    page.use("calibrate", "one", name="right")
    assert "for another model" in page.shown["tools"]

    class Made:
        path, verdict, tag = host.lora_dir / "right.safetensors", "it is right now.", "<lora:right:1>"

    asked: list[Any] = []
    monkeypatch.setattr(tools_module, "calibrate", lambda *values: asked.append(values) or Made())
    page.do("keep_draft", seed=7)
    page.use("calibrate", "one", name="right")
    assert asked[0][0] is host
    assert asked[0][1] == host.lora_dir / "one.safetensors"
    assert asked[0][2].original.shape == (64, 64, 3)
    assert (asked[0][3].precision, asked[0][4].seed) == ("fp32", 7)
    assert "It is right now." in page.shown["tools"]
    page.do("keep_draft", rank=0)
    page.use("calibrate", "one", name="right")
    assert "rank = 0" in page.shown["tools_alert"]
    page.use("average", "one", "sub/other", name="mean")
    assert page.shown["tools_alert"] == "", "other operations have no use for the settings of training"


@pytest.mark.parametrize(
    ("operation", "loras", "fields", "sentence"),
    [
        ("subtract", ["one"], {}, "needs 2 LoRAs, and 1 are chosen"),
        ("merge", [], {}, "needs 1 or more LoRAs"),
        ("average", ["one"], {}, "needs 2 or more"),
        ("show", ["one", "sub/other"], {}, "needs 1 LoRA, and 2"),
        ("merge", ["one"], {"name": ""}, "name &#x27;&#x27; is empty"),
        ("merge", ["one"], {"name": "../out"}, "cannot hold"),
        ("merge", ["one"], {"name": "one"}, "already has &#x27;one.safetensors&#x27;"),
        ("merge", ["one"], {"weights": "a"}, "must be numbers"),
        ("merge", ["one"], {"weights": "1 2"}, "2 weights for 1 LoRAs"),
        ("merge", ["one"], {"weights": "inf"}, "give a finite number"),
        ("subtract", ["one", "sub/other"], {"weights": "1, 2"}, "more than the one"),
        ("merge", ["one"], {"blocks": "X=1"}, "names no block"),
        ("merge", ["one"], {"rank": 1.5}, "must be a whole number"),
        ("merge", ["one"], {"rank": -1}, "must be a whole number"),
        ("merge", ["one"], {"energy": 0}, "must be a share"),
        ("merge", ["gone"], {}, "there is no LoRA &#x27;gone&#x27;"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_at_once(
    page: ToolsPage, host: FakeHost, operation: str, loras: list[str], fields: dict[str, Any], sentence: str
) -> None:
    before = sorted(host.lora_dir.rglob("*"))
    page.do("choose_tool", tools_op=operation)
    page.do(
        "use_tool", tools_loras=loras, **{f"tools_{key}": value for key, value in {"name": "new", **fields}.items()}
    )
    assert sentence.lower() in page.shown["tools_alert"].lower()
    assert 'role="alert"' in page.shown["tools_alert"]
    assert sorted(host.lora_dir.rglob("*")) == before
    page.do("choose_tool", tools_op="show")
    assert page.shown["tools_alert"] == ""


def test_a_broken_file_is_a_sentence_and_leaves_nothing(page: ToolsPage, host: FakeHost) -> None:
    (host.lora_dir / "one.safetensors").write_bytes(b"\x00" * 30)
    page.use("merge", "one", "sub/other", name="new")
    assert "no whole safetensors file" in page.shown["tools"]
    page.do("choose_tool", tools_op="show")
    assert "no whole safetensors file" not in page.shown["tools"]
    assert not (host.lora_dir / "new.safetensors").exists()
    page.use("merge", "sub/other", name="new")
    assert "addift-error" not in page.shown["tools"]


def test_it_works_in_a_thread_one_at_a_time_and_says_how_far_it_is(
    page: ToolsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), tools_module.lora_tools.merge

    def slow(*values: Any) -> Any:
        values[-1]("layer", 3, 8)
        gate.wait(30)
        return real(*values)

    monkeypatch.setattr(tools_module.lora_tools, "merge", slow)
    page.do("use_tool", tools_op="merge", tools_loras=["one"], tools_name="new")
    while "3 of 8" not in page.shown["tools"]:
        page.do("refresh")
    assert 'data-addift-active="1"' in page.shown["tools"]
    page.do("use_tool")
    assert "Wait a moment" in page.shown["tools_alert"]
    gate.set()
    page.settle()
    assert 'data-addift-made="new"' in page.shown["tools"]


def test_a_busy_host_hears_of_the_file_later(page: ToolsPage, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    @contextmanager
    def exclusive(**_options: Any) -> Iterator[None]:
        gate.wait(30)
        yield

    monkeypatch.setattr(host, "exclusive", exclusive)
    page.do("use_tool", tools_op="merge", tools_loras=["one"], tools_name="new")
    while "data-addift-made" not in page.shown["tools"]:
        page.do("refresh")
    assert "data-addift-active" not in page.shown["tools"], "the file is there: nothing to wait for"
    assert host.refreshed == []
    gate.set()
    page.settle()
    assert host.refreshed == [host.lora_dir / "new.safetensors"]


def test_without_a_model_the_file_is_made_all_the_same(
    page: ToolsPage, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exclusive(**_options: Any) -> Any:
        raise HostError("the loaded checkpoint is SDXL.")

    monkeypatch.setattr(host, "exclusive", exclusive)
    page.use("merge", "one", name="new")
    assert 'data-addift-made="new"' in page.shown["tools"]
    assert "addift-error" not in page.shown["tools"]


def test_what_nobody_expected_is_a_sentence(page: ToolsPage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_values: Any) -> None:
        raise ZeroDivisionError("so")

    monkeypatch.setattr(tools_module.lora_tools, "merge", fail)
    page.use("merge", "one", name="new")
    assert "Unexpected ZeroDivisionError: so." in page.shown["tools"]


def test_a_reload_brings_everything_back(page: ToolsPage) -> None:
    page.use("resize", "one", rank=2, name="small")
    again = ToolsPage(page.handlers)
    assert again.shown["tools_op"] == "resize"
    assert again.shown["tools_loras"] == ["one"]
    assert (again.shown["tools_rank"], again.shown["tools_name"]) == (2, "small")
    assert again.shown["tools"] == page.shown["tools"]
    assert again.shown["tools_files is visible"] is False


def test_names_and_texts_of_files_are_only_text(page: ToolsPage, host: FakeHost) -> None:
    name = NASTY.replace("/", "").replace(":", "")
    tensors = make(1, layers={LINEAR: SHAPES[LINEAR]})
    write(host.lora_dir / f"{name}.safetensors", tensors, {"ss_sd_model_name": NASTY})
    page.do("refresh_loras")
    page.use("show", name)
    assert "<img src=x" not in page.shown["tools"]
    page.use("merge", name, name=NASTY)
    assert "<img src=x" not in page.shown["tools_alert"]
    assert "${" not in page.shown["tools_alert"] + page.shown["tools"]
