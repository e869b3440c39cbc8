"""The text model of a world learns what captions say, as CLIP's training on pictures would have taught it."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from transformers import CLIPTextModel

from lib_addift.experiments.world_checkpoint import TEXT_WIDTH
from lib_addift.experiments.worlds.data import World
from lib_addift.experiments.worlds.loop import SavedState, optimizer_step, rate_share, run_stage
from lib_addift.hosts.tokenizer import load_tokenizer

_RATE = 2e-3
_FIRST_PADDING = 45  # no caption has more tokens


def pretrain_text(text: CLIPTextModel, world: World, saved: SavedState, *, steps: int, batch: int, seed: int) -> None:
    """A linear classifier on the mean over the padding tokens must predict each attribute's value, or its omission.

    An untrained cross attention averages all tokens, most of them padding, so a single word is lost in it.
    """
    tokenize = load_tokenizer()
    torch.manual_seed(seed)
    readers = torch.nn.ModuleList(torch.nn.Linear(TEXT_WIDTH, len(v) + 1) for v in world.attributes.values())
    parameters = [*text.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, betas=(0.9, 0.99), weight_decay=1e-3)

    def train_step(step: int) -> str:
        rng = random.Random(seed * 1_000_003 + step)
        subjects = [world.random_subject(rng) for _ in range(batch)]
        captions = [world.random_caption(subject, rng) for subject in subjects]
        padding = text(input_ids=tokenize(captions)[:, 0]).last_hidden_state[:, _FIRST_PADDING:].mean(dim=1)
        loss, hits = torch.zeros(()), 0
        for reader, name in zip(readers, world.attributes, strict=True):
            pairs = zip(subjects, captions, strict=True)
            said = torch.tensor([world.said(subject, caption, name) for subject, caption in pairs])
            logits = reader(padding)
            loss = loss + F.cross_entropy(logits, said)
            hits += int((logits.argmax(dim=1) == said).sum())
        optimizer_step(optimizer, loss, _RATE * rate_share(step, steps, warmup=20))
        share = hits / batch / len(readers)
        return f"loss {loss.item():.3f} hits {share:.3f}" if step % 50 == 0 or step == steps - 1 else ""

    parts = {"text": text, "readers": readers, "optimizer": optimizer}
    run_stage("text", parts, train_step, saved, steps=steps, seed=seed)
