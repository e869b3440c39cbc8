"""`<lora:NAME:1:from=1000:to=500>`, against fakes of exactly what the hook uses of A1111 and Forge."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lib_addift.hosts.lora_tag import remove_timed_loras, wrap_lora_tag
from lib_addift.lora import LoraNetwork, select_layers
from tests.conftest import fingerprint
from tests.fake_host import FakeHost

LAYERS = {
    "layers": ["self_attention", "cross_attention", "feed_forward", "convolutions"],
    "blocks": ["IN", "MID", "OUT"],
}


class Params:
    """modules.extra_networks.ExtraNetworkParams."""

    def __init__(self, items):
        self.items = items
        parts = [str(item).split("=", 2) for item in items]
        self.positional = [part[0] if len(part) == 1 else "=".join(part) for part in parts if len(part) != 2]
        self.named = dict(part for part in parts if len(part) == 2)

    def __eq__(self, other):
        return self.items == other.items

    __hash__ = None


class BuiltinTag:
    """ExtraNetworkLora: what it was given, as the texts of the tags."""

    def __init__(self):
        self.activated, self.deactivated, self.fails = [], 0, False

    def activate(self, p, params_list):
        if self.fails:
            raise AttributeError("'NoneType' object has no attribute 'filename'")  # Forge, for an unknown name
        self.activated.append([":".join(params.items) for params in params_list])
        p.extra_generation_params["Lora hashes"] = "other: 0123"

    def deactivate(self, p):
        self.deactivated += 1


class Entry(SimpleNamespace):
    """NetworkOnDisk."""

    shorthash = None

    def read_hash(self):
        self.shorthash = "abc123"


class Picture:
    """StableDiffusionProcessing."""

    def __init__(self):
        self.comments, self.extra_generation_params = {}, {}

    def comment(self, text):
        self.comments[text] = 1


class WebUI:
    """A WebUI with a Lora folder and one picture; `activate` takes the tags of its prompt, `predict` runs the UNet."""

    def __init__(self, folder):
        self.folder = folder
        self.host = FakeHost(folder)
        self.registry, self.tag, self.p = {}, None, Picture()
        self.opts = SimpleNamespace(sd_lora="None", lora_add_hashes_to_infotext=True)
        self.networks = ModuleType("networks")
        self.networks.available_networks, self.networks.available_network_aliases = {}, {}
        self.networks.forbidden_network_aliases = {"none": 1}
        self.networks.list_available_networks = self._list
        self.extra_networks = ModuleType("modules.extra_networks")
        self.extra_networks.extra_network_registry = self.registry
        self.extra_networks.ExtraNetworkParams = Params
        self.before = fingerprint(self.host.unet)
        self.reload()

    def modules(self):
        shared = ModuleType("modules.shared")
        shared.opts = self.opts
        return {"networks": self.networks, "modules.extra_networks": self.extra_networks, "modules.shared": shared}

    def _list(self):
        for path in self.folder.iterdir():
            entry = Entry(filename=str(path))
            self.networks.available_networks[path.stem] = entry
            self.networks.available_network_aliases |= {path.stem: entry, f"{path.stem} alias": entry}

    def reload(self):
        self.registry.clear()
        self.tag = self.registry["lora"] = BuiltinTag()

    def lora(self, name, seed=1, **extra):
        modules = select_layers(self.host.unet, self.host.lora_name, **LAYERS)
        network = LoraNetwork.create(modules, rank=2, alpha=2.0, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for layer in network.layers.values():
            torch.nn.init.normal_(layer.lora_up, generator=generator)
        save_file(network.tensors() | extra, self.folder / f"{name}.safetensors")
        return network.requires_grad_(False)

    def activate(self, *tags):
        self.registry["lora"].activate(self.p, [Params(tag.split(":")) for tag in tags])

    def predict(self, *timesteps):
        """One batch, with another picture for each timestep."""
        generator = torch.Generator().manual_seed(3)
        latents = torch.randn(len(timesteps), 4, 4, 4, generator=generator)
        cond = torch.randn(len(timesteps), 5, 6, generator=generator)
        return self.host.predict_noise(latents, torch.tensor(timesteps), cond)

    def is_untouched(self):
        return fingerprint(self.host.unet) == self.before

    @property
    def comments(self):
        return " ".join(self.p.comments)


@pytest.fixture
def webui(tmp_path, monkeypatch):
    webui = WebUI(tmp_path)
    for name, module in webui.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    wrap_lora_tag(webui.host)
    yield webui
    remove_timed_loras()


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
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(1)}, "also changes the text encoder"),
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
    assert "from= and to= were not used" in webui.comments
    assert words in webui.comments


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
    webui.predict(800, 700)
    torch.testing.assert_close(to_q(tiles), expected)


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
