"""The frozen half of every step, ahead of it: the model's own predictions without the LoRA, many turns in a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair, Side
from lib_addift.diffusion.memory import in_parts, samples_at_once
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.training.encoder_cache import Features, encoder_parts, recording
from lib_addift.training.plan import Plan, Turn, turn_noise


def noisy_batch(
    sides: Sequence[Side], turns: Sequence[Turn], schedule: NoiseSchedule
) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    """Noisy latents (B, 4, h, w), timesteps (B,) and conditions of some turns."""
    latents = torch.cat([side.latents for side in sides])
    noise = torch.cat([turn_noise(turn, side.latents.shape) for turn, side in zip(turns, sides, strict=True)])
    timesteps = torch.tensor([turn.timestep for turn in turns], device=latents.device)
    noisy_latents = schedule.add_noise(latents, noise.to(latents.device), timesteps)
    return noisy_latents, timesteps, Conditions.cat([side.cond for side in sides])


@dataclass(frozen=True, eq=False)
class _Window:
    """Turns that the model is asked about at once; their pictures are of one size."""

    shape: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class _Answer:
    """What the frozen model says of a turn: epsilon (1, 4, h, w), and what its encoder made of the picture."""

    noise_pred: torch.Tensor
    features: Features | None


class TeacherPredictions:
    """The frozen model's epsilon for each turn of `asked`, known a window of turns ahead.

    Windows are cut from the whole plan, so that a resumed run asks for the same batches. `batch_size` 0 chooses the
    size of windows by that of the latents. With `shares_encoder`, features are kept too.
    """

    def __init__(
        self,
        host: Host,
        pairs: Sequence[LatentPair],
        asked: Plan,
        batch_size: int = 0,
        *,
        shares_encoder: bool = False,
    ) -> None:
        self._host, self._pairs = host, pairs
        self._recorded = encoder_parts(host.unet) if shares_encoder else []
        self._schedule = NoiseSchedule(host.alphas_cumprod)
        self._window_of: dict[Turn, _Window] = {}
        self._known: dict[_Window, dict[Turn, _Answer]] = {}
        by_shape: dict[tuple[int, ...], list[Turn]] = {}
        for turn in dict.fromkeys(turn for step in asked for turn in step):
            by_shape.setdefault(pairs[turn.pair].shape, []).append(turn)
        for shape, alike in by_shape.items():
            size = batch_size or samples_at_once(*shape[2:4])
            for start in range(0, len(alike), size):
                window = _Window(shape, tuple(alike[start : start + size]))
                self._window_of.update(dict.fromkeys(window.turns, window))

    def prefetch(self, turns: Sequence[Turn]) -> None:
        """Ask for the windows of `turns` if they are not known. No LoRA may be attached.

        Of each size of pictures two windows are kept: the directions of a visit may lie on both sides of a border.
        """
        for window in dict.fromkeys(self._window_of[turn] for turn in turns if turn in self._window_of):
            if window not in self._known:
                alike = [known for known in self._known if known.shape == window.shape]
                for stale in alike[:-1]:
                    del self._known[stale]
                parts = in_parts(self._ask, window.turns)
                self._known[window] = {turn: answer for answers in parts for turn, answer in answers.items()}

    def __getitem__(self, turn: Turn) -> torch.Tensor:
        """The epsilon (1, 4, h, w) of a turn that was looked ahead to."""
        return self._known[self._window_of[turn]][turn].noise_pred

    def student_features(self, turn: Turn) -> Features | None:
        """What the encoder makes of what the LoRA sees in `turn`: the frozen model saw it in the other direction."""
        seen = dataclasses.replace(turn, direction=turn.direction.opposite)
        window = self._window_of.get(seen)
        return self._known[window][seen].features if window in self._known else None

    @torch.no_grad()
    def _ask(self, turns: Sequence[Turn]) -> dict[Turn, _Answer]:
        sides = [self._pairs[turn.pair].reference(turn.direction) for turn in turns]
        with recording(self._recorded) as features:
            noise_pred = self._host.predict_noise(*noisy_batch(sides, turns, self._schedule))
        is_whole = len(features) == len(sides)  # a host may have added samples of its own
        return {
            turn: _Answer(epsilon, features[place] if is_whole else None)
            for place, (turn, epsilon) in enumerate(zip(turns, noise_pred.split(1), strict=True))
        }
