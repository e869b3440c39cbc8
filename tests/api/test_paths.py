"""Every setting that holds a path, however many there will be, names only files in folders that are open."""

import ast
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_addift.api.answers import config_answer
from lib_addift.api.paths import Folders
from lib_addift.config.settings import TrainConfig
from tests.support import loras
from tests.support.api import V1, refused
from tests.support.lora_files import make_tensors

PACKAGE = Path(__file__).parents[2] / "lib_addift"
FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
PATHS = {name: field.metadata["path"] for name, field in FIELDS.items() if "path" in field.metadata}
TEXTS = {name for name, field in FIELDS.items() if field.type == "str" and "choices" not in field.metadata}
OPENING = {"Path", "PurePath", "open", "safe_open", "load_file", "read_lora", "load_picture", "stat"}

ELSEWHERE = [
    r"\\server\share\x", "//server/share/x", r"\/server/share/x", r"/\server\share\x", r"\\?\C:\x",
    r"\\.\PhysicalDrive0", r"\\?\UNC\server\share\x",
]  # fmt: skip
DEVICES = ["NUL", "nul.png", "CON", "com1", "LPT9.safetensors", "aux.", "PRN .png", "sub/NUL", "COM¹", "nul:x"]
ODD = [".", "..", "/", "sub", "a\0b", "x" * 5000, "~/x", "file:///x", "https://example.org/x", "C:\\Windows\\win.ini",
       "/dev/zero", "/proc/self/environ", "/etc/passwd", "..\\..\\x", "loop", "link",
       "link_out/secret", "pipe"]  # fmt: skip


@pytest.fixture
def folders(tmp_path) -> Folders:
    """Both kinds of folder, each with a file, links that lead out, and other things that are no files."""
    (tmp_path / "outside").mkdir()
    for name in ("secret", "secret.png", "secret.safetensors"):
        (tmp_path / "outside" / name).write_bytes(b"secret")
    made = Folders((tmp_path / "open pictures",), (tmp_path / "open loras",))
    for folder in (*made.pictures, *made.loras):
        (folder / "sub").mkdir(parents=True)
        for name in ("here", *(each for each in DEVICES if os.name != "nt")):
            (folder / name).write_bytes(b"x")
        if os.name != "nt":
            os.mkfifo(folder / "pipe")
            (folder / "loop").symlink_to(folder / "loop")
            (folder / "link").symlink_to(tmp_path / "outside" / "secret")
            (folder / "link_out").symlink_to(tmp_path / "outside")
    return made


def outside(tmp_path: Path, suffix: str) -> list[str]:
    """Ways to name a file that lies elsewhere."""
    name = f"secret{suffix}"
    beside = tmp_path / "open pictures" / ".." / "outside" / name
    return [str(tmp_path / "outside" / name), f"../outside/{name}", str(beside), f"sub/../../outside/{name}"]


def refusal(folders: Folders, name: str, path: str) -> str:
    """What is said of a setting, with the path itself left out."""
    with pytest.raises(Exception, match=r"opens? .*to the API") as error:
        folders.checked_settings({name: path})
    assert type(error.value).__module__ == "lib_addift.errors"
    return str(error.value).replace(repr(path[:300]), "PATH")


@pytest.mark.parametrize("name", PATHS)
def test_a_file_that_is_open_is_taken_by_name_and_in_full(folders, name):
    folder = (folders.pictures if PATHS[name] == "picture" else folders.loras)[0]
    for given in ("here", str(folder / "here"), "sub/../here"):
        assert folders.checked_settings({name: given, "rank": 2}) == {name: str(folder / "here"), "rank": 2}
    assert folders.checked_settings({name: ""}) == {name: ""}
    assert folders.checked_settings({name: 5}) == {name: 5}, "wrong types are TrainConfig's to refuse"


@pytest.mark.parametrize("name", PATHS)
def test_no_path_leads_out_and_no_answer_tells_what_lies_there(folders, name, tmp_path):
    said = {refusal(folders, name, path) for path in (*ELSEWHERE, *DEVICES, *ODD)}
    for suffix in ("", ".png", ".safetensors"):
        for path in outside(tmp_path, suffix):
            said |= {refusal(folders, name, path), refusal(folders, name, path.replace("secret", "absent"))}
    other = folders.loras if PATHS[name] == "picture" else folders.pictures
    said.add(refusal(folders, name, str(other[0] / "here")))
    assert len(said) == 1, said


