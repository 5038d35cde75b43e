"""Events as log lines, for the standard library's logging.

Nothing is configured here: no handler but the NullHandler that a library owes its users, no
level, no format. A line has its event's fields as `extra`, each with `hf_` before its name,
because a LogRecord has a `name` of its own. `JsonFormatter` writes them without it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from holdfast.core import events
from holdfast.core.checks import positive, whole
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 2000
"""Characters of a line; the rest is cut."""

MAX_REMEMBERED = 256
"""Lines whose repetitions are counted at the same time."""

PREFIX = "hf_"

_Fields: TypeAlias = dict[str, object]

logging.getLogger("holdfast").addHandler(logging.NullHandler())

_LEVELS: dict[type[events.Event], int] = {
    events.Waited: logging.DEBUG,
    events.Progress: logging.DEBUG,
    events.GaveUp: logging.WARNING,
    events.CircuitOpened: logging.WARNING,
    events.Unclassified: logging.WARNING,
    events.TierChanged: logging.WARNING,
}

_TEXTS: dict[type[events.Event], str] = {
    events.Attempt: "attempt {no}: {kind}, sent: {sent}, {seconds:.3g} s",
    events.Waited: "waits {seconds:.3g} s: {why}",
    events.GaveUp: "gave up: {reason}, attempts: {attempts}, {seconds:.3g} s",
    events.Refused: "refused: {kind}",
    events.Hedged: "attempt {no} is sent once more after {after:.3g} s",
    events.LimitChanged: "the {what} limit is now {limit:.4g}: {why}",
    events.CircuitOpened: "circuit opened: {why}",
    events.CircuitHalfOpened: "circuit half-open: {why}",
    events.CircuitClosed: "circuit closed: {why}",
    events.EndpointState: "the endpoint is {state}: {reason}",
    events.TierChanged: "requests go to {tier} endpoints, before to {before} ones",
    events.Alert: "alert {name}: {text}",
    events.Unclassified: "no table knows the exception type {type}",
    events.MirrorChosen: "turns to address {no}: {how}",
    events.ResumeAccepted: "goes on at {offset} bytes: {rung}",
    events.ResumeDeclined: "starts over, {offset} bytes are lost: {reason}",
}

# What makes two lines the same although their numbers differ.
_SAME = (
    "kind",
    "sent",
    "reason",
    "why",
    "name",
    "text",
    "cleared",
    "type",
    "rung",
    "state",
    "tier",
    "what",
)


def level_of(event: events.Event) -> int:
    """Return the level of an event's line."""
    if isinstance(event, events.Attempt):
        return logging.DEBUG if event.kind == "ok" else logging.INFO
    if isinstance(event, events.Alert):
        return logging.WARNING if event.cleared else logging.ERROR
    if _is_key_out(event):
        return logging.WARNING
    return _LEVELS.get(type(event), logging.INFO)


def _is_key_out(event: events.Event) -> bool:
    """Whether a key was refused, which somebody has to see to: it is told in words of its own."""
    return isinstance(event, events.EndpointState) and event.state == "key_out"


def fields_of(event: events.Event) -> _Fields:
    """Return the fields of a line: `event` (its class), and all of the event but `time`."""
    found: _Fields = {"event": type(event).__name__}
    for spec in dataclasses.fields(event):
        if spec.name != "time":
            value = getattr(event, spec.name)
            found[spec.name] = redact.visible(value) if isinstance(value, str) else value
    return found


def message_of(event: events.Event, fields: _Fields) -> str:
    """Return the words of a line: `api[host]: attempt 2: transient, sent: maybe, 0.31 s`."""
    text = _TEXTS.get(type(event))
    if text is None:
        shown = [f"{name}: {value}" for name, value in fields.items() if name not in _COMMON]
        said = ", ".join([type(event).__name__, *shown])
    else:
        said = text.format_map(fields)
        if isinstance(event, events.Attempt) and event.reason:
            said += f", {fields['reason']}"
        if isinstance(event, events.Alert) and event.cleared:
            said += " (over)"
        if _is_key_out(event):
            said = f"a key is left out: {fields['reason']}"
    key = f"[{fields['key']}]" if fields["key"] else ""
    return f"{fields['policy'] or 'holdfast'}{key}: {said}"[:MAX_LENGTH]


