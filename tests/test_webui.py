"""What the extension registers in a WebUI, and with which values it starts its parts."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.fake_webui import KINDS, inside, module

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "addift.py"


@pytest.fixture(params=list(KINDS))
def fake(request, tmp_path, monkeypatch):
    fake = KINDS[request.param](tmp_path)
    with inside(fake, monkeypatch):
        yield fake


@pytest.fixture
def webui(fake, monkeypatch, tmp_path):
    webui = import_module("lib_addift.webui")
    monkeypatch.setattr(webui, "DATA", tmp_path / "data")
    yield webui
    if webui.jobs.cache_info().currsize:
        webui.jobs().close()


class Calls(list):
    """Takes down what it is called with."""

    def __call__(self, *args, **kwargs):
        self.append((args, kwargs))
        return "made"


@pytest.fixture
def parts(monkeypatch, webui):
    """The tab, the API and the tag, replaced by what notes their calls."""
    parts = SimpleNamespace(build_tab=Calls(), add_routes=Calls(), wrap_lora_tag=Calls())
    for name, module_name in (("build_tab", "lib_addift.ui.tab"), ("add_routes", "lib_addift.api.routes")):
        stand_in = ModuleType(module_name)
        setattr(stand_in, name, getattr(parts, name))
        monkeypatch.setitem(sys.modules, module_name, stand_in)
    monkeypatch.setattr("lib_addift.hosts.prompt_tag.webui.wrap_lora_tag", parts.wrap_lora_tag)
    return parts


def test_the_tab_and_its_id(webui, parts):
    assert webui.tabs() == [("made", "Train Difference LoRA", "addift")]
    ((args, kwargs),) = parts.build_tab
    assert args == (webui.jobs(),)
    assert kwargs == {"in_webui": True}


def test_reloading_the_ui_keeps_the_jobs(webui, parts):
    webui.tabs()
    webui.tabs()
    first, second = (args[0] for args, _ in parts.build_tab)
    assert first is second


def test_jobs_from_before_go_on_when_the_webui_has_started(webui, parts, tmp_path, monkeypatch):
    starts = Calls()
    webui.tabs()
    monkeypatch.setattr(webui.jobs(), "start", starts)
    webui.start(None, "app")
    assert starts == [((), {"after": 5.0})]
    assert (tmp_path / "data" / "jobs.sqlite3").is_file()


def test_without_the_option_there_is_no_api(webui, fake, parts):
    webui.start(None, "app")
    assert parts.add_routes == []
    assert parts.wrap_lora_tag == [((webui.jobs().host,), {})]


def test_with_the_option_the_api_has_its_password_and_folders(webui, fake, parts):
    fake.shared.cmd_opts.api = True
    fake.shared.cmd_opts.api_auth = "ann:se:cret,bob:word"
    fake.shared.opts.outdir_txt2img_samples = "outputs/txt2img"
    fake.shared.opts.outdir_samples = ""
    webui.start(None, "app")
    ((args, kwargs),) = parts.add_routes
    assert args == ("app", webui.jobs())
    assert kwargs == {
        "credentials": {"ann": "se:cret", "bob": "word"}, "picture_dirs": [Path("outputs/txt2img")],
        "allowed_origins": None,
    }  # fmt: skip


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_open_api(fake, nothing):
    fake.shared.cmd_opts.api, fake.shared.cmd_opts.api_auth = True, nothing
    access = import_module("lib_addift.hosts.webui").api_access()
    assert access.is_enabled
    assert access.credentials is None


@pytest.mark.parametrize(
    ("listed", "pattern", "inside", "outside"),
    [
        (None, None, [], ["https://a.example"]),
        ("", None, [], ["https://a.example"]),
        (
            "https://a.example, http://b",
            None,
            ["https://a.example", "http://b"],
            ["https://aXexample", "http://b.evil"],
        ),
        ("https://a.example", r"https://.*\.org", ["https://a.example", "https://x.org"], ["https://x.org.evil"]),
        ("*", None, ["https://a.example", "null"], []),
    ],
)
def test_the_sites_that_the_webui_opens_its_api_to(fake, listed, pattern, inside, outside):
    fake.shared.cmd_opts.cors_allow_origins = listed
    fake.shared.cmd_opts.cors_allow_origins_regex = pattern
    allowed = import_module("lib_addift.hosts.webui").api_access().allowed_origins
    assert [allowed is not None and bool(allowed.fullmatch(each)) for each in inside] == [True] * len(inside)
    assert not any(allowed is not None and allowed.fullmatch(each) for each in outside)


@pytest.mark.slow
def test_picture_folders(fake):
    host = import_module("lib_addift.hosts.webui")
    options = SimpleNamespace(
        outdir_samples="/all", outdir_txt2img_samples="t", outdir_img2img_samples="i", outdir_extras_samples=None,
        outdir_grids="not here", lora_dir="nor this",
    )  # fmt: skip
    fake.shared.opts = options
    assert host.api_access().picture_dirs == [Path("/all"), Path("t"), Path("i")]
    fake.shared.opts = SimpleNamespace()
    assert host.api_access().picture_dirs == []


def test_the_script_registers_two_callbacks_and_does_nothing_else(fake, monkeypatch):
    tabs, started = Calls(), Calls()
    callbacks = module("modules.script_callbacks", on_ui_tabs=tabs, on_app_started=started)
    monkeypatch.setitem(sys.modules, "modules.script_callbacks", callbacks)
    monkeypatch.setattr(sys.modules["modules"], "script_callbacks", callbacks, raising=False)
    contents = runpy.run_path(str(SCRIPT))
    webui = sys.modules["lib_addift.webui"]
    assert tabs == [((webui.tabs,), {})]
    assert started == [((webui.start,), {})]
    assert not [name for name, value in contents.items() if isinstance(value, type)], "it would be taken for a Script"
    assert webui.jobs.cache_info().currsize == 0, "the model and the jobs come later"
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 12


_STARTING = """
import sys, time
start = time.process_time()
import numpy, PIL.Image, safetensors.torch, torch
before, begun = set(sys.modules), time.process_time()
import lib_addift.webui
print((time.process_time() - begun) / (begun - start))
print(*set(sys.modules) - before)
"""


@pytest.mark.slow
def test_the_webuis_start_loads_little_of_it_and_quickly():
    shares = []  # of what the WebUI's own packages take, so that it says the same on any machine
    for _ in range(3):  # the first one may have to compile
        command = [sys.executable, "-c", _STARTING]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        shares.append(float(found[0]))
    assert min(shares) < 0.3
    modules = found[1].split()
    own = {name.split(".")[1] for name in modules if name.startswith("lib_addift.")}
    assert "training" in own
    assert not own & {"ui", "api", "experiments", "demo", "cli"}
    assert "lib_addift.jobs.ray" not in modules
    packages = {name.partition(".")[0] for name in modules}
    assert not packages & {"diffusers", "transformers", "gradio", "fastapi", "ray", "matplotlib", "psutil", "modules"}
    assert "torch" not in packages, "a part of it that 'import torch' leaves out can take longer than all of ours"
