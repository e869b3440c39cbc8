"""The HTTP API over real jobs on the fake host."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lib_addift.api import errors, pictures
from lib_addift.api.routes import add_routes
from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.demo import world
from lib_addift.jobs.queue import Jobs
from lib_addift.lora.file import read_lora
from tests.support.fake_host import FakeHost

V1 = "/addift/v1"
QUICK = {"max_train_steps": 4, "preview_every": 2, "sampling_steps": 2, "resolution": 64, "precision": "fp32"}
ROUTES = {
    ("post", "/train"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("post", "/jobs/{job_id}/stop"),
    ("post", "/jobs/{job_id}/retry"),
    ("post", "/jobs/{job_id}/move"),
    ("get", "/queue"),
    ("post", "/queue/pause"),
    ("post", "/queue/resume"),
    ("get", "/jobs/{job_id}/steps/{step}"),
    ("post", "/jobs/{job_id}/steps/{step}/save"),
    ("get", "/presets"),
    ("get", "/config"),
    ("post", "/pair"),
}


class GatedHost(FakeHost):
    """Predicts only while its gate is open; `begun` tells that a job is at work."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def predict_noise(self, latents, timesteps, cond):
        self.begun.set()
        assert self.gate.wait(30)
        return super().predict_noise(latents, timesteps, cond)


@pytest.fixture
def host(tmp_path):
    return GatedHost(tmp_path / "lora")


@pytest.fixture
def make_client(host, pair_files):
    """Makes a client for an app with the API alone; keywords go to add_routes."""
    clients = []

    def make(**keywords):
        app = FastAPI()
        jobs = Jobs(host)
        add_routes(app, jobs, **{"credentials": None, "picture_dirs": [pair_files[0].parent], **keywords})
        clients.append(TestClient(app))
        clients[-1].jobs = jobs
        return clients[-1].__enter__()  # one event loop for all requests, as in a server

    yield make
    host.gate.set()
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client):
    return make_client()


def encoded(file):
    return base64.b64encode(file.read_bytes()).decode()


@pytest.fixture
def body(pair_files):
    original, target = map(encoded, pair_files)
    return {"original": original, "target": target, "name": "closed_eyes", "settings": dict(QUICK)}


def refused(response, code, error, *words):
    """Whether a request was refused in the form that every route promises."""
    assert response.status_code == code, response.text
    answer = response.json()
    assert set(answer) == {"error", "message"}
    assert answer["error"] == error
    for word in words:
        assert word in answer["message"]
    assert "\n" not in answer["message"]
    return answer["message"]


def picture(text):
    opened = Image.open(io.BytesIO(base64.b64decode(text)))
    assert opened.format == "PNG"
    return opened


def test_train_answers_at_once_and_the_job_tells_its_way(client, host, body):
    host.gate.clear()
    response = client.post(f"{V1}/train", json=body)
    assert response.status_code == 200, response.text
    queued = response.json()
    assert queued["state"] in ("queued", "running")
    assert (queued["name"], queued["step"], queued["total"], queued["progress"]) == ("closed_eyes", 0, 4, 0.0)
    assert queued["result"] is None
    assert queued["strip"] is None
    assert queued["findings"][0]["level"] == "ok"

    host.gate.set()
    done = client.get(f"{V1}/jobs/{queued['id']}?wait=true").json()
    assert done["state"] == "done"
    assert done["error"] == ""
    assert (done["step"], done["progress"], len(done["losses"])) == (4, 1.0, 4)
    assert done["created"] <= done["started"] <= done["finished"]
    result = done["result"]
    assert (result["name"], result["tag"], result["steps"]) == ("closed_eyes", "<lora:closed_eyes:1>", 4)
    assert result["path"] == str(host.lora_dir / "closed_eyes.safetensors")
    assert 0 <= result["recovery"] <= 1
    assert result["verdict"] == done["text"]
    assert result["train_seconds"] > 0
    assert (result["strip"], result["pictures"], done["strip"]) == (None, None, None)
    assert read_lora(host.lora_dir / "closed_eyes.safetensors")
    assert client.get(f"{V1}/jobs").json() == [done]


