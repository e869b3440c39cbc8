""".ci/measure.py: what it counts as the training step."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LOOP = """
from house.parts import Layer, Net, helper
from house.hosts.real import load

def train(net: Net, names: list[str]) -> None:
    for layer in net.layers:
        layer.apply()
    later = helper
    load()

def unused() -> None: ...
"""
PARTS = '''
class Layer:
    def apply(self) -> None: self._inner()
    def _inner(self) -> None: ...
    def other(self) -> None: ...

class Special(Layer):
    def _inner(self) -> None: ...

class Net:
    def __init__(self, layers: list[Layer]) -> None:
        self._layers = layers

    @property
    def layers(self) -> list[Layer]:
        return self._layers

def helper() -> None:
    """Two
    lines."""
'''


@pytest.fixture(scope="module")
def measure():
    """.ci/measure.py as a module."""
    spec = importlib.util.spec_from_file_location("measure", ROOT / ".ci" / "measure.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_step_is_what_train_reaches(measure, tmp_path):
    package = tmp_path / "house"
    (package / "hosts").mkdir(parents=True)
    for file, text in {"loop.py": LOOP, "parts.py": PARTS, "hosts/real.py": "def load() -> None: ...\n"}.items():
        (package / file).write_text(text, encoding="utf-8")
    modules = measure.read_package(package)
    step = measure.Reader(modules).reachable(("house.loop", "train"))
    assert sorted(name for _, name in step) == [
        "Layer._inner", "Layer.apply", "Net.layers", "Special._inner", "helper", "train",
    ]  # fmt: skip
    assert measure.length(modules["house.parts"].functions["helper"]) == 3


@pytest.mark.slow
def test_it_finds_the_loop_of_this_package(measure, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measure.py", "--list"])
    assert measure.main() == 0
    output = capsys.readouterr().out
    assert "goal: median <= 8" in output
    step = output.partition("training step: ")[2]
    for part in ("training.loop", "training.loss", "lora.network"):
        assert f"lib_addift.{part} " in step
    assert ".hosts." not in step
