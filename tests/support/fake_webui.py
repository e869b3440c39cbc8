"""A1111, Forge, Forge Neo and the older relatives in small: exactly the attributes that the hosts use of them.

Like the real ones they punish: the lock deadlocks when it is taken twice, Forge's weights are inference tensors that
only its memory management may move, and then only in inference mode.
"""

from __future__ import annotations

import enum
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod
from lib_addift.families import FAMILIES, SD15, SDXL, SIZE_WIDTH, SIZES, Family
from lib_addift.hosts.prompt_tag.webui import remove_timed_loras
from tests.support.fake_unet import (
    Attention,
    AutoencoderKL,
    BasicTransformerBlock,
    OpenCLIPText,
    Posterior,
    TextModel,
    UNetModel,
    attend,
)
from tests.support.models import fingerprint

# What imports a WebUI's modules when it is imported itself.
_BOUND = [
    ("lib_addift", "webui"),
    *(("lib_addift.hosts", name) for name in ("webui", "a1111", "forge", "reforge", "sliders")),
]


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(contents)
    return made


class ScriptRunner:
    """modules.scripts.ScriptRunner, as it is before scripts are loaded."""

    def __init__(self) -> None:
        self.alwayson_scripts: list[Any] = []


class QueueLock:
    """modules.call_queue.queue_lock: first come, first served, and nobody twice."""

    def __init__(self) -> None:
        self.is_held, self.times = False, 0

    def __enter__(self) -> None:
        assert not self.is_held, "deadlock: the lock is taken twice"
        self.is_held, self.times = True, self.times + 1

    def __exit__(self, *_error: object) -> None:
        assert self.is_held
        self.is_held = False


class State:
    """modules.shared.state."""

    def __init__(self, lock: QueueLock) -> None:
        self._lock = lock
        self.begun: list[str] = []
        self.ended = 0
        self.textinfo, self.job_count, self.job_no, self.sampling_step, self.sampling_steps = None, 0, 0, 0, 0

    def begin(self, job: str = "(unknown)") -> None:
        assert self._lock.is_held
        self.begun.append(job)

    def end(self) -> None:
        assert self._lock.is_held
        self.ended += 1


class CheckpointInfo(SimpleNamespace):
    """modules.sd_models.CheckpointInfo of a file that has not been hashed yet."""

    def __init__(self, name: str = "photo.safetensors") -> None:
        super().__init__(name=name, title=name, sha256=None, shorthash=None)

    def calculate_shorthash(self) -> None:
        """Loading a model does this, unless the WebUI runs with --no-hashing."""
        self.sha256 = "0123456789abcdef" * 4
        self.shorthash = self.sha256[:10]
        self.title = f"{self.name} [{self.shorthash}]"


PROMPT_CACHES = {"cached_c": [None, None], "cached_uc": [None, None]}
HIRES_CACHES = {"cached_hr_c": [None, None], "cached_hr_uc": [None, None]}


class StableDiffusionProcessing:
    def __init__(self, **settings: Any) -> None:
        self.settings, self.is_closed = settings, False

    def close(self) -> None:
        self.is_closed = True


class SharedModule(ModuleType):
    """modules.shared; reading `sd_model` loads it."""

    webui: FakeWebUI

    @property
    def sd_model(self) -> Any:
        return self.webui.model_data.get_sd_model()


