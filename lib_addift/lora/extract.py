"""A LoRA from the difference of two checkpoints, a tuned model and its base, one layer at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch

from lib_addift.errors import ConfigError, HostError
from lib_addift.families import SD15
from lib_addift.lora.arithmetic import NewLora, NewLoraBuilder, RankLimit, Report, compress
from lib_addift.lora.blocks import block_of
from lib_addift.lora.metadata import family_metadata
from lib_addift.lora.names import family_of_layers
from lib_addift.lora.selection import layer_kind
from lib_addift.lora.tools import Output, SavedLora, save_new_lora

MODEL_PARTS = ("IN", "MID", "OUT", "TE")  # of the model; TE is the text encoder


class Weights(Protocol):
    """A checkpoint from which the weights of layers can be read one at a time."""

    @property
    def title(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every layer that a LoRA can have, by its kohya name."""
        ...

    def weight(self, layer: str) -> torch.Tensor: ...


@torch.no_grad()
def difference(
    tuned: Weights, base: Weights, *, layers: Collection[str], parts: Collection[str], limit: RankLimit,
    report: Report | None = None,
) -> NewLora:  # fmt: skip
    """`tuned` minus `base` as a LoRA over the kinds of `layers` (config.LAYER_KINDS) and `parts` (MODEL_PARTS) chosen.

    The kinds of layers are those of the UNet; of the text encoder all. Raises HostError when the checkpoints do not fit
    together or do not differ.
    """
    names = _chosen(tuned, base, layers, parts)
    builder = NewLoraBuilder()
    for number, name in enumerate(names, 1):
        change = tuned.weight(name).to(torch.float64) - base.weight(name).to(torch.float64)
        if not change.isfinite().all():
            raise HostError(
                f"layer '{name}' of the checkpoints is not finite: one of the files is broken, get it again."
            )
        if change.any():
            builder.add(name, compress(change, limit))
        if report is not None:
            report("layer", number, len(names))
    if builder.is_empty:
        raise HostError(
            f"'{tuned.title}' and '{base.title}' do not differ in the layers chosen: choose other files or layers."
        )
    return builder.build()


def _chosen(tuned: Weights, base: Weights, layers: Collection[str], parts: Collection[str]) -> list[str]:
    """The layers to compare, in order; both checkpoints have them in the same shapes."""
    if not parts or (not layers and set(parts) != {"TE"}):
        raise ConfigError("no layers are chosen: choose at least one kind of layer and one part of the model.")
    families = [family_of_layers(each.shapes) or SD15 for each in (tuned, base)]
    if families[0] is not families[1]:
        raise HostError(
            f"'{tuned.title}' is {families[0]} and '{base.title}' is {families[1]}: choose two checkpoints of one kind."
        )
    names = []
    for name in sorted({*tuned.shapes, *base.shapes}):
        part = block_of(name).rstrip("0123456789")
        if part in parts and (part == "TE" or layer_kind(name) in layers):
            _check_fits(name, tuned, base)
            names.append(name)
    if "TE" in parts and not any(name.startswith("lora_te") for name in names):
        raise HostError(f"'{tuned.title}' and '{base.title}' have no text encoder: leave TE out.")
    return names


def _check_fits(name: str, tuned: Weights, base: Weights) -> None:
    for one, other in ((tuned, base), (base, tuned)):
        if name not in one.shapes:
            raise HostError(
                f"'{one.title}' lacks layer '{name}', which '{other.title}' has: choose two checkpoints of one kind."
            )
    if tuned.shapes[name] != base.shapes[name]:
        raise HostError(
            f"layer '{name}' is {tuned.shapes[name]} in '{tuned.title}' and {base.shapes[name]} in '{base.title}': "
            "choose two checkpoints of one kind."
        )


def extract(
    tuned: Weights, base: Weights, output: Output, *, layers: Collection[str], parts: Collection[str], limit: RankLimit,
    report: Report | None = None,
) -> SavedLora:  # fmt: skip
    """Write the LoRA that turns `base` into `tuned`. See `difference` for what is raised."""
    if not limit.is_limit:
        raise ConfigError("rank = 0 and energy = 1 make a file as large as the checkpoint: give a rank, such as 32.")
    new = difference(tuned, base, layers=layers, parts=parts, limit=limit, report=report)
    inherited = {
        **family_metadata(family_of_layers(base.shapes) or SD15),
        "ss_sd_model_name": base.title,
        "ss_new_sd_model_hash": base.sha256,
    }
    files = [f"{each.title} (weight {weight}, sha256 {each.sha256})" for each, weight in ((tuned, 1), (base, -1))]
    return save_new_lora("extract", new, output, limit=limit, inherited=inherited, figures={"files": files})
