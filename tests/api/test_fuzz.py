"""Whatever is sent to a route, the answer is its result or one sentence: no request ends in an error of the server."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from tests.support.api import QUICK, V1
from tests.support.api_fuzz import Fuzzer


def problem(response: Response) -> str:
    """What is wrong with an answer; '' when it is a result or a refusal in the form that every route promises."""
    if response.status_code >= 500:
        return f"code {response.status_code}"
    answer = response.json()
    if response.status_code < 400 or "detail" in answer:  # 'detail': no route of ours has this address
        return ""
    if set(answer) != {"error", "message"}:
        return "no error and message"
    message = answer["message"]
    is_sentence = message.endswith(".") and message.isprintable() and len(message) < 20_000
    return "" if is_sentence else "no sentence"


@pytest.mark.parametrize(
    ("seed", "number"),
    [pytest.param(1, 360, marks=pytest.mark.slow), pytest.param(2, 8000, marks=[pytest.mark.slow, pytest.mark.long])],
)
def test_no_request_ends_in_an_error_of_the_server(client, body, seed, number):
    client.post(f"{V1}/queue/pause")  # what is trained is other tests' business
    job = client.post(f"{V1}/train", json={**body, "name": "waits"}).json()["id"]
    known = {
        **{role: body[role] for role in ("original", "target")}, "picture": body["original"], "name": "x",
        "steps": 1, "count": 1, "width": 64, "height": 64, "resolution": 64, "settings": QUICK,
        "parameters": {"job_id": [job], "before": [job], "step": [2]},
    }  # fmt: skip
    schema, settings = client.get("/openapi.json").json(), client.get(f"{V1}/config").json()["properties"]
    server = TestClient(client.app, raise_server_exceptions=False)
    codes: Counter[int] = Counter()
    problems = []
    for method, url, arguments in itertools.islice(Fuzzer(schema, settings, known, seed).requests(V1), number):
        if url.endswith("/queue/resume") or "wait=" in url:
            continue
        response = server.request(method, url, **arguments)
        codes[response.status_code] += 1
        found = problem(response)
        if found:
            sent = re.sub(r"[A-Za-z0-9+/=]{100,}", "...", str(arguments))
            problems.append(f"{found}: {method} {url[:200]} {sent[:2000]}: {response.text[:500]}")
    assert not problems, "\n".join([f"{len(problems)} of {sum(codes.values())}", *problems[:10]])
    assert codes[200] > number / 20, f"some requests are right: {codes}"
    assert codes[422] > number / 20, f"and some wrong: {codes}"
    assert codes.keys() >= {200, 404, 409, 415, 422}
