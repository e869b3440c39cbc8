"""SDXL in the standalone host: a checkpoint in its exact layout, with narrow models and random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.diffusion.host import text_layers
from lib_addift.errors import HostError, LoraFileError
from lib_addift.families import SD15, SDXL
from lib_addift.hosts.checkpoint import open_weights
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora.file import build_metadata, describe, read_lora, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.families import checkpoint_of, host_of
from tests.support.models import inputs, layer_counts

Tensors = dict[str, torch.Tensor]
SECOND = "conditioner.embedders.1.model."


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return host_of(SDXL)


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(checkpoint_of(SDXL))


def test_facts_of_the_file(host: StandaloneHost) -> None:
    assert (host.family, host.prediction_type, host.zero_snr, host.clip_skip) == (SDXL, "epsilon", False, 2)
    assert host.picture_side is None, "only of a full-size model"


@pytest.mark.parametrize(("text", "ids_end"), [("a face", 0), ("", 0)])
def test_prompts_are_encoded_as_transformers_does(host: StandaloneHost, text: str, ids_end: int) -> None:
    """The layer before the last of both, side by side, without the last norm; and the second one's projected output."""
    ids = [tokenize([text])[0] for tokenize in host._tokenize]
    assert ids[0][0, -1] == 49407
    assert ids[1][0, -1] == ids_end, "OpenCLIP pads with 0"
    states, vector = [], None
    for encoder, ours, each in zip(SDXL.text_encoders, host.text_model, ids, strict=True):
        config = CLIPTextConfig(**{**ours.config.to_dict(), "projection_dim": ours.config.hidden_size})
        theirs = (CLIPTextModelWithProjection if encoder.has_projection else CLIPTextModel)(config).eval()
        names = {key.removeprefix("text_model."): key for key in theirs.state_dict()}
        theirs.load_state_dict({names[key]: value for key, value in ours.state_dict().items()})
        with torch.no_grad():
            output = theirs(input_ids=each, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        vector = output.text_embeds if encoder.has_projection else vector
    cond = host.encode_prompts([text])
    torch.testing.assert_close(cond.crossattn, torch.cat(states, dim=-1))
    torch.testing.assert_close(cond.vector, vector)


def test_long_prompts_have_the_pooled_text_of_their_first_chunk(host: StandaloneHost) -> None:
    short = "a face, " * 20
    cond = host.encode_prompts([short + "blue " * 60])
    assert cond.crossattn.shape == (1, 154, 32)
    assert cond.vector is not None
    assert cond.vector.shape == (1, 20)


def test_the_size_of_the_picture_reaches_the_unet(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, timesteps, cond = inputs(host)
    plain = host.predict_noise(latents, timesteps, cond)
    monkeypatch.setattr("lib_addift.hosts.standalone_models.picture_sizes", lambda x: torch.full((len(x), 6), 512.0))
    assert not torch.equal(host.predict_noise(latents, timesteps, cond), plain)


@pytest.mark.slow
@pytest.mark.parametrize("marks", [("v_pred",), ("v_pred", "ztsnr")], ids=str)
def test_v_prediction_and_zero_terminal_snr_are_read_off_the_file(
    tensors: Tensors, tmp_path: Path, marks: tuple[str, ...]
) -> None:
    path = tmp_path / "v.safetensors"
    save_file({**tensors, **{mark: torch.empty(0) for mark in marks}}, path)
    host = StandaloneHost(path, device="cpu")
    assert host.prediction_type == "v_prediction"
    assert host.zero_snr == ("ztsnr" in marks)
    assert (host.alphas_cumprod[-1] < 1e-6) == host.zero_snr
    latents, _, cond = inputs(host)
    with torch.no_grad():
        at_the_top = host.predict_noise(latents, torch.full((2,), 999), cond)
    assert torch.isfinite(at_the_top).all()
    if host.zero_snr:  # all is noise there, and the model can say nothing else
        torch.testing.assert_close(at_the_top, latents, atol=5e-3, rtol=0)


def test_it_has_the_layers_of_the_release(host: StandaloneHost) -> None:
    """But for one: between levels of one width there is no 1 x 1 convolution beside the residual block."""
    assert layer_counts(host) == {
        "self_attention": 280, "cross_attention": 280, "feed_forward": 140, "projections": 22, "convolutions": 65,
    }  # fmt: skip
    assert len(text_layers(host)) == 12 * 6 + 32 * 6


def test_layers_of_a_file_are_those_of_the_loaded_models(host: StandaloneHost) -> None:
    """OpenCLIP has query, key and value in one tensor; each is read on its own."""
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS) | text_layers(host)
    with open_weights(checkpoint_of(SDXL)) as weights:
        assert set(weights.shapes) == set(modules)
        for name in [*list(modules)[::97], *list(text_layers(host))[-12:]]:
            assert weights.shapes[name] == modules[name].weight.shape
            assert torch.equal(weights.weight(name).float(), modules[name].weight), name


@pytest.mark.parametrize("gone", [SECOND, "conditioner.embedders.0.", "first_stage_model."])
def test_a_file_without_one_of_the_models_is_refused(tensors: Tensors, tmp_path: Path, gone: str) -> None:
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in tensors.items() if not key.startswith(gone)}, path)
    with pytest.raises(HostError, match="holds no .*Choose a full SDXL checkpoint"):
        StandaloneHost(path, device="cpu")


