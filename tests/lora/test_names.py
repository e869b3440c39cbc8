"""Our table of names against diffusers' own converters."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from lib_addift.families import SD15, SDXL, Family
from lib_addift.hosts.standalone_models import unet_arguments
from lib_addift.lora import names
from lib_addift.lora.selection import layer_kind

WIDTHS = (32, 64, 96, 96)


def unet_of(family: Family) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**unet_arguments(family, family.widths, family.context_width, family.vector_width))


@pytest.mark.parametrize(("family", "tensors"), [(SD15, 686), (SDXL, 1680)], ids=str)
def test_unet_names_agree_with_diffusers_and_invert(family: Family, tensors: int) -> None:
    unet = unet_of(family)
    ours = {names.unet_to_compvis(key, family): key for key in unet.state_dict()}
    assert len(ours) == tensors
    assert all(names.unet_to_diffusers(compvis) == key for compvis, key in ours.items())
    marked = {names.UNET_PREFIX + compvis: torch.tensor(n) for n, compvis in enumerate(ours)}
    converted = convert_ldm_unet_checkpoint(dict(marked), dict(unet.config))
    assert {key: int(value) for key, value in converted.items()} == {key: n for n, key in enumerate(ours.values())}


def test_vae_names_agree_with_diffusers_and_invert() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=WIDTHS,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    ours = {names.vae_to_compvis(key): key for key in vae.state_dict()}
    assert all(names.vae_to_diffusers(compvis) == key for compvis, key in ours.items())
    marked = {names.VAE_PREFIX + compvis: torch.full((1, 1, 1, 1), float(n)) for n, compvis in enumerate(ours)}
    converted = convert_ldm_vae_checkpoint(marked, dict(vae.config))
    assert {key: int(value) for key, value in converted.items()} == {key: n for n, key in enumerate(ours.values())}


@pytest.mark.parametrize(
    ("family", "compvis", "expected"),
    [
        (
            SD15, "output_blocks.5.1.transformer_blocks.0.attn1.to_out.0",
            "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_out_0",
        ),
        (
            SDXL, "output_blocks.5.1.transformer_blocks.1.attn1.to_out.0",
            "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_out_0",
        ),
        (SD15, "output_blocks.2.1.conv", "lora_unet_up_blocks_0_upsamplers_0_conv"),
        (SDXL, "output_blocks.2.2.conv", "lora_unet_output_blocks_2_2_conv"),
        (SDXL, "input_blocks.3.0.op", "lora_unet_input_blocks_3_0_op"),
        (SDXL, "middle_block.0.in_layers.2", "lora_unet_middle_block_0_in_layers_2"),
    ],
)  # fmt: skip
def test_kohya_names(family: Family, compvis: str, expected: str) -> None:
    assert names.kohya(names.unet_to_diffusers(compvis), family) == expected
    assert layer_kind(expected)


@pytest.mark.parametrize("family", [SD15, SDXL], ids=str)
def test_both_kinds_of_names_give_a_layer_the_same_kind(family: Family) -> None:
    """The layers that are trained are the same, whatever a family's files call them."""
    for name, module in unet_of(family).named_modules():
        if hasattr(module, "in_features") or hasattr(module, "kernel_size"):
            ours = names.kohya(name, family)
            assert layer_kind(ours) == layer_kind(names.kohya(name, SD15)), name
            assert names.family_of_layers([ours]) in (family, None)


def test_the_second_text_model_has_a_name_of_its_own() -> None:
    layer = "encoder.layers.3.self_attn.q_proj"
    assert names.text_kohya(f"0.{layer}", SDXL) == "lora_te1_text_model_encoder_layers_3_self_attn_q_proj"
    assert names.text_kohya(f"1.text_model.{layer}", SDXL) == "lora_te2_text_model_encoder_layers_3_self_attn_q_proj"
    assert names.text_kohya("1.text_projection", SDXL) == names.text_kohya("1", SDXL) == ""


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        (["lora_te1_text_model_encoder_layers_0_mlp_fc1"], SDXL),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1"], SD15),
        (["lora_unet_mid_block_attentions_0_proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"], SD15),
        (["lora_unet_output_blocks_0_1_transformer_blocks_9_attn1_to_q"], SDXL),
        (["lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_q"], SDXL),
        (["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"], None),
        ([], None),
    ],
)
def test_a_loras_family_is_known_by_what_only_one_has(layers: list[str], family: Family | None) -> None:
    assert names.family_of_layers(layers) is family
