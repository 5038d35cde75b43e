"""What a simulated gateway was asked, what its endpoints executed, and whether that may be.

Each request has a number, which its endpoint answers with; each execution has one, too, which
stands in the head of the answer. So whatever a client gets is compared with what one endpoint
meant to say to this very request: an answer spliced of two, a short one, or somebody else's
cannot pass.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.testing.gateway_upstreams import Serving
    from holdfast.testing.simulation import Sim

TICK = 0.05
"""Seconds that a limit of the gateway may be late by: its wheel turns every 20 ms."""

Fields = list[tuple[str, str]]


@dataclass(slots=True)
class Asked:
    """One request.

    profile: the API that it speaks, "generic" for none.  stream: it asks for events.
    repeatable: it may be sent twice.  limit: seconds that the gateway has.  minor: of HTTP/1.x.
    chunk: bytes of a chunk of its body; 0 for a body with a length.
    """

    number: int
    method: str
    target: str
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    profile: str = "generic"
    stream: bool = False
    repeatable: bool = True
    limit: float = 600.0
    minor: int = 1
    chunk: int = 0

    def raw(self, host: str) -> bytes:
        """Return the request as a client sends it."""
        lines = [f"{self.method} {self.target} HTTP/1.{self.minor}", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        body, step = self.body, self.chunk
        if step:
            lines.append("Transfer-Encoding: chunked")
            pieces = [body[at : at + step] for at in range(0, len(body), step)]
            body = b"".join(b"%x;x=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\nX-Trailer: 1\r\n\r\n"
        elif body or self.method in {"POST", "PUT"}:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Execution:
    """One request that reached an endpoint whole, and what the endpoint means to answer.

    ran: it did what was asked; not if it refused.  trouble: what it does wrong, empty if nothing.
    framing: "length", "chunked" or "close".  body: without framing.
    cools: seconds for which it asks to be left alone.
    """

    no: int
    asked: Asked
    up: str
    serving: Serving
    status: int = 200
    body: bytes = b""
    framing: str = "length"
    media: str = ""
    ran: bool = True
    trouble: str = ""
    over: bool = False
    cools: float = 0.0

    @property
    def disturbed(self) -> str:
        """What went wrong with it, at the endpoint or on the way."""
        return self.trouble or self.serving.broken


@dataclass(slots=True)
class Reply:
    """What a client got for one request. whole: to the end of its body.

    first_at, end_at: times of its head and of its end.  excused: on the client's side something
    went wrong, so it may be short.
    """

    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    framing: str = "length"
    whole: bool = False
    excused: bool = False
    first_at: float = 0.0
    end_at: float = 0.0

    def get(self, name: str) -> str:
        """Return the value of the only field of this name, or an empty text."""
        found = [value for key, value in self.fields if key == name]
        return found[0] if len(found) == 1 else ""

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last one of its connection."""
        return self.get("connection") == "close" or self.framing == "close"


