"""Files of every kind of LoRA: other trainers' forms, what is refused, what a file says of itself, and learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import LoraFileError
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.lora.file import build_metadata, describe, read_lora, save_lora
from lib_addift.lora.network import LoraNetwork, select_layers
from lib_addift.training.events import Request, ResumeState
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support import webui_formulas
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"dora": True},
    "LoHa": {"algorithm": "loha"},
    "LoKr": {"algorithm": "lokr"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LINEAR, CONV, POINT = nn.Linear(12, 10), nn.Conv2d(12, 10, 3, padding=1), nn.Conv2d(12, 10, 1)
FOREIGN: dict[str, tuple[nn.Module, dict[str, torch.Tensor]]] = {
    "LoRA without alpha": (LINEAR, {"lora_up.weight": random(10, 3), "lora_down.weight": random(3, 12)}),
    "LoCon with a core": (
        CONV,
        {
            "lora_up.weight": random(10, 3, 1, 1),
            "lora_mid.weight": random(3, 3, 3, 3),
            "lora_down.weight": random(3, 12, 1, 1),
            "alpha": torch.tensor(2.0),
        },
    ),
    "LoHa with cores": (
        CONV,
        {
            "hada_t1": random(2, 2, 3, 3),
            "hada_w1_a": random(2, 10),
            "hada_w1_b": random(2, 12),
            "hada_t2": random(2, 2, 3, 3).flip(0),
            "hada_w2_a": random(2, 10).flip(0),
            "hada_w2_b": random(2, 12).flip(0),
            "alpha": torch.tensor(0.5),
        },
    ),
    "LoKr of two decomposed ones": (
        LINEAR,
        {
            "lokr_w1_a": random(2, 1),
            "lokr_w1_b": random(1, 3),
            "lokr_w2_a": random(5, 2),
            "lokr_w2_b": random(2, 4),
            "alpha": torch.tensor(3.0),
        },
    ),
    "LoKr with a decomposed first one": (
        CONV,
        {
            "lokr_w1_a": random(2, 3),
            "lokr_w1_b": random(3, 3),
            "lokr_w2": random(5, 4, 3, 3),
            "alpha": torch.tensor(7.0),
        },
    ),
    "LoKr with a core": (
        CONV,
        {
            "lokr_w1": random(2, 3),
            "lokr_t2": random(2, 2, 3, 3),
            "lokr_w2_a": random(2, 5),
            "lokr_w2_b": random(2, 4),
            "alpha": torch.tensor(3.0),
        },
    ),
    "LoKr of a flat kernel": (POINT, {"lokr_w1": random(5, 4), "lokr_w2": random(2, 3), "alpha": torch.tensor(9.0)}),
    "LoKr without alpha": (
        CONV,
        {
            "lokr_w1_a": random(2, 1),
            "lokr_w1_b": random(1, 3),
            "lokr_w2_a": random(5, 2),
            "lokr_w2_b": random(2, 4 * 9),
        },
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_other_trainers_write_acts_as_in_the_webuis(name: str, dtype: torch.dtype) -> None:
    module, parts = FOREIGN[name]
    tensors = {f"x.{part}": tensor.to(dtype) for part, tensor in parts.items()}
    network = LoraNetwork.over({"x": module}, tensors)
    weight = module.weight.detach().double().numpy()
    expected = webui_formulas.change(webui_formulas.split(tensors)["x"], weight)
    np.testing.assert_allclose(network.layers["x"].delta_weight().detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    for folded in (1.0, -0.3):
        parts_again = webui_formulas.split(network.tensors(folded))["x"]
        np.testing.assert_allclose(webui_formulas.change(parts_again, weight), folded * expected, rtol=1e-4, atol=1e-4)


LOHA = {"hada_w1_a": (10, 2), "hada_w1_b": (2, 12), "hada_w2_a": (10, 2), "hada_w2_b": (2, 12)}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({**LOHA, "hada_w1_b": (2, 11)}, "layer 'x' of the LoRA does not fit this model's"),
        ({**LOHA, "hada_w1_a": (9, 2)}, "does not fit"),
        ({**LOHA, "hada_w2_b": (3, 12)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2": (5, 5)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (5, 1), "lokr_w2_b": (2, 4)}, "does not fit"),
        ({"lokr_w1": (2,), "lokr_w2": (5, 12)}, "does not fit"),
        ({"lora_up.weight": (10, 3), "lora_down.weight": (2, 12)}, "does not fit"),
        ({"lora_up.weight": (10, 3), "lora_down.weight": (3, 12), "dora_scale": (1, 11)}, "does not fit"),
        (
            {"lora_up.weight": (10, 3), "lora_down.weight": (3, 12), "dora_scale": (10, 1)},
            "'x.dora_scale' is one for each output channel.*wd_on_output=False",
        ),
        ({**LOHA, "dora_scale": (1, 12)}, "'x.dora_scale' and what else its layer has make no whole LoRA, DoRA, LoHa"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (5, 2)}, "'x.lokr_w1' and"),
        ({"lora_up.weight": (10, 3)}, "'x.lora_up.weight' and"),
        ({"alpha": (1,)}, "'x.alpha' and"),
        ({"a1.weight": (1, 12)}, "'x.a1.weight' and"),
        ({**LOHA, "diff_b": (10,)}, "'x.diff_b' and"),
    ],
)
def test_layers_that_cannot_be_read_are_refused(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    tensors = {f"x.{part}": torch.ones(shape) for part, shape in shapes.items()}
    with pytest.raises(LoraFileError, match=words) as caught:
        LoraNetwork.over({"x": LINEAR}, tensors)
    assert str(caught.value).endswith(".")


def test_a_kronecker_product_that_cuts_through_kernels_is_refused() -> None:
    """in = 3, k = 2: a first factor of 4 columns divides in * k * k but not in."""
    module = nn.Conv2d(3, 2, 2)
    tensors = {"x.lokr_w1": torch.ones(1, 4), "x.lokr_w2_a": torch.ones(2, 1), "x.lokr_w2_b": torch.ones(1, 3)}
    with pytest.raises(LoraFileError, match="does not fit"):
        LoraNetwork.over({"x": module}, tensors)


# Writing and describing


def make(host: FakeHost, kind: str, **settings: Any) -> LoraNetwork:
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=3.0, seed=0, **KINDS[kind], **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return network


def predict(host: FakeHost) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents, cond = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 6, generator=generator)
    with torch.no_grad():
        return host.predict_noise(latents, torch.tensor([500]), Conditions(cond))


def save(path: Path, network: LoraNetwork, weight: float = 1.0, precision: str = "fp32", **settings: Any) -> Path:
    tensors = network.tensors(weight)
    metadata = build_metadata(
        TrainConfig.create(rank=2, alpha=3.0, **settings), name="blink", model_title="fake", model_hash="",
        learnt="The difference of two pictures, learnt with ADDifT",
        comment="ADDifT (Alternating Direct Difference Training)",
        prediction_type="epsilon", report={}, tensors=tensors, resolution=(64, 64),
    )  # fmt: skip
    return save_lora(path, tensors, metadata, precision=precision)


@every_kind
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.1)])
def test_a_file_draws_what_the_network_drew(tmp_path: Path, kind: str, precision: str, tolerance: float) -> None:
    host = FakeHost()
    plain = predict(host)
    network = make(host, kind)
    network.multiplier = -1.7
    with network.attach():
        expected = predict(host)
    path = save(tmp_path / "blink.safetensors", network, -1.7, precision, **KINDS[kind])
    tensors, _ = read_lora(path)
    for key, tensor in tensors.items():
        assert (tensor.dtype == torch.float32) == (precision == "fp32" or key.endswith((".alpha", ".dora_scale"))), key
    loaded = LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)
    with loaded.attach():
        drawn = predict(host)
    assert (drawn - expected).abs().max() < tolerance * (expected - plain).abs().max()


@every_kind
def test_metadata_and_words_of_each_kind(tmp_path: Path, kind: str) -> None:
    network = make(FakeHost(), kind)
    path = save(tmp_path / "blink.safetensors", network, dropout=0.25, lora_plus_ratio=4, **KINDS[kind])
    _, metadata = read_lora(path)
    common = {"rank_dropout": "0.25", "loraplus_lr_ratio": "4"}
    lycoris = {"conv_dim": "2", "conv_alpha": "3", **common}
    expected: dict[str, tuple[str, dict[str, str]]] = {
        "LoRA": ("networks.lora", common),
        "DoRA": ("lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False", **lycoris}),
        "LoHa": ("lycoris.kohya", {"algo": "loha", **lycoris}),
        "LoKr": ("lycoris.kohya", {"algo": "lokr", "factor": "-1", **lycoris}),
    }
    assert (metadata["ss_network_module"], json.loads(metadata["ss_network_args"])) == expected[kind]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2" if kind == "LoKr" else "3")
    lines = describe(path).splitlines()
    assert ("Algorithm: " + kind in lines) == (kind != "LoRA")
    assert "Rank: 2; alpha: 3; stored as float32" in lines or kind == "LoKr"
    assert "Layers: 6 (2 convolutions, 1 cross attention, 1 feed forward, 1 projections, 1 self attention)" in lines


@every_kind
@pytest.mark.parametrize(("width", "base"), [(768, "SD1"), (2048, "SDXL")])
def test_the_base_model_is_known_by_its_width_in_each_kind(tmp_path: Path, kind: str, width: int, base: str) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    network = LoraNetwork.create({name: nn.Linear(width, 32)}, rank=2, alpha=3.0, seed=0, **KINDS[kind])
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    path = save_lora(tmp_path / "x.safetensors", network.tensors(), {})
    assert f"Base model: {base}" in describe(path).splitlines()


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_an_untrained_lora_of_any_kind_is_refused(tmp_path: Path, kind: str) -> None:
    host = FakeHost()
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=3.0, seed=0, **KINDS[kind])
    with pytest.raises(LoraFileError, match="does nothing"):
        save_lora(tmp_path / "blink.safetensors", network.tensors(), {})


def test_a_dora_whose_norms_alone_were_learnt_is_saved(tmp_path: Path) -> None:
    network = make(FakeHost(), "DoRA")
    for layer in network.layers.values():
        layer.lora_up.data.zero_()
    assert read_lora(save_lora(tmp_path / "blink.safetensors", network.tensors(), {}))


# Learning

SETTINGS = {
    "max_train_steps": 40, "learning_rate": 1e-4, "sampling_steps": 2, "mask": "off", "layers": LAYER_KINDS,
    "blocks": BLOCKS, "timestep_bands": 1, "min_timestep": 700, "preview_every": 10, "save_precision": "fp32",
    "directions": "both", "batch_size": 2,
}  # fmt: skip


def start(host: FakeHost, checkpoint: ResumeState | None = None, **settings: Any) -> TrainingRun:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    request = Request.of(*pictures, "blink", TrainConfig.create(**{**SETTINGS, **settings}), overwrite=True)
    return TrainingRun(host, request, keep_snapshots=True, resume_state=checkpoint)


@every_kind
def test_each_kind_learns_and_leaves_the_model_as_it_was(tmp_path: Path, kind: str) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = start(host, **KINDS[kind])
    losses = [event.loss for event in run.events() if isinstance(event, StepReport)]
    assert fingerprint(host.unet) == before
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    (result,) = run.results
    tensors, _ = read_lora(result.path)
    network = LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)
    plain = predict(host)
    with network.attach():
        assert (predict(host) - plain).abs().max() > 1e-3


@every_kind
def test_a_training_with_dropout_that_is_resumed_ends_bit_by_bit_the_same(tmp_path: Path, kind: str) -> None:
    settings = {**KINDS[kind], "dropout": 0.3, "lora_plus_ratio": 4.0, "max_train_steps": 12, "preview_every": 4}
    whole = start(FakeHost(tmp_path), **settings)
    kept = [event for event in whole.events() if isinstance(event, ResumeState)]
    resumed = start(FakeHost(tmp_path), read_resume_state(resume_bytes(kept[0])), **settings)
    list(resumed.events())
    assert kept[0].step == 4
    assert all(torch.equal(tensor, resumed.learnt[key]) for key, tensor in whole.learnt.items())
    without = start(FakeHost(tmp_path), **{**settings, "dropout": 0.0})
    list(without.events())
    assert any(not torch.equal(tensor, without.learnt[key]) for key, tensor in whole.learnt.items())


@every_kind
def test_a_kept_step_is_proven_and_saved_again(tmp_path: Path, kind: str) -> None:
    """From the tensors of a snapshot, as after a restart."""
    host = FakeHost(tmp_path)
    run = start(host, **KINDS[kind], max_train_steps=20)
    list(run.events())
    list(run.keep(10))
    assert [result.path.stem for result in run.results] == ["blink", "blink-step10"]
