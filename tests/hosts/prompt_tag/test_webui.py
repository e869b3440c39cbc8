"""`<lora:NAME:1:from=1000:to=500>`, against fakes of exactly what the hook uses of A1111 and Forge."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lib_addift.hosts.prompt_tag.webui import remove_timed_loras, wrap_lora_tag
from tests.support.fake_lora_tag import BuiltinTag, Params, inside


@pytest.fixture
def webui(tmp_path, monkeypatch):
    with inside(tmp_path, monkeypatch) as webui:
        yield webui


def with_lora(webui, networks, timesteps, multipliers):
    """What the UNet must predict with these multipliers."""
    for network, multiplier in zip(networks, multipliers, strict=True):
        network.multiplier = multiplier
    with ExitStack() as attached:
        for network in networks:
            attached.enter_context(network.attach())
        return webui.predict(*timesteps)


def test_tags_without_a_window_are_the_webuis_own(webui):
    webui.lora("smile")
    params = [Params(["smile", "1"]), Params(["other", "te=0.5"])]
    seen = []
    webui.tag.addift_timed_tag._activate = lambda _p, params_list: seen.append(params_list)
    webui.registry["lora"].activate(webui.p, params)
    assert seen[0] is params
    assert webui.is_untouched()


def test_the_window_is_inclusive_and_the_rest_of_the_prompt_goes_to_the_builtin(webui):
    network = webui.lora("smile")
    expected = {t: with_lora(webui, [network], [t], [0.8]) for t in (999, 500)}
    plain = {t: webui.predict(t) for t in (1000, 999.01, 499.99, 0)}
    webui.activate("other:0.5", "smile:0.8:from=999:to=500")
    assert webui.tag.activated == [["other:0.5"]]
    for t, prediction in expected.items():
        torch.testing.assert_close(webui.predict(t), prediction)
    for t, prediction in plain.items():
        assert torch.equal(webui.predict(t), prediction), t
    webui.registry["lora"].deactivate(webui.p)
    assert webui.is_untouched()
    assert webui.tag.deactivated == 1
    assert not webui.p.comments


@pytest.mark.parametrize("window", ["from=700:to=300", "from=300:to=700", "from=700.0:to=3e2"])
def test_each_sample_of_a_batch_has_its_own_timestep(webui, window):
    network = webui.lora("smile")
    timesteps = [900.0, 700.0, 300.5, 299.9]
    expected = with_lora(webui, [network], timesteps, [torch.tensor([0.0, 0.5, 0.5, 0.0])])
    webui.activate(f"smile:0.5:{window}")
    torch.testing.assert_close(webui.predict(*timesteps), expected)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [("from=600", 0, 601), ("to=600", 1000, 599), ("from=500:to=500", 500, 501), ("from=0:to=1000", 999, None)],
)
def test_ends_left_out(webui, window, inside, outside):
    webui.lora("smile")
    plain = [webui.predict(inside), webui.predict(outside or 0)]
    webui.activate(f"smile:1:{window}")
    assert not torch.equal(webui.predict(inside), plain[0])
    assert outside is None or torch.equal(webui.predict(outside), plain[1])


@pytest.mark.parametrize(
    ("weights", "multiplier"),
    [
        ("", 1.0),
        (":0.7", 0.7),
        (":-0.7", -0.7),
        (":0.7:0.2", 0.2),
        (":te=0.3", 0.3),
        (":0.7:te=0.3", 0.3),
        (":0.7:0.2:unet=0.4", 0.4),
        (":unet=0.4:te=0.9", 0.4),
        (":0.5:0.5:8", 0.5),
        (":0.5:dyn=8", 0.5),
    ],
)
def test_the_unets_weight_in_all_the_webuis_spellings(webui, weights, multiplier):
    network = webui.lora("smile")
    expected = with_lora(webui, [network], [800], [multiplier])
    webui.activate(f"smile{weights}:from=1000:to=500")
    torch.testing.assert_close(webui.predict(800), expected)
    assert ("dyn= has no effect" in webui.comments) == ("8" in weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("1:from=abc", "from=abc is no number from 0 to 1000"),
        ("1:from=", "from= is no number"),
        ("1:to=-1", "to=-1 is no number"),
        ("1:from=1001:to=5", "from=1001 is no number"),
        ("1:from=nan", "from=nan is no number"),
        ("1:to=50%", "to=50% is no number"),
        ("strong:from=900", "the weight 'strong' is no number"),
        ("1:unet=inf:from=900", "the weight 'inf' is no number"),
    ],
)
def test_a_wrong_tag_is_left_off_and_says_so(webui, arguments, words):
    webui.lora("smile")
    webui.activate(f"smile:{arguments}", "other:1")
    assert webui.tag.activated == [["other:1"]], "the others act"
    assert webui.is_untouched()
    assert f"<lora:smile:{arguments}>: {words}" in webui.comments
    assert "left off" in webui.comments


@pytest.mark.parametrize(("tag", "name"), [("smile:1:from=900", "smile"), ("from=900", "")])
def test_an_unknown_name_is_said_and_the_others_act(webui, tag, name):
    webui.activate(tag, "other:1")
    assert f"there is no LoRA called '{name}'" in webui.comments
    assert webui.tag.activated == [["other:1"]]


def test_a_new_file_an_alias_and_an_ambiguous_alias(webui):
    network, other = webui.lora("smile"), webui.lora("wink", seed=2)
    by_name, other_by_name = (with_lora(webui, [lora], [800], [1.0]) for lora in (network, other))
    webui.activate("smile alias:1:from=900")
    torch.testing.assert_close(webui.predict(800), by_name)
    webui.networks.forbidden_network_aliases["wink alias"] = 1
    webui.networks.available_networks["wink alias"] = webui.networks.available_networks["smile"]
    webui.activate("wink alias:1:from=900")
    torch.testing.assert_close(webui.predict(800), by_name)
    webui.activate("wink:1:from=900")
    torch.testing.assert_close(webui.predict(800), other_by_name)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_ff_net_2.dora_scale": torch.ones(8)}, "dora_scale"),
        ({"lora_unet_somewhere.alpha": torch.ones(1)}, "lora_unet_somewhere.alpha"),
        ({"lora_unet_conv_in.hada_w1_a": torch.ones(8, 1)}, "hada_w1_a"),
        (
            {
                "lora_unet_input_blocks_1.lora_down.weight": torch.ones(1, 8),
                "lora_unet_input_blocks_1.lora_up.weight": torch.ones(8, 1),
            },
            "for another model",
        ),
        (
            {"lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_ff_net_2.lora_down.weight": torch.ones(2, 16)},
            "does not fit",
        ),
    ],
)
def test_a_file_that_only_the_webui_can_use_acts_untimed_and_says_so(webui, extra, words):
    webui.lora("smile", **extra)
    webui.activate("smile:1:from=900:to=200", "other:1")
    assert webui.tag.activated == [["other:1", "smile:1:from=900:to=200"]]
    assert webui.is_untouched()
    assert "from= and to= had no effect, so this LoRA acts in every step: " in webui.comments
    assert words in webui.comments


@pytest.mark.parametrize("kind", [{"algorithm": "loha"}, {"algorithm": "lokr"}, {"dora": True}])
def test_loras_of_every_kind_can_be_timed(webui, kind):
    network = webui.lora("smile", kind=kind)
    expected, plain = with_lora(webui, [network], [800], [0.5]), webui.predict(800)
    webui.activate("smile:0.5:from=900")
    torch.testing.assert_close(webui.predict(800), expected)
    assert (expected - plain).abs().max() > 1e-3
    assert not webui.p.comments


def test_a_file_that_is_no_safetensors_goes_to_the_webui(webui):
    (webui.folder / "smile.pt").write_bytes(b"pickle")
    webui.activate("smile:1:from=900")
    assert webui.tag.activated == [["smile:1:from=900"]]
    assert "no whole safetensors file" in webui.comments


def test_several_tags_and_the_same_file_in_two_windows(webui):
    smile, wink = webui.lora("smile"), webui.lora("wink", seed=2)
    expected = {t: with_lora(webui, [smile, wink], [t], m) for t, m in {800: [1.0, 0.5], 100: [-1.0, 0.5]}.items()}
    tags = ["smile:1:from=1000:to=500", "smile:-1:from=400:to=0", "wink:0.5:to=0"]
    webui.activate(*tags)
    for t, prediction in expected.items():
        torch.testing.assert_close(webui.predict(t), prediction)
    webui.activate(*tags)
    torch.testing.assert_close(webui.predict(800), expected[800])
    assert webui.p.extra_generation_params["Lora hashes"] == "other: 0123, smile: abc123, wink: abc123"


def test_the_hires_pass_replaces_and_the_next_picture_forgets(webui):
    network = webui.lora("smile")
    expected = with_lora(webui, [network], [800], [0.5])
    plain = webui.predict(800)
    webui.activate("smile:1:from=1000:to=500")
    webui.predict(800)
    webui.activate("smile:0.5:from=1000:to=500")
    torch.testing.assert_close(webui.predict(800), expected)
    webui.activate()
    assert torch.equal(webui.predict(800), plain)
    assert webui.is_untouched()


def test_what_a_failed_picture_left_is_gone_before_the_next_and_before_training(webui):
    webui.lora("smile")
    for forget in (webui.activate, remove_timed_loras, lambda: webui.activate("other:1")):
        webui.activate("smile:1:from=1000:to=500")
        with pytest.raises(RuntimeError):
            webui.host.unet(torch.zeros(1, 4, 4, 4), torch.tensor([800]), torch.zeros(1, 5, 99))
        assert not webui.is_untouched()
        forget()
        assert webui.is_untouched()


def test_when_the_builtin_fails_nothing_stays(webui):
    """The WebUI catches the exception and then calls the tag again, with no tags."""
    webui.lora("smile")
    webui.tag.fails = True
    with pytest.raises(AttributeError):
        webui.activate("smile:1:from=900")
    assert webui.is_untouched()


def test_reloading_the_ui_needs_one_more_call_and_two_calls_wrap_once(webui):
    webui.lora("smile")
    webui.activate("smile:1:from=1000:to=500")
    webui.predict(800)
    webui.reload()
    for _ in range(2):
        wrap_lora_tag(webui.host)
        assert webui.tag.addift_timed_tag._activate.__func__ is BuiltinTag.activate
    webui.activate()
    assert webui.is_untouched(), "what the old tag object had attached"
    webui.activate("smile:1:from=1000:to=500")
    assert not webui.is_untouched()


def test_without_the_builtin_extension_it_only_says_so(webui, caplog):
    webui.registry.clear()
    wrap_lora_tag(webui.host)
    assert "enable the WebUI's built-in Lora extension" in caplog.text


def test_the_default_lora_of_the_settings_is_not_added_to_its_own_tag(webui):
    webui.lora("smile")
    webui.opts.sd_lora = "smile"
    webui.activate("smile:1:from=900")
    assert webui.tag.activated == [["smile:0"]]


def test_hashes_are_noted_only_where_the_settings_ask_for_them(webui):
    webui.lora("smi,le")
    webui.activate("smi,le:1:from=900")
    assert webui.p.extra_generation_params["Lora hashes"] == "other: 0123, smile: abc123"
    webui.opts.lora_add_hashes_to_infotext = False
    webui.activate("smi,le:1:from=900")
    assert webui.p.extra_generation_params["Lora hashes"] == "other: 0123"


def test_a_processing_without_comments(webui, caplog):
    webui.p = SimpleNamespace(extra_generation_params={})
    webui.activate("smile:1:from=900")
    assert "there is no LoRA called 'smile'" in caplog.text
    assert webui.is_untouched()


def test_in_inference_mode_and_half_precision_as_in_forge(webui):
    network = webui.lora("smile")
    webui.host.unet.to(torch.bfloat16)
    webui.host._dtype = torch.bfloat16
    expected = with_lora(webui, [network], [800.0, 800.0], [1.0])
    plain = webui.predict(100.0, 100.0)
    with torch.inference_mode():
        webui.activate("smile:1:from=1000:to=500")
        assert torch.equal(webui.predict(800.0, 800.0), expected)
        assert torch.equal(webui.predict(100.0, 100.0), plain)


def test_timesteps_by_name(webui):
    webui.lora("smile")
    webui.activate("smile:1:from=900")
    latents, timesteps, cond = torch.ones(1, 4, 4, 4), torch.tensor([800]), torch.ones(1, 5, 6)
    by_place = webui.host.unet(latents, timesteps, cond)
    assert torch.equal(webui.host.unet(latents, timesteps=timesteps, cond=cond), by_place)
    remove_timed_loras()
    assert not torch.equal(webui.host.unet(latents, timesteps, cond), by_place)


def test_one_multiplier_for_the_batch_serves_patches_that_cut_samples_into_tiles(webui):
    """Hypertile gives attention layers (B * tiles, tokens, width)."""
    network = webui.lora("smile")
    to_q = webui.host.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    layer = network.layers["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"]
    tiles = torch.randn(8, 4, 8, generator=torch.Generator().manual_seed(4))
    expected = to_q(tiles) + layer(tiles)
    webui.activate("smile:1:from=1000:to=500")
    seen = []
    webui.host.unet.conv_in.register_forward_hook(lambda *_: seen.append(to_q(tiles)))
    webui.predict(800, 700)
    torch.testing.assert_close(seen, [expected])


def test_the_part_for_the_text_encoder_is_left_to_the_webui(webui):
    """It knows no timesteps; the UNet's part is timed all the same."""
    text = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")
    }
    smile, wink = webui.lora("smile", **text), webui.lora("wink", seed=2)
    expected = with_lora(webui, [smile, wink], [800], [0.2, 1.0])
    plain = webui.predict(100)
    webui.activate("smile:0.7:0.2:from=1000:to=500", "wink:1:from=900:to=500", "smile:0.3:from=400:to=300", "other:1")
    assert webui.tag.activated == [["other:1", "smile:0.7:0"]], "once, at the weight of its first tag"
    torch.testing.assert_close(webui.predict(800), expected)
    assert torch.equal(webui.predict(100), plain)
    assert not webui.p.comments
    webui.activate("smile:0:1:from=900")
    assert webui.tag.activated[1:] == [[]]


def test_a_lora_for_the_text_encoder_alone_is_the_webuis_own(webui):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file(
        {f"{name}.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")}, webui.folder / "text.safetensors"
    )
    webui.activate("text:0.5:from=900")
    assert webui.tag.activated == [["text:0.5:from=900"]]
    assert "from= had no effect, so this LoRA acts in every step: it has nothing for the UNet." in webui.comments
    assert webui.is_untouched()


def test_a_file_replaced_under_its_name_is_forgotten_by_the_webui(webui):
    webui.lora("wink")
    webui.activate("wink:1")
    webui.activate("wink:1")
    assert webui.host.refreshed == []
    webui.lora("wink", seed=2, **{"more.alpha": torch.zeros(1)})
    webui.activate("wink:1")
    assert webui.host.refreshed == [webui.folder / "wink.safetensors"]
    webui.activate("wink:1")
    assert len(webui.host.refreshed) == 1
