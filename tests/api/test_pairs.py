"""The routes that draw pairs."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_addift.api.routes import add_routes
from lib_addift.jobs.queue import Jobs
from tests.support.api import QUICK, V1, encoded, picture, refused
from tests.support.prompted_host import PromptedHost

DRAW = {"steps": 3, "guidance": 2.0}
WORDS = {"original_prompt": "x, a", "target_prompt": "x, a b b b b b", "width": 64, "height": 64, "count": 2, **DRAW}


@pytest.fixture
def host(tmp_path):
    return PromptedHost(tmp_path / "lora")


@pytest.fixture
def client(host, pair_files):
    app = FastAPI()
    jobs = Jobs(host)
    add_routes(app, jobs, credentials=None, picture_dirs=[pair_files[0].parent])
    with TestClient(app) as client:
        client.jobs = jobs
        yield client


def test_pairs_from_words_can_be_sent_to_train(client, host):
    answer = client.post(f"{V1}/pairs/from-words", json=WORDS).json()
    assert answer["rejected"] == 0
    first, second = answer["pairs"]
    assert picture(first["original"]).size == (64, 64)
    assert (first["original_prompt"], first["target_prompt"]) == ("x", "x")
    assert (first["seed"], second["seed"]) == (1, 2)
    assert first["size"] > 0.02
    assert 0 < first["concentration"] <= 1
    assert "drawing pairs" in host.reported
    keys = ("original", "target", "original_prompt", "target_prompt")
    first, second = ({key: pair[key] for key in keys} for pair in (first, second))
    body = {**first, "name": "drawn", "more_pairs": [second], "settings": {**QUICK, "mask": "off", "rank": 2}}
    done = client.post(f"{V1}/train?wait=true", json=body).json()
    assert done["state"] == "done", done["error"]
    sources = client.jobs.get(done["id"]).request.pairs
    assert [source.original_prompt for source in sources] == ["x", "x"]


def test_vary_answers_the_pair_first(client, pair_files):
    original, target = map(encoded, pair_files)
    body = {"original": original, "target": target, "count": 2, "caption": "a face", **DRAW}
    pairs = client.post(f"{V1}/pairs/vary", json=body).json()["pairs"]
    assert pairs[0]["original_prompt"] == "a face"


def test_target_draws_one_pair_of_a_picture_by_path(client, pair_files):
    body = {"picture_path": pair_files[0].name, "prompt": "a b b b b b", "original_prompt": "a", **DRAW}
    (pair,) = client.post(f"{V1}/pairs/target", json=body).json()["pairs"]
    assert pair["original"] != pair["target"]


@pytest.mark.parametrize(
    ("route", "change", "error", "words"),
    [
        ("from-words", {"count": 65}, "ConfigError", "1 to 64"),
        ("from-words", {"width": 100}, "ConfigError", "multiple of 64"),
        ("from-words", {"target_prompt": "x, a"}, "ConfigError", "no difference"),
        ("from-words", {"sampler": "Euler"}, "RequestError", "sampler"),
        ("vary", {}, "PictureError", "original is missing"),
        ("vary", {"count": 0}, "ConfigError", "1 to 64"),
        ("vary", {"resolution": 1}, "ConfigError", "resolution = 1"),
        ("target", {"prompt": "a"}, "PictureError", "picture is missing"),
        ("target", {}, "RequestError", "prompt"),
    ],
)
def test_bad_requests_are_refused(client, route, change, error, words):
    body = {**WORDS, **change} if route == "from-words" else change
    refused(client.post(f"{V1}/pairs/{route}", json=body), 422, error, words)
