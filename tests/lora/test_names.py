"""Our table of names against diffusers' own converters."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from lib_addift.lora import names

WIDTHS = (32, 64, 96, 96)


def test_unet_names_agree_with_diffusers_and_invert() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=WIDTHS, cross_attention_dim=24)
    ours = {names.unet_to_compvis(key): key for key in unet.state_dict()}
    assert len(ours) == 686
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


def test_kohya_names() -> None:
    compvis = "output_blocks.5.1.transformer_blocks.0.attn1.to_out.0"
    expected = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_out_0"
    assert names.kohya(names.unet_to_diffusers(compvis)) == expected