def test_train_can_wait_and_send_pictures(client, body):
    done = client.post(f"{V1}/train?wait=true&pictures=true", json=body).json()
    assert done["state"] == "done"
    assert picture(done["strip"]).width == 5 * 128
    assert done["strip"] == done["result"]["strip"]
    assert picture(done["result"]["pictures"]).width == 6 * 128


def test_waiting_blocks_nobody(client, host, body):
    host.gate.clear()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(client.post, f"{V1}/train?wait=true", json={**body, "name": f"n{i}"}) for i in range(60)]
        assert host.begun.wait(30)
        assert client.get(f"{V1}/presets").status_code == 200
        for job in client.get(f"{V1}/jobs").json():
            client.post(f"{V1}/jobs/{job['id']}/stop")
        host.gate.set()
        for future in waiting:
            future.result(60)
    assert len(client.get(f"{V1}/jobs").json()) == 60


def test_preset_and_settings_reach_the_job(client, body):
    body |= {"preset": "detail", "settings": {**QUICK, "rank": 2, "layers": ["feed_forward"], "mask": "off"}}
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    config = client.jobs.get(job["id"]).request.config
    assert config == TrainConfig.create("detail", **{**QUICK, "rank": 2, "layers": ("feed_forward",), "mask": "off"})


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "data:;base64,", "\n"])
def test_base64_may_have_a_prefix_and_line_breaks(client, body, prefix):
    text = base64.encodebytes(base64.b64decode(body["original"])).decode()
    assert client.post(f"{V1}/train", json={**body, "original": prefix + text}).status_code == 200


def test_pictures_by_path(client, body, pair_files):
    del body["original"], body["target"]
    body |= {"original_path": str(pair_files[0]), "target_path": "closed.png"}  # absolute, or within a folder
    assert client.post(f"{V1}/train?wait=true", json=body).json()["state"] == "done"


