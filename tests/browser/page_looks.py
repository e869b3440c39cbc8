"""How the page looks to everybody: what axe finds, the contrast of texts, what is cut off. Scripts for the browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome

_SERIOUS = ("serious", "critical")
# Rules about the page around the tab, which is the WebUI's or gradio's.
_OF_THE_PAGE = (
    "html-has-lang",
    "document-title",
    "meta-viewport",
    "landmark-one-main",
    "page-has-heading-one",
    "region",
)
_RUN_AXE = """
const [rules, done] = arguments;
const disabled = Object.fromEntries(rules.map((rule) => [rule, { enabled: false }]));
axe.run("#addift_root", { rules: disabled, resultTypes: ["violations"] }).then(
    (found) => done(found.violations.map(({ id, impact, help, nodes }) => [
        id, impact, help, nodes.map((node) => `${node.target} ${node.html.slice(0, 160)} ${node.failureSummary}`),
    ])),
    (error) => done(String(error)),
);
"""
# Every element of our own with text of its own: contrast of its colour on what lies behind it; and whether it is cut.
_TEXTS = """
const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number); return [...v.slice(0, 3), v[3] ?? 1]; };
const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const behind = (element) => {
    const layers = [];
    for (let up = element; up; up = up.parentElement) layers.unshift(parse(getComputedStyle(up).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
};
const result = { faint: [], cut: [], count: 0 };
for (const each of document.querySelectorAll("#addift_root [class*=addift-], #addift_root [class*=addift-] *")) {
    const texts = [...each.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    if (!texts.length || !each.checkVisibility() || each.closest("[data-addift-face], option")) continue;
    const box = each.getBoundingClientRect(), style = getComputedStyle(each);
    if (!box.width || box.width < 2) continue;
    result.count += 1;
    let opacity = 1;
    for (let up = each; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
    const below = behind(each), colour = parse(style.color);
    colour[3] *= opacity;
    const [one, other] = [light(over(colour, below)), light(below)].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    const name = `${each.className} '${texts[0].textContent.trim().slice(0, 40)}'`;
    if (contrast < 4.5) result.faint.push(`${contrast.toFixed(2)} ${name}`);
    const range = document.createRange();
    range.selectNodeContents(each);
    const text = range.getBoundingClientRect();
    for (let up = each; up && up.id !== "addift_root"; up = up.parentElement) {
        const rules = getComputedStyle(up), frame = up.getBoundingClientRect();
        if (rules.display === "contents") continue;  // it has no box
        const isWide = text.right > frame.right + 1 || text.left < frame.left - 1;
        const isLow = rules.overflowY === "hidden" && text.bottom > frame.bottom + 2;
        if (isLow || (rules.overflowX === "hidden" && isWide)) result.cut.push(`${name} in ${up.id} ${up.className}`);
    }
}
return result;
"""


def axe_script() -> str:
    """The source of axe, which a package of tests/requirements.txt brings; '' where that is not installed."""
    spec = importlib.util.find_spec("axe_core_python")
    places = spec.submodule_search_locations if spec else None
    return (Path(places[0]) / "axe.min.js").read_text(encoding="utf-8") if places else ""


def serious_findings(driver: Chrome) -> list[Any]:
    """What axe finds in the tab that is serious or critical: rule, impact, help and elements of each."""
    driver.execute_script(f"if (!window.axe) {{ {axe_script()}; window.axe = axe; }}")
    found = driver.execute_async_script(_RUN_AXE, list(_OF_THE_PAGE))
    assert isinstance(found, list), found
    return [each for each in found if each[1] in _SERIOUS]


def texts(driver: Chrome) -> dict[str, Any]:
    """Of the texts in our own HTML: their `count`, those below a contrast of 4.5 to 1, and those that are cut off."""
    found: dict[str, Any] = driver.execute_script(_TEXTS)
    return found
