from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import METHODS, TrainConfig
from lib_addift.config.text import parse_value, settings_table
from lib_addift.errors import ConfigError
from lib_addift.training import methods
from lib_addift.training.methods import from_mapping, make_config, method_settings
from lib_addift.training.optimizer import make_optimizer, parse_arguments


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_round_trip_through_json(preset: str) -> None:
    config = TrainConfig.create(preset)
    assert from_mapping(json.loads(config.to_json())) == config


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda f: f.name)
def test_every_setting_has_label_help_and_bounds(field: dataclasses.Field) -> None:
    assert field.metadata["label"]
    assert field.metadata["help"].endswith((".", ")"))
    if field.type in ("int", "float"):
        low, high = field.metadata["low"], field.metadata["high"]
        for outside in (low - 1, high + high):
            with pytest.raises(ConfigError, match=field.name):
                TrainConfig.create(**{field.name: outside})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": float("nan")}, "finite"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"max_train_steps": 0}, "from 1 to"),
        ({"max_train_steps": 1.5}, "whole number"),
        ({"rank": True}, "whole number"),
        ({"rank": "four"}, "whole number"),
        ({"loss": "hinge"}, "mse, l1, huber"),
        ({"layers": ()}, "at least one"),
        ({"layers": ("everything",)}, "self_attention"),
        ({"min_timestep": 800, "max_timestep": 700}, "raise max_timestep"),
        ({"mask": "file"}, "mask_file"),
        ({"lora_rank": 4}, "no setting"),
        ({"calibrate": "yes"}, "true or false"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainConfig.create(**settings)
    assert "\n" not in str(caught.value)
    assert next(iter(settings)).split("_")[0] in str(caught.value)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="action, style, detail"):
        TrainConfig.create("portrait")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rank", "8", 8),
        ("learning_rate", "2e-4", 2e-4),
        ("gradient_checkpointing", "on", True),
        ("layers", "self_attention, feed_forward", ("self_attention", "feed_forward")),
        ("prompt", "a = b", "a = b"),
    ],
)
def test_values_from_text(name: str, text: str, value: object) -> None:
    assert parse_value(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("rank", "8.5"), ("calibrate", "perhaps"), ("nothing", "1")])
def test_bad_text_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_value(name, text)


def test_optimizers_by_name() -> None:
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(2))]
    config = TrainConfig.create(optimizer="adamw", optimizer_args="weight_decay=0.5, betas=(0.8, 0.9)")
    optimizer = make_optimizer(config, parameters, 1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["weight_decay"] == 0.5
    assert isinstance(make_optimizer(TrainConfig.create(optimizer="SGD"), parameters, 1e-3), torch.optim.SGD)
    with pytest.raises(ConfigError, match="pytorch_optimizer"):
        make_optimizer(TrainConfig.create(optimizer="Wonder"), parameters, 1e-3)
    with pytest.raises(ConfigError, match="momentum"):
        make_optimizer(TrainConfig.create(optimizer="AdamW", optimizer_args="momentum=1"), parameters, 1e-3)


@pytest.mark.skipif(torch.__version__ < "2.4", reason="this torch has no fused optimizer on the CPU")
def test_optimizers_take_all_parameters_in_one_go_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]

    def is_fused(**settings: object) -> bool:
        return bool(make_optimizer(TrainConfig.create(**settings), parameters, 1e-3).defaults.get("fused"))

    assert is_fused()
    assert is_fused(optimizer="adam")
    assert not is_fused(optimizer_args="foreach=True")
    assert not is_fused(optimizer="RMSprop")

    def step(_optimizer: object) -> None:
        raise RuntimeError("fused is not supported on this device")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert not is_fused()


@pytest.mark.parametrize("text", ["0.5", "a=", "a=open('x')", "**{}", "a=1) + f(b=2"])
def test_optimizer_arguments_are_literals_only(text: str) -> None:
    with pytest.raises(ConfigError, match="optimizer_args"):
        parse_arguments(text)


def test_the_documentation_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_table(method_settings()) in page, (
        "run: python -m lib_addift settings, and paste it into docs/settings.md"
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layers": 5}, "layers = 5 must be a list"),
        ({"layers": None}, "layers = None must be a list"),
        ({"alpha": 10**400}, "alpha is out of bounds"),
        ({"preset": "action"}, "'preset' is no setting"),
        ({"cls": 1}, "'cls' is no setting"),
    ],
)
def test_values_of_a_wrong_kind_get_a_sentence_too(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        TrainConfig.create("action", **settings)


def test_the_choices_of_method_are_the_modules() -> None:
    assert tuple(methods.METHODS) == METHODS


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dora": True, "algorithm": "loha"}, "dora = true needs algorithm = lora, and it is loha"),
        ({"dora": True, "algorithm": "lokr"}, "dora = true needs algorithm = lora, and it is lokr"),
        ({"dora": True, "result_rank": 2}, "result_rank = 2 cuts ranks away, which a DoRA does not bear"),
        ({"lokr_factor": 0}, "lokr_factor = 0 splits nothing"),
        ({"algorithm": "oft"}, "algorithm = 'oft' is no choice: use one of lora, loha, lokr"),
        ({"dropout": 0.95}, "dropout = 0.95 is out of bounds"),
        ({"lora_plus_ratio": 0.5}, "lora_plus_ratio = 0.5 is out of bounds"),
        ({"method": "residual", "algorithm": "loha"}, "method = residual adds LoRAs up, which algorithm = loha cannot"),
        ({"method": "differential", "dora": True}, "method = differential adds LoRAs up, which dora = true cannot"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(**settings)
