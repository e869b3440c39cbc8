"""An app with the API, its client and a small request."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_addift.api.routes import add_routes
from lib_addift.jobs.queue import Jobs
from tests.support.api import QUICK, GatedHost, encoded


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


@pytest.fixture
def body(pair_files):
    original, target = map(encoded, pair_files)
    return {"original": original, "target": target, "name": "closed_eyes", "settings": dict(QUICK)}
