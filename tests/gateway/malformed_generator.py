"""Requests that are wrong in some way, or only odd: made from a grammar, by seed.

A case begins as one to three requests that are right. Then up to three things are done to it: to
a line, to a length, to the framing of the body, to single bytes. Some cases stay right, and some
mutations change nothing that matters: what each of them is, is for the readers to say.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

METHODS = b"GET POST PUT DELETE PATCH HEAD OPTIONS PROPFIND REPORT M-SEARCH PURGE LOCK".split()
BAD_METHODS = [b"get", b"BREW", b"GET\t", b"", b"G@T", b"CONNECT", b"TRACE", b"PRI", b"SOURCE"]
TARGETS = [
    b"/",
    b"/a",
    b"/a/b?c=d&e",
    b"//a//b",
    b"/%2e%2e/%00",
    b"/../..",
    b"/?q=a|b",
    b"/x;y=z?a=%20",
    b"/~u/!$&'()*+,=:@",
    b"/?http://b/",
    b"http://h/abs?x",
    b"HTTP://H/",
    b"http://h",
]
BAD_TARGETS = [
    b"*",
    b"a",
    b"",
    b"/a b",
    b"/a#b",
    b"/\xc3\xa9",
    b"http://other/",
    b"http://u@h/",
    b"ftp://h/",
    b"h:80",
    b"/\x00",
    b"/\x7f",
    b"/a\tb",
    b"?a",
]
VERSIONS = [
    b"HTTP/0.9",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/11",
]
VERSIONS += [b"HTTP /1.1", b"RTSP/1.0", b"ICE/1.0", b"", b"HTTP/1.1\t", b"HTTP/1.01"]
HOSTS = [b"Host: h:99999", b"Host:", b"Host: a b", b"Host: a/b", b"Host: u@h", b"Host: h,h"]
HOSTS += [b"Host: [::1]:8", b"Host: ::1", b"host: H", b"Host: h", b"Host: \xff", b"Host: h:"]
FIELDS = [
    b"Accept: */*",
    b"X-Empty:",
    b"x-TAB:\ta\tb\t",
    b"X-Text: \xe9\xff",
    b"X-Same: 1",
    b"X-Same: 2",
    b"!#$%&'*+-.^`|~: token",
    b"X_Under: 1",
    b"Content_Length: 9",
    b"Transfer_Encoding: chunked",
    b"Connection: x-same, keep-alive",
    b"Connection: host, content-length",
    b"Connection: close",
    b"Keep-Alive: timeout=5",
    b"TE: trailers",
    b"Trailer: X",
    b"Proxy-Connection: close",
    b"Upgrade: h2c",
    b"X-Forwarded-For: 1.2.3.4",
    b"Forwarded: for=1.2.3.4",
    b"Cookie: a=b; c=d",
    b"Content-Type: text/plain",
    b"Expect: 100-continue",
    b"X-Long: " + b"l" * 300,
    b"Range: bytes=0-4",
]
BAD_FIELDS = [
    b"A : b",
    b" A: b",
    b"\tA: b",
    b": b",
    b"no colon",
    b"A[]: b",
    b"A\x00: b",
    b"A: \x00",
    b"A: \x07",
    b"A: \x7f",
    b"A: b\rC: d",
    b"A: b\nC: d",
    b"A: b\r\n folded",
    b"Expect: tea",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"\xc3\xa9: b",
    b"Host: h",
    b"Host: other",
]
LENGTHS = [
    b"+%d",
    b"-%d",
    b" %d ",
    b"%d, %d",
    b"0x%x",
    b"%d;",
    b"%d.0",
    b"\x0b%d",
    b"0%d",
    b"%d %d",
]
LENGTHS += [b"%d_0", b"", b"99999999999999999999", b"999999999999", b"\t%d\t", b"'%d'"]
CODINGS = [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"transfer-encoding:chunked ",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"X: y\nTransfer-Encoding: chunked",
]
BODIES = [b"", b"x", b"{}", b"hello world", b"\r\n", b"0\r\n\r\n", bytes(range(256))]
BODIES += [b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n", b"a" * 3000, b"5\r\nhello\r\n0\r\n\r\n"]
SIZES = [b"%x ", b" %x", b"0x%x", b"+%x", b"-%x", b"%x\n", b"%x;", b"%x;a=", b'%x;a="b', b"%x;a b"]
SIZES += [b"0000000000000000%x", b"%x\r", b"%x;a=b;c", b'%x;a="b\\"c"', b"%xg", b"%x\x00", b"%x_"]
NASTY = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\x0b",
    b"\xff",
    b";",
    b",",
    b"0",
    b"#",
]
NASTY += [b"\r\n\r\n", b"\r\r\n", b"\n\n", b"GET / HTTP/1.1\r\n", b"\x7f", b'"', b"\\"]


@dataclass
class Request:
    """One request before it is bytes. chunked: None, or what goes on the wire as its body."""

    line: list[bytes]
    fields: list[bytes]
    body: bytes = b""
    chunked: bytes | None = None

    def wire(self) -> bytes:
        head = b"\r\n".join([b" ".join(self.line), *self.fields, b"", b""])
        return head + (self.body if self.chunked is None else self.chunked)


@dataclass
class Case:
    """What is sent, and in which pieces. did: the names of the mutations."""

    number: int
    pieces: list[bytes] = field(default_factory=list)
    did: list[str] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def cases(seed: int, count: int) -> list[Case]:
    """Return `count` cases; the n-th is the same however many are asked for."""
    return [_Maker(random.Random(f"{seed}-{number}"), number).make() for number in range(count)]


def answers(seed: int, count: int) -> list[Case]:
    """Return `count` answers of an endpoint, made and broken in the same way; in one piece."""
    return [_Teller(random.Random(f"{seed}+{number}"), number).make() for number in range(count)]


class _Maker:
    asks = True  # that is: requests

    def __init__(self, draw: random.Random, number: int) -> None:
        self.draw = draw
        self.case = Case(number)

    def make(self) -> Case:
        draw = self.draw
        count = draw.choice([1, 1, 1, 2, 3]) if self.asks else 1
        requests = [self.request() for _ in range(count)]
        structured = _STRUCTURED if self.asks else _OF_ANSWERS
        for _ in range(draw.choice([0, 1, 1, 1, 1, 2, 3])):
            mutate = draw.choice(structured)
            mutate(self, draw.choice(requests))
            self.case.did.append(mutate.__name__)
        data = b"".join(request.wire() for request in requests)
        if draw.random() < 0.35:
            mutate = draw.choice(_BYTES)
            data = mutate(self, data)
            self.case.did.append(mutate.__name__)
        places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice([0, 0, 1, 2, 5])))
        ends = [0, *places, len(data)]
        self.case.pieces = [data[a:b] for a, b in itertools.pairwise(ends) if a < b]
        return self.case

    def request(self) -> Request:
        draw = self.draw
        request = Request(
            [draw.choice(METHODS), draw.choice(TARGETS), b"HTTP/1.1"],
            [b"Host: h", *draw.sample(FIELDS, draw.randrange(5))],
        )
        draw.shuffle(request.fields)
        if draw.random() < 0.6:
            request.body = draw.choice(BODIES)
            if draw.random() < 0.5:
                request.fields.append(b"Transfer-Encoding: chunked")
                request.chunked = self.chunks(request.body)
            else:
                request.fields.append(b"Content-Length: %d" % len(request.body))
        return request

    def chunks(self, body: bytes, bad: bytes = b"") -> bytes:
        draw, out, at = self.draw, [], 0
        while at < len(body):
            piece = body[at : at + draw.choice([1, 2, 5, 16, 1000])]
            at += len(piece)
            form = (
                bad if bad and draw.random() < 0.5 else draw.choice([b"%x", b"%X", b"0%x", b"%x;a"])
            )
            out.append(form % len(piece) + b"\r\n" + piece + b"\r\n")
        out.append(draw.choice([b"0", b"0", b"000", b"0;x=y"]) + b"\r\n")
        out.append(draw.choice([b"", b"", b"T: 1\r\n", b"T:\r\nU: 2\r\n"]) + b"\r\n")
        return b"".join(out)

    def insert(self, request: Request, line: bytes) -> None:
        request.fields.insert(self.draw.randrange(len(request.fields) + 1), line)

    # -- to a request --------------------------------------------------------------------------

    def method(self, request: Request) -> None:
        request.line[0] = self.draw.choice(BAD_METHODS)

    def target(self, request: Request) -> None:
        request.line[1] = self.draw.choice(BAD_TARGETS)

    def version(self, request: Request) -> None:
        request.line[2] = self.draw.choice(VERSIONS)

    def spaces(self, request: Request) -> None:
        request.line.insert(self.draw.randrange(len(request.line) + 1), b"")

    def host(self, request: Request) -> None:
        request.fields = [one for one in request.fields if not one.lower().startswith(b"host")]
        if self.draw.random() < 0.7:
            self.insert(request, self.draw.choice(HOSTS))

    def bad_field(self, request: Request) -> None:
        self.insert(request, self.draw.choice(BAD_FIELDS))

    def odd_field(self, request: Request) -> None:
        self.insert(request, self.draw.choice(FIELDS))

    def twice(self, request: Request) -> None:
        self.insert(request, self.draw.choice(request.fields or [b"A: b"]))

    def lost(self, request: Request) -> None:
        if request.fields:
            request.fields.pop(self.draw.randrange(len(request.fields)))

    def length(self, request: Request) -> None:
        form, size = self.draw.choice(LENGTHS), len(request.body)
        self.insert(request, b"Content-Length: " + form % ((size,) * form.count(b"%")))

    def wrong_length(self, request: Request) -> None:
        size = max(0, len(request.body) + self.draw.choice([-5, -1, 1, 2, 40]))
        request.fields = [one for one in request.fields if b"ength" not in one]
        self.insert(request, b"Content-Length: %d" % size)

    def too_large(self, request: Request) -> None:
        request.fields = [one for one in request.fields if b"ength" not in one]
        self.insert(request, b"Content-Length: 99999999999")

    def coding(self, request: Request) -> None:
        self.insert(request, self.draw.choice(CODINGS))
        if request.chunked is None and self.draw.random() < 0.7:
            request.chunked = self.chunks(request.body)

    def bad_chunk(self, request: Request) -> None:
        if request.chunked is None:
            self.insert(request, b"Transfer-Encoding: chunked")
        request.chunked = self.chunks(request.body or b"hello", self.draw.choice(SIZES))

    def many(self, request: Request) -> None:
        request.fields += [b"F%d: v" % n for n in range(self.draw.choice([95, 99, 100, 101, 150]))]

    def large(self, request: Request) -> None:
        if self.draw.random() < 0.5:
            request.line[1] = b"/" + b"t" * self.draw.choice(
                [16_000, 16_383, 16_384, 17_000, 40_000]
            )
        else:
            self.insert(request, b"L: " + b"v" * self.draw.choice([8_000, 16_000, 31_000, 40_000]))

    # -- to the bytes --------------------------------------------------------------------------

    def put(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data) + 1)
        return data[:at] + self.draw.choice(NASTY) + data[at:]

    def replace(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data))
        return data[:at] + self.draw.choice(NASTY) + data[at + 1 :]

    def delete(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data))
        return data[:at] + data[at + self.draw.choice([1, 1, 2, 4]) :]

    def line_end(self, data: bytes) -> bytes:
        ends = [at for at in range(len(data)) if data.startswith(b"\r\n", at)]
        at = self.draw.choice(ends or [0])
        return (
            data[:at] + self.draw.choice([b"\n", b"\r", b"\r\r\n", b"\n\r", b""]) + data[at + 2 :]
        )

    def cut(self, data: bytes) -> bytes:
        return data[: self.draw.randrange(1, len(data) + 1)]

    def before(self, data: bytes) -> bytes:
        return (
            self.draw.choice([b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\x00", b"\xef\xbb\xbf"]) + data
        )


class _Teller(_Maker):
    asks = False

    def request(self) -> Request:
        draw = self.draw
        made = super().request()
        status = draw.choice(
            [b"200", b"200", b"200", b"201", b"204", b"304", b"400", b"404", b"100"]
        )
        made.line = [b"HTTP/1.1", status, draw.choice([b"OK", b"", b"Not \xe9"])]
        made.fields = [one for one in made.fields if not one.startswith((b"Host", b"Expect"))]
        return made

    def status(self, answer: Request) -> None:
        bad = [b"101", b"99", b"1000", b"2OO", b"+200", b"600", b"", b"000", b"103", b"500"]
        answer.line[1] = self.draw.choice(bad)

    def version(self, answer: Request) -> None:
        answer.line[0] = self.draw.choice(VERSIONS)


_STRUCTURED = [
    _Maker.method,
    _Maker.target,
    _Maker.version,
    _Maker.spaces,
    _Maker.host,
    _Maker.bad_field,
    _Maker.odd_field,
    _Maker.odd_field,
    _Maker.twice,
    _Maker.lost,
    _Maker.length,
    _Maker.wrong_length,
    _Maker.too_large,
    _Maker.coding,
    _Maker.coding,
    _Maker.bad_chunk,
    _Maker.bad_chunk,
    _Maker.many,
    _Maker.large,
]
_OF_ANSWERS = [
    _Teller.status,
    _Teller.version,
    *(
        one
        for one in _STRUCTURED
        if one.__name__ not in {"method", "target", "version", "host", "large"}
    ),
]
_BYTES = [_Maker.put, _Maker.replace, _Maker.delete, _Maker.line_end, _Maker.cut, _Maker.before]