def test_files_outside_the_folders_are_refused_alike_whether_they_exist_or_not(client, body, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(base64.b64decode(body.pop("original")))
    beside = tmp_path / "pictures_too"  # its name begins like the allowed folder's
    beside.mkdir()
    (beside / "x.png").write_bytes(outside.read_bytes())
    for there, absent in (
        (outside, tmp_path / "absent.png"),
        ("../secret.png", "../absent.png"),
        (beside / "x.png", beside / "y.png"),
        (tmp_path / "pictures" / ".." / "secret.png", tmp_path / "pictures" / ".." / "absent.png"),
    ):
        texts = []
        for path in map(str, (there, absent)):
            response = client.post(f"{V1}/train", json={**body, "original_path": path})
            texts.append(refused(response, 422, "PictureError", "opens to the API").replace(repr(path), ""))
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/", "a\0b", "\ud800.png", "/dev/zero", "/etc/passwd", "x" * 5000, "~/x.png", "file:///x.png",
     "https://example.org/x.png", r"\\server\share\x.png", "//server/share/x.png", r"C:\Windows\win.ini", "NUL",
     r"\\?\C:\x.png", r"..\..\x.png"],
)  # fmt: skip
def test_odd_paths_are_refused(client, body, path):
    del body["original"]
    content = json.dumps({**body, "original_path": path})
    response = client.post(f"{V1}/train", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"] in ("PictureError", "RequestError")  # pydantic 2 refuses half characters itself


def test_links_are_followed_before_they_are_judged(client, body, pair_files, tmp_path):
    del body["original"]
    folder, outside = pair_files[0].parent, tmp_path / "outside"
    outside.mkdir()
    world.draw(world.Face()).save(outside / "secret.png")
    try:
        os.symlink(outside / "secret.png", folder / "link.png")
        os.symlink(outside, folder / "folder", target_is_directory=True)
        os.symlink(folder / "loop.png", folder / "loop.png")
        os.symlink(pair_files[0], folder / "fine.png")
        os.symlink(folder, tmp_path / "way_in", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets us make no links")
    for path in ("link.png", "folder/secret.png", "loop.png", str(tmp_path / "way_in" / "open.png")):
        refused(client.post(f"{V1}/train", json={**body, "original_path": path}), 422, "PictureError")
    assert client.post(f"{V1}/train", json={**body, "original_path": "fine.png"}).status_code == 200


def test_an_allowed_folder_may_itself_be_a_link(make_client, body, pair_files, tmp_path):
    try:
        os.symlink(pair_files[0].parent, tmp_path / "way_in", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets us make no links")
    client = make_client(picture_dirs=[tmp_path / "way_in"])
    del body["original"]
    for number, path in enumerate(("open.png", tmp_path / "way_in" / "open.png", pair_files[0])):
        body |= {"name": f"n{number}", "original_path": str(path)}
        assert client.post(f"{V1}/train", json=body).status_code == 200


def test_without_folders_every_path_is_refused(make_client, body, pair_files):
    client = make_client(picture_dirs=[])
    del body["original"]
    answer = client.post(f"{V1}/train", json={**body, "original_path": str(pair_files[0])})
    refused(answer, 422, "PictureError", "opens no folders", "base64")


def test_a_mask_file_is_a_path_like_others(client, body, pair_files, tmp_path):
    Image.new("L", (64, 64), 255).save(pair_files[0].parent / "mask.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    body["settings"] |= {"mask": "file", "mask_file": str(tmp_path / "mask.png")}
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "mask_file", "opens to the API")
    body["settings"]["mask_file"] = "mask.png"
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    assert job["state"] == "done"
    assert client.jobs.get(job["id"]).pair.mask.min() == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"original": "no base64!"}, "PictureError", ["the original", "base64"]),
        ({"original": ""}, "PictureError", ["the original", "base64"]),
        ({"original": "ä"}, "PictureError", ["the original", "base64"]),
        ({"original": "data:image/png,abcd"}, "PictureError", ["the original", "read"]),
        ({"target": base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode()}, "PictureError", ["the target", "PNG"]),
        ({"original": None}, "PictureError", ["the original is missing", "original_path"]),
        ({"original_path": "open.png"}, "PictureError", ["'original' and 'original_path'"]),
        ({"preset": "dance"}, "ConfigError", ["dance", "action"]),
        ({"settings": {"rnak": 8}}, "ConfigError", ["'rnak'", "rank"]),
        ({"settings": {"rank": 0}}, "ConfigError", ["rank = 0"]),
        ({"settings": {"rank": "8"}}, "ConfigError", ["rank"]),
        ({"settings": {"rank": None}}, "ConfigError", ["rank"]),
        ({"settings": {"layers": 5}}, "ConfigError", []),
        ({"settings": {"layers": [{}]}}, "ConfigError", ["layers"]),
        ({"settings": {"alpha": 10**400}}, "ConfigError", []),
        ({"settings": {"preset": "style"}}, "ConfigError", ["preset"]),
        ({"settings": {"cls": 1}}, "ConfigError", ["cls"]),
        ({"settings": {"mask_file": 5}}, "ConfigError", ["mask_file"]),
        ({"settings": {"optimizer": "Adamm"}}, "ConfigError", ["Adamm"]),
        ({"settings": [1]}, "RequestError", ["'settings'"]),
        ({"name": "../x"}, "LoraNameError", ["../x"]),
        ({"name": ""}, "LoraNameError", ["empty"]),
        ({"name": None}, "RequestError", ["'name'"]),
        ({"overwrite": "perhaps"}, "RequestError", ["'overwrite'"]),
        ({"rank": 8}, "RequestError", ["'rank'", "settings"]),
        ({"output": "/tmp/x"}, "RequestError", ["'output'"]),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_queues_nothing(client, body, host, change, error, words):
    message = refused(client.post(f"{V1}/train", json={**body, **change}), 422, error, *words)
    assert message.endswith(".")
    assert client.get(f"{V1}/jobs").json() == []
    assert not list(host.lora_dir.glob("*")) if host.lora_dir.exists() else True


def test_a_missing_field_is_named(client, body):
    del body["name"]
    refused(client.post(f"{V1}/train", json=body), 422, "RequestError", "'name' is missing")


@pytest.mark.parametrize(
    ("content", "kind", "word"),
    [
        ("", "application/json", "JSON object"),
        ("{", "application/json", "no JSON"),
        ("[1]", "application/json", "JSON object"),
        ('"text"', "application/json", "JSON object"),
        ('{"name": "x"}', "text/plain", "JSON object"),
        (b"\xff", "application/json", "JSON"),
        ("9" * 5000, "application/json", "JSON"),
        ("[" * 100_000, "application/json", "JSON"),
    ],
)
def test_a_body_that_is_no_json_object(client, content, kind, word):
    response = client.post(f"{V1}/train", content=content, headers={"Content-Type": kind})
    refused(response, 422, "RequestError", word)


def test_half_characters_in_names_do_not_break_the_answer(client, body):
    content = json.dumps({**body, "settings": {"\ud800": 1}})
    response = client.post(f"{V1}/train", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["message"]


def test_large_requests_are_refused_before_they_are_read(client, body, monkeypatch):
    monkeypatch.setattr(errors, "MAX_BODY", 10_000)
    read = []

    def content():  # no Content-Length
        for _ in range(100):
            read.append(1)
            yield b" " * 1000

    response = client.post(f"{V1}/train", content=content(), headers={"Content-Type": "application/json"})
    refused(response, 413, "TooLargeError", "scale")
    response = client.post(f"{V1}/train", json={**body, "original": "A" * 20_000})
    refused(response, 413, "TooLargeError")


@pytest.mark.parametrize("way", ["original", "original_path"])
def test_large_pictures_are_refused(client, body, monkeypatch, way):
    monkeypatch.setattr(pictures, "MAX_PICTURE", 1000)
    if way == "original_path":
        body |= {"original": None, "original_path": "open.png"}
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "the original", "MB")


def test_base64_is_measured_before_it_is_decoded(client, body, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_ENCODED", 1000)
    refused(client.post(f"{V1}/train", json={**body, "original": "!" * 1001}), 422, "PictureError", "MB")


def test_a_bomb_is_refused(client, body):
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    body["original"] = base64.b64encode(stream.getvalue()).decode()
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "large")


def test_identical_pictures_are_refused(client, body):
    body["target"] = body["original"]
    refused(client.post(f"{V1}/train", json=body), 422, "PictureError", "identical")
    del body["name"]
    refused(client.post(f"{V1}/pair", json=body), 422, "PictureError", "identical")


def test_a_taken_name_is_a_conflict(client, host, body):
    assert client.post(f"{V1}/train?wait=true", json=body).json()["state"] == "done"
    before = (host.lora_dir / "closed_eyes.safetensors").read_bytes()
    refused(client.post(f"{V1}/train", json=body), 409, "LoraFileError", "closed_eyes", "another name")
    body |= {"overwrite": True, "settings": {**QUICK, "seed": 2}}
    assert client.post(f"{V1}/train?wait=true", json=body).json()["state"] == "done"
    assert (host.lora_dir / "closed_eyes.safetensors").read_bytes() != before


def test_a_name_in_training_is_a_conflict(client, host, body):
    host.gate.clear()
    assert client.post(f"{V1}/train", json=body).status_code == 200
    refused(client.post(f"{V1}/train", json=body), 409, "JobError", "closed_eyes")


def test_many_at_once_all_come_to_their_end(client, body):
    def post(number):
        return client.post(f"{V1}/train?wait=true", json={**body, "name": f"n{number}"}).json()

    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(post, range(8)))
    assert {job["state"] for job in jobs} == {"done"}
    assert {job["name"] for job in jobs} == {f"n{number}" for number in range(8)}
    assert len({job["id"] for job in jobs}) == 8


