"""Which requests come from another site's page."""

import re

import pytest

from lib_addift.same_origin import ForeignRequestError, check_host, check_origin

OWN = [
    {},
    {"host": "127.0.0.1:7860"},
    {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"},
    {"host": "LOCALHOST:7860", "origin": "http://localhost:7860", "sec-fetch-site": "same-origin"},
    {"host": "my.example", "origin": "https://my.example", "sec-fetch-site": "same-origin"},  # a proxy adds TLS
    {"host": "my.example:443", "origin": "https://my.example"},
    {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
    {"host": "127.0.0.1:7860", "sec-fetch-site": "none"},
]
FOREIGN = [
    *(
        {"host": "127.0.0.1:7860", "origin": origin}
        for origin in (
            "null", "", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:7861", "http://localhost:7860",
            "http://127.0.0.1:7860.evil.example", "http://evil.example#127.0.0.1:7860", "file://", "http://[", "http://",
            "http://evil@127.0.0.1:7860", "ftp://127.0.0.1:7860", "http://127.0.0.1:7860, http://evil.example",
        )
    ),
    *({"host": "127.0.0.1:7860", "sec-fetch-site": site} for site in ("cross-site", "same-site", "CROSS-SITE", "")),
    {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"},
    {"origin": "http://127.0.0.1:7860"},
]  # fmt: skip


@pytest.mark.parametrize("headers", OWN)
def test_programs_and_the_own_page_pass(headers):
    check_origin(headers)


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_do_not(headers):
    with pytest.raises(ForeignRequestError, match=r"another site .* is refused: send it from a program") as refusal:
        check_origin(headers)
    assert "\n" not in str(refusal.value)


def test_sites_that_are_allowed_pass_and_no_others():
    allowed = re.compile(r"https://friend\.example")
    check_origin({"host": "x", "origin": "https://friend.example", "sec-fetch-site": "cross-site"}, allowed)
    for origin in ("https://friend.example.evil", "https://evil/https://friend.example", "https://friendXexample"):
        with pytest.raises(ForeignRequestError):
            check_origin({"host": "x", "origin": origin}, allowed)
    with pytest.raises(ForeignRequestError):
        check_origin({"host": "x", "sec-fetch-site": "cross-site"}, allowed)


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:7860", "127.0.0.1:1", "127.8.9.1", "[::1]", "[::1]:7860", "localhost."]
)
def test_this_computer_is_always_ours(host):
    check_host({"host": host}, ())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "",
     "localhost:7860:1", "2130706433", "[::1", "my.example"],
)  # fmt: skip
def test_a_name_that_may_lead_anywhere_is_not(host):
    for any_address in (False, True):
        with pytest.raises(ForeignRequestError, match="--allow-host"):
            check_host({"host": host}, {"other.example"}, any_address=any_address)


def test_names_and_addresses_that_a_person_allows():
    check_host({"host": "My.Example:7860"}, {"my.example"})
    for host in ("192.168.1.5:7860", "[fe80::1]:7860"):
        check_host({"host": host}, (), any_address=True)
        with pytest.raises(ForeignRequestError):
            check_host({"host": host}, ())
    with pytest.raises(ForeignRequestError):
        check_host({}, ())
