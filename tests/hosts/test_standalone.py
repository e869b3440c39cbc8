from __future__ import annotations

import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.memory import recomputing
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora import names
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import layer_kind, select_layers
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.models import PRECISIONS, fingerprint, inputs, layer_counts

Tensors = dict[str, torch.Tensor]
ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
SMALL = {"max_train_steps": 2, "sampling_steps": 2, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}


def train(host: StandaloneHost, **settings: Any) -> TrainingRun:
    config = TrainConfig.create("action", **{**SMALL, **settings})
    return TrainingRun(host, Request.of(ORIGINAL, TARGET, "blink", config, overwrite=True))


# The model


def test_widths_are_read_off_the_tensors(host: StandaloneHost, tensors: Tensors) -> None:
    convolution = tensors["model.diffusion_model.input_blocks.0.0.weight"]
    assert host.unet.get_submodule("conv_in").weight.shape == convolution.shape
    for level, block in enumerate((1, 4, 7, 10)):
        stored = tensors[f"model.diffusion_model.input_blocks.{block}.0.out_layers.3.weight"]
        assert host.unet.get_submodule(f"down_blocks.{level}.resnets.0.conv2").weight.shape == stored.shape
    context = tensors["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    assert host.encode_prompts(["x"]).crossattn.shape == (1, 77, context)


def test_every_tensor_of_the_file_arrives_unchanged(host: StandaloneHost, tensors: Tensors) -> None:
    parts = (
        (names.UNET_PREFIX, names.unet_to_diffusers, host.unet),
        (names.VAE_PREFIX, names.vae_to_diffusers, host.vae),
        (names.TEXT_PREFIX + "text_model.", str, host.text_model),
    )
    seen = 0
    for prefix, translate, model in parts:
        loaded = dict(model.state_dict())
        for key in (key for key in tensors if key.startswith(prefix) and "position_ids" not in key):
            value = loaded.pop(translate(key.removeprefix(prefix)))
            assert torch.equal(value, tensors[key].float().view(value.shape)), key
            seen += 1
        assert not loaded, "the model has a tensor that the file does not have"
    assert seen > 900


def test_the_tiny_unet_has_the_layers_of_sd15(host: StandaloneHost) -> None:
    assert layer_counts(host) == {
        "self_attention": 64, "cross_attention": 64, "feed_forward": 32, "projections": 32, "convolutions": 86,
    }  # fmt: skip


def test_pictures_become_latents_and_pictures_again(any_host: StandaloneHost) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    latents = any_host.encode_images(images)
    assert (latents.shape, latents.dtype) == ((2, 4, 8, 16), torch.float32)
    assert torch.equal(latents, any_host.encode_images(images)), "the mean of the posterior, not a sample"
    decoded = any_host.decode_latents(latents)
    assert (decoded.shape, decoded.dtype) == ((2, 64, 128, 3), np.uint8)


def test_predictions_have_the_shape_of_the_latents_and_repeat_exactly(any_host: StandaloneHost) -> None:
    first, second = (any_host.predict_noise(*inputs(any_host)) for _ in range(2))
    assert (first.shape, first.dtype, first.requires_grad) == ((2, 4, 8, 8), torch.float32, False)
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8)])
def test_a_batch_of_one_is_like_one_of_many(any_host: StandaloneHost, shape: tuple[int, int]) -> None:
    latents = torch.randn(3, 4, *shape, generator=torch.Generator().manual_seed(1))
    timesteps, cond = torch.tensor([0, 500, 999]), any_host.encode_prompts(["a", "b", "c"])
    together = any_host.predict_noise(latents, timesteps, cond)
    for n in range(3):
        alone = any_host.predict_noise(latents[n : n + 1], timesteps[n : n + 1], cond[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-4)


def test_facts_of_the_file(host: StandaloneHost) -> None:
    import hashlib

    assert host.model_title == CHECKPOINT.name
    assert host.model_hash == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert host.prediction_type == "epsilon"


@pytest.mark.slow
def test_loading_and_training_open_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = train(StandaloneHost(CHECKPOINT, lora_dir=tmp_path, device="cpu"), max_train_steps=1)
    list(run.events())
    assert run.results[0].path.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["tensor", "modelspec"])
