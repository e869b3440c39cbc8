"""The tab in Chinese and Japanese."""

from __future__ import annotations

import json
import re

import pytest

from tests.browser.tab import PATIENCE, Tab
from tests.support.texts import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.any_server]
# Every piece of text in sight, and every text that is read aloud, without what the extension leaves as it is.
_TEXTS = """
const found = [];
const walker = document.createTreeWalker(document.getElementById("addift_root"), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent.closest("script, style, textarea, code, pre, [translate=no]") && parent.checkVisibility())
        found.push(walker.currentNode.data.trim());
}
return found;
"""


@pytest.fixture(params=["zh_CN", pytest.param("ja_JP", marks=pytest.mark.long)])
def language(request: pytest.FixtureRequest, tab: Tab) -> str:
    if tab.server.setup.in_webui:
        pytest.skip("a WebUI has the language in its settings")
    return str(request.param)


@pytest.mark.slow
def test_the_page_speaks_the_browsers_language(tab: Tab, language: str) -> None:
    table = json.loads((ROOT / "localizations" / f"{language}.json").read_text(encoding="utf-8"))
    agent = tab.driver.execute_script("return navigator.userAgent")
    tab.driver.execute_cdp_cmd(
        "Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language.replace("_", "-")}
    )
    try:
        tab.driver.refresh()
        labels = [table["Train"], table["Train it"]]  # the second where the other language has left its pictures
        tab.wait(lambda: tab.text("#addift_train") in labels, f"one of {labels}", 2 * PATIENCE)
        tab.wait(lambda: not english(tab), "no English sentence")
        tab.click("#addift_train")
        tab.wait(lambda: tab.text("#addift_alert"), "what is missing")
        tab.screenshot(f"language_{language}")
        assert not english(tab)
        for role, name in (("original", "face_1"), ("target", "face_1_closed")):
            tab.put(role, ROOT / "examples" / "pair" / f"{name}.png")
        tab.wait(lambda: re.search(r"64 x 64", tab.text("#addift_doctor")), "a message with values")
        assert not english(tab)
    finally:
        tab.driver.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-US"})


def english(tab: Tab) -> list[str]:
    """The texts in sight with three English words in a row."""
    return [text for text in tab.driver.execute_script(_TEXTS) if re.search(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}", text)]
