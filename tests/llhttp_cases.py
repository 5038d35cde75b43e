"""The cases of llhttp's own tests, as bytes, with what llhttp makes of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# Three cases run into those that follow them in the file they were taken from.
_META = re.compile(r"<!-- meta=(\{.*?\}) -->")


@dataclass(frozen=True)
class Case:
    """One case. kind: `request`, `response`, or one with a mode of llhttp's own (`-lenient-…`).

    log: what llhttp calls, in order.  error: why it stops.
    """

    kind: str
    title: str
    data: bytes
    log: str
    error: str

    @property
    def name(self) -> str:
        """The last part of the title."""
        return self.title.split(" / ")[-1]

    @property
    def methods(self) -> list[str]:
        return re.findall(r'span\[method\]="(.*)"', self.log)

    @property
    def content(self) -> bytes:
        """All bodies together; CR and LF have spans of their own."""
        spans = re.findall(r'span\[body\]=(?:"(.*)"|(cr|lf))\n', self.log)
        ends = {"cr": "\r", "lf": "\n"}
        return "".join(text or ends.get(end, "") for text, end in spans).encode()


def load(vectors: Path) -> list[Case]:
    """Return all cases, those that were joined by mistake taken apart."""
    found = json.loads((vectors / "llhttp_cases.json").read_text(encoding="utf-8"))["cases"]
    cases: list[Case] = []
    for case in found:
        for kind, text, log, error in _apart(case):
            cases.append(Case(kind, case["title"], raw_of(text), log, error))
    return cases


def _apart(case: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    meta = json.loads(m) if isinstance(m := case["meta"], str) else m
    kind, error = str(meta.get("type")), (case["error"] or {}).get("reason", "")
    text = case["input"]
    parts = []
    while "\n```\n" in text:
        text, _, rest = text.partition("```\n")
        log, _, rest = rest.partition("```log\n")[2].partition("```\n")
        why = re.search(r'error code=\d+ reason="(.*)"', log)
        parts.append((kind, text, log, why[1] if why else ""))
        kind = json.loads(_META.search(rest)[1])["type"]  # type: ignore[index]
        text = rest.partition("```http\n")[2]
    return [*parts, (kind, text, case["log"], error)]


def raw_of(text: str) -> bytes:
    """Return the bytes of a case: its rules are in the source of llhttp's tests."""
    text = text.replace("\\\n", "").removesuffix("\n").replace("\n", "\r\n")
    plain = {"r": b"\r", "n": b"\n", "t": b"\t", "f": b"\f"}
    pieces = re.split(r"\\(x[0-9a-f]{2}|[0-7]{3}|[rntf])", text)
    out = b""
    for at, piece in enumerate(pieces):
        if at % 2 == 0:
            out += piece.encode()
        elif piece in plain:
            out += plain[piece]
        else:
            out += bytes([int(piece.removeprefix("x"), 16 if piece[0] == "x" else 8)])
    return out