def test_v_predictions_are_converted_to_epsilon(
    host: StandaloneHost, tensors: Tensors, tmp_path: Path, mark: str
) -> None:
    """Against SD1.5's schedule and the definition of v, both in float64 and written anew."""
    path = tmp_path / "v.safetensors"
    if mark == "tensor":
        save_file({**tensors, "v_pred": torch.empty(0)}, path)
    else:
        save_file(tensors, path, {"modelspec.prediction_type": "v"})
    v_host = StandaloneHost(path, device="cpu")
    assert v_host.prediction_type == "v_prediction"
    latents, timesteps, cond = inputs(host)
    v = host.predict_noise(latents, timesteps, cond).double().numpy()  # the same weights, taken as they are
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    abar = np.cumprod(1 - betas)[timesteps.numpy()].reshape(-1, 1, 1, 1)
    expected = np.sqrt(abar) * v + np.sqrt(1 - abar) * latents.double().numpy()
    np.testing.assert_allclose(v_host.predict_noise(latents, timesteps, cond).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_text_models_of_old_merges_are_read(host: StandaloneHost, tensors: Tensors, tmp_path: Path) -> None:
    """They leave out a part of the names, and WebUIs read them."""
    path = tmp_path / "old.safetensors"
    save_file({key.replace(".text_model.", "."): value for key, value in tensors.items()}, path)
    old = StandaloneHost(path, device="cpu")
    assert torch.equal(old.encode_prompts(["a face"]).crossattn, host.encode_prompts(["a face"]).crossattn)


def test_what_training_leaves_in_a_file_is_ignored(host: StandaloneHost, tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    save_file({**tensors, "model_ema.decay": torch.zeros(()), "global_step": torch.zeros(())}, path)
    more = StandaloneHost(path, device="cpu")
    assert torch.equal(more.predict_noise(*inputs(host)), host.predict_noise(*inputs(host)))


# Training on it


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision", [*(pytest.param(p, marks=pytest.mark.long) for p in ("fp32", "bf16")), PRECISIONS[-1]]
)
def test_every_precision_trains(tmp_path: Path, precision: str) -> None:
    host = StandaloneHost(CHECKPOINT, lora_dir=tmp_path, device="cpu", precision=precision)
    before = fingerprint(host.unet, host.vae, host.text_model)
    assert host.needs_loss_scaling == (precision == "fp16")
    run = train(host)
    reports = [event for event in run.events() if isinstance(event, StepReport)]
    assert [report.skipped for report in reports] == [0, 0]
    assert all(np.isfinite(report.loss) and report.loss > 0 for report in reports)
    assert fingerprint(host.unet, host.vae, host.text_model) == before
    tensors, _ = read_lora(run.results[0].path)
    learnt = {layer_kind(key.split(".")[0]) for key, tensor in tensors.items() if "lora_up" in key and tensor.any()}
    assert learnt == set(LAYER_KINDS)


@pytest.mark.long
@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(
    any_host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for folder in ("first", "second"):
        monkeypatch.setattr(any_host, "lora_dir", tmp_path / folder)
        run = train(any_host)
        list(run.events())
        contents.append([path.read_bytes() for path in sorted((tmp_path / folder).iterdir())])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("end", ["success", "error", "stop"])
@pytest.mark.parametrize("gradient_checkpointing", [pytest.param(False, marks=pytest.mark.long), True])
def test_the_models_are_bit_identical_after(
    any_host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, gradient_checkpointing: bool
) -> None:
    monkeypatch.setattr(any_host, "lora_dir", tmp_path)
    before = fingerprint(any_host.unet, any_host.vae, any_host.text_model)
    run = train(any_host, gradient_checkpointing=gradient_checkpointing)
    try:
        for event in run.events():
            if isinstance(event, StepReport) and end == "stop":
                run.stop()
            if isinstance(event, StepReport) and end == "error":
                raise torch.cuda.OutOfMemoryError("simulated")
    except torch.cuda.OutOfMemoryError:
        assert end == "error"
    assert fingerprint(any_host.unet, any_host.vae, any_host.text_model) == before
    assert len(list(tmp_path.iterdir())) == (3 if end == "success" else 0)


def gradients(host: StandaloneHost, checkpointing: bool) -> tuple[Tensors, int]:
    """The gradients of a random LoRA, and how often the first attention layer ran for them."""
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=2.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.05, generator=generator)
    calls = []
    counted = host.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    handle = counted.register_forward_hook(lambda *_: calls.append(1))
    try:
        again = recomputing(host.unet) if checkpointing else nullcontext()
        with host.exclusive(), again, network.attach():
            network.multiplier = torch.tensor([0.25, -0.25])
            host.predict_noise(*inputs(host)).square().mean().backward()
    finally:
        handle.remove()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_gradients(host: StandaloneHost) -> None:
    plain, once = gradients(host, checkpointing=False)
    checkpointed, twice = gradients(host, checkpointing=True)
    assert (once, twice) == (1, 2), "checkpointing computes the forward pass anew"
    assert len(plain) == len(checkpointed) == 2 * 278
    assert sum(bool(gradient.any()) for gradient in plain.values()) > 400, "not where a single token attends to itself"
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-7)


def test_recomputing_restores_even_after_an_error(any_host: StandaloneHost) -> None:
    before = fingerprint(any_host.unet, any_host.vae, any_host.text_model)
    with pytest.raises(RuntimeError, match="simulated"), recomputing(any_host.unet):
        assert fingerprint(any_host.unet, any_host.vae, any_host.text_model) != before
        raise RuntimeError("simulated")
    assert fingerprint(any_host.unet, any_host.vae, any_host.text_model) == before
