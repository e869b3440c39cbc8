"""Pictures that the standalone host draws, with and without LoRAs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lib_addift.training.finish
from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.diffusion.sampler import ddim, ddim_timesteps
from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.models import fingerprint

Tensors = dict[str, torch.Tensor]
ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
SMALL = {"max_train_steps": 2, "sampling_steps": 2, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}


Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def host(any_host: StandaloneHost) -> StandaloneHost:
    """With the model of one family after the other."""
    return any_host


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_tag_draws_with_the_lora_at_its_weight(host: StandaloneHost, lora_dir: Path, draw: Draw) -> None:
    """Against the sampler with the LoRA attached by hand."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    network = LoraNetwork.from_tensors(read_lora(lora_dir / "blink.safetensors")[0], host.unet, host.lora_name)
    network.multiplier = -0.5
    _negative, cond = host.encode_prompts(["", "a face"]).split()  # together, as there: a batch may round otherwise
    with network.attach():
        latents = ddim(host, noise, cond, ddim_timesteps(2))
    drawn = draw("a face <lora:blink:-0.5>", cfg_scale=1.0)
    assert np.array_equal(drawn, host.decode_latents(latents)[0])
    assert not np.array_equal(drawn, draw("a face", cfg_scale=1.0))
    assert not np.array_equal(drawn, draw("a face <lora:blink:0.5>", cfg_scale=1.0))


@pytest.mark.slow
def test_tags_act_wherever_they_stand_and_add_up(draw: Draw) -> None:
    whole = draw("a face <lora:blink:1>")
    assert np.array_equal(whole, draw("<lora:blink>a face"))
    assert np.array_equal(draw("a face"), draw("a face<lora:blink:0>"))
    for same in ("a face <lora:blink:0.5><lora:blink:0.5>", "a face <lora:two words:0.5>"):
        assert abs(whole.astype(int) - draw(same)).max() <= 1, same


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_does_not_fit_the_model_is_refused(
    host: StandaloneHost, draw: Draw, tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    name = next(iter(select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)))
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_part_for_the_text_model_acts_on_the_prompt(
    host: StandaloneHost, lora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "lora_dir", tmp_path)
    monkeypatch.setattr(host, "decode_latents", lambda latents: latents.numpy())
    draw = partial(host.draw, steps=1, width=64, height=64)
    module = next(name for name, _ in host.text_model.named_modules() if name.endswith("layers.0.self_attn.v_proj"))
    width, layer = host.text_model.get_submodule(module).in_features, host.text_lora_name(module)
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


@pytest.mark.slow
def test_contradicting_tags_are_merged_and_logged(draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
    merged = draw("a face <lora:blink><lora:two words>")
    assert is_as(draw("a face <lora:blink:1:compose=switch><lora:two words:1:compose=composite>"), merged)
    assert "so these LoRAs are merged" in caplog.text


# Taking turns


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_job_and_pictures_at_once_do_not_disturb_each_other(
    host: StandaloneHost, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, 1.0, ()))  # it takes long
    settings = {**SMALL, "layers": "cross_attention", "sampling_steps": 1, "preview_every": 1}
    request = Request.of(ORIGINAL, TARGET, "wink", TrainConfig.create("action", **settings))
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
