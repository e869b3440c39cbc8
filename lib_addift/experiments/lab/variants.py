"""The rows of the laboratory's table: ways to train, each a set of settings over a task's preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.training.methods import make_config

_LINEAR = ("self_attention", "cross_attention", "feed_forward", "projections")
_EVERYWHERE = {"layers": (*_LINEAR, "convolutions"), "blocks": ("IN", "MID", "OUT")}
# Source: sd-webui-traintrain, presets for SD1.5. Its optimizer is CAME, which needs another package; here AdamW. Rates
# are brought to this UNet's width as those of all rows are (docs/method.md): as they stand they learn nothing.
_PUBLISHED = {
    "rank": 4, "alpha": 1.0, "layers": _LINEAR, "blocks": ("IN", "MID", "OUT"), "max_train_steps": 30,
    "learning_rate": 1e-4, "lr_schedule": "cosine", "lr_end_ratio": 0.1, "directions": "alternate",
    "train_multiplier": 0.25, "min_timestep": 500, "max_timestep": 1000, "min_snr_gamma": 5.0, "mask": "off",
    "calibrate": False, "strength": 1.0,
}  # fmt: skip
_PUBLISHED_STYLE = {
    "max_train_steps": 50, "learning_rate": 5e-5, "min_timestep": 200, "max_timestep": 400, "strength": 5.0,
}  # fmt: skip

# As published it learns next to nothing here, so that a comparison would be too easy.
_FAST = {"learning_rate": 1e-3, "calibrate": True, "strength": 1.0}


@dataclass(frozen=True)
class Variant:
    """A way to train, or (`in_words`) the prompt alone."""

    name: str
    words: str  # for the table
    settings: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # more settings for a kind of task
    swapped: tuple[str, ...] = ()  # kinds of task in which original and target are swapped
    pairs: int = 1
    in_words: bool = False  # no LoRA: the prompt names the value

    def config(self, task: LabTask, seed: int) -> TrainConfig:
        """The settings for a task: its preset, and over it the variant's and the seed."""
        more = self.kinds.get(task.kind, {})
        return make_config(task.preset, **{**self.settings, **more, "seed": seed})


def _long(method: str, words: str) -> Variant:
    """A method that trains on the true noise, for which it needs hundreds of steps."""
    return Variant(method, words, {"method": method, "max_train_steps": 300, "first_train_steps": 300})


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("words", "no LoRA: the prompt says it", in_words=True),
        Variant(
            "published", "ADDifT with its author's settings", _PUBLISHED, {"style": _PUBLISHED_STYLE}, ("style",)
        ),
        Variant("published-fast", "the same at ten times the rate, calibrated", {**_PUBLISHED, **_FAST},
                {"style": {**_PUBLISHED_STYLE, **_FAST}}),
        Variant("ours", "the presets as they are"),
        Variant("no-mask", "ours without the mask", {"mask": "off"}),
        Variant("no-calibration", "ours, weight 1 as it comes", {"calibrate": False, "strength": 1.0}),
        Variant("alternating", "ours, one direction a step", {"directions": "alternate"}),
        Variant("forward-only", "ours without reverse turns", {"directions": "forward"}),
        Variant("all-layers", "ours on all layers of all blocks", _EVERYWHERE),
        Variant("all-timesteps", "ours at all timesteps", {"min_timestep": 0}),
        Variant("self-regularised", "ours, held to the model elsewhere", {"self_regularisation": 1.0}),
        # With the steps of one pair the hair disturbs 22.7 grey levels; with 240, 6.6 (docs/lab.md).
        Variant("four-pairs", "ours from four pairs", {"hold_out": False, "max_train_steps": 120}, pairs=4),
        _long("copier", "a LoRA of the original, then one of the target on top"),
        _long("residual", "a LoRA of the target minus one of the original"),
        Variant("slider", "the target at weight 1, the original at -1", {"method": "slider"}),
        _long("lora", "the target's picture"),
        Variant(
            "differential", "copier for each of four pairs, averaged",
            {"method": "differential", "max_train_steps": 150, "first_train_steps": 150}, pairs=4,
        ),
    )
}  # fmt: skip
