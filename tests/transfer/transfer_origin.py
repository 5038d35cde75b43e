"""An origin server in memory, as a data plane: it can lie, break and change its object.

Faithful to RFC 9110 in what it does with Range, If-Match and If-Range; everything else is
what a test puts in.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import holdfast as hf
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing.files import SimFiles
from holdfast.transfer.extents import Extent, Extents
from holdfast.transfer.object import ObjectTransfer
from holdfast.transfer.part import Part
from holdfast.transfer.plane import End, Received, Request, Sink
from holdfast.transfer.traffic import Alone, Flow
from holdfast.transfer.verify import Digest, Hasher, is_s3
from holdfast.transfer.wanted import Standing, Wanted, Whole
from holdfast.wire.addresses import Reach
from holdfast.wire.cancel import Cancel
from holdfast.wire.http1 import Framing, Head
from holdfast.wire.urls import Url, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from holdfast.transfer.failures import TransferFailed
    from holdfast.transfer.repair import Pieces
    from holdfast.transfer.traffic import Shared
    from holdfast.transfer.wanted import Attempt

RESET = Verdict(Kind.TRANSIENT, Sent.YES, "ECONNRESET")
CANCELLED = Verdict(Kind.CANCELLED, Sent.MAYBE, "cancelled", local=True)
SIZE = 1 << 20
DATES = [f"Tue, 14 Nov 2023 22:13:{n:02} GMT" for n in range(60)]


def body_of(version: int, size: int = SIZE) -> bytes:
    return SeededRandom(f"version {version}").bytes(size)


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _least(a: int, b: int | None) -> int:
    return a if b is None else min(a, b)


@dataclass
class Origin:
    """Serves versions of one object. It is a `Plane`.

    cuts: for each exchange that sends a body, after how many bytes it breaks; None: it does not.
    etag, dated: whether the validators are sent.  ranges: whether Range is heeded.
    if_match: whether it is heeded.  tags_of_nodes: `alter` judges the conditions instead.
    alter: changes the answer before it goes out, given (head, body, request).
    before: called before each exchange with its number, from 1.  step: bytes of one write.
    wakes: whether a cancel ends an exchange under way.
    """

    body: bytes = field(default_factory=lambda: body_of(1))
    version: int = 1
    etag: bool = True
    dated: bool = True
    ranges: bool = True
    if_match: bool = True
    tags_of_nodes: bool = False
    framing: Framing = Framing.LENGTH
    cuts: list[int | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    alter: Callable[[Head, bytes, Request], tuple[Head, bytes]] | None = None
    before: Callable[[int], None] | None = None
    asked: list[Request] = field(default_factory=list)
    served: int = 0
    step: int = 10_000
    wakes: bool = False

    def change(self, body: bytes | None = None) -> None:
        self.version += 1
        self.body = body_of(self.version, len(self.body)) if body is None else body

    @property
    def tag(self) -> str:
        return f'"v{self.version}"'

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        self.asked.append(request)
        if self.before:
            self.before(len(self.asked))
        head, body = self._answer(request)
        if self.alter:
            head, body = self.alter(head, body, request)
        take = sink.accept(head)
        if take is None:
            return Received(End.UNREAD, head)
        cut = self.cuts.pop(0) if self.cuts else None
        sent = 0
        while sent < (limit := _least(len(body), take.now())):
            if self.wakes and cancel.is_set():
                return Received(End.BROKEN, head, sent, CANCELLED, "cancelled")
            if cut is not None and sent >= cut:
                return Received(End.BROKEN, head, sent, RESET, "reset")
            stop = _least(min(sent + self.step, limit), cut)
            self.served += stop - sent
            sink.write(memoryview(body)[sent:stop])
            sent = stop
        if cut is not None and cut <= sent < len(body):
            return Received(End.BROKEN, head, sent, RESET, "reset")
        if limit < len(body):
            return Received(End.LIMIT, head, sent)
        end = End.UNFRAMED if head.framing is Framing.CLOSE else End.COMPLETE
        return Received(end, head, sent)

    def _answer(self, request: Request) -> tuple[Head, bytes]:
        asked = request.headers
        fields = {"content-type": "application/octet-stream", "date": DATES[59], **self.headers}
        if self.etag:
            fields["etag"] = self.tag
        if self.dated:
            fields["last-modified"] = DATES[self.version]
        if self.if_match and asked.get("If-Match", self.tag) != self.tag:
            return Head(412, fields, Framing.LENGTH, 0), b""
        condition = asked.get("If-Range", self.tag)
        held = self.tags_of_nodes or condition in {self.tag, DATES[self.version]}
        if not (self.ranges and "Range" in asked and held):
            return self._framed(200, fields, self.body), self.body
        first, _, last = asked["Range"].removeprefix("bytes=").partition("-")
        start, size = int(first), len(self.body)
        stop = min(size, int(last) + 1) if last else size
        if start >= size:
            fields["content-range"] = f"bytes */{size}"
            return Head(416, fields, Framing.LENGTH, 0), b""
        fields["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._framed(206, fields, self.body[start:stop]), self.body[start:stop]

    def _framed(self, status: int, fields: dict[str, str], body: bytes) -> Head:
        length = len(body) if self.framing is Framing.LENGTH else None
        return Head(status, fields, self.framing, length)


class Company(Alone):
    """Lends threads: an object that is offered is fetched by so many streams."""

    def __init__(self, streams: int) -> None:
        self.count = streams
        self.flows: list[Flow] = []
        self._threads: list[threading.Thread] = []

    def streams(self, host: str) -> int:
        return self.count

    @contextmanager
    def flow(self, host: str, cancel: Cancel) -> Iterator[Flow]:
        with super().flow(host, cancel) as flow:
            self.flows.append(flow)
            yield flow

    def offer(self, work: Shared) -> None:
        def attempts(_: str, __: Cancel) -> Iterable[Attempt]:
            retry = hf.Retry(8, backoff=hf.Constant(0), budget=None)
            return hf.policy(retry).attempts(method="GET")

        def helper() -> None:
            while work.wants_help:
                work.help(attempts)

        for _ in range(self.count - 1):
            thread = threading.Thread(target=helper)
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._threads.clear()


class Bench:
    """Fetches from a plane into a simulated disk, with a journal in memory."""

    def __init__(
        self, plane: Origin, url: str = "http://origin.example/data.nc", *, streams: int = 1
    ) -> None:
        self.plane = plane
        self.url: Url = parse(url)
        self.files = SimFiles()
        self.files.makedirs("/d")
        self.rows: dict[int, Extent] = {}
        self.standing = Standing()
        self.progress = 0
        self.failed: list[str] = []
        self.hosts: list[str] = []
        self.mirrors: tuple[Url, ...] = ()
        self.reach = Reach.TYPED
        self.transfer: ObjectTransfer | None = None
        self.company = Company(streams) if streams > 1 else None

    def run(
        self,
        *,
        attempts: int = 8,
        sha256: str = "",
        size: int | None = None,
        headers: dict[str, str] | None = None,
        allow_html: bool = False,
        max_size: int = 1 << 40,
        cancel: Cancel | None = None,
        pieces: Pieces | None = None,
    ) -> Whole:
        digests = (Digest("sha256", sha256),) if sha256 else ()
        wanted = Wanted(
            self.url,
            headers or {},
            size,
            digests,
            pieces,
            allow_html,
            data_suffix=True,
            max_size=max_size,
            s3=is_s3(self.url, headers or {}),
            mirrors=self.mirrors,
            reach=self.reach,
        )
        with seam.install(self.files), self._part(digests) as part:
            transfer = self.transfer = ObjectTransfer(
                wanted,
                part,
                self.standing,
                note=self._note,
                plane=self.plane,
                cancel=cancel or Cancel(),
                failed=self._failed,
                traffic=self.company,
            )
            retry = hf.Retry(attempts, backoff=hf.Constant(0), budget=None)
            try:
                return transfer.run(hf.policy(retry).attempts(method="GET"))
            finally:
                if self.company is not None:
                    self.company.join()

    @contextmanager
    def _part(self, digests: Sequence[Digest]) -> Iterator[Part]:
        part = Part("/d/.x.part", Extents.of(self.rows.values()), self._keep, drop=self._drop)
        part.open(Hasher(["sha256"]) if digests else None)
        try:
            yield part
        finally:
            part.close()

    def _failed(self, error: TransferFailed, _: int) -> None:
        self.failed.append(str(error.reason))
        self.hosts.append(error.host)

    def _keep(self, extents: Sequence[Extent]) -> None:
        self.rows |= {extent.off: extent for extent in extents}

    def _drop(self, extents: Sequence[Extent]) -> None:
        for extent in extents:
            del self.rows[extent.off]

    def _note(self, standing: Standing, drop: bool) -> None:  # noqa: FBT001 - the form asked for
        self.standing = standing
        if drop:
            self.rows.clear()

    @property
    def content(self) -> bytes:
        return self.files.read("/d/.x.part")

    @property
    def kept(self) -> int:
        return sum(extent.len for extent in self.rows.values())

    @property
    def ranges(self) -> list[str]:
        """The Range fields asked, in order; "" for none."""
        return [request.headers.get("Range", "") for request in self.plane.asked]


def with_head(head: Head, **changes: object) -> Head:
    return replace(head, **changes)  # type: ignore[arg-type] # a test's own doing
