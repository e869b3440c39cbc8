"""LoRA files that are damaged, mutated or of rare formats: they are used, or refused in one sentence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lib_addift.errors import AddiftError, LoraFileError
from lib_addift.lora.arithmetic import RankLimit
from lib_addift.lora.file import describe, read_lora
from lib_addift.lora.inspect import show
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.tools import Output, resize_file
from tests.support.fake_host import FakeHost
from tests.support.lora_files import QUERY, make_metadata, make_tensors, split
from tests.support.lora_networks import KINDS, make, predict, save
from tests.support.wrong_values import sentence_problem

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
Tensors = dict[str, torch.Tensor]


def uses(path: Path, host: FakeHost) -> dict[str, Callable[[], object]]:
    """What the extension does with a LoRA file."""
    new = Output(path.with_name("new.safetensors"), overwrite=True)
    return {
        "act": lambda: LoraNetwork.from_tensors(read_lora(path)[0], host.unet, host.lora_name),
        "inspect": lambda: describe(path),
        "show": lambda: show(path, each_layer=True),
        "resize": lambda: resize_file(path, new, RankLimit(1)),
    }


def outcome(use: Callable[[], object]) -> str:
    """'done', 'refused', or what is wrong with how it ended."""
    try:
        result = use()
    except AddiftError as error:
        return sentence_problem(str(error)) or "refused"
    except Exception as error:
        return repr(error)[:200]
    if isinstance(result, str) and not all(line.isprintable() for line in result.split("\n")):
        return "prints what cannot be printed"
    return "done"


# Mutations: of a file's tensors, of its header, of its bytes.


def _of_tensors(tensors: Tensors, chance: random.Random) -> None:
    key = chance.choice(sorted(tensors))
    tensor = tensors[key].float()
    flat = tensor.flatten()
    choices: list[Callable[[], torch.Tensor]] = [
        lambda: torch.tensor(0.5),
        lambda: flat,
        lambda: torch.zeros(0),
        lambda: tensor.new_zeros(0, *tensor.shape[1:]),
        lambda: tensor.reshape(*tensor.shape, 1),
        lambda: tensor[None],
        lambda: tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor,
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else torch.stack([tensor, tensor]),
        lambda: torch.full_like(tensor, chance.choice([float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30])),
        lambda: torch.where(torch.rand(tensor.shape) < 0.2, float("nan"), tensor),
        lambda: tensor.to(chance.choice([*FLOAT8, torch.bfloat16, torch.float64, torch.int8, torch.int64])),
        lambda: tensor > 0,
        lambda: tensor[:1] if tensor.ndim else tensor,
    ]
    tensors[key] = chance.choice(choices)().clone()


def _of_keys(tensors: Tensors, chance: random.Random) -> None:
    key = chance.choice(sorted(tensors))
    name, _, part = key.partition(".")
    other = chance.choice(["dora_scale", "lora_mid.weight", "hada_t1", "lokr_w1", "lokr_t2", "diff", "alpha", "x", ""])
    new = chance.choice(
        [f"{name}.{other}", f"x.{part}", f"lora_unet_\x1b[31m{part}", part, "a\nb.lora_up.weight", "é."]
    )
    tensors[new] = tensors.pop(key) if chance.random() < 0.6 else torch.ones(chance.choice([(), (3,), (2, 2)]))


ODD_METADATA: list[Any] = [
    {"addift.config": {"a": 1}},
    {"addift.config": '{"a":' * 2000 + "1" + "}" * 2000},
    {"addift.config": '{"a":' * 50 + "1" + "}" * 50},
    {"addift.report": "[" * 5000},
    {"addift.report": json.dumps({"a": [[{"b": [1, [2]]}]], "c\x1b[2J": "\r\n\x1b[31m", "d": 1e999, "e": None})},
    {"addift.report": '{"a": ' + "9" * 5000 + "}"},
    {"addift.config": json.dumps({"rank": [], "prompt": "x" * 5000, "layers": {"a": {}}})},
    {"ss_training_comment": "\x1b]0;title\x07\u202egnp.exe", "ss_base_model_version": "\nSDXL"},
    {"ss_seed": 5},
    {"ss_seed": None},
    "text",
    None,
    [],
]


def _of_header(header: dict[str, Any], chance: random.Random) -> None:
    entry = header[chance.choice(sorted(key for key in header if key != "__metadata__"))]
    what = chance.randrange(6)
    if what == 0:
        entry["dtype"] = chance.choice(["F4", "F8_E8M0", "F8_E4M3", "X", "I8", "U8", "BOOL", "C64", "", 5, None])
    elif what == 1:
        entry["shape"] = chance.choice([[], [-1], [2**62, 2**62], [0], ["a"], None, [1.5], [2**40]])
    elif what == 2:
        entry["data_offsets"] = chance.choice([[0, 0], [8, 4], [-1, 3], [0, 2**60], [], None, [0]])
    else:
        header["__metadata__"] = chance.choice(ODD_METADATA)


def _of_bytes(file: bytes, chance: random.Random) -> bytes:
    what, place = chance.randrange(5), chance.randrange(len(file))
    if what == 0:
        return file[:place]
    if what == 1:
        return file[:place] + chance.randbytes(chance.randrange(1, 9)) + file[place:]
    if what == 2:
        return chance.randbytes(8) + file[8:]
    changed = bytearray(file)
    for _ in range(chance.choice([1, 4, 64])):
        changed[chance.randrange(min(len(file), chance.choice([8, 2000, len(file)])))] = chance.randrange(256)
    return bytes(changed)


def _rebuilt(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def mutated(file: bytes, chance: random.Random) -> bytes:
    """The file with one to three changes of one kind."""
    kind, times = (
        chance.choice(["tensors", "tensors", "tensors", "keys", "header", "bytes"]),
        chance.choice([1, 1, 2, 3]),
    )
    if kind in ("tensors", "keys"):
        tensors, metadata = safetensors.torch.load(file), split(file)[0].get("__metadata__")
        for _ in range(times):
            (_of_tensors if kind == "tensors" else _of_keys)(tensors, chance)
        return safetensors.torch.save(tensors, metadata)
    if kind == "header":
        header, data = split(file)
        for _ in range(times):
            _of_header(header, chance)
        return _rebuilt(header, data)
    for _ in range(times):
        file = _of_bytes(file or b"\0" * 8, chance)
    return file


def failures(folder: Path, seed: int, count: int) -> tuple[list[str], dict[str, int]]:
    """What went wrong with so many mutated files, and how many uses ended how."""
    host, chance = FakeHost(), random.Random(seed)
    torch.manual_seed(seed)
    wholes = [save(folder / f"{kind}.safetensors", make(host, kind), 1.0, **KINDS[kind]) for kind in KINDS]
    originals = [file.read_bytes() for file in wholes]
    problems: list[str] = []
    ends = {"done": 0, "refused": 0}
    path = folder / "mutated.safetensors"
    for number in range(count):
        path.write_bytes(mutated(chance.choice(originals), chance))
        for name, use in uses(path, host).items():
            end = outcome(use)
            if end in ends:
                ends[end] += 1
            else:
                problems.append(f"file {number} of seed {seed}, {name}: {end}")
    return problems, ends


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 60), pytest.param(2, 1600, marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_mutated_files_are_used_or_refused_in_one_sentence(tmp_path: Path, seed: int, count: int) -> None:
    problems, ends = failures(tmp_path, seed, count)
    assert problems == []
    assert min(ends.values()) > count / 4, "many files are refused, and many can still be used"


# Single kinds of damage, whose sentence says what it is.


def written(path: Path, **changes: torch.Tensor | None) -> Path:
    """A small LoRA of three layers; `changes` are of the first one's parts, such as alpha."""
    tensors = make_tensors()
    for part, tensor in changes.items():
        tensors[f"{QUERY}.{part.replace('_weight', '.weight')}"] = tensor  # type: ignore[assignment]
    safetensors.torch.save_file(tensors, path, make_metadata())
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_up_weight": torch.tensor(1.0)}, r"has the shape \(\), which is no matrix"),
        ({"lora_down_weight": torch.ones(4)}, r"has the shape \(4,\), which is no matrix"),
        ({"lora_down_weight": torch.ones(0, 320), "lora_up_weight": torch.ones(320, 0)}, r"\(0, 320\).*no matrix"),
        ({"lora_down_weight": torch.ones(4, 320, dtype=torch.int8)}, "is stored as int8"),
        ({"alpha": torch.zeros(0)}, "must be one number"),
        ({"alpha": torch.ones(2)}, "must be one number"),
        ({"alpha": torch.tensor(float("nan"))}, "nan, which is not finite"),
        ({"alpha": torch.tensor(-float("inf"))}, "-inf, which is not finite"),
    ],
)
def test_the_sentence_says_what_is_wrong(tmp_path: Path, changes: dict[str, torch.Tensor], words: str) -> None:
    path = written(tmp_path / "x.safetensors", **changes)
    for read in (read_lora, describe, show):
        with pytest.raises(LoraFileError, match=words):
            read(path)


