"""Streams of events as they pass: cut at whole events, and understood as far as needed.

What an event means is asked for two things only. Before anything was passed on: is this still
the empty beginning that every stream has (then another endpoint can still give the answer), is
it content, or is it an error that came as an event of a 200? And at the end of the connection:
was the stream over, or was it cut? Everything else passes as bytes.

Source of the framing: WHATWG HTML, "Server-sent events": an empty line ends an event, and lines
end with LF, CR LF or CR.
"""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_EVENT = 64 * 1024
"""Bytes; of a larger event the rest passes as it comes."""

_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n|\r\n\r|\n\r|\r\r\n")
_LINE = re.compile(r"\r\n|\n|\r")
_FINISHED = {
    "anthropic": re.compile(
        rb'"(?:type"\s*:\s*"(?:message_stop|error)|stop_reason"\s*:\s*")|event: ?error'
    ),
    "openai": re.compile(
        rb'data: ?\[DONE\]|"finish_reason"\s*:\s*"|data: ?\{\s*"error"|event: ?error'
        rb'|"type"\s*:\s*"(?:error"|response\.(?:completed|failed|incomplete|cancelled))'
    ),
}
"""What says that a stream is over, or why it stopped."""
_LONGEST_SIGN = 32
_HINTS = {
    "anthropic": (b"stop", b"error"),
    "openai": (b"finish_reason", b"[DONE]", b"type", b"err"),
}
"""One of which is in each sign: to look for them takes a tenth of the time."""


class Meaning(enum.Enum):
    """What an event is, for a profile that is known.

    PREAMBLE  says that a stream begins, and nothing of its content
    CONTENT   something that the client waits for, or an event that we do not know
    ERROR     an error in place of content
    END       the stream is over
    """

    PREAMBLE = "preamble"
    CONTENT = "content"
    ERROR = "error"
    END = "end"


class Cutter:
    """Cuts a stream at whole events.

    at_boundary: everything that was taken in has been given out, or ends an event.
    """

    __slots__ = ("_held", "_raw")

    def __init__(self) -> None:
        self._held = b""
        self._raw = False  # inside an event that is too large to be held

    def feed(self, data: bytes) -> bytes:
        """Return all whole events; what follows them is kept for the next time."""
        if not self._held and not self._raw and data.endswith(b"\n\n"):
            return data
        buffer = self._held + data
        end = _last_end(buffer)
        if self._raw:
            if end < 0:
                return data
            self._raw = False
        given, self._held = (buffer[:end], buffer[end:]) if end > 0 else (b"", buffer)
        if len(self._held) > MAX_EVENT:
            given, self._held, self._raw = given + self._held, b"", True
        return given

    @property
    def is_empty(self) -> bool:
        """Whether the next byte begins an event."""
        return not self._held and not self._raw

    @property
    def held(self) -> bytes:
        """The beginning of an event whose end has not come."""
        return self._held

    @property
    def at_boundary(self) -> bool:
        """Whether an event of ours may follow what was given out."""
        return not self._raw


def _last_end(buffer: bytes) -> int:
    """Return where the last whole event ends, or -1. A CR at the very end may be half of CR LF."""
    at = buffer.rfind(b"\n\n")
    found = at + 2 if at >= 0 else -1
    at = buffer.rfind(b"\r\n\r\n")
    found = max(found, at + 4 if at >= 0 else -1)
    if b"\r" in buffer:
        for match in _BLANK.finditer(buffer, max(0, found)):
            if match.end() < len(buffer) or not match[0].endswith(b"\r"):
                found = max(found, match.end())
    return found


class Watch:
    """Reads the events of one stream for their meaning.

    profile: "anthropic", "openai", or "generic", of which nothing is known.
    ended: the stream has said that it is over, or why it stopped.
    error: what an error said that came in place of content.
    """

    __slots__ = ("_pending", "_tail", "ended", "error", "profile")

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.error: dict[str, Any] = {}
        self.ended = profile == "generic"
        self._pending = b""
        self._tail = b""

    def begin(self, data: bytes) -> Meaning | None:
        """Read the beginning of a stream; return what its first telling event means.

        None: only preamble so far. To be called until it returns something.
        """
        self.passed(data)
        if self.profile == "generic":
            return Meaning.CONTENT
        buffer = self._pending + data
        at = 0
        for match in _BLANK.finditer(buffer):
            meaning = meaning_of(buffer[at : match.start()], self.profile)
            if meaning is Meaning.ERROR:
                self.error = _error_of(buffer[at : match.start()])
            at = match.end()
            if meaning is not Meaning.PREAMBLE:
                return meaning
        self._pending = buffer[at:]
        return Meaning.CONTENT if len(self._pending) > MAX_EVENT else None

    def passed(self, data: bytes) -> None:
        """Look in what passes for the signs of an end."""
        if self.ended:
            return
        near = self._tail + data
        self.ended = _FINISHED[self.profile].search(near) is not None
        self._tail = near[-_LONGEST_SIGN:]

    @property
    def hints(self) -> tuple[bytes, ...]:
        """What is in every sign of an end: whole events with none of these need not be looked at.

        Empty once it has ended.
        """
        return () if self.ended else _HINTS[self.profile]

    def begin_event(self) -> None:
        """Take note that what comes next begins an event: no sign lies across its beginning."""
        self._tail = b""


def meaning_of(event: bytes, profile: str) -> Meaning:
    """Return what one event means in the API of a profile."""
    name, data = _parse(event)
    if data is None:
        return Meaning.PREAMBLE  # a comment, or a field that carries nothing
    if data == "[DONE]":
        return Meaning.END
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # the latter: nested too deeply
        return Meaning.CONTENT
    if not isinstance(value, dict):
        return Meaning.CONTENT
    if name == "error" or value.get("type") == "error" or isinstance(value.get("error"), dict):
        return Meaning.ERROR
    return _openai(value) if profile == "openai" else _anthropic(value)


def _error_of(event: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_parse(event)[1] or "")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _parse(event: bytes) -> tuple[str, str | None]:
    name, data = "", []
    for line in _LINE.split(event.decode("utf-8", "replace")):
        field, _, value = line.partition(":")
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
    return name, "\n".join(data) if data else None


def _anthropic(value: Mapping[str, Any]) -> Meaning:
    kind = value.get("type")
    if kind in {"message_start", "ping"}:
        return Meaning.PREAMBLE
    if kind == "message_stop":
        return Meaning.END
    block = value.get("content_block" if kind == "content_block_start" else "delta")
    if kind not in {"content_block_start", "content_block_delta"} or not isinstance(block, dict):
        return Meaning.CONTENT
    said = [block.get(name) for name in ("text", "thinking", "partial_json")]
    plain = block.get("type") in {"text", "thinking", "text_delta", "thinking_delta"}
    return Meaning.PREAMBLE if plain and not any(said) else Meaning.CONTENT


def _openai(value: Mapping[str, Any]) -> Meaning:
    if value.get("type") in {"response.created", "response.in_progress", "response.queued"}:
        return Meaning.PREAMBLE
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        return Meaning.CONTENT
    for choice in choices:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or choice.get("finish_reason"):
            return Meaning.CONTENT
        if any(said for name, said in delta.items() if name != "role"):
            return Meaning.CONTENT
    return Meaning.PREAMBLE


def event(name: str, data: Mapping[str, object]) -> bytes:
    """Return an event of our own."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()
