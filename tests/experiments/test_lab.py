"""The laboratory: measures against known answers, tasks that read what they paint, runs that go on where they ended."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib_addift.cli import lab as cli_lab
from lib_addift.cli.main import main
from lib_addift.demo import world
from lib_addift.demo.evaluate import evaluation_faces
from lib_addift.demo.run import CHECKPOINT
from lib_addift.errors import TrainingError
from lib_addift.experiments.lab import metrics, report, runner
from lib_addift.experiments.lab.bench import QUICK, Bench, Scale, Scene
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.picture_metrics import picture_metrics
from lib_addift.experiments.lab.runner import Done, LabPlan, run_plan
from lib_addift.experiments.lab.summary import (
    COLUMNS,
    Column,
    Summary,
    cell_text,
    couples_table,
    overall_table,
    task_table,
)
from lib_addift.experiments.lab.tasks import TASKS, LabTask
from lib_addift.experiments.lab.together import Couple
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.fake_host import FakeHost

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


# measures


def test_share_and_flips_count_faces() -> None:
    assert metrics.share([True, False, True, True]) == 0.75
    assert math.isnan(metrics.share([]))
    before = [{"eyes": "open", "hair": "red"}, {"eyes": "open", "hair": "red"}]
    after = [{"eyes": "closed", "hair": "red"}, {"eyes": "open", "hair": "black"}]
    assert metrics.flips(before, after, ["hair"]) == 0.5
    assert metrics.flips(before, after, ["hair", "eyes"]) == 1.0
    assert metrics.flips(before, after, []) == 0.0


def test_interference_is_the_mean_change_outside_of_the_area() -> None:
    before = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[:, 0, 0] = 255  # inside
    after[0, 3, 3] = [100, 70, 100]  # outside: 30 grey levels in one channel of one pixel
    areas = np.zeros((2, 4, 4), dtype=bool)
    areas[:, :2, :2] = True
    assert metrics.interference(before, after, areas) == pytest.approx(30 / 3 / (2 * 12))
    assert math.isnan(metrics.interference(before, after, np.ones_like(areas)))


def test_effects_are_0_for_the_original_and_1_for_the_target() -> None:
    levels = np.array([[2.0, -10.0], [6.0, -20.0], [4.0, -25.0]])
    assert metrics.effects(levels, levels[0], levels[1]).tolist() == [[0, 0], [1, 1], [0.5, 1.5]]


def test_monotony_counts_falls_and_forgives_small_ones() -> None:
    assert metrics.monotony(np.array([[0.0], [0.5], [1.0]])) == 1.0
    assert metrics.monotony(np.array([[0.0], [0.5], [0.46]])) == 1.0
    assert metrics.monotony(np.array([[0.0, 0.0], [0.5, 0.5], [0.4, 0.6]])) == 0.75


def test_linearity_is_r_squared() -> None:
    weights = [-1.0, 0.0, 1.0, 2.0]
    assert metrics.linearity(weights, [3.0, 5.0, 7.0, 9.0]) == pytest.approx(1)
    assert metrics.linearity(weights, [0.0, 1.0, 1.0, 1.0]) == pytest.approx(
        np.corrcoef(weights, [0, 1, 1, 1])[0, 1] ** 2
    )
    assert math.isnan(metrics.linearity(weights, [1.0, 1.0, 1.0, 1.0]))


@pytest.fixture
def bar() -> tuple[np.ndarray, np.ndarray]:
    """A dark bar on light ground, (64, 64, 3), and where it is."""
    mark = np.zeros((64, 64), dtype=bool)
    mark[20:40, 28:33] = True
    picture = np.full((64, 64, 3), 200.0)
    picture[mark] = [40, 80, 120]
    return picture, mark


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0, -0.5])
def test_contrast_and_sharpness_tell_how_pale_it_is(bar: tuple[np.ndarray, np.ndarray], strength: float) -> None:
    target, mark = bar
    picture = 200 + strength * (target - 200)
    assert metrics.contrast(picture, target, mark) == pytest.approx(strength)
    assert metrics.sharpness(picture, target, mark) == pytest.approx(strength)


def test_a_blur_takes_more_of_the_sharpness_than_of_the_contrast(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    soft = np.asarray(Image.fromarray(target.astype(np.uint8)).filter(ImageFilter.BoxBlur(1)))
    # A mean over 3 px makes of the step between two neighbours a third; at the corners less.
    assert metrics.sharpness(soft, target, mark) == pytest.approx(1 / 3, abs=0.02)
    assert 0.75 < metrics.contrast(soft, target, mark) < 0.95


def test_another_colour_counts_only_along_the_targets_own(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    picture = np.full_like(target, 200)
    picture[mark] += [12, -16, 0]  # at right angles to 160, 120, 80: 12 * 160 = 16 * 120
    assert metrics.contrast(picture, target, mark) == pytest.approx(0)
    assert metrics.sharpness(picture, target, mark) == pytest.approx(0)


def test_a_shift_of_a_pixel_is_undone_before_edges_are_measured(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    moved = np.roll(target, (1, -1), axis=(0, 1))
    assert metrics.sharpness(moved, target, mark) < 0.2
    assert metrics.sharpness(metrics.aligned(moved, target, mark), target, mark) == pytest.approx(1)
    far = np.roll(target, 3, axis=1)
    assert metrics.sharpness(metrics.aligned(far, target, mark), target, mark) < 0.7


def test_grown_adds_a_margin() -> None:
    area = np.zeros((7, 9), dtype=bool)
    area[3, 4] = area[0, 8] = True
    grown = metrics.dilated(area, 2)
    assert grown.sum() == 25 + 9 - 2  # the corner's square is cut by the border, and the two share two pixels
    assert grown[1:6, 2:7].all()


def test_both_counts_faces_that_show_both() -> None:
    assert metrics.both([True, True, False, False], [True, False, True, False]) == 0.25


@pytest.mark.parametrize("first", range(1, 9))
def test_first_reached_finds_the_first_in_few_looks(first: int) -> None:
    looked: list[int] = []

    def is_enough(step: int) -> bool:
        looked.append(step)
        return step >= 10 * first

    assert metrics.first_reached([10 * n for n in range(1, 9)], is_enough) == 10 * first
    assert len(looked) <= 3
    assert 80 not in looked, "that it is enough there is known"


# tasks


@EACH_TASK
def test_a_task_reads_what_it_paints_and_changes_nothing_else(task: LabTask) -> None:
    for face in task.new_faces(1, 40):
        for is_shown in (False, True):
            picture = np.asarray(task.paint(face, shown=is_shown))
            assert task.is_hit(picture) is is_shown
        before, after = (world.detect(task.paint(face, shown=is_shown)) for is_shown in (False, True))
        assert all(before[name] == after[name] for name in task.others)


@EACH_TASK
def test_a_task_reads_noisy_and_soft_pictures(task: LabTask) -> None:
    rng = np.random.default_rng(0)
    for face in task.new_faces(2, 20):
        for is_shown in (False, True):
            soft = task.paint(face, shown=is_shown).filter(ImageFilter.GaussianBlur(0.6))
            noisy = (np.asarray(soft) + rng.normal(0, 6, size=(64, 64, 3))).clip(0, 255)
            assert task.is_hit(noisy) is is_shown


@EACH_TASK
def test_the_area_holds_the_whole_difference(task: LabTask) -> None:
    for face in task.new_faces(3, 10):
        original, target = (np.asarray(task.paint(face, shown=s), dtype=float) for s in (False, True))
        area = task.area(face)
        assert not np.abs(target - original)[~area].any()
        assert 0 < area.mean() < 1


@EACH_TASK
def test_the_mark_stands_in_the_area_and_out_from_its_surroundings(task: LabTask) -> None:
    for any_face in task.new_faces(4, 10):
        face = replace(any_face, variation=0, eyes="open", mouth="smiling", hair="black")
        mark = task.mark_of(face)
        assert 20 < mark.sum() < 0.5 * mark.size
        assert task.area(face)[mark].all() or task.name == "position", "the head also covers what does not change"
        without, target = (np.asarray(task.paint(face, shown=is_shown)) for is_shown in (False, True))
        assert metrics.contrast(target, target, mark) == pytest.approx(1)
        assert metrics.contrast(without, target, mark) < 0.6


@EACH_TASK
def test_training_pairs_differ_by_seed_and_stay_out_of_the_measured_faces(task: LabTask) -> None:
    first, second = task.pairs(1)[0], task.pairs(2)[0]
    assert first[0].tobytes() != second[0].tobytes()
    assert first[0].tobytes() == task.pairs(1, 4)[0][0].tobytes()
    assert len({pair[1].tobytes() for pair in task.pairs(1, 4)}) == 4
    for original, target in task.pairs(1, 4):
        assert not task.is_hit(np.asarray(original))
        assert task.is_hit(np.asarray(target))
    readings = [world.detect(picture) for picture in first]
    assert all(face.attributes() not in readings for face in task.new_faces(1, 200))


def test_the_measured_faces_are_not_the_demos() -> None:
    demos = evaluation_faces(64, 20_000, excluded=())
    assert all(face not in demos for seed in range(1, 6) for face in TASKS["eyes"].new_faces(seed, 64))


def test_prompts_leave_out_what_is_learnt_unless_it_is_asked_in_words() -> None:
    task, face = TASKS["hair"], world.Face(hair="blond")
    assert "hair" not in task.prompt(face)
    assert "blond hair" in task.prompt_in_words(replace(face, hair="red"), shown=True)
    assert "red hair" in task.prompt_in_words(replace(face, hair="red"), shown=False)
    assert "black hair" in task.prompt_in_words(face, shown=False), "the pair's original, where the face has the value"
    assert TASKS["ribbon"].prompt(face) == world.caption(face)


@pytest.fixture(scope="module")
def real_host() -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, device="cpu")


@EACH_TASK
def test_tasks_read_their_pictures_through_the_vae(task: LabTask, real_host: StandaloneHost, tmp_path: Path) -> None:
    faces = task.new_faces(5, 24)
    bench = Bench(real_host, QUICK, tmp_path)
    original, target = (
        bench.through_vae([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True)
    )
    assert metrics.share([task.is_hit(picture) for picture in target]) == 1
    assert metrics.share([task.is_hit(picture) for picture in original]) <= 0.05
    levels = [np.array([task.level(picture) for picture in batch]) for batch in (original, target)]
    assert levels[1].min() > levels[0].max() or task.name == "hair", "hair has other colours than two"


def test_the_object_keeps_its_hard_edges_in_the_vae(real_host: StandaloneHost, tmp_path: Path) -> None:
    task = TASKS["ribbon"]
    faces = [replace(face, variation=0) for face in task.new_faces(6, 8)]
    painted = [np.asarray(task.paint(face, shown=True)) for face in faces]
    drawn = Bench(real_host, QUICK, tmp_path).through_vae(painted)
    values = [
        metrics.sharpness(picture, target, task.mark_of(face))
        for face, picture, target in zip(faces, drawn, painted, strict=True)
    ]
    assert np.mean(values) > 0.5


# looking at pictures


@EACH_TASK
def test_a_perfect_result_has_perfect_figures(task: LabTask) -> None:
    faces = [replace(face, variation=0) for face in task.new_faces(7, 12)]
    original, target = (np.stack([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True))
    half = (original / 2 + target / 2).astype(np.uint8)
    scene = Scene(original, original, target)
    figures = picture_metrics(
        task, faces, scene, {-1.0: original, 0.5: half[:5], 1.0: target, 1.5: target[:5], 2.0: target[:5]}
    )
    assert (figures["base_hits"], figures["hits"], figures["reverse_hits"]) == (0, 1, 0)
    assert figures["flips"] == figures["reverse_flips"] == figures["interference"] == 0
    assert figures["contrast"] == pytest.approx(1)
    assert figures["sharpness"] == pytest.approx(1)
    assert figures["monotony"] == 1
    assert figures["effects"][0] == figures["effects"][1] == 0
    assert figures["effects"][3] == figures["effects"][5] == 1


def test_damage_shows_in_the_figures() -> None:
    task = TASKS["eyes"]
    faces = [replace(face, variation=0, mouth="open", eyes="open") for face in task.new_faces(8, 8)]
    original, target = (np.stack([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True))
    damaged = np.stack([np.asarray(task.paint(replace(face, mouth="smiling"), shown=True)) for face in faces])
    figures = picture_metrics(task, faces, Scene(original, original, target), {-1.0: original, 1.0: damaged})
    assert figures["flips"] == 1
    assert figures["interference"] > 1
    assert figures["hits"] == 1
    assert "monotony" not in figures, "there is only one weight"
    nothing = picture_metrics(task, faces, Scene(original, original, target), {-1.0: original, 1.0: original})
    assert nothing["hits"] == 0
    assert "contrast" not in nothing, "what is not shown has no edges"


# variants


def test_every_variant_has_valid_settings_and_changes_something() -> None:
    ours = {name: VARIANTS["ours"].config(task, 3) for name, task in TASKS.items()}
    for name, variant in VARIANTS.items():
        differs = any(variant.config(task, 3) != ours[task.name] for task in TASKS.values())
        assert differs or variant.in_words or variant.pairs > 1 or name == "ours"


def test_the_published_settings_are_the_published_ones() -> None:
    action = VARIANTS["published"].config(TASKS["eyes"], 1)
    assert (action.rank, action.alpha, action.max_train_steps, action.learning_rate) == (4, 1, 30, 1e-4)
    assert (action.min_timestep, action.max_timestep, action.directions, action.mask) == (500, 1000, "alternate", "off")
    assert not action.calibrate
    style = VARIANTS["published"].config(TASKS["style"], 1)
    assert (style.min_timestep, style.max_timestep, style.strength, style.max_train_steps) == (200, 400, 5, 50)
    assert VARIANTS["published"].swapped == ("style",)
    assert VARIANTS["published"].config(TASKS["mouth"], 1).strength == 1, "the preset's is not the author's"


# runs


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells without Stable Diffusion: pictures mean nothing, but all is drawn, measured and kept."""
    monkeypatch.setattr(runner, "_host", FakeHost)