def test_stop_a_running_and_a_waiting_job(client, host, body):
    host.gate.clear()
    running, waiting = (client.post(f"{V1}/train", json={**body, "name": name}).json()["id"] for name in "ab")
    assert host.begun.wait(30)
    stopped = client.post(f"{V1}/jobs/{waiting}/stop").json()
    assert stopped["state"] == "stopped"
    assert client.post(f"{V1}/jobs/{running}/stop").status_code == 200
    host.gate.set()
    ended = client.get(f"{V1}/jobs/{running}?wait=true").json()
    assert ended["state"] == "stopped"
    assert ended["result"] is None
    assert not list(host.lora_dir.glob("*.safetensors"))
    refused(client.post(f"{V1}/jobs/{running}/stop?keep=true"), 409, "JobError", "stopped", "nothing to stop")


def test_stop_and_keep(client, host, body, monkeypatch):
    in_step, go_on = threading.Event(), threading.Event()

    def report(text, done, total):  # comes after each step
        if text.endswith("step 2 of 4"):
            in_step.set()
            assert go_on.wait(30)

    monkeypatch.setattr(host, "report", report)
    job = client.post(f"{V1}/train", json=body).json()["id"]
    assert in_step.wait(30)
    assert client.post(f"{V1}/jobs/{job}/stop?keep=true").json()["state"] == "running"
    go_on.set()
    ended = client.get(f"{V1}/jobs/{job}?wait=true").json()
    assert (ended["state"], ended["step"], ended["result"]) == ("stopped", 2, None)
    assert [saved["name"] for saved in ended["saved_steps"]] == ["closed_eyes-step2"]
    assert [file.stem for file in host.lora_dir.glob("*.safetensors")] == ["closed_eyes-step2"]


