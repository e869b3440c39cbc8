"""Several LoRAs in one prompt: switch and composite, against loops that exchange the LoRAs by hand."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.hosts.prompt_tag.compose import PromptLora, PromptLoras, StepCounter
from lib_addift.hosts.prompt_tag.syntax import (
    COMPOSITE,
    MERGE,
    SWITCH,
    Composition,
    Tag,
)
from tests.support.fake_host import FakeUNet
from tests.support.fake_lora_tag import inside
from tests.support.models import fingerprint

UNCOND, COND = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(8))
LATENTS = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(9))
SCALE = 3.0


@pytest.fixture
def webui(tmp_path, monkeypatch):
    with inside(tmp_path, monkeypatch) as webui:
        yield webui


@pytest.fixture
def loras(webui):
    """Three LoRAs of one file each: a, b and c."""
    return [webui.lora(name, seed=seed) for seed, name in enumerate("abc", start=1)]


def composed(networks, how, *, every=1, **tags):
    """The networks with a tag each; of a tag's arguments there are as many as networks."""
    arguments = [dict(zip(tags, values, strict=True)) for values in zip(*tags.values(), strict=True)] or [{}] * 9
    members = [
        PromptLora(network, Tag("x", **{"mode": how, **each}))
        for network, each in zip(networks, arguments, strict=False)
    ]
    return PromptLoras(members, Composition(how, every))


def together(unet, latents, timestep):
    """Both predictions in one call, as hosts do where memory allows."""
    timesteps = torch.full((2,), timestep)
    return unet(latents.repeat(2, 1, 1, 1), timesteps, torch.cat([UNCOND, COND])).chunk(2)


def apart(unet, latents, timestep):
    """One call for each."""
    timesteps = torch.full((1,), timestep)
    return [unet(latents, timesteps, cond) for cond in (UNCOND, COND)]


CALLS = [together, apart]


def alone(unet, acting, call=together, latents=LATENTS, timestep=700.0):
    """The unconditional and the conditional prediction with these LoRAs: pairs of a network and its weight."""
    with ExitStack() as attached:
        for network, weight in acting:
            network.multiplier = weight
            attached.enter_context(network.attach())
        return torch.stack([*call(unet, latents, timestep)])


def with_one(webui, network, timesteps):
    network.multiplier = 1.0
    with network.attach():
        return webui.predict(*timesteps)


def guided(uncond_pred, cond_pred):
    return uncond_pred + SCALE * (cond_pred - uncond_pred)


def sample(predict, timesteps=(999.0, 800.0, 600.0, 400.0, 200.0, 50.0)):
    """A sampler as simple as one can be; `predict` gives both predictions for latents, timestep and step."""
    latents = LATENTS
    for step, timestep in enumerate(timesteps):
        latents = latents - 0.1 * guided(*predict(latents, timestep, step))
    return latents