@pytest.mark.parametrize("name", PATHS)
def test_what_lies_elsewhere_is_refused_without_asking_the_disk(folders, name, tmp_path, monkeypatch):
    asked: list[str] = []

    def noting(function):
        return lambda path, *rest, **more: (asked.append(str(path)), function(path, *rest, **more))[1]

    for function in ("stat", "lstat", "readlink", "open", "scandir", "listdir"):
        monkeypatch.setattr(os, function, noting(getattr(os, function)))
    monkeypatch.setattr(io, "open", noting(io.open))
    for path in (*ELSEWHERE, *DEVICES, "/dev/zero", "/proc/self/environ", *outside(tmp_path, "")):
        refusal(folders, name, path)
    mine = [str(folder) for folder in (*folders.pictures, *folders.loras)]
    parents = {str(parent) for folder in mine for parent in Path(folder).parents}
    assert asked, "the open folders themselves are looked up"
    assert set(asked) <= {*mine, *parents}


def test_over_http(client, body, host, tmp_path):
    """The settings of /train and /pair alike, and an error of a LoRA tells nothing more."""
    host.lora_dir.mkdir(exist_ok=True)
    loras.write(host.lora_dir / "first.safetensors", make_tensors())
    loras.write(tmp_path / "first.safetensors", make_tensors())
    pair = {key: body[key] for key in ("original", "target")}
    for name, kind in PATHS.items():
        extra = {"mask": "file"} if kind == "picture" else {"method": "copier"}
        error = "PictureError" if kind == "picture" else "ConfigError"
        for path in (str(tmp_path / "first.safetensors"), "/etc/passwd", "../first.safetensors", ELSEWHERE[0]):
            settings = {**body["settings"], **extra, name: path}
            for route, sent in (("train", body), ("pair", pair)):
                response = client.post(f"{V1}/{route}", json={**sent, "settings": settings})
                refused(response, 422, error, f"{name} = ", "opens to the API")
    assert client.get(f"{V1}/jobs").json() == []
    settings = {**body["settings"], "method": "copier", "first_lora": "first.safetensors"}
    response = client.post(f"{V1}/pair", json={**pair, "settings": settings})
    assert response.is_success, response.text


def test_the_schema_tells_which_settings_are_paths():
    assert PATHS.keys() >= {"mask_file", "first_lora"}
    assert set(PATHS.values()) <= {"picture", "lora"}
    properties = config_answer().properties
    assert {name: each["x-path"] for name, each in properties.items() if "x-path" in each} == PATHS


# A setting that holds a path and does not say so.


def opened(source: str) -> Iterator[str]:
    """The settings that a module makes a path or a file of: TrainConfig's fields inside calls such as Path(...)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in OPENING:
            arguments = [*node.args, *(word.value for word in node.keywords)]
            inner = (each for argument in arguments for each in ast.walk(argument))
            yield from (each.attr for each in inner if isinstance(each, ast.Attribute) and each.attr in TEXTS)


def test_no_module_opens_a_setting_that_is_not_declared_a_path():
    used = {(name, file.name) for file in PACKAGE.rglob("*.py") for name in opened(file.read_text(encoding="utf-8"))}
    assert {name for name, _ in used} >= {"first_lora"}, "the search finds those that are"
    assert {(name, file) for name, file in used if name not in PATHS} == set()
    assert list(opened("import os\nopen(Path(config.trigger_word) / 'x')")) == ["trigger_word", "trigger_word"]


def test_what_sounds_like_a_path_is_declared_as_one():
    words = {"file", "path", "folder", "dir", "directory", "checkpoint"}
    for name in TEXTS - PATHS.keys():
        label = str(FIELDS[name].metadata["label"]).lower().split()
        assert words.isdisjoint({*name.split("_"), *label}), f"{name}: declare it with path=..."


def test_no_other_text_setting_makes_the_program_open_a_file(client, body, tmp_path, monkeypatch):
    """Each free text names a file that is there, or only its folder; a request with it reads nothing of it."""
    canary = tmp_path / "canary.safetensors"
    canary.write_bytes(b"x")
    opened_files: list[str] = []
    for module in (io, os):
        real = module.open
        monkeypatch.setattr(
            module, "open", lambda path, *a, _real=real, **k: (opened_files.append(str(path)), _real(path, *a, **k))[1]
        )
    for name in sorted(TEXTS - PATHS.keys()):
        pair = {"original": body["original"], "target": body["target"], "settings": {name: str(canary)}}
        assert client.post(f"{V1}/pair", json=pair).status_code in (200, 422)
        client.post(
            f"{V1}/train?wait=true", json={**body, "name": name, "settings": {**body["settings"], name: str(canary)}}
        )
    assert not [each for each in opened_files if "canary" in each]
