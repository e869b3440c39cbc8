"""The HTTP API over real jobs on the fake host."""

import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from PIL import Image

from lib_addift.api import pictures
from lib_addift.api.routes import add_routes
from lib_addift.config.settings import TrainConfig
from lib_addift.jobs.queue import Jobs
from lib_addift.lora.file import read_lora
from tests.support.api import QUICK, ROUTES, V1, picture, refused
from tests.support.wrong_values import WRONG, json_text, sentence_problem


@pytest.mark.slow
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
    assert result["new_pictures"] == 4, "fewer than 8: training was short"
    assert 0 <= result["reach"] <= 4
    assert 0 <= result["spread"] <= 4
    assert result["new_pictures_seconds"] > 0
    assert result["level"] in ("good", "weak", "failed")
    assert result["train_seconds"] > 0
    assert (result["strip"], result["pictures"], result["grid"], done["strip"]) == (None,) * 4
    assert read_lora(host.lora_dir / "closed_eyes.safetensors")
    assert client.get(f"{V1}/jobs").json() == [done]


@pytest.mark.slow
def test_train_can_wait_and_send_pictures(client, body):
    done = client.post(f"{V1}/train?wait=true&pictures=true", json=body).json()
    assert done["state"] == "done"
    assert picture(done["strip"]).width == 5 * 128
    assert done["strip"] == done["result"]["strip"]
    assert picture(done["result"]["pictures"]).width == 6 * 128
    assert picture(done["result"]["grid"]).width == 6 * 128


@pytest.mark.long
@pytest.mark.slow
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


@pytest.mark.slow
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
    assert chosen["total"] == 2 * TrainConfig.create().max_train_steps


def test_of_several_pairs_the_bad_one_is_named(client, body):
    bad = {**body, "more_pairs": [{"original_path": "open.png", "target_path": "absent.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "PictureError", "pair '2'", "absent.png")
    bad = {**body, "more_pairs": [{"original_path": "open.png", "target_path": "open.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "PictureError", "pair '2'", "identical")
    bad = {**body, "more_pairs": [{"original_path": "open.png", "goal": "closed.png"}]}
    refused(client.post(f"{V1}/train", json=bad), 422, "RequestError", "'more_pairs.0.goal'")
    assert client.get(f"{V1}/jobs").json() == []


def test_the_queue_is_paused_put_in_order_and_resumed(client, body):
    assert client.get(f"{V1}/queue").json() == {"paused": False, "waiting": [], "notice": ""}
    assert client.post(f"{V1}/queue/pause").json()["paused"]
    a, b, c = (client.post(f"{V1}/train", json={**body, "name": name}).json()["id"] for name in "abc")
    assert client.get(f"{V1}/queue").json() == {"paused": True, "waiting": [a, b, c], "notice": ""}
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


@pytest.mark.slow
def test_a_failed_job_says_why(client, host, body):
    host._fail_at = 1
    failed = client.post(f"{V1}/train?wait=true", json=body).json()
    assert failed["state"] == "failed"
    assert "simulated" in failed["error"]


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


@pytest.mark.slow
def test_the_core_does_not_import_fastapi():
    program = "import sys, lib_addift.jobs.queue, lib_addift.cli.main; print('fastapi' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.long
def test_settings_of_every_wrong_type_are_refused_in_one_sentence(client):
    """One setting of each type; all of them are tried in tests/config. No picture is sent: what is accepted fails."""
    fields = ("method", "rank", "alpha", "dora", "layers", "prompt", "mask_file", "preset", "no\ud800setting")
    for field, (kind, value) in itertools.product(fields, WRONG.items()):
        content = f'{{"settings": {{{json_text(field)}: {json_text(value)}}}}}'
        response = client.post(f"{V1}/pair", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422), (field, kind, response.text)
        assert not sentence_problem(response.json()["message"]), (field, kind, response.text)


@pytest.mark.slow
@pytest.mark.long
def test_every_field_of_every_wrong_type_is_accepted_or_refused_in_one_sentence(client, body):
    client.post(f"{V1}/queue/pause")
    for field in ("name", "preset", "original_prompt", "target_prompt", "original", "original_path", "overwrite"):
        for kind, value in WRONG.items():
            fields = {**body, "name": f"{field} {kind}".replace("'", ""), field: value}
            content = ", ".join(f"{json_text(key)}: {json_text(each)}" for key, each in fields.items())
            headers = {"Content-Type": "application/json"}
            response = client.post(f"{V1}/train", content=f"{{{content}}}", headers=headers)
            if response.status_code != 200:
                assert response.status_code in (400, 409, 422), (field, kind, response.text)
                assert not sentence_problem(response.json()["message"]), (field, kind, response.text)
    assert len(client.jobs.all()) > 10, "what can be used is queued"
