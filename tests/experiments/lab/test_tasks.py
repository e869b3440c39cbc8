"""Tasks read what they paint, and the halves of the seeds have nothing in common."""

from __future__ import annotations

import numpy as np
import pytest

from lib_addift.demo.evaluate import evaluation_faces
from lib_addift.experiments.lab.tasks import HALVES, MOST_PAIRS, LabTask, half_of
from lib_addift.experiments.lab.world import Subject
from tests.support.lab import EACH_TASK, FACES_TASKS

EYES, HAIR, BOTH = (FACES_TASKS[name] for name in ("eyes", "hair", "eyes-and-mouth"))


def key(subject: Subject) -> tuple[object, ...]:
    return *sorted(subject.values.items()), subject.variation


@EACH_TASK
def test_a_task_reads_what_it_paints_and_changes_nothing_else(task: LabTask) -> None:
    for subject in task.new_subjects(1, 10):
        before, after = (task.world.detect(np.asarray(task.paint(subject, shown=shown))) for shown in (False, True))
        assert task.is_hit(after)
        assert not any(before[name] == value for name, value in task.shown.items())
        assert all(before[name] == after[name] == subject.values[name] for name in task.others)


@EACH_TASK
def test_the_level_rises_with_the_change(task: LabTask) -> None:
    for subject in task.new_subjects(2, 3):
        original, target = (np.asarray(task.paint(subject, shown=shown), dtype=float) for shown in (False, True))
        assert (task.level(target) > task.level(original)).all()


@EACH_TASK
def test_the_area_holds_the_whole_difference(task: LabTask) -> None:
    for subject in task.new_subjects(3, 3):
        original, target = (np.asarray(task.paint(subject, shown=s), dtype=float) for s in (False, True))
        area = task.area(subject)
        assert not np.abs(target - original)[~area].any()
        assert area.any()


@EACH_TASK
def test_training_faces_are_random_originals_and_none_is_measured_on(task: LabTask) -> None:
    subjects = task.training_subjects(1, MOST_PAIRS)
    assert subjects[:4] == task.training_subjects(1, 4)
    assert all(subject.values[name] == value for subject in subjects for name, value in task.without.items())
    assert len({key(subject) for subject in subjects}) == MOST_PAIRS
    trained = [{name: subject.values[name] for name in task.others} for subject in subjects]
    for subject in task.new_subjects(1, 100):
        assert {name: subject.values[name] for name in task.others} not in trained


def test_a_hit_needs_every_attribute_and_flips_count_the_others() -> None:
    assert BOTH.is_hit({"eyes": "closed", "mouth": "open"})
    assert not BOTH.is_hit({"eyes": "closed", "mouth": "smiling"})
    assert not BOTH.is_hit({"eyes": "open", "mouth": "open"})
    assert set(BOTH.others) == set(BOTH.world.attributes) - {"eyes", "mouth"}


def test_the_halves_share_no_face_and_no_noise() -> None:
    """Neither to train on nor to measure on; and the demo's faces are in none."""
    assert not set(HALVES["tune"]) & set(HALVES["test"])
    assert (half_of(99), half_of(100)) == ("tune", "test")
    faces: dict[str, set[tuple[object, ...]]] = {half: set() for half in HALVES}
    for half, seeds in HALVES.items():
        for seed in seeds[:12]:
            faces[half] |= {key(subject) for subject in EYES.training_subjects(seed, 4)}
            faces[half] |= {key(subject) for subject in EYES.new_subjects(seed, 24)}
    assert len(faces["tune"]) == len(faces["test"]) == 12 * (4 + 24)
    assert not faces["tune"] & faces["test"]
    variations = {subject[-1] for half in faces.values() for subject in half}
    assert not variations & {face.variation for face in evaluation_faces(64, 20_000, excluded=())}


def test_prompts_leave_out_what_is_learnt_unless_it_is_asked_in_words() -> None:
    subject = HAIR.new_subjects(1, 1)[0].having({"hair": "red"})
    assert "hair" not in HAIR.prompt(subject)
    assert all(subject.values[name] in HAIR.prompt(subject) for name in HAIR.others)
    assert "blond hair" in HAIR.prompt_in_words(subject, shown=True)
    assert "black hair" in HAIR.prompt_in_words(subject, shown=False)
    assert HAIR.prompt(subject).count(", ") == len(HAIR.others) - 1


@EACH_TASK
def test_short_prompts_name_two_other_attributes(task: LabTask) -> None:
    subjects = task.new_subjects(1, 20)
    prompts = task.short_prompts(subjects, 1)
    assert prompts == task.short_prompts(subjects, 1) != task.short_prompts(subjects, 2)
    phrases = {task.world.caption({name: value}) for name in task.others for value in task.world.attributes[name]}
    for prompt in prompts:
        said = prompt.split(", ")
        assert len(said) == 2
        assert set(said) <= phrases
    assert len({prompt.split(", ")[0].split()[-1] for prompt in prompts}) > 1, "not always the same attributes"


def test_a_varied_prompt_has_alternatives_of_what_does_not_change() -> None:
    prompt = HAIR.varied_prompt(HAIR.shown)
    assert "blond hair" in prompt
    assert "{open|closed} eyes" in prompt
    assert prompt.count("{") == len(HAIR.others)
    assert "hair" not in HAIR.varied_prompt({})


def test_words_are_added_to_a_prompt() -> None:
    assert BOTH.with_words("red hair") == "red hair, closed eyes, open mouth"
    assert EYES.with_words("") == "closed eyes"


def test_every_task_can_be_asked_in_words_but_for_what_the_model_does_not_know() -> None:
    assert [name for name, task in FACES_TASKS.items() if not task.is_known] == ["ribbon"]
    with pytest.raises(StopIteration):
        half_of(1000)
