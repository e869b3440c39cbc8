"""A headless Chromium, the three servers, and the tab in a fresh page for each test."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.servers import SETUPS, Server, Setup, serve
from tests.browser.tab import Tab

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # fonts that lie elsewhere fail at once
)


@pytest.hookimpl(tryfirst=True)  # before the long ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The gate has the whole tab on its own, and a smoke test under each WebUI's gradio, or under those it names.

    A test marked in_webui is about a WebUI's page, so that no server is started for it alone.
    """
    for item in list(items):
        setup = getattr(item, "callspec", None) and item.callspec.params.get("server")
        if not isinstance(setup, Setup):
            continue
        smoke = item.get_closest_marker("smoke")
        if setup.in_webui and (smoke is None or (smoke.args and setup.gradio not in smoke.args)):
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("in_webui") and not setup.in_webui:
            items.remove(item)


def _missing(text: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for screenshots; ADDIFT_SCREENSHOTS names one that stays."""
    chosen = os.environ.get("ADDIFT_SCREENSHOTS")
    return Path(chosen).resolve() if chosen else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium without a window, as new."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        _missing("no chromium or no chromedriver: on Debian and Ubuntu, 'sudo apt install chromium chromium-driver'")
    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    # With both paths given, selenium downloads nothing.
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(chromedriver)))
    chrome.set_page_load_timeout(120)
    chrome.set_script_timeout(30)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Setup], Server]]:
    """A function to the server of a set-up that modules share; it is started when it is first asked for."""
    with contextlib.ExitStack() as running:
        yield functools.cache(lambda setup: running.enter_context(serve(setup, tmp_path_factory.mktemp(setup.name))))


@pytest.fixture(scope="module", params=SETUPS, ids=lambda setup: setup.name)
def server(
    request: pytest.FixtureRequest, driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory,
    shared_server: Callable[[Setup], Server],
) -> Iterator[Server]:  # fmt: skip
    """One server for all tests of a module: what a test trains is there in the next one.

    Modules marked any_server need no new one: the start of a server takes ten seconds or more.
    """
    if request.param.problem():
        _missing(request.param.problem())
    if request.node.get_closest_marker("any_server"):
        server = shared_server(request.param)
        yield server
    else:
        with serve(request.param, tmp_path_factory.mktemp(request.param.name)) as server:
            yield server
    assert "Traceback" not in server.output(), server.output()


@pytest.fixture
def tab(server: Server, driver: webdriver.Chrome, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """The tab in a new page. What fails in the browser's console fails the test."""
    tab = Tab(driver, server, screenshots)
    tab.open()
    tab.errors()
    yield tab
    tab.screenshot(f"end_of_{re.sub(r'[^a-z_]', '', request.node.originalname)}")
    assert not tab.errors()
