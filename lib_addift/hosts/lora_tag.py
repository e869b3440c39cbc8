"""`<lora:NAME:1:from=1000:to=500>`: a LoRA that acts only between two timesteps.

The WebUI's own `lora` tag stays in charge: tags with neither from= nor to= reach it untouched. For the others our
LoraNetwork joins the loaded UNet, and before each call of the UNet it is switched by the timesteps of that call.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lib_addift.errors import AddiftError, ConfigError, LoraFileError
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork
from lib_addift.lora_file import read_lora
from lib_addift.lora_metadata import ALPHA, DOWN, UP, layer_name

_log = logging.getLogger(__name__)

_MARK = "addift_timed_tag"  # on the WebUI's tag object: from= and to= are known to it
_HASHES = "Lora hashes"  # the WebUI's key in the text that it saves with a picture

# What the tags of the current picture have put on the UNet. It outlives 'Reload UI', which makes a new tag object: the
# hooks that a failed picture left behind must still be found.
_attached = ExitStack()


class Params(Protocol):
    """What stands between the colons of a tag: modules.extra_networks.ExtraNetworkParams."""

    items: Sequence[str]  # all of it
    positional: Sequence[str]  # without '='
    named: Mapping[str, str]  # with '='


def wrap_lora_tag(host: Host) -> None:
    """Teach the WebUI's `lora` tag from= and to=. A second call changes nothing.

    To be called when the app has started, also after 'Reload UI': the WebUI registers its tag in a before_ui callback,
    and those run in reverse order, so that in one of ours the tag would not be there yet.
    """
    tag = import_module("modules.extra_networks").extra_network_registry.get("lora")
    if tag is None:
        _log.warning("from= and to= in <lora:...> do not work: enable the WebUI's built-in Lora extension.")
    elif not hasattr(tag, _MARK):
        timed = TimedLoraTag(host, tag)
        # On the object itself: the registry, A1111's alias 'lyco' and the Lora extension share it, and they tell it by
        # identity.
        tag.activate, tag.deactivate = timed.activate, timed.deactivate
        setattr(tag, _MARK, timed)


def remove_timed_loras() -> None:
    """Take what the tags have attached off the UNet. To be called under the WebUI's generation lock."""
    _attached.close()


class TimedLoraTag:
    """What the WebUI calls in place of its tag's own `activate` and `deactivate`."""

    def __init__(self, host: Host, tag: Any) -> None:
        self._host = host
        self._files: dict[Path, tuple[int, int]] = {}  # time and size of each LoRA file, when it was last named
        self._activate, self._deactivate = tag.activate, tag.deactivate

    def activate(self, p: Any, params_list: list[Params]) -> None:
        """Before each batch, hires pass and refiner, with all tags of the prompt; each call replaces the one before.

        Nothing is raised for a wrong tag: the WebUI would drop all LoRAs and say so in the console only.
        """
        remove_timed_loras()
        self._notice_replaced_files(params_list)
        timed = [params for params in params_list if params.named.keys() & {"from", "to"}]
        if not timed:
            self._activate(p, params_list)
            return
        builtin = [params for params in params_list if params not in timed]
        loras: list[TimedLora] = []
        for params in timed:
            try:
                loras.append(self._load(p, params))
            except ConfigError as error:
                _comment(p, params, f"{error} This LoRA was left off.")
            except AddiftError as error:
                _comment(p, params, f"from= and to= were not used, so this LoRA acts in every step: {error}")
                builtin.append(params)
        self._activate(p, builtin + _without_default(timed, builtin))
        _note_hashes(p, loras)
        for lora in loras:
            _attached.enter_context(lora.attach(self._host.unet))

    def deactivate(self, p: Any) -> None:
        """After the last batch."""
        remove_timed_loras()
        self._deactivate(p)

    def _notice_replaced_files(self, params_list: Sequence[Params]) -> None:
        """Make the WebUI forget a file that was replaced under its name, by whatever process: it may not see that."""
        for name in {params.positional[0] for params in params_list if params.positional}:
            entry = _find(name)
            path = Path(entry.filename) if entry else None
            if path is not None and path.is_file():
                status = path.stat()
                now = (status.st_mtime_ns, status.st_size)
                if self._files.setdefault(path, now) != now:
                    self._files[path] = now
                    self._host.refresh_loras(path)

    def _load(self, p: Any, params: Params) -> TimedLora:
        """Raises ConfigError when the tag is wrong, and another AddiftError when only the WebUI can use the file."""
        low, high = _window(params)
        weight = _unet_weight(params)
        name = params.positional[0] if params.positional else ""
        entry = _find(name)
        if entry is None:
            raise ConfigError(f"there is no LoRA called '{name}': check the name.")
        tensors, _ = read_lora(Path(entry.filename))
        _check_readable(tensors)
        try:
            network = LoraNetwork.from_tensors(tensors, self._host.unet, self._host.lora_name)
        except LoraFileError as error:  # an SDXL model with its own LoRA too
            raise LoraFileError(f"only an SD1.5 LoRA on an SD1.5 model can be timed, and {error}") from error
        if "dyn" in params.named or len(params.positional) > 3:
            _comment(p, params, "dyn= has no effect together with from= or to=.")
        entry.read_hash()
        name_and_hash = f"{name.replace(',', '')}: {entry.shorthash}"  # as the WebUI writes it
        return TimedLora(network.requires_grad_(False), weight, low, high, name_and_hash)


