"""The origin of `faults.py`: one object behind one kind of fault, in a process of its own.

    python benchmarks/faults_origin.py '{"size": 268435456, "fault": "rst", "seed": 1, ...}'

It prints its port. A line on its input is answered with a line of JSON: what was served and what
struck. It ends when its input ends.

It is `holdfast.chaos.server`: the answer is right to the byte (RFC 9110: HEAD, ranges, If-Match,
If-Range, strong ETag, Last-Modified), nothing is copied, so that it is several times as fast as
any client here, and it breaks a connection at the byte that was drawn and nowhere else; the column
"none" of the table shows that. nginx behind a proxy could not do three of the columns.

    rst, fin, stall  at a byte of each connection, from the exponential distribution; what was
                     sent before arrives
    503              for `OUTAGE` seconds after the first request, and again when half of the
                     object has gone out, every request gets 503, Retry-After: 1 and S3's XML
    replaced         at 40 % the object is another one (new bytes, ETag and date, same size); the
                     answers under way end, cleanly and too early
    flipped          one bit, once, in the byte that goes out at 40 %
    slow             16 MiB/s per connection, for the row in which the client is killed

With `s3` it is a bucket too: the ETag is the MD5 of the content, as after a PUT in one part, the
answers carry request ids, and ListObjectsV2 finds the object. It names no checksum of its own,
like the data sets that were uploaded before S3 computed them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import holdfast as hf
from holdfast.chaos import Answer, Content, Cut, Object
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.chaos import Fault, Line, Request

BUCKET = "bucket"
KEY = "data.bin"
PATH = f"/{BUCKET}/{KEY}"
CUT_SHARE = 1 / 8
"""Mean position of a cut, as a share of the object: 32 MiB of 256 MiB; twice that for a stall."""
REPLACED_AT = 0.4
OUTAGE = 3.0
RETRY_AFTER = 1
SLOW = 16 << 20
S3_FIELDS = {"x-amz-request-id": "4442587FB7D0A2F9", "x-amz-id-2": "vlR7PnpV2Ce81l0PRw6j"}
SLOW_DOWN = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    "<Message>Please reduce your request rate.</Message><RequestId>4442587FB7D0A2F9</RequestId>"
    "</Error>"
)


def md5_of(content: Content) -> str:
    """Return the digest that S3 has as the ETag of what came in one part."""
    running = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(content), 1 << 20):
        for piece in content.pieces(start, min(len(content), start + (1 << 20))):
            running.update(piece)
    return running.hexdigest()


class Replaceable:
    """The bytes of one version: their end comes early when there is a next one."""

    def __init__(self, content: Content, stored: Stored) -> None:
        self._content = content
        self._stored = stored

    def __len__(self) -> int:
        return len(self._content)

    def pieces(self, start: int, stop: int) -> list[bytes | memoryview]:
        if self._stored.version != self._content.version:
            raise Cut("fin")
        return self._content.pieces(start, stop)


class Stored(Object):
    """The object. fault: of the columns, those that are about it and not about connections.

    etags: version -> ETag, if it is not ours to choose.  outages: when they began.
    """

    def __init__(
        self, size: int, fault: str, etags: dict[int, str], fields: dict[str, str]
    ) -> None:
        super().__init__(PATH, size, headers=fields)
        self.fault = fault
        self.etags = etags
        self.outages: list[float] = []
        self.refused = 0
        self.struck = 0
        if fault == "replaced":
            self.track.at(int(size * REPLACED_AT), self._replace)
        elif fault == "flipped":
            self.track.at(int(size * REPLACED_AT), self._flip)
        elif fault == "503":
            self.track.at(size // 2, self._break_down)

    async def _replace(self, _: Line) -> None:
        self.struck += 1
        self.replace()

    async def _flip(self, line: Line) -> None:
        self.struck += 1
        line.mask = 1 << 4

    async def _break_down(self, _: Line) -> None:
        self.outages.append(clock.monotonic())

    def etag(self, content: Content, node: int = 0) -> str:
        own = self.etags.get(content.version)
        return super().etag(content, node) if own is None else f'"{own}"'

    async def answer(self, request: Request) -> Answer:
        now = clock.monotonic()
        if self.fault == "503":
            self.outages = self.outages or [now]
            if now - self.outages[-1] < OUTAGE:
                return self._refusal()
        answer = await super().answer(request)
        if isinstance(answer.body, Content) and self.fault == "replaced":
            answer.body = Replaceable(answer.body, self)
        return answer

    def _refusal(self) -> Answer:
        self.refused += 1
        fields = {"Content-Type": "application/xml", "Retry-After": str(RETRY_AFTER)}
        return Answer(503, fields | self.headers, hf.chaos.line.Plain(SLOW_DOWN.encode()))


def listing(stored: Stored) -> hf.chaos.Handler:
    """Return the route of ListObjectsV2."""

    def page(request: Request) -> Answer:
        prefix = request.query.get("prefix", "")
        content = stored.content()
        entry = (
            f"<Contents><Key>{KEY}</Key><LastModified>2023-11-14T23:13:20.000Z</LastModified>"
            f"<ETag>{escape(stored.etag(content))}</ETag><Size>{stored.size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
        found = KEY.startswith(prefix)
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{int(found)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{entry if found else ''}</ListBucketResult>"
        )
        body = hf.chaos.line.Plain(text.encode())
        return Answer(200, {"Content-Type": "application/xml"} | S3_FIELDS, body)

    return hf.chaos.Handler(f"/{BUCKET}*", page)


def faults_of(fault: str, size: int) -> Sequence[Fault]:
    """Return what happens to connections."""
    mean = size * CUT_SHARE
    return {
        "rst": [hf.chaos.Reset(mean_bytes=mean, per="connection")],
        "fin": [hf.chaos.Fin(mean_bytes=mean, per="connection")],
        "stall": [hf.chaos.Stall(mean_bytes=2 * mean, per="connection")],
        "slow": [hf.chaos.Slow(SLOW, per="connection")],
    }.get(fault, [])


def main() -> None:
    """Serve until the input ends. The argument: size, fault, seed, s3, etags (JSON)."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    size, fault = asked["size"], asked["fault"]
    etags = {int(version): etag for version, etag in asked["etags"].items()}
    stored = Stored(size, fault, etags, S3_FIELDS if asked["s3"] else {})
    routes = (stored, listing(stored)) if asked["s3"] else (stored,)
    with hf.chaos.server(*routes, faults=faults_of(fault, size), seed=asked["seed"]) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:
            stats = server.stats
            told = {
                "served": stored.track.position - stats.bytes_lost,
                "requests": stored.requests,
                "connections": stats.connections,
                "struck": stats.faults.total() + stored.struck + stored.refused,
                "version": stored.version,
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
