"""The second world, the avatars, and the laboratory's tasks in it. Only what depends on the size was chosen on it."""

from __future__ import annotations

from pathlib import Path

from lib_addift.experiments.lab.drawn_world import DrawnWorld
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.worlds import avatars

CHECKPOINT = Path(avatars.__file__).parent / "avatars.safetensors"
_LEVELS = {
    "eyes": ("pupil", "open"),
    "mouth": ("tongue", "smiling"),
    "beard": ("beard", "full"),
    "glasses": ("glasses", "black"),
    "hat": ("hat", "winter"),
}
AVATARS = DrawnWorld("avatars", CHECKPOINT, avatars, avatars.Avatar, avatars.random_avatar, _LEVELS)
_SEEDS = 6

TASKS = {
    task.name: task
    for task in (
        LabTask(AVATARS, "eyes", {"eyes": ("open", "closed")}, seeds=_SEEDS),
        LabTask(AVATARS, "mouth", {"mouth": ("smiling", "serious")}, "detail", seeds=_SEEDS),
        LabTask(AVATARS, "hair", {"hair": ("black", "blond")}, seeds=_SEEDS),
        LabTask(AVATARS, "glasses", {"glasses": ("no", "black")}, "detail", seeds=_SEEDS),
        LabTask(AVATARS, "hat", {"hat": ("no", "winter")}, seeds=_SEEDS),
        LabTask(AVATARS, "skin", {"skin": ("light", "dark")}, seeds=_SEEDS),
    )
}
