"""The hosts inside A1111, Forge, Forge Neo and reForge (with Forge Classic), over small fakes of those."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.diffusion import host as base
from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.diffusion.memory import recomputing
from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod, with_zero_snr
from lib_addift.drawn_pairs.pair import DrawSettings
from lib_addift.drawn_pairs.target import target_from_words
from lib_addift.drawn_pairs.vary import vary
from lib_addift.drawn_pairs.words import Words, draw_words
from lib_addift.dtypes import DTYPES
from lib_addift.errors import HostError
from lib_addift.families import SD15, SDXL
from lib_addift.hosts import _has, detect_host
from lib_addift.hosts.picture_sizes import vector_with_sizes
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.lora.file import read_lora
from lib_addift.lora.names import kohya
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.training.events import Request, Stage
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.fake_unet import CONTEXT, CONTEXTS, BasicTransformerBlock, TimestepEmbedSequential
from tests.support.fake_webui import KINDS, WEBUIS, inside
from tests.support.models import HALF_DTYPES, PRECISIONS, needs_half

PICTURES = np.stack([np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed")])  # (2, 64, 64, 3)
ORIGINAL, TARGET = PICTURES
SMALL = {"max_train_steps": 3, "sampling_steps": 1, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}
STAGES = [
    "encoding the pictures",
    "step 1",
    "step 2",
    "evaluating it: the round trip",
    "evaluating it: new pictures",
    "drawing the preview",
]


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "webui", [name for name, (kind, _) in WEBUIS.items() if kind in kinds], indirect=True
    )


only_a1111, only_neo, only_reforge = only("a1111"), only("neo"), only("reforge")
forge_family = only("forge", "neo", "reforge")

pytestmark = pytest.mark.slow  # each test builds a small WebUI: together they take a minute


@pytest.fixture
def open_webui(tmp_path, monkeypatch):
    """Makes a WebUI of a kind, and the host in it; ends the one before."""
    with contextlib.ExitStack() as opened:

        def make(kind, **options):
            opened.close()
            webui = KINDS[kind](tmp_path / "Lora", **options)
            webui.kind, webui.host = kind, opened.enter_context(inside(webui, monkeypatch))
            return webui

        yield make


@pytest.fixture(params=list(WEBUIS))
def webui(request, open_webui):
    kind, family = WEBUIS[request.param]
    return open_webui(kind, family=family)


def start(webui, name="blink", **settings: Any) -> TrainingRun:
    config = TrainConfig.create("action", **{**SMALL, **settings})
    return TrainingRun(webui.host, Request.of(ORIGINAL, TARGET, name, config))


def files(webui) -> list[str]:
    return sorted(path.name for path in webui.lora_dir.iterdir())


def label(event: Any) -> str:
    return f"step {event.step}" if isinstance(event, StepReport) else event.text if isinstance(event, Stage) else ""


def predict(webui, timesteps=(900, 100), **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(len(timesteps), 4, 8, 8, generator=generator)
    cond = random_cond(webui, len(timesteps), generator)
    with webui.host.exclusive(**options):
        return webui.host.predict_noise(latents, torch.tensor(timesteps), cond)


def random_cond(webui, prompts: int, generator: torch.Generator | None = None) -> Conditions:
    crossattn = torch.randn(prompts, 5, CONTEXTS[webui.family], generator=generator)
    has_vector = webui.family.has_vector
    return Conditions(crossattn, torch.randn(prompts, CONTEXT, generator=generator) if has_vector else None)


# Attention


@pytest.mark.parametrize(
    ("kind", "fused"), [("a1111", "fused"), ("forge", "attention_pytorch"), ("reforge", "attention_pytorch")]
)
def test_attention_that_is_slow_or_has_no_backward_is_replaced_while_it_learns(open_webui, kind, fused):
    webui = open_webui(kind)
    before = webui.snapshot()
    list(start(webui).events())
    assert webui.attended == {fused}
    assert webui.snapshot()["attention"] == before["attention"]
    predict(webui)
    with webui.host.exclusive(), pytest.raises(RuntimeError, match="broken"):
        assert webui.snapshot()["attention"] != before["attention"]
        raise RuntimeError("broken")
    assert webui.snapshot()["attention"] == before["attention"]


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("a1111", "xformers"), ("a1111", "sdp"), ("a1111", "sdp-no-mem"), ("forge", "attention_xformers"),
     ("forge", "attention_pytorch"), ("reforge", "attention_xformers")],
)  # fmt: skip
def test_attention_that_is_good_for_training_stays(open_webui, kind, chosen):
    webui = open_webui(kind)
    webui.choose_attention(chosen)
    list(start(webui).events())
    assert webui.attended == {chosen}


def test_attention_without_any_optimization_is_replaced_too(open_webui):
    webui = open_webui("a1111")
    webui.sd_hijack.current_optimizer = None
    list(start(webui).events())
    assert webui.attended == {"fused"}


# A whole job


def test_a_run_writes_the_lora_and_leaves_the_model_as_it_was(webui):
    before = webui.snapshot()
    run = start(webui)
    held = [webui.lock.is_held for _ in run.events()]
    (result,) = run.results
    tensors, metadata = read_lora(result.path)
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_up" in key)
    assert metadata["ss_sd_model_name"].startswith("photo")
    assert all(held), "no picture may come between a forward and its backward"
    assert webui.is_quiet
    assert webui.state.begun == ["addift"]
    after = webui.snapshot()
    if webui.name != "a1111":  # so that the next picture reads the file
        assert before.pop("loras")[1:] == after.pop("loras")[1:]
    assert after == before
    assert files(webui) == ["blink.json", "blink.png", "blink.safetensors"]
    assert webui.host.lora_names() == ["blink"]


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_stopping_leaves_the_model_as_it_was(webui, settings):
    before = webui.snapshot()
    run = start(webui, max_train_steps=50, **settings)
    for event in run.events():
        if label(event) == "step 2":
            run.stop()
    assert run.steps_done == 2
    assert webui.snapshot() == before
    assert webui.is_quiet
    assert files(webui) == []


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("broken"), torch.cuda.OutOfMemoryError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", STAGES)
def test_an_error_anywhere_leaves_the_model_as_it_was(webui, where, error):
    before = webui.snapshot()
    with pytest.raises(type(error)) as caught:
        for event in start(webui, gradient_checkpointing=where == "step 2").events():
            if label(event) == where:
                webui.fail(error)
    assert caught.value is error
    assert webui.snapshot() == before
    assert webui.is_quiet
    assert files(webui) == []


def test_an_error_in_the_backward_pass_leaves_the_model_as_it_was(webui):
    def broken(_gradient):
        raise torch.cuda.OutOfMemoryError("full")

    before = webui.snapshot()
    run = start(webui)
    predict_noise = webui.host.predict_noise

    def predict_and_break(*args):
        output = predict_noise(*args)
        if output.requires_grad:
            output.register_hook(broken)
        return output

    webui.host.predict_noise = predict_and_break
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(run.events())
    assert webui.snapshot() == before
    assert webui.is_quiet


@pytest.mark.parametrize("where", STAGES)
def test_closing_the_events_leaves_the_model_as_it_was(webui, where):
    before = webui.snapshot()
    events = start(webui).events()
    assert any(label(event) == where for event in events)
    assert webui.lock.is_held
    events.close()
    assert webui.snapshot() == before
    assert webui.is_quiet


def test_the_lora_of_an_earlier_picture_does_not_take_part(webui):
    clean = predict(webui).detach()
    webui.merge_lora()
    assert torch.equal(predict(webui), clean)
    webui.merge_lora()
    merged = webui.prompt_loras()
    with webui.host.exclusive():
        pass
    if webui.name == "a1111":
        assert webui.prompt_loras() == [], "the WebUI knows that nothing is merged"
    else:
        assert webui.prompt_loras() == merged, "the next picture loads the patched UNet, and merges again"


@forge_family
def test_the_text_model_has_no_lora_of_an_earlier_picture(webui):
    webui.merge_lora()
    with webui.host.exclusive():
        webui.host.encode_prompts(["a face"])
    assert [name for name, _ in webui.memory.asked] == ["unet", "clip"]


@pytest.mark.slow
def test_a_second_job_gives_the_same_lora(webui):
    files = []
    for name in ("one", "two"):
        run = start(webui, name)
        list(run.events())
        files.append(read_lora(run.results[0].path)[0])
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    assert webui.state.begun == ["addift"] * 2


@pytest.mark.slow
def test_all_hosts_learn_the_same(open_webui, tmp_path):
    learnt = []
    for kind in KINDS:
        webui = open_webui(kind)
        run = start(webui, kind, save_precision="fp32")
        list(run.events())
        learnt.append(read_lora(run.results[0].path)[0])
    for other in learnt[1:]:
        for key, tensor in learnt[0].items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_stopped_run_can_be_kept_after_pictures_were_drawn(webui):
    run = start(webui)
    for event in run.events():
        if label(event) == "step 2":
            run.stop()
    webui.host.draw("a face")
    webui.merge_lora()
    before = [id(parameter) for parameter in webui.unet.parameters()]
    list(run.keep())
    assert run.results[0].path.stem == "blink-step2"
    assert [id(parameter) for parameter in webui.unet.parameters()] == before


def test_the_lora_learns_on_the_hosts_device_wherever_the_weights_wait(webui, monkeypatch):
    """With --medvram, or with little memory in Forge, layers are elsewhere when the LoRA is made."""
    moves, move = [], LoraNetwork.to
    monkeypatch.setattr(LoraNetwork, "to", lambda network, *args: (moves.append(args), move(network, *args))[1])
    run = start(webui)
    for event in run.events():
        if label(event) == "step 1":
            run.stop()
    list(run.keep())
    assert moves == [(webui.host.device,)] * 2


@pytest.mark.slow
def test_a_job_of_the_tab_runs_in_a_thread_and_shows_its_progress(webui):
    before = webui.snapshot()
    jobs = Jobs(webui.host)
    config = TrainConfig.create("action", **SMALL, preview_every=2)
    job = jobs.submit(Request.of(ORIGINAL, TARGET, "blink", config))
    jobs.wait(job.id, timeout=60)
    assert (job.state, job.error) == (JobState.DONE, "")
    assert len(job.snapshots) == 2
    assert webui.state.textinfo == "Train Difference LoRA: saving"
    assert (webui.state.job_count, webui.state.sampling_steps) == (1, 1)
    assert webui.is_quiet
    after = webui.snapshot()
    del before["loras"], after["loras"]
    assert after == before


@pytest.mark.slow
def test_memory_that_is_full_fails_the_job_and_not_the_next_one(webui):
    jobs = Jobs(webui.host)
    webui.fail(torch.cuda.OutOfMemoryError("CUDA out of memory"), call=3)
    config = TrainConfig.create("action", **SMALL)
    job = jobs.wait(jobs.submit(Request.of(ORIGINAL, TARGET, "blink", config)).id, timeout=60)
    assert (job.state, job.error.partition(":")[0]) == (JobState.FAILED, "the memory is full")
    webui.unet.before_call = None
    assert jobs.wait(jobs.submit(Request.of(ORIGINAL, TARGET, "blink", config)).id, timeout=60).state is JobState.DONE


# Taking and giving back


def test_inside_nothing_but_the_lora_can_learn_and_the_lock_is_held(webui):
    flags = [parameter.requires_grad for parameter in webui.unet.parameters()]
    assert any(flags) == (webui.name != "forge")
    with webui.host.exclusive():
        webui.host.encode_images(PICTURES[:1])
        predict_inside(webui)
        parameters = list(webui.host.unet.parameters())
        assert not any(p.requires_grad or p.is_inference() for p in parameters)
        assert torch.is_grad_enabled()
        assert webui.lock.is_held
    assert [parameter.requires_grad for parameter in webui.unet.parameters()] == flags
    assert webui.lock.times == 1


def predict_inside(webui) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return webui.host.predict_noise(torch.zeros(1, 4, 8, 8), torch.tensor([500]), random_cond(webui, 1, generator))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_training_works_where_a_handler_runs_without_gradients(webui, mode):
    with mode():
        run = start(webui)
        list(run.events())
        assert not torch.is_grad_enabled()
    assert run.results


def test_gradients_reach_every_lora_layer_and_no_weight(webui):
    with webui.host.exclusive():
        modules = select_layers(webui.host.unet, webui.host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
        network = LoraNetwork.create(modules, rank=1, alpha=1.0, seed=1)
        with network.attach():
            predict_inside(webui).square().mean().backward()
        missing = [name for name, layer in network.layers.items() if layer.lora_up.grad is None]
        assert not missing
        assert all(parameter.grad is None for parameter in webui.host.unet.parameters())
    assert len(network.layers) > 30


def test_gradient_checkpointing_gives_the_same_gradients_and_computes_blocks_again(webui):
    gradients, runs = [], []
    blocks = [part for part in webui.unet.modules() if isinstance(part, TimestepEmbedSequential)]
    for checkpointing in (False, True):
        with webui.host.exclusive(), recomputing(webui.host.unet) if checkpointing else nullcontext():
            modules = select_layers(webui.host.unet, webui.host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
            network = LoraNetwork.create(modules, rank=1, alpha=1.0, seed=1)
            with network.attach():
                for block in blocks:
                    block.runs = 0
                predict_inside(webui).square().mean().backward()
        runs.append([block.runs for block in blocks])
        gradients.append([layer.lora_up.grad for layer in network.layers.values()])
        assert not any("forward" in vars(part) for part in webui.unet.modules())
    torch.testing.assert_close(*gradients)
    assert runs == [[1] * 7, [1, *[2] * 6]], "the first block holds nothing that learns"


@pytest.mark.slow
@forge_family
@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_an_error_while_the_model_is_taken_lets_go_of_everything(webui, error):
    before = webui.snapshot()
    webui.memory.error = error
    with pytest.raises(type(error)):
        list(start(webui).events())
    assert webui.snapshot() == before
    assert webui.is_quiet
    webui.memory.error = None
    list(start(webui).events())


@only_a1111
def test_an_error_while_a1111s_model_is_taken_lets_go_of_everything(webui, monkeypatch):
    before = webui.snapshot()
    monkeypatch.setattr(sys.modules["modules.sd_unet"], "apply_unet", lambda _option: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(start(webui).events())
    assert webui.snapshot() == before
    assert webui.is_quiet


@pytest.mark.slow
@forge_family
def test_with_little_memory_models_move_in_and_out_and_keep_their_weights(webui):
    before = webui.snapshot()
    webui.memory.is_tight = True
    list(start(webui, preview_every=1, prompt="a face").events())
    asked = [name for name, _ in webui.memory.asked]
    assert {"unet", "vae", "clip"} == set(asked)
    assert asked.count("unet") >= 3, "it has to come back after the VAE"
    assert dict(webui.memory.asked)["unet"] >= 2**31, "room for the activations of a step"
    after = webui.snapshot()
    for key in ("parameters", "loras"):
        del before[key], after[key]
    assert after == before


@pytest.mark.slow
@only_a1111
def test_medvram(webui):
    """The UNet leaves when the VAE comes, and only DiffusionWrapper brings it back."""
    webui.medvram = True
    run = start(webui, preview_every=1)
    list(run.events())
    assert run.results


@only_a1111
def test_what_pictures_leave_in_a1111_is_undone(webui):
    with webui.host.exclusive():
        assert webui.undone == [("hypernetworks", []), ("unet", "None"), ("circular", False)]


def test_timed_loras_of_a_failed_picture_are_taken_off(webui):
    from lib_addift.hosts.prompt_tag import webui as lora_tag

    lora_tag._attached.callback(webui.unet.register_forward_hook(lambda *_args: 1 / 0).remove)
    assert torch.isfinite(predict(webui)).all()


# What the core asks


def test_facts(webui):
    host = webui.host
    assert host.name == webui.name
    assert host.lora_dir == webui.lora_dir
    assert host.device == torch.device("cpu")
    assert not host.needs_loss_scaling
    assert host.model_hash == ""
    webui.info.calculate_shorthash()
    assert host.model_hash == "0123456789abcdef" * 4
    assert host.prediction_type == "epsilon"
    assert host.unet is webui.unet


def test_generation_options_do_not_bend_the_schedule(webui):
    with webui.host.exclusive():
        abar = webui.host.alphas_cumprod
    torch.testing.assert_close(abar, scaled_linear_alphas_cumprod())
    assert (abar.dtype, abar.is_inference()) == (torch.float32, False)


@only_a1111
def test_the_schedule_before_a1111_has_kept_an_original(webui):
    webui.model.alphas_cumprod = webui.model.alphas_cumprod_original
    del webui.model.alphas_cumprod_original
    assert torch.equal(webui.host.alphas_cumprod, scaled_linear_alphas_cumprod())


def test_lora_names_of_modules_and_containers(webui):
    names = {name: webui.host.lora_name(name) for name, _ in webui.unet.named_modules()}
    if webui.family is SDXL:  # kohya's files have CompVis' names of it
        expected = {name: "lora_unet_" + name.replace(".", "_") for name in ("input_blocks.0.0", "time_embed.2")}
        attention = "output_blocks.0.1.transformer_blocks.1.attn1.to_out.0"
        expected[attention] = "lora_unet_output_blocks_0_1_transformer_blocks_1_attn1_to_out_0"
    else:
        expected = {
            "input_blocks.0.0": "lora_unet_conv_in",
            "time_embed.2": "lora_unet_time_embedding_linear_2",
            "output_blocks.3.1.transformer_blocks.0.attn1.to_out.0": (
                "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
            ),
        }
    assert {name: names[name] for name in expected} == expected
    for container in ("", "input_blocks", "input_blocks.1", "middle_block", "output_blocks", "time_embed", "out"):
        assert names[container] == "", container
    layers = [names[name] for name, part in webui.unet.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    assert all(layers)
    assert len(set(layers)) == len(layers)


def test_pictures_become_the_mean_of_the_posterior(webui):
    state = torch.get_rng_state()
    with webui.host.exclusive():
        latents = webui.host.encode_images(PICTURES)
        again = webui.host.encode_images(PICTURES)
    assert torch.equal(torch.get_rng_state(), state), "a job must not change the WebUI's next random number"
    assert torch.equal(latents, again)
    pixels = torch.from_numpy(PICTURES).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        expected = webui.vae.encode(pixels).mean * webui.family.latent_scale
    torch.testing.assert_close(latents, expected)
    assert (latents.shape, latents.dtype, latents.is_inference()) == ((2, 4, 8, 8), torch.float32, False)


def test_latents_become_pictures(webui):
    latents = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    with webui.host.exclusive():
        pictures = webui.host.decode_latents(latents)
    with torch.no_grad():
        expected = (
            ((webui.vae.decode(latents / webui.family.latent_scale) + 1) * 127.5).clamp(0, 255).movedim(1, -1).numpy()
        )
    assert (pictures.shape, pictures.dtype) == ((3, 64, 48, 3), np.uint8)
    assert np.abs(pictures - expected).max() <= 0.51


def test_prompts_become_conditions(webui):
    with webui.host.exclusive():
        cond = webui.host.encode_prompts(["", "a face"])
    assert cond.crossattn.shape == (2, 5, CONTEXTS[webui.family])
    for tensor in (cond.crossattn, *([] if cond.vector is None else [cond.vector])):
        assert (tensor.dtype, tensor.requires_grad, tensor.is_inference()) == (torch.float32, False, False)
    assert_same(cond, own_conditions(webui, ["", "a face"]))


def own_conditions(webui, prompts: list[str], clip_skip: int = 1) -> Conditions:
    """What the WebUI itself makes of prompts, but for the sizes, which are of the picture and not of the prompt."""
    with torch.no_grad():
        if webui.second is None:
            return Conditions(webui.text(prompts, clip_skip))
        (first, _), (second, pooled) = (text.without_norm(prompts, clip_skip) for text in webui.texts)
        return Conditions(torch.cat([first, second], dim=2), pooled)


def assert_same(cond: Conditions, expected: Conditions) -> None:
    torch.testing.assert_close(cond.crossattn, expected.crossattn)
    torch.testing.assert_close(cond.vector, expected.vector)


@pytest.mark.parametrize("encode", ["encode_prompts", "encode_prompts_with_grad"])
def test_the_pages_clip_skip_is_obeyed(webui, encode):
    assert webui.host.clip_skip == 1
    is_heeded = webui.family is SD15 or webui.kind != "a1111"  # of SDXL A1111 takes the layer before the last, always
    conds = []
    for clip_skip in (1, 2, 3, 1):
        webui.shared.opts.CLIP_stop_at_last_layers = clip_skip
        with webui.host.exclusive():
            cond = getattr(webui.host, encode)(["a face"])
        assert_same(cond, own_conditions(webui, ["a face"], clip_skip if is_heeded else 2))
        conds.append(cond.crossattn)
    assert torch.equal(conds[0], conds[3])
    # SDXL's begins with the layer before the last.
    assert torch.isclose(conds[0], conds[1]).any() == (webui.family is SDXL)
    assert torch.isclose(conds[1], conds[2]).any() == (not is_heeded)


# The text model


def text_lora(webui) -> LoraNetwork:
    """A LoRA over the text model that acts."""
    network = LoraNetwork.create(base.text_layers(webui.host), rank=2, alpha=2.0, seed=1)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.5, generator=generator)
    return network


@pytest.mark.slow
def test_the_layers_of_the_text_model_have_kohyas_names(webui):
    names = list(base.text_layers(webui.host))
    prefix, *others = (encoder.lora_prefix for encoder in webui.family.text_encoders)
    assert names[:6] == [
        f"{prefix}text_model_encoder_layers_0_{name}"
        for name in (
            "self_attn_q_proj",
            "self_attn_k_proj",
            "self_attn_v_proj",
            "self_attn_out_proj",
            "mlp_fc1",
            "mlp_fc2",
        )
    ]
    # Past OpenCLIP's attention, as A1111 has it, no hook can act.
    assert len(names) == text_layer_count(webui)
    assert [name.startswith(tuple(others)) for name in names[18:]] == [True] * (len(names) - 18)
    modules = base.lora_modules(webui.host)
    assert modules[f"{prefix}text_model_encoder_layers_2_mlp_fc2"] is webui.text.get_submodule(
        "transformer.text_model.encoder.layers.2.mlp.fc2"
    )
    assert modules[kohya("conv_in", webui.family)] is webui.unet.get_submodule("input_blocks.0.0")
    assert not any("projection" in name or "norm" in name for name in modules if name.startswith("lora_te"))


def text_layer_count(webui) -> int:
    if webui.second is None:
        return 18
    return 18 + (6 if webui.kind == "a1111" else 18)


def learn(webui, prompts, multipliers) -> LoraNetwork:
    """A LoRA over the text model with the gradients of one pass, in which each prompt has a multiplier of its own."""
    network = text_lora(webui)
    with network.attach():
        network.multiplier = torch.tensor(multipliers)
        cond = webui.host.encode_prompts_with_grad(prompts)
        size = (len(prompts), 4, 8, 8)
        noise_pred = webui.host.predict_noise(torch.ones(size), torch.full(size[:1], 500), cond)
        noise_pred.square().sum().backward()
    return network


class Texts(nn.ModuleList):
    """A WebUI's text models together, as plain modules."""

    def forward(self, prompts: list[str]) -> Conditions:
        if len(self) == 1:
            return Conditions(self[0](prompts))
        (first, _), (second, pooled) = (text.without_norm(prompts, 1) for text in self)
        return Conditions(torch.cat([first, second], dim=2), pooled)


