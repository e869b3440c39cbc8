"""A WebUI's `lora` tag in small: exactly what lib_addift.hosts.prompt_tag.webui uses of A1111 and Forge."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_addift.diffusion.conditions import Conditions
from lib_addift.hosts.prompt_tag.webui import remove_timed_loras, wrap_lora_tag
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint

LAYERS = {
    "layers": ["self_attention", "cross_attention", "feed_forward", "convolutions"],
    "blocks": ["IN", "MID", "OUT"],
}


class Params:
    """modules.extra_networks.ExtraNetworkParams."""

    def __init__(self, items):
        self.items = items
        parts = [str(item).split("=", 2) for item in items]
        self.positional = [part[0] if len(part) == 1 else "=".join(part) for part in parts if len(part) != 2]
        self.named = dict(part for part in parts if len(part) == 2)

    def __eq__(self, other):
        return self.items == other.items

    __hash__ = None


class BuiltinTag:
    """ExtraNetworkLora: what it was given, as the texts of the tags."""

    def __init__(self):
        self.activated, self.deactivated, self.fails = [], 0, False

    def activate(self, p, params_list):
        if self.fails:
            raise AttributeError("'NoneType' object has no attribute 'filename'")  # Forge, for an unknown name
        self.activated.append([":".join(params.items) for params in params_list])
        p.extra_generation_params["Lora hashes"] = "other: 0123"

    def deactivate(self, p):
        self.deactivated += 1


class Entry(SimpleNamespace):
    """NetworkOnDisk."""

    shorthash = None

    @property
    def metadata(self):
        with safe_open(self.filename, framework="pt") as file:
            return file.metadata() or {}

    def read_hash(self):
        self.shorthash = "abc123"


class Picture:
    """StableDiffusionProcessing."""

    def __init__(self):
        self.comments, self.extra_generation_params = {}, {}

    def comment(self, text):
        self.comments[text] = 1


class Drawing(Picture):
    """StableDiffusionProcessingTxt2Img: a batch whose tags act, with `hires` in a hires pass too."""

    def __init__(self, webui, prompt, *, hires=False):
        super().__init__()
        self.webui, self.hires = webui, hires
        self.all_prompts = self.prompts = [prompt]
        self.extra_network_data = self.hr_extra_network_data = None

    def parse_extra_network_prompts(self):
        found = [self._parse() for _pass in range(1 + self.hires)]
        self.extra_network_data, self.hr_extra_network_data = [*found, None][:2]

    def _parse(self):
        tags = re.findall(r"<lora:([^>]+)>", self.prompts[0])
        return {"lora": [Params(tag.split(":")) for tag in tags]} if tags else {}

    def draw(self, script, *values):
        """Returns what the WebUI's own tag was activated with, in each pass."""
        tag = self.webui.registry["lora"]
        script.before_process_batch(self, *values, batch_number=0, prompts=self.prompts, seeds=[1], subseeds=[1])
        self.parse_extra_network_prompts()
        for data in (self.extra_network_data, self.hr_extra_network_data):
            if data is not None:
                tag.activate(self, list(data.get("lora", [])))
        if self.extra_network_data:
            tag.deactivate(self)
        activated = [*tag.activated]
        tag.activated.clear()
        return activated


class WebUI:
    """A WebUI with a Lora folder and one picture; `activate` takes the tags of its prompt, `predict` runs the UNet."""

    def __init__(self, folder):
        self.folder = folder
        self.host = FakeHost(folder)
        self.registry, self.tag, self.p = {}, None, Picture()
        self.opts = SimpleNamespace(sd_lora="None", lora_add_hashes_to_infotext=True)
        self.networks = ModuleType("networks")
        self.networks.available_networks, self.networks.available_network_aliases = {}, {}
        self.networks.forbidden_network_aliases = {"none": 1}
        self.networks.list_available_networks = self._list
        self.extra_networks = ModuleType("modules.extra_networks")
        self.extra_networks.extra_network_registry = self.registry
        self.extra_networks.ExtraNetworkParams = Params
        self.before = fingerprint(self.host.unet)
        self.reload()

    def modules(self):
        shared = ModuleType("modules.shared")
        shared.opts = self.opts
        self.scripts = ModuleType("modules.scripts")
        self.scripts.Script, self.scripts.AlwaysVisible, self.scripts.scripts_data = (
            type("Script", (), {}),
            object(),
            [],
        )
        webui = ModuleType("modules")
        parts = {"extra_networks": self.extra_networks, "shared": shared, "scripts": self.scripts}
        vars(webui).update(parts, __path__=[])
        return {
            "networks": self.networks,
            "modules": webui,
            **{f"modules.{name}": part for name, part in parts.items()},
        }

    def _list(self):
        for path in self.folder.iterdir():
            entry = Entry(name=path.stem, filename=str(path))
            self.networks.available_networks[path.stem] = entry
            self.networks.available_network_aliases |= {path.stem: entry, f"{path.stem} alias": entry}

    def reload(self):
        self.registry.clear()
        self.tag = self.registry["lora"] = BuiltinTag()

    def lora(self, name, seed=1, kind=None, **extra):
        modules = select_layers(self.host.unet, self.host.lora_name, **LAYERS)
        network = LoraNetwork.create(modules, rank=2, alpha=2.0, seed=seed, **(kind or {}))
        generator = torch.Generator().manual_seed(seed)
        for layer in network.layers.values():
            for parameter in layer.zero_init_parameters():
                parameter.data.normal_(generator=generator)
        save_file(network.tensors() | extra, self.folder / f"{name}.safetensors")
        return network.requires_grad_(False)

    def activate(self, *tags):
        self.registry["lora"].activate(self.p, [Params(tag.split(":")) for tag in tags])

    def predict(self, *timesteps):
        """One batch, with another picture for each timestep."""
        generator = torch.Generator().manual_seed(3)
        latents = torch.randn(len(timesteps), 4, 4, 4, generator=generator)
        cond = torch.randn(len(timesteps), 5, 6, generator=generator)
        return self.host.predict_noise(latents, torch.tensor(timesteps), Conditions(cond))

    def is_untouched(self):
        return fingerprint(self.host.unet) == self.before

    @property
    def comments(self):
        return " ".join(self.p.comments)


@contextmanager
def inside(folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebUI]:
    """A WebUI with the LoRAs of `folder`, whose tag knows our arguments."""
    webui = WebUI(folder)
    for name, module in webui.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    wrap_lora_tag(webui.host)
    try:
        yield webui
    finally:
        remove_timed_loras()
