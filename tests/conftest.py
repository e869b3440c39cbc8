"""Set-up of all tests: no network, one thread for each process, and which tests belong to which run.

Without an option the gate runs. --all adds the `long` tests; --fast leaves out the `slow` and the `browser` ones too.
Tests that need full-size weights or a running WebUI run only where -m names their marker.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from lib_addift.demo import world

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
pytest.register_assert_rewrite("tests.support")  # so that its failed asserts show their values too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: Ctrl-C would reach no process of ours
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # files of tests run side by side, one for each core


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("which tests run")
    group.addoption("--all", action="store_true", help="everything, the long tests too")
    group.addoption("--fast", action="store_true", help="only what is quick: for between two edits")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what this run leaves out."""
    left_out = {"full_size", "real_host"}
    left_out |= set() if config.getoption("--all") else {"long"}
    left_out |= {"slow", "browser"} if config.getoption("--fast") else set()
    left_out = {marker for marker in left_out if marker not in config.getoption("markexpr")}
    leaving = [item for item in items if any(item.get_closest_marker(marker) for marker in left_out)]
    config.hook.pytest_deselected(items=leaving)
    items[:] = [item for item in items if item not in set(leaving)]


@pytest.hookimpl(optionalhook=True)  # without xdist nobody calls these two
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each core, and one for the browser tests, which mostly wait."""
    return (os.cpu_count() or 1) + (not config.getoption("--fast"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file's tests run in one process, and all browser tests of the tab on its own, or in a WebUI, in one.

    More browsers would wait for each other.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if file.startswith("tests/browser/"):
                return f"tests/browser{' in a WebUI' * ('gradio-' in nodeid)}"
            return file

    return Scheduling(config, log)


@pytest.fixture
def pair_files(tmp_path):
    """Paths of an original and a target, 64 x 64 px, in a folder of their own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = folder / "open.png", folder / "closed.png"
    for path, eyes in zip(paths, ("open", "closed"), strict=True):
        world.draw(world.Face(eyes=eyes)).save(path)
    return paths
