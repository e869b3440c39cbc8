"""A UNet, a VAE and a text model of a few numbers, with CompVis's names and classes, as WebUIs have them."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.families import FAMILIES, SD15, SDXL, SIZE_WIDTH, SIZES, Family

WIDTH, CONTEXT = 8, 6  # CONTEXT is the width of each text model too
CONTEXTS = {family: CONTEXT * len(family.text_encoders) for family in FAMILIES}


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

    def __init__(self, context: int = CONTEXT) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attn1, self.attn2 = Attention(), Attention(context)
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
    def __init__(self, family: Family = SD15) -> None:
        super().__init__()
        depth = 1 if family is SD15 else 2
        self.norm = nn.GroupNorm(2, WIDTH)
        self.proj_in = nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(CONTEXTS[family]) for _ in range(depth)])
        self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h * w, WIDTH)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
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


class Downsample(nn.Module):
    """Which leaves the size as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.op = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


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
    """Reads (B, in_channels, h, w), timesteps (B,), context (B, tokens, CONTEXT); of SDXL y (B, CONTEXT + 6 * 256) too.

    `before_call` runs before each forward, and may raise.
    """

    before_call: Callable[[], None] | None = None

    def __init__(self, in_channels: int = 4, family: Family = SD15) -> None:
        super().__init__()
        block = TimestepEmbedSequential
        attended = functools.partial(SpatialTransformer, family)
        self.num_classes = None if family is SD15 else "sequential"
        if family is SDXL:
            vector = nn.Linear(CONTEXT + SIZES * SIZE_WIDTH, WIDTH)
            self.label_emb = nn.Sequential(nn.Sequential(vector, nn.SiLU(), nn.Linear(WIDTH, WIDTH)))
        self.in_channels = in_channels
        self.is_on_device = True
        self.time_embed = nn.Sequential(nn.Linear(4, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        # The first level of SDXL's input has no attention, nor that of SD1.5's output.
        plain = [block(ResBlock()), block(ResBlock()), block(Downsample())] if family is SDXL else []
        self.input_blocks = nn.ModuleList([
            block(nn.Conv2d(in_channels, WIDTH, 3, padding=1)), *plain, block(ResBlock(), attended())
        ])  # fmt: skip
        self.middle_block = block(ResBlock(), attended(), ResBlock())
        self.output_blocks = nn.ModuleList(
            [*(block(ResBlock()) for _ in range(3 if family is SD15 else 0)), block(ResBlock(), attended())]
        )
        self.out = nn.Sequential(nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, 4, 3, padding=1))

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        transformer_options: dict[str, object] | None = None,
        y: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert (y is not None) == (self.num_classes is not None)
        if self.before_call is not None:
            self.before_call()
        if not self.is_on_device:
            raise RuntimeError("Expected all tensors to be on the same device")
        angles = timesteps[:, None].float() * torch.tensor([0.01, 0.003], device=timesteps.device)
        emb = self.time_embed(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
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
        """SD1.5's conditions: with the last norm."""
        chunks = self.states(prompts)
        return torch.cat([self.transformer.text_model.final_layer_norm(chunk[-clip_skip]) for chunk in chunks], dim=1)

    def without_norm(self, prompts: list[str], clip_skip: int) -> tuple[torch.Tensor, torch.Tensor]:
        """SDXL's: of the layer before the last at most, without the norm; and the first chunk's pooled output."""
        chunks = self.states(prompts)
        pooled = self.transformer.text_projection(self.transformer.text_model.final_layer_norm(chunks[0][-1])[:, -1])
        return torch.cat([chunk[-max(2, clip_skip)] for chunk in chunks], dim=1), pooled

    def states(self, prompts: list[str]) -> list[list[torch.Tensor]]:
        """The states of each layer, for each chunk of the prompts."""
        words = [[2 + sum(word.encode()) % 60 for word in prompt.split()] for prompt in prompts]
        chunks = max(1, *(-(-len(row) // 3) for row in words))
        tokens = [[[0, *row[3 * n : 3 * n + 3], 1, 1, 1, 1][:5] for row in words] for n in range(chunks)]
        device = next(self.parameters()).device
        run = self.model if hasattr(self, "model") else self.transformer
        return [run(torch.tensor(chunk, device=device)) for chunk in tokens]


class OpenCLIPTransformer(nn.Module):
    """OpenCLIP's text model, as A1111 has SDXL's second one. It computes attention in one call, past the layers' hooks.

    Token ids (B, tokens) to the states before each layer, and after the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(64, CONTEXT)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([self._layer() for _ in range(3)])
        self.ln_final = nn.LayerNorm(CONTEXT)
        self.text_projection = nn.Parameter(torch.eye(CONTEXT))

    def _layer(self) -> nn.Module:
        layer = nn.Module()
        layer.ln_1, layer.ln_2 = nn.LayerNorm(CONTEXT), nn.LayerNorm(CONTEXT)
        layer.attn = nn.MultiheadAttention(CONTEXT, 1, batch_first=True)
        layer.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(CONTEXT, 2 * CONTEXT), gelu=nn.GELU(), c_proj=nn.Linear(2 * CONTEXT, CONTEXT))
        )
        return layer

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        states = [self.token_embedding(ids)]
        for layer in self.transformer.resblocks:
            normed = layer.ln_1(states[-1])
            x = states[-1] + layer.attn(normed, normed, normed, need_weights=False)[0]
            states.append(x + layer.mlp(layer.ln_2(x)))
        return states


class OpenCLIPText(TextModel):
    """What A1111 has around it: the layer before the last always, and the pooled output."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.model = OpenCLIPTransformer()

    def without_norm(self, prompts: list[str], clip_skip: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
        chunks = self.states(prompts)
        pooled = self.model.ln_final(chunks[0][-1])[:, -1] @ self.model.text_projection
        return torch.cat([chunk[-2] for chunk in chunks], dim=1), pooled
