"""The shapes of OpenAI's API: Chat Completions, Responses, Embeddings, Models.

Source: the API's public reference.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final

from holdfast.testing.providers.content import Ask, Bad, Said, Tool, count, need, split, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Event = tuple[str, dict[str, Any]]

KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_CREATED: Final = 1_767_225_600
_DIMENSIONS: Final = 8


def error(
    status: int, message: str, *, kind: str = "", code: str = "", param: str | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    usual, usual_code = KINDS.get(status, ("server_error", None))
    found = {"message": message, "type": kind or usual, "param": param, "code": code or usual_code}
    return {"error": found}


# -- chat completions ------------------------------------------------------------------------


def ask_chat(body: Mapping[str, Any]) -> Ask:
    """Read a request for a chat completion. Raises Bad."""
    messages = need(body, "messages", list)
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    room = body.get("max_completion_tokens") or body.get("max_tokens")
    tools = [] if last.get("role") == "tool" else [_tool(one) for one in body.get("tools", [])]
    return Ask(
        need(body, "model", str),
        text_of(last.get("content")),
        count([messages, body.get("tools")]),
        stream=body.get("stream") is True,
        room=room,
        tools=[] if body.get("tool_choice") == "none" else tools,
    )


def _tool(one: Mapping[str, Any]) -> Tool:
    found = one.get("function", one)
    return Tool(found["name"], found.get("parameters") or {})


def _usage(said: Said) -> dict[str, int]:
    size, used = said.ask.size, said.used
    return {"prompt_tokens": size, "completion_tokens": used, "total_tokens": size + used}


def _finish(said: Said) -> str:
    return "tool_calls" if said.tool else "length" if said.cut else "stop"


def _call(said: Said, tool: Tool, arguments: str) -> dict[str, Any]:
    function = {"name": tool.name, "arguments": arguments}
    return {"id": said.id("call_"), "type": "function", "function": function}


def chat(said: Said) -> dict[str, Any]:
    """Return a chat completion in one piece."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.tool:
        calls = [_call(said, said.tool, said.arguments)]
        message |= {"content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(said)}
    return _completion(said, "chat.completion") | {"choices": [choice], "usage": _usage(said)}


def _completion(said: Said, kind: str) -> dict[str, Any]:
    made = {"id": said.id("chatcmpl-"), "object": kind, "created": _CREATED}
    return made | {"model": said.ask.model}


def chat_events(said: Said, *, usage: bool = False) -> Iterator[Event]:
    """Yield a chat completion as chunks. usage: the last one tells of the tokens."""
    yield "", _chunk(said, {"role": "assistant", "content": None if said.tool else ""})
    if said.tool:
        call = _call(said, said.tool, "") | {"index": 0}
        yield "", _chunk(said, {"tool_calls": [call]})
    for token in split(said.arguments) if said.tool else said.tokens:
        delta: dict[str, Any] = {"content": token}
        if said.tool:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}
        yield "", _chunk(said, delta)
    yield "", _chunk(said, {}, _finish(said))
    if usage:
        yield (
            "",
            _completion(said, "chat.completion.chunk") | {"choices": [], "usage": _usage(said)},
        )


def _chunk(said: Said, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _completion(said, "chat.completion.chunk") | {"choices": [choice]}


# -- responses ---------------------------------------------------------------------------------


def ask_response(body: Mapping[str, Any]) -> Ask:
    """Read a request for a response. Raises Bad."""
    given = body.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    last = items[-1] if items and isinstance(items[-1], dict) else {}
    answered = last.get("type") == "function_call_output"
    if given is None:
        raise Bad(400, "Missing required parameter: 'input'.", param="input")
    return Ask(
        need(body, "model", str),
        text_of(last.get("output" if answered else "content")),
        count([given, body.get("instructions"), body.get("tools")]),
        stream=body.get("stream") is True,
        room=body.get("max_output_tokens"),
        tools=[] if answered else [_tool(one) for one in body.get("tools") or []],
    )


def response(said: Said, status: str = "completed") -> dict[str, Any]:
    """Return a response in one piece; status "in_progress" is one that has only begun."""
    done = status != "in_progress"
    if done and said.cut:
        status = "incomplete"
    size, used = said.ask.size, said.used
    return {
        "id": said.id("resp_"),
        "object": "response",
        "created_at": _CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done and said.cut else None,
        "instructions": None,
        "metadata": {},
        "model": said.ask.model,
        "output": [_item(said)] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": _response_usage(size, used) if done else None,
    }


def _response_usage(size: int, used: int) -> dict[str, Any]:
    return {
        "input_tokens": size,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": used,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": size + used,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _item(said: Said, *, begun: bool = False) -> dict[str, Any]:
    status = "in_progress" if begun else "completed"
    if said.tool:
        return {
            "type": "function_call",
            "id": said.id("fc_"),
            "call_id": said.id("call_"),
            "name": said.tool.name,
            "arguments": "" if begun else said.arguments,
            "status": status,
        }
    return {
        "type": "message",
        "id": said.id("msg_"),
        "role": "assistant",
        "status": status,
        "content": [] if begun else [_part(said.text)],
    }


def response_events(said: Said) -> Iterator[Event]:
    """Yield a response as events."""
    for number, (kind, fields) in enumerate(_response_events(said)):
        yield kind, {"type": kind, "sequence_number": number, **fields}


def _response_events(said: Said) -> Iterator[Event]:
    begun = response(said, "in_progress")
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    yield "response.output_item.added", {"output_index": 0, "item": _item(said, begun=True)}
    yield from _arguments(said) if said.tool else _text(said)
    yield "response.output_item.done", {"output_index": 0, "item": _item(said)}
    last = "response.incomplete" if said.cut else "response.completed"
    yield last, {"response": response(said)}


def _arguments(said: Said) -> Iterator[Event]:
    place = {"item_id": said.id("fc_"), "output_index": 0}
    kind = "response.function_call_arguments"
    for token in split(said.arguments):
        yield f"{kind}.delta", {**place, "delta": token}
    name = said.tool.name if said.tool else ""
    yield f"{kind}.done", {**place, "name": name, "arguments": said.arguments}


def _text(said: Said) -> Iterator[Event]:
    place = {"item_id": said.id("msg_"), "output_index": 0, "content_index": 0}
    yield "response.content_part.added", {**place, "part": _part("")}
    for token in said.tokens:
        yield "response.output_text.delta", {**place, "delta": token, "logprobs": []}
    yield "response.output_text.done", {**place, "text": said.text, "logprobs": []}
    yield "response.content_part.done", {**place, "part": _part(said.text)}


# -- the rest ----------------------------------------------------------------------------------


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a vector for each text; the same text has the same one. Raises Bad."""
    model_name, given = need(body, "model", str), body.get("input")
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Bad(400, "Missing required parameter: 'input'.", param="input")
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": n, "embedding": _vector(text, packed=packed)}
        for n, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": count(texts), "total_tokens": count(texts)}
    return {"object": "list", "data": data, "model": model_name, "usage": usage}


def _vector(text: str, *, packed: bool) -> list[float] | str:
    digest = hashlib.blake2b(text.encode(), digest_size=_DIMENSIONS).digest()
    values = [byte / 256 for byte in digest]  # exact as single floats
    if packed:
        return base64.b64encode(struct.pack(f"<{_DIMENSIONS}f", *values)).decode()
    return values


def models(names: Sequence[str]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> dict[str, Any]:
    """Return one model."""
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "holdfast"}
