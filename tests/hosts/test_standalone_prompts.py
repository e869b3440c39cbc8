"""The standalone host's prompts of any length, clip skip, and text model that learns, against transformers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion import host as base
from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.errors import HostError
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.hosts.tokenizer import load_tokenizer
from lib_addift.lora import names
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.models import PRECISIONS, fingerprint
from tests.support.prompts import A, framed

PROMPTS, MULTIPLIERS = ["a face", "a face with open eyes"], [0.5, -1.0]


@pytest.fixture(scope="module")
def skipping() -> StandaloneHost:
    """A host that leaves one layer out."""
    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32", clip_skip=2)


# Conditions


@pytest.mark.parametrize("count", [0, 1, 75, 76, 160])
def test_chunks_are_encoded_alone_and_stand_side_by_side(host: StandaloneHost, count: int) -> None:
    chunks = [[A] * min(75, count - start) for start in range(0, max(count, 1), 75)]
    with torch.no_grad():
        by_hand = [host.text_model(input_ids=torch.tensor([framed(*chunk)])).last_hidden_state for chunk in chunks]
    assert torch.equal(host.encode_prompts(["a " * count]).crossattn, torch.cat(by_hand, dim=1))


def test_a_short_prompt_beside_a_long_one_is_followed_by_the_empty_prompt(any_host: StandaloneHost) -> None:
    long, short = any_host.encode_prompts(["a " * 80, "a"]).crossattn.split(1)
    alone, empty = any_host.encode_prompts(["a"]).crossattn, any_host.encode_prompts([""]).crossattn
    torch.testing.assert_close(short, torch.cat([alone, empty], dim=1))
    torch.testing.assert_close(short, encode_to_length(any_host.encode_prompts, ["a"], 154).crossattn)
    torch.testing.assert_close(long, any_host.encode_prompts(["a " * 80]).crossattn)
    filled = encode_to_length(any_host.encode_prompts, ["a", ""], 300)
    assert (len(filled), filled.tokens) == (2, 231), "as near as chunks come"


def test_the_end_of_a_long_prompt_acts_in_the_unet(host: StandaloneHost) -> None:
    latents, timesteps = torch.ones(1, 4, 8, 8), torch.tensor([500])
    long, other = (host.encode_prompts(["a " * 80 + end]) for end in ("open eyes", "closed eyes"))
    assert torch.equal(long.crossattn[:, :77], other.crossattn[:, :77])
    with torch.no_grad():
        assert not torch.equal(
            host.predict_noise(latents, timesteps, long), host.predict_noise(latents, timesteps, other)
        )
        empty = host.encode_prompts([""]).crossattn
        twice = Conditions(empty.repeat(1, 2, 1))  # attention over the same twice is attention over it once
        once = host.predict_noise(latents, timesteps, host.encode_prompts([""]))
        torch.testing.assert_close(host.predict_noise(latents, timesteps, twice), once, rtol=1e-4, atol=1e-5)


# Clip skip


@pytest.mark.parametrize("text", ["a face", "a " * 80])
def test_clip_skip_takes_an_earlier_layer_through_the_last_norm(
    host: StandaloneHost, skipping: StandaloneHost, text: str
) -> None:
    *_, earlier, _last = host.text_model.get_submodule("encoder.layers")
    states: list[torch.Tensor] = []
    handle = earlier.register_forward_hook(  # transformers 4 gives a tuple
        lambda _module, _args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        last = host.encode_prompts([text]).crossattn
    finally:
        handle.remove()
    with torch.no_grad():
        expected = host.text_model.get_submodule("final_layer_norm")(torch.cat(states, dim=1))
    assert (host.clip_skip, skipping.clip_skip) == (1, 2)
    assert torch.equal(skipping.encode_prompts([text]).crossattn, expected)
    assert not torch.isclose(last, expected).all()


@pytest.mark.slow
def test_clip_skip_goes_from_the_last_layer_to_the_first(host: StandaloneHost) -> None:
    layers = len(host.text_model.get_submodule("encoder.layers"))
    first = StandaloneHost(CHECKPOINT, device="cpu", clip_skip=layers)
    assert first.encode_prompts(["a"]).shape == host.encode_prompts(["a"]).shape
    for wrong in (0, layers + 1, -1):
        with pytest.raises(HostError) as caught:
            StandaloneHost(CHECKPOINT, device="cpu", clip_skip=wrong)
        assert str(caught.value) == (
            f"clip skip {wrong} cannot be had: the checkpoint's text model has {layers} layers, so choose 1 (its last "
            f"layer is used) to {layers}."
        )


@pytest.mark.slow
def test_pairs_whose_prompts_differ_in_length_learn_in_one_run(
    any_host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = [np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed")]
    pairs = (
        PairSource(*faces, original_prompt="a face", target_prompt="a " * 80),
        PairSource(*faces, original_prompt="a face", target_prompt="a face"),
    )
    config = TrainConfig.create(
        "action",
        max_train_steps=2,
        batch_size=2,
        sampling_steps=1,
        rank=1,
        self_regularisation=1.0,
        preview_prompt="b " * 160,
    )
    monkeypatch.setattr(any_host, "lora_dir", tmp_path)
    run = TrainingRun(any_host, Request(pairs, "long", config))
    list(run.events())
    assert run.results[0].path.is_file()


# A text model that learns


def acting(host: base.Host) -> LoraNetwork:
    """A LoRA over the text model that changes it, with a multiplier for each of PROMPTS."""
    network = LoraNetwork.create(base.text_layers(host), rank=2, alpha=2.0, seed=1)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.2, generator=generator)
    network.multiplier = torch.tensor(MULTIPLIERS)
    return network


def test_the_layers_that_learn_have_kohyas_names(host: StandaloneHost) -> None:
    layers = base.text_layers(host)
    count = len(host.text_model.get_submodule("encoder.layers"))
    linear = [name for name, module in host.text_model.named_modules() if isinstance(module, nn.Linear)]
    assert len(layers) == len(linear) == 6 * count
    assert list(layers) == [f"lora_te_text_model_{name.replace('.', '_')}" for name in linear]
    assert layers["lora_te_text_model_encoder_layers_1_self_attn_out_proj"] is host.text_model.get_submodule(
        "encoder.layers.1.self_attn.out_proj"
    )


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_what_lora_files_have_no_place_for_has_no_name(prefix: str) -> None:
    assert names.text_kohya(f"{prefix}encoder.layers.11.mlp.fc2") == "lora_te_text_model_encoder_layers_11_mlp_fc2"
    for other in ("", "encoder", "encoder.layers.0", "encoder.layers.0.mlp", "encoder.layers.0.layer_norm1",
                  "embeddings.token_embedding", "final_layer_norm", "text_projection"):  # fmt: skip
        assert names.text_kohya(prefix + other) == ""


def test_a_lora_files_modules_are_those_of_both_models(host: StandaloneHost) -> None:
    modules = base.lora_modules(host)
    assert modules["lora_unet_conv_in"] is host.unet.get_submodule("conv_in")
    assert modules.items() >= base.text_layers(host).items()
    assert "" not in modules


@pytest.mark.parametrize("text", ["", "a " * 80])
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_gradients_are_those_of_merged_weights(
    host: StandaloneHost, skipping: StandaloneHost, text: str, clip_skip: int
) -> None:
    """Against transformers with dense weights, each prompt with its own multiplier."""
    chosen = skipping if clip_skip == 2 else host
    prompts = [f"{text}{prompt}" for prompt in PROMPTS]
    chosen.encode_prompts([""])  # transformers hangs its own hooks in when hidden states are asked for first
    before = fingerprint(chosen.text_model)
    network = acting(chosen)
    with chosen.exclusive(), network.attach():
        cond = chosen.encode_prompts_with_grad(prompts).crossattn
        assert torch.equal(cond, chosen.encode_prompts(prompts).crossattn)
        cond.square().sum().backward()
    assert fingerprint(chosen.text_model) == before
    assert all(parameter.grad is None for parameter in chosen.text_model.parameters())
    reference = acting(chosen)
    expected = dense_conditions(chosen, reference, prompts)
    torch.testing.assert_close(cond, expected, rtol=1e-3, atol=1e-4)
    expected.square().sum().backward()
    for name, layer in network.layers.items():
        theirs = reference.layers[name].lora_up.grad
        if theirs is None:  # of a layer that clip skip leaves out
            assert layer.lora_up.grad is None
        else:
            assert theirs.any()
            torch.testing.assert_close(layer.lora_up.grad, theirs, rtol=1e-3, atol=1e-3)
    last = f"layers_{len(chosen.text_model.get_submodule('encoder.layers')) - 1}_"
    assert all(
        (layer.lora_up.grad is None) == (clip_skip == 2 and last in name) for name, layer in network.layers.items()
    )


def dense_conditions(host: StandaloneHost, network: LoraNetwork, prompts: list[str]) -> torch.Tensor:
    """The conditions with `network` merged into the text model's weights at each prompt's own multiplier."""
    text = host.text_model
    paths = {host.text_lora_name(name): f"{name}.weight" for name, _ in text.named_modules()}
    rows = []
    for prompt, multiplier in zip(prompts, MULTIPLIERS, strict=True):
        merged = {
            paths[name]: text.get_parameter(paths[name]) + multiplier * layer.lora_up @ layer.lora_down  # alpha = rank
            for name, layer in network.layers.items()
        }
        parts = []
        for chunk in load_tokenizer()([prompt])[0]:
            inputs = {"input_ids": chunk[None], "output_hidden_states": True}
            states = torch.func.functional_call(text, merged, (), inputs).hidden_states
            parts.append(text.get_submodule("final_layer_norm")(states[-host.clip_skip]))
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_the_text_model_learns_in_half_precision(precision: str) -> None:
    host = StandaloneHost(CHECKPOINT, device="cpu", precision=precision)
    network = acting(host)
    with host.exclusive(), network.attach():
        cond = host.encode_prompts_with_grad(PROMPTS).crossattn
        assert torch.equal(cond, host.encode_prompts(PROMPTS).crossattn)
        cond.square().mean().backward()
    assert cond.dtype is torch.float32
    gradients = [layer.lora_up.grad for layer in network.layers.values()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_the_fake_hosts_text_model_acts_only_where_it_has_hooks(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    plain = host.encode_prompts(PROMPTS).crossattn
    assert torch.equal(host.encode_prompts_with_grad(PROMPTS).crossattn, plain)
    network = acting(host)
    with network.attach():
        cond = host.encode_prompts_with_grad(PROMPTS).crossattn
        cond.sum().backward()
        assert torch.equal(host.encode_prompts(PROMPTS).crossattn, cond)
    assert not torch.isclose(cond, plain)[..., :-1].any(), "the last channel is always 1"
    assert all(layer.lora_up.grad.any() for layer in network.layers.values())
    assert torch.equal(host.encode_prompts(PROMPTS).crossattn, plain)
