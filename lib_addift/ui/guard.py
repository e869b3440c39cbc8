"""Keeps other sites' pages away from the tab's own page: a layer around the server's app. No gradio."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from lib_addift.same_origin import ForeignRequestError, check_host, check_origin

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Site:
    """Where the page is served, and under which names."""

    port: int | None = None  # None: the first free one from 7860 on
    is_open: bool = False  # to other computers too
    names: tuple[str, ...] = ()  # hosts under which it may be asked for, besides this computer's own

    @property
    def address(self) -> str:
        """What the server listens on."""
        return "0.0.0.0" if self.is_open else "127.0.0.1"

    @property
    def own_names(self) -> frozenset[str]:
        """All names of the page, in lower case; those of this computer only where others can reach it."""
        computer = socket.gethostname().lower()
        own = {computer, f"{computer}.local", socket.getfqdn().lower()} if self.is_open else set()
        return frozenset({*own, *(name.lower() for name in self.names)})


class Guard:
    """An ASGI app that answers 403 to requests of other sites' pages, and to those for a host that is not ours.

    The second is what a page sends whose owner points its name at this computer (DNS rebinding).
    """

    def __init__(self, app: App, *, site: Site) -> None:
        self._app, self._site, self._names = app, site, site.own_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope)
            except ForeignRequestError as error:
                await _refuse(scope, send, str(error))
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        check_host(headers, self._names, any_address=self._site.is_open)
        if scope.get("method") in ("GET", "HEAD"):
            headers.pop("sec-fetch-site", None)  # a link on another page may lead here
        check_origin(headers)


async def _refuse(scope: Scope, send: Send, sentence: str) -> None:
    if scope["type"] == "websocket":  # closed before it is accepted: the server answers 403
        await send({"type": "websocket.close", "code": 1008, "reason": sentence[:100]})
        return
    content = sentence.encode("utf-8", "backslashreplace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": content})
