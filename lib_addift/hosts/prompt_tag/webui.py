"""`<lora:NAME:1:from=1000:to=500>` and `<lora:NAME:1:compose=switch>` in the prompt of a WebUI.

Tags without our arguments go to the WebUI's own `lora` tag unchanged. Of the others it gets the part for the text
encoder, and the part for the UNet is attached to the loaded UNet by hooks (see compose.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError, ConfigError, LoraFileError
from lib_addift.hosts.prompt_tag.compose import PromptLora, PromptLoras, StepCounter, parts_of
from lib_addift.hosts.prompt_tag.syntax import MERGE, OURS, Params, composition_of, is_ours, read_tag, text_weights
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork

_log = logging.getLogger(__name__)

_MARK = "addift_timed_tag"  # an attribute of the WebUI's tag object once it knows our arguments
_HASHES = "Lora hashes"  # the WebUI's key in the text that it saves with a picture

# The LoRAs that the tags of the current picture have attached to the UNet. Not an attribute of the tag object, of which
# 'Reload UI' makes a new one: the hooks that a failed picture left behind must still be found.
_attached = ExitStack()


def wrap_lora_tag(host: Host) -> None:
    """Make the WebUI's `lora` tag understand our arguments. A second call changes nothing.

    To be called when the app has started, also after 'Reload UI': the WebUI registers its tag in a before_ui callback,
    and those run in reverse order, so that in one of ours the tag would not be there yet.
    """
    tag = import_module("modules.extra_networks").extra_network_registry.get("lora")
    if tag is None:
        _log.warning("from= and compose= in <lora:...> do not work: enable the WebUI's built-in Lora extension.")
    elif not hasattr(tag, _MARK):
        timed = TimedLoraTag(host, tag)
        # On the object itself: the registry, A1111's alias 'lyco' and the Lora extension share it, and they tell it by
        # identity.
        tag.activate, tag.deactivate = timed.activate, timed.deactivate
        setattr(tag, _MARK, timed)


def remove_timed_loras() -> None:
    """Detach from the UNet the LoRAs that tags have attached. To be called under the WebUI's generation lock."""
    _attached.close()


class TimedLoraTag:
    """What the WebUI calls in place of its tag's own `activate` and `deactivate`."""

    def __init__(self, host: Host, tag: Any) -> None:
        self._host = host
        self._files: dict[Path, tuple[int, int]] = {}  # mtime in ns and size of each LoRA file when a tag last named it
        self._activate, self._deactivate = tag.activate, tag.deactivate

    def activate(self, p: Any, params_list: list[Params]) -> None:
        """Called before each batch, hires pass and refiner, with all tags of the prompt; replaces the call before.

        Raises nothing for a wrong tag: the WebUI would leave all LoRAs off and say so in the console only.
        """
        remove_timed_loras()
        self._notice_replaced_files(params_list)
        ours = [params for params in params_list if is_ours(params)]
        if not ours:
            self._activate(p, params_list)
            return
        loaded, unread = self._load_all(p, ours)
        builtin = [params for params in params_list if params not in ours] + unread + _text_parts(loaded)
        self._activate(p, builtin + _without_default(ours, builtin))
        if loaded:
            _note_hashes(p, loaded)
            self._attach(p, loaded, any("compose" not in params.named for params in params_list))

    def deactivate(self, p: Any) -> None:
        """Called after the last batch."""
        remove_timed_loras()
        self._deactivate(p)

    def _notice_replaced_files(self, params_list: Sequence[Params]) -> None:
        """Refresh the LoRAs whose files were replaced, by whatever process, since a tag last named them."""
        for name in {params.positional[0] for params in params_list if params.positional}:
            entry = find_lora(name)
            path = Path(entry.filename) if entry else None
            if path is not None and path.is_file():
                status = path.stat()
                now = (status.st_mtime_ns, status.st_size)
                if self._files.setdefault(path, now) != now:
                    self._files[path] = now
                    self._host.refresh_loras(path)

    def _load_all(self, p: Any, ours: Sequence[Params]) -> tuple[list[_Loaded], list[Params]]:
        """The LoRAs that could be read, and the tags that are left to the WebUI. Errors are shown under the picture."""
        loaded, unread = [], []
        for params in ours:
            try:
                loaded.append(self._load(p, params))
            except ConfigError as error:
                comment(p, f"{_text(params)}: {error} This LoRA was left off.")
            except AddiftError as error:
                said = " and ".join(f"{name}=" for name in OURS if name in params.named)
                comment(p, f"{_text(params)}: {said} had no effect, so this LoRA acts in every step: {error}")
                unread.append(params)
        return loaded, unread

    def _load(self, p: Any, params: Params) -> _Loaded:
        """Read one LoRA. Raises ConfigError for a wrong tag; another AddiftError if only the WebUI can use it."""
        tag = read_tag(params)
        entry = find_lora(tag.name)
        if entry is None:
            raise ConfigError(f"there is no LoRA called '{tag.name}': check the name.")
        tensors, text = parts_of(read_lora(Path(entry.filename))[0])
        if not tensors:
            raise LoraFileError("it has nothing for the UNet.")
        try:
            network = LoraNetwork.from_tensors(tensors, self._host.unet, self._host.lora_name)
        except LoraFileError as error:
            raise LoraFileError(f"it must be a LoRA of the loaded model's family, and {error}") from error
        if "dyn" in params.named or len(params.positional) > 3:
            comment(p, f"{_text(params)}: dyn= has no effect together with {', '.join(f'{name}=' for name in OURS)}.")
        entry.read_hash()
        name_and_hash = f"{tag.name.replace(',', '')}: {entry.shorthash}"  # as the WebUI writes it
        return _Loaded(PromptLora(network.requires_grad_(False), tag), bool(text), name_and_hash)

    def _attach(self, p: Any, loaded: Sequence[_Loaded], some_lack_it: bool) -> None:
        """Attach the LoRAs to the UNet. `some_lack_it`: some tags of the prompt have no compose=."""
        tags = [each.lora.tag for each in loaded]
        composition, problem = composition_of(tags)
        members = [tag for tag in tags if tag.mode != MERGE]
        if len(members) == 1 and some_lack_it:
            said = f"compose={members[0].mode}"
            problem = f"only '{members[0].name}' has {said}, which does nothing: write {said} in the other tags too."
        if problem:
            comment(p, problem)
        loras = PromptLoras([each.lora for each in loaded], composition, _step_of(p))
        _attached.enter_context(loras.attach(self._host.unet))