def expected_gradients(webui, prompts, multipliers) -> dict[str, torch.Tensor]:
    """Of lora_up: by plain autograd over copies of the models, with the LoRA merged into dense weights."""
    unet, network = type(webui.unet)(family=webui.family), text_lora(webui)
    texts = Texts([type(text)() for text in webui.texts])
    for copy, model in ((unet, webui.unet), *zip(texts, webui.texts, strict=True)):
        copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for block in unet.modules():
        if isinstance(block, BasicTransformerBlock):
            block.adds_in_place = False
    ours = {module: webui.host.text_lora_name(name) for name, module in webui.host.text_model.named_modules()}
    theirs = [(f"{n}.{name}", module) for n, text in enumerate(webui.texts) for name, module in text.named_modules()]
    names = {ours[module]: f"{name}.weight" for name, module in theirs if ours.get(module)}
    latents, loss = torch.ones(1, 4, 8, 8), torch.zeros(())
    for prompt, multiplier in zip(prompts, multipliers, strict=True):
        merged = {
            names[name]: texts.get_parameter(names[name]) + multiplier * layer.lora_up @ layer.lora_down  # alpha = rank
            for name, layer in network.layers.items()
        }
        cond = torch.func.functional_call(texts, merged, ([prompt],))
        y = None if cond.vector is None else vector_with_sizes(cond.vector, latents)
        loss = loss + unet(latents, torch.tensor([500]), cond.crossattn, y=y).square().sum()
    ups = {name: layer.lora_up for name, layer in network.layers.items()}
    return dict(zip(ups, torch.autograd.grad(loss, list(ups.values()), allow_unused=True), strict=True))


