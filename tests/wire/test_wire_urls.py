"""URLs: what is asked, what identifies, what is secret, where a redirect may lead."""

from __future__ import annotations

import pytest

from holdfast.wire.urls import BadUrl, is_cross_site, parse, redirected


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("HTTP://Example.ORG:80/a/B?x=1#part", "http://example.org/a/B?x=1"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org./a", "https://example.org./a"),
        ("https://example.org:8443/a", "https://example.org:8443/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://bücher.example/ä b", "http://xn--bcher-kva.example/%C3%A4%20b"),
        ("http://example.org/a%2Fb%20c", "http://example.org/a%2Fb%20c"),
        ("  http://example.org/a \n".strip("\n"), "http://example.org/a"),
        ("https://u:p@example.org/a", "https://example.org/a"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=s&X-Amz-Date=d&versionId=7",
            "https://b.s3.amazonaws.com/k?versionId=7",
        ),
        (
            "https://cdn.example/k?Expires=1&Signature=s&Key-Pair-Id=k&v=2",
            "https://cdn.example/k?v=2",
        ),
        ("https://a.example/k?token=t", "https://a.example/k"),
        ("https://a.example/k?api_key=s&Password=p&part=2", "https://a.example/k?part=2"),
        (
            "https://a.blob.example/k?sv=1&se=2&sr=b&sp=r&sig=s&comp=x",
            "https://a.blob.example/k?comp=x",
        ),
        ("https://a.example/k?se=2&sp=r", "https://a.example/k?se=2&sp=r"),
    ],
)
def test_the_canonical_form_identifies_and_holds_no_secret(text: str, canonical: str) -> None:
    assert parse(text).canonical() == canonical


def test_what_is_asked_keeps_its_signature() -> None:
    url = parse("https://user:p%40ss@b.example/k?X-Amz-Signature=abc&x=1")
    assert url.target == "/k?X-Amz-Signature=abc&x=1"
    assert url.authorization == "Basic dXNlcjpwQHNz"
    assert url.is_signed
    assert not parse("https://b.example/k?x=1").is_signed


def test_a_repr_shows_no_secret() -> None:
    shown = repr(parse("https://user:hunter2@b.example/k?X-Amz-Signature=abcdef"))
    assert "hunter2" not in shown
    assert "abcdef" not in shown


@pytest.mark.parametrize("text", ["user:hunter2@b.example/k", "https://user:hunter2@b.example:0/k"])
def test_a_refusal_shows_no_password(text: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse(text)
    assert "hunter2" not in f"{caught.value} {caught.value.next_step}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.org/a", "no `scheme://`"),
        ("https:/example.org", "no `scheme://`"),
        ("", "no `scheme://`"),
        ("ftp://example.org/a", "the scheme `ftp` is not supported"),
        ("file:///etc/passwd", "the scheme `file` is not supported"),
        ("http:///a", "no host"),
        ("http://user@/a", "no host"),
        ("http://exa mple.org/", "not a valid name"),
        ("http://example.org:99999/", "cannot be read"),
        ("http://example.org:x/", "cannot be read"),
        ("http://example.org:0/", "the port is 0"),
        ("http://[::1/", "cannot be read"),
        ("http://example.org/\r\nHost: x", "control character"),
        ("http://example.org/" + "a" * 20000, "longer than"),
        ("http://-bad.example/", "not a valid name"),
        ("http://" + "a" * 64 + ".example/", "not a valid name"),
        ("http://a..b/", "not a valid name"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadUrl, match=reason) as refused:
        parse(text)
    assert refused.value.code == "HF-1001"
    assert refused.value.next_step.endswith((".", "meant."))


def test_a_refusal_shows_no_credentials() -> None:
    with pytest.raises(BadUrl) as refused:
        parse("ftp://user:hunter2@example.org/a?token=s3cret")
    assert "hunter2" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b?x=1", "http://example.org/b?x=1"),
        ("c", "http://example.org/a/c"),
        ("//other.example/d", "http://other.example/d"),
        ("https://example.org/e", "https://example.org/e"),
        (" /spaces ", "http://example.org/spaces"),
        ("/\xc3\xa4", "http://example.org/%C3%A4"),
        ("/\xe4", "http://example.org/%C3%A4"),
    ],
)
def test_a_redirect_is_joined_to_its_base(location: str, target: str) -> None:
    assert redirected(parse("http://example.org/a/b"), location).full() == target


def test_credentials_stay_within_their_origin() -> None:
    base = parse("https://user:secret@example.org/a")
    assert redirected(base, "/b").credentials == "user:secret"
    assert redirected(base, "https://example.org:8443/b").credentials == ""
    assert redirected(base, "https://other.example/b").credentials == ""


def test_a_redirect_from_https_to_http_is_refused() -> None:
    with pytest.raises(BadUrl, match="from https to http"):
        redirected(parse("https://example.org/a"), "http://example.org/a")


def test_a_redirect_to_another_scheme_is_refused() -> None:
    with pytest.raises(BadUrl, match="not supported"):
        redirected(parse("http://example.org/a"), "file:///etc/passwd")


def test_sites_are_told_apart_by_the_end_of_their_names() -> None:
    here = parse("https://data.example.org/a")
    assert not is_cross_site(here, parse("https://cdn.example.org/a"))
    assert is_cross_site(here, parse("https://login.example.com/a"))


@pytest.mark.parametrize(
    ("other", "cross"),
    [
        ("http://10.0.0.1:8080/a", False),
        ("http://192.168.0.1/a", True),  # its last two numbers are no name
        ("http://localhost/a", True),
        ("http://[::1]/a", True),
    ],
)
def test_an_address_in_digits_is_a_site_of_its_own(other: str, *, cross: bool) -> None:
    assert is_cross_site(parse("http://10.0.0.1/a"), parse(other)) is cross
    assert is_cross_site(parse(other), parse("http://10.0.0.1/a")) is cross