@dataclass(frozen=True)
class _Loaded:
    """The LoRA of one tag."""

    lora: PromptLora
    has_text_part: bool
    name_and_hash: str


def _step_of(p: Any) -> Callable[[float], int]:
    """A function from a call's timestep to the number of the sampling step.

    Timesteps alone are wrong for samplers that call the UNet twice a step: one LoRA would always get the second call,
    which decides. So the number comes from the WebUI's sampler, which counts its calls, where there is one.
    """
    by_timestep = StepCounter()

    def step(timestep: float) -> int:
        counted = by_timestep(timestep)
        sampler: Any = getattr(p, "sampler", None)  # made after the tags are activated, and anew for the hires pass
        try:
            return int(sampler.model_wrap_cfg.step) // int(sampler.config.total_steps(1))
        except AttributeError:  # another sampler than those of A1111 and Forge
            return counted

    return step


def _text_parts(loaded: Sequence[_Loaded]) -> list[Params]:
    """Tags with which the WebUI uses only the LoRAs' parts for the text encoder."""
    make: Any = import_module("modules.extra_networks").ExtraNetworkParams
    tags = [each.lora.tag for each in loaded if each.has_text_part]
    return [make(items=[name, f"{weight:g}", "0"]) for name, weight in text_weights(tags) if weight]


def find_lora(name: str) -> Any:
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


def _without_default(ours: Sequence[Params], builtin: Sequence[Params]) -> list[Params]:
    """A tag of weight 0 for the LoRA that the WebUI's setting 'Add network to prompt' would add to ours.

    The WebUI leaves it out where a tag names it already, but it does not see our tags.
    """
    default = import_module("modules.shared").opts.sd_lora
    named = {params.items[0] for params in ours} - {params.items[0] for params in builtin}
    make: Any = import_module("modules.extra_networks").ExtraNetworkParams
    return [make(items=[default, "0"])] if default in named else []


def _note_hashes(p: Any, loaded: Sequence[_Loaded]) -> None:
    """Add our LoRAs to those whose hashes the WebUI saves with the picture."""
    if loaded and import_module("modules.shared").opts.lora_add_hashes_to_infotext:
        known = p.extra_generation_params.get(_HASHES)
        hashes = [*(known.split(", ") if known else []), *(each.name_and_hash for each in loaded)]
        p.extra_generation_params[_HASHES] = ", ".join(dict.fromkeys(hashes))


def _text(params: Params) -> str:
    return f"<lora:{':'.join(map(str, params.items))}>"


def comment(p: Any, text: str) -> None:
    """Show a sentence under the picture, and in the console for those who ask through the API."""
    _log.warning(text)
    if hasattr(p, "comment"):
        p.comment(text)
