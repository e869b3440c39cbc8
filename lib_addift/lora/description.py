"""A LoRA file in plain text: what it is made of, what is wrong with it, where it loads, and how it was made."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import short_repr
from lib_addift.families import FAMILIES
from lib_addift.lora.metadata import kinds_of, layers_of, ranks_and_alphas
from lib_addift.lora.names import family_of_layers
from lib_addift.lora.selection import layer_kind
from lib_addift.lora.soundness import not_finite
from lib_addift.lora.state_dict import ALPHA, DORA, input_width, kind_of, layer_name, scale_of

# By the width of the text condition.
_BASE_MODELS = {1024: "SD2", **{family.context_width: family.card for family in FAMILIES}}
_DEEPEST = 4  # tables in tables whose values get lines of their own
_LONGEST = 300  # characters of a value
_FACTS = {  # metadata for the description, and its labels
    "ss_training_comment": "Method",
    "ss_sd_model_name": "Trained on",
    "ss_resolution": "Resolution",
    "ss_steps": "Steps",
    "ss_learning_rate": "Learning rate",
    "ss_optimizer": "Optimizer",
    "ss_seed": "Seed",
}


def describe_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> list[str]:
    """Lines on what a LoRA is made of: base model, ranks, number formats and kinds of layers."""
    layers = ranks_and_alphas(tensors)
    ranks, alphas = zip(*layers.values(), strict=True)
    kinds = Counter(_kind(layer) for layer in layers)
    weights = [
        tensor for key, tensor in tensors.items() if layer_name(key) in layers and not key.endswith((ALPHA, DORA))
    ]
    formats = {str(tensor.dtype).removeprefix("torch.") for tensor in weights}
    algorithms = kinds_of(tensors)
    return [
        f"Base model: {_base_model(tensors, metadata)}",
        *([f"Algorithm: {', '.join(sorted(algorithms))}"] if algorithms != {"LoRA"} else []),
        f"Rank: {_span(ranks)}; alpha: {_span(alphas)}; stored as {', '.join(sorted(formats))}",
        f"Layers: {len(layers)} ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})",
    ]


def describe_faults(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """A line on numbers that are not finite, where there are any."""
    counts = not_finite(tensors)
    if not counts:
        return []
    total = sum(tensor.numel() for tensor in tensors.values())
    return [
        f"NOT FINITE: {sum(counts.values())} of {total} numbers, in {len(counts)} tensors such as '{min(counts)}': "
        "pictures will be black; train it again at a lower learning rate."
    ]


def loading_notes(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Lines on programs that read this LoRA otherwise than A1111 and Forge do (docs/kinds.md), where there are any."""
    layers = layers_of(tensors).values()
    notes = []
    products = [parts for parts in layers if kind_of(parts) in ("LoHa", "LoKr")]
    scales = [scale for scale in map(scale_of, products) if scale != 1]
    if scales:
        notes.append(
            "Elsewhere: where LyCORIS merges a LoHa or LoKr into a checkpoint, it multiplies by alpha / rank twice, "
            f"so this one acts there at {_span(scales)} of its strength; with alpha = rank it acts the same."
        )
    if any(kind_of(parts) == "DoRA" for parts in layers):
        notes.append(
            "Elsewhere: the DoRA has a norm for each input channel, as A1111, Forge and ComfyUI read it; "
            "diffusers and kohya's networks.lora ignore dora_scale, and LyCORIS expects one for each output channel."
        )
    return notes


def _kind(layer: str) -> str:
    return "text encoder" if layer.startswith("lora_te") else (layer_kind(layer) or "other").replace("_", " ")


def _base_model(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """As the metadata say; else by the input width of its cross attention, or by what only one family has."""
    said = metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture")
    widths = (input_width(parts) for name, parts in layers_of(tensors).items() if name.endswith("attn2_to_k"))
    family = family_of_layers(layers_of(tensors))
    return said or _BASE_MODELS.get(next(widths, family.context_width if family else 0), "unknown")


def _span(values: Collection[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def describe_run(metadata: Mapping[str, str]) -> list[str]:
    """Lines on how a LoRA was made: facts that any trainer writes, then the settings and figures that we write."""
    lines = [f"{words}: {metadata[key][:_LONGEST]}" for key, words in _FACTS.items() if metadata.get(key)]
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
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _figures(values: Mapping[str, Any], prefix: str = "", depth: int = 1) -> list[str]:
    """One indented line for each value: {'round_trip': {'error': 0.25}} -> '  round trip error: 0.25'."""
    lines = []
    for key, value in values.items():
        words = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict) and depth < _DEEPEST:
            lines += _figures(value, f"{words} ", depth + 1)
        else:
            lines.append(f"  {words}: {_word(value)[:_LONGEST]}")
    return lines


def _word(value: object) -> str:
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return ", ".join(map(_word, value))
    if isinstance(value, (list, dict)):
        return short_repr(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
