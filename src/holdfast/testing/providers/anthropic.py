"""The shapes of Anthropic's Messages API.

Source: the API's public reference (Messages, Streaming Messages, Count tokens, Models, Errors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.testing.providers.content import Ask, Said, Tool, count, need, split, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Event = tuple[str, dict[str, Any]]

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def ask(body: Mapping[str, Any]) -> Ask:
    """Read a request. Raises Bad."""
    messages = need(body, "messages", list)
    need(body, "max_tokens", int)
    return Ask(
        need(body, "model", str),
        text_of(_last(messages).get("content")),
        tokens(body),
        stream=body.get("stream") is True,
        room=body["max_tokens"],
        tools=_tools(body, messages),
    )


def tokens(body: Mapping[str, Any]) -> int:
    """Return the tokens of a request."""
    return count([body.get(name) for name in ("system", "messages", "tools")])


def _last(messages: Sequence[Any]) -> Mapping[str, Any]:
    return messages[-1] if messages and isinstance(messages[-1], dict) else {}


def _tools(body: Mapping[str, Any], messages: Sequence[Any]) -> list[Tool]:
    content = _last(messages).get("content")
    parts = content if isinstance(content, list) else []
    choice = body.get("tool_choice") or {}
    if choice.get("type") == "none" or any(part.get("type") == "tool_result" for part in parts):
        return []
    tools = [Tool(one["name"], one.get("input_schema", {})) for one in body.get("tools", [])]
    return [one for one in tools if choice.get("name") in {None, one.name}]


def _stop(said: Said) -> str:
    return "tool_use" if said.tool else "max_tokens" if said.cut else "end_turn"


def _message(said: Said) -> dict[str, Any]:
    return {
        "id": said.id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": said.ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": said.ask.size, "output_tokens": 1},
    }


def whole(said: Said) -> dict[str, Any]:
    """Return the answer in one piece."""
    block: dict[str, Any] = {"type": "text", "text": said.text}
    if said.tool:
        block = _tool_block(said, said.tool, said.tool.arguments())
    usage = {"input_tokens": said.ask.size, "output_tokens": said.used}
    return _message(said) | {"content": [block], "stop_reason": _stop(said), "usage": usage}


def _tool_block(said: Said, tool: Tool, arguments: dict[str, object]) -> dict[str, Any]:
    return {"type": "tool_use", "id": said.id("toolu_"), "name": tool.name, "input": arguments}


def events(said: Said) -> Iterator[Event]:
    """Yield the answer as events; those with content are the `content_block_delta`."""
    yield "message_start", {"type": "message_start", "message": _message(said)}
    block: dict[str, Any] = {"type": "text", "text": ""}
    if said.tool:
        block = _tool_block(said, said.tool, {})
    yield _event("content_block_start", index=0, content_block=block)
    yield _event("ping")
    for token in split(said.arguments) if said.tool else said.tokens:
        delta = {"type": "text_delta", "text": token}
        if said.tool:
            delta = {"type": "input_json_delta", "partial_json": token}
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    delta = {"stop_reason": _stop(said), "stop_sequence": None}  # type: ignore[dict-item]  # null
    yield _event("message_delta", delta=delta, usage={"output_tokens": said.used})
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> Event:
    return kind, {"type": kind, **fields}


def models(names: Sequence[str]) -> dict[str, Any]:
    """Return the list of models."""
    data = [model(name) for name in names]
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": data, "has_more": False, **ends}


def model(name: str) -> dict[str, Any]:
    """Return one model."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
    }


def error(status: int, message: str, *, kind: str = "", request_id: str = "") -> dict[str, Any]:
    """Return the body of an error."""
    found = kind or KINDS.get(status, "api_error")
    value: dict[str, Any] = {"type": "error", "error": {"type": found, "message": message}}
    return value | ({"request_id": request_id} if request_id else {})
