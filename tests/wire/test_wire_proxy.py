"""Proxy variables, as curl reads them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.verdict import Kind
from holdfast.wire.http1 import request_head
from holdfast.wire.proxy import NONE, Proxies, Proxy, ProxyFailed, proxies_of
from holdfast.wire.urls import parse

PROXY = "http://proxy.example:3128"


def chosen(url: str, **environment: str) -> Proxy | None:
    return proxies_of(environment).choose(parse(url))


@pytest.mark.parametrize(
    ("url", "environment", "host"),
    [
        ("http://a/", {"http_proxy": "http://p1"}, "p1"),
        ("http://a/", {"HTTP_PROXY": "http://p1"}, "p1"),
        ("http://a/", {"http_proxy": "http://p1", "HTTP_PROXY": "http://p2"}, "p1"),
        ("http://a/", {"http_proxy": "", "HTTP_PROXY": "http://p2"}, None),
        ("http://a/", {"http_proxy": "", "all_proxy": "http://p2"}, None),
        ("http://a/", {"all_proxy": "http://p3"}, "p3"),
        ("https://a/", {"ALL_PROXY": "http://p3"}, "p3"),
        ("https://a/", {"http_proxy": "http://p1"}, None),
        ("https://a/", {"https_proxy": "http://p2", "all_proxy": "http://p3"}, "p2"),
        ("https://a/", {"HTTPS_PROXY": "http://p2"}, "p2"),
        ("http://a/", {}, None),
        # CGI: HTTP_PROXY came in with the request of a stranger.
        ("http://a/", {"HTTP_PROXY": "http://p1", "REQUEST_METHOD": "GET"}, None),
        ("http://a/", {"http_proxy": "http://p1", "REQUEST_METHOD": "GET"}, "p1"),
        ("https://a/", {"HTTPS_PROXY": "http://p1", "REQUEST_METHOD": "GET"}, "p1"),
        (
            "http://a/",
            {"HTTP_PROXY": "http://p1", "all_proxy": "http://p2", "REQUEST_METHOD": "GET"},
            "p2",
        ),
    ],
)
def test_which_variable_counts(url: str, environment: dict[str, str], host: str | None) -> None:
    found = chosen(url, **environment)
    assert (found.host if found else None) == host


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://p:3128", Proxy("p", 3128)),
        ("http://p:3128/", Proxy("p", 3128)),
        (" http://p ", Proxy("p", 80)),
        ("p:3128", Proxy("p", 3128)),
        ("user:word@p:3128", Proxy("p", 3128, "user:word")),
        ("http://user:w%40rd%3A@p", Proxy("p", 80, "user:w@rd:")),
        ("http://[::1]:3128", Proxy("::1", 3128)),
        ("HTTP://P:3128", Proxy("p", 3128)),
    ],
)
def test_how_a_proxy_is_written(value: str, proxy: Proxy) -> None:
    assert chosen("http://a/", http_proxy=value) == proxy


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("socks5://user:secret@p:1080", "socks5"),
        ("https://user:secret@p", "https"),
        ("http://user:secret@", "not the address"),
        ("http://user:secret@p:99999", "not the address"),
        ("http://user:secret@p:0", "not the address"),
        ("http://user:secret@p q", "not the address"),
        ("http://user:secret@[p", "not the address"),
        ("http://user:secret%0d%0aX:1@p", "control character"),
    ],
)
def test_what_cannot_be_used_is_refused_without_its_secrets(value: str, word: str) -> None:
    """Going without the proxy instead would show the address to the wrong network."""
    with pytest.raises(ProxyFailed, match=word) as caught:
        chosen("http://a/", http_proxy=value)
    assert "`http_proxy`" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.verdict.kind is Kind.PERMANENT
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.verdict) == (str(caught.value), caught.value.verdict)


def test_credentials_are_shown_nowhere() -> None:
    found = proxies_of({"http_proxy": "http://user:secret@p"})
    proxy = found.choose(parse("http://a/"))
    assert proxy is not None
    assert proxy.authorization == "Basic dXNlcjpzZWNyZXQ="
    assert "secret" not in repr(found) + repr(proxy)
    assert Proxy("p", 1).authorization == ""


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("*", "http://a.example/", True),
        ("example.com", "http://example.com/", True),
        ("example.com", "http://example.com:8080/", True),
        ("example.com", "http://www.example.com/", True),
        ("example.com", "http://EXAMPLE.com./", True),
        ("example.com", "http://www.badexample.com/", False),
        ("example.com", "http://example.com.org/", False),
        (".example.com", "http://www.example.com/", True),
        (".example.com", "http://example.com/", True),
        ("*.example.com", "http://www.example.com/", True),
        ("a.example, b.example", "http://b.example/", True),
        ("a.example b.example", "http://b.example/", True),
        ("a.example,,b.example", "http://c.example/", False),
        ("Example.COM", "http://example.com/", True),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("example.com:443", "https://www.example.com/", True),
        ("192.168.0.0/16", "http://192.168.3.4/", True),
        ("192.168.0.0/16", "http://192.169.3.4/", False),
        ("192.168.0.0/16:80", "http://192.168.3.4/", True),
        ("192.168.0.0/16:81", "http://192.168.3.4/", False),
        ("192.168.0.1/16", "http://192.168.3.4/", True),
        ("192.168.0.0/99", "http://192.168.3.4/", False),
        ("10.0.0.1", "http://10.0.0.1/", True),
        ("10.0.0.1", "http://10.0.0.1.example/", False),
        ("0.0.1", "http://10.0.0.1/", False),
        ("127.0.0.1", "http://127.1/", True),
        ("::1", "http://[::1]/", True),
        ("[::1]", "http://[::1]/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]/", False),
        ("fe80::/10", "http://[fe80::1]/", True),
        ("192.168.0.0/16", "http://[fe80::1]/", False),
        ("localhost", "http://localhost/", True),
        ("", "http://a.example/", False),
        (".", "http://a.example/", False),
        (":80", "http://a.example/", False),
    ],
)
def test_who_is_asked_directly(no_proxy, url, exempt) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        found = proxies_of({"all_proxy": PROXY, name: no_proxy})
        assert (found.choose(parse(url)) is None) == exempt


def test_lower_case_of_no_proxy_counts() -> None:
    assert chosen("http://a/", all_proxy=PROXY, no_proxy="", NO_PROXY="*") is not None


@given(st.text(max_size=40))
def test_any_list_is_read(text: str) -> None:
    for url in ("http://a.example/", "http://10.0.0.1/", "http://[::1]:8080/"):
        Proxies({"http": (PROXY, "http_proxy")}, tuple(text.split(","))).choose(parse(url))


def test_without_variables_there_is_none() -> None:
    assert proxies_of({}) == NONE
    assert NONE.choose(parse("http://a/")) is None


def test_a_proxy_is_asked_in_the_absolute_form() -> None:
    url = parse("http://user:word@data.example:8080/a%20b?c=1")
    head = request_head(url, {"Range": "bytes=1-"}, proxy=Proxy("p", 1, "me:pass")).decode()
    lines = head.split("\r\n")
    assert lines[0] == "GET http://data.example:8080/a%20b?c=1 HTTP/1.1"
    assert "Host: data.example:8080" in lines
    assert "Proxy-Authorization: Basic bWU6cGFzcw==" in lines
    assert "Authorization: Basic dXNlcjp3b3Jk" in lines
    assert "Proxy-Authorization" not in request_head(url, {}).decode()
