"""The captive portal: a page of somebody else's, with status 200."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault
from holdfast.chaos.message import text_answer

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Captive(HttpFault):
    """Answer every request with 200 and an HTML page in place of what was asked for."""

    page: str = "<!DOCTYPE html><title>Welcome</title><p>Please accept the terms of use.</p>\n"

    def prepare(self, on: HttpTarget) -> None:
        """Answer in place of the route."""
        on.respond(text_answer(200, self.page, "text/html; charset=utf-8"))
