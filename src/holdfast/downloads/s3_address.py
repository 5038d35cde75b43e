"""Addresses of S3: what `s3://` means, and where a bucket and its objects are asked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.s3_auth import DEFAULT_REGION
from holdfast.wire.urls import Url, parse

MAX_KEY = 1024
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")
# What may stand before `.s3.amazonaws.com`: one label of a host name, since the certificate
# covers one. Dotted and old names (capitals, underscores) go into the path.
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z")
UNRESERVED = "-._~"  # RFC 3986; all else is escaped, as Signature Version 4 wants it


@dataclass(frozen=True, slots=True)
class Source:
    """`s3://bucket/prefix`. The prefix is taken as it is: nothing in it is escaped."""

    bucket: str
    prefix: str = ""

    @property
    def base(self) -> str:
        """What is left out of the paths of its objects: the prefix up to its last `/`."""
        return self.prefix[: self.prefix.rfind("/") + 1]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_source(text: str) -> Source:
    """Read `s3://bucket/prefix`. Raises DownloadError (HF-1001)."""
    if not text.lower().startswith("s3://"):
        raise _bad_source(text, "it does not begin with `s3://`")
    bucket, _, prefix = text[5:].partition("/")
    if not _BUCKET.match(bucket):
        raise _bad_source(text, f"`{bucket[:80]}` is not the name of a bucket")
    if len(prefix.encode("utf-8", "surrogatepass")) > MAX_KEY or "\0" in prefix:
        raise _bad_source(text, f"no key has more than {MAX_KEY} bytes, or a NUL")
    return Source(bucket, prefix)


def _bad_source(text: str, reason: str) -> DownloadError:
    shown = f"`{text[:200]}`: {reason}"
    return DownloadError("bad-url", shown, next_step="Write it as `s3://bucket/prefix`.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is asked.

    endpoint: of a service other than AWS; then, and for a bucket whose name is no label of a
    host name, the bucket stands in the path.  region: empty while it is not known.
    """

    bucket: str
    endpoint: Url | None = None
    region: str = ""

    def url(self, key: str = "", query: str = "") -> str:
        """Return the address of a key, or of the bucket itself."""
        path = quote(key.encode("utf-8", "surrogatepass"), safe=f"/{UNRESERVED}")
        return f"{self._root()}/{path}{'?' if query else ''}{query}"

    def _root(self) -> str:
        if self.endpoint is not None:
            base = f"{self.endpoint.scheme}://{self.endpoint.netloc}{self.endpoint.path}"
            return f"{base.rstrip('/')}/{self.bucket}"
        region = f".{self.region}" if self.region else ""
        china = ".cn" if self.region.startswith("cn-") else ""
        host = f"s3{region}.amazonaws.com{china}"
        if _LABEL.match(self.bucket):
            return f"https://{self.bucket}.{host}"
        return f"https://{host}/{self.bucket}"

    @property
    def asked_region(self) -> str:
        """The region that is asked: while none is known, the one whose server knows all."""
        return self.region or DEFAULT_REGION


def endpoint_of(text: str) -> Url:
    """Read the address of a service. Raises BadUrl; DownloadError (HF-1003) for secrets in it."""
    url = parse(text)
    if url.credentials or url.query:
        reason = "it may have no user, password or query"
        raise DownloadError("bad-option", f"`--s3-endpoint {url.canonical()}`: {reason}")
    return url
