"""Judges the evaluation on new pictures: LoRAs from random faces of the tiny world, what is said, and the truth.

    python -m lib_addift.experiments.judge_evaluation --seeds 1,2,3

Prints a line for each LoRA, and the shares of false assurance and false alarm. The truth are the detectors' readings of
new faces, drawn from full captions without the attribute. A LoRA takes about half a minute on one core.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_addift.demo import world
from lib_addift.demo.evaluate import evaluate
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.host import Host
from lib_addift.evaluation.verdict import Level
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request, Result
from lib_addift.training.methods import make_config
from lib_addift.training.run import TrainingRun

FACES = 24
_RIGHT, _WRONG = 0.9, 0.8  # shares of hits: from the first on a LoRA works, below the other it does not


@dataclass(frozen=True)
class Difference:
    """A value of an attribute to learn, and the preset for it."""

    attribute: str
    value: str
    preset: str = "action"


DIFFERENCES = (
    Difference("eyes", "closed"), Difference("eyes", "open"), Difference("mouth", "open", "detail"),
    Difference("mouth", "smiling", "detail"), Difference("hair", "blond"), Difference("hair", "red"),
    Difference("skin", "dark"), Difference("background", "green"), Difference("position", "right"),
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """What was said of a LoRA; the shares of new faces that have the value, and in which anything else changed."""

    result: Result
    hits: float
    flips: float


def judge(host: Host, difference: Difference, seed: int, **settings: Any) -> Judged:
    """Train on one random face and draw FACES new ones. `seed` gives faces, noises and timesteps."""
    rng = random.Random(1000 + seed)
    others = [value for value in world.ATTRIBUTES[difference.attribute] if value != difference.value]
    face = world.random_face(rng, **{difference.attribute: rng.choice(others)})
    changed: dict[str, Any] = {difference.attribute: difference.value}
    config = make_config(difference.preset, **{"seed": seed, "preview_every": 0, **settings})
    pictures = world.draw(face), world.draw(replace(face, **changed))
    run = TrainingRun(host, Request.of(*pictures, "judged", config, overwrite=True))
    list(run.events())
    result = run.results[-1]
    network = LoraNetwork.from_tensors(read_lora(result.path)[0], host.unet, host.lora_name)
    faces = [world.random_face(rng) for _ in range(FACES)]
    scores = evaluate(host, network, faces, attribute=difference.attribute, value=difference.value, seed=9000 + seed)
    return Judged(result, scores.target_rate, scores.off_target_change)


def summary(judged: Sequence[Judged]) -> str:
    """How often a LoRA was said to be good and is not, and the other way round."""
    assured = [each for each in judged if each.result.level is Level.GOOD]
    right = [each for each in judged if each.hits >= _RIGHT]
    wrong, alarms = sum(each.hits < _WRONG for each in assured), sum(each not in assured for each in right)
    return (
        f"False assurance: {wrong} of {len(assured)} that were said to be good have under {_WRONG:.0%} hits.\n"
        f"False alarm: {alarms} of {len(right)} with {_RIGHT:.0%} hits or more were said not to be good."
    )


def main() -> None:
    """Judge every difference with every seed."""
    from lib_addift.hosts.standalone import StandaloneHost

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3", help="such as 1,2,3; below 100: the others are kept for reports")
    judged = []
    with tempfile.TemporaryDirectory() as folder:
        host = StandaloneHost(CHECKPOINT, lora_dir=Path(folder))
        for seed in map(int, parser.parse_args().seeds.split(",")):
            for number, difference in enumerate(DIFFERENCES):
                each = judge(host, difference, len(DIFFERENCES) * seed + number)
                judged.append(each)
                new = each.result.new_pictures
                print(
                    f"{difference.attribute} {difference.value}, seed {seed}: hits {each.hits:.0%}, flips "
                    f"{each.flips:.0%}; said {each.result.level.value}, reach {new.reach}, spread {new.spread} of "
                    f"{new.count}; {new.seconds / each.result.train_seconds:.0%} of the training's seconds", flush=True,
                )  # fmt: skip
    print(summary(judged))


if __name__ == "__main__":
    main()
