"""Draw docs/architecture.svg: the folders of lib_addift on their floors, and the imports between them.

The picture is made from the source: every import is read with `ast`, those inside functions too. To redraw it:

    .venv/bin/python docs/draw_architecture.py

A box lists all folders that its modules import from, with the number of imports. Arrows are drawn for the imports
that no other arrows imply (the transitive reduction): where `ui` imports from `jobs` and `jobs` from `config`, the
arrow from `ui` to `config` is left out. An import from the same floor is drawn dashed, one from a higher floor in red.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.imports import FLOORS, folder, imports  # noqa: E402 - the repository's root comes first

PICTURE = ROOT / "docs" / "architecture.svg"
PACKAGE = ROOT / "lib_addift"

WIDTH, MARGIN, GAP = 1120, 24, 62  # px; GAP is the height between two floors, where the arrows can be seen
BOX, LINE, LETTERS = 264, 15, 40  # px wide, px a line of text, letters a line
_FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
Edge = tuple[str, str]


@dataclass
class Box:
    """A folder's box: left, top and height in px, and its lines of text."""

    name: str
    lines: list[str]
    left: float = 0.0
    top: float = 0.0

    @property
    def height(self) -> int:
        return 28 + LINE * len(self.lines)


def count_imports(package: Path) -> dict[Edge, int]:
    """How many imports lead from one folder of the package to another."""
    pairs = (
        (folder(importer), folder(imported))
        for importer, imported, _line in imports(package)
        if imported.split(".")[0] == package.name
    )
    return dict(sorted(Counter((a, b) for a, b in pairs if a and b and a != b).items()))


def reduce_edges(edges: Iterable[Edge]) -> list[Edge]:
    """The downward edges that no path of others implies, and all edges that do not lead downward."""
    down = {edge for edge in edges if _FLOOR_OF[edge[0]] > _FLOOR_OF[edge[1]]}
    below: dict[str, set[str]] = {}
    for name in sorted(_FLOOR_OF, key=_FLOOR_OF.__getitem__):
        targets = {b for a, b in down if a == name}
        below[name] = targets.union(*(below[target] for target in targets))
    implied = {(a, c) for a, b in down for c in below[b]}
    return sorted(set(edges) - (down & implied))


def place_boxes(counts: dict[Edge, int], edges: list[Edge], names: set[str]) -> dict[str, Box]:
    """A box for each folder; on a floor they stand in the order of what they point to."""
    boxes: dict[str, Box] = {}
    floors = [[name for name in floor if name in names] for floor in FLOORS]
    for floor in floors:
        targets = {name: [boxes[b].left for a, b in edges if a == name and b in boxes] for name in floor}
        middle = {name: sum(lefts) / len(lefts) if lefts else 0 for name, lefts in targets.items()}
        floor.sort(key=lambda name: middle[name])
        space = (WIDTH - 2 * MARGIN - BOX * len(floor)) / (len(floor) + 1)
        for number, name in enumerate(floor):
            boxes[name] = Box(name, _lines(name, counts), MARGIN + space * (number + 1) + BOX * number)
    top = 64.0
    for floor in reversed(floors):
        for name in floor:
            boxes[name].top = top
        top += max((boxes[name].height for name in floor), default=-GAP) + GAP
    return boxes


def _lines(name: str, counts: dict[Edge, int]) -> list[str]:
    listed = sorted((_FLOOR_OF[b], b, count) for (a, b), count in counts.items() if a == name)
    text = ", ".join(f"{b}\u00a0{count}" for _floor, b, count in reversed(listed))
    return textwrap.wrap(text, LETTERS) if text else ["imports nothing of the package"]


