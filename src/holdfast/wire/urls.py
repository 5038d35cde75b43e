"""URLs: what may be fetched, what identifies it, and what of it is secret.

Three forms of one address are kept apart, because mixing them up leaks or loses data:

    Url         what is asked on the wire: signature, token and all
    canonical() what identifies the object: no secrets, so a fresh presigned URL is the same
    shown()     what may be printed, logged and stored; equal to the canonical form
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urljoin, urlsplit

from holdfast.core.errors import HoldfastError

MAX_LENGTH = 16 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}

# Query parameters that sign, date or carry a credential. They differ between two presigned
# URLs of one object, so they identify nothing, and whoever has them has the object.
_SECRET = {
    "signature",
    "expires",
    "key-pair-id",
    "policy",
    "sig",
    "token",
    "access_token",
    "awsaccesskeyid",
    "googleaccessid",
    "api_key",
    "api-key",
    "apikey",
    "auth",
    "client_secret",
    "jwt",
    "passwd",
    "password",
    "secret",
}
_SECRET_PREFIXES = ("x-amz-", "x-goog-")
# Azure's shared access signature: these mean a signature only where `sig` stands beside them.
_AZURE = {"se", "sp", "spr", "sr", "st", "sv", "skoid", "sktid", "skt", "ske", "sks", "skv"}

# RFC 3986 leaves these as they are in a path or query; `%` because escapes are kept.
_KEEP_PATH = "%/:@!$&'()*+,;=~-._"
_KEEP_QUERY = _KEEP_PATH + "?[]"  # brackets may not stand there, but everybody sends them
_IN_DIGITS = re.compile(r"[0-9.]+\Z|.*:")
# Labels of at most 63 (RFC 1035): for longer ones Python's resolver raises no OSError.
_HOST = re.compile(r"(?=.{1,254}\Z)([A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.)*[A-Za-z0-9_-]{1,63}\.?\Z")


# Lower case, a port that may be, a path of characters that stay as they are, no query.
MAX_PORT = 65535
_USUAL = re.compile(
    r"(https?)://([a-z0-9._-]+)(?::([1-9][0-9]{0,4}))?(/[A-Za-z0-9%/:@!$&'()*+,;=~._-]*)\Z"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BadUrl(HoldfastError):
    """A text that is no URL we can fetch; the message names it and the reason."""

    code = "HF-1001"
    exit_code = 2

    def __init__(self, text: str, reason: str, next_step: str) -> None:
        super().__init__(f"`{text}`: {reason}")
        self.reason = reason
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https address, normalised.

    host: lower case, IDNA, without brackets.  target: path and query as sent.
    credentials: `user:password` in clear, or empty; never part of a repr or of a stored form.
    """

    scheme: str
    host: str
    port: int
    target: str
    credentials: str = ""

    def __repr__(self) -> str:
        return f"Url({self.canonical()!r})"

    @property
    def netloc(self) -> str:
        """`host[:port]`, as in a Host header: the port only where it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: the boundary for credentials (RFC 6454)."""
        return (self.scheme, self.host, self.port)

    @property
    def path(self) -> str:
        """The path, still escaped."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query, still escaped, without its question mark."""
        return self.target.partition("?")[2]

    @property
    def authorization(self) -> str:
        """The value of a Basic Authorization header, or empty."""
        if not self.credentials:
            return ""
        return "Basic " + base64.b64encode(self.credentials.encode()).decode("ascii")

    @property
    def is_signed(self) -> bool:
        """Whether a part of it is secret: it cannot be asked again from the stored form."""
        if "?" not in self.target:
            return bool(self.credentials)
        return bool(self.credentials) or self.canonical() != self.full()

    def full(self) -> str:
        """Return the address as asked, secrets in the query included."""
        return f"{self.scheme}://{self.netloc}{self.target}"

    def with_parameter(self, name: str, value: str) -> Url:
        """Return the address with one parameter more in its query; both are URL-ready."""
        mark = "&" if "?" in self.target else "?"
        return replace(self, target=f"{self.target}{mark}{name}={value}")

    def canonical(self) -> str:
        """Return what identifies the object: no credentials, no signature, no fragment."""
        if "?" not in self.target:
            return self.full()
        query = _public_query(self.query)
        return f"{self.scheme}://{self.netloc}{self.path}{'?' if query else ''}{query}"


