"""What a fake provider says: derived from the question alone, so that anybody can check it.

    prompt -> tokens of the answer, or one call of a tool that was offered

Each API puts the same content into its own shape; see `anthropic` and `openai` beside this.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Words = Callable[[str], str]

_T = TypeVar("_T")

TOKENS: Final = 20
"""Words of an answer, unless it is told otherwise."""

_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_EXAMPLES: Final = {
    "string": "Paris",
    "integer": 7,
    "number": 7.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def reply(prompt: str, tokens: int = TOKENS) -> str:
    """Return what a fake provider answers to a prompt: always the same, for each its own.

    The tail of the prompt comes first, so that a person sees what was asked; no word that
    follows comes twice, so that a lost or repeated piece shows.
    """
    words = ["You", "asked:", *prompt.split()[-8:], "--"][:tokens]
    for number in range(len(words), tokens):
        words.append(hashlib.blake2b(f"{number} {prompt}".encode(), digest_size=3).hexdigest())
    return " ".join(words)


def split(text: str) -> list[str]:
    """Split a text into what is streamed one by one; together they are the text."""
    return _TOKEN.findall(text)


def count(value: object) -> int:
    """Return how many tokens the texts in a value have."""
    return sum(len(split(text)) for text in _texts(value)) or 1


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def text_of(content: object) -> str:
    """Return the text of a message's content: a text, or a list of parts that have one."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    found = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in found if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the client offers. schema: of its arguments."""

    name: str
    schema: Mapping[str, Any]

    def arguments(self) -> dict[str, object]:
        """Return arguments that fit the schema."""
        properties = self.schema.get("properties", {})
        names = self.schema.get("required", list(properties))
        return {name: _example(properties.get(name, {})) for name in names}


def _example(schema: Mapping[str, Any]) -> object:
    choices = schema.get("enum")
    return choices[0] if choices else _EXAMPLES.get(schema.get("type", "string"))


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, whatever API it came by.

    prompt: the last thing the user said.  tools: that may be called now; none if the client
    has just sent the result of one.  room: tokens that the answer may have.
    """

    model: str
    prompt: str
    size: int
    stream: bool = False
    room: int | None = None
    tools: Sequence[Tool] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """The answer. cut: it would have been longer.  number: of the request, for ids."""

    ask: Ask
    number: int
    tokens: list[str] = field(default_factory=list)
    tool: Tool | None = None
    cut: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)

    @property
    def used(self) -> int:
        """Tokens that are billed for it."""
        return count(self.tool.arguments()) if self.tool else len(self.tokens)

    @property
    def arguments(self) -> str:
        """The arguments of the call as JSON."""
        return json.dumps(self.tool.arguments()) if self.tool else ""

    def id(self, prefix: str) -> str:
        """Return an id of this answer."""
        return f"{prefix}{self.number:08d}"


def say(ask: Ask, number: int, words: Words) -> Said:
    """Answer a question. words: gives the whole text for a prompt."""
    if ask.tools:
        return Said(ask, number, tool=ask.tools[0])
    tokens = split(words(ask.prompt))
    room = len(tokens) if ask.room is None else ask.room
    return Said(ask, number, tokens[:room], cut=room < len(tokens))


class Bad(Exception):
    """A request that the API refuses. kind, code: as the API calls it; param: what is wrong."""

    def __init__(
        self, status: int, message: str, *, kind: str = "", code: str = "", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param


def need(body: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    """Return a field of a request. Raises Bad if it is missing or of another kind."""
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Bad(400, f"{name}: Field required", param=name)
    return value