@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("around", [lambda _unet: nullcontext(), recomputing])
def test_gradients_reach_the_text_model_through_the_unet(webui, around, clip_skip):
    prompts, multipliers = ["a face", "an open mouth"], [0.5, -1.0]
    before = webui.snapshot()
    expected = expected_gradients(webui, prompts, multipliers) if clip_skip == 1 else {}
    webui.shared.opts.CLIP_stop_at_last_layers = clip_skip
    with webui.host.exclusive(), around(webui.host.unet):
        for _ in range(2):  # the second step finds everything in its place
            network = learn(webui, prompts, multipliers)
        assert all(parameter.grad is None for text in webui.texts for parameter in text.parameters())
    for name, layer in network.layers.items():
        if clip_skip == 1 and layer.lora_up.grad is not None:
            torch.testing.assert_close(layer.lora_up.grad, expected[name], rtol=1e-3, atol=1e-5)
        is_left_out = "layers_2" in name and (clip_skip == 2 or webui.family is SDXL)
        # SDXL's second model has its last layer in the pooled output.
        assert (layer.lora_up.grad is None) == (is_left_out and not name.startswith("lora_te2")), name
    assert webui.snapshot() == before
    assert webui.is_quiet


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_conditions_with_gradients_are_the_same_as_without(open_webui, kind, precision):
    webui = open_webui(kind, dtype=DTYPES[precision])
    network = text_lora(webui)
    with webui.host.exclusive():
        plain = webui.host.encode_prompts(["a face", ""]).crossattn
        assert torch.equal(webui.host.encode_prompts_with_grad(["a face", ""]).crossattn, plain)
        with network.attach():
            acting = webui.host.encode_prompts(["a face", ""]).crossattn
            cond = webui.host.encode_prompts_with_grad(["a face", ""]).crossattn
    assert torch.equal(cond, acting)
    assert not torch.isclose(acting, plain).all()
    assert (cond.dtype, cond.requires_grad, cond.is_inference()) == (torch.float32, True, False)
    assert not acting.requires_grad


