"""What a training step needs of memory, and how it gets by with less."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.memory import MicroBatching, fitting, free_bytes, in_parts, recomputing
from lib_addift.experiments.bench.full_size import build_unet
from lib_addift.families import Family
from lib_addift.hosts import patching
from lib_addift.lora import names
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.fake_unet import UNetModel
from tests.support.families import every_family
from tests.support.models import latent_gradient

WAYS = [
    MicroBatching(5, False),
    MicroBatching(3, False),
    MicroBatching(2, False),
    MicroBatching(1, False),
    MicroBatching(1, True),
]


def needs(micro_batching: MicroBatching, *, whole_unet: bool = False) -> int:
    return micro_batching.needs(64 * 64, whole_unet=whole_unet, element_size=2)


def chosen(free: int | None) -> MicroBatching:
    return fitting(WAYS[0], free, 64 * 64, whole_unet=False, element_size=2)


# What is chosen


def test_each_way_is_followed_by_one_that_needs_less() -> None:
    assert [way.smaller() for way in WAYS] == [*WAYS[1:], None]
    amounts = [needs(way) for way in WAYS]
    assert amounts == sorted(amounts, reverse=True)
    assert len(set(amounts)) == len(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_the_fastest_way_that_fits_is_chosen(way: MicroBatching) -> None:
    assert chosen(needs(way)) == way
    assert chosen(needs(way) - 1) == (way.smaller() or way), "the last one is tried in any case"


def test_without_knowledge_nothing_is_spared() -> None:
    assert free_bytes(torch.device("cpu")) is None
    assert chosen(None) == WAYS[0]


def test_the_plan_keeps_the_checkpointing_that_is_asked_for() -> None:
    asked = MicroBatching(2, recomputes=True)
    assert fitting(asked, 10**12, 64 * 64, whole_unet=True, element_size=2) == asked
    assert asked.smaller() == MicroBatching(1, recomputes=True)


def test_they_say_what_they_do() -> None:
    assert str(WAYS[1]) == "samples go through the model 3 at a time"
    assert str(WAYS[-1]) == "samples go through the model 1 at a time and its blocks are computed twice"


# What is counted


class _Flash(torch.autograd.Function):
    """Attention that keeps for backward what fused kernels keep: its inputs, its output, and one value a row."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query[..., 0].float())
        return output


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("whole_unet", [False, True])
def test_what_a_sample_needs_is_what_the_unet_keeps(
    family: Family, whole_unet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on a UNet of full size and without memory ('meta'), in 16 bit, at 512 px and at SDXL's 1024."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: _Flash.apply(q, k, v))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for 'meta'
    with torch.device("meta"):
        unet = build_unet(family).half().requires_grad_(False)
    everywhere = TrainConfig.create(
        "action", blocks=("IN", "MID", "OUT"),
        layers=("self_attention", "cross_attention", "feed_forward", "projections", "convolutions"),
    )  # fmt: skip
    config = everywhere if whole_unet else TrainConfig()
    named = functools.partial(names.kohya, family=family)
    modules = select_layers(unet, named, layers=config.layers, blocks=config.blocks)
    network = LoraNetwork.create(modules, rank=4, alpha=4.0, seed=1).to("meta")
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, or another one would get its place
        return tensor

    options = {"device": "meta", "dtype": torch.float16}
    side = family.picture_side // 8

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(1, *shape, **options)  # type: ignore[call-overload]

    more = {"text_embeds": empty(1280), "time_ids": empty(6)} if family.has_vector else None
    with network.attach(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.multiplier = torch.ones(1, device="meta")
        cond = empty(77, family.context_width)
        noise_pred = unet(empty(4, side, side), torch.empty(1, device="meta"), cond, added_cond_kwargs=more).sample
        loss = noise_pred.float().square().mean()
    assert loss.requires_grad
    counted = sum(storage.nbytes() for storage in kept.values())
    one, two = (
        MicroBatching(samples, False).needs(side * side, whole_unet=whole_unet, element_size=2, family=family)
        for samples in (1, 2)
    )
    estimated = two - one
    assert 1.05 * counted < estimated < 1.2 * counted


# Parts


def test_work_that_fits_is_done_at_once() -> None:
    assert in_parts(list, range(5)) == [[0, 1, 2, 3, 4]]


def test_work_is_done_in_parts_of_the_size_that_is_asked_for() -> None:
    assert in_parts(list, range(5), 2) == [[0, 1], [2, 3], [4]]
    assert in_parts(list, range(5), 5) == [[0, 1, 2, 3, 4]]


def test_work_that_does_not_fit_is_done_in_halves() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if len(items) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return list(items)

    assert in_parts(work, range(5)) == [[0, 1], [2], [3, 4]]
    assert in_parts(work, range(5), 4) == [[0, 1], [2, 3], [4]]


def test_an_item_that_does_not_fit_alone_is_an_error() -> None:
    def work(_items: Sequence[int]) -> None:
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        in_parts(work, range(5))


# Blocks that are computed again


def test_blocks_computed_again_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    unet = UNetModel()
    with patching.safe_residual_sums(unet):
        expected = latent_gradient(unet)
        for part in unet.input_blocks:
            part.runs = 0
        with recomputing(unet):
            assert torch.equal(latent_gradient(unet), expected)
    assert [part.runs for part in unet.input_blocks] == [2, 2]
    assert not any("forward" in vars(part) for part in unet.modules())


def test_a_forward_that_somebody_else_has_put_there_stays() -> None:
    unet = UNetModel()
    block = unet.middle_block
    theirs = block.forward
    block.forward = theirs
    with recomputing(unet):
        assert vars(block)["forward"] is theirs
    assert vars(block)["forward"] is theirs
