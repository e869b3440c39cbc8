"""What a step aims at: the frozen model's own predictions, asked for ahead, many samples in a batch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, Side
from lib_addift.diffusion.memory import in_parts, samples_at_once
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.training.encoder_cache import Features, encoder_parts, recording
from lib_addift.training.plan import Plan, Sample


def sample_noise(sample: Sample, shape: torch.Size) -> torch.Tensor:
    """The noise of a sample, float32 on the CPU; both directions of a visit get the same."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(sample.noise_seed))


def noisy_batch(
    sides: Sequence[Side], samples: Sequence[Sample], schedule: NoiseSchedule
) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    """Noisy latents (B, C, h, w), timesteps (B,) and conditions of some samples, of which `sides` are the pictures."""
    latents = torch.cat([side.latents for side in sides])
    noise = torch.cat([sample_noise(each, side.latents.shape) for each, side in zip(samples, sides, strict=True)])
    timesteps = torch.tensor([sample.timestep for sample in samples], device=latents.device)
    noisy_latents = schedule.add_noise(latents, noise.to(latents.device), timesteps)
    return noisy_latents, timesteps, Conditions.cat([side.cond for side in sides])


_KEPT = 2  # windows of each size whose features are kept: 16 samples, 200 MB at 512 px


@dataclass(frozen=True, eq=False)
class _Window:
    """Samples that the frozen model is asked about at once; their pictures are of one size."""

    shape: tuple[int, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, eq=False)
class _Prediction:
    """What the frozen model says of a sample: epsilon (1, C, h, w), and what its encoder made of the picture."""

    noise_pred: torch.Tensor
    features: Features | None


class TeacherPredictions:
    """The frozen model's epsilon for each sample of `asked`, known a window of samples ahead.

    Windows are cut from the whole plan, so that a resumed run asks for the same batches. `batch_size` 0 chooses the
    size of windows by that of the latents. With `shares_encoder`, the encoder's features are kept too, unless the
    windows of one step are so many that their features would need gigabytes.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[LatentPair],
        asked: Plan,
        batch_size: int = 0,
        *,
        shares_encoder: bool = False,
    ) -> None:
        self._model, self._pairs = model, pairs
        self._schedule = NoiseSchedule(model.alphas_cumprod)
        self._window_of: dict[Sample, _Window] = {}
        self._known: dict[_Window, dict[Sample, _Prediction]] = {}
        by_shape: dict[tuple[int, ...], list[Sample]] = {}
        for sample in dict.fromkeys(sample for step in asked for sample in step):
            by_shape.setdefault(pairs[sample.pair].shape, []).append(sample)
        for shape, alike in by_shape.items():
            size = batch_size or samples_at_once(*shape[2:4])
            for start in range(0, len(alike), size):
                window = _Window(shape, tuple(alike[start : start + size]))
                self._window_of.update(dict.fromkeys(window.samples, window))
        shares_encoder = shares_encoder and self._most_windows(asked) <= _KEPT
        self._recorded = encoder_parts(model.unet) if shares_encoder else []

    def _most_windows(self, asked: Plan) -> int:
        """The most windows of one size that a step's samples lie in."""
        counts = (Counter(window.shape for window in self._windows(samples)) for samples in asked)
        return max((count for step in counts for count in step.values()), default=0)

    def _windows(self, samples: Sequence[Sample]) -> list[_Window]:
        """The windows that `samples` lie in, in order; a sample that needs no prediction lies in none."""
        return list(dict.fromkeys(self._window_of[each] for each in samples if each in self._window_of))

    def prefetch(self, samples: Sequence[Sample]) -> None:
        """Ask for the windows of `samples` if they are not known. No LoRA may be attached.

        All windows of a step are kept while it lasts. Of each size of pictures the newest one stays beside them: the
        directions of a visit may lie on both sides of a border.
        """
        needed = self._windows(samples)
        for window in needed:
            if window not in self._known:
                alike = [known for known in self._known if known.shape == window.shape]
                for stale in alike[:-1]:
                    if stale not in needed:
                        del self._known[stale]
                parts = in_parts(self._ask, window.samples)
                self._known[window] = {sample: said for part in parts for sample, said in part.items()}

    def __getitem__(self, sample: Sample) -> torch.Tensor:
        """The epsilon (1, C, h, w) of a sample that was fetched."""
        return self._known[self._window_of[sample]][sample].noise_pred

    def student_features(self, sample: Sample) -> Features | None:
        """What the encoder makes of what the LoRA sees: the frozen model saw it in the other direction."""
        seen = dataclasses.replace(sample, direction=sample.direction.opposite)
        window = self._window_of.get(seen)
        return self._known[window][seen].features if window in self._known else None

    @torch.no_grad()
    def _ask(self, samples: Sequence[Sample]) -> dict[Sample, _Prediction]:
        sides = [self._pairs[sample.pair].reference(sample.direction) for sample in samples]
        with recording(self._recorded) as features:
            noise_pred = self._model.predict_noise(*noisy_batch(sides, samples, self._schedule))
        is_whole = len(features) == len(sides)  # a host may have added samples of its own
        return {
            sample: _Prediction(epsilon, features[place] if is_whole else None)
            for place, (sample, epsilon) in enumerate(zip(samples, noise_pred.split(1), strict=True))
        }
