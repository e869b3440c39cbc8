"""A host without Stable Diffusion: models of a few layers with real names, and pictures pooled to latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod
from lib_addift.families import SD15
from lib_addift.lora.names import kohya, text_kohya

WIDTH, CONTEXT = 8, 6


def place(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Make `layer` the submodule of that name."""
    *folders, last = path.split(".")
    for folder in folders:
        if folder not in root._modules:
            root.add_module(folder, nn.Module())
        root = root._modules[folder]
    root.add_module(last, layer)


class FakeUNet(nn.Module):
    """Reads (B, 4, h, w), timesteps and conditions; every kind of layer that a LoRA can join occurs once."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: dict[str, nn.Module] = {}
        attention = "attentions.0.transformer_blocks.0"
        self._add("conv_in", nn.Conv2d(4, WIDTH, 3, padding=1))
        self._add("down_blocks.0.resnets.0.conv1", nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self._add("down_blocks.0.resnets.0.time_emb_proj", nn.Linear(4, WIDTH))
        self._add("down_blocks.0.resnets.0.norm1", nn.GroupNorm(2, WIDTH))
        self._add(f"mid_block.{attention}.attn1.to_q", nn.Linear(WIDTH, WIDTH))
        self._add("mid_block.attentions.0.proj_in", nn.Conv2d(WIDTH, WIDTH, 1))
        self._add(f"up_blocks.1.{attention}.attn2.to_v", nn.Linear(CONTEXT, WIDTH))
        self._add(f"up_blocks.1.{attention}.ff.net.2", nn.Linear(WIDTH, WIDTH))
        self._add("conv_out", nn.Conv2d(WIDTH, 4, 3, padding=1))

    def _add(self, path: str, layer: nn.Module) -> None:
        place(self, path, layer)
        self._layers[path] = layer

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        conv_in, conv1, time_proj, norm, to_q, proj_in, to_v, ff, conv_out = self._layers.values()
        angles = timesteps[:, None].to(latents.dtype) * torch.tensor([0.01, 0.003], dtype=latents.dtype)
        emb = torch.cat([angles.sin(), angles.cos()], dim=1)
        h = conv_in(latents)
        h = h + conv1(F.silu(norm(h))) + time_proj(emb)[:, :, None, None]
        tokens = proj_in(h).flatten(2).transpose(1, 2)
        tokens = tokens + torch.tanh(to_q(tokens)) + to_v(cond).mean(dim=1, keepdim=True)
        tokens = tokens + ff(torch.tanh(tokens))
        return conv_out(h + tokens.transpose(1, 2).reshape(h.shape))


class FakeTextModel(nn.Module):
    """What hooks on its two layers change in their output: nothing, while there are none."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # of its own: the tests' numbers must not depend on this model
        self._layers = [nn.utils.skip_init(nn.Linear, CONTEXT, CONTEXT) for _ in range(2)]
        for name, layer in zip(("self_attn.q_proj", "mlp.fc1"), self._layers, strict=True):
            place(self, f"text_model.encoder.layers.0.{name}", layer)
            for parameter in layer.parameters():
                parameter.data.normal_(0, 0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hooked = plain = x
        for layer in self._layers:
            hooked, plain = torch.tanh(layer(hooked)), torch.tanh(F.linear(plain, layer.weight, layer.bias))
        return hooked - plain


class FakeHost:
    """Implements lib_addift.diffusion.host.Host. `fail_at` raises in that call of predict_noise."""

    name = "fake"
    family = SD15
    model_title = "fake.safetensors"
    model_hash = "0" * 64
    prediction_type = "epsilon"
    zero_snr = False
    latent_channels, pixels_per_latent = 4, 8
    picture_side: int | None = None  # its pictures have no usual size
    device = torch.device("cpu")
    needs_loss_scaling = False
    clip_skip = 1

    def __init__(self, lora_dir: Path = Path("."), *, dtype: torch.dtype = torch.float32, fail_at: int = 0) -> None:
        torch.manual_seed(0)
        self.unet = FakeUNet().to(dtype).requires_grad_(False)
        self.text_model = FakeTextModel().to(dtype).requires_grad_(False)
        self.alphas_cumprod = scaled_linear_alphas_cumprod()
        self.lora_dir = lora_dir
        self.refreshed: list[Path] = []
        self.card_versions: dict[str, str] = {}
        self.reported: list[str] = []
        self.calls = 0
        self._dtype, self._fail_at = dtype, fail_at

    @contextmanager
    def exclusive(self, *, precision: str = "auto") -> Iterator[None]:
        yield

    def lora_name(self, module_name: str) -> str:
        return kohya(module_name)

    def text_lora_name(self, module_name: str) -> str:
        return text_kohya(module_name)

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.avg_pool2d(torch.cat([pixels, pixels.mean(dim=1, keepdim=True)], dim=1), 8)

    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        pixels = F.interpolate(latents[:, :3].float(), scale_factor=8)
        return ((pixels + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        return self.encode_prompts_with_grad(prompts)

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        codes = [[math.sin(len(p) + n) for n in range(5 * CONTEXT)] for p in prompts]
        cond = torch.tensor(codes).view(len(prompts), 5, CONTEXT)
        states = cond + self.text_model(cond.to(self._dtype)).float()
        # As behind CLIP's last norm there is a vector with the same product with every token: the last channel.
        return Conditions(torch.cat([states[..., :-1], torch.ones_like(states[..., -1:])], dim=-1))

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        self.calls += 1
        if self.calls == self._fail_at:
            raise RuntimeError("out of memory (simulated)")
        return self.unet(latents.to(self._dtype), timesteps, cond.crossattn.to(self._dtype)).float()

    def report(self, text: str, done: int, total: int) -> None:
        self.reported.append(text)

    def lora_names(self) -> list[str]:
        return sorted(path.stem for path in self.lora_dir.glob("*.safetensors"))

    def draw(self, prompt: str, *, seed: int = 1, width: int = 64, height: int = 64, **_settings: object) -> np.ndarray:
        """Grey, and a little brighter with every tag."""
        return np.full((height, width, 3), 100 + 20 * prompt.count("<lora:") + seed % 10, np.uint8)

    def refresh_loras(self, path: Path) -> None:
        self.refreshed.append(path)
