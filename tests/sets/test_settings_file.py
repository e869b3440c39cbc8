"""A set's own settings: they go before those of all, and what is wrong in them is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.errors import ConfigError
from lib_addift.sets.find import find_set, find_sets
from tests.support.sets import put


def test_weights(tmp_path: Path) -> None:
    put(tmp_path, "Face.1.png", "Face.1_b.png", "c.png", "c_b.png", addift_toml='[weights]\n"face.1" = 2\n')
    assert [(pair.name, pair.weight) for pair in find_set(tmp_path).pairs] == [("c", 1.0), ("Face.1", 2.0)]


def test_settings_that_are_no_text_or_no_file(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png", "a_b.png")
    (tmp_path / "one" / "addift.toml").write_bytes(b"name = '\xff'")
    (tmp_path / "two" / "Addift.TOML").mkdir(parents=True)
    first, second = find_sets(tmp_path)
    assert "is not TOML" in first.problem
    assert "cannot be read" in second.problem


def test_a_python_without_toml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "a_b.png", addift_toml="rank = 8")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert "install tomli" in find_set(tmp_path).problem


def test_settings_of_a_set_go_before_those_of_all(tmp_path: Path) -> None:
    text = 'name = "closed"\npreset = "detail"\nrank = 8\noverwrite = false\nmask = "file"\nmask_file = "m.png"'
    found = find_set(put(tmp_path, "a.png", "a_b.png", "m.png", addift_toml=text))
    assert found.problem == ""
    assert found.notes == ("1 pair: a.png with a_b.png",)
    request = found.request({"preset": "style", "rank": 2, "seed": 7}, overwrite=True)
    config = request.config
    assert (request.name, request.overwrite, request.pairs) == ("closed", False, found.pairs)
    assert (config.strength, config.rank, config.seed) == (2.0, 8, 7)
    assert config.mask_file == str(tmp_path / "m.png")


def test_without_settings_a_set_is_as_all(tmp_path: Path) -> None:
    found = find_set(put(tmp_path / "Closed eyes", "a.png", "a_b.png"))
    request = found.request(overwrite=True)
    assert (request.name, request.overwrite, request.config) == ("Closed eyes", True, TrainConfig.create())
    assert request.pairs == (PairSource(found.folder / "a.png", found.folder / "a_b.png", "a"),)


def test_settings_that_contradict_those_of_all_are_a_problem(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_b.png", addift_toml="min_timestep = 900")
    assert find_set(tmp_path).problem == ""
    assert "leave no room" in find_set(tmp_path, {"max_timestep": 600}).problem
    assert "leave no room" in find_sets(tmp_path, {"max_timestep": 600})[0].problem
    with pytest.raises(ConfigError, match="leave no room"):
        find_set(tmp_path).request({"max_timestep": 600})


def test_settings_belong_into_the_folder_of_one_set(tmp_path: Path) -> None:
    put(tmp_path, "x/a.png", "x/a_b.png", addift_toml="rank = 8")
    (found,) = find_sets(tmp_path)
    assert found.folder == tmp_path
    assert "it holds no pictures" in found.problem
    assert found.notes == ("1 folder not used: x",)
