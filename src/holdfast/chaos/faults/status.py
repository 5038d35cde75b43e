"""An answer that is an error: overload, throttling, an outage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check
from holdfast.chaos.message import text_answer

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget
    from holdfast.chaos.message import Answer, Request


@dataclass(frozen=True, slots=True)
class ErrorAnswer(HttpFault):
    """Answer with an error; the request is not executed.

    status: 400 to 599.  retry_after: seconds, or any text (a date, rubbish) for the field; None
    leaves it out.
    """

    status: int
    retry_after: float | str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "status", low=400, high=599)

    @property
    def kind(self) -> str:
        """Counted by its number: `http 503`."""
        return f"http {self.status}"

    def prepare(self, on: HttpTarget) -> None:
        """Answer in place of the route."""
        answer = self.answer(on.request)
        if self.retry_after is not None:
            answer.headers["Retry-After"] = str(self.retry_after)
        on.respond(answer)

    def answer(self, request: Request) -> Answer:
        """Return what is said, but for when to come back."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Status(ErrorAnswer):
    """Answer with an error status and a text; the request is not executed.

    status: 400 to 599; 503 by default.  retry_after: seconds, or any text (a date, rubbish)
    for the field; None leaves it out.  body, content_type: for instance S3's XML.
    A burst: `Status(503, retry_after=1, share=0.02, burst=5)`; an outage:
    `Status(503, since=2, until=5)`.
    """

    status: int = 503
    body: str = "try again later\n"
    content_type: str = "text/plain; charset=utf-8"

    def answer(self, request: Request) -> Answer:
        """Return the same to everybody."""
        del request
        return text_answer(self.status, self.body, self.content_type)
