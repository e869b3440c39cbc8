"""A shift of what cross-attention reads: the direction that all tokens share, and the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_addift.lora.layers import LoraLayer
from lib_addift.lora.network import LoraNetwork, LoraStack, combine
from lib_addift.lora.shift import ShiftLayer, constant_direction, is_constant, is_shiftable, outputs_of_norm

NAME = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v"


def normed_tokens(count: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    """What a layer norm with weights and a bias gives for random inputs, (count, width)."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.LayerNorm(width)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, width))
        norm.bias.copy_(torch.linspace(-0.2, 0.6, width))
        return norm(torch.randn(count, width, generator=generator)).detach()


def shift_over(linear: nn.Linear) -> ShiftLayer:
    tokens = normed_tokens(200)
    return ShiftLayer.over(linear, tokens, constant_direction(tokens, normed_tokens(50, seed=1)))


def test_every_token_of_a_layer_norm_gives_one() -> None:
    direction = constant_direction(normed_tokens(200), normed_tokens(50, seed=1))
    assert torch.allclose(normed_tokens(300, seed=2) @ direction, torch.ones(300), atol=1e-3)


def test_the_penalty_is_the_one_that_fits_other_tokens_best() -> None:
    """Twelve tokens of width 12 can be fitted exactly by a vector that fits no other one."""
    noise = 0.3 * torch.randn(12, 12, generator=torch.Generator().manual_seed(3))
    few, others = torch.full((12, 12), 1.0) + noise, torch.full((60, 12), 1.0)
    exact = torch.linalg.lstsq(few, torch.ones(12)).solution
    found = constant_direction(few, others)
    assert (others @ found - 1).abs().mean() < 0.5 * (others @ exact - 1).abs().mean()


def test_untrained_it_changes_nothing_and_only_up_learns() -> None:
    layer = shift_over(nn.Linear(12, 5, bias=False))
    assert not layer(normed_tokens(7)[None]).any()
    assert [name for name, _ in layer.named_parameters()] == ["lora_up"]
    assert layer.zero_init_parameters() == [layer.lora_up]


def test_the_same_value_is_added_to_every_token_in_units_of_the_layers_own() -> None:
    linear = nn.Linear(12, 5, bias=False)
    layer, tokens = shift_over(linear), normed_tokens(40, seed=4)
    value = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    with torch.no_grad():
        layer.lora_up.copy_(value[:, None])
        added = layer(tokens[None])[0]
        size = linear(normed_tokens(200)).square().mean().sqrt()
    assert torch.allclose(added, (value * size).expand(40, 5), rtol=0.01, atol=1e-3)


def test_its_file_is_that_of_a_plain_lora_and_acts_alike() -> None:
    linear = nn.Linear(12, 5, bias=False)
    layer, tokens = shift_over(linear), normed_tokens(6, seed=5)[None]
    with torch.no_grad():
        layer.lora_up.normal_(generator=torch.Generator().manual_seed(6))
    read = LoraNetwork.over({NAME: linear}, layer.tensors(NAME, 0.65)).layers[NAME]
    assert type(read) is LoraLayer
    assert torch.allclose(read(tokens), 0.65 * layer(tokens), atol=1e-5)


def test_shifts_can_be_stacked_and_added_up() -> None:
    linear = nn.Linear(12, 5, bias=False)
    networks = [LoraNetwork({NAME: shift_over(linear)}, {NAME: linear}) for _ in range(2)]
    for number, network in enumerate(networks, 1):
        with torch.no_grad():
            network.layers[NAME].lora_up.fill_(number)  # type: ignore[operator, union-attr]
    assert all(network.is_stackable for network in networks)
    tokens = normed_tokens(4)[None]
    both = combine([(network, 1.0) for network in networks]).layers[NAME]
    assert torch.allclose(both(tokens), 3 * networks[0].layers[NAME](tokens), atol=1e-5)
    stack = LoraStack(networks)
    stack.multiplier, stack.owners = torch.tensor([1.0, -1.0]), torch.tensor([1, 0])
    plain = linear(tokens)
    with stack.attach():
        shifted = linear(tokens.expand(2, -1, -1))
    one = networks[0].layers[NAME](tokens)
    assert torch.allclose(shifted - plain, torch.cat([2 * one, -one]), atol=1e-5)


SELF = NAME.replace("attn2", "attn1")


@pytest.mark.parametrize(
    ("name", "of_words", "shiftable"),
    [(NAME, True, True), (SELF, False, True), (SELF, True, False), (NAME, False, False),
     (NAME.replace("to_v", "to_k"), True, False)],
)  # fmt: skip
def test_only_the_values_of_an_attention_are_shifted(name: str, of_words: bool, shiftable: bool) -> None:
    assert is_shiftable(name, of_words=of_words) is shiftable


def test_whether_a_direction_is_constant_is_measured_on_other_tokens() -> None:
    """What no layer norm has made has none: here the tokens vary around 0 in every channel."""
    direction = constant_direction(normed_tokens(200), normed_tokens(50, seed=1))
    assert is_constant(direction, normed_tokens(300, seed=2))
    generator = torch.Generator().manual_seed(5)
    tokens, others = torch.randn(200, 12, generator=generator), torch.randn(50, 12, generator=generator)
    assert not is_constant(constant_direction(tokens, others), others)


@pytest.mark.parametrize("weights", [[0.5, 1.0, 2.0, 0.8], [0.5, 1.0, 2.0, 1e-6]])
def test_of_a_norm_the_direction_is_exact(weights: list[float]) -> None:
    """A channel whose weight is next to nothing is left out, which costs a little."""
    norm = nn.LayerNorm(64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(weights).repeat(16))
        norm.bias.copy_(torch.linspace(-0.1, 0.4, 64))
    outputs, direction = outputs_of_norm(norm)
    assert outputs.shape == (256, 64)
    fresh = norm(torch.randn(500, 64, generator=torch.Generator().manual_seed(9))).detach()
    assert (fresh @ direction - 1).square().mean().sqrt() < (1e-3 if min(weights) > 0.1 else 0.1)
    assert direction.abs().max() < 1e3
