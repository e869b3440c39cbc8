"""The page of its own answers nobody but itself and programs, under its own names only."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from lib_addift.ui.guard import Guard, Site

LOCAL = ["localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST"]
FOREIGN = ["evil.example:7860", "localhost.evil.example", "", "192.168.1.5.evil.example"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "websocket"]


def ask(site: Site, method: str, **headers: str) -> int:
    """The code with which a request is answered; 200 when it reaches the page."""
    sent: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def collect(message: Any) -> None:
        sent.append(message)

    lines = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    is_socket = method == "websocket"
    scope = {"type": "websocket" if is_socket else "http", "headers": lines} | ({} if is_socket else {"method": method})
    asyncio.run(Guard(page, site=site)(scope, None, collect))  # type: ignore[arg-type] - nothing is received
    return 403 if sent[0]["type"] == "websocket.close" else int(sent[0]["status"])


@pytest.mark.parametrize("method", METHODS)
def test_by_default_only_this_computer(method: str) -> None:
    for host in LOCAL:
        assert ask(Site(), method, host=host) == 200
        assert ask(Site(), method, host=host, origin=f"http://{host.lower()}", sec_fetch_site="same-origin") == 200
    for host in (*FOREIGN, "192.168.1.5:7860", socket.gethostname()):
        if host != "localhost":
            assert ask(Site(), method, host=host) == 403
            assert ask(Site(), method, host=host, origin=f"http://{host}", sec_fetch_site="same-origin") == 403


@pytest.mark.parametrize("method", METHODS)
def test_no_page_of_another_site(method: str) -> None:
    for site in (Site(), Site(is_open=True), Site(names=("my.example",))):
        for origin in ("https://evil.example", "null", "http://localhost:9999"):
            assert ask(site, method, host="localhost:7860", origin=origin) == 403
        for fetch in ("cross-site", "same-site"):
            found = ask(site, method, host="localhost:7860", sec_fetch_site=fetch)
            assert found == (200 if method in ("GET", "HEAD") else 403), "links may lead here"


def test_what_a_person_opens_is_open() -> None:
    site = Site(is_open=True, names=("My.Example",))
    for host in (*LOCAL, "192.168.1.5:7860", "[fe80::1]:7860", socket.gethostname(), "my.example", "MY.example:80"):
        assert ask(site, "POST", host=host, origin=f"http://{host}") == 200, host
    for host in FOREIGN:
        assert ask(site, "POST", host=host) == 403, host
    assert ask(Site(names=("my.example",)), "POST", host="my.example", origin="https://my.example") == 200
    assert (Site().address, site.address) == ("127.0.0.1", "0.0.0.0")


def test_what_is_no_request_passes() -> None:
    started = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope["type"])

    asyncio.run(Guard(page, site=Site())({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert started == ["lifespan"]