_COMMON = {"event", "policy", "key", "call_id"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    level: int
    message: str
    fields: _Fields
    repeated: int = 0


@dataclasses.dataclass(slots=True)
class _Seen:
    """A line that was written, when, and how often it was not since."""

    line: _Line
    since: float
    times: int = 0

    def counted(self) -> list[_Line]:
        """Return the line that tells how often, if it was repeated at all."""
        return [dataclasses.replace(self.line, repeated=self.times)] if self.times else []


class LogLines:
    """Writes events to one logger: bounded, without repetitions. Made by `log_to`."""

    def __init__(
        self, logger: logging.Logger, level: int, repeat: float, rate: float, burst: int
    ) -> None:
        self._logger = logger
        self._level = level
        self._repeat = repeat
        self._rate = rate
        self._burst = burst
        self._lock = threading.RLock()
        self._seen: OrderedDict[object, _Seen] = OrderedDict()  # oldest first
        self._tokens = float(burst)
        self._filled = clock.monotonic()
        self._dropped = 0

    def hear(self, event: events.Event) -> None:
        """Write the line of `event`, or count it."""
        level = level_of(event)
        if level < self._level or not self._logger.isEnabledFor(level):
            return
        fields = fields_of(event)
        same = (type(event), *[fields.get(name) for name in ("policy", "key", *_SAME)])
        now = clock.monotonic()
        with self._lock:
            lines = self._over(now)
            seen = self._seen.get(same)
            if seen is not None:
                seen.times += 1
            else:
                line = _Line(level, message_of(event, fields), fields)
                self._seen[same] = _Seen(line, now)
                if len(self._seen) > MAX_REMEMBERED:
                    lines += self._seen.popitem(last=False)[1].counted()
                lines.append(line)
            lines = [line for line in lines if self._may_write(now, line)]
            dropped = self._take_dropped() if lines else 0
        self._write(lines, dropped)

    def good(self, policy: str, key: str, began: float, ended: float) -> None:
        """Write the line of an undisturbed good call, if that is wanted at all."""
        if self._level <= logging.DEBUG and self._logger.isEnabledFor(logging.DEBUG):
            event = events.Attempt(
                time=ended, policy=policy, key=key, no=1, kind="ok", seconds=ended - began
            )
            self.hear(event)

    def flush(self) -> None:
        """Write what was only counted so far."""
        with self._lock:
            lines = [line for seen in self._seen.values() for line in seen.counted()]
            self._seen.clear()
            dropped = self._take_dropped()
        self._write(lines, dropped)

    def _over(self, now: float) -> list[_Line]:
        """Forget lines that are older than `repeat`; return those that were repeated."""
        found: list[_Line] = []
        while self._seen and now - next(iter(self._seen.values())).since >= self._repeat:
            found += self._seen.popitem(last=False)[1].counted()
        return found

    def _may_write(self, now: float, line: _Line) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            self._dropped += 1 + line.repeated
            return False
        self._tokens -= 1
        return True

    def _take_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _write(self, lines: list[_Line], dropped: int) -> None:
        # Outside the lock: a handler is somebody else's code.
        for line in lines:
            fields = {**line.fields, "repeated": line.repeated}
            extra = {PREFIX + name: value for name, value in fields.items()}
            times = f" (repeated {line.repeated} times)" if line.repeated else ""
            self._logger.log(line.level, "%s%s", line.message, times, extra=extra)
        if dropped:
            extra = {f"{PREFIX}event": "LinesLeftOut", f"{PREFIX}lines": dropped}
            self._logger.warning("holdfast: %d lines were left out", dropped, extra=extra)


def log_to(
    logger: str | logging.Logger = "holdfast",
    *,
    level: int = logging.DEBUG,
    repeat: float = 10.0,
    rate: float = 20.0,
    burst: int = 200,
) -> Callable[[], None]:
    """Write a line per event to `logger` from now on; return how to stop that.

    level: of the least important lines that are wanted; a level that the logger does not take
    is not even made into words. Above DEBUG good calls stay on the fast path.
    repeat: seconds within which a line that says the same is counted rather than written
    again; the count comes with a later line ("repeated 37 times").
    rate, burst: lines per second in the long run, and at once; what is beyond is counted.
    Raises ValueError for numbers out of range.
    """
    positive("log_to", "repeat", repeat)
    positive("log_to", "rate", rate)
    whole("log_to", "burst", burst, 1)
    chosen = logging.getLogger(logger) if isinstance(logger, str) else logger
    lines = LogLines(chosen, level, repeat, rate, burst)
    unsubscribe = hub.subscribe(lines.hear, success=lines.good)

    def stop() -> None:
        unsubscribe()
        lines.flush()

    return stop


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, the event's fields.

    time: UTC, RFC 3339, milliseconds. An exception becomes `error`, a traceback is left out.
    Everything is redacted, for records of other libraries too; control characters are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: _Fields = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact.text(_message(record)),
        }
        for name, value in vars(record).items():
            if name.startswith(PREFIX):
                line[name.removeprefix(PREFIX)] = _json_value(value)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = redact.error(record.exc_info[1])
        return json.dumps(line, separators=(",", ":"))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - somebody's wrong arguments must not lose the line
        return str(record.msg)


def _json_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no infinity
    return redact.data(value)