def test_kept_steps_are_shown_and_saved(client, host, body):
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    assert job["kept_steps"] == [2, 4]
    assert "saved 'closed_eyes'" in [line["text"] for line in job["log"]]
    shown = client.get(f"{V1}/jobs/{job['id']}/steps/2").json()
    assert shown["step"] == 2
    assert picture(shown["strip"]).width == 5 * 128

    after = client.post(f"{V1}/jobs/{job['id']}/steps/2/save?wait=true&pictures=true").json()
    assert after["result"]["name"] == "closed_eyes"
    [saved] = after["saved_steps"]
    assert (saved["name"], saved["steps"], saved["tag"]) == ("closed_eyes-step2", 2, "<lora:closed_eyes-step2:1>")
    assert picture(saved["strip"])
    assert (host.lora_dir / "closed_eyes-step2.safetensors").is_file()

    for ask in (client.get, client.post):
        path = f"{V1}/jobs/{job['id']}/steps/3" + ("/save" if ask == client.post else "")
        refused(ask(path), 404, "UnknownJobError", "step 3", "2, 4")
        refused(ask(path.replace("/3", "/three")), 422, "RequestError", "step")


def test_an_unknown_job_is_not_found(client):
    for method, path in ROUTES:
        if "{job_id}" in path:
            response = client.request(method, V1 + path.format(job_id="nobody", step=2))
            refused(response, 404, "UnknownJobError", "nobody")


def test_several_pairs_make_one_lora_with_more_steps(client, body):
    wide = Image.new("RGB", (128, 64), "grey")
    texts = [pictures.encode_png(each) for each in (wide, wide.point(lambda value: value + 60))]
    more = [
        {"original": texts[0], "target": texts[1], "original_prompt": "a dark wall"},
        *({"original_path": "open.png", "target_path": "closed.png"} for _ in range(2)),
    ]
    body |= {"more_pairs": more, "settings": {**QUICK, "hold_out": False}}
    given = client.post(f"{V1}/train?wait=true", json=body).json()
    assert (given["state"], given["total"], given["error"]) == ("done", 4, "")
    request = client.jobs.get(given["id"]).request
    assert [pair.name for pair in request.pairs] == ["1", "2", "3", "4"]
    assert [pair.original_prompt for pair in request.pairs] == ["", "a dark wall", "", ""]
    del body["settings"]["max_train_steps"]
    chosen = client.post(f"{V1}/train", json={**body, "name": "longer"}).json()
    client.post(f"{V1}/jobs/{chosen['id']}/stop")
    assert chosen["total"] == 2 * TrainConfig.create("action").max_train_steps