def test_numbers_that_are_not_finite_are_counted_and_such_a_file_does_not_act(tmp_path: Path) -> None:
    up = torch.ones(320, 4)
    up[3, 1:] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    path = written(tmp_path / "x.safetensors", lora_up_weight=up)
    total = sum(tensor.numel() for tensor in make_tensors().values())
    assert f"NOT FINITE: 3 of {total} numbers, in 1 tensors such as '{QUERY}.lora_up.weight'" in describe(path)
    with pytest.raises(LoraFileError, match="holds 3 numbers that are not finite"):
        read_lora(path)


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("kind", KINDS)
def test_files_in_float8_act_as_the_numbers_in_them(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    host = FakeHost()
    tensors = {key: tensor.to(dtype) for key, tensor in make(host, kind).tensors().items()}
    safetensors.torch.save_file(tensors, tmp_path / "small.safetensors")
    safetensors.torch.save_file({key: value.float() for key, value in tensors.items()}, tmp_path / "large.safetensors")
    drawn = []
    for name in ("small", "large"):
        path = tmp_path / f"{name}.safetensors"
        with LoraNetwork.from_tensors(read_lora(path)[0], host.unet, host.lora_name).attach():
            drawn.append(predict(host))
        for use, run in uses(path, host).items():
            assert outcome(run) == ("refused" if kind == "DoRA" and use == "resize" else "done"), use
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], predict(host))
    assert f"stored as {str(dtype).removeprefix('torch.')}" in describe(tmp_path / "small.safetensors")
