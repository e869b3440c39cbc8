"""The bundled checkpoints as models of A1111's WebUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTokenizer

from lib_addift.demo import world
from lib_addift.experiments.webui_checkpoint import CHECKPOINTS, build_unet, write
from lib_addift.hosts.tokenizer import load_tokenizer
from lib_addift.lora.names import TEXT_PREFIX


class MultiplyingUNet:
    """Computes its widths as the WebUI's UNet does, on both sides of the product."""

    def __init__(self, model_channels: int, channel_mult: list[Any], **params: Any) -> None:
        self.down = [multiple * model_channels for multiple in channel_mult]
        self.up = [model_channels * multiple for multiple in channel_mult]
        self.params = params


@pytest.fixture(params=CHECKPOINTS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], Path]:
    """The bundled checkpoint, the parts of the configuration, and the folder of the text model."""
    checkpoint = CHECKPOINTS[request.param]
    config = write(checkpoint, tmp_path / "Stable-diffusion")
    assert config == tmp_path / "Stable-diffusion" / f"{checkpoint.stem}.yaml"
    assert config.with_suffix(".safetensors").read_bytes() == checkpoint.read_bytes()
    params = json.loads(config.read_text())["model"]["params"]
    folder = Path(params["cond_stage_config"]["params"]["version"])
    assert folder.is_absolute()
    return checkpoint, params, folder


def test_the_configuration_has_the_widths_of_the_file(written: tuple[Path, dict[str, Any], Path]) -> None:
    _checkpoint, params, _folder = written
    unet, vae = params["unet_config"], params["first_stage_config"]["params"]["ddconfig"]
    assert unet["target"] == f"{build_unet.__module__}.{build_unet.__name__}"
    assert (unet["params"]["widths"], unet["params"]["context_dim"]) == ([64, 96, 32, 32], 24)
    assert [vae["ch"] * multiple for multiple in vae["ch_mult"]] == [32, 96, 64, 64]


def test_transformers_reads_the_text_model_as_the_file_has_it(written: tuple[Path, dict[str, Any], Path]) -> None:
    checkpoint, _params, folder = written
    config = CLIPTextConfig.from_pretrained(folder)
    with safe_open(checkpoint, framework="pt") as file:
        prefix = f"{TEXT_PREFIX}text_model."
        embeddings = file.get_slice(f"{prefix}embeddings.token_embedding.weight").get_shape()
        inner = file.get_slice(f"{prefix}encoder.layers.{config.num_hidden_layers - 1}.mlp.fc1.weight").get_shape()
        assert not [key for key in file.keys() if f"layers.{config.num_hidden_layers}." in key]  # noqa: SIM118
    assert [config.vocab_size, config.hidden_size] == embeddings
    assert [config.intermediate_size, config.hidden_size] == inner
    caption = world.caption(world.Face())
    words = CLIPTokenizer.from_pretrained(folder)(caption, padding="max_length", max_length=77)["input_ids"]
    assert words == load_tokenizer()([caption])[0, 0].tolist()


def test_a_unet_gets_whole_widths_that_are_no_multiples_of_the_first() -> None:
    unet = build_unet(f"{__name__}.MultiplyingUNet", [64, 96, 32, 32], num_heads=8)
    assert (unet.down, unet.up, unet.params) == ([64, 96, 32, 32], [64, 96, 32, 32], {"num_heads": 8})
    assert all(type(width) is int for width in (*unet.down, *unet.up))
