"""The text models of a world learn what captions say, as CLIP's training on pictures would have taught them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from lib_addift.diffusion.conditions import Conditions
from lib_addift.experiments.world_checkpoint import WorldModels
from lib_addift.experiments.worlds.data import World
from lib_addift.experiments.worlds.loop import SavedState, optimizer_step, rate_share, run_stage
from lib_addift.hosts.standalone_models import encode_chunk
from lib_addift.hosts.tokenizer import load_tokenizer

_RATE = 2e-3
_CONSTANT = 4.0  # the value of the channel that is the same for every token
_FIRST_PADDING = 45  # no caption has more tokens


def encoder_of(models: WorldModels) -> Callable[[Sequence[str]], Conditions]:
    """A function from short captions to their conditions, with gradients."""
    tokenizers = [load_tokenizer(encoder.padding) for encoder in models.family.text_encoders]

    def encode(captions: Sequence[str]) -> Conditions:
        ids = [tokenize(captions)[:, 0] for tokenize in tokenizers]
        return encode_chunk(list(models.texts), ids, models.family, models.family.clip_skip)

    return encode


def pretrain_text(models: WorldModels, world: World, saved: SavedState, *, steps: int, batch: int, seed: int) -> None:
    """A linear classifier on the mean over the padding tokens must predict each attribute's value, or its omission.

    An untrained cross attention averages all tokens, most of them padding, so a single word is lost in it. Where the
    UNet takes a pooled text too, it must tell the same. Several text models do not learn with the UNet afterwards, so
    their classifiers' rows have length 1: then every attribute has to make a difference of about the same size. And the
    first channel of their states gets the same value for every token; large language models have channels with much
    the same value for every token (Timkey and van Schijndel 2021).
    """
    encode, reader_kind = encoder_of(models), torch.nn.Linear if len(models.texts) == 1 else _UnitReader
    torch.manual_seed(seed)
    counts = [len(values) + 1 for values in world.attributes.values()]
    with torch.no_grad():
        views = _views(encode([""]))
    readers = torch.nn.ModuleList(reader_kind(view.shape[1], count) for view in views for count in counts)
    parameters = [*models.texts.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, betas=(0.9, 0.99), weight_decay=1e-3)

    def train_step(step: int) -> str:
        rng = random.Random(seed * 1_000_003 + step)
        subjects = [world.random_subject(rng) for _ in range(batch)]
        captions = [world.random_caption(subject, rng) for subject in subjects]
        pairs = list(zip(subjects, captions, strict=True))
        said = [torch.tensor([world.said(*pair, name) for pair in pairs]) for name in world.attributes]
        cond = encode(captions)
        views = _views(cond)
        logits = [reader(view) for view, reader in zip(_each(views, len(counts)), readers, strict=True)]
        losses = [F.cross_entropy(each, right) for each, right in zip(logits, said * len(views), strict=True)]
        hits = [(each.argmax(dim=1) == right).sum() for each, right in zip(logits, said * len(views), strict=True)]
        loss = torch.stack(losses).sum()
        if len(models.texts) > 1:
            loss = loss + (cond.crossattn[..., 0] - _CONSTANT).square().mean()
        optimizer_step(optimizer, loss, _RATE * rate_share(step, steps, warmup=20))
        share = int(torch.stack(hits).sum()) / batch / len(readers)
        return f"loss {loss.item():.3f} hits {share:.3f}" if step % 50 == 0 or step == steps - 1 else ""

    parts = {"texts": models.texts, "readers": readers, "optimizer": optimizer}
    run_stage("text", parts, train_step, saved, steps=steps, seed=seed)


class _UnitReader(torch.nn.Linear):
    """A linear classifier whose rows have length 1."""

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return F.linear(view, F.normalize(self.weight, dim=1), self.bias)


def _views(cond: Conditions) -> list[torch.Tensor]:
    """What the readers see of captions, each (B, width)."""
    padding = cond.crossattn[:, _FIRST_PADDING:].mean(dim=1)
    return [padding] if cond.vector is None else [padding, cond.vector]


def _each(views: Sequence[torch.Tensor], times: int) -> list[torch.Tensor]:
    return [view for view in views for _ in range(times)]
