"""Paint the pictures of the examples: random faces of the tiny world, the same ones at every run.

    .venv/bin/python examples/make_pictures.py [--out examples]

Each pair is one face twice, different in one attribute. Needs this repository only, no model.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_addift.demo import world  # noqa: E402 - the repository's root comes first

SEED = 7
SETS = {  # folder: (attribute, its value in the original, its value in the target, number of pairs)
    "pair": ("eyes", "open", "closed", 1),
    "set": ("eyes", "open", "closed", 4),
    "batch/closed_eyes": ("eyes", "open", "closed", 2),
    "batch/open_mouth": ("mouth", "smiling", "open", 2),
}


def main() -> int:
    """Write the pictures and captions of every set."""
    parser = argparse.ArgumentParser(description="Paint the pictures of the examples.")
    parser.add_argument("--out", type=Path, default=ROOT / "examples")
    options = parser.parse_args()
    rng = random.Random(SEED)
    for name, (attribute, before, after, count) in SETS.items():
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            face = world.random_face(rng, **{attribute: before})
            paint(folder, f"face_{number}", face, attribute, after)
        print(f"{folder}: {count} pairs of {attribute}, {before} and {after}")
    return 0


def paint(folder: Path, name: str, face: world.Face, attribute: str, value: str) -> None:
    """NAME.png, NAME_VALUE.png, and in NAME.txt the prompt of both, without the attribute that differs."""
    target = dataclasses.replace(face, **{attribute: value})  # type: ignore[arg-type]
    world.draw(face).save(folder / f"{name}.png")
    world.draw(target).save(folder / f"{name}_{value}.png")
    caption = world.caption(face, frozenset({attribute}))
    (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
