"""Requests that are refused: by the reader of heads, by that of chunks, by the gateway's rules."""

from __future__ import annotations

LIMIT = 32 * 1024
"""Bytes that a head may have: the default of the gateway."""


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: a", *fields, b"", b""))


REFUSED = {
    "a coding before chunked": (get(b"Transfer-Encoding: gzip, chunked"), 400),
    "chunked twice": (get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "an unknown coding": (get(b"Transfer-Encoding: xchunked"), 400),
    "a coding in 1.0": (get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (get(b"Host: a"), 400),
    "two Hosts in 1.0": (get(b"Host: b", line=b"GET / HTTP/1.0"), 400),
    "userinfo in Host": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "a path in Host": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a list in Host": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "a port of letters": (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
    "HTTP/0.9": (get(line=b"GET / HTTP/0.9"), 505),
    "HTTP/2.0": (get(line=b"GET / HTTP/2.0"), 505),
    "HTTP/1.2": (get(line=b"GET / HTTP/1.2"), 505),
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "RTSP": (get(line=b"DESCRIBE / RTSP/1.0"), 400),
    "ICE": (get(line=b"SOURCE / ICE/1.0"), 400),
    "two spaces": (get(line=b"GET  / HTTP/1.1"), 400),
    "a space at the end": (get(line=b"GET / HTTP/1.1 "), 400),
    "a fragment": (get(line=b"GET /a#b HTTP/1.1"), 400),
    "bytes above 127 in the target": (get(line="GET /ä HTTP/1.1".encode()), 400),
    "a relative target": (get(line=b"GET a HTTP/1.1"), 400),
    "a star for GET": (get(line=b"GET * HTTP/1.1"), 400),
    "another authority": (get(line=b"GET http://b/ HTTP/1.1"), 400),
    "userinfo": (get(line=b"GET http://u:p@a/ HTTP/1.1"), 400),
    "another scheme": (get(line=b"GET ftp://a/ HTTP/1.1"), 400),
    "length and coding": (get(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "two lengths": (get(b"Content-Length: 3", b"Content-Length: 3"), 400),
    "a list of lengths": (get(b"Content-Length: 3, 3"), 400),
    "a signed length": (get(b"Content-Length: +3"), 400),
    "an empty length": (get(b"Content-Length:"), 400),
    "a huge length": (get(b"Content-Length: " + b"9" * 30), 400),
    "a space before a colon": (get(b"A : b"), 400),
    "a folded line": (get(b"A: b", b" c"), 400),
    "a bare LF": (b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n", 400),
    "NUL in a value": (get(b"A: \x00"), 400),
    "a name of a colon": (get(b": b"), 400),
    "an unknown method": (get(line=b"BREW / HTTP/1.1"), 400),
    "a method in lower case": (get(line=b"get / HTTP/1.1"), 400),
    "a coding after chunked": (get(b"Transfer-Encoding: chunked, gzip"), 400),
    "a coding without a name": (get(b"Transfer-Encoding:"), 400),
    "lengths that differ": (get(b"Content-Length: 3", b"Content-Length: 4"), 400),
    "a control character": (get(b"A: \x07"), 400),
    "a bad name": (get(b"A[]: b"), 400),
    "NUL in a name": (get(b"A\x00: b"), 400),
    "NUL in the target": (get(line=b"GET /\x00 HTTP/1.1"), 400),
    "a blank before the first field": (b"GET / HTTP/1.1\r\n A: b\r\nHost: a\r\n\r\n", 400),
    "two empty lines before it": (b"\r\n\r\n" + get(), 400),
    "an address without brackets": (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400),
    "101 fields": (get(*(b"A%d: b" % n for n in range(100))), 431),
    "a long head": (get(b"A: " + b"b" * LIMIT), 431),
    "a long target": (get(line=b"GET /" + b"a" * 17_000 + b" HTTP/1.1"), 414),
    "a long target without an end": (b"GET /" + b"a" * 40_000, 414),
}
"""Heads, and the status of the answer."""

UNSERVED = {
    "CONNECT": (get(line=b"CONNECT a:443 HTTP/1.1"), 405),
    "TRACE": (get(line=b"TRACE / HTTP/1.1"), 405),
    "an expectation": (get(b"Expect: tea"), 417),
    "two expectations": (get(b"Expect: tea", b"Expect: 100-continue"), 417),
    "a WebSocket": (get(b"Connection: Upgrade", b"Upgrade: websocket"), 501),
    "a WebSocket among others": (get(b"Connection: upgrade", b"Upgrade: h2c, WebSocket"), 501),
    "another switch, with a body": (
        get(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 1", line=b"PUT / HTTP/1.1")
        + b"x",
        501,
    ),
    "a body that is too large": (get(b"Content-Length: 99999999999"), 413),
    "a chunk that is too large": (get(b"Transfer-Encoding: chunked") + b"fffffff\r\n", 413),
}
"""What is well formed, and not served."""

CHUNKS = [
    b"\r\n",
    b"g\r\n",
    b"0x4\r\nabcd\r\n",
    b"+4\r\nabcd\r\n",
    b"1_0\r\n",
    b" 4\r\nabcd\r\n",
    b"4 \r\nabcd\r\n",
    b"4 ;a\r\nabcd\r\n",
    b"4;\r\nabcd\r\n",
    b'4;a="b\r\nabcd\r\n',
    b"4\nabcd\r\n",
    b"4\r\nabcde\r\n",
    b"4\r\nabcd\n",
    b"4\r\nabcdX",
    b"4\r\nabcd\r\n-1\r\n",
    b"0\r\nA b: c\r\n\r\n",
    b"0\r\n A: c\r\n\r\n",
    b"0\r\nA: c\n\r\n",
    b"0\r\nA: \x00\r\n\r\n",
    b"0" * 16 + b"\r\n",
    b"4;" + b"a" * 1100 + b"\r\n",
    b"0\r\nA: " + b"a" * 8200,
    b"0\r\n" + b"A: b\r\n" * 1500,
    b"4\r\nabcd\r\n\r\n",
    b"4\r\r\nabcd\r\n",
    b"0\r\nA : b\r\n\r\n",
]
"""Chunked bodies; the status is 400."""
