"""The rows of the laboratory's tables: pictures to train on, and settings over the task's preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.experiments.lab import pairs
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.training.methods import make_config

_SEED_SPACING = 1000  # a run counts up from its seed; the next one's noise is its own
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
    words: str  # for the page
    settings: Mapping[str, Any] = field(default_factory=dict)
    make_pairs: pairs.PairMaker = field(default_factory=pairs.painted)
    style_settings: Mapping[str, Any] = field(default_factory=dict)  # more settings for tasks with the preset 'style'
    swaps_style: bool = False  # in these tasks the pictures change places
    in_words: bool = False  # no LoRA: the prompt names the value
    in_layers: bool = False  # over the preset of the task; otherwise over the default, whatever the task
    needs_words: bool = False  # the checkpoint draws the pairs, so it must know the change
    is_previewed: bool = False  # with a preview prompt that names all but the change, as the prompts of use do

    def config(self, task: LabTask, seed: int) -> TrainConfig:
        """The settings for a task: its preset or the default, and over it the variant's and the seed."""
        more = {**self.style_settings} if task.preset == "style" else {}
        if self.is_previewed:
            more["preview_prompt"] = task.varied_prompt({})
        return make_config(
            task.preset if self.in_layers else "", **{**self.settings, **more, "seed": _SEED_SPACING * seed}
        )

    def can_do(self, task: LabTask) -> bool:
        """Whether it has what it needs: words for the change, where it uses them."""
        return task.is_known or not (self.in_words or self.needs_words)

    def sources(self, bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        """The pictures to train on."""
        made = self.make_pairs(bench, task, seed)
        if not (self.swaps_style and task.preset == "style"):
            return list(made)
        return [replace(pair, original=pair.target, target=pair.original) for pair in made]


def _long(method: str, words: str) -> Variant:
    """A method that trains on the true noise, for which it needs hundreds of steps."""
    return Variant(
        method, words, in_layers=True, settings={"method": method, "max_train_steps": 300, "first_train_steps": 300}
    )


def _drawn(name: str, words: str, settings: Mapping[str, Any], maker: pairs.PairMaker) -> Variant:
    return Variant(name, words, settings, maker, needs_words=True)


# The rows that are measured unless told.
TABLE = ("ours", "previewed", "captioned", "from-words-16", "four-pairs", "words", "published-fast")
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("ours", "one pair of a random face, painted; the default settings"),
        Variant("previewed", "the same pair, with a preview prompt that names all but the change, with alternatives",
                is_previewed=True),
        Variant("captioned", "the same pair, with a prompt that says what both pictures show, without the change",
                make_pairs=pairs.painted(captioned=True)),
        _drawn("from-words-16", "sixteen pairs that the checkpoint draws from two prompts, each under its caption",
               {"mask": "off"}, pairs.from_words(16)),
        Variant("four-pairs", "four painted pairs", {"hold_out": False}, pairs.painted(4)),
        Variant("words", "no LoRA: the prompt says it", in_words=True),
        Variant("published-fast", "ADDifT with its author's settings at ten times the rate, calibrated",
                {**_PUBLISHED, **_FAST}, style_settings={**_PUBLISHED_STYLE, **_FAST}, in_layers=True),
        Variant("published", "ADDifT with its author's settings", _PUBLISHED, style_settings=_PUBLISHED_STYLE,
                swaps_style=True, in_layers=True),
        Variant("in-layers", "a LoRA in the layers that the task's preset names", in_layers=True),
        # Other pictures.
        _drawn("free-words-16", "sixteen pairs from full captions, drawn freely, each under its caption",
               {"mask": "off"}, pairs.drawn(16, captioned=True)),
        Variant("varied-8", "a painted pair and eight variations of it that the checkpoint draws",
                make_pairs=pairs.varied(8)),
        _drawn("drawn", "one pair that the checkpoint draws", {}, pairs.drawn()),
        _drawn("inpainted", "the same, the target's pixels only where the change may be", {},
               pairs.drawn(inpainted=True)),
        Variant("jpeg", "both pictures as JPEG of quality 75", make_pairs=pairs.damaged(pairs.as_jpeg)),
        Variant("shifted", "the target shifted by 1 px", make_pairs=pairs.damaged(pairs.shifted)),
        Variant("cast", "the target with a warmer white balance", make_pairs=pairs.damaged(pairs.with_cast)),
        # Other settings.
        Variant("no-mask", "without the mask", {"mask": "off"}),
        Variant("no-calibration", "the weight as it comes, whatever new pictures show", {"calibrate": False}),
        Variant("alternating", "one direction a step", {"directions": "alternate"}),
        Variant("forward-only", "without reverse samples", {"directions": "forward"}),
        Variant("all-layers", "a LoRA in all layers of all blocks", _EVERYWHERE, in_layers=True),
        Variant("all-timesteps", "all timesteps", {"min_timestep": 0}),
        Variant("self-regularised", "held to the model elsewhere", {"self_regularisation": 1.0}),
        Variant("searched", "the best of five recipes, as new pictures tell", {"search": True}),
        # Other methods.
        _long("copier", "a LoRA of the original, then one of the target on top"),
        _long("residual", "a LoRA of the target minus one of the original"),
        Variant("slider", "the target at weight 1, the original at -1", {"method": "slider"}, in_layers=True),
        _long("lora", "the target's picture"),
        Variant("differential", "copier for each of four pairs, averaged",
                {"method": "differential", "max_train_steps": 150, "first_train_steps": 150}, pairs.painted(4),
                in_layers=True),
    )
}  # fmt: skip