def draw(package: Path = PACKAGE) -> str:
    """The picture as SVG text. The same source gives the same text.

    Raises ValueError when a folder or module of the package is on no floor.
    """
    counts = count_imports(package)
    names = {name for edge in counts for name in edge}
    if unknown := names - set(_FLOOR_OF):
        raise ValueError(f"{sorted(unknown)} are on no floor: add them to FLOORS in tests/support/imports.py")
    edges = reduce_edges(counts)
    boxes = place_boxes(counts, edges, names)
    height = max(box.top + box.height for box in boxes.values()) + MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>The folders of lib_addift and the imports between them</title>",
        "<style>.down{stroke:#5b7083}.same{stroke:#5b7083;stroke-dasharray:4 3}.up{stroke:#c62828}",
        "path{fill:none;stroke-width:1.4}.count{fill:#33475b;text-anchor:middle}</style>",
        "<defs><marker id='tip' markerWidth='9' markerHeight='8' refX='8' refY='4' orient='auto'>"
        "<path d='M0,0 L9,4 L0,8 z' style='fill:#5b7083'/></marker></defs>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="26" font-size="15" font-weight="bold">lib_addift: who imports from whom</text>',
        f'<text x="{MARGIN}" y="45" fill="#33475b">In a box: the folders it imports from, with the number of imports. '
        "An arrow that other arrows imply is left out.</text>",
        *_arrows(edges, counts, boxes),
        *(line for _name, box in sorted(boxes.items()) for line in _box(box)),
        "</svg>\n",
    ])  # fmt: skip


def _arrows(edges: list[Edge], counts: dict[Edge, int], boxes: dict[str, Box]) -> list[str]:
    """Curves from the lower edge of a box to the upper edge of another, each end at a place of its own."""
    level = [(a, b) for a, b in edges if _FLOOR_OF[a] == _FLOOR_OF[b]]
    others = sorted(set(edges) - set(level), key=lambda edge: (boxes[edge[0]].left, boxes[edge[1]].left, edge))
    lines = [_level_arrow(boxes[a], boxes[b], counts[a, b]) for a, b in level]
    for a, b in others:
        source, target = boxes[a], boxes[b]
        x1 = _anchor(source, [y for x, y in others if x == a], b)
        x2 = _anchor(target, [x for x, y in others if y == b], a)
        y1, y2 = source.top + source.height, target.top - 1
        kind = "down" if _FLOOR_OF[a] > _FLOOR_OF[b] else "up"
        bend = max(30.0, abs(y2 - y1) / 2)
        lines.append(
            f'<path class="{kind}" marker-end="url(#tip)" '
            f'd="M{x1:.1f},{y1:.1f} C{x1:.1f},{y1 + bend:.1f} {x2:.1f},{y2 - bend:.1f} {x2:.1f},{y2:.1f}"/>'
            + _count(counts[a, b], x1, y1 + 16)
        )
    return lines


def _level_arrow(source: Box, target: Box, count: int) -> str:
    """An arrow along a floor, behind whatever stands between."""
    goes_left = target.left < source.left
    x1, x2 = (source.left, target.left + BOX + 1) if goes_left else (source.left + BOX, target.left - 1)
    y = min(source.top, target.top) + 20
    path = f'<path class="same" marker-end="url(#tip)" d="M{x1:.1f},{y:.1f} L{x2:.1f},{y:.1f}"/>'
    return path + _count(count, x1 + (-16 if goes_left else 16), y + 4)


def _count(count: int, x: float, y: float) -> str:
    back = f'<rect x="{x - 10:.1f}" y="{y - 11:.1f}" width="20" height="14" rx="3" fill="#ffffff"/>'
    return back + f'<text class="count" x="{x:.1f}" y="{y:.1f}">{count}</text>'


def _anchor(box: Box, others: list[str], other: str) -> float:
    return box.left + BOX * (others.index(other) + 1) / (len(others) + 1)


def _box(box: Box) -> list[str]:
    x, y = box.left, box.top
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX}" height="{box.height}" rx="6" fill="#eef3f8" stroke="#8aa0b4"/>',
        f'<text x="{x + 10:.1f}" y="{y + 18:.1f}" font-size="14" font-weight="bold">{escape(box.name)}</text>',
        *(
            f'<text x="{x + 10:.1f}" y="{y + 20 + LINE * (number + 1):.1f}" fill="#33475b">{escape(line)}</text>'
            for number, line in enumerate(box.lines)
        ),
    ]


def main() -> int:
    """Write the picture."""
    PICTURE.write_text(draw(), encoding="utf-8", newline="\n")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