class FakeWebUI:
    """One WebUI, the model in it, and a host for it. Tests set the attributes before the host is used."""

    name: str

    def __init__(self, lora_dir: Path, dtype: torch.dtype = torch.float32, family: Family = SD15) -> None:
        torch.manual_seed(0)
        self.lora_dir, self.dtype, self.family = lora_dir, dtype, family
        self.lock = QueueLock()
        self.state = State(self.lock)
        self.info: CheckpointInfo | None = CheckpointInfo()
        self.hashes_when_loading = False
        self.drawn: list[StableDiffusionProcessing] = []
        self.pictures = [Image.new("RGBA", (64, 32), (10, 20, 30, 255))]
        self.listed = 0
        self.attended: set[str] = set()  # the ways of computing attention through which gradients went
        self.unet = UNetModel(family=family).to(dtype)
        self.vae, self.text = AutoencoderKL().to(dtype), TextModel().to(dtype)
        self.second = self.make_second().to(dtype) if family is SDXL else None
        self.model: Any = self.make_model()
        self.model_data = self.make_model_data()
        self.networks = self.make_networks()

    # What differs

    def make_model(self) -> Any:
        raise NotImplementedError

    def make_second(self) -> TextModel:
        """SDXL's second text model."""
        return TextModel()

    @property
    def texts(self) -> list[TextModel]:
        """The text models."""
        return [self.text] if self.second is None else [self.text, self.second]

    def sdxl_conditions(self, prompts: list[str], clip_skip: int) -> dict[str, torch.Tensor]:
        """As the WebUI makes them: the sizes are 1024 px, for it is told no other."""
        assert self.second is not None
        (first, _), (second, pooled) = (text.without_norm(prompts, clip_skip) for text in self.texts)
        sizes = pooled.new_full((len(pooled), SIZES * SIZE_WIDTH), 0.5)
        return {"crossattn": torch.cat([first, second], dim=2), "vector": torch.cat([pooled, sizes], dim=1)}

    def make_model_data(self) -> Any:
        raise NotImplementedError

    def make_networks(self) -> ModuleType:
        raise NotImplementedError

    def own_modules(self) -> list[ModuleType]:
        raise NotImplementedError

    def merge_lora(self) -> None:
        """What a picture with a LoRA in its prompt leaves behind."""
        raise NotImplementedError

    def choose_attention(self, name: str) -> None:
        """As the person does, by an option of the start."""
        raise NotImplementedError

    def chosen_attention(self) -> object:
        raise NotImplementedError

    # What is common

    def attention(self, name: str) -> Callable[..., torch.Tensor]:
        """A way of computing attention; `self.attended` has its name when gradients go through it."""

        def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_more: Any) -> torch.Tensor:
            if torch.is_grad_enabled():
                self.attended.add(name)
            return attend(q, k, v)

        function.__name__ = name
        return function

    def modules(self) -> dict[str, ModuleType]:
        options = SimpleNamespace(CLIP_stop_at_last_layers=1)
        arguments = SimpleNamespace(lora_dir=str(self.lora_dir), lowvram=False, api=False, nowebui=False, api_auth=None)
        self.shared = SharedModule("modules.shared")
        self.shared.webui = self
        self.shared.state, self.shared.opts, self.shared.cmd_opts = self.state, options, arguments
        self.processing = module(
            "modules.processing",
            StableDiffusionProcessing=type("StableDiffusionProcessing", (StableDiffusionProcessing,), PROMPT_CACHES),
            StableDiffusionProcessingTxt2Img=type(
                "StableDiffusionProcessingTxt2Img", (StableDiffusionProcessing,), HIRES_CACHES
            ),
            process_images=self._process_images,
        )
        sd_models = module(
            "modules.sd_models",
            model_data=self.model_data,
            select_checkpoint=self._select,
            forge_model_reload=self.reload,
        )
        made = [
            self.shared, self.processing, sd_models, self.networks, *self.own_modules(),
            module("modules.call_queue", queue_lock=self.lock), module("modules.scripts", ScriptRunner=ScriptRunner),
        ]  # fmt: skip
        parts = {m.__name__.removeprefix("modules."): m for m in made if m.__name__.startswith("modules.")}
        webui = module("modules", __path__=[], **parts)
        return {m.__name__: m for m in (webui, *made)}

    def _select(self) -> CheckpointInfo:
        if self.info is None:
            raise FileNotFoundError("No checkpoints found")
        return self.info

    def reload(self) -> tuple[Any, bool]:
        """Load what is chosen, if that was not done yet."""
        if self.hashes_when_loading and self.info is not None:
            self.info.calculate_shorthash()
        self.model_data.sd_model = self.model
        return self.model, True

    def unload(self) -> None:
        """As the WebUI is before its first picture."""
        self.model_data.sd_model = None

    def _process_images(self, job: StableDiffusionProcessing) -> SimpleNamespace:
        assert self.lock.is_held
        assert len(self.state.begun) == self.state.ended + 1
        assert job.scripts.alwayson_scripts == [], "reForge looks for one of its own there"
        self.drawn.append(job)
        return SimpleNamespace(images=self.pictures)

    def list_available_networks(self) -> None:
        self.listed += 1
        self.networks.available_networks.clear()
        self.networks.available_networks.update({path.stem: path for path in self.lora_dir.glob("*.safetensors")})

    def prompt_loras(self) -> Any:
        """What the WebUI itself believes to be merged, so that its next picture is right."""
        raise NotImplementedError

    def snapshot(self) -> dict[str, Any]:
        """Everything that a job must leave as it was."""
        return {
            **fingerprint(self.unet, self.vae, *self.texts),
            "parameters": [id(p) for model in (self.unet, *self.texts) for p in model.parameters()],
            "loras": self.prompt_loras(),
            "attention": self.chosen_attention(),
        }

    @property
    def is_quiet(self) -> bool:
        """No job is on, and every one that began has ended."""
        return not self.lock.is_held and self.state.ended == len(self.state.begun)

    def fail(self, error: BaseException, *, call: int = 1) -> None:
        """The `call`-th run of the UNet from now raises `error`, and so do those after it."""
        calls = iter(range(1, 10_000))

        def count() -> None:
            if next(calls) >= call:
                raise error

        self.unet.before_call = count


