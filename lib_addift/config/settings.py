"""Every setting of a training run in one place: default, bounds, label, help. Tab, API, CLI and metadata use it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from lib_addift.config.algorithms import ALGORITHMS, Algorithm
from lib_addift.config.combinations import check_together
from lib_addift.config.presets import PRESETS, preset_for
from lib_addift.config.validation import checked
from lib_addift.errors import ConfigError, short_repr

LAYER_KINDS = ("self_attention", "cross_attention", "feed_forward", "projections", "convolutions")
BLOCKS = ("IN", "MID", "OUT")
SAVE_PRECISIONS = ("fp16", "bf16", "fp32")  # see dtypes.DTYPES
METHODS = ("addift", "copier", "differential", "residual", "slider", "lora")


def _setting(default: Any, label: str, help: str, **rules: Any) -> Any:
    """A dataclass field. Rules: `low`, `high` (inclusive), `choices`, `advanced` (False: shown to everyone).

    A setting that names a file says of which kind with `path` ("picture" or "lora"): over the API it may then name
    only files in the folders of that kind.
    """
    return dataclasses.field(default=default, metadata={"label": label, "help": help, **rules})


@dataclass(frozen=True)
class TrainConfig:
    """A validated, unchangeable set of settings. Raises ConfigError when a value breaks a rule."""

    # The LoRA
    rank: int = _setting(
        4, "Rank", "Size of the LoRA: more can hold more detail and makes a larger file.", low=1, high=256
    )
    alpha: float = _setting(
        4.0, "Alpha", "The LoRA acts with alpha / rank; calibration rescales it at the end.", low=1e-3, high=1e3
    )
    algorithm: str = _setting(
        "lora", "Algorithm",
        "shift: one value for each cross-attention, as if the prompt said more; what one pair teaches it holds for new "
        "pictures. lora: low-rank pairs in the chosen layers, also convolutions (LoCon); loha: a higher rank, in a "
        "file twice as large; lokr: Kronecker products, for small files.",
        choices=tuple(ALGORITHMS),
    )  # fmt: skip
    dora: bool = _setting(
        False, "DoRA", "Learn where a weight's columns point apart from how long they are; slower. For algorithm lora."
    )
    dropout: float = _setting(
        0.0, "Dropout", "Share of the ranks (loha, lokr: of the outputs) left out at random in a step; 0 is off.",
        low=0.0, high=0.9,
    )  # fmt: skip
    lokr_factor: int = _setting(
        -1, "LoKr factor", "Size of the smaller matrix of lokr; -1: as near to the larger one's as can be.",
        low=-1, high=1024,
    )  # fmt: skip
    layers: tuple[str, ...] = _setting(
        ("feed_forward", "projections", "convolutions"), "Layers", "Which kinds of layers learn.", choices=LAYER_KINDS
    )
    blocks: tuple[str, ...] = _setting(("OUT",), "Blocks", "Which parts of the UNet learn.", choices=BLOCKS)
    train_text_encoder: bool = _setting(
        False, "Text encoder", "The text encoder learns too, what the words of the prompts or captions mean. Slower."
    )

    # The optimizer
    max_train_steps: int = _setting(
        60, "Steps",
        "Optimizer steps in all. More than about 100 overfits one pair. A set of several gets the root of their number "
        "times as many, unless they are given.",
        low=1, high=100_000, advanced=False,
    )  # fmt: skip
    learning_rate: float = _setting(
        1e-4, "Learning rate",
        "For a UNet of SD1.5's width; a narrower one gets a higher rate (times 320 / width, squared), SDXL's twice it.",
        low=1e-9, high=1.0,
    )  # fmt: skip
    lr_schedule: str = _setting(
        "cosine", "Schedule", "How the learning rate falls.", choices=("constant", "linear", "cosine")
    )
    lr_warmup_steps: int = _setting(
        0, "Warm-up steps", "Steps in which the learning rate rises from 0.", low=0, high=100_000
    )
    lr_end_ratio: float = _setting(0.1, "Final rate", "Share of the learning rate left at the end.", low=0.0, high=1.0)
    optimizer: str = _setting(
        "AdamW", "Optimizer",
        "A name from torch.optim, pytorch_optimizer, bitsandbytes or prodigyopt (the last three when installed).",
    )  # fmt: skip
    optimizer_args: str = _setting("", "Optimizer arguments", "For example: weight_decay=0.01, betas=(0.9, 0.99)")
    lora_plus_ratio: float = _setting(
        1.0, "LoRA+ ratio", "How much faster what starts at zero learns than the rest (LoRA+); 1 is off.",
        low=1.0, high=64.0,
    )  # fmt: skip
    text_encoder_rate: float = _setting(
        0.5, "Text encoder's rate", "Share of the learning rate with which the text encoder learns.",
        low=1e-4, high=10.0,
    )  # fmt: skip

    # The method
    method: str = _setting(
        "addift", "Method",
        "How the difference is learnt. addift is the quickest and the default; copier, differential and residual train "
        "two LoRAs, slider and lora learn to draw the pictures, and all these need hundreds of steps.",
        choices=METHODS,
    )  # fmt: skip
    search: bool = _setting(
        False, "Search a recipe",
        "Five or six recipes learn side by side: these settings, another rate, other layers. The one that does "
        "best on new pictures is saved. For method addift; takes about four times as long.", advanced=False,
    )  # fmt: skip
    first_train_steps: int = _setting(
        0, "Steps of the first LoRA", "Of copier, differential and residual; 0: as many as Steps.", low=0, high=100_000
    )
    first_lora: str = _setting(
        "", "First LoRA", "A file to use as the first LoRA of copier and residual instead of training it.",
        path="lora",
    )  # fmt: skip
    result_rank: int = _setting(
        0, "Rank of the result",
        "The ranks of residual and differential add up; more than so much is cut away (SVD). 0: nothing is.",
        low=0, high=256,
    )  # fmt: skip
    self_regularisation: float = _setting(
        0.0, "Self-regularisation",
        "Weight with which, on unrelated noise and prompts, the LoRA must change nothing; 0 is off. Slower.",
        low=0.0, high=1000.0,
    )  # fmt: skip
    prior_loss_weight: float = _setting(
        1.0, "Weight of regularisation pictures", "Beside 1 for the pictures that are learnt; used by method lora.",
        low=0.0, high=100.0,
    )  # fmt: skip
    train_multiplier: float = _setting(
        0.25, "Training multiplier", "Weight at which the LoRA acts while it learns.", low=1e-3, high=10.0
    )
    directions: str = _setting(
        "both", "Directions",
        "alternate: forward and reverse steps in turn; both: each step learns both; forward: no reverse.",
        choices=("alternate", "both", "forward"),
    )  # fmt: skip
    first_direction: str = _setting(
        "forward", "First direction", "Which of the two comes first.", choices=("forward", "reverse")
    )
    reverse_ratio: float = _setting(
        1.0, "Reverse ratio", "Multiplier of the reverse samples as a share of the forward ones'.", low=0.0, high=10.0
    )
    target_share: float = _setting(
        0.0, "Share of the target",
        "How much of what is learnt is the target itself where the pictures differ, and not the model's guess moved by "
        "the difference, which may go past the target.",
        low=0.0, high=1.0,
    )  # fmt: skip
    batch_size: int = _setting(
        1, "Batch size", "Noises per direction in one step: more is steadier, slower and needs more memory.",
        low=1, high=256,
    )  # fmt: skip
    min_timestep: int = _setting(
        500, "Lowest timestep",
        "Inclusive. Pose and action: 500; style and detail: 200. -1: by the pictures' size, 500 at 64 px, 700 from "
        "128 px on.",
        low=-1, high=999,
    )  # fmt: skip
    max_timestep: int = _setting(1000, "Highest timestep", "Exclusive.", low=1, high=1000)
    timestep_bands: int = _setting(
        5, "Bands", "The range is cut into so many equal bands, visited in order.", low=1, high=100
    )
    loss: str = _setting("mse", "Loss", "What is minimised.", choices=("mse", "l1", "huber"))
    huber_delta: float = _setting(
        0.1, "Huber delta", "Where the Huber loss turns from square to straight.", low=1e-6, high=100.0
    )
    min_snr_gamma: float = _setting(
        0.0, "Min-SNR gamma", "Caps the weight of low noise; 0 is off.", low=0.0, high=100.0
    )
    prompt: str = _setting(
        "", "Prompt", "What both pictures show, without the change. The more it says, the less else the LoRA changes.",
        advanced=False,
    )  # fmt: skip
    original_prompt: str = _setting(
        "", "Prompt of the original", "Used for the original instead of the prompt, when not empty."
    )
    target_prompt: str = _setting(
        "", "Prompt of the target", "Used for the target instead of the prompt, when not empty."
    )
    trigger_word: str = _setting(
        "", "Trigger word", "Stands in front of every prompt of training and of the preview; may be empty."
    )
    seed: int = _setting(
        1, "Seed", "The same seed gives the same noise and timesteps on every device.", low=0, high=2**63 - 1
    )

    # The pictures
    resolution: int = _setting(
        512, "Resolution", "Pictures are brought to at most this many pixels squared, in steps of 64.",
        low=64, high=2048,
    )  # fmt: skip
    align: bool = _setting(False, "Align", "Move a shifted target over its original first, to a quarter of a pixel.")
    mask: str = _setting(
        "auto", "Mask",
        "Where to learn. auto: where the pictures differ; alpha: a picture's transparency; file: a grey picture.",
        choices=("off", "auto", "alpha", "file"),
    )  # fmt: skip
    mask_file: str = _setting(
        "", "Mask file", "White: learn here; black: do not. Used with mask = file.", path="picture"
    )
    mask_floor: float = _setting(0.1, "Mask floor", "Weight of the area outside the mask.", low=0.0, high=1.0)
    mirror: str = _setting(
        "off", "Mirror",
        "Learn from the mirrored pictures too, so that the subject's side is not learnt with the change. auto: with "
        "one pair, where the change is in a part of the picture and the same in a mirror.",
        choices=("off", "auto", "on"),
    )  # fmt: skip
    zoom: float = _setting(
        1.0, "Zoom", "Learn from the changed part too, enlarged so many times; 1 is off.", low=1.0, high=4.0
    )

    # The machine
    precision: str = _setting(
        "auto", "Precision", "auto: as the model is loaded, which in a WebUI is decided at its start.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )  # fmt: skip
    gradient_checkpointing: bool = _setting(
        False, "Gradient checkpointing", "Slower, needs much less memory. Off: only where a GPU has too little."
    )
    reference_batch_size: int = _setting(
        0, "Reference batch", "Predictions without the LoRA in one pass; 0 chooses by the size of the pictures.", low=0,
        high=4096,
    )  # fmt: skip

    # The result
    calibrate: bool = _setting(True, "Calibrate", "Scale the LoRA so that weight 1 is the difference you showed.")
    strength: float = _setting(
        1.0, "Strength", "Weight 1 in the file is so many times the weight that was chosen.", low=0.01, high=100.0
    )
    hold_out: bool = _setting(
        True, "Hold pairs out", "Of four or more pairs, leave a quarter out of training and measure on them."
    )
    save_precision: str = _setting("fp16", "File precision", "Number format of the file.", choices=SAVE_PRECISIONS)
    save_every: int = _setting(0, "Save every", "Also keep the LoRA of every N steps; 0 is off.", low=0, high=100_000)
    preview_every: int = _setting(
        15, "Strip every", "While it learns, draw the strip and keep the LoRA every N steps; 0 is off.", low=0,
        high=100_000,
    )  # fmt: skip
    new_pictures: int = _setting(
        8, "New pictures",
        "After training, so many pictures that the LoRA never saw are drawn at weights -1, 0 and 1, to see what it "
        "does to them. Of 8 or fewer, only as many as take half of the training's time, and at least 4. 0 is off.",
        low=0, high=64,
    )  # fmt: skip
    proof_strength: float = _setting(
        0.6, "Round-trip noise", "How much of the picture the round trip noises away.", low=0.1, high=1.0
    )
    sampling_steps: int = _setting(
        12, "Sampling steps", "DDIM steps of previews; the round trip takes at most 6 of them.", low=1, high=1000
    )
    preview_prompt: str = _setting(
        "", "Preview prompt", "What the strip and the new pictures show, each one of {these|those}; empty: the prompt.",
        advanced=False,
    )  # fmt: skip
    preview_cfg_scale: float = _setting(
        5.0, "Preview guidance", "Classifier-free guidance of the strip, and of new pictures after a shift.", low=1.0,
        high=30.0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        check_together(vars(self))

    @property
    def kind(self) -> Algorithm:
        """The facts of its algorithm."""
        return ALGORITHMS[self.algorithm]

    @property
    def is_stackable(self) -> bool:
        """Whether LoRAs of these settings can learn side by side in one pass; see `LoraNetwork.is_stackable`."""
        return self.algorithm in ("lora", "shift") and not self.dora and not self.dropout

    @classmethod
    def create(cls, preset: str = "", /, **settings: Any) -> TrainConfig:
        """The preset's settings with the given ones on top. Raises ConfigError.

        `training.methods.make_config` also has the method's own settings.
        """
        preset = preset_for(preset, settings)
        if preset not in PRESETS:
            raise ConfigError(f"preset {short_repr(preset)} does not exist: use one of {', '.join(PRESETS)}.")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"{short_repr(name)} is no setting: use one of {', '.join(sorted(known))}.")
        return cls(**{**PRESETS[preset], **settings})

    def prompts(self, original: str = "", target: str = "") -> tuple[str, str]:
        """The prompts of the original and of the target; a pair's own, where given, go before the settings'."""
        chosen = original or self.original_prompt or self.prompt, target or self.target_prompt or self.prompt
        return self.with_trigger(chosen[0]), self.with_trigger(chosen[1])

    def with_trigger(self, prompt: str) -> str:
        """The prompt behind the trigger word."""
        return ", ".join(part for part in (self.trigger_word, prompt) if part)

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)
