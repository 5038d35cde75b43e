"""What goes wrong at a provider and nowhere else: errors in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast.chaos import HttpFault
from holdfast.chaos.fault import check
from holdfast.chaos.faults.status import ErrorAnswer
from holdfast.testing.providers import anthropic, openai
from holdfast.testing.providers.api import api_of, as_stream, parts_of, refusal, written
from holdfast.testing.providers.content import Bad

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget
    from holdfast.chaos.message import Answer, Request

MESSAGES: Final = {
    429: "This request would exceed your rate limit",
    500: "Internal server error",
    503: "The service is temporarily unavailable",
    529: "Overloaded",
}


@dataclass(frozen=True, slots=True)
class ApiError(ErrorAnswer):
    """Answer with an error, in the shape of the API that was asked; nothing is executed.

    status: 400 to 599; 529 by default, which is Anthropic's "overloaded".
    retry_after: seconds, or any text for the field; None leaves it out.
    should_retry: "true" or "false" for the field x-should-retry, which both SDKs obey.
    error_kind: `error.type`; "" for the usual one of the status.  code: OpenAI's `error.code`.
    """

    status: int = 529
    should_retry: str = ""
    error_kind: str = ""
    code: str = ""

    def answer(self, request: Request) -> Answer:
        """Return the error in the words of the API."""
        message = MESSAGES.get(self.status, f"The provider says {self.status}")
        bad = Bad(self.status, message, kind=self.error_kind, code=self.code)
        answer = refusal(request, bad)
        if self.should_retry:
            answer.headers["x-should-retry"] = self.should_retry
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(HttpFault):
    """End a stream, which began with 200, by an event that says what is wrong.

    after_events: so many events come first; 0 is an error in place of all content.
    status: whose words it uses.  Answers that are no stream are left as they are.
    """

    after_events: int = 0
    status: int = 529

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "after_events", low=0)

    def alter(self, on: HttpTarget) -> None:
        """Put the error in place of the rest."""
        if not on.answer.chunks:
            return
        message = MESSAGES.get(self.status, "error")
        if api_of(on.request) == "anthropic":
            last = written("error", anthropic.error(self.status, message))
        else:
            last = written("", openai.error(self.status, message))
        pace = max(wait for _, wait in on.answer.chunks)
        kept = list(parts_of(on.answer))[: self.after_events]
        stream = as_stream([*kept, last], pace)
        on.answer.body, on.answer.chunks = stream.body, stream.chunks
