"""The mask from the difference of two predictions, on a model that reacts to a prompt in known places."""

from __future__ import annotations

import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.drawn_pairs.mask import masks_from_prompts
from tests.support.fake_host import FakeHost


class PromptedHost(FakeHost):
    """Predicts noise that depends on the noisy latents, and on the prompt only inside of `area`."""

    def __init__(self, area: torch.Tensor) -> None:
        super().__init__()
        self.area = area

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        word = cond.crossattn.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return 0.5 * latents.sin() + word * self.area + 0.01 * word * latents


def masks(area: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    host = PromptedHost(area)
    first, second = (Conditions(torch.full((len(seeds), 5, 6), value)) for value in (0.0, 1.0))
    return masks_from_prompts(host, torch.zeros(len(seeds), 4, *area.shape[-2:]), first, second, seeds)


def test_the_mask_is_where_the_prompt_acts() -> None:
    area = torch.zeros(1, 1, 8, 8)
    area[..., 2:4, 3:6] = 1
    assert torch.equal(masks(area, [1, 2]), area.repeat(2, 1, 1, 1))


def test_a_large_picture_gets_a_soft_edge() -> None:
    area = torch.zeros(1, 1, 64, 64)
    area[..., 16:32, 16:32] = 1
    mask = masks(area, [1])[0, 0]
    assert mask[18:30, 18:30].min() == 1
    assert mask[:12].max() == 0
    assert 0 < mask[15, 24] < 1


def test_a_change_of_more_than_60_percent_is_one_of_the_whole_picture() -> None:
    area = torch.zeros(1, 1, 8, 8)
    area[..., :6, :] = 1
    assert masks(area, [1]).min() == 1


def test_a_picture_has_the_same_mask_in_every_batch() -> None:
    area = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(masks(area, [5, 6, 7])[1:2], masks(area, [6]))
