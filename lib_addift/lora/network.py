"""LoRA layers over a frozen model, attached by forward hooks: no module or weight of the model is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.dora import DoraLayer
from lib_addift.lora.layers import DeltaLayer, LoraLayer
from lib_addift.lora.lycoris import LohaLayer, LokrLayer
from lib_addift.lora.names import family_of_layers
from lib_addift.lora.shift import ShiftLayer
from lib_addift.lora.state_dict import by_layer, read_layer

__all__ = ["LoraLayer", "LoraNetwork", "LoraStack", "combine"]

_PLAIN = (LoraLayer, ShiftLayer)  # low-rank pairs that can be stacked and added up


class LoraNetwork(nn.Module):
    """The layers of one LoRA, by name, and the multiplier of their output.

    `multiplier` is a number, or a tensor (B,) with one number for each sample of the batch. With `samples` it acts on
    these of the batch alone, and B is their number. Dropout is on while
    `dropout_seed` is a number: each unit of each layer is dropped in the share `dropout` of the samples. The seed alone
    decides which, so that a repeated pass (checkpointing, a resumed training) drops the same units.
    """

    def __init__(
        self, layers: Mapping[str, DeltaLayer], modules: Mapping[str, nn.Module], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = dict(layers)
        self._registered = nn.ModuleDict(layers)  # makes the layers' parameters the network's
        self.targets = dict(modules)
        self.multiplier: float | torch.Tensor = 1.0
        self.samples: slice | None = None  # None: all
        self.dropout = dropout
        self.dropout_seed: int | None = None

    @classmethod
    def create(
        cls,
        modules: Mapping[str, nn.Module],
        *,
        rank: int,
        alpha: float,
        seed: int,
        algorithm: str = "lora",
        dora: bool = False,
        dropout: float = 0.0,
        lokr_factor: int = -1,
    ) -> LoraNetwork:
        """An untrained LoRA over `modules` (see `select_layers`); the same seed gives the same weights on every device.

        The settings are those of `TrainConfig`.
        """
        makers: dict[tuple[str, bool], Callable[..., DeltaLayer]] = {
            ("lora", False): LoraLayer.create,
            ("lora", True): DoraLayer.create,
            ("loha", False): LohaLayer.create,
            ("lokr", False): partial(LokrLayer.create, factor=lokr_factor),
        }
        create = makers[algorithm, dora]
        generator = torch.Generator("cpu").manual_seed(seed)
        layers = {name: create(module, rank, alpha, generator) for name, module in modules.items()}
        return cls(layers, modules, dropout=dropout)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], unet: nn.Module, lora_name: Callable[[str], str]
    ) -> LoraNetwork:
        """A LoRA from a file's tensors (kohya keys). Raises LoraFileError when the model has no such layer."""
        return cls.over({lora_name(name): module for name, module in unet.named_modules()}, tensors)

    @classmethod
    def over(cls, modules: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor]) -> LoraNetwork:
        """As `from_tensors`, for a model whose layers are given by their LoRA names."""
        layers, found = {}, by_layer(tensors)
        _check_family(found, modules)
        for name, keys in found.items():
            parts = {part: tensors[key] for part, key in keys.items()}
            layers[name] = read_layer(name, parts, modules.get(name))
        return cls(layers, {name: modules[name] for name in layers})

    @property
    def has_text(self) -> bool:
        """Whether it changes the text encoder too, so that the conditions depend on it."""
        return any(name.startswith("lora_te") for name in self.layers)

    @property
    def is_stackable(self) -> bool:
        """Whether it can be in a LoraStack: plain low-rank pairs, and no dropout."""
        return not self.dropout and all(type(layer) in _PLAIN for layer in self.layers.values())

    @contextmanager
    def attach(self) -> Iterator[LoraNetwork]:
        """Add the LoRA's output to its modules' inside the block; its hooks are removed at the end, even on errors."""
        with _hooks(self.targets, self._delta, lambda: self.samples):
            yield self

    def _delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        delta: torch.Tensor = self.layers[name](x, self._kept(name, x))
        multiplier = self.multiplier
        if isinstance(multiplier, torch.Tensor):
            multiplier = multiplier.to(delta.device).view(-1, *[1] * (delta.ndim - 1))
        return delta * multiplier

    def _kept(self, name: str, x: torch.Tensor) -> torch.Tensor | None:
        """The dropout mask: 0 for dropped units and 1 / (1 - dropout) for the others, which keeps the expectation."""
        if not self.dropout or self.dropout_seed is None:
            return None
        digest = hashlib.sha256(f"{self.dropout_seed} {name}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))
        drawn = torch.rand(self.layers[name].kept_shape(len(x)), generator=generator)
        return ((drawn >= self.dropout) / (1 - self.dropout)).to(x.device)

    def parameter_groups(self, lora_plus_ratio: float = 1.0, text_encoder_rate: float = 1.0) -> list[dict[str, Any]]:
        """All parameters in groups for an optimizer; "ratio" is a group's share of the learning rate.

        Zero-initialised parameters get `lora_plus_ratio` times the rate of the others (Hayou et al. 2024, LoRA+,
        section 4), layers of the text encoder `text_encoder_rate` times the UNet's. DoRA's norms (`dora_scale`) get no
        weight decay, since they do not start at zero.
        """
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, layer in self.layers.items():
            rate = text_encoder_rate if name.startswith("lora_te") else 1.0
            zero_init = {id(parameter) for parameter in layer.zero_init_parameters()}
            for key, parameter in layer.named_parameters():
                ratio = rate * lora_plus_ratio if id(parameter) in zero_init else rate
                groups.setdefault((ratio, key == "dora_scale"), []).append(parameter)
        return [
            {"params": params, "ratio": ratio, **({"weight_decay": 0.0} if is_norm else {})}
            for (ratio, is_norm), params in groups.items()
        ]

    @torch.no_grad()
    def tensors(self, weight: float = 1.0) -> dict[str, torch.Tensor]:
        """Copies of all tensors with kohya keys, on the CPU, rescaled so that weight 1 acts as `weight` did."""
        result = {}
        for name, layer in self.layers.items():
            result.update(layer.tensors(name, weight))
        return result


def _check_family(layers: Iterable[str], modules: Iterable[str]) -> None:
    """Raises LoraFileError where a LoRA with these layers is of another family than a model with these modules."""
    ours, theirs = family_of_layers(layers), family_of_layers(modules)
    if ours and theirs and ours is not theirs:
        raise LoraFileError(f"the LoRA is for {ours}, and the model is {theirs}: choose a LoRA that is for {theirs}.")


@torch.no_grad()
def combine(networks: Sequence[tuple[LoraNetwork, float]]) -> LoraNetwork:
    """The weighted sum of plain LoRAs, exact: their factors are concatenated, so that the ranks add up.

    A layer that a LoRA lacks counts as zero in it. Raises ConfigError for other kinds of LoRA.
    """
    summands: dict[str, list[tuple[LoraLayer, float]]] = {}
    for network, weight in networks:
        for name, layer in network.layers.items():
            if not isinstance(layer, LoraLayer) or type(layer) not in _PLAIN:
                raise ConfigError(
                    f"layer '{name}' is no plain LoRA, and only those can be added up: "
                    "use algorithm = lora and dora = false."
                )
            summands.setdefault(name, []).append((layer, weight * layer.scale))
    layers = {}
    for name, parts in summands.items():
        down = torch.cat([layer.lora_down for layer, _ in parts])  # (sum of ranks, in, ...)
        up = torch.cat([layer.lora_up * scale for layer, scale in parts], dim=1)
        layers[name] = LoraLayer(down, up, float(len(down)), parts[0][0].conv)
    targets = {name: module for network, _ in networks for name, module in network.targets.items()}
    return LoraNetwork(layers, {name: targets[name] for name in layers})


class LoraStack:
    """Several plain LoRAs of one rank over the same layers in one pass: each sample of a batch uses one of them.

    `multiplier` is a tensor (B,), and `owners` (B,) has for each sample the index of its LoRA.
    """

    @staticmethod
    def can_hold(networks: Sequence[LoraNetwork]) -> bool:
        """Whether these LoRAs can be stacked; others share a pass by `LoraNetwork.samples`."""
        forms = [{name: layer.rank for name, layer in network.layers.items()} for network in networks]
        return all(network.is_stackable for network in networks) and all(form == forms[0] for form in forms)

    def __init__(self, networks: Sequence[LoraNetwork]) -> None:
        self._networks = list(networks)
        self._scales = {
            name: torch.tensor([each.scale for each in self._layers(name)], device=next(layer.parameters()).device)
            for name, layer in networks[0].layers.items()
        }
        self.multiplier = torch.empty(0)
        self.owners = torch.empty(0, dtype=torch.long)

    @contextmanager
    def attach(self) -> Iterator[LoraStack]:
        """Add the LoRAs' output inside the block; the hooks are removed at the end, even after an error."""
        with _hooks(self._networks[0].targets, self._delta):
            yield self

    def _layers(self, name: str) -> list[LoraLayer]:
        """The layer of this name of all the LoRAs."""
        return [cast(LoraLayer, network.layers[name]) for network in self._networks]

    def _delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layers = self._layers(name)
        owners = self.owners.to(x.device)
        down = torch.stack([layer.lora_down for layer in layers])[owners]  # (B, rank, in, ...)
        up = torch.stack([layer.lora_up for layer in layers])[owners]  # (B, out, rank, ...)
        delta = _apply_per_sample(x, down.to(x.dtype), up, layers[0].conv)
        return delta * (self._scales[name][owners] * self.multiplier.to(x.device)).view(-1, *[1] * (delta.ndim - 1))


def _apply_per_sample(
    x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, conv: dict[str, Any] | None
) -> torch.Tensor:
    """Apply down[b] and up[b] to sample b of `x`, in the dtypes of LoraLayer.forward."""
    if conv is None:
        rows = x.reshape(len(x), -1, x.shape[-1])  # (B, tokens, in)
        low = torch.bmm(rows, down.mT).float()
        return torch.bmm(low, up.mT).view(*x.shape[:-1], -1)
    # A grouped convolution: the samples' channels side by side, each group with its own kernels.
    low = F.conv2d(x.reshape(1, -1, *x.shape[2:]), down.flatten(0, 1), groups=len(x), **conv).float()
    size = low.shape[2:]
    return torch.bmm(up.flatten(2), low.view(len(x), -1, size.numel())).view(len(x), -1, *size)


@contextmanager
def _hooks(
    targets: Mapping[str, nn.Module],
    delta: Callable[[str, torch.Tensor], torch.Tensor],
    samples: Callable[[], slice | None] = lambda: None,
) -> Iterator[None]:
    """Add `delta(name, input)` to the output of each target inside the block: for all samples or for `samples()`."""

    def hook(name: str) -> Callable[..., torch.Tensor]:
        def add_delta(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            with torch.autocast(output.device.type, enabled=False):
                if (part := samples()) is None:
                    return output + delta(name, args[0]).to(output.dtype)
                if part.start == part.stop:
                    return output
                changed = output[part] + delta(name, args[0][part]).to(output.dtype)
                return torch.cat([output[: part.start], changed, output[part.stop :]])

        return add_delta

    handles = []
    try:
        for name, module in targets.items():
            handles.append(module.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