SMALL = Scale(faces=3, growth_faces=2, probe_faces=2, sampling_steps=1)


def plan(*variants: str, tasks: tuple[str, ...] = ("eyes",), seeds: tuple[int, ...] = (1,)) -> LabPlan:
    return LabPlan(tasks, variants, seeds, SMALL)


def run(what: LabPlan, out: Path) -> tuple[list[Done], list[str]]:
    """The results, and the names of what was measured now."""
    told: list[Done] = []
    result = run_plan(what, out, 1, lambda done, _count, _total: told.append(done))
    assert [done.work for done in told] == [done.work for done in result]
    return result, [done.work.name for done in told if done.seconds]


def test_every_variant_runs(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan(*VARIANTS), tmp_path)
    assert [each.work.variant for each in done] == list(VARIANTS)
    assert [each.error for each in done if each.error] == []
    for each in done:
        keys = set(each.figures)
        assert {"base_hits", "hits", "reverse_hits", "flips", "interference"} <= keys
        assert {"recovery", "steps", "seconds", "effects"} <= keys or VARIANTS[each.work.variant].in_words


def test_what_is_measured_is_kept_and_an_interrupted_run_goes_on(
    fake_host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = plan("words", "published", "ours")
    measure = runner.measure_cell

    def interrupted(bench: Bench, cell: Cell) -> dict[str, Any]:
        if cell.variant == "ours":
            raise KeyboardInterrupt
        return measure(bench, cell)

    monkeypatch.setattr(runner, "measure_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(what, tmp_path)
    monkeypatch.setattr(runner, "measure_cell", measure)
    first, measured = run(what, tmp_path)
    assert measured == ["eyes_ours_1"]
    again, measured = run(what, tmp_path)
    assert measured == []
    assert [done.figures for done in again] == [done.figures for done in first]


def test_a_kept_cell_is_measured_anew_when_it_is_damaged_or_was_asked_otherwise(
    fake_host: None, tmp_path: Path
) -> None:
    run(plan("words", "published"), tmp_path)
    (tmp_path / "cells" / "eyes_words_1.json").write_text('{"asked": ')
    assert run(plan("words", "published"), tmp_path)[1] == ["eyes_words_1"]
    more = replace(plan("words", "published"), scale=replace(SMALL, faces=4))
    assert run(more, tmp_path)[1] == ["eyes_words_1", "eyes_published_1"]
    path = tmp_path / "cells" / "eyes_published_1.json"
    content = json.loads(path.read_text())
    content["asked"]["settings"][0]["rank"] = 5
    path.write_text(json.dumps(content))
    assert run(more, tmp_path)[1] == ["eyes_published_1"]


def test_a_run_without_a_result_is_told_and_the_others_go_on(
    fake_host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = runner.measure_cell

    def failing(bench: Bench, cell: Cell) -> dict[str, Any]:
        if cell.variant == "published":
            raise TrainingError("training changed nothing.")
        return measure(bench, cell)

    monkeypatch.setattr(runner, "measure_cell", failing)
    done, _ = run(plan("published", "words"), tmp_path)
    assert [each.error for each in done] == ["training changed nothing.", ""]
    assert Summary(done).errors == {"eyes_published_1": "training changed nothing."}


def test_pictures_of_a_task_and_seed_are_the_same_for_all_methods(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan("published", "ours", seeds=(1, 2)), tmp_path)
    base = {(each.work.seed, each.figures["base_hits"]) for each in done}
    assert len(base) == 2
    assert len(list((tmp_path / "scenes").iterdir())) == 2


def test_couples_follow_the_cells_whose_loras_they_use(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan("words", "published", tasks=("eyes", "mouth", "hair")), tmp_path)
    couples = [each for each in done if isinstance(each.work, Couple)]
    assert [each.work.name for each in couples] == ["eyes+mouth_published_1"]
    figures = couples[0].figures
    assert figures["product"] == pytest.approx(figures["first_alone"] * figures["second_alone"], abs=1e-3)


def test_the_report_has_all_that_was_measured(fake_host: None, tmp_path: Path) -> None:
    run(plan("words", seeds=(1, 2)), tmp_path)
    run(plan("published", tasks=("eyes", "mouth")), tmp_path)
    found = [done.work.name for done in runner.all_done(SMALL, tmp_path)]
    assert found == ["eyes_words_1", "eyes_published_1", "mouth_published_1", "eyes_words_2", "eyes+mouth_published_1"]
    assert runner.all_done(QUICK, tmp_path) == []


def test_objects_have_no_words() -> None:
    cells = LabPlan(("eyes", "ribbon"), ("words", "ours"), (1,), SMALL).cells
    assert [cell.name for cell in cells] == ["eyes_words_1", "eyes_ours_1", "ribbon_ours_1"]


def test_the_first_faces_are_the_same_however_many_are_drawn(tmp_path: Path) -> None:
    """So that effects at one weight can be compared with those at another."""
    bench = Bench(FakeHost(tmp_path), SMALL, tmp_path)
    prompts = [TASKS["eyes"].prompt(face) for face in TASKS["eyes"].new_faces(1, 5)]
    assert (bench.draw(prompts, 1)[:2] == bench.draw(prompts[:2], 1)).all()
    assert (bench.draw(prompts, 1) != bench.draw(prompts, 2)).any()


# tables and the page


def done(task: str, variant: str, seed: int, **figures: Any) -> Done:
    return Done(Cell(task, variant, seed), {"base_hits": 0.5, "hits": 1.0, "reverse_hits": 0.0, **figures})


@pytest.fixture
def summary() -> Summary:
    return Summary(
        [
            done("eyes", "published", 1, hits=0.5, flips=0.0, steps=30),
            done("eyes", "published", 2, hits=0.6, flips=0.0, steps=30),
            done("eyes", "ours", 1, flips=0.02, steps_to_90=20, seconds_to_90=4.25, contrast=0.9, sharpness=0.8),
            done("eyes", "ours", 2, flips=0.04, contrast=0.7, sharpness=0.8),
            done("eyes", "no-mask", 1, flips=0.2, effects=[0, 0.2, 0.5, 1, 1.1, 1.2]),
            done("style", "ours", 1, hits=0.8),
            Done(
                Couple("eyes", "mouth", "ours", 1), {"first_alone": 1, "second_alone": 0.5, "product": 0.5, "both": 0.4}
            ),
            Done(Cell("style", "published", 1), {}, "nothing was learnt."),
        ]
    )


def test_mean_and_spread() -> None:
    column = Column("hits", "hits", 100)
    assert cell_text([0.9, 1.0], column) == "95 ± 7"
    assert cell_text([0.9], column) == "90"
    assert cell_text([], column) == "-"
    assert cell_text([1.234], Column("x", "x", 1, 1)) == "1.2"


def row(table: str, name: str) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name), strict=True))


