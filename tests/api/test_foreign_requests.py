"""Every route that changes something, however many there will be, refuses pages of other sites and what forms send."""

import re

from fastapi.testclient import TestClient

from tests.support.api import V1, refused

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver:8000"},  # another program on this machine
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"},
]
# What a form or a request without CORS can send.
SIMPLE = [
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain",
    "text/plain;application/json",
]
OWN = [{}, {"Origin": "http://testserver"}, {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}]
_IDS = {"job_id": "nobody", "step": 2}


def changing(client: TestClient) -> list[tuple[str, str, bool]]:
    """Method, path and whether it has a body, of every route of ours that may change something."""
    found = [
        (method, each.path.format(**_IDS), each.body_field is not None)
        for each in client.app.routes
        if each.path.startswith(V1)
        for method in sorted(each.methods - {"GET", "HEAD"})
    ]
    assert len(found) >= 11
    return found


def test_pages_of_other_sites_change_nothing(client, body):
    for method, path, _ in changing(client):
        for headers in FOREIGN:
            response = client.request(method, path, json=body, headers=headers)
            refused(response, 403, "ForeignRequestError", "another site")
    assert client.get(f"{V1}/queue").json() == {"paused": False, "waiting": [], "notice": ""}
    assert client.get(f"{V1}/jobs").json() == []


def test_what_a_form_can_send_changes_nothing(client, body):
    for method, path, has_body in changing(client):
        for kind in SIMPLE:
            for content in (b"", b"{}", b"a=b"):
                response = client.request(method, path, content=content, headers={"Content-Type": kind})
                refused(response, 415, "ContentTypeError", "Content-Type: application/json")
        if has_body:  # as A1111's fastapi would take for JSON
            response = client.request(method, path, content=b"{}")
            assert "content-type" not in response.request.headers
            refused(response, 415, "ContentTypeError", "no Content-Type", "Content-Type: application/json")
    assert client.get(f"{V1}/queue").json() == {"paused": False, "waiting": [], "notice": ""}


def test_programs_and_pages_of_the_same_site_are_served(client, body):
    for headers in OWN:
        assert client.post(f"{V1}/pair", json={k: body[k] for k in ("original", "target")}, headers=headers).is_success
        assert client.post(f"{V1}/queue/pause", headers=headers).is_success  # as curl -X POST does, without a body
        assert client.post(f"{V1}/queue/resume", json={}, headers=headers).is_success
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    refused(client.post(f"{V1}/train", content="{}", headers=kind), 422, "RequestError", "'name' is missing")


def test_looking_is_free(client):
    for headers in FOREIGN:  # a browser hides the answer from that page
        assert client.get(f"{V1}/jobs", headers=headers).is_success


def test_sites_that_the_webui_allows_are_served(make_client):
    client = make_client(allowed_origins=re.compile(r"https://friend\.example"))
    friend = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post(f"{V1}/queue/pause", headers=friend).is_success
    refused(client.post(f"{V1}/queue/resume", headers=FOREIGN[0]), 403, "ForeignRequestError")


def test_who_has_no_password_is_told_nothing_else(make_client):
    client = make_client(credentials={"me": "secret"})
    refused(client.post(f"{V1}/queue/pause", headers=FOREIGN[0]), 401, "AuthError")
    # A browser that knows the password sends it along, whichever page asks.
    refused(client.post(f"{V1}/queue/pause", headers=FOREIGN[0], auth=("me", "secret")), 403, "ForeignRequestError")
