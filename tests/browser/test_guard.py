"""The page of its own, asked by other sites' pages."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from tests.browser.servers import Server

pytestmark = [pytest.mark.browser, pytest.mark.any_server]


def code(server: Server, method: str, path: str, **headers: str) -> int:
    """The code of an answer, to a request with just these headers."""
    address = urlsplit(server.address).netloc
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in ({"host": address} | headers | {"content-length": "0"}).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.long  # a server of its own; the gate asks the application itself (tests/ui/test_guard.py)
def test_it_answers_only_itself_and_programs(server: Server) -> None:
    if server.setup.in_webui:
        pytest.skip("a WebUI's page is the WebUI's")
    own = server.address.rstrip("/")
    for path in ("/", "/config", "/gradio_api/info"):
        assert code(server, "GET", path) == 200
        assert code(server, "GET", path, host="evil.example") == 403
        assert code(server, "GET", path, origin="https://evil.example") == 403
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict"):
        assert code(server, "POST", path, origin="https://evil.example") == 403
        assert code(server, "POST", path, sec_fetch_site="cross-site") == 403
        assert code(server, "POST", path, origin=own, host="evil.example") == 403
        assert code(server, "POST", path, origin=own) not in (403, 404)
