"""The set-up of all measurements: the model, how much is drawn, and the reference pictures of a task and seed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from lib_addift.demo.evaluate import draw_prompts
from lib_addift.diffusion.host import Host, lora_modules
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.files import replace_files
from lib_addift.lora.network import LoraNetwork

_NOISE_SEED = 72_000  # noise of the measured pictures, not that of training


@dataclass(frozen=True)
class Scale:
    """How many pictures are drawn, and with how many sampling steps."""

    faces: int = 24
    growth_faces: int = 8  # the first of them, at the weights other than -1, 0 and 1
    probe_faces: int = 10  # the first of them, for the LoRAs of earlier steps
    sampling_steps: int = 8


QUICK = Scale(faces=6, growth_faces=3, probe_faces=4, sampling_steps=4)


@dataclass(frozen=True, eq=False)
class Scene:
    """Pictures of the same faces, each (faces, 64, 64, 3) uint8."""

    base: np.ndarray  # drawn by the model from a prompt that does not mention the value
    original: np.ndarray  # painted without the value, through the VAE
    target: np.ndarray  # painted with it, through the VAE: the best that the model could draw


@dataclass(frozen=True, eq=False)
class Bench:
    """A host and how much to draw on it; scenes are cached in `folder`."""

    host: Host
    scale: Scale
    folder: Path

    def draw(
        self, prompts: Sequence[str], seed: int, network: LoraNetwork | None = None, weight: float = 0.0
    ) -> np.ndarray:
        """One picture for each prompt, (B, 64, 64, 3) uint8; picture n starts from noise n of `seed` for all methods.

        `network` must be attached.
        """
        with self.host.exclusive():
            return draw_prompts(
                self.host, prompts, _NOISE_SEED + seed, network, weight, steps=self.scale.sampling_steps
            )

    def network(self, tensors: Mapping[str, torch.Tensor]) -> LoraNetwork:
        """A LoRA on the host's model."""
        return LoraNetwork.over(lora_modules(self.host), tensors)

    def scene(self, task: LabTask, seed: int) -> Scene:
        """The scene of a task and seed, drawn by the first call and then read from the cache."""
        path = self.folder / f"{task.name}_{seed}_{self.scale.faces}_{self.scale.sampling_steps}.npz"
        if path.exists():
            with np.load(path) as kept:
                return Scene(**{field.name: kept[field.name] for field in fields(Scene)})
        faces = task.new_faces(seed, self.scale.faces)
        painted = [[np.asarray(task.paint(face, shown=shown)) for face in faces] for shown in (False, True)]
        scene = Scene(self.draw([task.prompt(face) for face in faces], seed), *map(self.through_vae, painted))
        file = io.BytesIO()
        np.savez(file, **vars(scene))
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_files({path: file.getvalue()}, durable=False)
        return scene

    def through_vae(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Painted pictures encoded and decoded by the model's VAE, (B, 64, 64, 3) uint8."""
        with self.host.exclusive():
            return self.host.decode_latents(self.host.encode_images(np.stack(pictures)))