def test_long_prompts_have_more_tokens_and_short_ones_beside_them_too(webui):
    with webui.host.exclusive():
        host, long = webui.host, "one two three four"
        together = host.encode_prompts([long, "a face"]).crossattn
        assert together.shape == (2, 10, CONTEXTS[webui.family])
        for encode in (host.encode_prompts, host.encode_prompts_with_grad):
            alone = encode([long]).crossattn
            torch.testing.assert_close(alone, together[:1])  # torch 2.1 rounds a batch of two otherwise
            for tokens in (0, 5, 10):
                assert torch.equal(encode_to_length(encode, [long], tokens).crossattn, alone)
            torch.testing.assert_close(encode_to_length(encode, ["a face"], 10).crossattn, together[1:])
            short = encode_to_length(encode, ["a face"], 5)
            assert torch.equal(short.crossattn, encode(["a face"]).crossattn)
            assert encode_to_length(encode, ["a face", ""], 20).crossattn.shape == (2, 20, CONTEXTS[webui.family])
        assert torch.equal(host.encode_prompts_with_grad([long, "a face"]).crossattn, together)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True, "preview_every": 1}])
def test_a_run_that_teaches_the_text_model_too_leaves_both_models_as_they_were(webui, settings):
    before = webui.snapshot()
    run = start(webui, prompt="one two three four", train_text_encoder=True, **settings)
    list(run.events())
    tensors, _ = read_lora(run.results[0].path)
    grown = [value.any() for key, value in tensors.items() if key.startswith("lora_te") and "lora_up" in key]
    assert len(grown) == text_layer_count(webui)
    unheard = 0 if webui.family is SD15 else 6  # the last layer of SDXL's first model
    assert sum(map(bool, grown)) == len(grown) - unheard
    after = webui.snapshot()
    if webui.name != "a1111":  # so that the next picture reads the file
        assert before.pop("loras")[1:] == after.pop("loras")[1:]
    assert after == before
    assert webui.is_quiet


