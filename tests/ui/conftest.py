"""The page of the tab over real jobs on a fake host."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.jobs.queue import Jobs
from lib_addift.ui.handlers import Handlers
from tests.support.fake_host import FakeHost
from tests.support.page import Page, wait


@pytest.fixture
def handlers(tmp_path: Path) -> Handlers:
    return Handlers(Jobs(FakeHost(tmp_path)))


@pytest.fixture
def page(handlers: Handlers) -> Page:
    return Page(handlers)


@pytest.fixture
def trained(page: Page) -> Page:
    page.put_pair()
    page.train("closed")
    wait(page)
    return page