class FakeA1111(FakeWebUI):
    name = "a1111"
    medvram = False

    def make_model(self) -> nn.Module:
        for block in self.unet.modules():
            if isinstance(block, BasicTransformerBlock):
                block.adds_in_place = False
        return LatentDiffusion(self) if self.family is SD15 else DiffusionEngine(self)

    def make_second(self) -> TextModel:
        return OpenCLIPText()

    def make_model_data(self) -> SimpleNamespace:
        data = SimpleNamespace(sd_model=self.model)
        data.get_sd_model = lambda: data.sd_model or self.reload()[0]
        return data

    def make_networks(self) -> ModuleType:
        self.loaded_loras: list[str] = []
        return module(
            "networks", networks_in_memory={}, available_networks={},
            load_networks=self._load_networks, network_apply_weights=self._apply_weights,
            list_available_networks=self.list_available_networks,
        )  # fmt: skip

    def _load_networks(self, names: list[str]) -> None:
        self.loaded_loras[:] = names

    def _apply_weights(self, layer: Any) -> None:
        wanted = tuple(self.loaded_loras)
        if layer.network_current_names != wanted:
            layer.weight.copy_(layer.network_weights_backup)
            if wanted:
                layer.weight.add_(1)
            layer.network_current_names = wanted

    def merge_lora(self) -> None:
        self._load_networks(["smile"])
        layer: Any = self.unet.get_submodule("middle_block.1.proj_in")
        layer.network_weights_backup, layer.network_current_names = layer.weight.detach().clone(), ()
        with torch.no_grad():
            self._apply_weights(layer)

    def prompt_loras(self) -> list[str]:
        return list(self.loaded_loras)

    def own_modules(self) -> list[ModuleType]:
        self.devices = module(
            "modules.devices", device=torch.device("cpu"), dtype=self.dtype, dtype_unet=self.dtype,
            autocast=nullcontext, without_autocast=nullcontext,
        )  # fmt: skip
        self.undone: list[Any] = []
        hijack = SimpleNamespace(apply_circular=lambda flag: self.undone.append(("circular", flag)))
        hypernetwork = module(
            "modules.hypernetworks.hypernetwork",
            load_hypernetworks=lambda names: self.undone.append(("hypernetworks", names)),
        )
        for part in self.unet.modules():
            if isinstance(part, Attention):
                part.attend = lambda *args: self.cross_attention.forward(*args)  # noqa: PLW0108 - replaced later
        self.cross_attention = type("CrossAttention", (), {})  # real ones have their forward there too
        self.sd_hijack = module("modules.sd_hijack", model_hijack=hijack)
        self.choose_attention("Doggettx")
        optimizations = module(
            "modules.sd_hijack_optimizations", scaled_dot_product_attention_forward=self.attention("fused")
        )
        return [
            self.devices, self.sd_hijack, optimizations,
            module("ldm", __path__=[]), module("ldm.modules", __path__=[]),
            *(module(name, __path__=[]) for name in ("sgm", "sgm.modules", "sgm.modules.distributions")),
            module("sgm.modules.distributions.distributions", DiagonalGaussianDistribution=Posterior),
            module("ldm.modules.attention", CrossAttention=self.cross_attention),
            module("modules.sd_unet", apply_unet=lambda option: self.undone.append(("unet", option))),
            module("modules.hypernetworks", __path__=[], hypernetwork=hypernetwork),
            hypernetwork,
        ]  # fmt: skip

    def choose_attention(self, name: str) -> None:
        self.sd_hijack.current_optimizer = SimpleNamespace(name=name)
        self.cross_attention.forward = staticmethod(self.attention(name))

    def chosen_attention(self) -> object:
        return self.cross_attention.forward


