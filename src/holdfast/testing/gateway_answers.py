"""What the endpoints of a simulated gateway answer: right, refused, broken, slow, malformed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Decision
    from holdfast.testing.gateway_book import Asked, Execution
    from holdfast.testing.gateway_upstreams import Up

Step = bytes | float | Literal["rst", "fin", "done"]
"""Of a script: write this, wait so many seconds, reset, close, or be ready for the next request."""

REFUSALS: dict[str, tuple[int, bool]] = {
    "throttled": (429, False),
    "throttled_hint": (429, False),
    "overloaded": (529, False),
    "busy": (503, True),
    "busy_hint": (503, False),
    "error": (500, True),
    "bad_gateway": (502, True),
    "timed_out": (408, True),
    "too_early": (425, False),
    "misdirected": (421, False),
    "cloud": (522, True),
    "key_refused": (401, False),
    "key_forbidden": (403, False),
}
"""Kind -> status, and whether the request may have been executed all the same."""

CLIENT_FAULTS: dict[str, tuple[int, bool]] = {
    "wrong": (400, False),
    "missing": (404, False),
    "conflict": (409, False),
    "unprocessable": (422, False),
    "unknown": (501, False),
}
"""Answers that say nothing about the endpoint."""

UNREADABLE = {
    "no_status": b"HTTP/1.1 2OO OK\r\nContent-Length: 0\r\n\r\n",
    "two_lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "length_and_coding": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "gzip_coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "switched": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "bare_field": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "large_head": b"HTTP/1.1 200 OK\r\n" + b"X-Large: " + b"x" * 70_000 + b"\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bad_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\nabcdeXX\r\n",
    "bad_chunk_size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n",
}

BREAKS = (
    "rst_early",  # after the head of the request
    "answers_early",  # the same, with a refusal that does not wait for the body
    "rst",
    "fin",
    "cut",  # reset at byte k of the answer
    "cut_fin",  # closed at byte k of the answer
    "hang",
    "hang_midway",
    "hang_preamble",
    "unfinished",  # a stream that ends without saying so
    "unreadable",
)
SLOWNESS = ("slow", "drip")
EVENT_ERRORS = ("error_event", "error_late", "error_body")
HARMLESS = ("extra", "interim", "idle_close", "says_close", "keep_hint", "trailers")
"""What a proxy must cope with, though nothing fails."""

ANSWER_KINDS = (
    *REFUSALS,
    *CLIENT_FAULTS,
    *BREAKS,
    *SLOWNESS,
    *EVENT_ERRORS,
    *HARMLESS,
)

REASONS = {200: "OK", 429: "Too Many Requests", 529: "Overloaded"}
SIZES = (0, 1, 40, 300, 1000, 3000)


@dataclass(slots=True)
class Script:
    """How an answer is given. idle: seconds after which the connection is closed; < 0: never."""

    steps: list[Step] = field(default_factory=list)
    idle: float = -1.0


class Answers:
    """Makes the answers of one endpoint."""

    def __init__(self, up: Up, source: SeededRandom) -> None:
        self._up = up
        self._draw = source
        self.large = 0.0
        self.spread = 1.0
        self._overloaded = False

    def script(self, execution: Execution, fault: Decision | None) -> Script:
        """Decide about an answer; enter the execution into the book."""
        asked, kind = execution.asked, fault.kind if fault is not None else ""
        x, y = (fault.x, fault.y) if fault is not None else (0.0, 0.0)
        if kind == "unfinished" and not asked.stream:
            kind = ""
        execution.trouble = "" if kind in HARMLESS or kind in CLIENT_FAULTS else kind
        refusal = REFUSALS.get(kind) or CLIENT_FAULTS.get(kind)
        if refusal is not None:
            execution.status, execution.ran = refusal
        if kind == "error_event" and not asked.stream:
            kind = "error_body"
        # An error in a 200 means what its status would: an overloaded one has done nothing.
        overloaded = kind in ("error_event", "error_body") and x < 0.5
        execution.ran &= not overloaded
        if not asked.number:  # a probe
            execution.ran = False
            return Script([_head(200, "OK", ["Content-Length: 0"]), "done"])
        self._up.book.execute(execution)
        script = Script()
        took = self._up.latency * (1 + self.spread * self._draw.draw())
        if kind == "slow":
            took *= 2 * 500**x
        script.steps.append(took)
        self._overloaded = overloaded
        self._fill(script, execution, kind, x, y)
        return script

    def early(self, execution: Execution) -> Script:
        """Refuse before the body of the request has come."""
        execution.status, execution.ran = 503, False
        execution.media, execution.trouble = "application/json", "answers_early"
        self._up.book.execute(execution)
        execution.body = _error(execution.asked, execution.no, 503)
        fields = [*self._fields(execution, "", 0.0), "Connection: close"]
        fields.append(f"Content-Length: {len(execution.body)}")
        return Script([_head(503, "Busy", fields) + execution.body, self._up.latency, "fin"])

    def _fill(self, script: Script, execution: Execution, kind: str, x: float, y: float) -> None:
        if kind in ("rst", "fin"):
            script.steps.append("rst" if kind == "rst" else "fin")
            return
        if kind == "hang":
            return
        asked = execution.asked
        if kind == "unreadable":
            names = list(UNREADABLE)
            silent = asked.method == "HEAD"  # then nobody looks at chunks
            name = "no_status" if silent else names[int(x * len(names))]
            execution.trouble = f"unreadable {name}"
            raw = UNREADABLE[name].replace(b"\r\n\r\n", b"\r\nX-Exec: %d\r\n\r\n" % execution.no, 1)
            script.steps += [raw]
            return
        pieces = self._body(execution, kind)
        self._frame(script, execution, pieces, kind, x)
        if kind in ("cut", "cut_fin"):
            _cut(script, x, "rst" if kind == "cut" else "fin")
        elif kind in ("hang_midway", "hang_preamble"):
            _hang(script, x if kind == "hang_midway" else 0.0)
        elif kind == "idle_close":
            script.idle = 0.0 if x < 0.2 else 0.01 * y
        elif kind == "keep_hint":
            script.idle = 1.0 + 5 * x

    # -- bodies --------------------------------------------------------------------------------

    def _body(self, execution: Execution, kind: str) -> list[bytes]:
        """Return the body in pieces: events of a stream, or parts of a document."""
        asked = execution.asked
        if execution.status >= 400:
            execution.media = "application/json"
            pieces = [_error(asked, execution.no, execution.status)]
        elif asked.stream:
            execution.media = "text/event-stream"
            pieces = self._events(asked, execution.no, kind)
        elif kind == "error_body":
            execution.media = "application/json"
            pieces = [_error(asked, execution.no, 529 if self._overloaded else 500)]
        elif asked.method == "GET" and self._draw.draw() < 0.06:
            execution.status = 204 if self._draw.draw() < 0.5 else 304
            pieces = []
        else:
            execution.media = self._draw.choice(("application/json",) * 4 + ("text/plain",))
            pieces = self._document(asked, execution.no)
        execution.body = b"".join(pieces)
        return pieces

    def _document(self, asked: Asked, no: int) -> list[bytes]:
        size = self._draw.choice(SIZES)
        if self._draw.draw() < self.large:
            size = 700_000
        text = f"{no}." * (size // (len(str(no)) + 1) + 1)
        if asked.profile == "openai":
            value: object = {"choices": [{"message": {"content": text}}], "n": asked.number}
        else:
            value = {"type": "message", "content": [{"type": "text", "text": text}]}
        data = json.dumps(value).encode()
        step = max(1, len(data) // self._draw.between(1, 4) + 1)
        return [data[at : at + step] for at in range(0, len(data), step)]

    def _events(self, asked: Asked, no: int, kind: str) -> list[bytes]:
        count = self._draw.between(1, 12)
        events = [*_beginning(asked, no)]
        if kind == "error_event":
            kind = "overloaded_error" if self._overloaded else "api_error"
            return [*events, _error_event(asked, no, kind)]
        events += [_content(asked, f"{no} {i}") for i in range(count)]
        if kind == "error_late":
            events.append(_error_event(asked, no, "overloaded_error"))
        elif kind != "unfinished":
            events += _ending(asked)
        if self._draw.draw() < 0.2:
            events = [event.replace(b"\n", b"\r\n") for event in events]
        return events

    # -- framing -------------------------------------------------------------------------------

    def _frame(
        self, script: Script, execution: Execution, pieces: list[bytes], kind: str, x: float
    ) -> None:
        framing = self._framing(execution)
        fields = self._fields(execution, kind, x)
        if framing == "length":
            fields.append(f"Content-Length: {len(execution.body)}")
        elif framing == "chunked":
            fields.append("Transfer-Encoding: chunked")
        minor = 0 if framing == "close" and self._draw.draw() < 0.5 else 1
        status = execution.status
        head = _head(status, REASONS.get(status, "Because"), fields, minor)
        steps: list[Step] = [head]
        if kind == "interim":
            steps.insert(0, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        silent = execution.asked.method == "HEAD" or status in {204, 304}
        pause = self._pause(kind, x, len(pieces))
        for piece in [] if silent else pieces:
            steps.append(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            if pause and piece:
                steps.append(pause)
        if isinstance(steps[-1], float):
            steps.pop()  # after the last byte it is ready for the next request
        if framing == "chunked" and not silent:
            steps.append(b"0\r\nX-T: 1\r\n\r\n" if kind == "trailers" else b"0\r\n\r\n")
        later: list[Step] = []
        alone = framing != "close" and not execution.serving.broken  # else it comes too late
        if kind == "extra" and alone:
            another = b"HTTP/1.1 200 OK\r\nX-Exec: 999999\r\nContent-Length: 5\r\n\r\nextra"
            steps.append(another)
            later = [6 * x * self._up.latency, another]
        ends = framing == "close" or kind in ("says_close", "extra")
        if kind == "extra":
            script.steps.append(b"".join(step for step in steps if isinstance(step, bytes)))
        else:
            script.steps += steps if pause else _glued(steps, self._draw)
        script.steps += [*later, "fin" if ends else "done"]

    def _framing(self, execution: Execution) -> str:
        draw = self._draw.draw()
        if execution.asked.method == "HEAD" or execution.status in {204, 304}:
            framing = "length" if execution.status == 200 else "none"
        elif execution.media == "text/event-stream":
            framing = "chunked" if draw < 0.75 else "close" if draw < 0.9 else "length"
        else:
            framing = "length" if draw < 0.6 else "chunked" if draw < 0.85 else "close"
        execution.framing = framing
        return framing

    def _fields(self, execution: Execution, kind: str, x: float) -> list[str]:
        fields = [f"X-Exec: {execution.no}", "X-Twice: 1", "x-twice: 2"]
        if execution.media:
            fields.append(f"Content-Type: {execution.media}")
        if kind in ("throttled_hint", "busy_hint"):
            execution.cools = float(int(4 * x))
            fields.append(f"Retry-After: {int(4 * x)}")
        if kind == "keep_hint":
            fields.append(f"Keep-Alive: timeout={int(1 + 5 * x)}")
        if kind == "says_close":
            fields.append("Connection: close, x-hop")
        elif kind == "interim":
            fields.append("Connection: x-hop")
        if kind in ("says_close", "interim"):
            fields.append("X-Hop: 1")
        return fields

    def _pause(self, kind: str, x: float, count: int) -> float:
        if kind == "drip":
            return float(self._up.latency * 300**x / max(1, count))
        return 0.0


def _head(status: int, reason: str, fields: list[str], minor: int = 1) -> bytes:
    return "\r\n".join([f"HTTP/1.{minor} {status} {reason}", *fields, "", ""]).encode()


def _glued(steps: list[Step], source: SeededRandom) -> list[Step]:
    """Write all at once, or each piece alone, or split where it happens."""
    draw, data = source.draw(), b"".join(step for step in steps if isinstance(step, bytes))
    if draw < 0.5 or len(data) > 100_000:
        return [data]
    if draw < 0.75:
        at = int(source.draw() * len(data))
        return [data[:at], 0.0005, data[at:]]
    return steps


def _cut(script: Script, x: float, how: Literal["rst", "fin"]) -> None:
    """End the script at a byte, log-uniform; nothing of the last byte comes."""
    total = sum(len(step) for step in script.steps if isinstance(step, bytes))
    left = int(max(1, total) ** x)
    kept: list[Step] = []
    for step in script.steps:
        if isinstance(step, bytes):
            if len(step) >= left:
                kept.append(step[: left - 1] if left == total else step[:left])
                break
            left -= len(step)
        kept.append(step)
    script.steps = [*(step for step in kept if step != "done"), 0.001, how]


def _hang(script: Script, x: float) -> None:
    """Let nothing come after some bytes: mostly after the head, never after all."""
    data = b"".join(step for step in script.steps if isinstance(step, bytes))
    head = data.find(b"\r\n\r\n") + 4
    waits = [step for step in script.steps[:1] if isinstance(step, float)]
    body = data[head:]
    # The preamble of a stream is its first event or two; of a document there is none.
    first = body.find(b"\n\n") + 2 if x == 0.0 and b"message_start" in body[:200] else 0
    at = head + (first or int(x * max(0, len(body) - 6)))
    if at >= len(data) - 5:  # a whole answer would be no fault
        at = head // 2
    script.steps = [*waits, data[:at]]


# -- shapes of the two large APIs ------------------------------------------------------------------


def _error(asked: Asked, no: int, status: int) -> bytes:
    kind = "overloaded_error" if status == 529 else "api_error"
    error = {"type": kind, "message": f"execution {no} of {asked.number}"}
    return json.dumps({"type": "error", "error": error}).encode()


def _data(value: object, name: str = "") -> bytes:
    start = f"event: {name}\n" if name else ""
    return f"{start}data: {json.dumps(value)}\n\n".encode()


def _error_event(asked: Asked, no: int, kind: str) -> bytes:
    value = {"type": "error", "error": {"type": kind, "message": f"execution {no}"}}
    return _data(value, "error" if asked.profile == "anthropic" else "")


def _beginning(asked: Asked, no: int) -> list[bytes]:
    if asked.profile == "anthropic":
        start = {"type": "message_start", "message": {"id": f"msg_{no}"}}
        block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
        return [
            _data(start, "message_start"),
            _data({"type": "ping"}, "ping"),
            _data(block, "content_block_start"),
        ]
    if asked.profile == "openai":
        return [_data({"id": no, "choices": [{"delta": {"role": "assistant", "content": ""}}]})]
    return [b": hello\n\n"]


def _content(asked: Asked, text: str) -> bytes:
    if asked.profile == "anthropic":
        delta = {"type": "text_delta", "text": text}
        return _data({"type": "content_block_delta", "delta": delta}, "content_block_delta")
    if asked.profile == "openai":
        return _data({"choices": [{"delta": {"content": text}, "finish_reason": None}]})
    return f"id: {text}\ndata: {text}\n\n".encode()


def _ending(asked: Asked) -> list[bytes]:
    if asked.profile == "anthropic":
        delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        return [_data(delta, "message_delta"), _data({"type": "message_stop"}, "message_stop")]
    if asked.profile == "openai":
        return [_data({"choices": [{"delta": {}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n"]
    return []
