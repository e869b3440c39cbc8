"""LoRA files: names, writing whole or not at all, what is beside them, and reading them back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib_addift import files as atomic
from lib_addift.config.settings import BLOCKS, LAYER_KINDS
from lib_addift.errors import LoraFileError
from lib_addift.lora.file import check_name, describe, lora_path, read_lora, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.fake_host import FakeHost
from tests.support.lora_files import CONV, KEY, QUERY, make_metadata, make_tensors, split
from tests.support.lora_networks import KINDS, every_kind, make, predict, save

NAMES_WITH_FAULTS = {
    "": "empty",
    "   ": "empty",
    "a/b": "one of",
    "a\\b": "one of",
    "../eyes": "one of",
    "a:b": "one of",
    "a,b": "one of",
    "a=b": "one of",
    "<eyes>": "one of",
    'a"b': "one of",
    "a|b": "one of",
    "a?b": "one of",
    "a*b": "one of",
    "a\nb": "control",
    "a\x00b": "control",
    "a\x7fb": "control",
    "a\u2028b": "control",
    "a\udc80b": "control",
    ".eyes": "begins or ends",
    "eyes.": "begins or ends",
    " eyes": "begins or ends",
    "eyes ": "begins or ends",
    "eyes\u00a0": "begins or ends",
    "..": "begins or ends",
    "CON": "reserved",
    "nul": "reserved",
    "Com1": "reserved",
    "LPT9": "reserved",
    "com²": "reserved",
    "aux.v2": "reserved",
    "con .x": "reserved",
    "CONOUT$": "reserved",
    "eyes.SafeTensors": "added to it",
    "e" * 101: "at most 100",
    "e" * 300: "at most 100",
    "目" * 80: "at most 100 characters and 240 bytes",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def failing(error: OSError, after: int = 0) -> Callable[..., Any]:
    """A function that works as os.replace `after` times, then raises `error`."""
    real, calls = os.replace, []

    def replace(*args: Any) -> None:
        calls.append(args)
        if len(calls) > after:
            raise error
        real(*args)

    return replace


# Names


@pytest.mark.parametrize(("name", "rule"), NAMES_WITH_FAULTS.items(), ids=lambda value: ascii(value)[:20])
def test_a_bad_name_is_refused_in_one_sentence(name: str, rule: str) -> None:
    with pytest.raises(LoraFileError, match=rule) as caught:
        check_name(name)
    message = str(caught.value)
    message.encode()  # can be printed and sent
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "name",
    [
        "eyes",
        "v1.5",
        "closed eyes (2)",
        "👩‍👧 happy 😀",
        "目を閉じる",
        "Ünïcödé",
        "console",
        "com10",
        "e" * 100,
        "-",
        "eyes.pt",
    ],
)
def test_a_good_name_makes_a_file_that_gives_it_back(tmp_path: Path, name: str) -> None:
    path = save_lora(lora_path(tmp_path, name, overwrite=False), make_tensors(), make_metadata())
    assert path.stem == os.path.splitext(path.name)[0] == name
    assert sorted(contents(tmp_path)) == sorted([f"{name}.safetensors", f"{name}.json"])


@pytest.mark.slow
@given(st.text(max_size=120))
def test_an_accepted_name_survives_the_prompt_and_every_file_system(name: str) -> None:
    try:
        assert check_name(name) == name
    except LoraFileError:
        return
    tag = re.fullmatch(r"<(\w+):([^>]+)>", f"<lora:{name}:1>")  # how A1111 reads a tag
    assert tag is not None
    assert tag[2].split(":") == [name, "1"]
    assert Path(f"{name}.safetensors").stem == name
    assert len(atomic.temporary_name(Path(f"{name}.safetensors")).name.encode()) <= 255


# The place


def test_the_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Lora"
    assert lora_path(folder, "eyes", overwrite=False) == folder / "eyes.safetensors"
    assert contents(folder) == {}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Lora").write_text("a file")
    for folder in (tmp_path / "Lora", tmp_path / "Lora" / "mine"):
        with pytest.raises(LoraFileError, match="choose a folder"):
            lora_path(folder, "eyes", overwrite=True)


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_args: Any, **_kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)  # root, who may run the tests, can write everywhere
    with pytest.raises(LoraFileError, match=r"Permission denied.*choose another folder"):
        lora_path(tmp_path, "eyes", overwrite=False)


def test_a_full_disk_is_refused_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(LoraFileError, match="5 MB free and 64 MB are needed: make room"):
        lora_path(tmp_path, "eyes", overwrite=False)


@pytest.mark.parametrize("other", ["eyes.safetensors", "Eyes.safetensors", "EYES.SafeTensors", "eyes.pt", "eyes.png"])
def test_a_taken_name_is_refused_unless_overwriting(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_bytes(b"precious")
    with pytest.raises(LoraFileError, match=f"already has '{other}'"):
        lora_path(tmp_path, "eyes", overwrite=False)
    assert lora_path(tmp_path, "eyes", overwrite=True) == tmp_path / "eyes.safetensors"
    assert contents(tmp_path) == {other: b"precious"}


def test_a_similar_name_is_free(tmp_path: Path) -> None:
    for other in ("eyes2.safetensors", "eyes.v2.safetensors", "eyes.txt", "my eyes.png"):
        (tmp_path / other).touch()
    lora_path(tmp_path, "eyes", overwrite=False)


# Writing


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    tensors, metadata = make_tensors(), make_metadata()
    saved, read = read_lora(save_lora(tmp_path / "eyes.safetensors", tensors, metadata))
    assert saved.keys() == tensors.keys()
    for key, tensor in tensors.items():
        expected = tensor if key.endswith(".alpha") else tensor.half()
        assert saved[key].dtype == expected.dtype
        assert torch.equal(saved[key], expected)
    assert {key: read[key] for key in metadata} == metadata
    assert read.keys() - metadata.keys() == {"sshs_model_hash", "sshs_legacy_hash"}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.half), ("bf16", torch.bfloat16), ("fp32", torch.float)]
)
def test_precision_is_that_of_the_weights_and_alpha_keeps_float32(tmp_path: Path, precision: str, dtype: Any) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(alpha=0.1), {}, precision=precision)
    tensors, _ = read_lora(path)
    assert {tensor.dtype for key, tensor in tensors.items() if not key.endswith(".alpha")} == {dtype}
    assert tensors[f"{QUERY}.alpha"] == torch.tensor(0.1, dtype=torch.float32)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="'fp8' does not exist"):
        save_lora(tmp_path / "eyes.safetensors", make_tensors(), {}, precision="fp8")


def test_views_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors[f"{QUERY}.lora_down.weight"] = torch.randn(320, 4).T
    tensors[f"{KEY}.lora_up.weight"] = tensors[f"{QUERY}.lora_up.weight"]
    tensors[f"{KEY}.lora_up.weight"].requires_grad_()
    saved, _ = read_lora(save_lora(tmp_path / "eyes.safetensors", tensors, {}, precision="fp32"))
    assert all(torch.equal(saved[key], tensor) for key, tensor in tensors.items())


def test_the_same_tensors_and_metadata_give_the_same_bytes(tmp_path: Path) -> None:
    tensors, metadata = make_tensors(), make_metadata()
    paths = [tmp_path / str(number) / "eyes.safetensors" for number in range(5)]
    for path in paths:
        path.parent.mkdir()
        save_lora(path, tensors, metadata, preview=Image.new("RGB", (8, 8), "red"))
        tensors, metadata = dict(reversed(tensors.items())), dict(reversed(metadata.items()))
    assert all(contents(path.parent) == contents(paths[0].parent) for path in paths)


def test_an_existing_file_is_kept_unless_overwriting(tmp_path: Path) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(1), {}, preview=Image.new("RGB", (8, 8)))
    before = contents(tmp_path)
    with pytest.raises(LoraFileError, match="exists already"):
        save_lora(path, make_tensors(2), {})
    assert contents(tmp_path) == before
    save_lora(path, make_tensors(2), {}, overwrite=True)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after["eyes.safetensors"] != before["eyes.safetensors"]


def test_a_picture_of_that_name_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "open.png").write_bytes(b"the original")
    with pytest.raises(LoraFileError, match=r"open\.png' exists already"):
        save_lora(tmp_path / "open.safetensors", make_tensors(), {}, preview=Image.new("RGB", (8, 8)))
    assert contents(tmp_path) == {"open.png": b"the original"}


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match=r"end in \.safetensors"):
        save_lora(tmp_path / "eyes.pt", make_tensors(), {})


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("done_before", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full: make room"),
        (PermissionError(errno.EACCES, "Permission denied"), r"cannot be written \(Permission denied\)"),
    ],
    ids=["full", "denied"],
)
def test_a_failed_move_leaves_the_old_lora_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str, done_before: int, overwrite: bool
) -> None:
    path = tmp_path / "eyes.safetensors"
    picture = Image.new("RGB", (8, 8), "blue")
    if overwrite:
        save_lora(path, make_tensors(1), make_metadata(), preview=picture)
    before = contents(tmp_path)
    monkeypatch.setattr(os, "replace", failing(error, done_before))
    with pytest.raises(LoraFileError, match=words):
        save_lora(path, make_tensors(2), make_metadata(rank=8), preview=picture, overwrite=overwrite)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after.get("eyes.safetensors") == before.get("eyes.safetensors")
    if done_before == 0:
        assert after == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(1), make_metadata())
    before = contents(tmp_path)

    def fsync(_descriptor: int) -> None:
        raise error  # the bytes are in the temporary file, which then must go

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises((LoraFileError, KeyboardInterrupt)):
        save_lora(path, make_tensors(2), make_metadata(), overwrite=True)
    assert contents(tmp_path) == before


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="cannot be written"):
        save_lora(tmp_path / "gone" / "eyes.safetensors", make_tensors(), {})


def test_the_lora_comes_last_and_only_temporary_names_come_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moves = os.replace, []

    def replace(source: Path, destination: Path) -> None:
        assert source.suffix == ".tmp"
        assert source.parent == destination.parent
        moves.append(destination.name)
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    save_lora(tmp_path / "v1.5.safetensors", make_tensors(), {}, preview=Image.new("RGB", (8, 8)))
    assert moves == ["v1.5.json", "v1.5.png", "v1.5.safetensors"]


# Values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, part: str, value: float) -> None:
    tensors = make_tensors()
    tensors[f"{CONV}.{part}"].view(-1)[-1] = value
    with pytest.raises(LoraFileError, match=f"{CONV}.{part}.*lower learning rate"):
        save_lora(tmp_path / "eyes.safetensors", tensors, {}, preview=Image.new("RGB", (8, 8)))
    assert contents(tmp_path) == {}


def test_values_too_large_for_fp16_are_refused_and_fit_in_fp32(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors[f"{QUERY}.lora_up.weight"][0, 0] = -7e4
    with pytest.raises(LoraFileError, match=r"7e\+04, which fp16 cannot hold"):
        save_lora(tmp_path / "eyes.safetensors", tensors, {})
    assert contents(tmp_path) == {}
    for precision in ("bf16", "fp32"):
        save_lora(tmp_path / f"{precision}.safetensors", tensors, {}, precision=precision)


@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_a_lora_that_does_nothing_is_refused(tmp_path: Path, part: str) -> None:
    tensors = make_tensors()
    for name in (QUERY, KEY):
        tensors[f"{name}.{part}"].zero_()
    save_lora(tmp_path / "one layer acts.safetensors", tensors, {})
    tensors[f"{CONV}.{part}"].zero_()
    with pytest.raises(LoraFileError, match="does nothing"):
        save_lora(tmp_path / "eyes.safetensors", tensors, {})
    assert not (tmp_path / "eyes.safetensors").exists()


def test_a_lora_that_fp16_rounds_to_nothing_is_refused(tmp_path: Path) -> None:
    tensors = {key: tensor * 1e-9 if ".lora_up." in key else tensor for key, tensor in make_tensors().items()}
    with pytest.raises(LoraFileError, match="does nothing"):
        save_lora(tmp_path / "eyes.safetensors", tensors, {})
    save_lora(tmp_path / "eyes.safetensors", tensors, {}, precision="fp32")


def test_no_tensors_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="does nothing"):
        save_lora(tmp_path / "eyes.safetensors", {}, {})


# Metadata


def test_the_header_is_sorted_ascii_json_as_webuis_read_it(tmp_path: Path) -> None:
    metadata = make_metadata(prompt='目 👁, "quoted" \\ <tag>')
    file = save_lora(tmp_path / "eyes.safetensors", make_tensors(), metadata).read_bytes()
    header, data = split(file)
    assert file[8:10] == b'{"'
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert file[8 : len(file) - len(data)].isascii()
    ends = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
    assert max(end for _, end in ends) == len(data)
    assert json.loads(read_lora(tmp_path / "eyes.safetensors")[1]["addift.config"])["prompt"].startswith("目 👁")


@pytest.mark.parametrize("rank", [4, 512])  # less and more than the 1 MB where the legacy hash begins
def test_the_hashes_are_those_of_the_data(tmp_path: Path, rank: int) -> None:
    stale = {**make_metadata(make_tensors(rank=rank)), "sshs_model_hash": "stale", "sshs_legacy_hash": "stale"}
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(rank=rank), stale)
    header, data = split(path.read_bytes())
    metadata = header["__metadata__"]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()

    header["__metadata__"] = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file = struct.pack("<Q", len(text)) + text + data
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(file[2**20 : 2**20 + 2**16]).hexdigest()[:8]
    assert (metadata["sshs_legacy_hash"] == hashlib.sha256(b"").hexdigest()[:8]) == (len(file) < 2**20)


# Beside the file


def test_the_card_and_its_picture(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (16, 8), (10, 20, 30, 40))
    save_lora(tmp_path / "v1.5.safetensors", make_tensors(), make_metadata(rank=8), preview=picture)
    card = json.loads((tmp_path / "v1.5.json").read_text("ascii"))
    notes = card.pop("notes").splitlines()
    assert card == {
        "description": "The difference of two pictures, learnt with ADDifT on tiny-world in 60 steps.",
        "sd version": "SD1",
        "activation text": "",
        "preferred weight": 1.0,
        "negative text": "",
    }
    assert "Trained on: tiny-world" in notes
    assert "  Rank: 8" in notes
    assert "  round trip error: 0.25" in notes
    with Image.open(tmp_path / "v1.5.png") as image:
        assert (image.size, image.mode, image.format) == ((16, 8), "RGB", "PNG")


@pytest.mark.parametrize("versions", [None, {"SD1": "sd", "SDXL": "xl"}])
@pytest.mark.parametrize(
    ("base", "version"), [("sd_v1", "SD1"), ("sd_v2_v", "SD2"), ("sdxl_base_v1-0", "SDXL"), ("", "SD1")]
)
def test_the_card_has_the_webuis_own_word_for_the_base_model(
    tmp_path: Path, base: str, version: str, versions: dict[str, str] | None
) -> None:
    metadata = {**make_metadata(rank=8), "ss_base_model_version": base}
    save_lora(tmp_path / "some.safetensors", make_tensors(), metadata, card_versions=versions)
    card = json.loads((tmp_path / "some.json").read_text("ascii"))
    assert card["sd version"] == (versions or {}).get(version, version)


# Reading


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[:5], lambda b: b[:100], lambda b: b[:-1], lambda b: b"\xff" * 100, lambda b: b"PK" + b],
    ids=["empty", "no length", "half a header", "truncated", "noise", "a zip"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(), make_metadata())
    path.write_bytes(damage(path.read_bytes()))
    for read in (read_lora, describe):
        with pytest.raises(LoraFileError, match="no whole safetensors file"):
            read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="does not exist"):
        read_lora(tmp_path / "eyes.safetensors")
    with pytest.raises(LoraFileError, match="no whole safetensors file"):
        read_lora(tmp_path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["model.diffusion_model.out.2.weight", "first_stage_model.x"], "checkpoint.*'first_stage_model.x'"),
        ([f"{QUERY}.a1.weight", f"{QUERY}.alpha"], "another kind of network"),
        ([f"{QUERY}.dora_scale", f"{QUERY}.alpha"], "another kind of network"),
        ([f"{QUERY}.hada_w1_a", f"{QUERY}.alpha"], rf"half of layer '{QUERY}' \(alpha, hada_w1_a\)"),
        ([f"{QUERY}.lokr_w1", f"{QUERY}.lokr_w2_a"], f"half of layer '{QUERY}'"),
        ([], "none at all"),
        ([f"{QUERY}.lora_down.weight"], f"half of layer '{QUERY}'"),
        ([f"{QUERY}.lora_down.weight", f"{QUERY}.lora_up.weight", f"{KEY}.lora_up.weight"], f"half of layer '{KEY}'"),
    ],
)
def test_what_is_no_lora_is_refused(tmp_path: Path, keys: list[str], words: str) -> None:
    safetensors.torch.save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / "x.safetensors")
    with pytest.raises(LoraFileError, match=words):
        read_lora(tmp_path / "x.safetensors")


def test_a_file_that_is_in_use_can_be_replaced(tmp_path: Path) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(1), {})
    tensors, _ = read_lora(path)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    save_lora(path, make_tensors(2), {}, overwrite=True)
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)


# Every kind of LoRA


@every_kind
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.1)])
def test_a_file_draws_what_the_network_drew(tmp_path: Path, kind: str, precision: str, tolerance: float) -> None:
    host = FakeHost()
    plain = predict(host)
    network = make(host, kind)
    network.multiplier = -1.7
    with network.attach():
        expected = predict(host)
    path = save(tmp_path / "blink.safetensors", network, -1.7, precision, **KINDS[kind])
    tensors, _ = read_lora(path)
    for key, tensor in tensors.items():
        assert (tensor.dtype == torch.float32) == (precision == "fp32" or key.endswith((".alpha", ".dora_scale"))), key
    loaded = LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)
    with loaded.attach():
        drawn = predict(host)
    assert (drawn - expected).abs().max() < tolerance * (expected - plain).abs().max()


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_an_untrained_lora_of_any_kind_is_refused(tmp_path: Path, kind: str) -> None:
    host = FakeHost()
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=3.0, seed=0, **KINDS[kind])
    with pytest.raises(LoraFileError, match="does nothing"):
        save_lora(tmp_path / "blink.safetensors", network.tensors(), {})


def test_a_dora_whose_norms_alone_were_learnt_is_saved(tmp_path: Path) -> None:
    network = make(FakeHost(), "DoRA")
    for layer in network.layers.values():
        layer.lora_up.data.zero_()
    assert read_lora(save_lora(tmp_path / "blink.safetensors", network.tensors(), {}))