class DiffusionWrapper(nn.Module):
    def __init__(self, unet: UNetModel, before_call: Callable[[], None]) -> None:
        super().__init__()
        self.diffusion_model, self._before_call = unet, before_call

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._before_call()  # --medvram's hook
        return self.diffusion_model(x, timesteps, context, y=y)


class FrozenCLIPEmbedderWithCustomWords(nn.Module):
    """A1111's own around CLIP."""

    def __init__(self, webui: FakeA1111) -> None:
        super().__init__()
        self.wrapped, self._webui = webui.text, [webui]

    def forward(self, prompts: list[str]) -> torch.Tensor:
        return self.wrapped(prompts, self._webui[0].shared.opts.CLIP_stop_at_last_layers)


class Elsewhere:
    """A model that leaves the device and comes back, as with `Module.to`: other memory under the same parameters.

    While it is away, its weights are of no use: nan.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._kept = model, {}

    def leave(self) -> None:
        if not self._kept:
            self._kept = {name: parameter.data for name, parameter in self._model.named_parameters()}
            for parameter in self._model.parameters():
                parameter.data = torch.full_like(parameter, math.nan)

    def come(self) -> None:
        for name, kept in self._kept.items():
            self._model.get_parameter(name).data = kept.clone()
        self._kept = {}


class LatentDiffusion(nn.Module):
    """A1111's `sd_model`."""

    scale_factor, parameterization = SD15.latent_scale, "eps"
    is_sdxl = is_sd2 = is_sd3 = False
    is_sd1 = True

    def __init__(self, webui: FakeA1111) -> None:
        super().__init__()
        self.model, self.first_stage_model = DiffusionWrapper(webui.unet, self._unet_comes), webui.vae
        self.cond_stage_model = FrozenCLIPEmbedderWithCustomWords(webui)
        self.alphas_cumprod_original = scaled_linear_alphas_cumprod()
        self.alphas_cumprod = self.alphas_cumprod_original * 0.5  # bent by a generation option
        self._webui = [webui]
        self._text = Elsewhere(webui.text.transformer)
        webui.text.transformer.before_call = self._text_comes

    @property
    def sd_checkpoint_info(self) -> CheckpointInfo | None:
        return self._webui[0].info

    @property
    def lowvram(self) -> bool:
        return self._webui[0].medvram

    def _unet_comes(self) -> None:
        self.model.diffusion_model.is_on_device = True
        if self.lowvram:
            self._text.leave()

    def _text_comes(self) -> None:
        self._text.come()
        if self.lowvram:
            self.model.diffusion_model.is_on_device = False

    def _vae_comes(self) -> None:
        if self.lowvram:
            self.model.diffusion_model.is_on_device = False
            self._text.leave()

    @torch.no_grad()
    def encode_first_stage(self, x: torch.Tensor) -> Any:
        self._vae_comes()
        return self.first_stage_model.encode(x)

    @torch.no_grad()
    def decode_first_stage(self, z: torch.Tensor) -> torch.Tensor:
        self._vae_comes()
        return self.first_stage_model.decode(z / self.scale_factor)

    def get_learned_conditioning(self, prompts: list[str]) -> torch.Tensor:
        return self.cond_stage_model(prompts)

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        dtype = next(self.parameters()).dtype
        context = torch.cat(cond["c_crossattn"], dim=1)
        return self.model(x.to(dtype), t, context.to(dtype))


class SdxlEmbedder(nn.Module):
    """A1111's own around one of SDXL's text models; sgm's conditioner runs it without gradients where it is frozen."""

    is_trainable = False

    def __init__(self, text: TextModel) -> None:
        super().__init__()
        self.wrapped = text