@pytest.mark.slow
def test_a_distilled_unet_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    """Such as SSD-1B's, which lacks some of the transformer blocks."""
    path = tmp_path / "small.safetensors"
    gone = "model.diffusion_model.middle_block.1.transformer_blocks.9."
    save_file({key: value for key, value in tensors.items() if not key.startswith(gone)}, path)
    with pytest.raises(HostError, match="UNet is not SDXL"):
        StandaloneHost(path, device="cpu")


# LoRA files


@pytest.fixture(scope="module")
def lora_file(host: StandaloneHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA over every layer that may learn, of the UNet and of both text models."""
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS) | text_layers(host)
    network = LoraNetwork.create(modules, rank=3, alpha=2.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.06, generator=generator)
    tensors = network.tensors()
    metadata = build_metadata(
        TrainConfig.create(rank=3, alpha=2.0), name="random", model_title="x", model_hash="", family=SDXL,
        prediction_type="v_prediction", zero_snr=True, learnt="x", comment="x", report={}, tensors=tensors,
        resolution=(1024, 1024),
    )  # fmt: skip
    return save_lora(tmp_path_factory.mktemp("lora") / "random.safetensors", tensors, metadata, precision="fp32")


@pytest.mark.slow
def test_diffusers_draws_the_same_and_finds_a_place_for_every_key(host: StandaloneHost, lora_file: Path) -> None:
    own = StandaloneHost(checkpoint_of(SDXL), device="cpu", precision="fp32")
    pipeline = StableDiffusionXLPipeline(
        vae=own.vae, text_encoder=own._texts[0], text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=own.unet,
        scheduler=None,
    )  # fmt: skip
    state, alphas = pipeline.lora_state_dict(lora_file.parent, weight_name=lora_file.name, unet_config=own.unet.config)
    parts = {prefix: [key for key in state if key.startswith(f"{prefix}.")] for prefix in (
        "unet", "text_encoder", "text_encoder_2"
    )}  # fmt: skip
    assert {prefix: len(keys) for prefix, keys in parts.items()} == {
        "unet": 2 * 787, "text_encoder": 2 * 72, "text_encoder_2": 2 * 192
    }  # fmt: skip
    assert len(alphas) == 787 + 72 + 192
    latents, timesteps, cond = inputs(host)
    network = LoraNetwork.from_tensors(
        {key: value for key, value in read_lora(lora_file)[0].items() if "unet" in key}, host.unet, host.lora_name
    )
    with network.attach(), torch.no_grad():
        ours = host.predict_noise(latents, timesteps, cond)
    plain = own.predict_noise(latents, timesteps, cond)
    pipeline.load_lora_into_unet(state, alphas, own.unet, adapter_name="ours")
    with torch.no_grad():
        theirs = own.predict_noise(latents, timesteps, cond)
    assert (ours - plain).abs().max() > 0.03
    assert (ours - theirs).abs().max() < 1e-4


def test_the_layers_are_named_as_kohya_names_them(host: StandaloneHost, lora_file: Path) -> None:
    """kohya-ss/sd-scripts walks its own UNet, whose modules have CompVis' names: nested blocks with underscores."""
    layers = {key.split(".")[0] for key in read_lora(lora_file)[0]}
    for expected in (
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0", "lora_unet_input_blocks_7_0_skip_connection",
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj", "lora_unet_output_blocks_5_2_conv",
        "lora_te1_text_model_encoder_layers_11_mlp_fc1", "lora_te2_text_model_encoder_layers_31_self_attn_v_proj",
    ):  # fmt: skip
        assert expected in layers


def test_the_file_says_what_it_is_for(lora_file: Path) -> None:
    metadata = read_lora(lora_file)[1]
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (metadata["modelspec.prediction_type"], metadata["ss_zero_terminal_snr"]) == ("v", "True")
    assert "Base model: sdxl_base_v1-0" in describe(lora_file)
    assert '"sd version": "SDXL"' in lora_file.with_suffix(".json").read_text("ascii")


def test_a_lora_of_the_other_family_is_refused(host: StandaloneHost, lora_file: Path) -> None:
    other = host_of(SD15)
    with pytest.raises(LoraFileError, match=r"the LoRA is for SDXL, and the model is SD1\.5: choose a LoRA"):
        LoraNetwork.from_tensors(read_lora(lora_file)[0], other.unet, other.lora_name)
    modules = select_layers(other.unet, other.lora_name, layers=("self_attention",), blocks=BLOCKS)
    theirs = LoraNetwork.create(modules, rank=1, alpha=1.0, seed=0).tensors()
    with pytest.raises(LoraFileError, match=r"the LoRA is for SD1\.5, and the model is SDXL"):
        LoraNetwork.from_tensors(theirs, host.unet, host.lora_name)
