from __future__ import annotations

import importlib.util
import pickle
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lib_addift.training.finish
from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.memory import recomputing
from lib_addift.diffusion.sampler import ddim, ddim_timesteps
from lib_addift.errors import ConfigError, HostError, LoraFileError
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.lora import names
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork, layer_kind, select_layers
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.models import PRECISIONS, fingerprint

Tensors = dict[str, torch.Tensor]
ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
SMALL = {"max_train_steps": 2, "sampling_steps": 2, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    """One host for all tests that only look at it."""
    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(CHECKPOINT)


def inputs(host: StandaloneHost, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    latents = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return latents, torch.arange(batch) * 300 + 100, host.encode_prompts(["a face"]).expand(batch)


def train(host: StandaloneHost, **settings: Any) -> TrainingRun:
    config = TrainConfig.create(**{**SMALL, **settings})
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
    found = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    kinds = [layer_kind(name) for name in found]
    assert {kind: kinds.count(kind) for kind in LAYER_KINDS} == {
        "self_attention": 64, "cross_attention": 64, "feed_forward": 32, "projections": 32, "convolutions": 86,
    }  # fmt: skip


def test_pictures_become_latents_and_pictures_again(host: StandaloneHost) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    latents = host.encode_images(images)
    assert (latents.shape, latents.dtype) == ((2, 4, 8, 16), torch.float32)
    assert torch.equal(latents, host.encode_images(images)), "the mean of the posterior, not a sample"
    decoded = host.decode_latents(latents)
    assert (decoded.shape, decoded.dtype) == ((2, 64, 128, 3), np.uint8)


def test_predictions_have_the_shape_of_the_latents_and_repeat_exactly(host: StandaloneHost) -> None:
    first, second = (host.predict_noise(*inputs(host)) for _ in range(2))
    assert (first.shape, first.dtype, first.requires_grad) == ((2, 4, 8, 8), torch.float32, False)
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8)])
def test_a_batch_of_one_is_like_one_of_many(host: StandaloneHost, shape: tuple[int, int]) -> None:
    latents = torch.randn(3, 4, *shape, generator=torch.Generator().manual_seed(1))
    timesteps, cond = torch.tensor([0, 500, 999]), host.encode_prompts(["a", "b", "c"])
    together = host.predict_noise(latents, timesteps, cond)
    for n in range(3):
        alone = host.predict_noise(latents[n : n + 1], timesteps[n : n + 1], cond[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-4)


def test_facts_of_the_file(host: StandaloneHost) -> None:
    import hashlib

    assert host.model_title == CHECKPOINT.name
    assert host.model_hash == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert host.prediction_type == "epsilon"


def test_loading_and_training_open_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = train(StandaloneHost(CHECKPOINT, lora_dir=tmp_path, device="cpu"), max_train_steps=1)
    list(run.events())
    assert run.results[0].path.is_file()


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


@pytest.mark.parametrize("precision", PRECISIONS)
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


def test_the_same_seed_gives_the_same_bytes(
    host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for folder in ("first", "second"):
        monkeypatch.setattr(host, "lora_dir", tmp_path / folder)
        run = train(host)
        list(run.events())
        contents.append([path.read_bytes() for path in sorted((tmp_path / folder).iterdir())])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


@pytest.mark.parametrize("end", ["success", "error", "stop"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_models_are_bit_identical_after(
    host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, gradient_checkpointing: bool
) -> None:
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    before = fingerprint(host.unet, host.vae, host.text_model)
    run = train(host, gradient_checkpointing=gradient_checkpointing)
    try:
        for event in run.events():
            if isinstance(event, StepReport) and end == "stop":
                run.stop()
            if isinstance(event, StepReport) and end == "error":
                raise torch.cuda.OutOfMemoryError("simulated")
    except torch.cuda.OutOfMemoryError:
        assert end == "error"
    assert fingerprint(host.unet, host.vae, host.text_model) == before
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


def test_gradient_checkpointing_gives_the_same_gradients(host: StandaloneHost) -> None:
    plain, once = gradients(host, checkpointing=False)
    checkpointed, twice = gradients(host, checkpointing=True)
    assert (once, twice) == (1, 2), "checkpointing computes the forward pass anew"
    assert len(plain) == len(checkpointed) == 2 * 278
    assert sum(bool(gradient.any()) for gradient in plain.values()) > 400, "not where a single token attends to itself"
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-7)


def test_recomputing_restores_even_after_an_error(host: StandaloneHost) -> None:
    before = fingerprint(host.unet, host.vae, host.text_model)
    with pytest.raises(RuntimeError, match="simulated"), recomputing(host.unet):
        assert fingerprint(host.unet, host.vae, host.text_model) != before
        raise RuntimeError("simulated")
    assert fingerprint(host.unet, host.vae, host.text_model) == before


# What is refused


def refusal(path: Path, **options: str) -> str:
    """The message with which a file is refused: of one line, with a rule and a remedy."""
    with pytest.raises(HostError) as caught:
        StandaloneHost(path, **{"device": "cpu", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert 30 < len(message) < 400, message
    return message


def keys(*which: str) -> Tensors:
    return {key: torch.zeros(2, 2) for key in which}


U, V, T = names.UNET_PREFIX, names.VAE_PREFIX, names.TEXT_PREFIX


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (keys("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), "is a LoRA"),
        (keys("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"), "is a LoRA"),
        (keys("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), "is a LoRA"),
        (keys("base_model.model.to_q.lora_B.weight"), "is a LoRA"),
        (keys("lycoris_down_blocks_0.hada_w1_a"), "is a LoRA"),
        (keys("conditioner.embedders.0.transformer.x", U + "input_blocks.0.0.weight"), "is SDXL"),
        (keys("cond_stage_model.model.ln_final.weight", U + "input_blocks.0.0.weight"), "is SD2"),
        (keys(U + "joint_blocks.0.x_block.attn.qkv.weight"), "is SD3"),
        (keys("double_blocks.0.img_attn.qkv.weight"), "is Flux"),
        (keys(U + "double_blocks.0.img_attn.qkv.weight"), "is Flux"),
        (keys("down_blocks.0.attentions.0.proj_in.weight", "conv_in.weight"), "diffusers layout"),
        (keys("first.weight", "second.weight"), "no Stable Diffusion model"),
        ({}, "no Stable Diffusion model"),
        (keys(U + "something.else"), "no SD1.x UNet"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)}, "inpainting"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 8, 3, 3)}, "instruct-pix2pix"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 5, 3, 3)}, "reads 5 channels"),
        ({U + "input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), **keys(U + "odd.name")}, "UNet that is not SD1.x"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: Tensors, words: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file(content, path)
    message = refusal(path)
    assert words in message
    assert message.startswith("'other.safetensors'")


@pytest.mark.parametrize(("prefix", "what"), [(V, "VAE"), (T, "text model"), (U, "Stable Diffusion")])
def test_a_file_without_one_of_the_models_is_refused(tensors: Tensors, tmp_path: Path, prefix: str, what: str) -> None:
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in tensors.items() if not key.startswith(prefix)}, path)
    assert f"holds no {what}" in refusal(path)


@pytest.mark.parametrize(
    "gone",
    [
        U + "middle_block.1.proj_in.weight",
        U + "input_blocks.1.0.in_layers.2.weight",  # widths are read off this one
        U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        V + "encoder.down.0.block.0.conv1.weight",
        V + "decoder.conv_out.bias",
        T + "text_model.embeddings.token_embedding.weight",
        T + "text_model.encoder.layers.3.mlp.fc1.weight",
        T + "text_model.encoder.layers.",  # all of them
    ],
)
def test_a_file_with_a_hole_is_refused(tensors: Tensors, tmp_path: Path, gone: str) -> None:
    path = tmp_path / "hole.safetensors"
    kept = {key: value for key, value in tensors.items() if not key.startswith(gone)}
    assert len(kept) < len(tensors)
    save_file(kept, path)
    assert "not SD1.x" in refusal(path)


def test_a_file_with_a_tensor_too_many_or_of_another_shape_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({**tensors, U + "input_blocks.1.0.more.weight": torch.zeros(1)}, path)
    assert "not SD1.x" in refusal(path)
    key = U + "input_blocks.1.1.proj_in.weight"  # linear, as in SD2
    save_file({**tensors, key: tensors[key][:, :, 0, 0].contiguous()}, path)
    assert "not SD1.x" in refusal(path)


def truncated(path: Path) -> None:
    path.write_bytes(CHECKPOINT.read_bytes()[:100_000])


def truncated_header(path: Path) -> None:
    path.write_bytes(CHECKPOINT.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "may be truncated"),
        (truncated_header, "may be truncated"),
        (lambda path: path.write_bytes(b""), "may be truncated"),
        (lambda path: path.write_bytes(b"<html>404</html>" * 100), "may be truncated"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: None, "is no file"),
    ],
)
def test_a_broken_or_missing_file_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "broken.safetensors"
    make(path)
    message = refusal(path)
    assert words in message
    assert "broken.safetensors" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".CKPT", ".bin"])