def test_the_table_of_a_task(summary: Summary) -> None:
    table = task_table(summary, "eyes")
    ours = row(table, "ours")
    assert ours["at 1, %"] == "**100 ± 0**"
    assert row(table, "no-mask")["at 1, %"] == "**100**", "as good"
    assert ours["flips, %"] == "**3 ± 1**", "the published row disturbs less but does not learn it"
    assert ours["steps to 90 %"] == "**20 (1 of 2)**"
    assert ours["contrast, %"] == "80 ± 14"
    assert row(table, "published")["at 1, %"] == "55 ± 7"
    assert row(table, "no-mask")["flips, %"] == "20"
    assert len(ours) == len(COLUMNS) + 1


def test_the_table_of_all_tasks(summary: Summary) -> None:
    table = overall_table(summary)
    assert row(table, "ours")["tasks learnt"] == "1 of 2"
    assert row(table, "ours")["at 1, %"] == "90", "the mean of the tasks' means, whatever the number of seeds"
    assert row(table, "published")["tasks learnt"] == "0 of 1"
    assert row(table, "ours")["steps to 90 %"] == "20"
    assert row(couples_table(summary), "ours")["both, %"] == "40"


def test_the_page_keeps_what_a_person_wrote(summary: Summary, tmp_path: Path) -> None:
    page = report.write_report(summary, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "nothing was learnt." in text
    page.write_text(text.replace(report.BEGIN, f"{report.BEGIN}\nOurs *won*.\n"), encoding="utf-8")
    for _ in range(2):
        report.write_report(summary, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.count("Ours *won*.") == 1
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    figures = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))
    assert figures["cells"]["eyes"]["ours"][0]["steps_to_90"] == 20
    pictures = sorted((tmp_path / "lab").iterdir())
    assert [path.name for path in pictures] == ["edges.png", "growth.png", "hits.png", "steps.png"]
    assert all(f"](lab/{path.name})" in text for path in pictures)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width > 600