class DiffusionEngine(LatentDiffusion):
    """A1111's `sd_model` of SDXL, an sgm model."""

    scale_factor = SDXL.latent_scale
    is_sdxl, is_sd1 = True, False

    def __init__(self, webui: FakeA1111) -> None:
        super().__init__(webui)
        del self.cond_stage_model
        self.conditioner = nn.Module()
        self.conditioner.embedders = nn.ModuleList(
            [*map(SdxlEmbedder, webui.texts), *(nn.Identity() for _ in range(3))]
        )

    @torch.no_grad()
    def encode_first_stage(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale_factor * super().encode_first_stage(x).sample()

    def get_learned_conditioning(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        is_trainable = all(embedder.is_trainable for embedder in self.conditioner.embedders[:2])
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable):
            return self._webui[0].sdxl_conditions(prompts, 2)

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        dtype = next(self.parameters()).dtype
        return self.model(x.to(dtype), t, cond["crossattn"].to(dtype), cond["vector"].to(dtype))


class Patcher:
    """ModelPatcher: a model, and what load_models_gpu must do with it."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.load_device = torch.device("cpu")
        self.lora_loader = SimpleNamespace(loaded_hash="[]")
        self.merged: dict[str, torch.Tensor] = {}  # backup of what a prompt's LoRA changed


class MemoryManagement:
    """backend.memory_management. Where memory is `tight`, one model moves out when another moves in."""

    def __init__(self) -> None:
        self.is_tight = False
        self.loaded: list[Patcher] = []
        self.asked: list[tuple[str, float]] = []
        self.error: BaseException | None = None

    def load_models_gpu(self, patchers: list[Patcher], memory_required: float = 0) -> None:
        assert torch.is_inference_mode_enabled(), "moved outside of inference mode"
        for patcher in patchers:
            self.asked.append((patcher.name, memory_required))
            if self.error is not None:
                raise self.error
            for other in [p for p in self.loaded if self.is_tight and p not in patchers]:
                _move(other.model)
                self.loaded.remove(other)
            if patcher not in self.loaded:
                self.loaded.append(patcher)
                if self.is_tight:
                    _move(patcher.model)
            for name, weight in patcher.merged.items():
                patcher.model.get_parameter(name).copy_(weight)
            patcher.merged.clear()


def _move(model: nn.Module) -> None:
    """New parameters, made in inference mode; nobody may be using the old ones."""
    for part in model.modules():
        assert not part._forward_hooks or not part._forward_pre_hooks, "moved while it was patched"
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad)


def _parents(name: str) -> list[str]:
    """The packages in which a module is."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


class ForgeObjects:
    def __init__(self, unet: Any, clip: Any, vae: Any) -> None:
        self.unet, self.clip, self.vae = unet, clip, vae

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip, self.vae)