class Book:
    """All requests and executions of one run.

    secrets: texts that must only reach one place: secret -> the endpoint, or "" for the gateway.
    forwards: the gateway may pass credentials of clients on.  ends_at: when it cuts what is left.
    replays: bytes of a body that it can send twice.  look: called when a request has arrived.
    """

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.asked: dict[int, Asked] = {}
        self.executions: list[Execution] = []
        self.of: defaultdict[int, list[Execution]] = defaultdict(list)
        self.secrets: dict[str, str] = {}
        self.forwards = True
        self.heads: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.ends_at = math.inf
        self.replays = math.inf
        self.look: Callable[[], object] = lambda: None

    def ask(self, asked: Asked) -> Asked:
        """Enter a request."""
        self.asked[asked.number] = asked
        return asked

    def execute(self, execution: Execution) -> Execution:
        """Enter an execution; what may not run twice has not."""
        execution.no = len(self.executions)
        self.executions.append(execution)
        asked = execution.asked
        before = [one for one in self.of[asked.number] if one.ran]
        self.of[asked.number].append(execution)
        if before and execution.ran and not asked.repeatable:
            ups = [one.up for one in (*before, execution)]
            self.sim.violation("executed twice", f"request {asked.number}: {ups}")
        return execution

    def ran(self, number: int) -> int:
        """Return how often a request was executed."""
        return sum(one.ran for one in self.of[number])

    # -- answers -------------------------------------------------------------------------------

    def judge(self, asked: Asked, reply: Reply) -> str:
        """Check an answer, whole or not, of which at least the head came; return the outcome."""
        mark = reply.get("x-exec")
        if not mark:
            return self._judge_ours(asked, reply)
        if not mark.isdigit() or int(mark) >= len(self.executions):
            self._wrong(asked, f"an execution {mark}")
            return "wrong"
        execution = self.executions[int(mark)]
        if execution.asked is not asked:
            self.sim.violation("foreign answer", f"{asked.number} got {execution.asked.number}")
        self._check_head(asked, reply, execution)
        return self._judge_body(asked, reply, execution)

    def _check_head(self, asked: Asked, reply: Reply, execution: Execution) -> None:
        check = self.sim.check
        check(reply.status == execution.status, "wrong status", f"request {asked.number}")
        names = [name for name, _ in reply.fields]
        check("x-hop" not in names, "hop-by-hop field", f"request {asked.number}")
        check(names.count("x-twice") == 2, "fields lost", f"request {asked.number}")
        told = reply.get("x-holdfast-endpoint")
        check(told in ("", execution.up), "wrong endpoint told", f"request {asked.number}")
        attempts, got = reply.get("x-holdfast-attempts"), len(self.of[asked.number])
        if attempts.isdigit():
            # One attempt meets two connections at most: a kept one that was dead, and a new one.
            text = f"{asked.number}: {got} executions of {attempts} attempts"
            check(got <= 2 * int(attempts), "attempts", text)
        if "unreadable" in execution.trouble:
            self.sim.violation("malformed passed", f"{execution.trouble}: {asked.number}")

    def _judge_body(self, asked: Asked, reply: Reply, execution: Execution) -> str:
        body, meant = bytes(reply.body), execution.body
        if asked.method == "HEAD" or reply.status in {204, 304}:
            self.sim.check(not body, "body without right", f"request {asked.number}")
            return f"{reply.status}"
        if reply.whole and body == meant and not self._unfinished(execution):
            return f"{reply.status}"
        kept = self._before_our_event(body) if execution.media == "text/event-stream" else None
        if kept is not None:
            at_end = not kept or kept.endswith((b"\n\n", b"\r\n\r\n"))
            self.sim.check(at_end, "event cut", f"request {asked.number}")
            self.sim.check(meant.startswith(kept), "wrong bytes", f"request {asked.number}")
            return self._cut(asked, reply, execution)
        self.sim.check(meant.startswith(body), "wrong bytes", f"request {asked.number}")
        if reply.whole:
            # Where only the end of the connection ends a body, a short one looks like a whole one:
            # between endpoint and gateway, or between gateway and client.
            lost = reply.framing == "close" and reply.excused
            hidden = lost or (execution.framing == "close" and execution.disturbed)
            if not (hidden and not self._shows_its_end(execution)):
                text = f"request {asked.number}: {len(body)} of {len(meant)} bytes as the whole"
                self.sim.violation("short answer", f"{text}, {execution.disturbed}")
            return "short"
        return self._cut(asked, reply, execution)

    @staticmethod
    def _unfinished(execution: Execution) -> bool:
        return execution.trouble == "unfinished" and execution.asked.profile != "generic"

    @staticmethod
    def _shows_its_end(execution: Execution) -> bool:
        sse = execution.media == "text/event-stream"
        return sse and execution.asked.profile != "generic"

    @staticmethod
    def _before_our_event(body: bytes) -> bytes | None:
        """Return what stands before the event by which the gateway tells of a cut."""
        at = body.rfind(b"event: error\ndata: ")
        if at < 0:
            return None
        try:
            value = json.loads(body[at + 19 :])
        except ValueError:
            return None
        ours = isinstance(value, dict) and value.get("error", {}).get("code") == "HF-3108"
        return body[:at] if ours else None

    def _cut(self, asked: Asked, reply: Reply, execution: Execution) -> str:
        late = reply.end_at - reply.first_at
        reason = execution.disturbed or ("slow" if late > asked.limit / 2 else "")
        reason = reason or ("drained" if reply.end_at >= self.ends_at else "")
        self.sim.check(reason or reply.excused, "cut without reason", f"request {asked.number}")
        return "cut"

    def _judge_ours(self, asked: Asked, reply: Reply) -> str:
        """Check an error of the gateway's own."""
        if not reply.whole:
            return "cut"
        if asked.method == "HEAD":
            return f"ours {reply.status}"
        try:
            value = json.loads(bytes(reply.body))
            code, told = value["error"]["code"], value["holdfast"]
        except (ValueError, KeyError, TypeError):
            self._wrong(asked, f"{reply.status} {bytes(reply.body[:60])!r}")
            return "wrong"
        self.codes[code] += 1
        text = f"request {asked.number}: {code}, {told['sent']}"
        ran = self.ran(asked.number)
        self.sim.check(told["sent"] != "no" or not ran, "sent though it says no", text)
        once = not asked.repeatable or len(asked.body) > self.replays
        self.sim.check(code != "HF-3106" or once, "given up early", text)
        self.sim.check(b"all 0" not in reply.body.lower(), "nobody to ask", text)
        self.sim.check(code != "HF-3101" or told["attempts"], "nobody was asked", text)
        self.sim.check(code != "HF-3109", "nobody to ask", text)
        return str(code)

    def _wrong(self, asked: Asked, what: str) -> None:
        self.sim.violation("wrong answer", f"request {asked.number}: {what}")

    def check_secrets(self, text: bytes, place: str) -> None:
        """Check that no secret is where it must not be. place: an endpoint, or "client"."""
        for secret, owner in self.secrets.items():
            if secret.encode() in text:
                self.sim.check(owner == place, "secret", f"of {owner or 'the gateway'} at {place}")