def parse(text: str) -> Url:
    """Read an http(s) URL. Raises BadUrl with the reason and what to write instead.

    Spaces and other characters that may not stand in a request line are percent-encoded;
    escapes that are there stay as they are.
    """
    usual = _USUAL.match(text) if len(text) <= MAX_LENGTH else None
    if usual is not None and _HOST.match(usual[2]):
        # Nothing in it has to be changed: a tenth of the time, which tells in a list of 10^6.
        scheme, host, given, target = usual.groups()
        port = int(given) if given else DEFAULT_PORTS[scheme]
        if port <= MAX_PORT:
            return Url(scheme, host, port, target)
    return _read(text)


def _read(text: str) -> Url:
    """Read any URL."""
    shown = _shortened(text)
    if len(text) > MAX_LENGTH:
        raise BadUrl(shown, f"it is longer than {MAX_LENGTH} characters", "Shorten it.")
    if _CONTROL.search(text):
        raise BadUrl(shown, "it holds a control character", "Remove it.")
    text = text.strip()
    scheme, colon, _ = text.partition("://")
    if not colon:
        raise BadUrl(shown, "it has no `scheme://`", f"Write `https://{shown}` if that is meant.")
    if scheme.lower() not in DEFAULT_PORTS:
        raise BadUrl(shown, f"the scheme `{_shortened(scheme)}` is not supported", _SCHEMES)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadUrl(shown, f"it cannot be read: {error}", _FORM) from None
    scheme = parts.scheme
    host = _host(parts.hostname or "", shown)
    target = quote(parts.path or "/", safe=_KEEP_PATH)
    if parts.query:
        target += "?" + quote(parts.query, safe=_KEEP_QUERY)
    userinfo = parts.netloc.rpartition("@")[0]
    credentials = unquote_to_bytes(userinfo).decode("utf-8", "replace") if userinfo else ""
    if port == 0:
        raise BadUrl(shown, "the port is 0", _FORM)
    return Url(scheme, host, port or DEFAULT_PORTS[scheme], target, credentials)


_FORM = "Write it as `https://host/path`."
_SCHEMES = "Only `http://` and `https://` can be fetched."


def redirected(base: Url, location: str) -> Url:
    """Return where `location` leads from `base`; credentials stay within the origin.

    Raises BadUrl for a target that cannot be fetched, and for https -> http: that would
    give away what the first request protected.
    """
    with suppress(UnicodeError):  # raw UTF-8 in a header, which is read as Latin-1
        location = location.encode("latin-1").decode("utf-8")
    target = parse(urljoin(base.full(), location.strip()))
    if base.scheme == "https" and target.scheme == "http":
        reason = f"it redirects to `{target.canonical()}`, from https to http"
        raise BadUrl(base.canonical(), reason, "Ask for the http address itself if that is fine.")
    same = target.origin == base.origin
    kept = target.credentials or (base.credentials if same else "")
    return Url(target.scheme, target.host, target.port, target.target, kept)


def is_cross_site(a: Url, b: Url) -> bool:
    """Whether two addresses belong to different sites.

    The last two labels of the name stand for the site. That takes `a.co.uk` and `b.co.uk`
    for one site; it is used for suspicion only, never for credentials. An address in digits is a
    site of its own.
    """
    if _IN_DIGITS.match(a.host) or _IN_DIGITS.match(b.host):
        return a.host != b.host
    return a.host.split(".")[-2:] != b.host.split(".")[-2:]


def _public_query(query: str) -> str:
    if not query:
        return ""
    pairs = query.split("&")
    names = [_parameter(pair) for pair in pairs]
    azure = _AZURE if "sig" in names else set[str]()
    return "&".join(
        pair
        for pair, name in zip(pairs, names, strict=True)
        if name not in _SECRET and name not in azure and not name.startswith(_SECRET_PREFIXES)
    )


def _parameter(pair: str) -> str:
    read = parse_qsl(pair, keep_blank_values=True, max_num_fields=1)
    return read[0][0].lower() if read else ""


def _host(host: str, shown: str) -> str:
    if not host:
        raise BadUrl(shown, "it has no host", _FORM)
    if ":" in host:  # an IPv6 literal: urlsplit has checked the brackets
        return host.lower()
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_host = ""
    if not _HOST.match(ascii_host):
        raise BadUrl(shown, f"the host `{_shortened(host)}` is not a valid name", _FORM)
    return ascii_host.lower()


def _shortened(text: str) -> str:
    """Return `text` fit for a message: without userinfo and query, 200 characters at most."""
    text = re.sub(r"(//|^)[^/?#]*@", r"\1", text.partition("?")[0])
    return text if len(text) <= 200 else text[:199] + "\u2026"