class StableDiffusion:
    """Forge's engine; no nn.Module, and without alphas_cumprod."""

    is_sd2 = False

    def __init__(self, webui: FakeForge) -> None:
        self._webui = webui
        self.is_sd1, self.is_sdxl = webui.family is SD15, webui.family is SDXL
        self.current_lora_hash = "[]"
        self.clip_skip = 1
        core = nn.Module()
        core.diffusion_model = webui.unet
        core.predictor = SimpleNamespace(alphas_cumprod=scaled_linear_alphas_cumprod(), prediction_type="epsilon")
        core.computation_dtype = webui.dtype
        webui.vae.process_in = lambda x: x * webui.family.latent_scale
        vae = SimpleNamespace(
            first_stage_model=webui.vae, vae_dtype=webui.dtype, device=torch.device("cpu"),
            patcher=Patcher(webui.vae, "vae"), memory_used_encode=lambda shape, _dtype: 1000 * shape[2] * shape[3],
        )  # fmt: skip
        text = nn.Module()
        for name, part in zip(("clip_l", "clip_g"), webui.texts, strict=False):
            text.add_module(name, part)
        clip = SimpleNamespace(patcher=Patcher(text, "clip"), cond_stage_model=text)
        self.forge_objects_original = ForgeObjects(Patcher(core, "unet"), clip, vae)
        self.forge_objects = self.forge_objects_original.shallow_copy()

    def set_clip_skip(self, clip_skip: int) -> None:
        self.clip_skip = clip_skip

    @torch.inference_mode()
    def get_learned_conditioning(self, prompts: list[str]) -> Any:
        self._webui.memory.load_models_gpu([self.forge_objects.clip.patcher])
        if self.is_sdxl:
            return self._webui.sdxl_conditions(prompts, self.clip_skip)
        return self.text_processing_engine(prompts)

    def text_processing_engine(self, prompts: list[str]) -> torch.Tensor:
        assert self.is_sd1
        return self._webui.text(prompts, self.clip_skip)

    def text_processing_engine_l(self, prompts: list[str]) -> torch.Tensor:
        assert self.is_sdxl
        return self._webui.texts[0].without_norm(prompts, self.clip_skip)[0]

    def text_processing_engine_g(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._webui.texts[1].without_norm(prompts, self.clip_skip)

    @torch.inference_mode()
    def decode_first_stage(self, latents: torch.Tensor) -> torch.Tensor:
        self._webui.memory.load_models_gpu([self.forge_objects.vae.patcher])
        return (
            self._webui.vae.decode((latents / self._webui.family.latent_scale).to(self._webui.dtype))
            .clamp(-1, 1)
            .to(latents)
        )


class FakeInitialModel:
    """Forge's stand-in before a model is loaded; truthy, and empty."""

    cond_stage_model = None


class FakeForge(FakeWebUI):
    name = "forge"
    flags: tuple[str, ...] = ("all_in_fp32", "all_in_fp16", "always_gpu")
    arguments_module = "backend.args"
    memory_module = "backend.memory_management"
    attention_module, unet_module, attention_name = "backend.attention", "backend.nn.unet", "attention_function"

    def __init__(self, lora_dir: Path, dtype: torch.dtype = torch.float32, family: Family = SD15) -> None:
        self.memory = MemoryManagement()
        self.cleared = 0
        super().__init__(lora_dir, dtype, family)

    def make_model(self) -> Any:
        for part in (self.unet, self.vae, *self.texts):
            with torch.inference_mode():
                _move(part)
                part.requires_grad_(False)
        return StableDiffusion(self)

    def make_model_data(self) -> SimpleNamespace:
        data = SimpleNamespace(sd_model=self.model, forge_loading_parameters={"checkpoint_info": self.info})
        data.get_sd_model = lambda: data.sd_model
        return data

    def unload(self) -> None:
        self.model_data.sd_model = FakeInitialModel()

    def make_networks(self) -> ModuleType:
        def clear() -> None:
            self.cleared += 1

        return module(
            "networks", available_networks={}, load_lora_state_dict=SimpleNamespace(cache_clear=clear),
            list_available_networks=self.list_available_networks,
        )  # fmt: skip

    def own_modules(self) -> list[ModuleType]:
        for part in self.unet.modules():
            if isinstance(part, Attention):
                part.attend = lambda q, k, v: vars(self.unet_code)[self.attention_name](q, k, v, 1)
        ways = {name: self.attention(name) for name in ("attention_pytorch", "attention_xformers", "attention_sage")}
        attention = module(self.attention_module, **ways)
        self.unet_code = attention if self.unet_module == self.attention_module else module(self.unet_module)
        self.choose_attention("attention_sage")
        memory = module(self.memory_module, load_models_gpu=self.memory.load_models_gpu)
        arguments = module(self.arguments_module, args=SimpleNamespace(**dict.fromkeys(self.flags, False)))
        made = {each.__name__: each for each in (memory, arguments, attention, self.unet_code)}
        packages = {parent for name in made for parent in _parents(name)}
        return [*made.values(), *(module(name, __path__=[]) for name in packages), self.lora_files()]

    def lora_files(self) -> ModuleType:
        """The module `network` of the built-in Lora extension, which has the cards' words for base models."""
        return module("network", SdVersion=enum.Enum("SdVersion", ["Unknown", "SD1", "SD2", "SDXL", "Flux"]))

    def choose_attention(self, name: str) -> None:
        setattr(self.unet_code, self.attention_name, self.attention(name))

    def chosen_attention(self) -> object:
        return getattr(self.unet_code, self.attention_name)

    def merge_lora(self) -> None:
        original = self.model.forge_objects_original.unet
        name = "diffusion_model.middle_block.1.proj_in.weight"
        weight = original.model.get_parameter(name)
        original.merged[name] = weight.clone()
        with torch.inference_mode():
            weight.add_(1)
        self.model.current_lora_hash = "[smile]"
        self.model.forge_objects = self.model.forge_objects.shallow_copy()
        self.model.forge_objects.unet = Patcher(original.model, "unet with LoRA")
        self.model.forge_objects.clip = SimpleNamespace(patcher=Patcher(self.text, "clip with LoRA"))

    def prompt_loras(self) -> Any:
        objects = self.model.forge_objects
        return self.model.current_lora_hash, id(objects), id(objects.unet), id(objects.clip), id(objects.vae)


class FakeNeo(FakeForge):
    """Forge Neo: it keeps no files that it has read, its patchers have no loader of LoRAs, and flags have new names."""

    flags = ("force_fp32", "force_fp16", "gpu_only")

    def make_model(self) -> Any:
        model = super().make_model()
        for patcher in (model.forge_objects_original.unet, model.forge_objects_original.clip.patcher):
            del patcher.lora_loader
        return model

    def make_networks(self) -> ModuleType:
        networks = super().make_networks()
        vars(networks)["load_lora_state_dict"] = functools.partial(dict, safe_load=True)
        return networks

    def lora_files(self) -> ModuleType:
        return module("network", SD_VERSION=["Unknown", "sd", "xl", "flux"])


class FakeReForge(FakeForge):
    """Also Forge Classic. Loaded outside of inference mode; what pictures have moved is inference tensors by now."""

    name = "reforge"
    arguments_module = "ldm_patched.modules.args_parser"
    memory_module = "ldm_patched.modules.model_management"
    attention_module = unet_module = "ldm_patched.ldm.modules.attention"
    attention_name = "optimized_attention"

    def make_model(self) -> Any:
        for part in (self.unet.input_blocks, self.vae, self.text.transformer.text_model.encoder.layers[0]):
            with torch.inference_mode():
                _move(part)
        return ReForgeModel(self)

    def own_modules(self) -> list[ModuleType]:
        def move_clip_to_gpu() -> None:
            self.memory.load_models_gpu([self.model.forge_objects.clip.patcher])

        forge_clip = module("modules_forge.forge_clip", move_clip_to_gpu=move_clip_to_gpu)
        return [*super().own_modules(), module("modules_forge", __path__=[], forge_clip=forge_clip), forge_clip]

    def make_model_data(self) -> SimpleNamespace:
        data = SimpleNamespace(sd_model=self.model)
        data.get_sd_model = lambda: data.sd_model or self.reload()[0]
        return data

    def unload(self) -> None:
        self.model_data.sd_model = None


class ReForgeModel(StableDiffusion):
    """reForge's `sd_model`: an ldm LatentDiffusion with forge_objects."""

    parameterization = "eps"

    def __init__(self, webui: FakeReForge) -> None:
        super().__init__(webui)
        del webui.vae.process_in
        core: Any = self.forge_objects_original.unet.model
        del core.predictor, core.computation_dtype
        core.manual_cast_dtype, core.get_dtype = None, lambda: webui.dtype
        core.model_config = SimpleNamespace(
            latent_format=SimpleNamespace(process_in=lambda x: x * webui.family.latent_scale)
        )
        self.alphas_cumprod_original = scaled_linear_alphas_cumprod()
        self.alphas_cumprod = self.alphas_cumprod_original * 0.5  # bent by a generation option

    def get_learned_conditioning(self, prompts: list[str]) -> Any:
        import_module("modules_forge.forge_clip").move_clip_to_gpu()
        clip_skip = self._webui.shared.opts.CLIP_stop_at_last_layers
        return self._webui.sdxl_conditions(prompts, clip_skip) if self.is_sdxl else self._webui.text(prompts, clip_skip)

    @property
    def sd_checkpoint_info(self) -> CheckpointInfo | None:
        return self._webui.info


# What must hold in every WebUI must hold for every family: these are the two lists.
KINDS: dict[str, type[FakeWebUI]] = {"a1111": FakeA1111, "forge": FakeForge, "neo": FakeNeo, "reforge": FakeReForge}
WEBUIS = {(kind if family is SD15 else f"{kind} {family}"): (kind, family) for family in FAMILIES for kind in KINDS}


@contextmanager
def inside(webui: FakeWebUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Python as it is inside that WebUI; gives the host that is found there."""
    with monkeypatch.context() as patch:
        _forget_bound()
        for name, made in webui.modules().items():
            patch.setitem(sys.modules, name, made)
        try:
            yield import_module("lib_addift.hosts").detect_host()
        finally:
            remove_timed_loras()
            _forget_bound()


def _forget_bound() -> None:
    for package, name in _BOUND:
        sys.modules.pop(f"{package}.{name}", None)
        vars(import_module(package)).pop(name, None)
