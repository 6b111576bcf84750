"""Loopback is never asked through a proxy, whatever the environment says; other machines still are."""

import os
import urllib.request
from collections.abc import Iterator

import httpx
import pytest
import requests.utils
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from tapo_core.errors import UserError
from tapo_core.network import check_proxy_for, is_loopback, keep_loopback_direct, unusable_proxy

DEAD = "http://127.0.0.1:9"
USABLE = [
    {"HTTP_PROXY": DEAD},
    {"http_proxy": DEAD, "https_proxy": "127.0.0.1:9"},
    {"HTTP_PROXY": DEAD, "NO_PROXY": "localhost"},
    {"HTTPS_PROXY": DEAD, "HTTP_PROXY": DEAD, "no_proxy": "localhost", "NO_PROXY": "example.org"},
    {"ALL_PROXY": DEAD, "HTTP_PROXY": DEAD, "no_proxy": ""},
]
UNUSABLE = [
    {"ALL_PROXY": "socks4://user:secret@127.0.0.1:9"},  # socks5 needs a package that may be there
    {"all_proxy": "socks://127.0.0.1:9/", "NO_PROXY": "localhost"},
    {"HTTP_PROXY": "http://127.0.0.1:port"},
]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Without what this machine says of proxies, and as it was afterwards."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def goes_direct(client: httpx.Client, url: str) -> bool:
    return client._transport_for_url(httpx.URL(url)) is client._transport


@pytest.mark.parametrize("variables", [*USABLE, *UNUSABLE])
def test_loopback_is_direct(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    keep_loopback_direct()
    keep_loopback_direct()
    with httpx.Client() as client:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert goes_direct(client, f"http://{host}:4200/api"), host
            assert goes_direct(client, f"https://{host}/"), host
            assert get_proxy(parse_uri(f"ws://{host}:4200/api/events/in")) is None, host
            assert urllib.request.proxy_bypass(f"{host.strip('[]')}:4200"), host
            assert host == "[::1]" or requests.utils.should_bypass_proxies(f"http://{host}:4200/", None), host


@pytest.mark.parametrize("variables", USABLE)
def test_others_are_asked_as_before(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    with httpx.Client() as client:
        before = goes_direct(client, "http://example.com/"), goes_direct(client, "http://example.org/")
    keep_loopback_direct()
    with httpx.Client() as client:
        assert before == (goes_direct(client, "http://example.com/"), goes_direct(client, "http://example.org/"))
    assert get_proxy(parse_uri("ws://example.com/")) is not None
    check_proxy_for("http://example.com/api")


def test_no_proxy_for_anybody_stays_that() -> None:
    os.environ.update({"HTTP_PROXY": DEAD, "NO_PROXY": "*"})
    keep_loopback_direct()
    assert os.environ["NO_PROXY"] == "*"
    assert get_proxy(parse_uri("ws://example.com/")) is None
    check_proxy_for("http://example.com/")


@pytest.mark.parametrize("variables", UNUSABLE)
def test_a_proxy_that_cannot_be_used_is_told_where_it_is_needed(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    keep_loopback_direct()
    check_proxy_for("http://127.0.0.1:4200/api")
    (name,) = (name for name in variables if name.upper() != "NO_PROXY")
    with pytest.raises(UserError, match=rf"^example\.com cannot be asked through the proxy .*{name.upper()}") as told:
        check_proxy_for("https://example.com/api")
    assert "secret" not in str(told.value)
    os.environ["no_proxy"] += ",example.com"
    check_proxy_for("https://example.com/api")


def test_what_is_loopback() -> None:
    for url in (
        "http://127.0.0.1:1",
        "http://127.8.9.1/",
        "http://localhost",
        "http://[::1]:2/",
        "http://a.localhost/",
    ):
        assert is_loopback(url), url
    for url in ("http://localhost.example.com", "http://10.0.0.1", "http://1.example", "/api"):
        assert not is_loopback(url), url
    assert unusable_proxy() is None
