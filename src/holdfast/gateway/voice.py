"""What a gateway that is a program says of its endpoints, on stderr: a line per change."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.telemetry import redact
from holdfast.telemetry.logs import JsonFormatter, log_to


@dataclass(frozen=True, slots=True)
class Voice:
    """How it is said. json: as objects.  dated: lines begin with the time.

    worker: which of several processes it is, from 1; 0 if it is the only one.
    """

    json: bool = False
    dated: bool = False
    worker: int = 0

    def speak(self) -> None:
        """Say from now on what happens in this process, warnings of other libraries included."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter() if self.json else _Lines(self))
        if not self.json:
            handler.addFilter(_is_news)
        logging.getLogger().addHandler(handler)
        logging.getLogger("holdfast").setLevel(logging.INFO)
        log_to("holdfast.gateway", level=logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line says what no other one does: a circuit that opens is an alert besides."""
    fields = vars(record)
    return (fields.get("hf_event"), fields.get("hf_name")) != ("Alert", "circuit")


def date_of(wall: float) -> str:
    """Return seconds since the epoch as a log has them."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Lines(logging.Formatter):
    """One line of text per record, redacted."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._dated = voice.dated
        self._who = f"worker {voice.worker}: " if voice.worker else ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        text = redact.text(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {redact.error(record.exc_info[1])}"
        text = " ".join(text.splitlines())
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        text = self._who + text
        return f"{date_of(record.created)} {text}" if self._dated else text
