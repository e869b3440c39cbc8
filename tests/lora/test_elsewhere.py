"""What other programs make of our files (docs/kinds.md, "What loads where"), and that we say so."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from lycoris.modules import get_module, make_module
from torch import nn

from lib_addift.lora.description import loading_notes
from lib_addift.lora.file import describe, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.shift import ShiftLayer
from tests.support import webui_formulas
from tests.support.lora_layers import make_layer

LAYERS = ("linear", "conv")
KINDS = {
    "lora": {},
    "dora": {"dora": True},
    "loha": {"algorithm": "loha"},
    "lokr": {"algorithm": "lokr"},
}


def network_of(kind: str, module: nn.Module, rank: int = 2, alpha: float = 2.0) -> LoraNetwork:
    network = LoraNetwork.create({"x": module}, rank=rank, alpha=alpha, seed=0, **KINDS[kind])
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data.normal_(0.5, 0.3, generator=generator)
    return network


def shift_of(module: nn.Module) -> LoraNetwork:
    down, up = torch.randn(1, module.in_features), torch.randn(module.out_features, 1)
    return LoraNetwork({"x": ShiftLayer(down, up, 1.0)}, {"x": module})


def merged_in_lycoris(network: LoraNetwork, module: nn.Module) -> torch.Tensor:
    """What LyCORIS adds to the layer's weight when it merges the file."""
    made = lycoris_module(network, module)
    return (made.get_merged_weight(1.0, shape=module.weight.shape)[0] - module.weight).detach()


def live_in_lycoris(network: LoraNetwork, module: nn.Module) -> torch.Tensor:
    """What LyCORIS adds to the layer's weight while it generates: what its `forward` takes."""
    made = lycoris_module(network, module).eval()
    return made.get_weight(module.weight.shape).detach()


def lycoris_module(network: LoraNetwork, module: nn.Module) -> nn.Module:
    kind, parts = get_module(network.tensors(), "x")
    return make_module(kind, parts, "x", module)


def in_kohya(network: LoraNetwork, module: nn.Module) -> np.ndarray:
    """networks/lora.py of kohya-ss/sd-scripts: up @ down * alpha / rank; keys that it does not know are left out."""
    parts = webui_formulas.split(network.tensors())["x"]
    known = {part: parts[part] for part in ("lora_up.weight", "lora_down.weight", "alpha")}
    return webui_formulas.change(known, module.weight.double().numpy())


def change_of(network: LoraNetwork) -> torch.Tensor:
    return network.layers["x"].delta_weight().detach()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("kind", "alpha"), [("lora", 1.0), ("lora", 3.0), ("loha", 1.0), ("lokr", 1.0)])
def test_lycoris_merges_the_same(kind: str, layer: str, alpha: float) -> None:
    module = make_layer(layer)
    network = network_of(kind, module, rank=1, alpha=alpha)
    torch.testing.assert_close(merged_in_lycoris(network, module), change_of(network), rtol=1e-4, atol=1e-5)
    assert loading_notes(network.tensors()) == []


def test_a_shift_is_a_plain_lora_everywhere() -> None:
    module = make_layer("linear")
    network = shift_of(module)
    assert set(network.tensors()) == {"x.lora_up.weight", "x.lora_down.weight", "x.alpha"}
    torch.testing.assert_close(merged_in_lycoris(network, module), change_of(network))
    np.testing.assert_allclose(in_kohya(network, module), change_of(network).numpy(), rtol=1e-4, atol=1e-5)
    assert loading_notes(network.tensors()) == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_lycoris_multiplies_products_by_alpha_over_rank_twice_when_it_merges(
    kind: str, layer: str, alpha: float
) -> None:
    module = make_layer(layer)
    network = network_of(kind, module, rank=1, alpha=alpha)
    torch.testing.assert_close(live_in_lycoris(network, module), change_of(network), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged_in_lycoris(network, module), change_of(network) * alpha, rtol=1e-4, atol=1e-5)
    (note,) = loading_notes(network.tensors())
    assert f"acts there at {alpha:g} of its strength" in note


@pytest.mark.parametrize("layer", LAYERS)
def test_lycoris_and_kohya_have_no_use_for_the_norms_of_our_dora(layer: str) -> None:
    module = make_layer(layer)
    network = network_of("dora", module)
    with pytest.raises(RuntimeError, match="broadcast shape"):
        lycoris_module(network, module)
    assert not np.allclose(in_kohya(network, module), change_of(network).numpy(), atol=0.01)
    (note,) = loading_notes(network.tensors())
    assert "diffusers and kohya's networks.lora ignore dora_scale" in note
    assert "LyCORIS expects one for each output channel" in note


def test_diffusers_has_no_use_for_the_norms_of_our_dora() -> None:
    tensors = network_of("dora", make_layer("linear")).tensors()
    named = {f"lora_unet_mid_block_attentions_0_proj_in{key[1:]}": tensor for key, tensor in tensors.items()}
    state, alphas = StableDiffusionPipeline.lora_state_dict(named)
    assert sorted(key.rpartition("proj_in")[2] for key in state) == [".lora.down.weight", ".lora.up.weight"]
    assert list(alphas.values()) == [2.0]


@pytest.mark.parametrize("layer", LAYERS)
def test_kohya_reads_a_plain_lora_as_we_do(layer: str) -> None:
    module = make_layer(layer)
    network = network_of("lora", module, alpha=3.0)
    np.testing.assert_allclose(in_kohya(network, module), change_of(network).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "alpha", "warns"),
    [("lora", 3.0, 0), ("loha", 2.0, 0), ("loha", 3.0, 1), ("lokr", 3.0, 1), ("dora", 2.0, 1)],
)
def test_saving_and_inspecting_say_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, alpha: float, warns: int
) -> None:
    network = network_of(kind, make_layer("linear"), alpha=alpha)
    with caplog.at_level(logging.WARNING):
        path = save_lora(tmp_path / "x.safetensors", network.tensors(), {})
    assert sum("Elsewhere: " in record.getMessage() for record in caplog.records) == warns
    assert describe(path).count("Elsewhere: ") == warns
    assert path.with_suffix(".json").read_text("ascii").count("Elsewhere: ") == warns
