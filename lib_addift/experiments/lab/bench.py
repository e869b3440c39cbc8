"""Where methods are measured: the model, how much is drawn, and what all methods of a task and seed are measured on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from lib_addift.demo.evaluate import draw_prompts
from lib_addift.diffusion.host import Host, lora_modules
from lib_addift.experiments.lab.tasks import Task
from lib_addift.files import replace_files
from lib_addift.lora.network import LoraNetwork

_NOISE_SEED = 72_000  # of the pictures that are measured; training has noise of its own


@dataclass(frozen=True)
class Scale:
    """How much is drawn."""

    faces: int = 24
    growth_faces: int = 8  # of them, at the weights other than -1, 0 and 1
    probe_faces: int = 10  # of them, for the kept steps
    sampling_steps: int = 8


QUICK = Scale(faces=6, growth_faces=3, probe_faces=4, sampling_steps=4)


@dataclass(frozen=True, eq=False)
class Scene:
    """Pictures of the same faces, each (faces, 64, 64, 3) uint8."""

    base: np.ndarray  # drawn by the model from a prompt that says nothing of the value
    original: np.ndarray  # painted without the value, through the VAE
    target: np.ndarray  # painted with it, through the VAE: as well as the model could draw it


@dataclass(frozen=True, eq=False)
class Bench:
    """A host and how much to draw on it; scenes are kept in `folder`."""

    host: Host
    scale: Scale
    folder: Path

    def draw(
        self, prompts: Sequence[str], seed: int, network: LoraNetwork | None = None, weight: float = 0.0
    ) -> np.ndarray:
        """A picture a prompt, (B, 64, 64, 3) uint8; picture n begins from noise n of the seed, whatever the method.

        `network` must be attached.
        """
        with self.host.exclusive():
            return draw_prompts(
                self.host, prompts, _NOISE_SEED + seed, network, weight, steps=self.scale.sampling_steps
            )

    def network(self, tensors: Mapping[str, torch.Tensor]) -> LoraNetwork:
        """A LoRA on the host's model."""
        return LoraNetwork.over(lora_modules(self.host), tensors)

    def scene(self, task: Task, seed: int) -> Scene:
        """The scene of a task and seed, made by the first one who asks for it."""
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
        """Painted pictures as the model's VAE gives them back, (B, 64, 64, 3) uint8."""
        with self.host.exclusive():
            return self.host.decode_latents(self.host.encode_images(np.stack(pictures)))
