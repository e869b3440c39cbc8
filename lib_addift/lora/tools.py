"""Operations on LoRA files: subtract, merge, average, resize. The result is a new file; the inputs are not changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.arithmetic import NO_LIMIT, NewLora, RankLimit, Report, Term, sum_loras
from lib_addift.lora.blocks import NO_WEIGHTS, BlockWeights
from lib_addift.lora.file import lora_path, save_lora
from lib_addift.lora.metadata import ranks_and_alphas
from lib_addift.lora.names import family_of_layers
from lib_addift.lora.source import FileSource, file_hash, open_lora

# Metadata on model and pictures that a new LoRA inherits, as far as all the files agree.
_INHERITED = (
    "ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_resolution",
    "ss_clip_skip", "ss_tag_frequency", "modelspec.architecture", "modelspec.resolution", "modelspec.prediction_type",
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """Path and number format of a new LoRA. Raises LoraFileError when it cannot be written there."""

    path: Path
    precision: str = "fp16"
    overwrite: bool = False
    card_versions: Mapping[str, str] = field(default_factory=dict)  # see `Host.card_versions`

    def __post_init__(self) -> None:
        if self.path.suffix != ".safetensors":
            raise LoraFileError(f"'{self.path.name}' does not end in .safetensors: name the new LoRA so.")
        lora_path(self.path.parent, self.path.stem, overwrite=self.overwrite)


@dataclass(frozen=True)
class Summand:
    """A LoRA file and its weight in a sum."""

    path: Path
    weight: float = 1.0
    blocks: BlockWeights = NO_WEIGHTS

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ConfigError(f"the weight of '{self.path.name}' is {self.weight}: give a finite number.")

    def weight_of(self, layer: str) -> float:
        return self.weight * self.blocks.of(layer)


@dataclass(frozen=True)
class SavedLora:
    """A LoRA file that was written, and its figures. `kept` is the share of the energy, 0 to 1."""

    path: Path
    layers: int
    ranks: tuple[int, int]  # the lowest and the highest
    kept: float
    bytes: int

    @property
    def tag(self) -> str:
        return f"<lora:{self.path.stem}:1>"

    @property
    def facts(self) -> str:
        """'192 layers of rank 4 to 8, 3.10 MB, 98.2 % of the energy'."""
        low, high = self.ranks
        rank = f"{low}" if low == high else f"{low} to {high}"
        kept = f", {self.kept:.1%} of the energy" if self.kept < 1 else ""
        plural = "s" if self.layers != 1 else ""
        size = f"{self.bytes / 2**20:.2f} MB" if self.bytes > 2**17 else f"{self.bytes / 2**10:.1f} KB"
        return f"{self.layers} layer{plural} of rank {rank}, {size}{kept}"


def subtract(
    whole: Summand, taken: Summand, output: Output, limit: RankLimit = NO_LIMIT, report: Report | None = None
) -> SavedLora:
    """Write `whole` minus `taken`. Raises LoraFileError."""
    if (whole.weight, str(whole.blocks)) == (taken.weight, str(taken.blocks)):
        _check_differ(whole.path, taken.path)
    return _sum_of("subtract", [whole, Summand(taken.path, -taken.weight, taken.blocks)], output, limit, report)


def merge(
    parts: Sequence[Summand], output: Output, limit: RankLimit = NO_LIMIT, report: Report | None = None
) -> SavedLora:
    """Write the weighted sum. Of a single file: that file at another weight, or at other weights of its blocks."""
    return _sum_of("merge", parts, output, limit, report)


def average(
    paths: Sequence[Path], output: Output, limit: RankLimit = NO_LIMIT, report: Report | None = None
) -> SavedLora:
    """Write the mean; a layer that a file lacks counts as zero in it."""
    parts = [Summand(path, 1 / len(paths)) for path in paths]
    return _sum_of("average", parts, output, limit, report)


def resize_file(path: Path, output: Output, limit: RankLimit, report: Report | None = None) -> SavedLora:
    """Write the best approximation of a LoRA within a limit. Raises ConfigError when there is none."""
    if not limit.is_limit:
        raise ConfigError("rank = 0 and energy = 1 leave the LoRA as it is: give a rank, or an energy below 1.")
    return _sum_of("resize", [Summand(path)], output, limit, report)


def _check_differ(one: Path, other: Path) -> None:
    if file_hash(one) == file_hash(other):
        raise LoraFileError(f"'{one.name}' and '{other.name}' are the same, so nothing would be left: choose another.")


def _sum_of(
    operation: str, parts: Sequence[Summand], output: Output, limit: RankLimit, report: Report | None
) -> SavedLora:
    if not parts:
        raise ConfigError(f"there is no LoRA to {operation}: choose at least one.")
    with ExitStack() as files:
        sources = [files.enter_context(open_lora(part.path)) for part in parts]
        _check_one_family(sources)
        terms = [Term(source, part.weight_of) for source, part in zip(sources, parts, strict=True)]
        new = sum_loras(terms, limit, report)
        inherited = _agreed(sources)
    figures: dict[str, object] = {"files": [_described(part) for part in parts]}
    return save_new_lora(operation, new, output, limit=limit, inherited=inherited, figures=figures)


def _check_one_family(sources: Sequence[FileSource]) -> None:
    families = {family: source.path.name for source in sources if (family := family_of_layers(source.layers))}
    if len(families) > 1:
        files = " and ".join(f"'{name}' is for {family}" for family, name in families.items())
        raise LoraFileError(f"{files}: choose LoRAs for one kind of model.")


def _described(part: Summand) -> str:
    """'a.safetensors (weight 0.5, OUT=2, sha256 1234567890ab)'."""
    blocks = f", {part.blocks}" if part.blocks.weights else ""
    return f"{part.path.name} (weight {part.weight:g}{blocks}, sha256 {file_hash(part.path)})"


def _agreed(sources: Sequence[FileSource]) -> dict[str, str]:
    first, *others = (source.metadata for source in sources)
    return {
        key: first[key] for key in _INHERITED if key in first and all(other.get(key) == first[key] for other in others)
    }


def save_new_lora(
    operation: str,
    new: NewLora,
    output: Output,
    *,
    limit: RankLimit,
    inherited: Mapping[str, str],
    figures: Mapping[str, object],
) -> SavedLora:
    """Write a new LoRA with metadata on how it was made; `inherited` are facts on its model. Raises LoraFileError.

    `figures` are JSON values for the report inside the file.
    """
    ranks = sorted(new.ranks.values())
    report = {"operation": operation, **figures, "rank": ranks[-1]}
    if limit.rank:
        report["rank_limit"] = limit.rank
    if limit.energy < 1:
        report["energy_limit"] = limit.energy
    if limit.is_limit:
        report["kept_energy"] = round(new.kept, 6)
    alpha = max(ranks_and_alphas(new.tensors).values())[1]
    metadata = {
        **inherited,
        **tool_metadata(operation, output.path.stem, report),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks[-1]),
        "ss_network_alpha": f"{alpha:g}",
    }
    path = save_lora(
        output.path, new.tensors, metadata, precision=output.precision, card_versions=output.card_versions,
        overwrite=output.overwrite,
    )  # fmt: skip
    return SavedLora(path, len(ranks), (ranks[0], ranks[-1]), new.kept, path.stat().st_size)


def tool_metadata(operation: str, name: str, report: Mapping[str, object]) -> dict[str, str]:
    """The metadata of every file that these tools write: its name, how it was made, and from what."""
    files = report.get("files")
    names = [str(file).partition(" (")[0] for file in files] if isinstance(files, list) else []
    description = f"Made by '{operation}' of {', '.join(names)}." if names else f"Made by '{operation}'."
    metadata = {
        "ss_output_name": name,
        "ss_training_comment": description,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "modelspec.description": description,
        "modelspec.merged_from": ", ".join(names),
        "addift.report": json.dumps(report, sort_keys=True),
    }
    return {key: value for key, value in metadata.items() if value}
