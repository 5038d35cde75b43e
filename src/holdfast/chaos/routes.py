"""What the fault server serves: objects, calls, redirects, and functions of yours."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Literal

from holdfast.chaos.content import Content
from holdfast.chaos.line import Plain, Track
from holdfast.chaos.message import Answer, text_answer
from holdfast.chaos.ranges import select
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.chaos.fault import Draws, Fault
    from holdfast.chaos.message import Framing, Request

Validators = Literal["all", "etag", "weak", "date", "none"]
_FIRST_DAY: Final = 1_700_000_000  # when version 0 was "modified"; each version an hour later


class Route:
    """One path and who answers there. Base of the others.

    path: exact, or with a final `*` for all that begins so.
    faults: concern only this route, and count only its requests.
    """

    def __init__(self, path: str, faults: Sequence[Fault] = ()) -> None:
        if not path.startswith("/"):
            raise ValueError(f"{type(self).__name__}: path: {path!r} must start with a slash")
        self.path = path
        self.faults = tuple(faults)
        self.requests = 0
        self.draws: list[Draws] = []
        self.seed: int | str = 0

    def begin(self, seed: int | str, draws: list[Draws]) -> None:
        """Take the seed of the server and the draws for our faults."""
        self.seed = seed
        self.draws = draws

    def matches(self, path: str) -> bool:
        """Return whether this route answers for `path`."""
        if self.path.endswith("*"):
            return path.startswith(self.path[:-1])
        return path == self.path

    async def answer(self, request: Request) -> Answer:
        """Return the answer."""
        raise NotImplementedError


class Object(Route):
    """A file: deterministic bytes, validators, conditional and range requests.

    size: bytes.  version: of the content, from 1; `replace` puts in the next.
    validators: "all" (strong ETag and Last-Modified), "etag", "weak", "date", "none".
    ranges: False ignores Range, as simple servers do.
    framing: "length", "chunked", or "close" (the end of the connection ends the body).
    headers: more fields for each answer.  content_type: of the object.
    """

    def __init__(
        self,
        path: str,
        size: int,
        *,
        version: int = 1,
        validators: Validators = "all",
        ranges: bool = True,
        framing: Framing = "length",
        content_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(path, faults)
        self.size = size
        self.version = version
        self.validators = validators
        self.ranges = ranges
        self.framing = framing
        self.content_type = content_type
        self.headers = dict(headers or {})
        self.track = Track()
        """Bytes sent of this object over all answers; `Replace` waits along it."""

    def replace(self, size: int | None = None) -> int:
        """Put in the next version, of another size if given; return its number.

        Answers under way go on with the version they began with.
        """
        self.version += 1
        self.size = self.size if size is None else size
        return self.version

    def content(self, path: str | None = None, version: int | None = None) -> Content:
        """Return the bytes served for `path` (that of the route), in their current version."""
        return Content(
            self.size,
            self.version if version is None else version,
            name=self.path if path is None else path,
            seed=self.seed,
        )

    def etag(self, content: Content, node: int = 0) -> str:
        """Return the ETag field of a version, "" without one."""
        if self.validators in ("date", "none"):
            return ""
        suffix = f"-{node}" if node else ""
        tag = f'"{content.key.hex()}{suffix}"'
        return f"W/{tag}" if self.validators == "weak" else tag

    def modified(self, content: Content) -> str:
        """Return the Last-Modified field of a version, "" without one."""
        if self.validators in ("etag", "none"):
            return ""
        return formatdate(_FIRST_DAY + 3600 * content.version, usegmt=True)

    async def answer(self, request: Request) -> Answer:
        """Answer GET and HEAD."""
        if request.method not in ("GET", "HEAD"):
            refused = text_answer(405, "GET or HEAD\n")
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        content = self.content(request.path)
        fields = {
            "Content-Type": self.content_type,
            "ETag": self.etag(content, request.node),
            "Last-Modified": self.modified(content),
            "Accept-Ranges": "bytes" if self.ranges else "none",
        }
        part = select(
            request.headers,
            content.size,
            etag=fields["ETag"],
            modified=fields["Last-Modified"],
            # RFC 9110, 14.2: Range means something only for GET.
            ranges=self.ranges and request.method == "GET",
        )
        fields = {name: value for name, value in fields.items() if value} | self.headers
        if part.status == 206:
            fields["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{content.size}"
        elif part.status == 416:
            fields["Content-Range"] = f"bytes */{content.size}"
        if part.status not in (200, 206):
            return Answer(part.status, fields)
        return Answer(
            part.status,
            fields,
            content,
            part.start,
            part.stop,
            framing=self.framing,
            tracks=(self.track,),
        )


class Call(Route):
    """A small JSON endpoint that remembers what it executed.

    The id of a call is taken from `?id=`, else from the field Idempotency-Key, else "". The
    answer is `{"id": id, "value": Call.value(seed, id), "run": how often it ran}`.
    seconds: how long the work takes.  executed: id -> runs, also of calls whose answer was
    lost on the way.  once: a repeated Idempotency-Key gets the first answer and no second run.
    """

    def __init__(
        self,
        path: str,
        *,
        seconds: float = 0.0,
        once: bool = False,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(path, faults)
        self.seconds = seconds
        self.once = once
        self.executed: Counter[str] = Counter()

    @staticmethod
    def value(seed: int | str, call_id: str) -> str:
        """Return the right value of a call, so that a client's result can be checked."""
        return hashlib.blake2b(f"{seed}\0{call_id}".encode(), digest_size=16).hexdigest()

    async def answer(self, request: Request) -> Answer:
        """Run the call."""
        key = request.headers.get("idempotency-key", "")
        call_id = request.query.get("id", key)
        repeated = self.once and bool(key) and call_id in self.executed
        if not repeated:
            self.executed[call_id] += 1
            if self.seconds:
                await clock.asleep(self.seconds)
        result = {
            "id": call_id,
            "value": self.value(self.seed, call_id),
            "run": self.executed[call_id],
        }
        return json_answer(result)


class Redirect(Route):
    """An answer that points elsewhere. to: a path or a whole URL; status: 301, 302, 307, 308."""

    def __init__(
        self, path: str, to: str, *, status: int = 302, faults: Sequence[Fault] = ()
    ) -> None:
        super().__init__(path, faults)
        self.to = to
        self.status = status

    async def answer(self, request: Request) -> Answer:
        """Point there, and hand the query on."""
        query = request.target.partition("?")[2]
        return Answer(self.status, {"Location": f"{self.to}?{query}" if query else self.to})


Handled = Answer | bytes | str | dict[str, Any]


class Handler(Route):
    """A function of yours. It gets the `Request`; it may be `async def`.

    It returns an `Answer`, or bytes, text, or a dict that is sent as JSON.
    """

    def __init__(
        self,
        path: str,
        function: Callable[[Request], Handled | Awaitable[Handled]],
        *,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(path, faults)
        self.function = function

    async def answer(self, request: Request) -> Answer:
        """Ask the function."""
        found = self.function(request)
        result: Handled = await found if inspect.isawaitable(found) else found
        if isinstance(result, Answer):
            return result
        if isinstance(result, str):
            return text_answer(200, result)
        if isinstance(result, bytes):
            return Answer(200, {"Content-Type": "application/octet-stream"}, Plain(result))
        return json_answer(result)


def json_answer(value: object, status: int = 200) -> Answer:
    """Return `value` as JSON."""
    body = Plain(json.dumps(value).encode())
    return Answer(status, {"Content-Type": "application/json"}, body)
