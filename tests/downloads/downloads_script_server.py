"""A server that says exactly the bytes it is told to, request by request, and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripted import HOLE, Asked, Scripted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Say:
    """One answer. then: keep the connection, or end it by fin, rst or not at all (stall)."""

    data: bytes
    then: str = "keep"


def ok(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


class ScriptServer(Scripted):
    """Answers the n-th request of each path with the n-th `Say` of its script, then the last."""

    def __init__(self, scripts: dict[str, Sequence[Say]]) -> None:
        self.scripts = scripts
        super().__init__(self._say)

    def count(self, path: str, most: int | None = None) -> int:
        """Return how often a path was asked for, among the first `most` requests."""
        return sum(one.target == path for one in self.asked[:most])

    def _say(self, asked: Asked) -> Iterator[bytes | str]:
        script = self.scripts[asked.target]
        say = script[min(self.count(asked.target, asked.no), len(script)) - 1]
        yield say.data
        if say.then != "keep":
            yield HOLE if say.then == "stall" else say.then
