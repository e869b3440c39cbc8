"""Blocks of the UNet by name, and weights for each."""

from __future__ import annotations

import pytest

from lib_addift.errors import ConfigError
from lib_addift.lora.blocks import OTHER, BlockWeights, block_of
from tests.support.loras import CONV, LINEAR, POINT, TEXT


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("lora_unet_conv_in", "IN00"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", "IN01"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "IN03"),
        (LINEAR, "IN04"),
        ("lora_unet_down_blocks_2_attentions_1_proj_out", "IN08"),
        ("lora_unet_down_blocks_3_resnets_1_conv2", "IN11"),
        (POINT, "MID"),
        ("lora_unet_up_blocks_0_resnets_2_conv1", "OUT02"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
        (CONV, "OUT03"),
        ("lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2", "OUT11"),
        ("lora_unet_input_blocks_4_1_proj_in", "IN04"),
        ("lora_unet_output_blocks_11_0_out_layers_3", "OUT11"),
        ("lora_unet_middle_block_1_proj_in", "MID"),
        (TEXT, "TE"),
        ("lora_te2_text_model_encoder_layers_1_mlp_fc1", "TE"),
        ("lora_unet_time_embedding_linear_1", OTHER),
        ("lora_unet_conv_out", OTHER),
        ("lora_unet_down_blocks_0_attentions_7_proj_in", OTHER),
    ],
)
def test_layers_stand_in_the_blocks_of_lora_block_weight(layer: str, block: str) -> None:
    assert block_of(layer) == block


def test_weights_of_blocks() -> None:
    weights = BlockWeights.parse("OUT=2, out03=3, ALL=0.5, base = 0")
    assert [weights.of(layer) for layer in (LINEAR, CONV, POINT, TEXT)] == [0.5, 3, 0.5, 0]
    assert weights.of("lora_unet_up_blocks_2_attentions_0_proj_in") == 2
    assert str(weights) == "OUT=2, OUT03=3, ALL=0.5, TE=0"
    assert BlockWeights.parse(" ").of(LINEAR) == 1
    numbers = list(range(17))  # BASE, IN01, IN02, IN04, IN05, IN07, IN08, MID, OUT03 to OUT11
    of_17 = BlockWeights.parse(",".join(map(str, numbers)))
    assert [of_17.of(layer) for layer in (TEXT, LINEAR, POINT, CONV)] == [0, 3, 7, 8]
    of_26 = BlockWeights.parse(",".join(map(str, range(26))))
    assert [of_26.of(layer) for layer in (TEXT, LINEAR, POINT, CONV)] == [0, 5, 13, 17]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("UP=1", "names no block"), ("OUT12=1", "names no block"), ("OUT=x", "give a number"), ("1,2,3", "has 3 numbers"),
     ("OUT=nan", "give a number"), ("OUT=1,OUT=2", "two weights"), ("OUT=", "give a number")],
)  # fmt: skip
def test_bad_weights_of_blocks_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        BlockWeights.parse(text)
