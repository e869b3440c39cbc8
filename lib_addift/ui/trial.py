"""The test in txt2img: one prompt and one seed, drawn by the host itself at several weights of a finished LoRA."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from lib_addift.diffusion.host import Host
from lib_addift.errors import OUT_OF_MEMORY, AddiftError, JobError
from lib_addift.evaluation.preview import labelled_row
from lib_addift.hosts.prompt_tag.syntax import MERGE, has_tag, with_mode

WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)

_log = logging.getLogger(__name__)


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
    mode: str = MERGE  # how the LoRAs of the prompt and this one act together, one of lora_args.MODES

    def prompt_at(self, weight: float) -> str:
        """The prompt with the LoRA at a weight; 0 is without it. `merge` leaves the other tags as they were typed."""
        prompt = f"{self.prompt} <lora:{self.lora}:{weight:g}>" if weight else self.prompt
        return prompt if self.mode == MERGE else with_mode(prompt, self.mode)


@dataclass
class Trial:
    """The latest test and its pictures so far; `version` grows with every change."""

    host: Host
    request: TrialRequest | None = None
    pictures: list[np.ndarray] = field(default_factory=list)
    error: str = ""
    version: int = 0
    is_running: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self, request: TrialRequest) -> threading.Thread:
        """Begin to draw, in a thread of its own: the host draws when it is free. Raises JobError while one runs."""
        with self._lock:
            if self.is_running:
                raise JobError("a test is being drawn already: wait until it is done.")
            self.request, self.pictures, self.error, self.is_running = request, [], "", True
            self.version += 1
        thread = threading.Thread(target=self._draw, args=(request,), name="addift-test", daemon=True)
        thread.start()
        return thread

    def refuse(self, error: str) -> None:
        """Say why the next test was not begun."""
        self.error = error
        self.version += 1

    @property
    def text(self) -> str:
        """What it is doing, or how it ended."""
        if self.request is None or self.error:
            return ""
        if self.is_running:
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
        try:
            for weight in WEIGHTS:
                picture = self.host.draw(
                    request.prompt_at(weight), negative_prompt=request.negative_prompt, seed=request.seed,
                    cfg_scale=request.cfg_scale, width=request.width, height=request.height,
                )  # fmt: skip
                self.pictures.append(picture)
                self.version += 1
        except AddiftError as error:
            self.error = str(error)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            self.error = OUT_OF_MEMORY
        except Exception as error:  # the thread ends here; a person sees the sentence
            _log.exception("the test of '%s' failed", request.lora)
            self.error = f"unexpected {type(error).__name__}: {error}. The console has the details."
        self.is_running = False
        self.version += 1