@only_a1111
def test_medvram_takes_the_text_model_away_before_the_backward_pass(webui):
    prompts, multipliers = ["a face", "an open mouth"], [0.5, -1.0]
    before = webui.snapshot()
    expected = expected_gradients(webui, prompts, multipliers)
    webui.medvram = True
    with webui.host.exclusive():
        for _ in range(2):
            webui.host.encode_images(PICTURES[:1])  # both are away
            network = learn(webui, prompts, multipliers)
        for name, layer in network.layers.items():
            torch.testing.assert_close(layer.lora_up.grad, expected[name], rtol=1e-3, atol=1e-5)
        assert webui.text.transformer.text_model.embeddings.weight.isnan().all(), "it is the UNet's turn"
        webui.host.encode_prompts([""])
    assert webui.snapshot() == before


@forge_family
@pytest.mark.parametrize("is_tight", [False, True])
def test_the_forge_family_keeps_both_models_in_place_while_they_learn(webui, is_tight):
    prompts, multipliers = ["a face", "an open mouth"], [0.5, -1.0]
    before = webui.snapshot()
    expected = expected_gradients(webui, prompts, multipliers)
    webui.memory.is_tight = is_tight
    with webui.host.exclusive():
        webui.host.encode_images(PICTURES[:1])
        webui.memory.asked.clear()
        for _ in range(3):
            network = learn(webui, prompts, multipliers)
        assert [name for name, _ in webui.memory.asked] == ["unet", "clip"], "once, and in one call"
        webui.host.decode_latents(torch.zeros(1, 4, 8, 8))
        if is_tight:
            assert [patcher.name for patcher in webui.memory.loaded] == ["vae"]
        predict_inside(webui)
        assert [name for name, _ in webui.memory.asked[2:]] == ["vae", "unet"]
    for name, layer in network.layers.items():
        torch.testing.assert_close(layer.lora_up.grad, expected[name], rtol=1e-3, atol=1e-5)
    after = webui.snapshot()
    if is_tight:
        del before["parameters"], after["parameters"]
    assert after == before


