"""New pictures: their figures where the right answer is known, how many are drawn, and from which prompts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.latents import LatentPair, Side
from lib_addift.evaluation.new_pictures import PROMPTS, NewPictures, Painter, drawn_size, picture_grid, prompts
from lib_addift.evaluation.preview import preview_prompts
from lib_addift.lora.names import kohya
from tests.support.fake_host import FakeHost
from tests.support.painter_host import PainterHost, painting_lora

CELL = 128  # px a picture has in a labelled row; those of 64 px are enlarged
PASSES = 180.0  # half of 60 steps with both directions
SHIFT_PASSES = 360.0  # half of 30 steps, each with two pictures in both directions


def spot(size: float = 1.0, *, at: int = 3, elsewhere: float = 0.0) -> torch.Tensor:
    """A change (1, 4, 8, 8) of a few cells at a place, and of all other cells by `elsewhere` of that."""
    change = torch.full((1, 4, 8, 8), elsewhere * size)
    change[..., at, at : at + 3] = size
    return change


def figures(
    learnt: torch.Tensor, weight: float = 1.0, pair: torch.Tensor | None = None, **settings: float
) -> tuple[NewPictures, torch.Tensor]:
    """What is said and drawn of a LoRA that adds `learnt` to every picture; the pair differs by a spot."""
    host, config = PainterHost(4 * 8 * 8), TrainConfig.create("action", **settings)
    network, cond = painting_lora(host, learnt), Conditions(torch.zeros(1, 5, 6))
    difference = spot() if pair is None else pair
    latents = LatentPair(Side(torch.zeros_like(difference), cond), Side(difference, cond), None)
    with network.attach():
        painter = Painter(host, network, [latents], config, PASSES)
        return painter.draw(painter.look(weight))


def test_a_lora_that_makes_the_pairs_change_reaches_every_picture_and_spreads_on_none() -> None:
    new, latents = figures(spot() / 2)
    assert (new.count, new.reach, new.spread, new.weight) == (8, 8, 0, 1.0)
    assert new.sizes == pytest.approx([1.0] * 8, abs=1e-3), "from -1 to 1 it is half and half"
    assert new.along == pytest.approx([1.0] * 8, abs=1e-3)
    assert new.spreads == pytest.approx([0.0] * 8, abs=1e-3)
    assert latents.shape == (3, 8, 4, 8, 8)


@pytest.mark.parametrize(("part", "reached"), [(0.0, 0), (0.2, 0), (0.6, 8), (2.0, 8)])
def test_a_change_that_is_too_small_does_not_reach(part: float, reached: int) -> None:
    assert figures(part * spot() / 2)[0].reach == reached


def test_the_change_counts_wherever_in_the_picture_it_is() -> None:
    assert figures(spot(at=5) / 2)[0].reach == 8


def test_the_same_change_all_over_the_picture_is_no_reach_but_spread() -> None:
    """As much in all, but in no cell as much as in the pair."""
    even = torch.full((1, 4, 8, 8), spot().square().mean().sqrt().item())
    new = figures(even / 2)[0]
    assert new.reach == 0
    assert figures(even * 2)[0].spread == 8


@pytest.mark.parametrize(("elsewhere", "spread"), [(0.05, 0), (0.6, 8)])
def test_what_changes_beside_the_strongest_cells_is_spread(elsewhere: float, spread: int) -> None:
    new = figures(spot(elsewhere=elsewhere))[0]
    assert (new.reach, new.spread) == (8, spread)


def test_what_the_pair_itself_has_beside_its_strongest_cells_is_no_spread() -> None:
    change = spot(elsewhere=0.1)
    assert figures(change / 2, pair=change)[0].spread == 0


def test_a_change_of_the_whole_picture_can_be_reached() -> None:
    whole = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    new = figures(whole / 2, pair=whole)[0]
    assert (new.reach, new.spread) == (8, 0)


@pytest.mark.parametrize(("weight", "is_backwards"), [(1.0, True), (-1.0, False)])
def test_the_opposite_change_is_told(weight: float, is_backwards: bool) -> None:
    new, latents = figures(-spot() / 2, weight)
    assert (new.reach, new.is_backwards, new.weight) == (8, is_backwards, weight)
    assert torch.allclose(latents[2] - latents[0], -weight * spot().expand(8, -1, -1, -1), atol=1e-3)


def test_spread_is_that_of_pictures_drawn_from_noise_and_reach_that_of_noised_ones() -> None:
    """A picture is drawn in timesteps from 999 on; from 699 on what the picture is has been decided."""
    change, host, config = spot(elsewhere=0.6) / 2, PainterHost(4 * 8 * 8), TrainConfig.create("action")
    network, cond = painting_lora(host, change), Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros_like(change), cond), Side(spot(), cond), None)
    with network.attach():
        painter = Painter(host, network, [pair], config, PASSES)
        look = painter.look(2.0)
        network.layers[kohya("canvas")].lora_up.data = (spot() / 2).reshape(-1, 1)
        new, _ = painter.draw(look)
    assert (look.reach, look.spread) == (8, 8)
    assert (new.sizes, new.along) == (look.sizes, look.along)
    assert new.spread == 0, "it is measured in what is drawn"


@pytest.mark.parametrize(("way", "reached"), [(1.0, 8), (0.3, 8), (0.15, 0), (-1.0, 0)])
def test_a_shift_is_judged_by_what_is_drawn_and_by_which_way_it_goes(way: float, reached: int) -> None:
    host, config = PainterHost(4 * 8 * 8), TrainConfig.create("concept")
    network, cond = painting_lora(host, way * spot() / 2), Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros(1, 4, 8, 8), cond), Side(spot(), cond), None)
    with network.attach():
        painter = Painter(host, network, [pair], config, PASSES)
        look = painter.look(1.0)
        passes = host.passes
        new, latents = painter.draw(look)
    assert (look.reach, new.reach) == (reached, reached)
    assert latents.shape == (3, 8, 4, 8, 8)
    assert host.passes == passes, "what was looked at is what is drawn"


def test_of_a_pattern_a_shift_may_go_either_way() -> None:
    """Its cells change in opposite ways, so their mean says nothing."""
    pattern = spot() - spot(at=4)
    host, config = PainterHost(4 * 8 * 8), TrainConfig.create("concept")
    network, cond = painting_lora(host, -pattern / 2), Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros(1, 4, 8, 8), cond), Side(pattern, cond), None)
    with network.attach():
        assert Painter(host, network, [pair], config, PASSES).look(1.0).reach == 8


class HalfUnderPromptsHost(PainterHost):
    """A LoRA does half as much under a prompt as it does under the empty one."""

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        empty = self.encode_prompts([""]).crossattn
        is_empty = torch.tensor([torch.equal(each[None], empty) for each in cond.crossattn]).view(-1, 1, 1, 1)
        without = self.seen_noise(latents, timesteps)
        moved = super().predict_noise(latents, timesteps, cond) - without
        return without + moved.where(is_empty, moved / 2)

    def seen_noise(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        abar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (latents - abar.sqrt() * self.seen) / (1 - abar).sqrt()


@pytest.mark.parametrize(("cfg_scale", "size", "reached"), [(1.1, 0.45, 8), (1.4, 0.3, 0), (5.0, 0.0, 0)])
def test_a_shift_is_judged_with_guidance(cfg_scale: float, size: float, reached: int) -> None:
    """Of its effect under a prompt the part that guidance takes is gone: at 5 this one goes the other way."""
    host = HalfUnderPromptsHost(4 * 8 * 8)
    config = TrainConfig.create("concept", preview_prompt="a cat", preview_cfg_scale=cfg_scale)
    network, cond = painting_lora(host, spot() / 2), Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros(1, 4, 8, 8), cond), Side(spot(), cond), None)
    with network.attach():
        new = Painter(host, network, [pair], config, SHIFT_PASSES).look(1.0)
    assert new.sizes == pytest.approx([size] * 8, abs=1e-3)
    assert new.reach == reached


class VariedHost(PainterHost):
    """Paints another brightness for each prompt, which the LoRA does not take away."""

    variety = 0.0

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        abar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        brightness = self.variety * cond.crossattn[:, :1, 0, None, None]
        return super().predict_noise(latents, timesteps, cond) - abar.sqrt() * brightness / (1 - abar).sqrt()


@pytest.mark.parametrize(("variety", "reached"), [(0.1, 8), (5.0, 4)])
def test_pictures_that_do_not_look_alike_where_they_changed_are_not_reached(variety: float, reached: int) -> None:
    """Four of eight prompts are the empty one, and look alike."""
    host, cond = VariedHost(4 * 8 * 8), Conditions(torch.zeros(1, 5, 6))
    host.variety = variety
    network = painting_lora(host, spot() / 2)
    pair = LatentPair(Side(torch.zeros(1, 4, 8, 8), cond), Side(spot(), cond), None)
    with network.attach():
        new = Painter(host, network, [pair], TrainConfig.create("action"), PASSES).look(1.0)
    assert new.sizes == pytest.approx([1.0] * 8, abs=1e-3)
    assert new.reach == reached


def test_where_the_pairs_change_has_no_common_direction_pictures_need_not_look_alike() -> None:
    host, cond = VariedHost(4 * 8 * 8), Conditions(torch.zeros(1, 5, 6))
    host.variety = 5.0
    stripes = torch.ones(1, 4, 8, 8)
    stripes[..., ::2] = -1.0
    network = painting_lora(host, stripes / 2)
    pair = LatentPair(Side(torch.zeros(1, 4, 8, 8), cond), Side(stripes, cond), None)
    with network.attach():
        assert Painter(host, network, [pair], TrainConfig.create("action"), PASSES).look(1.0).reach == 8


def test_with_half_the_strength_half_the_change_is_enough() -> None:
    assert figures(0.3 * spot() / 2)[0].reach == 0
    assert figures(0.3 * spot() / 2, strength=0.5)[0].reach == 8


def test_what_is_not_finite_reaches_nothing_and_spreads_everywhere() -> None:
    new = figures(spot() * float("nan"))[0]
    assert (new.reach, new.spread) == (0, 8)


@pytest.mark.parametrize(
    ("settings", "passes", "size"),
    [
        ({}, 180.0, (8, 4)),
        ({"calibrate": False}, 220.0, (8, 6)),
        ({}, 10_000.0, (8, 12)),
        ({}, 90.0, (4, 4)),
        ({}, 1.0, (4, 4)),
        ({"new_pictures": 2}, 1.0, (2, 4)),
        ({"new_pictures": 16}, 180.0, (16, 4)),
        ({"sampling_steps": 2}, 180.0, (8, 2)),
        ({"new_pictures": 0}, 180.0, (0, 12)),
    ],
)
def test_the_number_of_pictures_and_steps_follows_the_time(
    settings: dict[str, int], passes: float, size: tuple[int, int]
) -> None:
    assert drawn_size(TrainConfig.create("action", **settings), passes) == size


@pytest.mark.parametrize(
    ("settings", "passes", "size"),
    [
        ({"preview_prompt": "a cat"}, 360.0, (8, 4)),
        ({"prompt": "a cat"}, 180.0, (4, 4)),
        ({"preview_prompt": "a cat", "preview_cfg_scale": 1.0}, 360.0, (8, 9)),
        ({}, 360.0, (8, 9)),
    ],
)
def test_guidance_takes_two_passes_a_step(settings: dict[str, Any], passes: float, size: tuple[int, int]) -> None:
    assert drawn_size(TrainConfig.create("concept", **settings), passes) == size


def test_prompts_are_mixed_with_the_empty_one() -> None:
    assert prompts(TrainConfig.create("action"), 4) == [PROMPTS[0], "", PROMPTS[1], ""]
    assert prompts(TrainConfig.create("action", prompt="a face"), 3) == ["a face", "", "a face"]
    told = TrainConfig.create("action", prompt="a face", preview_prompt="a cat", trigger_word="xyz")
    assert prompts(told, 2) == ["xyz, a cat", "xyz"]
    assert len(set(prompts(TrainConfig.create("action"), 64))) == len(PROMPTS) + 1


def test_with_guidance_all_pictures_have_the_prompt() -> None:
    assert prompts(TrainConfig.create("concept", preview_prompt="a cat", trigger_word="xyz"), 2) == ["xyz, a cat"] * 2
    assert prompts(TrainConfig.create("concept", preview_prompt="a cat", preview_cfg_scale=1.0), 2) == ["a cat", ""]
    assert prompts(TrainConfig.create("concept"), 2) == [PROMPTS[0], ""]


def test_each_picture_has_an_alternative_of_its_own() -> None:
    config = TrainConfig.create("concept", prompt="a face", preview_prompt="{red|blue} hair")
    assert set(prompts(config, 16)) == {"red hair", "blue hair"}
    assert prompts(config, 16)[:1] == preview_prompts(config, 1), "the strip shows the first one"
    assert preview_prompts(TrainConfig.create("concept", prompt="a {b|c}"), 2) == ["a {b|c}"] * 2, "learnt as it stands"


def test_the_grid_has_two_pictures_in_a_row_at_three_weights() -> None:
    latents = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    grid = np.asarray(picture_grid(FakeHost(), latents))
    assert grid.shape[1] == 6 * CELL
    height = grid.shape[0] // 2
    shown = FakeHost().decode_latents(latents[2, 1:2])[0]  # the second picture at weight 1: last in the first row
    np.testing.assert_array_equal(grid[:CELL:2, 5 * CELL :: 2], shown)
    assert (grid[height:, 3 * CELL :] == 255).all(), "the third picture stands alone"


def test_the_figures_survive_json() -> None:
    new = figures(spot())[0]
    assert NewPictures.from_values(json.loads(json.dumps(dataclasses.asdict(new)))) == new
    assert NewPictures.from_values({}).count == 0
    assert NewPictures.from_values({"weight": 2.0, "of_another_version": 1}).weight == 2.0
