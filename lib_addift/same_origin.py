"""Tells the requests of other sites' pages from those of our own and of programs, by headers that no page can set.

A browser sends forms and simple requests of any page to any address, this computer's too. It says in `Origin` and
`Sec-Fetch-Site` where they come from; programs such as curl send neither. A page whose name its owner points at this
computer (DNS rebinding) has an `Origin` that fits, but its name stands in `Host`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from lib_addift.errors import AddiftError

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ForeignRequestError(AddiftError):
    """The request comes from a page of another site."""


def check_origin(headers: Mapping[str, str], allowed: re.Pattern[str] | None = None) -> None:
    """Raises ForeignRequestError when a page of another site made the request.

    Args:
        headers: of the request, by names in lower case, or in any case if the mapping takes any.
        allowed: whole origins, such as https://example.org, whose pages may make requests too.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is not None and allowed is not None and allowed.fullmatch(origin):
        return
    if origin is not None and not _is_own(origin, headers.get("host", "")):
        raise ForeignRequestError(
            f"the request comes from a page of another site (Origin {origin[:300]!r}) and is refused: send it from a "
            "program, or from a page of this very address."
        )
    if site.strip().lower() not in ("same-origin", "none"):
        raise ForeignRequestError(
            f"the request comes from a page of another site (Sec-Fetch-Site {site[:300]!r}) and is refused: send it "
            "from a program, or from a page of this very address."
        )


def check_host(headers: Mapping[str, str], names: Collection[str], *, any_address: bool = False) -> None:
    """Raises ForeignRequestError when the request names a host that is not ours, as after DNS rebinding.

    Args:
        names: hosts that are ours, in lower case, besides localhost and its addresses.
        any_address: Every IP address is ours: nobody can make one lead elsewhere.
    """
    host = headers.get("host", "")
    name = _host_name(host)
    address = _address(name)
    is_local = name == "localhost" or (address is not None and address.is_loopback)
    if not (is_local or name in names or (any_address and address is not None)):
        raise ForeignRequestError(
            f"the request asks for the host {host[:300]!r}, which this page does not have: open it under the address "
            "that the program printed, or allow the name with --allow-host."
        )


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin has this host and port. The scheme may differ, as a proxy may add TLS."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    port = _DEFAULT_PORTS.get(parts.scheme)
    own = parts.netloc.lower().removesuffix(port or "")
    return port is not None and own != "" and own == host.strip().lower().removesuffix(port)


def _host_name(host: str) -> str:
    """The name in a Host header, in lower case, without port and brackets."""
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?", host.strip().lower())
    return (match[1] or match[2] or "").rstrip(".") if match else ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
