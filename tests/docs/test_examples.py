"""The examples run as their README says."""

import importlib.util
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from lib_addift.api.routes import add_routes
from lib_addift.cli.main import main
from lib_addift.demo.run import CHECKPOINT
from lib_addift.jobs.queue import Jobs
from lib_addift.lora.file import read_lora
from tests.support.fake_host import FakeHost

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {"max_train_steps": 2, "sampling_steps": 1, "precision": "fp32"}


def script(name):
    """A script of the examples as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(tmp_path):
    """Runs a command on the bundled model, with few steps; returns its exit code and the LoRA folder."""
    folder = tmp_path / "lora"

    def run(command, *arguments):
        common = ["--checkpoint", str(CHECKPOINT), "--lora-dir", str(folder), *settings(QUICK)]
        return main([command, *map(str, arguments), *common]), folder

    return run


def settings(values):
    """Arguments of a command line."""
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_the_pair(train):
    pair = EXAMPLES / "pair"
    code, folder = train(
        "train", "--original", pair / "face_1.png", "--target", pair / "face_1_closed.png", "--name", "closed_eyes"
    )
    assert code == 0
    assert read_lora(folder / "closed_eyes.safetensors")[0]


@pytest.mark.long
@pytest.mark.slow
def test_the_set(train, capsys):
    code, folder = train("batch", "--sets", EXAMPLES / "set")
    assert code == 0
    tensors, metadata = read_lora(folder / "closed_eyes_4.safetensors")
    assert tensors
    assert any("flat drawing, face on the left" in value for value in metadata.values())
    output = capsys.readouterr().out
    assert "4 pairs" in output
    assert "captions for 4 of 4" in output


def test_the_batch(train, capsys):
    code, folder = train("batch", "--sets", EXAMPLES / "batch", "--dry-run")
    assert code == 0
    output = capsys.readouterr().out
    assert "closed_eyes: 2 pairs" in output
    assert "open_mouth: 2 pairs" in output
    assert not folder.exists() or not list(folder.iterdir()), "a dry run writes nothing"


@pytest.fixture
def webui(tmp_path):
    """The address of a server with the real API over the fake host."""
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn comes with gradio")
    app = FastAPI()
    jobs = Jobs(FakeHost(tmp_path / "lora"))
    add_routes(app, jobs, credentials={"user": "word"}, picture_dirs=[])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive(), "the server did not start"
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    jobs.close()


@pytest.mark.slow
def test_the_api_script(webui, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    run = script("train_over_api").main
    pair = EXAMPLES / "pair"
    arguments = ["--url", webui, "--name", "closed_eyes", "--original", str(pair / "face_1.png")]
    arguments += ["--target", str(pair / "face_1_closed.png"), "--strip", str(tmp_path / "strip.png")]
    arguments += settings({**QUICK, "resolution": 64})
    assert run(arguments) == 1
    assert "password" in capsys.readouterr().err
    assert run([*arguments, "--auth", "user:word"]) == 0
    output = capsys.readouterr().out
    assert "<lora:closed_eyes:1>" in output
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.format == "PNG"
    assert read_lora(tmp_path / "lora" / "closed_eyes.safetensors")[0]
    assert run([*arguments, "--auth", "user:word"]) == 1
    assert "closed_eyes" in capsys.readouterr().err


def test_the_pictures_are_painted_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["make_pictures.py", "--out", str(tmp_path)])
    assert script("make_pictures").main() == 0
    painted = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert painted == sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("face_*")), "and there are no others"
    for path in painted:
        if path.suffix == ".png":
            with Image.open(tmp_path / path) as ours, Image.open(EXAMPLES / path) as theirs:
                difference = np.asarray(ours, dtype=float) - np.asarray(theirs)
                assert np.abs(difference).mean() < 1, path  # edges may differ between versions of Pillow
        else:
            assert (tmp_path / path).read_text(encoding="utf-8") == (EXAMPLES / path).read_text(encoding="utf-8")