@only_reforge
def test_nothing_is_moved_while_reforges_text_model_is_ours(webui):
    forge_clip = sys.modules["modules_forge.forge_clip"]
    move = forge_clip.move_clip_to_gpu
    with webui.host.exclusive():
        webui.host.encode_prompts_with_grad(["a face"])
        assert forge_clip.move_clip_to_gpu is move
        webui.text.transformer.before_call = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            webui.host.encode_prompts_with_grad(["a face"])
    assert forge_clip.move_clip_to_gpu is move


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_an_error_in_the_text_model_leaves_everything_as_it_was(webui, error):
    def fail():
        raise error

    before, before_call = webui.snapshot(), webui.text.transformer.before_call
    network = text_lora(webui)
    webui.text.transformer.before_call = fail
    with pytest.raises(type(error)), webui.host.exclusive(), network.attach():
        webui.host.encode_prompts_with_grad(["a face"])
    webui.text.transformer.before_call = before_call
    assert webui.snapshot() == before
    assert webui.is_quiet


@pytest.mark.parametrize(("kind", "flag"), [("forge", "--always-gpu"), ("neo", "--gpu-only")])
def test_a_text_model_on_another_device_than_the_unet_cannot_learn(open_webui, kind, flag):
    webui = open_webui(kind)
    before = webui.snapshot()
    webui.model.forge_objects_original.clip.patcher.load_device = torch.device("meta")
    with pytest.raises(HostError) as caught, webui.host.exclusive():
        webui.host.encode_prompts_with_grad(["a face"])
    assert str(caught.value) == (
        "the WebUI runs the text model on meta and the UNet on cpu, and they must learn in one place: "
        f"set train_text_encoder = false, or start the WebUI with {flag}."
    )
    assert webui.snapshot() == before


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_predictions_are_float32_in_every_precision(open_webui, kind, precision):
    webui = open_webui(kind, dtype=DTYPES[precision])
    noise_pred = predict(webui, precision=precision)
    assert (noise_pred.shape, noise_pred.dtype) == ((2, 4, 8, 8), torch.float32)
    assert webui.host.needs_loss_scaling == (precision == "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_half_precision_trains_and_gives_the_bits_back(open_webui, kind, dtype):
    webui = open_webui(kind, dtype=dtype)
    before = webui.snapshot()
    run = start(webui, gradient_checkpointing=True)
    list(run.events())
    assert run.results
    after = webui.snapshot()
    del before["loras"], after["loras"]
    assert after == before


def test_v_predictions_become_epsilon(webui):
    """eps = sqrt(abar) * v + sqrt(1 - abar) * x: with v = 0 only the second part is left."""
    if webui.name == "forge":
        webui.model.forge_objects_original.unet.model.predictor.prediction_type = "v_prediction"
    else:
        webui.model.parameterization = "v"
    assert webui.host.prediction_type == "v_prediction"
    with webui.host.exclusive():
        webui.unet.register_forward_hook(lambda _m, _args, output: output * 0)
        x, t = torch.ones(2, 4, 8, 8), torch.tensor([0, 999])
        noise_pred = webui.host.predict_noise(x, t, random_cond(webui, 2))
    expected = (1 - scaled_linear_alphas_cumprod()[t]).sqrt().view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(noise_pred, expected)


@needs_half
@pytest.mark.parametrize("kind", ["a1111"])
def test_a_vae_that_overflows_in_fp16_works_in_fp32_and_gets_its_bits_back(open_webui, kind):
    webui = open_webui(kind, dtype=torch.float16)
    webui.vae.overflows = True
    before = webui.snapshot()
    with webui.host.exclusive():
        latents = webui.host.encode_images(PICTURES[:1])
        pictures = webui.host.decode_latents(latents)
        webui.vae.overflows = False
        torch.testing.assert_close(latents, webui.host.encode_images(PICTURES[:1]), rtol=0.01, atol=0.01)
        assert np.abs(pictures.astype(int) - webui.host.decode_latents(latents)).max() <= 2
    assert webui.snapshot() == before


# LoRA files


def test_after_saving_the_file_is_listed(webui):
    webui.lora_dir.mkdir()
    (webui.lora_dir / "smile.safetensors").touch()
    assert webui.host.lora_names() == []
    with webui.host.exclusive():
        webui.host.refresh_loras(webui.lora_dir / "smile.safetensors")
    assert webui.host.lora_names() == ["smile"]
    assert webui.listed == 1


@only_a1111
def test_a1111_forgets_the_file_of_before(webui):
    def in_memory(path):
        return SimpleNamespace(network_on_disk=SimpleNamespace(filename=str(path)))

    path = webui.lora_dir / "smile.safetensors"
    webui.networks.networks_in_memory.update(
        {"smile": in_memory(path), "alias": in_memory(path), "wink": in_memory(webui.lora_dir / "wink.safetensors")}
    )
    weight = webui.unet.get_submodule("middle_block.1.proj_in").weight
    clean = weight.detach().clone()
    webui.merge_lora()
    assert not torch.equal(weight, clean)
    webui.host.refresh_loras(path)
    assert list(webui.networks.networks_in_memory) == ["wink"]
    assert torch.equal(weight, clean), "so that the next picture merges the new file"
    assert webui.unet.get_submodule("middle_block.1.proj_in").network_current_names == ()


def test_prompts_that_were_encoded_with_the_file_of_before_are_forgotten(webui):
    processing = webui.processing.StableDiffusionProcessing, webui.processing.StableDiffusionProcessingTxt2Img
    caches = [(processing[hires], name) for name, hires in CACHES.items()]
    for kind, name in caches:
        setattr(kind, name, ["prompt", "encoded"])
    webui.host.refresh_loras(webui.lora_dir / "smile.safetensors")
    assert [getattr(kind, name) for kind, name in caches] == [[None, None]] * 4


CACHES = {"cached_c": False, "cached_uc": False, "cached_hr_c": True, "cached_hr_uc": True}


@forge_family
def test_the_forge_family_chooses_the_loras_of_the_next_picture_anew(webui):
    webui.merge_lora()
    webui.host.refresh_loras(webui.lora_dir / "smile.safetensors")
    assert webui.model.current_lora_hash not in ("[smile]", "[]")


@pytest.mark.parametrize("webui", ["forge", "reforge"], indirect=True)
def test_forge_and_its_older_relatives_forget_the_file_of_before(webui):
    webui.host.refresh_loras(webui.lora_dir / "smile.safetensors")
    assert webui.cleared == 1
    loaders = [webui.model.forge_objects_original.unet, webui.model.forge_objects_original.clip.patcher]
    hashes = {patcher.lora_loader.loaded_hash for patcher in loaders}
    assert hashes == ({"stale"} if webui.name == "forge" else {"[]"})


@pytest.mark.parametrize("webui", ["forge", "neo"], indirect=True)
def test_forge_can_forget_before_a_model_is_loaded(webui):
    webui.unload()
    webui.host.refresh_loras(webui.lora_dir / "smile.safetensors")
    assert webui.listed == 1


CARD_WORDS = {"a1111": ("SD1", "SDXL"), "forge": ("SD1", "SDXL"), "neo": ("sd", "xl"), "reforge": ("SD1", "SDXL")}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_card_says_sd1_in_the_webuis_own_word(open_webui, kind):
    webui = open_webui(kind)
    list(start(webui).events())
    assert json.loads((webui.lora_dir / "blink.json").read_text())["sd version"] == CARD_WORDS[kind][0]
    assert webui.host.card_versions.get("SDXL", "SDXL") == CARD_WORDS[kind][1]


@only_neo
def test_a_word_that_neo_does_not_know_is_not_written(webui, monkeypatch):
    monkeypatch.setattr(sys.modules["network"], "SD_VERSION", ["Unknown", "xl"])
    assert webui.host.card_versions == {"SDXL": "xl"}
    monkeypatch.delitem(sys.modules, "network")  # the built-in Lora extension is switched off
    assert webui.host.card_versions == {}


def test_a_lora_extension_that_is_off_is_named(webui, monkeypatch):
    monkeypatch.setitem(sys.modules, "networks", None)
    with pytest.raises(HostError, match="'Lora' is switched off: enable it in the tab Extensions"):
        webui.host.lora_names()


# The WebUI's own pictures


def test_drawing_takes_the_lock_and_gives_the_prompt_to_the_webui(webui):
    picture = webui.host.draw(
        "a face <lora:smile:1>", negative_prompt="blurred", seed=7, steps=9, cfg_scale=3.5, width=64, height=32
    )
    (job,) = webui.drawn
    expected = {
        "prompt": "a face <lora:smile:1>", "negative_prompt": "blurred", "seed": 7, "steps": 9, "cfg_scale": 3.5,
        "width": 64, "height": 32, "do_not_save_samples": True, "do_not_save_grid": True,
    }  # fmt: skip
    assert expected.items() <= job.settings.items()
    assert (picture.shape, picture.dtype) == ((32, 64, 3), np.uint8)
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert job.is_closed
    assert webui.is_quiet
    assert webui.lock.times == 1


def test_drawing_that_fails_lets_go_of_the_lock(webui):
    webui.pictures = []
    with pytest.raises(HostError, match="drew no picture for 'a face': look at its console"):
        webui.host.draw("a face")
    webui.processing.process_images = lambda _job: 1 / 0
    with pytest.raises(ZeroDivisionError):
        webui.host.draw("a face")
    assert webui.is_quiet


def test_progress_is_shown_as_the_webui_shows_its_own(webui):
    webui.host.report("step 3 of 60", 3, 60)
    state = webui.state
    assert (state.textinfo, state.sampling_step, state.sampling_steps) == ("step 3 of 60", 3, 60)
    assert (state.job_count, state.job_no) == (1, 0)
    webui.host.report("saving", 0, 0)
    assert state.sampling_steps == 1, "the WebUI divides by it"


# What cannot be trained


def refused(webui, **options: Any) -> str:
    """The sentence, after nothing was touched."""
    before = webui.snapshot()
    with pytest.raises(HostError) as caught, webui.host.exclusive(**options):
        raise AssertionError("it was taken")
    assert webui.snapshot() == before
    assert webui.is_quiet
    return str(caught.value)


KIND_OF = {"a distilled SDXL (SSD-1B or its like)": "is_ssd", "SD2": "is_sd2", "SD3": "is_sd3"}


@only_a1111
@pytest.mark.parametrize("kind", list(KIND_OF))
def test_other_models_in_a1111(webui, kind):
    setattr(webui.model, KIND_OF[kind], True)
    assert refused(webui) == (
        f"the loaded checkpoint is {kind}, and only SD1.5 and SDXL can be trained: choose one of those."
    )


@pytest.mark.parametrize("webui", ["a1111 SDXL"], indirect=True)
def test_sdxls_refiner_in_a1111(webui):
    """It has OpenCLIP's text model alone."""
    webui.model.conditioner.embedders = webui.model.conditioner.embedders[1:]
    assert "is SDXL's refiner" in refused(webui)


@pytest.mark.parametrize("webui", ["neo SDXL"], indirect=True)
def test_sdxls_refiner_in_the_forge_family(webui):
    webui.model.__class__ = type("StableDiffusionXLRefiner", (type(webui.model),), {})
    assert "is of the kind StableDiffusionXLRefiner" in refused(webui)


@only_a1111
def test_a_model_of_another_build_in_a1111(webui):
    webui.model_data.sd_model = SimpleNamespace(sd_checkpoint_info=webui.info)
    assert "is no Stable Diffusion model with a UNet, and only SD1.5 and SDXL can be trained" in refused(webui)


@forge_family
def test_other_models_in_the_forge_family(webui):
    webui.model.is_sd1 = webui.model.is_sdxl = False
    assert re.fullmatch(
        r"the loaded checkpoint is of the kind \w+, and only SD1.5 and SDXL can be trained: choose one of those.",
        refused(webui),
    )


@pytest.mark.parametrize("channels", [8, 9])
def test_inpainting_and_editing_models(webui, channels):
    webui.unet.in_channels = channels
    assert refused(webui) == (
        f"the loaded checkpoint is an inpainting or editing model ({channels} input channels), and only SD1.5 and "
        "SDXL can be trained: choose one of those."
    )


@only_a1111
def test_lowvram(webui):
    webui.shared.cmd_opts.lowvram = True
    assert refused(webui) == (
        "the WebUI runs with --lowvram, which keeps the UNet in pieces: start it with --medvram or with neither."
    )


def test_no_checkpoint(webui):
    webui.unload()
    webui.info = webui.model = None
    if webui.name == "forge":
        webui.model_data.forge_loading_parameters["checkpoint_info"] = None
    assert webui.host.model_title == "no checkpoint"
    assert webui.host.model_hash == ""
    with pytest.raises(HostError, match=r"no checkpoint is (loaded|chosen): choose an SD1\.5 or SDXL ch"):
        list(start(webui).events())
    assert webui.is_quiet


def test_a_model_that_is_not_loaded_yet_is_loaded(webui):
    webui.unload()
    assert webui.host.model_title == "photo.safetensors"
    run = start(webui)
    list(run.events())
    assert run.results


def test_a_checkpoint_changed_while_the_job_waited(webui):
    run = start(webui)
    webui.info = type(webui.info)("other.safetensors")
    if webui.name == "forge":
        webui.model_data.forge_loading_parameters["checkpoint_info"] = webui.info
    before = webui.snapshot()
    with pytest.raises(HostError) as caught:
        list(run.events())
    assert str(caught.value) == (
        "the model is now 'other.safetensors' and was 'photo.safetensors' when Train was pressed: "
        "choose the checkpoint you want and press Train again."
    )
    assert webui.snapshot() == before
    assert webui.is_quiet
    with pytest.raises(HostError, match="is now 'other"):
        list(run.events())


def test_a_checkpoint_that_is_hashed_while_it_loads_is_still_the_same(webui):
    """Its title then changes from 'photo.safetensors' to 'photo.safetensors [0123456789]'."""
    webui.unload()
    run = start(webui)
    webui.hashes_when_loading = True
    list(run.events())
    assert run.results


PRECISION_FLAGS = {
    "a1111": "--no-half for fp32, or without it",
    "forge": "--all-in-fp32 or --all-in-fp16",
    "neo": "--force-fp32 or --force-fp16",
    "reforge": "--all-in-fp32 or --all-in-fp16",
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_precision_that_the_model_is_not_in(open_webui, kind):
    assert refused(open_webui(kind), precision="fp16") == (
        "precision = fp16 cannot be had: the model is loaded in fp32. Choose auto, or start the WebUI with "
        f"{PRECISION_FLAGS[kind]}."
    )


@only_a1111
def test_a1111_computes_under_autocast_in_another_dtype_than_its_weights(webui):
    webui.devices.dtype_unet, webui.devices.dtype = torch.float32, torch.float16
    assert webui.host.needs_loss_scaling
    webui.devices.dtype_unet, webui.devices.dtype = torch.bfloat16, torch.float16
    assert not webui.host.needs_loss_scaling


@only_reforge
def test_reforge_computes_in_the_dtype_to_which_it_casts(webui):
    webui.model.forge_objects_original.unet.model.manual_cast_dtype = torch.float16
    assert webui.host.needs_loss_scaling


# Which WebUI it is


def test_outside_of_a_webui(monkeypatch):
    for name in ("modules", "backend", "ldm_patched"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HostError, match="this is not a WebUI: start the tab on its own with"):
        detect_host()


def test_looking_for_a_package_does_not_run_it(tmp_path: Path, monkeypatch):
    package = tmp_path / "some_backend"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "memory_management.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert _has("some_backend.memory_management")
    assert not _has("some_backend.call_queue")
    assert not _has("no_backend.memory_management")
    monkeypatch.delitem(sys.modules, "some_backend")


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_host_has_all_that_the_core_asks(open_webui, kind):
    host = open_webui(kind).host
    for name, member in inspect.getmembers(base.Host):
        if not name.startswith("_"):
            assert hasattr(type(host), name), name
            if inspect.isfunction(member) and name != "exclusive":
                assert inspect.signature(member) == inspect.signature(getattr(type(host), name)), name


def test_pairs_are_drawn_and_the_model_is_left_as_it_was(webui):
    settings, before = DrawSettings(steps=2, width=64, height=64), webui.snapshot()
    with webui.host.exclusive():
        words = draw_words(webui.host, [Words("open eyes", "closed eyes", 1)], settings)
        *_, varied = vary(webui.host, ORIGINAL, TARGET, count=1, settings=settings)
        drawn = target_from_words(webui.host, ORIGINAL, "closed eyes", settings=settings)
    assert [pair.target.shape for pair in (*words, *varied.pairs[:1], drawn)] == [(64, 64, 3)] * 3
    assert webui.snapshot() == before


# The schedule


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_schedule_that_ends_in_pure_noise_is_trained_on_where_pictures_are_drawn_with_it(webui, prediction_type):
    """The WebUIs' own setting; it bends the schedule of epsilon models too, which cannot be drawn with it."""
    plain = scaled_linear_alphas_cumprod()
    webui.shared.opts.sd_noise_schedule = "Zero Terminal SNR"
    if webui.kind in ("forge", "neo"):
        webui.model.forge_objects_original.unet.model.predictor.prediction_type = prediction_type
    else:
        webui.model.parameterization = "v" if prediction_type == "v_prediction" else "eps"
    is_v = prediction_type == "v_prediction"
    with webui.host.exclusive():
        assert webui.host.zero_snr == is_v
        expected = with_zero_snr(plain) if is_v else plain
        torch.testing.assert_close(webui.host.alphas_cumprod, expected)
        assert not webui.host.alphas_cumprod.is_inference()


@only_neo
def test_forge_neo_reads_the_schedule_off_the_file(webui):
    webui.model.model_config = SimpleNamespace(ztsnr=True)
    with webui.host.exclusive():
        assert webui.host.zero_snr
        torch.testing.assert_close(webui.host.alphas_cumprod, with_zero_snr(scaled_linear_alphas_cumprod()))


@needs_half
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_vae_of_sdxl_that_overflows_in_fp16_encodes_in_fp32(open_webui, kind):
    webui = open_webui(kind, dtype=torch.float16, family=SDXL)
    webui.vae.overflows = True
    with webui.host.exclusive():
        assert torch.isfinite(webui.host.encode_images(PICTURES)).all()
    assert next(webui.vae.parameters()).dtype is torch.float16