# Composite.


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("weights", [(1.0, 0.5), (0.8, -0.5, 1.5)])
def test_composite_is_the_mean_of_each_lora_alone(webui, loras, call, weights):
    unet = webui.host.unet
    each = [alone(unet, [pair], call) for pair in zip(loras, weights, strict=False)]
    expected = sum(each) / len(each)
    merged = alone(unet, list(zip(loras, weights, strict=False)))
    assert (expected - merged).abs().max() > 1e-3, "it can be told from merge"
    with composed(loras[: len(weights)], COMPOSITE, unet_weight=weights).attach(unet):
        found = torch.stack([*call(unet, LATENTS, 700.0)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_mean_of_guided_predictions_is_the_guided_mean(webui, loras):
    """As Zhong et al. 2024 write LoRA Composite."""
    unet = webui.host.unet
    expected = sum(guided(*alone(unet, [(network, 1.0)])) for network in loras) / 3
    with composed(loras, COMPOSITE).attach(unet):
        torch.testing.assert_close(guided(*together(unet, LATENTS, 700.0)), expected, atol=2e-6, rtol=0)


def test_a_lora_without_compose_acts_in_every_pass(webui, loras):
    unet, (a, b, c) = webui.host.unet, loras
    expected = (alone(unet, [(c, 1.0), (a, 1.0)]) + alone(unet, [(c, 1.0), (b, 1.0)])) / 2
    with composed(loras, COMPOSITE, mode=(COMPOSITE, COMPOSITE, MERGE)).attach(unet):
        found = torch.stack([*together(unet, LATENTS, 700.0)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_each_sample_has_the_mean_over_the_loras_of_its_own_timestep(webui, loras):
    unet, (a, b, _c) = webui.host.unet, loras
    timesteps = [900.0, 500.0, 100.0, 50.0]
    by_a, by_b = (with_one(webui, network, timesteps) for network in (a, b))
    plain, outside = webui.predict(*timesteps), webui.predict(50.0, 70.0)
    expected = torch.stack([by_a[0], (by_a[1] + by_b[1]) / 2, by_b[2], plain[3]])
    with composed([a, b], COMPOSITE, low=(400, 80), high=(1000, 600)).attach(unet):
        torch.testing.assert_close(webui.predict(*timesteps), expected, atol=1e-6, rtol=0)
        assert torch.equal(webui.predict(50.0, 70.0), outside)


def test_a_lora_of_weight_0_does_not_count_in_the_mean(webui, loras):
    unet = webui.host.unet
    expected = alone(unet, [(loras[1], 0.7)])
    with composed(loras[:2], COMPOSITE, unet_weight=(0.0, 0.7)).attach(unet):
        assert torch.equal(torch.stack([*together(unet, LATENTS, 700.0)]), expected)


def test_composite_in_half_precision_and_inference_mode(webui, loras):
    unet = webui.host.unet.to(torch.bfloat16)
    inputs = LATENTS.bfloat16(), torch.tensor([700.0]), COND.bfloat16()
    outputs = []
    for network in loras[:2]:
        with network.attach():
            outputs.append(unet(*inputs).float())
    with torch.inference_mode(), composed(loras[:2], COMPOSITE).attach(unet):
        found = unet(*inputs)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, torch.stack(outputs).mean(dim=0).bfloat16())


def test_gradients_pass_through_a_composite(webui, loras):
    latents = LATENTS.clone().requires_grad_(True)
    with composed(loras, COMPOSITE).attach(webui.host.unet):
        webui.host.unet(latents, torch.tensor([700.0]), COND).sum().backward()
    assert latents.grad is not None


class ForgeUNet(FakeUNet):
    """Called as KModel.apply_model calls Forge's, whose forward uses up the residuals of ControlNet."""

    def forward(self, x, timesteps=None, context=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        transformer_options["original_shape"] = list(x.shape)
        x = x + control["input"].pop() + control["input"].pop()
        return super().forward(x, timesteps, context)


def test_every_pass_has_all_arguments_of_the_hosts_call(webui):
    torch.manual_seed(0)
    unet = webui.host.unet = ForgeUNet().requires_grad_(False)
    loras = [webui.lora(name, seed=seed) for seed, name in enumerate("ab", start=1)]
    residuals = list(torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(2)))

    def call():
        control, options = {"input": [*residuals], "middle": [None]}, {"cond_or_uncond": [1]}
        found = unet(LATENTS, torch.tensor([700.0]), context=COND, control=control, transformer_options=options)
        assert len(control["input"]) == 1, "the host's own arguments are used as ever"
        assert options["original_shape"] == [1, 4, 4, 4]
        return found

    expected = []
    for network in loras:
        with network.attach():
            expected.append(call())
    with composed(loras, COMPOSITE).attach(unet):
        torch.testing.assert_close(call(), sum(expected) / 2, atol=1e-6, rtol=0)


def test_what_the_host_has_hung_onto_the_unet_acts_once_in_each_pass(webui, loras):
    unet = webui.host.unet
    unet.register_forward_pre_hook(lambda _unet, args: (args[0] * 2, *args[1:]))
    unet.register_forward_hook(lambda _unet, _args, output: output * 3 + 1)
    expected = sum(alone(unet, [(network, 1.0)]) for network in loras) / 3
    with composed(loras, COMPOSITE).attach(unet):
        found = torch.stack([*together(unet, LATENTS, 700.0)])
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


# Switch.


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("count", "every"), [(2, 1), (3, 1), (2, 2), (3, 4), (1, 1)])
def test_switch_is_a_loop_that_exchanges_the_loras(webui, loras, call, count, every):
    unet, members = webui.host.unet, loras[:count]

    def by_hand(latents, timestep, step):
        return alone(unet, [(members[step // every % count], 1.0)], call, latents, timestep)

    def by_calls(latents, timestep, _step):
        return call(unet, latents, timestep)

    expected = sample(by_hand)
    with composed(members, SWITCH, every=every).attach(unet):
        assert torch.equal(sample(by_calls), expected)
        assert torch.equal(sample(by_calls), expected), "the next picture starts anew"
    if count > 1:
        assert not torch.allclose(expected, sample(lambda *now: alone(unet, [(members[0], 1.0)], call, *now[:2])))


def test_switch_passes_over_loras_outside_their_window(webui, loras):
    unet, (a, b, c) = webui.host.unet, loras
    turns = [[a], [b], [a], [b], [c], []]

    def by_hand(latents, timestep, step):
        return alone(unet, [(network, 1.0) for network in turns[step]], together, latents, timestep)

    expected = sample(by_hand)
    with composed(loras, SWITCH, low=(400, 400, 100), high=(1000, 1000, 300)).attach(unet):
        found = sample(lambda latents, timestep, _step: together(unet, latents, timestep))
    assert torch.equal(found, expected)


def test_the_sampler_of_the_engine_takes_turns_too(webui, loras):
    host, steps = webui.host, ddim_timesteps(4)
    cond, guidance = Conditions(COND), Guidance(Conditions(UNCOND), SCALE)
    calls, predict = [], host.predict_noise

    def by_hand(latents, timesteps, cond):
        network = loras[len(calls) % 2]
        calls.append(timesteps)
        with network.attach():
            return predict(latents, timesteps, cond)

    host.predict_noise = by_hand
    expected = ddim(host, LATENTS, cond, steps, guidance=guidance)
    host.predict_noise = predict
    with composed(loras[:2], SWITCH).attach(host.unet):
        assert torch.equal(ddim(host, LATENTS, cond, steps, guidance=guidance), expected)


def test_steps_are_counted_by_timesteps():
    steps = [(999.0, 0), (999.0, 0), (666.004, 1), (666.0, 1), (665.9, 2), (0.0, 3), (0.0, 3), (700.0, 0), (1.5, 1)]
    count = StepCounter()
    assert [count(timestep) for timestep, _step in steps] == [step for _timestep, step in steps]


# Afterwards.


class Failing(nn.Module):
    """Fails in its n-th call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def forward(self, x):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of memory (simulated)")
        return x


@pytest.mark.parametrize("mode", [MERGE, SWITCH, COMPOSITE])
@pytest.mark.parametrize("failing_pass", [0, 1, 3])
def test_nothing_stays_on_the_unet(webui, loras, mode, failing_pass):
    unet = webui.host.unet
    unet.conv_out = nn.Sequential(unet.conv_out, Failing(failing_pass))
    unet._layers["conv_out"] = unet.conv_out
    before, prompt_loras = fingerprint(unet), composed(loras, mode)
    with prompt_loras.attach(unet):
        assert fingerprint(unet) != before
        try:
            together(unet, LATENTS, 700.0)
        except RuntimeError:
            assert failing_pass
    assert fingerprint(unet) == before


@pytest.mark.parametrize("failing_pass", [2, 3])
def test_a_call_after_a_failed_one_is_right(webui, loras, failing_pass):
    unet = webui.host.unet
    unet._layers["conv_out"] = nn.Sequential(unet.conv_out, Failing(3 + failing_pass))
    with composed(loras, COMPOSITE).attach(unet):
        expected = together(unet, LATENTS, 700.0)
        with pytest.raises(RuntimeError):
            together(unet, LATENTS, 700.0)
        assert torch.equal(torch.cat([*together(unet, LATENTS, 700.0)]), torch.cat([*expected]))


# In a WebUI's prompt.


def test_tags_with_compose_act_together_and_the_rest_is_the_webuis(webui, loras):
    a, b, _c = loras
    unet = webui.host.unet
    expected = alone(unet, [(a, 0.5)]) / 2 + alone(unet, [(b, 1.0)]) / 2
    webui.activate("a:0.5:compose=composite", "c:1", "b:1:1:compose= Composite ", "other:0.3:compose=merge")
    assert webui.tag.activated == [["c:1", "other:0.3:compose=merge"]]
    torch.testing.assert_close(torch.stack([*together(unet, LATENTS, 700.0)]), expected, atol=1e-6, rtol=0)
    assert webui.p.extra_generation_params["Lora hashes"] == "other: 0123, a: abc123, b: abc123"
    webui.registry["lora"].deactivate(webui.p)
    assert webui.is_untouched()
    assert not webui.p.comments


def test_the_next_batch_and_the_hires_pass_start_anew(webui, loras):
    unet, tags = webui.host.unet, ["a:1:compose=switch", "b:1:compose=switch"]
    first, second = (alone(unet, [(network, 1.0)], timestep=300.0) for network in loras[:2])
    for _ in range(2):
        webui.activate(*tags)
        assert torch.equal(torch.stack([*together(unet, LATENTS, 300.0)]), first)
    together(unet, LATENTS, 200.0)
    assert torch.equal(torch.stack([*together(unet, LATENTS, 300.0)]), first), "a higher timestep, with no tag between"
    webui.activate(*reversed(tags))
    assert torch.equal(torch.stack([*together(unet, LATENTS, 300.0)]), second)


def sampler(order):
    """KDiffusionSampler, of which one step is `order` calls."""
    return SimpleNamespace(
        model_wrap_cfg=SimpleNamespace(step=0), config=SimpleNamespace(total_steps=lambda steps: steps * order)
    )


@pytest.mark.parametrize(
    ("order", "timesteps"),
    [
        (2, [999.0, 700.0, 700.0, 400.0, 400.0, 100.0, 100.0]),  # Heun
        (2, [999.0, 850.0, 700.0, 550.0, 400.0, 250.0, 100.0]),  # DPM2
        (1, [999.0, 850.0, 850.0]),  # whatever it is: each call a step
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_one_lora_acts_in_all_calls_of_a_step(webui, loras, order, timesteps, call):
    unet = webui.host.unet
    expected = [
        alone(unet, [(loras[number // order % 2], 1.0)], call, timestep=timestep)
        for number, timestep in enumerate(timesteps)
    ]
    webui.p.sampler = None  # the WebUI makes it after the tags were activated
    webui.activate("a:1:compose=switch", "b:1:compose=switch")
    webui.p.sampler = sampler(order)
    for timestep, prediction in zip(timesteps, expected, strict=True):
        assert torch.equal(torch.stack([*call(unet, LATENTS, timestep)]), prediction), timestep
        webui.p.sampler.model_wrap_cfg.step += 1


def test_every_is_said_once(webui, loras):
    unet, every = webui.host.unet, [0, 0, 0, 1, 1, 1]
    timesteps = [900.0, 800.0, 700.0, 600.0, 500.0, 400.0]
    expected = [alone(unet, [(loras[n], 1.0)], timestep=t) for n, t in zip(every, timesteps, strict=True)]
    webui.activate("a:1:compose=switch", "b:1:compose=switch:every=3")
    for timestep, prediction in zip(timesteps, expected, strict=True):
        assert torch.equal(torch.stack([*together(unet, LATENTS, timestep)]), prediction)
    assert not webui.p.comments


@pytest.mark.parametrize("window", ["from=1000:to=500", ""])
def test_contradicting_tags_are_merged_with_one_sentence(webui, loras, window):
    unet = webui.host.unet
    expected = alone(unet, [(loras[0], 1.0), (loras[1], 1.0), (loras[2], 1.0)])
    tags = ["a:1:compose=switch", "b:1:compose=composite", "c:1:compose=switch:every=2"]
    webui.activate(*(f"{tag}:{window}".strip(":") for tag in tags))
    torch.testing.assert_close(torch.stack([*together(unet, LATENTS, 700.0)]), expected)
    words = "one prompt cannot have compose=switch and compose=composite, so these LoRAs are merged"
    assert webui.comments.count(words) == len(webui.p.comments) == 1


def test_contradicting_turns_use_the_first(webui, loras):
    webui.activate("a:1:compose=switch:every=2", "b:1:compose=switch:every=3")
    assert "one prompt cannot have every=2 and every=3, so every=2 was used" in webui.comments


def test_a_single_tag_with_compose_among_others_is_asked_about(webui, loras):
    webui.activate("a:1:compose=switch", "b:1")
    assert (
        "only 'a' has compose=switch, which does nothing: write compose=switch in the other tags too" in webui.comments
    )
    webui.p.comments.clear()
    webui.activate("a:1:compose=switch")
    assert not webui.p.comments, "the only LoRA of the prompt"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("1:compose=swap", "compose=swap is unknown: write compose=switch, compose=composite or compose=merge."),
        ("1:compose=", "compose= is unknown"),
        ("1:compose=switch:every=0", "every=0 is no whole number of steps: write for example every=2."),
        ("1:compose=switch:every=1.5", "every=1.5 is no whole number"),
        ("1:compose=switch:every=often", "every=often is no whole number"),
        ("1:compose=switch:every=inf", "every=inf is no whole number"),
        ("1:compose=composite:every=2", "every=2 says after how many steps LoRAs take turns: write compose=switch"),
        ("1:every=2", "every=2 says after how many steps"),
        ("1:compose=switch:from=2000", "from=2000 is no number from 0 to 1000"),
        ("x:compose=switch", "the weight 'x' is no number"),
    ],
)
def test_a_wrong_tag_is_left_off_and_the_others_act(webui, loras, arguments, words):
    unet = webui.host.unet
    expected = alone(unet, [(loras[1], 1.0)])
    webui.activate(f"a:{arguments}", "b:1:compose=switch", "other:1")
    assert webui.tag.activated == [["other:1"]]
    assert f"<lora:a:{arguments}>: {words}" in webui.comments
    assert torch.equal(torch.stack([*together(unet, LATENTS, 700.0)]), expected)


def test_a_file_that_only_the_webui_can_use_acts_in_every_step(webui, loras):
    unet = webui.host.unet
    expected = alone(unet, [(loras[1], 1.0)])
    webui.lora("a", **{"lora_unet_conv_in.hada_w1_a": torch.ones(8, 1)})
    webui.activate("a:1:compose=composite", "b:1:compose=composite")
    assert webui.tag.activated == [["a:1:compose=composite"]]
    assert "compose= had no effect, so this LoRA acts in every step: " in webui.comments
    assert torch.equal(torch.stack([*together(unet, LATENTS, 700.0)]), expected)


def test_every_prompt_without_our_words_leaves_the_unet_alone(webui, loras):
    webui.activate("a:1", "b:1:compose=merge", "c:te=0.5:unet=1")
    assert webui.is_untouched()
    assert webui.tag.activated == [["a:1", "b:1:compose=merge", "c:te=0.5:unet=1"]]
