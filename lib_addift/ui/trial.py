"""The test in txt2img: one prompt and one seed, drawn by the host itself at several weights of a finished LoRA."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_addift.diffusion.host import Host
from lib_addift.evaluation.preview import labelled_row
from lib_addift.hosts.prompt_tag.syntax import MERGE, has_tag, with_mode
from lib_addift.ui.background import BackgroundTask, Work

WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class TrialRequest:
    """What is to be drawn."""

    lora: str  # NAME of the tag
    prompt: str
    negative_prompt: str = ""
    seed: int = 1
    width: int = 512
    height: int = 512
    cfg_scale: float = 7.0
    mode: str = MERGE  # how the LoRAs of the prompt and this one act together, one of prompt_tag.syntax.MODES

    def prompt_at(self, weight: float) -> str:
        """The prompt with the LoRA at a weight; 0 is without it. `merge` leaves the other tags as they were typed."""
        prompt = f"{self.prompt} <lora:{self.lora}:{weight:g}>" if weight else self.prompt
        return prompt if self.mode == MERGE else with_mode(prompt, self.mode)


class Trial:
    """The latest test and its pictures so far, which `task` draws."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.task = BackgroundTask("addift-test", "a test is being drawn already: wait until it is done.")
        self.request: TrialRequest | None = None
        self.pictures: list[np.ndarray] = []  # (H, W, 3) uint8, in the order of WEIGHTS

    def start(self, request: TrialRequest) -> threading.Thread:
        """Start to draw; each picture waits until the host is free. Raises JobError while another test is drawn."""

        def prepare() -> Work:
            self.request, self.pictures = request, []
            return functools.partial(self._draw, request)

        return self.task.start(prepare)

    @property
    def text(self) -> str:
        """What it is doing, or how it ended."""
        if self.request is None or self.task.error:
            return ""
        if self.task.is_busy:
            return f"drawing picture {len(self.pictures) + 1} of {len(WEIGHTS)}; it waits while the model is busy"
        request = self.request
        text = f"the same prompt and seed ({request.seed}) with {request.lora} at each weight; 0 is without it"
        if request.mode == MERGE:
            return text
        if not has_tag(request.prompt):
            return f"{text}. The prompt names no other LoRA, so {request.mode} does what merge does"
        return f"{text}; {request.mode} with the other LoRAs of the prompt"

    def row(self) -> Image.Image | None:
        """The pictures so far, side by side."""
        pictures = list(self.pictures)
        if not pictures:
            return None
        return labelled_row(np.stack(pictures), [f"{weight:g}" for weight in WEIGHTS[: len(pictures)]])

    def _draw(self, request: TrialRequest) -> None:
        for weight in WEIGHTS:
            picture = self.host.draw(
                request.prompt_at(weight), negative_prompt=request.negative_prompt, seed=request.seed,
                cfg_scale=request.cfg_scale, width=request.width, height=request.height,
            )  # fmt: skip
            self.pictures.append(picture)
            self.task.touch()
