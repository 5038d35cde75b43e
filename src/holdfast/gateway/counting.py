"""`POST .../count_tokens`, which not every server that speaks the rest of the API has.

    auto    asked; a server that has none (404, 405, 501) is not asked again for an hour, and
            meanwhile the count is an estimate of ours
    local   always an estimate
    pass    always asked

The estimate is a third of the characters of all text, and a little more, marked as such by
`x-holdfast-estimate: true`: clients use the number to decide when to shorten a conversation,
where too much is better than an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.gateway import errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from holdfast.core.balance import Endpoint
    from holdfast.gateway.client import Client
    from holdfast.wire.requests import RequestHead

UNABLE_SECONDS = 3600.0
"""How long an endpoint that cannot count is not asked."""
UNABLE = frozenset({404, 405, 501})
PER_CHARACTER, MORE = 0.35, 10
"""Tokens: rather too many, as a token of English has about 4 characters (OpenAI's help)."""
READ_MAX = 4 << 20
"""Bytes; of a larger body all is taken for text, as reading it would hold everybody else up."""

SUFFIX = b"/count_tokens"


class Counting:
    """Who counts, and which endpoints cannot. mode: see above."""

    __slots__ = ("_mode", "_until")

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._until: dict[str, float] = {}

    def asks(self, head: RequestHead) -> bool:
        """Say whether a request asks for a count that may be ours."""
        if self._mode == "pass" or head.method != b"POST":
            return False
        return head.target.partition(b"?")[0].endswith(SUFFIX)

    @property
    def is_known(self) -> bool:
        """Whether there is an endpoint that cannot count."""
        return bool(self._until)

    def is_ours(self, endpoints: Iterable[Endpoint], now: float) -> bool:
        """Say whether nobody is asked: by configuration, or as nobody can."""
        if self._mode == "local":
            return True
        return bool(self._until) and all(
            self._is_unable(one, now) for one in endpoints if one.enabled
        )

    def unable(
        self, head: RequestHead, endpoints: Iterable[Endpoint], now: float
    ) -> list[Endpoint]:
        """Return those that are not asked, as they cannot count; none for another request."""
        return [one for one in endpoints if self._is_unable(one, now)] if self.asks(head) else []

    def _is_unable(self, endpoint: Endpoint, now: float) -> bool:
        return self._until.get(endpoint.id, now) > now

    def learned(self, head: RequestHead, endpoint: str, status: int, now: float) -> bool:
        """Take note of an answer; True if it says that the endpoint cannot count."""
        if status not in UNABLE or not self.asks(head):
            return False
        self._until[endpoint] = now + UNABLE_SECONDS
        return True

    def succeed(self, before: Counting, endpoints: Collection[Endpoint]) -> None:
        """Go on with what another configuration has learned of the endpoints that are left."""
        known = {one.id for one in endpoints}
        self._until = {name: until for name, until in before._until.items() if name in known}


def estimate(body: bytes, size: int = 0) -> int | None:
    """Return how many tokens a request has, roughly; None if it is no JSON object.

    size: of the body in bytes, if it is too large to be here.
    """
    size = max(size, len(body))
    if size > READ_MAX:
        return _tokens(size)
    try:
        value = json.loads(body)
        return _read(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def _read(value: Mapping[str, Any]) -> int:
    messages = value.get("messages")
    parts = [one.get("content") for one in _dicts(messages)]
    tools = sum(_of_tool(one) for one in _dicts(value.get("tools")))
    return _tokens(_characters(value.get("system")) + sum(map(_characters, parts)) + tools)


def _tokens(characters: int) -> int:
    return int(characters * PER_CHARACTER) + MORE


def _characters(content: object) -> int:
    """Count the text of a content: a string, or blocks of text, of tools' input and output."""
    if isinstance(content, str):
        return len(content)
    return sum(
        sum(len(text) for name in ("text", "thinking") if isinstance(text := one.get(name), str))
        + (_length(one["input"]) if "input" in one else 0)
        + (_characters(one["content"]) if "content" in one else 0)
        for one in _dicts(content)
    )


def _of_tool(tool: Mapping[str, Any]) -> int:
    said = sum(
        len(text) for name in ("name", "description") if isinstance(text := tool.get(name), str)
    )
    return said + (_length(tool["input_schema"]) if "input_schema" in tool else 0)


def _length(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def counted(
    head: RequestHead, body: bytes, client: Client, added: bytes = b"", *, size: int = 0
) -> bytes:
    """Return the whole answer with an estimate, or the error for what has no text to count.

    added: lines of ours.  size: of the body in bytes, if it is too large to be here.
    """
    close = client.closes(head, ends=False)
    tokens = estimate(body, size)
    if tokens is None:
        value = errors.body("HF-3001", "", text="the body is no JSON object", reason="malformed")
        return errors.answer("HF-3001", value, close=close)
    data = b'{"input_tokens": %d}' % tokens
    start = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"x-holdfast-estimate: true\r\n%b%b\r\n"
    )
    return start % (len(data), added, b"Connection: close\r\n" if close else b"") + data
