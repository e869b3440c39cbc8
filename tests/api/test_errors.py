"""Requests that are refused: their one sentence and code, passwords, and the size of requests."""

import base64
import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_addift.api import errors
from lib_addift.api.routes import add_routes
from lib_addift.jobs.queue import Jobs
from tests.support.api import ROUTES, V1, refused


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


def test_the_apps_own_routes_keep_their_own_errors(host):
    app = FastAPI()
    add_routes(app, Jobs(host), credentials={"me": "secret"}, picture_dirs=[])

    @app.get("/theirs")
    def theirs(number: int) -> int:
        return number

    response = TestClient(app).get("/theirs?number=x")
    assert response.status_code == 422
    assert "detail" in response.json()
