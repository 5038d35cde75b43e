"""The routes of a fake provider: who may ask, what is answered, how a refusal looks."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from holdfast.chaos import Answer, Handler
from holdfast.chaos.line import Plain
from holdfast.chaos.stats import KEPT
from holdfast.runtime.clock import clock
from holdfast.testing.providers import anthropic, content, openai
from holdfast.testing.providers.content import Bad, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from holdfast.chaos import Request
    from holdfast.testing.providers.content import Ask, Said

    Event = tuple[str, dict[str, Any]]
    Route = Callable[[Request, dict[str, Any], int], Awaitable[Answer]]

_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was executed, also if its answer was lost on the way.

    number: over all requests of the provider, from 1.  key: the credential it came with.
    """

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    key: str

    @property
    def is_stream(self) -> bool:
        """Whether a stream was asked for."""
        return self.body.get("stream") is True


class Api:
    """What a fake provider answers. The options are those of `provider`."""

    def __init__(
        self,
        *,
        keys: Sequence[str],
        models: Sequence[str],
        reply: Callable[[str], str],
        first_seconds: float,
        token_seconds: float,
        counts: bool,
    ) -> None:
        self.keys = tuple(keys)
        self.models = tuple(models)
        self.asked: deque[Asked] = deque(maxlen=KEPT)
        self._reply = reply
        self._first = first_seconds
        self._pace = token_seconds
        self._counts = counts

    def routes(self) -> list[Handler]:
        """Return what serves each path; the first that matches does."""
        routes: dict[str, Route] = {
            "/v1/messages": self._messages,
            "/v1/chat/completions": self._chat,
            "/v1/responses": self._response,
            "/v1/embeddings": self._embeddings,
            "/v1/models*": self._models,
        }
        if self._counts:
            routes["/v1/messages/count_tokens"] = self._count
        routes["/*"] = self._nothing
        return [Handler(path, partial(self._serve, route)) for path, route in routes.items()]

    # -- each API ------------------------------------------------------------------------

    async def _serve(self, route: Route, request: Request) -> Answer:
        """Check what all have in common, ask the route, and shape what it refuses."""
        shape = api_of(request)
        try:
            body = self._checked(request)
            key = key_of(request)
            path = request.target.partition("?")[0]
            asked = Asked(request.number, path, dict(request.headers), body, key)
            answer = await route(request, body, request.number)
        except Bad as bad:
            return refusal(request, bad)
        self.asked.append(asked)
        answer.headers[_REQUEST_ID[shape]] = f"req_{request.number:08d}"
        return answer

    def _checked(self, request: Request) -> dict[str, Any]:
        if self.keys and key_of(request) not in self.keys:
            raise Bad(401, "invalid x-api-key")
        if request.method != "POST":
            return {}
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Bad(400, "The request body is not valid JSON")
        if "model" in body and body["model"] not in self.models:
            raise Bad(404, f"model: {body['model']}")
        return body

    async def _said(self, ask: Ask, number: int) -> Said:
        if self._first:
            await clock.asleep(self._first)
        return say(ask, number, self._reply)

    async def _messages(self, request: Request, body: dict[str, Any], number: int) -> Answer:
        posted(request)
        said = await self._said(anthropic.ask(body), number)
        if said.ask.stream:
            return self._stream(anthropic.events(said))
        return as_json(anthropic.whole(said))

    async def _count(self, request: Request, body: dict[str, Any], _: int) -> Answer:
        posted(request)
        content.need(body, "messages", list)
        return as_json({"input_tokens": anthropic.tokens(body)})

    async def _chat(self, request: Request, body: dict[str, Any], number: int) -> Answer:
        posted(request)
        said = await self._said(openai.ask_chat(body), number)
        if not said.ask.stream:
            return as_json(openai.chat(said))
        usage = (body.get("stream_options") or {}).get("include_usage") is True
        return self._stream(openai.chat_events(said, usage=usage), end=_DONE)

    async def _response(self, request: Request, body: dict[str, Any], number: int) -> Answer:
        posted(request)
        said = await self._said(openai.ask_response(body), number)
        if said.ask.stream:
            return self._stream(openai.response_events(said))
        return as_json(openai.response(said))

    async def _embeddings(self, request: Request, body: dict[str, Any], _: int) -> Answer:
        posted(request)
        return as_json(openai.embeddings(body))

    async def _models(self, request: Request, _: dict[str, Any], __: int) -> Answer:
        shape = anthropic if api_of(request) == "anthropic" else openai
        name = request.path.removeprefix("/v1/models").strip("/")
        if not name:
            return as_json(shape.models(self.models))
        if name not in self.models:
            raise Bad(404, f"model: {name}")
        return as_json(shape.model(name))

    async def _nothing(self, request: Request, _: dict[str, Any], __: int) -> Answer:
        raise Bad(404, f"Not found: {request.method} {request.path}", kind="not_found_error")

    # -- streams -------------------------------------------------------------------------

    def _stream(self, events: Iterable[Event], end: bytes = b"") -> Answer:
        """Return an answer with a chunk for each event, as providers send them."""
        parts = [written(*event) for event in events]
        return as_stream(parts + ([end] if end else []), self._pace)


def as_json(value: object, status: int = 200) -> Answer:
    """Return an answer with a JSON body."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status, {"Content-Type": "application/json"}, Plain(data))


def as_stream(parts: Sequence[bytes], pace: float) -> Answer:
    """Return an answer that streams these events, one per chunk, `pace` seconds apart."""
    return Answer(
        200,
        {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"},
        Plain(b"".join(parts)),
        framing="chunked",
        chunks=[(len(part), pace if number else 0.0) for number, part in enumerate(parts)],
    )


def written(name: str, data: dict[str, Any]) -> bytes:
    """Return an event as bytes."""
    field = f"event: {name}\n" if name else ""
    return f"{field}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def parts_of(answer: Answer) -> Iterator[bytes]:
    """Yield the events of a stream."""
    at = 0
    for length, _ in answer.chunks:
        yield b"".join(bytes(piece) for piece in answer.body.pieces(at, at + length))
        at += length


_REQUEST_ID: Final = {"anthropic": "request-id", "openai": "x-request-id"}


def api_of(request: Request) -> str:
    """Return whose shapes a request wants: by its path, else by its fields."""
    if request.path.startswith("/v1/messages") or "anthropic-version" in request.headers:
        return "anthropic"
    return "openai"


def key_of(request: Request) -> str:
    """Return the credential of a request, wherever it stands; "" without one."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key") or request.headers.get("api-key") or bearer


def posted(request: Request) -> None:
    """Raise Bad unless the method is POST."""
    if request.method != "POST":
        raise Bad(405, f"Method Not Allowed: {request.method}")


def refusal(request: Request, bad: Bad) -> Answer:
    """Return an error in the shape of the API that was asked."""
    number = f"req_{request.number:08d}"
    if api_of(request) == "anthropic":
        value = anthropic.error(bad.status, str(bad), kind=bad.kind, request_id=number)
    else:
        value = openai.error(bad.status, str(bad), kind=bad.kind, code=bad.code, param=bad.param)
    answer = as_json(value, bad.status)
    answer.headers[_REQUEST_ID[api_of(request)]] = number
    return answer
