"""What the API answers: numbers, the schema of the settings, and the examination of a pair."""

import json

from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import TrainConfig
from tests.support.api import V1, picture


def test_losses_that_are_not_finite_are_null(client, body):
    job = client.post(f"{V1}/train?wait=true", json=body).json()
    client.jobs.get(job["id"]).losses[1:3] = [float("nan"), float("inf")]
    losses = client.get(f"{V1}/jobs/{job['id']}").json()["losses"]
    assert losses[1:3] == [None, None]
    assert losses[0] > 0


def test_presets_and_config(client):
    assert client.get(f"{V1}/presets").json() == {"default": "concept", "presets": json.loads(json.dumps(PRESETS))}
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