@dataclass(frozen=True)
class TimedLora:
    """A LoRA that acts at `weight` where low <= timestep <= high, and elsewhere not at all."""

    network: LoraNetwork
    weight: float
    low: float
    high: float
    name_and_hash: str

    @contextmanager
    def attach(self, unet: nn.Module) -> Iterator[None]:
        """Inside the block the LoRA follows the timesteps that `unet` is called with."""
        with ExitStack() as acting:

            def switch(_unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                acting.close()
                timesteps = args[1] if len(args) > 1 else kwargs["timesteps"]  # (B,), may have fractions
                weights = [self.weight if self.low <= t <= self.high else 0.0 for t in timesteps.flatten().tolist()]
                if any(weights):
                    # The model may have been in main memory when the LoRA was made.
                    self.network.to(args[0].device)
                    # One number where it will do: some patches (hypertile) let the layers see more samples than we do.
                    self.network.multiplier = weights[0] if len(set(weights)) == 1 else torch.tensor(weights)
                    acting.enter_context(self.network.attach())

            handle = unet.register_forward_pre_hook(switch, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()


def _window(params: Params) -> tuple[float, float]:
    """The lowest and the highest timestep at which the LoRA acts. Raises ConfigError."""
    ends = {}
    for key, default in {"from": "1000", "to": "0"}.items():
        text = params.named.get(key, default)
        value = _number(text)
        if value is None or not 0 <= value <= 1000:
            raise ConfigError(f"{key}={text} is no number from 0 to 1000: write for example from=1000:to=500.")
        ends[key] = value
    return min(ends.values()), max(ends.values())


def _unet_weight(params: Params) -> float:
    """<lora:NAME:TE:UNET>, or te= and unet=; by default the UNet's weight is the text encoder's, and that is 1.

    Raises ConfigError. Source: ExtraNetworkLora.activate of A1111 and Forge.
    """
    text = params.positional[1] if len(params.positional) > 1 else "1"
    text = params.named.get("te", text)
    text = params.positional[2] if len(params.positional) > 2 else text
    text = params.named.get("unet", text)
    weight = _number(text)
    if weight is None:
        raise ConfigError(f"the weight '{text}' is no number: write for example 0.8.")
    return weight


def _number(text: str) -> float | None:
    """None when `text` is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _find(name: str) -> Any:
    """The WebUI's entry of a LoRA (filename, shorthash, read_hash), by file name or alias; None if there is none."""
    networks = import_module("networks")  # of the built-in Lora extension
    entry = _look_up(networks, name)
    if entry is None:
        networks.list_available_networks()
        entry = _look_up(networks, name)
    return entry


def _look_up(networks: Any, name: str) -> Any:
    is_ambiguous = name.lower() in networks.forbidden_network_aliases
    return (networks.available_networks if is_ambiguous else networks.available_network_aliases).get(name)


def _check_readable(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises LoraFileError unless the file has nothing but ordinary low-rank pairs for the UNet of SD1.x."""
    for key in tensors:
        if key.startswith("lora_te"):
            raise LoraFileError(f"it also changes the text encoder, which knows no timesteps ('{key}').")
        if not (key.endswith((DOWN, UP, ALPHA)) and layer_name(key) + DOWN in tensors):
            raise LoraFileError(f"only ordinary LoRAs of SD1.5 can be timed, and this file has '{key}'.")


def _without_default(timed: Sequence[Params], builtin: Sequence[Params]) -> list[Params]:
    """A tag of weight 0 for the LoRA that the WebUI's setting 'Add network to prompt' would add to ours.

    The WebUI leaves it out where a tag names it already, but it does not see our tags.
    """
    default = import_module("modules.shared").opts.sd_lora
    named = {params.items[0] for params in timed} - {params.items[0] for params in builtin}
    make: Any = import_module("modules.extra_networks").ExtraNetworkParams
    return [make(items=[default, "0"])] if default in named else []


def _note_hashes(p: Any, loras: Sequence[TimedLora]) -> None:
    """Add our LoRAs to those whose hashes the WebUI saves with the picture."""
    if loras and import_module("modules.shared").opts.lora_add_hashes_to_infotext:
        known = p.extra_generation_params.get(_HASHES)
        hashes = [*(known.split(", ") if known else []), *(lora.name_and_hash for lora in loras)]
        p.extra_generation_params[_HASHES] = ", ".join(dict.fromkeys(hashes))


def _comment(p: Any, params: Params, text: str) -> None:
    """Show a sentence under the picture, and in the console for those who ask through the API."""
    text = f"<lora:{':'.join(map(str, params.items))}>: {text}"
    _log.warning(text)
    if hasattr(p, "comment"):
        p.comment(text)