def test_a_pickle_is_refused_and_not_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    assert "is a pickle" in refusal(path)


def test_a_pickle_that_calls_itself_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"state_dict": {"x": torch.zeros(100)}}, path)
    assert "no whole .safetensors file" in refusal(path)


@pytest.mark.parametrize("device", ["banana", "", "cpu:banana", "cuda:99"])
def test_an_unknown_device_is_refused(device: str) -> None:
    assert f"device '{device}' cannot be used here" in refusal(CHECKPOINT, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_cuda_without_cuda_is_refused() -> None:
    message = refusal(CHECKPOINT, device="cuda")
    assert "device 'cuda' cannot be used here" in message
    assert "choose cpu" in message


def test_an_unknown_precision_is_refused() -> None:
    assert "fp8" in refusal(CHECKPOINT, precision="fp8")


def test_without_clips_vocabulary_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    message = refusal(CHECKPOINT)
    assert "open_clip_torch" in message
    assert "pip install" in message


# Drawing

Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def lora_dir(host: StandaloneHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA 'blink' that changes pictures clearly, and with 'two words', which is twice as strong."""
    folder = tmp_path_factory.mktemp("lora")
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=2.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.02, generator=generator)
    save_file(network.tensors(), folder / "blink.safetensors")
    save_file(network.tensors(2.0), folder / "two words.safetensors")
    return folder


@pytest.fixture
def draw(host: StandaloneHost, lora_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """The host's `draw`, of few steps and small pictures, with the LoRAs of `lora_dir`."""
    monkeypatch.setattr(host, "lora_dir", lora_dir)
    return partial(host.draw, steps=2, width=64, height=64)


def test_a_picture_depends_on_prompt_seed_and_negative_prompt(draw: Draw) -> None:
    picture = draw("a face")
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert np.array_equal(picture, draw("a face")), "the same seed, the same picture"
    assert not np.array_equal(picture, draw("a face", seed=2))
    assert not np.array_equal(picture, draw("a house"))
    assert not np.array_equal(picture, draw("a face", negative_prompt="a house"))
    unguided = draw("a face", cfg_scale=1.0)
    assert not np.array_equal(picture, unguided)
    assert np.array_equal(unguided, draw("a face", cfg_scale=1.0, negative_prompt="a house"))


def test_a_picture_has_the_size_that_is_asked_for(draw: Draw) -> None:
    assert draw("a face", width=128, height=64).shape == (64, 128, 3)


def test_a_tag_draws_with_the_lora_at_its_weight(host: StandaloneHost, lora_dir: Path, draw: Draw) -> None:
    """Against the sampler with the LoRA attached by hand."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    network = LoraNetwork.from_tensors(read_lora(lora_dir / "blink.safetensors")[0], host.unet, host.lora_name)
    network.multiplier = -0.5
    with network.attach():
        latents = ddim(host, noise, host.encode_prompts(["a face"]), ddim_timesteps(2))
    drawn = draw("a face <lora:blink:-0.5>", cfg_scale=1.0)
    assert np.array_equal(drawn, host.decode_latents(latents)[0])
    assert not np.array_equal(drawn, draw("a face", cfg_scale=1.0))
    assert not np.array_equal(drawn, draw("a face <lora:blink:0.5>", cfg_scale=1.0))


def test_tags_act_wherever_they_stand_and_add_up(draw: Draw) -> None:
    whole = draw("a face <lora:blink:1>")
    assert np.array_equal(whole, draw("<lora:blink>a face"))
    assert np.array_equal(draw("a face"), draw("a face<lora:blink:0>"))
    for same in ("a face <lora:blink:0.5><lora:blink:0.5>", "a face <lora:two words:0.5>"):
        assert abs(whole.astype(int) - draw(same)).max() <= 1, same


def test_drawing_leaves_the_models_as_they_were(host: StandaloneHost, draw: Draw) -> None:
    before = fingerprint(host.unet, host.vae, host.text_model)
    draw("a face <lora:blink:1>")
    with pytest.raises(LoraFileError, match=r"gone\.safetensors' does not exist"):
        draw("a face <lora:blink:1> <lora:gone:1>")
    with pytest.raises(ConfigError, match="no number"):
        draw("a face <lora:blink:much>")
    with pytest.raises(ConfigError, match="compose=swap is unknown"):
        draw("a face <lora:blink:1:compose=swap>")
    with pytest.raises(LoraFileError, match="name"):
        draw("a face <lora:../blink:1>")
    assert fingerprint(host.unet, host.vae, host.text_model) == before


def test_what_does_not_fit_the_model_is_refused(
    host: StandaloneHost, draw: Draw, tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    parts = {"lora_down": torch.ones(2, 9, 1, 1), "lora_up": torch.ones(9, 2, 1, 1)}
    save_file({f"{name}.{part}.weight": tensor for part, tensor in parts.items()}, tmp_path / "wide.safetensors")
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    before = fingerprint(host.unet)
    for file, reason in (("wide", "it is for another model"), ("checkpoint", "choose a LoRA with kohya's names")):
        with pytest.raises(LoraFileError, match=reason):
            draw(f"a face <lora:{file}:1>")
    assert fingerprint(host.unet) == before


def test_the_names_for_tags_are_those_of_the_folders_files(
    host: StandaloneHost, lora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, expected in ((lora_dir, ["blink", "two words"]), (tmp_path, []), (tmp_path / "missing", [])):
        monkeypatch.setattr(host, "lora_dir", folder)
        assert host.lora_names() == expected


def by_hand(host: StandaloneHost, lora_dir: Path, turns: list[list[str]]) -> np.ndarray:
    """A picture of DDIM with these LoRAs at weight 1, in each step one of the lists after the other."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents, cond = noise, host.encode_prompts(["a face"])
    files = {name: read_lora(lora_dir / f"{name}.safetensors")[0] for turn in turns for name in turn}
    networks = {name: LoraNetwork.from_tensors(file, host.unet, host.lora_name) for name, file in files.items()}
    steps = ddim_timesteps(4)
    abar = host.alphas_cumprod
    for step, timestep in enumerate(steps):
        with ExitStack() as attached, torch.no_grad():
            for name in turns[step % len(turns)]:
                attached.enter_context(networks[name].attach())
            noise_pred = host.predict_noise(latents, torch.tensor([timestep]), cond)
        clean = (latents - (1 - abar[timestep]).sqrt() * noise_pred) / abar[timestep].sqrt()
        after = abar[steps[step + 1]] if step + 1 < len(steps) else torch.tensor(1.0)
        latents = after.sqrt() * clean + (1 - after).sqrt() * noise_pred
    return host.decode_latents(latents)[0]


def is_as(picture: np.ndarray, other: np.ndarray) -> bool:
    return bool(abs(picture.astype(int) - other).max() <= 1)


def test_loras_take_turns_and_act_between_timesteps(host: StandaloneHost, lora_dir: Path, draw: Draw) -> None:
    plain, draw = draw("a face", steps=4, cfg_scale=1.0), partial(draw, steps=4, cfg_scale=1.0)
    turns = by_hand(host, lora_dir, [["blink"], ["two words"]])
    assert is_as(draw("a face <lora:blink:1:compose=switch> <lora:two words:1:compose=switch>"), turns)
    assert is_as(
        draw("a face <lora:blink:1:from=999> <lora:two words:1:to=0>"), draw("a face <lora:blink><lora:two words>")
    )
    pauses = by_hand(host, lora_dir, [["blink"], [], [], []])
    assert is_as(draw("a face <lora:blink:1:from=1000:to=800>"), pauses)
    assert not is_as(turns, plain)
    assert not is_as(pauses, plain)
    assert np.array_equal(draw("a face <lora:blink:1:from=10:to=5>"), plain)


def test_a_composite_is_the_mean_of_each_lora_alone(host: StandaloneHost, lora_dir: Path, draw: Draw) -> None:
    """One step of DDIM is linear in the prediction, and so, without the VAE, is what comes of it."""
    draws = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "decode_latents", lambda latents: latents.numpy())
        for name, tags in {
            "blink": "<lora:blink>",
            "two": "<lora:two words>",
            "both": "<lora:blink:1:compose=composite><lora:two words:1:compose=composite>",
        }.items():
            draws[name] = draw(f"a face {tags}", steps=1)
    np.testing.assert_allclose(draws["both"], (draws["blink"] + draws["two"]) / 2, atol=1e-4)
    assert abs(draws["blink"] - draws["two"]).max() > 1e-2


def test_the_part_for_the_text_model_acts_on_the_prompt(
    host: StandaloneHost, lora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    monkeypatch.setattr(host, "decode_latents", lambda latents: latents.numpy())
    draw = partial(host.draw, steps=1, width=64, height=64)
    width = host.text_model.get_submodule("encoder.layers.0.mlp.fc1").in_features
    layer = "lora_te_text_model_encoder_layers_0_self_attn_v_proj"
    generator = torch.Generator().manual_seed(2)
    text = {
        f"{layer}.lora_down.weight": torch.randn(1, width, generator=generator),
        f"{layer}.lora_up.weight": torch.randn(width, 1, generator=generator),
    }
    unet = load_file(lora_dir / "blink.safetensors")
    for name, part in {"text": text, "unet": unet, "both": text | unet}.items():
        save_file(part, tmp_path / f"{name}.safetensors")
    network = LoraNetwork.from_tensors(text, host.text_model, host.text_lora_name)
    network.multiplier, before = 0.5, fingerprint(host.text_model, host.unet)
    with network.attach():  # on the negative prompt too, as in a WebUI
        expected, plain_unet = draw("a face <lora:unet:0.7>"), draw("a face")
    assert fingerprint(host.text_model, host.unet) == before
    both = draw("a face <lora:both:0.5:0.7:from=999><lora:both:0.3:to=0:from=1>")
    np.testing.assert_allclose(both, expected, atol=1e-5)
    assert abs(expected - draw("a face <lora:unet:0.7>")).max() > 1e-2
    composite = draw("<lora:text:0.5:compose=composite><lora:unet:0:0.7:compose=composite>a face")
    np.testing.assert_allclose(composite, expected, atol=1e-5, err_msg="what has nothing for the UNet does not count")
    assert abs(expected - plain_unet).max() > 1e-2


def test_contradicting_tags_are_merged_and_logged(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    merged = draw("a face <lora:blink><lora:two words>")
    assert is_as(draw("a face <lora:blink:1:compose=switch><lora:two words:1:compose=composite>"), merged)
    assert "so these LoRAs are merged" in caplog.text


# Taking turns


def test_a_picture_waits_while_the_model_is_in_use(
    host: StandaloneHost, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, begun, predict = draw("a face"), threading.Event(), host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *inputs: begun.set() or predict(*inputs))
    with ThreadPoolExecutor(1) as pool:
        with host.exclusive(), host.exclusive():  # one thread may enter twice
            drawing = pool.submit(draw, "a face")
            assert not begun.wait(0.3)
        assert np.array_equal(drawing.result(timeout=30), expected)


def test_a_job_and_pictures_at_once_do_not_disturb_each_other(
    host: StandaloneHost, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, 1.0, ()))  # it takes long
    settings = {**SMALL, "layers": "cross_attention", "sampling_steps": 1, "preview_every": 1}
    request = Request.of(ORIGINAL, TARGET, "wink", TrainConfig.create(**settings))
    before, expected = fingerprint(host.unet, host.vae, host.text_model), draw("a face")
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    list(TrainingRun(host, request).events())
    alone = (tmp_path / "wink.safetensors").read_bytes()
    (tmp_path / "wink.safetensors").unlink()
    jobs, in_step = Jobs(host), threading.Event()
    monkeypatch.setattr(host, "report", lambda text, *_: in_step.set() if "step 1" in text else None)
    with ThreadPoolExecutor(2) as pool:
        job = jobs.submit(Request.of(ORIGINAL, TARGET, "wink", request.config, overwrite=True))
        assert in_step.wait(30)
        drawings = [pool.submit(draw, "a face") for _ in range(2)]
        pictures = [drawing.result(timeout=60) for drawing in drawings]
    assert jobs.wait(job.id, 60).state is JobState.DONE, job.error
    assert all(np.array_equal(picture, expected) for picture in pictures), "no trace of the LoRA that learns"
    assert (tmp_path / "wink.safetensors").read_bytes() == alone
    assert fingerprint(host.unet, host.vae, host.text_model) == before
