"""The metadata in a LoRA's file, and its description in plain text."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.lora.network import layer_kind
from lib_addift.lora.state_dict import (
    ALPHA,
    DORA,
    Parts,
    by_layer,
    has_weights,
    input_width,
    kind_of,
    layer_name,
    rank_and_alpha,
)

_BASE_MODELS = {768: "SD1", 1024: "SD2", 2048: "SDXL"}  # by the width of the text condition
_FACTS = {  # metadata for the description, and its labels
    "ss_training_comment": "Method",
    "ss_sd_model_name": "Trained on",
    "ss_resolution": "Resolution",
    "ss_steps": "Steps",
    "ss_learning_rate": "Learning rate",
    "ss_optimizer": "Optimizer",
    "ss_seed": "Seed",
}


def build_metadata(
    config: TrainConfig,
    *,
    name: str,
    model_title: str,
    model_hash: str,
    prediction_type: str,
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
        **_kohya_metadata(config, tensors),
        "ss_training_comment": comment,
        "ss_sd_model_name": model_title,
        "ss_new_sd_model_hash": model_hash,
        "ss_clip_skip": str(clip_skip),
        "ss_output_name": name,
        "ss_resolution": str(resolution),
        "ss_steps": str(done),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",  # Forge recognises the file by it
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


def _kohya_metadata(config: TrainConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Settings under the names that kohya-ss/sd-scripts writes. Source: its train_network.py."""
    rank, alpha = max(ranks_and_alphas(tensors).values())
    module, arguments = _network_module(config, _kinds(tensors))
    tags = {tag.strip(): 1 for tag in config.prompt.split(",") if tag.strip()}
    return {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
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


def _layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, Parts]:
    """The parts of each layer."""
    layers = {name: {part: tensors[key] for part, key in keys.items()} for name, keys in by_layer(tensors).items()}
    return {name: parts for name, parts in layers.items() if has_weights(parts)}


def _kinds(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    return {kind_of(parts) or "other" for parts in _layers(tensors).values()}


def ranks_and_alphas(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, float]]:
    """Rank and alpha of each layer; a layer without alpha acts as if it were the rank."""
    return {name: rank_and_alpha(parts) for name, parts in _layers(tensors).items()}


def describe_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> list[str]:
    """Lines on what a LoRA is made of: base model, ranks, number formats and kinds of layers."""
    layers = ranks_and_alphas(tensors)
    ranks, alphas = zip(*layers.values(), strict=True)
    kinds = Counter(_kind(layer) for layer in layers)
    weights = [
        tensor for key, tensor in tensors.items() if layer_name(key) in layers and not key.endswith((ALPHA, DORA))
    ]
    formats = {str(tensor.dtype).removeprefix("torch.") for tensor in weights}
    algorithms = _kinds(tensors)
    return [
        f"Base model: {_base_model(tensors, metadata)}",
        *([f"Algorithm: {', '.join(sorted(algorithms))}"] if algorithms != {"LoRA"} else []),
        f"Rank: {_span(ranks)}; alpha: {_span(alphas)}; stored as {', '.join(sorted(formats))}",
        f"Layers: {len(layers)} ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})",
    ]


def _kind(layer: str) -> str:
    return "text encoder" if layer.startswith("lora_te") else (layer_kind(layer) or "other").replace("_", " ")


def _base_model(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """As the metadata say; else by the input width of its cross attention."""
    said = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture")
    widths = (input_width(parts) for name, parts in _layers(tensors).items() if name.endswith("attn2_to_k"))
    return said or _BASE_MODELS.get(next(widths, 0), "unknown")


def _span(values: Collection[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def describe_run(metadata: Mapping[str, str]) -> list[str]:
    """Lines on how a LoRA was made: facts that any trainer writes, then the settings and figures that we write."""
    lines = [f"{words}: {metadata[key]}" for key, words in _FACTS.items() if metadata.get(key)]
    config, report = (_json_object(metadata.get(f"addift.{part}", "")) for part in ("config", "report"))
    if config:
        defaults = TrainConfig().to_dict()
        labels = {field.name: field.metadata["label"] for field in dataclasses.fields(TrainConfig)}
        changed = {labels.get(key, key): value for key, value in config.items() if value != defaults.get(key)}
        lines += ["Settings other than the defaults:", *(_figures(changed) or ["  none"])]
    if report:
        lines += ["Report:", *_figures(report)]
    return lines


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object; empty when the text is none, since any program may have changed a file's metadata."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _figures(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One indented line for each value: {'round_trip': {'error': 0.25}} -> '  round trip error: 0.25'."""
    lines = []
    for key, value in values.items():
        words = f"{prefix}{key}".replace("_", " ")
        lines += _figures(value, f"{words} ") if isinstance(value, dict) else [f"  {words}: {_word(value)}"]
    return lines


def _word(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
