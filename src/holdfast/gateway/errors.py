"""What the gateway answers itself, in the form that the SDKs of both large providers read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One error. status: of the answer.  kind: `error.type`.  reason: for the status line."""

    code: str
    status: int
    kind: str
    reason: str
    text: str


_INVALID = "invalid_request_error"
ERRORS = {
    row.code: row
    for row in (
        Row("HF-3001", 400, _INVALID, "Bad Request", "the request is malformed"),
        Row("HF-3002", 414, _INVALID, "URI Too Long", "the target is too long"),
        Row("HF-3003", 431, _INVALID, "Request Header Fields Too Large", "the head is too large"),
        Row("HF-3004", 413, _INVALID, "Content Too Large", "the body is too large"),
        Row("HF-3005", 408, _INVALID, "Request Timeout", "the request came too slowly"),
        Row("HF-3006", 405, _INVALID, "Method Not Allowed", "the method is not served here"),
        Row("HF-3007", 501, _INVALID, "Not Implemented", "that is not supported"),
        Row("HF-3008", 505, _INVALID, "HTTP Version Not Supported", "only HTTP/1.1 and HTTP/1.0"),
        Row("HF-3009", 401, "authentication_error", "Unauthorized", "a valid token is needed"),
        Row("HF-3010", 508, _INVALID, "Loop Detected", "the request has been here before"),
        Row("HF-3011", 417, _INVALID, "Expectation Failed", "that expectation cannot be met"),
        Row("HF-3012", 403, "permission_error", "Forbidden", "that Host or Origin is not allowed"),
        Row("HF-3013", 404, "not_found_error", "Not Found", "there is no such page"),
        Row("HF-3101", 502, "api_error", "Bad Gateway", "no endpoint gave an answer"),
        Row("HF-3102", 504, "timeout_error", "Gateway Timeout", "there was no answer in time"),
        Row("HF-3103", 503, "overloaded_error", "Service Unavailable", "too many requests wait"),
        Row("HF-3104", 429, "rate_limit_error", "Too Many Requests", "all endpoints cool down"),
        Row("HF-3105", 502, "api_error", "Bad Gateway", "an endpoint's answer was malformed"),
        Row(
            "HF-3106",
            502,
            "api_error",
            "Bad Gateway",
            "the connection broke after the request was sent, so it may have been executed",
        ),
        Row("HF-3107", 503, "overloaded_error", "Service Unavailable", "the gateway is ending"),
        Row("HF-3108", 502, "api_error", "Bad Gateway", "the answer was cut"),
        Row(
            "HF-3109", 503, "overloaded_error", "Service Unavailable", "all endpoints are disabled"
        ),
    )
}
REQUEST_ID = ("request-id", "x-request-id")
"""Where the SDKs of Anthropic and of OpenAI look for it."""
BY_STATUS = {400: "HF-3001", 414: "HF-3002", 431: "HF-3003", 413: "HF-3004", 505: "HF-3008"}
"""Codes of what the parser of requests refuses, by the status that it asks for."""
FIELDS = {
    "HF-3006": ("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",),
    "HF-3009": ('WWW-Authenticate: Bearer realm="holdfast"',),
    "HF-3103": ("Retry-After: 1",),
}
"""What the answer to a request that goes nowhere says beside its error."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt, as it is told. ms: its duration.  status: 0 if there was no answer."""

    endpoint: str
    verdict: str
    sent: str
    ms: int
    status: int = 0


def body(
    code: str,
    request_id: str,
    *,
    text: str = "",
    reason: str = "",
    sent: str = "no",
    retry_after: float | None = None,
    attempts: Sequence[Tried] = (),
) -> dict[str, object]:
    """Return the JSON of an error. text: in place of the table's.  reason: a short word."""
    row = ERRORS[code]
    return {
        "type": "error",
        "error": {
            "type": row.kind,
            "code": code,
            "message": text or row.text,
            "param": None,
        },
        "request_id": request_id,
        "holdfast": {
            "reason": reason or row.kind,
            "sent": sent,
            "retry_after": None if retry_after is None else round(retry_after, 3),
            "attempts": [
                {
                    "endpoint": one.endpoint,
                    "verdict": one.verdict,
                    "status": one.status or None,
                    "ms": one.ms,
                }
                for one in attempts
            ],
        },
    }


def answer(
    code: str,
    value: dict[str, object],
    *,
    close: bool,
    fields: Sequence[str] = (),
    head: bool = False,
) -> bytes:
    """Return a whole answer. fields: lines to add.  head: to a HEAD, so without its body."""
    row = ERRORS[code]
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    lines = [
        f"HTTP/1.1 {row.status} {row.reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *(f"{name}: {value['request_id']}" for name in REQUEST_ID),
        *fields,
    ]
    if close:
        lines.append("Connection: close")
    start = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return start if head else start + data