def test_of_several_pairs_the_bad_one_is_named(client, body):
    bad = {**body, "more_pairs": [{"original_path": "open.png", "target_path": "absent.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "PictureError", "pair '2'", "absent.png")
    bad = {**body, "more_pairs": [{"original_path": "open.png", "target_path": "open.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "PictureError", "pair '2'", "identical")
    bad = {**body, "more_pairs": [{"original_path": "open.png", "goal": "closed.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "RequestError", "'more_pairs.0.goal'")
    assert client.get(f"{V1}/jobs").json() == []


def test_the_queue_is_paused_put_in_order_and_resumed(client, body):
    assert client.get(f"{V1}/queue").json() == {"paused": False, "waiting": []}
    assert client.post(f"{V1}/queue/pause").json()["paused"]
    a, b, c = (client.post(f"{V1}/train", json={**body, "name": name}).json()["id"] for name in "abc")
    assert client.get(f"{V1}/queue").json() == {"paused": True, "waiting": [a, b, c]}
    assert client.post(f"{V1}/jobs/{c}/move?before={a}").json()["waiting"] == [c, a, b]
    assert client.post(f"{V1}/jobs/{c}/move").json()["waiting"] == [a, b, c]
    refused(client.post(f"{V1}/jobs/{a}/move?before=nobody"), 404, "UnknownJobError", "nobody")
    client.post(f"{V1}/jobs/{b}/stop")
    refused(client.post(f"{V1}/jobs/{b}/move"), 409, "JobError", "'b'", "waits no more")
    assert not client.post(f"{V1}/queue/resume").json()["paused"]
    started = [client.get(f"{V1}/jobs/{job}?wait=true").json() for job in (a, c)]
    assert [job["state"] for job in started] == ["done", "done"]
    assert started[0]["finished"] <= started[1]["finished"]
    assert client.get(f"{V1}/jobs/{b}").json()["state"] == "stopped"


def test_an_ended_job_is_tried_again_and_forgotten(client, host, body):
    host._fail_at = 1
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    assert job["state"] == "failed"
    host._fail_at = None
    again = client.post(f"{V1}/jobs/{job['id']}/retry?wait=true").json()
    assert (again["id"], again["state"], again["error"]) == (job["id"], "done", "")
    refused(client.post(f"{V1}/jobs/{job['id']}/retry"), 409, "LoraFileError", "closed_eyes")
    host.gate.clear()
    running = client.post(f"{V1}/train", json={**body, "name": "other"}).json()["id"]
    for method, path in (("delete", running), ("post", f"{running}/retry")):
        refused(client.request(method, f"{V1}/jobs/{path}"), 409, "JobError", "'other'")
    host.gate.set()
    assert client.delete(f"{V1}/jobs/{job['id']}").json()["result"]["name"] == "closed_eyes"
    refused(client.get(f"{V1}/jobs/{job['id']}"), 404, "UnknownJobError")
    assert (host.lora_dir / "closed_eyes.safetensors").is_file()


def test_a_failed_job_says_why(client, host, body):
    host._fail_at = 1
    failed = client.post(f"{V1}/train?wait=true", json=body).json()
    assert failed["state"] == "failed"
    assert "simulated" in failed["error"]


def test_losses_that_are_not_finite_are_null(client, body):
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    client.jobs.get(job["id"]).losses[1:3] = [float("nan"), float("inf")]
    losses = client.get(f"{V1}/jobs/{job['id']}").json()["losses"]
    assert losses[1:3] == [None, None]
    assert losses[0] > 0


def test_presets_and_config(client):
    assert client.get(f"{V1}/presets").json() == {"default": "action", "presets": PRESETS}
    schema = client.get(f"{V1}/config").json()
    assert set(schema["properties"]) == set(TrainConfig().to_dict())
    assert {key: rules["default"] for key, rules in schema["properties"].items()} == TrainConfig().to_dict()
    assert not schema["additionalProperties"]
    rank = schema["properties"]["rank"]
    assert (rank["type"], rank["minimum"], rank["maximum"], rank["x-advanced"]) == ("integer", 1, 256, True)
    assert schema["properties"]["blocks"]["items"]["enum"] == ["IN", "MID", "OUT"]
    assert schema["properties"]["mask"]["enum"] == ["off", "auto", "alpha", "file"]
    assert not schema["properties"]["max_train_steps"]["x-advanced"]
    assert all(rules["title"] and rules["description"] for rules in schema["properties"].values())


def test_the_pair_doctor(client, body):
    del body["name"]
    answer = client.post(f"{V1}/pair", json=body).json()
    assert (answer["width"], answer["height"], answer["shift"]) == (64, 64, [0, 0])
    assert 0 < answer["changed_share"] < 0.5
    assert {"level": "ok", "text": "The colours of the unchanged parts agree."} in answer["findings"]
    assert picture(answer["overlay"]).size == (64, 64)
    assert client.get(f"{V1}/jobs").json() == []


@pytest.mark.parametrize(
    "auth", [None, ("me", "wrong"), ("nobody", "secret"), ("nobody", ""), ("", ""), ("me", ""), ("me", "sécret")]
)
def test_without_the_right_password_every_route_is_closed(make_client, auth):
    client = make_client(credentials={"me": "secret"})
    for method, path in ROUTES:
        # The body is no JSON: who may not ask is told nothing about that.
        response = client.request(method, V1 + path.format(job_id="nobody", step=2), auth=auth, content="{")
        refused(response, 401, "AuthError", "HTTP Basic")
        assert response.headers["www-authenticate"] == "Basic"


@pytest.mark.parametrize("header", ["Basic !", "Basic bWU=", "Bearer secret", "Basic"])
def test_broken_credentials_are_refused(make_client, header):
    client = make_client(credentials={"me": "secret"})
    refused(client.get(f"{V1}/jobs", headers={"Authorization": header}), 401, "AuthError")


def test_with_the_password_it_works(make_client, body):
    client = make_client(credentials={"me": "secret", "you": "sécret"})
    assert client.post(f"{V1}/train?wait=true", json=body, auth=("me", "secret")).json()["state"] == "done"
    refused(client.get(f"{V1}/jobs/nobody", auth=("me", "secret")), 404, "UnknownJobError")


def test_no_credentials_at_all_open_nothing(make_client):
    refused(make_client(credentials={}).get(f"{V1}/jobs", auth=("", "")), 401, "AuthError")


def test_the_documentation_describes_every_route_and_its_errors(make_client):
    client = make_client(credentials={"me": "secret"})
    document = client.get("/openapi.json").json()
    ours = {(m, p.removeprefix(V1)) for p, methods in document["paths"].items() if p.startswith(V1) for m in methods}
    assert ours == ROUTES
    for method, path in ROUTES:
        operation = document["paths"][V1 + path][method]
        assert operation["tags"] == ["Train Difference LoRA"]
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"] == [{"HTTPBasic": []}]
        assert "schema" in operation["responses"]["200"]["content"]["application/json"]
        refusals = {code: answer for code, answer in operation["responses"].items() if code != "200"}
        assert "401" in refusals
        assert ("404" in refusals) == ("{job_id}" in path)
        for answer in refusals.values():
            assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")
            assert answer["description"]


def test_an_app_that_is_documented_already_is_documented_anew(host):
    app = FastAPI()
    app.openapi()
    add_routes(app, Jobs(host), credentials=None, picture_dirs=[])
    assert f"{V1}/train" in app.openapi()["paths"]
    assert "security" not in app.openapi()["paths"][f"{V1}/train"]["post"]


def test_the_apps_own_routes_keep_their_own_errors(host):
    app = FastAPI()
    add_routes(app, Jobs(host), credentials={"me": "secret"}, picture_dirs=[])

    @app.get("/theirs")
    def theirs(number: int) -> int:
        return number

    response = TestClient(app).get("/theirs?number=x")
    assert response.status_code == 422
    assert "detail" in response.json()


def test_the_core_does_not_import_fastapi():
    program = "import sys, lib_addift.jobs.queue, lib_addift.cli.main; print('fastapi' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
