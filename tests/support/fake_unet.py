"""A UNet, a VAE and a text model of a few numbers, with CompVis's names and classes, as WebUIs have them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, CONTEXT = 8, 6


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return (query @ key.transpose(1, 2)).softmax(dim=-1) @ value


class Attention(nn.Module):
    def __init__(self, context: int = WIDTH) -> None:
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(context, WIDTH, bias=False)
        self.to_v = nn.Linear(context, WIDTH, bias=False)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Identity())
        self.attend = attend  # a WebUI puts its own way of computing here

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        context = x if context is None else context
        return self.to_out(self.attend(self.to_q(x), self.to_k(context), self.to_v(context)))


class BasicTransformerBlock(nn.Module):
    """Adds in place, as in Forge, where `adds_in_place`; as in A1111 otherwise."""

    adds_in_place = True

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attn1, self.attn2 = Attention(), Attention(CONTEXT)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        if not self.adds_in_place:
            x = x + self.attn1(self.norm1(x))
            x = x + self.attn2(self.norm2(x), context)
            return x + self.ff.net(self.norm3(x))
        n = self.attn1(self.norm1(x))
        x += n
        n = self.attn2(self.norm2(x), context)
        x += n
        x_skip = x
        x = self.ff.net(self.norm3(x))
        x += x_skip
        return x


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, WIDTH)
        self.proj_in = nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock()])
        self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h * w, WIDTH)
        tokens = self.transformer_blocks[0](tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class ResBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Identity(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return x + self.out_layers(self.in_layers(x) + self.emb_layers(emb)[:, :, None, None])


class TimestepEmbedSequential(nn.Sequential):
    runs = 0

    def forward(self, x: torch.Tensor, emb: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """Reads (B, in_channels, h, w), timesteps (B,) and context (B, tokens, CONTEXT).

    `before_call` runs before each forward, and may raise.
    """

    before_call: Callable[[], None] | None = None

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__()
        block = TimestepEmbedSequential
        self.in_channels = in_channels
        self.is_on_device = True
        self.time_embed = nn.Sequential(nn.Linear(4, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.input_blocks = nn.ModuleList([
            block(nn.Conv2d(in_channels, WIDTH, 3, padding=1)), block(ResBlock(), SpatialTransformer())
        ])  # fmt: skip
        self.middle_block = block(ResBlock(), SpatialTransformer(), ResBlock())
        # The first level of SD1.5's output has no attention.
        self.output_blocks = nn.ModuleList(
            [*(block(ResBlock()) for _ in range(3)), block(ResBlock(), SpatialTransformer())]
        )
        self.out = nn.Sequential(nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, 4, 3, padding=1))

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        transformer_options: dict[str, object] | None = None,
    ) -> torch.Tensor:
        if self.before_call is not None:
            self.before_call()
        if not self.is_on_device:
            raise RuntimeError("Expected all tensors to be on the same device")
        angles = timesteps[:, None].float() * torch.tensor([0.01, 0.003], device=timesteps.device)
        emb = self.time_embed(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        for part in (*self.input_blocks, self.middle_block, *self.output_blocks):
            x = part(x, emb, context)
        return self.out(x)


class Posterior:
    """DiagonalGaussianDistribution."""

    def __init__(self, moments: torch.Tensor) -> None:
        self.mean, self.log_variance = moments.chunk(2, dim=1)

    def mode(self) -> torch.Tensor:
        return self.mean

    def sample(self) -> torch.Tensor:
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()


class AutoencoderKL(nn.Module):
    """8 x 8 px to one latent pixel. In fp16 it `overflows`, as SD1.x's own does, when asked to."""

    overflows = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 8, stride=8)
        self.quant_conv = nn.Conv2d(8, 8, 1)
        self.post_quant_conv = nn.Conv2d(4, 4, 1)
        self.decoder = nn.ConvTranspose2d(4, 3, 8, stride=8)

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(self._checked(self.quant_conv(self.encoder(x))))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self._checked(self.decoder(self.post_quant_conv(z)))

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        return x * math.nan if self.overflows and x.dtype is torch.float16 else x


class TextLayer(nn.Module):
    """CLIPEncoderLayer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(CONTEXT), nn.LayerNorm(CONTEXT)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(CONTEXT, CONTEXT))
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(CONTEXT, 2 * CONTEXT), nn.Linear(2 * CONTEXT, CONTEXT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attn, normed = self.self_attn, self.layer_norm1(x)
        weights = (attn.q_proj(normed) @ attn.k_proj(normed).transpose(1, 2)).softmax(dim=-1)
        x = x + attn.out_proj(weights @ attn.v_proj(normed))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x))))


class TextTransformer(nn.Module):
    """CLIPTextModel: token ids (B, tokens) to the states before each layer, and after the last.

    `before_call` runs before each forward.
    """

    before_call: Callable[[], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.text_model = nn.Module()
        self.text_model.embeddings = nn.Embedding(64, CONTEXT)
        self.text_model.encoder = nn.Module()
        self.text_model.encoder.layers = nn.ModuleList([TextLayer(), TextLayer(), TextLayer()])
        self.text_model.final_layer_norm = nn.LayerNorm(CONTEXT)
        self.text_projection = nn.Linear(CONTEXT, CONTEXT, bias=False)

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        if self.before_call is not None:
            self.before_call()
        states = [self.text_model.embeddings(ids)]
        for layer in self.text_model.encoder.layers:
            states.append(layer(states[-1]))
        return states


class TextModel(nn.Module):
    """What a WebUI has around it: prompts to (B, 5, CONTEXT), or 10 tokens where a prompt has more than three words."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TextTransformer()

    def forward(self, prompts: list[str], clip_skip: int = 1) -> torch.Tensor:
        words = [[2 + sum(word.encode()) % 60 for word in prompt.split()] for prompt in prompts]
        chunks = max(1, *(-(-len(row) // 3) for row in words))
        tokens = [[[0, *row[3 * n : 3 * n + 3], 1, 1, 1, 1][:5] for row in words] for n in range(chunks)]
        device = next(self.parameters()).device
        states = [self.transformer(torch.tensor(chunk, device=device))[-clip_skip] for chunk in tokens]
        return torch.cat([self.transformer.text_model.final_layer_norm(state) for state in states], dim=1)
