"""The lowest timestep by the size of the pictures."""

from __future__ import annotations

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.config.timesteps import BY_SIZE, HIGHEST, lowest_timestep
from lib_addift.errors import ConfigError


@pytest.mark.parametrize(
    ("width", "height", "lowest"), [(64, 64, 500), (128, 64, 600), (128, 128, 700), (512, 512, 700), (32, 32, 500)]
)
def test_larger_pictures_are_decided_later_up_to_a_limit(width: int, height: int, lowest: int) -> None:
    assert lowest_timestep(width, height) == lowest == lowest_timestep(height, width)


def test_a_size_leaves_room_for_the_bands_whatever_it_is() -> None:
    config = TrainConfig.create("concept", max_timestep=HIGHEST + 5)
    assert config.min_timestep == BY_SIZE
    with pytest.raises(ConfigError, match="min_timestep = -1 and max_timestep = 704 leave no room for 5 bands"):
        TrainConfig.create("concept", max_timestep=HIGHEST + 4)