# the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "nose"], "--tasks nose does not exist"),
        (["--methods", "magic"], "--methods magic does not exist"),
        (["--seeds", "0"], "whole numbers from 1 on"),
        (["--seeds", "one"], "whole numbers from 1 on"),
        (["--workers", "-1"], "below 0"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_lab.importlib.util, "find_spec", lambda _name: None)
    assert main(["lab", "--out", str(tmp_path / "out")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_worker_processes_do_what_one_process_does(tmp_path: Path) -> None:
    what = LabPlan(("eyes", "hair"), ("words",), (1,), replace(SMALL, faces=2))
    several = run_plan(what, tmp_path / "two", 2, lambda *_: None)
    one = run_plan(what, tmp_path / "one", 1, lambda *_: None)
    assert {each.work: each.figures for each in several} == {each.work: each.figures for each in one}


@pytest.mark.slow
def test_the_quick_laboratory_shows_that_ours_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--methods", "words,ours", "--workers", "1", "--out", str(tmp_path)]
    assert main(["lab", *arguments, "--docs", str(tmp_path / "docs")]) == 0
    output = capsys.readouterr().out
    assert "5/5 eyes+mouth_ours_1" in output
    figures = json.loads((tmp_path / "docs" / "lab.json").read_text(encoding="utf-8"))
    eyes = figures["cells"]["eyes"]
    assert eyes["words"][0]["hits"] == eyes["ours"][0]["hits"] == 1
    assert eyes["ours"][0]["steps_to_90"] <= 60
    assert eyes["ours"][0]["recovery"] > 0.5
    assert main(["lab", *arguments, "--docs", str(tmp_path / "docs")]) == 0
    assert "measured before" in capsys.readouterr().out
