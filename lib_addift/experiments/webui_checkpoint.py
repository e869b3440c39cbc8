"""A bundled checkpoint as a model of AUTOMATIC1111's WebUI, in which this extension is installed.

    python -m lib_addift.experiments.webui_checkpoint --world faces --out stable-diffusion-webui/models/Stable-diffusion

Writes NAME.safetensors, NAME.yaml, which the WebUI takes as the configuration, and the folder NAME_text with the
configuration of the text model and CLIP's vocabulary. NAME.yaml has the absolute path of that folder, so write to where
the WebUI reads. It holds for every SD1.x checkpoint with widths of its own; Forge takes no such file.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lib_addift.demo.run import CHECKPOINT
from lib_addift.files import replace_files
from lib_addift.hosts.tokenizer import read_vocabulary
from lib_addift.lora.names import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX

CHECKPOINTS = {"faces": CHECKPOINT, "avatars": Path(__file__).parent / "worlds" / "avatars.safetensors"}
_LEVELS = 4


class _Multiple:
    """A level's width as a multiple of the first level's, such as 3/2: SD's UNet multiplies, and must get an int."""

    def __init__(self, width: int, first: int) -> None:
        self._width, self._first = width, first

    def __mul__(self, channels: int) -> int:
        return channels * self._width // self._first

    __rmul__ = __mul__


def build_unet(target: str, widths: Sequence[int], **params: Any) -> Any:
    """SD's UNet with any widths; NAME.yaml names this function, and the WebUI calls it.

    Args:
        target: The dotted name of the WebUI's own class. Its `channel_mult` from a file may be whole numbers only.
        widths: Channels of the levels.
        params: All other parameters of the class.
    """
    module, _, name = target.rpartition(".")
    multiples = [_Multiple(width, widths[0]) for width in widths]
    return getattr(importlib.import_module(module), name)(model_channels=widths[0], channel_mult=multiples, **params)


def write(checkpoint: Path, out: Path) -> Path:
    """Write the three parts to the folder `out`; returns the path of the .yaml file. Raises OSError and HostError."""
    text_folder = out.resolve() / f"{checkpoint.stem}_text"
    text_folder.mkdir(parents=True, exist_ok=True)
    with safe_open(checkpoint, framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is no dict
    config = out / f"{checkpoint.stem}.yaml"
    replace_files({
        **{text_folder / name: content.encode() for name, content in _text_files(shapes).items()},
        config: json.dumps(_model(shapes, text_folder), indent=2).encode(),  # JSON is YAML too
        out / checkpoint.name: checkpoint.read_bytes(),
    })  # fmt: skip
    return config


Shapes = Mapping[str, Sequence[int]]


def _model(shapes: Shapes, text_folder: Path) -> dict[str, Any]:
    """What configs/v1-inference.yaml of the WebUI says, with the widths of these tensors."""
    parts = {
        "unet_config": _part("lib_addift.experiments.webui_checkpoint.build_unet", **_unet(shapes)),
        "first_stage_config": _part("ldm.models.autoencoder.AutoencoderKL", **_vae(shapes)),
        "cond_stage_config": _part("ldm.modules.encoders.modules.FrozenCLIPEmbedder", version=str(text_folder)),
    }
    schedule = {"linear_start": 0.00085, "linear_end": 0.0120, "timesteps": 1000, "scale_factor": 0.18215}
    names = {"first_stage_key": "jpg", "cond_stage_key": "txt", "conditioning_key": "crossattn"}
    sizes = {"image_size": 64, "channels": 4, "num_timesteps_cond": 1}
    model = "ldm.models.diffusion.ddpm.LatentDiffusion"
    return {"model": _part(model, **schedule, **names, **sizes, cond_stage_trainable=False, use_ema=False, **parts)}


def _part(target: str, /, **params: Any) -> dict[str, Any]:
    return {"target": target, "params": params}


def _unet(shapes: Shapes) -> dict[str, Any]:
    context = shapes[f"{UNET_PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"][1]
    return {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "widths": [shapes[f"{UNET_PREFIX}input_blocks.{3 * n + 1}.0.out_layers.3.weight"][0] for n in range(_LEVELS)],
        "image_size": 32, "in_channels": 4, "out_channels": 4, "num_res_blocks": 2, "num_heads": 8,
        "attention_resolutions": [4, 2, 1], "use_spatial_transformer": True, "transformer_depth": 1,
        "context_dim": context, "use_checkpoint": False, "legacy": False,
    }  # fmt: skip


def _vae(shapes: Shapes) -> dict[str, Any]:
    """Widths that are no multiples of the first are refused by the WebUI: none of the worlds has such."""
    widths = [shapes[f"{VAE_PREFIX}encoder.down.{n}.block.0.conv1.weight"][0] for n in range(_LEVELS)]
    layers = {
        "ch": widths[0], "ch_mult": [width // widths[0] for width in widths], "num_res_blocks": 2,
        "in_channels": 3, "out_ch": 3, "z_channels": 4, "double_z": True, "resolution": 256,
        "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    return {"embed_dim": 4, "ddconfig": layers, "lossconfig": {"target": "torch.nn.Identity"}}


def _text_files(shapes: Shapes) -> dict[str, str]:
    """What transformers reads from the folder of a text model, by file name."""
    embeddings = f"{TEXT_PREFIX}text_model.embeddings."
    words, width = shapes[f"{embeddings}token_embedding.weight"]
    fully_connected = [key for key in shapes if key.startswith(TEXT_PREFIX) and key.endswith("mlp.fc1.weight")]
    model = {
        "model_type": "clip_text_model", "vocab_size": words, "hidden_size": width,
        "intermediate_size": shapes[fully_connected[0]][0], "num_hidden_layers": len(fully_connected),
        "num_attention_heads": 12, "max_position_embeddings": shapes[f"{embeddings}position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
    }  # fmt: skip
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    vocabulary, merges = read_vocabulary()
    return {
        "config.json": json.dumps(model, indent=2),
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges), ""]),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}),
        "special_tokens_map.json": json.dumps(special),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=list(CHECKPOINTS), default="faces")
    parser.add_argument("--out", type=Path, required=True, help="the WebUI's folder models/Stable-diffusion")
    options = parser.parse_args()
    print(f"wrote {write(CHECKPOINTS[options.world], options.out)}")


if __name__ == "__main__":
    main()
