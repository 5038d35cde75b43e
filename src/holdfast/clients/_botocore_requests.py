"""How botocore's requests go out: bodies that can be sent again, and connections that wait.

Bodies. botocore rewinds a file to its position 0, wherever the user had it: an upload of the
rest of a file is repeated as the whole file. And it rewinds nothing else, so what cannot seek
is never repeated, not even if not a byte of it was read. `Upload` does both right.

Connections. botocore has its own reader for `100 Continue`. It spins for ever when the
connection ends inside that interim head, and takes a status line without a reason phrase for
none. `_Expecting` has another.
"""

from __future__ import annotations

from functools import cache, partial
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSHTTPResponse  # type: ignore[import-untyped]  # it has no types
from urllib3.util import Timeout

from holdfast.clients._urllib3 import current, limited, watched
from holdfast.clients.body import Kept, is_seekable_file

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_LINE = 65536
_EMPTY_LINES = (b"\r\n", b"\n")


class Upload:
    """The body of one logical call that is a file, or can be read like one.

    botocore may have put its own framing (`AwsChunkedWrapper`) around what the user gave.
    """

    __slots__ = ("_framing", "_source", "_start")

    def __init__(self, request: dict[str, Any]) -> None:
        """Take the body of a request dict; what cannot seek is replaced in it by a `Source`."""
        body = request["body"]
        self._start = 0
        self._framing: Any = body if hasattr(body, "_raw") and hasattr(body, "_reset") else None
        source: Any = body if self._framing is None else self._framing._raw
        if is_seekable_file(source):
            self._start = source.tell()
        else:
            source = _source_of(source)
            if self._framing is None:
                request["body"] = source
            else:
                self._framing._raw = source
        self._source: Any = source

    def keep(self, limit: int) -> None:
        """Keep up to `limit` bytes of what cannot seek, so that it can be sent again."""
        if isinstance(self._source, Source):
            self._source.keep(limit)

    @property
    def replayable(self) -> bool:
        """Whether it can be sent (again) from its start now."""
        return not isinstance(self._source, Source) or self._source.replayable

    def rewind(self) -> None:
        """Go to the start. It stands in for `AWSPreparedRequest.reset_stream`."""
        if self._framing is not None:
            self._framing._reset()
        if isinstance(self._source, Source):
            self._source.rewind()
        else:
            self._source.seek(self._start)


class Source(Kept):
    """A body that can only be read; what was kept of it comes first when it is read again."""

    def __init__(self, body: Any) -> None:
        super().__init__(0)
        self._body = body
        self._again: list[bytes] = []

    def keep(self, limit: int) -> None:
        """Keep up to `limit` bytes; to be called before the first read."""
        self._limit = limit

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes."""
        if self._again:
            piece: bytes = self._again.pop()
            if size is not None and 0 <= size < len(piece):
                self._again.append(piece[size:])
                piece = piece[:size]
            return piece
        try:
            piece = self._body.read() if size is None or size < 0 else self._body.read(size)
        except BaseException:
            self._broke()
            raise
        self._gave(piece)
        return piece

    def rewind(self) -> None:
        """Begin again with what was kept."""
        self._again = self._begin()[::-1]


class _Sized(Source):
    """With the length that its body tells."""

    def __len__(self) -> int:
        return len(self._body)


def _source_of(body: Any) -> Source:
    return _Sized(body) if hasattr(body, "__len__") else Source(body)


def pools(classes: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """Return for each scheme a pool class that tells what it does and keeps to the limits."""
    return watched({scheme: _pool_class(pool) for scheme, pool in classes.items()})  # type: ignore[arg-type]  # a class is hashable


@cache
def _pool_class(pool: type[Any]) -> type[Any]:
    kind = pool.ConnectionCls
    connection = type(kind.__name__, (_Expecting, kind), {})
    return type(pool.__name__, (_Limited, pool), {"ConnectionCls": connection})


if TYPE_CHECKING:  # mixins: what they are mixed with is botocore's
    from urllib3.connectionpool import HTTPConnectionPool as _AnyPool

    class _AnyConnection:
        sock: Any
        response_class: Any
        _response_received: bool
        _send_message_body: Any
else:
    _AnyPool = _AnyConnection = object


class _Limited(_AnyPool):
    """Takes the limits of the sending that runs, and lets no body be short.

    botocore asks urllib3 not to compare bodies with their Content-Length, and compares only
    those that it streams: a JSON answer that is cut at "{}" would be an empty one.
    """

    _holdfast_timeout: tuple[Any, float, Any] = (None, 0.0, None)

    def urlopen(self, *args: Any, **options: Any) -> Any:
        this = current.get()
        if this is not None:
            own = options.get("timeout", self.timeout)
            # A Timeout is cloned where it is used, and most calls have the same one.
            before, limit, timeout = self._holdfast_timeout
            if own is not before or this.limit != limit:
                timeout = limited(
                    own if isinstance(own, Timeout) else Timeout.from_float(own), this
                )
                self._holdfast_timeout = own, this.limit, timeout
            options["timeout"] = timeout
            options["enforce_content_length"] = True
        return super().urlopen(*args, **options)


class _Expecting(_AnyConnection):
    """Waits for `100 Continue` as botocore does, and survives what may come instead."""

    def _handle_expect_response(self, message_body: Any) -> None:
        with self.sock.makefile("rb", 0) as lines:
            line = lines.readline(_LONGEST_LINE)
            version, _, rest = line.strip().partition(b" ")
            code, _, reason = rest.partition(b" ")
            if not (line.endswith(b"\n") and version.startswith(b"HTTP/") and code.isdigit()):
                raise RemoteDisconnected("the connection ended, or no HTTP came, before 100")
            status = int(code)
            if 100 <= status < 200:
                # RFC 9110, 10.1.1 allows to send on after any wait; other interim answers
                # than 100 are no permission, but the final one may wait for the body.
                while (field := lines.readline(_LONGEST_LINE)) not in _EMPTY_LINES:
                    if not field:
                        raise RemoteDisconnected("the connection ended within the head of a 100")
                self._send_message_body(message_body)
                return
        # The final answer: nothing more is sent. Its head is read where every head is.
        text = (version.decode("latin-1"), status, reason.decode("latin-1"))
        self.response_class = partial(AWSHTTPResponse, status_tuple=text)
        self._response_received = True
