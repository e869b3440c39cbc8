"""The metadata in a LoRA's file, and its description in plain text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.families import SD15, Family
from lib_addift.lora.state_dict import (
    Parts,
    by_layer,
    has_weights,
    kind_of,
    rank_and_alpha,
)


def build_metadata(
    config: TrainConfig,
    *,
    name: str,
    model_title: str,
    model_hash: str,
    prediction_type: str,
    family: Family = SD15,
    zero_snr: bool = False,
    learnt: str,
    comment: str,
    report: Mapping[str, object],
    tensors: Mapping[str, torch.Tensor],
    resolution: tuple[int, int],
    clip_skip: int = 1,
    steps: int | None = None,
) -> dict[str, str]:
    """The metadata of a trained LoRA for kohya's tools (ss_), Stability's and Forge (modelspec), and us (addift).

    `learnt` says what was learnt and how ('The difference of two pictures, learnt with ADDifT'), and `comment` is the
    method's full name. `model_hash` is the checkpoint's sha256 or empty. `report` has the figures of the run as JSON
    values, and no times, so that the same seed gives the same file. `tensors` are the ones to be saved, `resolution` is
    width and height in pixels, `steps` are those done (default: all). `save_lora` adds the hashes of the tensors.
    """
    done = config.max_train_steps if steps is None else steps
    metadata = {
        **family_metadata(family),
        **_kohya_metadata(config, tensors),
        "ss_zero_terminal_snr": "True" if zero_snr else "",
        "ss_training_comment": comment,
        "ss_sd_model_name": model_title,
        "ss_new_sd_model_hash": model_hash,
        "ss_clip_skip": str(clip_skip),
        "ss_output_name": name,
        "ss_resolution": str(resolution),
        "ss_steps": str(done),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "modelspec.description": f"{learnt} on {model_title} in {done} steps.",
        "modelspec.resolution": "x".join(map(str, resolution)),
        "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else prediction_type,
        "modelspec.timestep_range": f"{config.min_timestep},{config.max_timestep}",
        "addift.config": config.to_json(),
        "addift.report": json.dumps(report, sort_keys=True),
    }
    return {key: value for key, value in metadata.items() if value}


def family_metadata(family: Family) -> dict[str, str]:
    """What says for which models a LoRA is: Forge recognises the file by its architecture."""
    return {
        "ss_base_model_version": family.kohya_version,
        "ss_v2": "False",
        "modelspec.architecture": f"{family.architecture}/lora",
    }


def _kohya_metadata(config: TrainConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Settings under the names that kohya-ss/sd-scripts writes. Source: its train_network.py."""
    rank, alpha = max(ranks_and_alphas(tensors).values())
    module, arguments = _network_module(config, kinds_of(tensors))
    tags = {tag.strip(): 1 for tag in config.prompt.split(",") if tag.strip()}
    return {
        "ss_network_module": module,
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps(arguments) if arguments else "",
        "ss_optimizer": f"{config.optimizer}({config.optimizer_args})" if config.optimizer_args else config.optimizer,
        "ss_learning_rate": str(config.learning_rate),
        "ss_lr_scheduler": config.lr_schedule,
        "ss_max_train_steps": str(config.max_train_steps),
        "ss_min_snr_gamma": str(config.min_snr_gamma or None),
        "ss_mixed_precision": "no" if config.precision == "fp32" else config.precision,
        "ss_seed": str(config.seed),
        "ss_tag_frequency": json.dumps({"addift": tags} if tags else {}),
    }


def _network_module(config: TrainConfig, kinds: Collection[str]) -> tuple[str, dict[str, str]]:
    """The module that would train such a network for kohya's scripts, and its arguments. Source: LyCORIS' kohya.py."""
    arguments = {"rank_dropout": f"{config.dropout:g}"} if config.dropout else {}
    if config.lora_plus_ratio != 1:
        arguments["loraplus_lr_ratio"] = f"{config.lora_plus_ratio:g}"
    kind = next((kind for kind in ("LoHa", "LoKr", "DoRA") if kind in kinds), None)
    if kind is None:
        return "networks.lora", arguments
    own = {
        "LoHa": {"algo": "loha"},
        "LoKr": {"algo": "lokr", "factor": str(config.lokr_factor)},
        "DoRA": {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"},
    }
    size = {"conv_dim": str(config.rank), "conv_alpha": f"{config.alpha:g}"}
    return "lycoris.kohya", {**own[kind], **size, **arguments}


def layers_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Parts]:
    """The parts of each layer."""
    layers = {name: {part: tensors[key] for part, key in keys.items()} for name, keys in by_layer(tensors).items()}
    return {name: parts for name, parts in layers.items() if has_weights(parts)}


def kinds_of(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    return {kind_of(parts) or "other" for parts in layers_of(tensors).values()}


def ranks_and_alphas(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, float]]:
    """Rank and alpha of each layer; a layer without alpha acts as if it were the rank."""
    return {name: rank_and_alpha(parts) for name, parts in layers_of(tensors).items()}
