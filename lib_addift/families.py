"""The families of models that can be trained, SD1.5 and SDXL: what a family is, each fact once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextEncoder:
    """One of a family's text models. Counts and widths are those of the full-size release."""

    prefix: str  # of its tensors in a checkpoint's file
    lora_prefix: str  # of its layers in a LoRA's file
    width: int
    heads: int
    layers: int
    activation: str
    padding: int | None = None  # the token behind a prompt's end; None: the one that ends the prompt
    is_open_clip: bool = False  # whether the file has OpenCLIP's names, with query, key and value in one tensor
    has_projection: bool = False  # whether its pooled output is a condition too


@dataclass(frozen=True)
class Family:
    """What all checkpoints of a family share.

    Sources: the released configurations v1-inference.yaml and sd_xl_base.yaml; for names in LoRA files
    kohya-ss/sd-scripts, Stability's modelspec, and the WebUIs' cards.
    """

    name: str
    widths: tuple[int, ...]  # channels of the UNet's levels in the full-size release
    depths: tuple[int, ...]  # transformer blocks in each attention of the UNet's levels; the middle has the deepest's
    text_encoders: tuple[TextEncoder, ...]
    latent_scale: float  # the VAE's latents are multiplied with it
    picture_side: int  # px a side of the pictures that it was trained on
    layers_rate: float  # times the learning rate of a LoRA in layers; that of SD1.5 is 1. Source: sd-webui-traintrain
    clip_skip: int  # which of the text models' last layers gives the conditions at least; 1 = the last one
    final_norm: bool  # whether the text model's last norm follows
    compvis_lora_names: bool  # whether LoRA files have CompVis' names of UNet layers, or else diffusers'
    architecture: str  # modelspec.architecture of its checkpoints
    kohya_version: str  # ss_base_model_version
    card: str  # on the card of a LoRA

    @property
    def levels(self) -> int:
        """Of the UNet."""
        return len(self.depths)

    @property
    def context_width(self) -> int:
        """Of the full-size release's conditions."""
        return sum(encoder.width for encoder in self.text_encoders)

    @property
    def has_vector(self) -> bool:
        """Whether the UNet takes a pooled text and the picture's sizes besides."""
        return any(encoder.has_projection for encoder in self.text_encoders)

    @property
    def vector_width(self) -> int | None:
        """Of that vector in the full-size release; None without one."""
        pooled = sum(encoder.width for encoder in self.text_encoders if encoder.has_projection)
        return pooled + SIZES * SIZE_WIDTH if self.has_vector else None

    def __str__(self) -> str:
        return self.name


LATENT_CHANNELS, PIXELS_PER_LATENT = 4, 8  # of both families
SIZES, SIZE_WIDTH = 6, 256  # numbers on a picture's size, and the width of each one's embedding

SD15 = Family(
    name="SD1.5",
    widths=(320, 640, 1280, 1280),
    depths=(1, 1, 1, 0),
    text_encoders=(TextEncoder("cond_stage_model.transformer.", "lora_te_", 768, 12, 12, "quick_gelu"),),
    latent_scale=0.18215,
    picture_side=512,
    layers_rate=1.0,
    clip_skip=1,
    final_norm=True,
    compvis_lora_names=False,
    architecture="stable-diffusion-v1",
    kohya_version="sd_v1",
    card="SD1",
)
SDXL = Family(
    name="SDXL",
    widths=(320, 640, 1280),
    depths=(0, 2, 10),
    text_encoders=(
        TextEncoder("conditioner.embedders.0.transformer.", "lora_te1_", 768, 12, 12, "quick_gelu"),
        TextEncoder(
            "conditioner.embedders.1.model.", "lora_te2_", 1280, 20, 32, "gelu",
            padding=0, is_open_clip=True, has_projection=True,
        ),
    ),
    latent_scale=0.13025,
    picture_side=1024,
    layers_rate=2.0,
    clip_skip=2,
    final_norm=False,
    compvis_lora_names=True,
    architecture="stable-diffusion-xl-v1-base",
    kohya_version="sdxl_base_v1-0",
    card="SDXL",
)  # fmt: skip
FAMILIES = (SD15, SDXL)
