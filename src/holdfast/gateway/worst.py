"""The worst that one request may come to: attempts, requests, seconds, waiting, budget.

One computation, for `holdfast plan` and for `holdfast gateway check`. It needs the settings alone:
no secret is read and no name is looked up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.backoff import doubled
from holdfast.core.health import COOL_FIRST, COOL_LEAST
from holdfast.core.plan import Delay, Plan
from holdfast.gateway.cluster import FIRST_BYTE_SAMPLES, FIRST_BYTE_STREAM_MOST
from holdfast.gateway.search import BACKOFF, BACKOFF_MOST, BACKOFF_THROTTLED

if TYPE_CHECKING:
    from holdfast.gateway.config import EndpointConfig, GatewayConfig

CALLS = 1000
"""How many requests on dead endpoints `dead_backend_factor` looks at, as in every plan."""


@dataclass(frozen=True, slots=True)
class GatewayPlan(Plan):
    """The worst case of one request of a client; seconds.

    Of a `Plan`, for endpoints that fail at once: attempts_max, delays, attempt_times, wait_total.
    requests_max: what endpoints may see of them: one more, as a kept connection that was dead may
    have brought a request there.  seconds_max: until the client has its answer, or a stream
    begins.

    endpoints: those that are enabled.
    throttled_max: requests besides those, where every key refuses, as too many (429, 529, 503 with
    Retry-After), as slowly as makes most of them, and asks for as little rest as is heeded. They
    use up none of the attempts under `attempts = "auto"`; under a number they are among them.
    silent_max: of an attempt whose endpoint says nothing, until another one is asked; of a request
    that wants no stream.  silent_stream_max: the same of one that does.
    stream_max: how long a stream may go on; None: as long as a byte comes within `idle_timeout`.
    wait_max: in line for an endpoint, of seconds_max.  queue: so many requests wait at most.
    retry_reserve, retry_budget: retries saved up, and gained with each request.
    workers: processes; each has a line and a budget of its own.
    """

    endpoints: int
    throttled_max: int
    silent_max: float
    silent_stream_max: float
    stream_max: float | None
    idle_timeout: float
    wait_max: float
    queue: int
    retry_reserve: float
    retry_budget: float
    workers: int | str

    def as_dict(self) -> dict[str, object]:
        """Return it as data that `json.dumps` takes; an unbounded time reads "unbounded"."""
        names = set(GatewayPlan.__dataclass_fields__) - set(Plan.__dataclass_fields__)
        more = {name: getattr(self, name) for name in sorted(names)}
        more["stream_max"] = "unbounded" if self.stream_max is None else self.stream_max
        return {**Plan.as_dict(self), **more}


def plan_of(config: GatewayConfig) -> GatewayPlan:
    """Return the worst case of one request."""
    enabled = [one for one in config.endpoint if one.enabled]
    attempts = config.attempts_max
    delays = _delays(attempts, len(enabled) or 1)
    times = [0.0]
    for delay in delays:
        times.append(times[-1] + delay.nominal)
    budget = config.retry_reserve / CALLS + config.retry_budget
    silent = _silent(config, enabled, config.total_timeout)
    return GatewayPlan(
        attempts_max=attempts,
        requests_max=attempts + 1,
        delays=tuple(delays),
        attempt_times=tuple(times),
        wait_total=times[-1],
        seconds_max=config.total_timeout,
        dead_backend_factor=round(1 + min(attempts - 1, budget), 3),
        warnings=tuple(_warnings(config, enabled, silent)),
        endpoints=len(enabled),
        throttled_max=_throttled(config, enabled),
        silent_max=silent,
        silent_stream_max=_silent(
            config, enabled, min(FIRST_BYTE_STREAM_MOST, config.first_content_timeout)
        ),
        stream_max=config.stream_timeout or None,
        idle_timeout=max(
            (one.idle_timeout or config.idle_timeout for one in enabled),
            default=config.idle_timeout,
        ),
        wait_max=min(config.max_wait, config.total_timeout),
        queue=config.queue,
        retry_reserve=config.retry_reserve,
        retry_budget=config.retry_budget,
        workers=config.workers,
    )


def _delays(attempts: int, endpoints: int) -> list[Delay]:
    delays: list[Delay] = []
    for retry in range(1, attempts):
        # Another endpoint is asked at once; only when all were asked there is a pause.
        pause = 0.0
        if retry % endpoints == 0:
            pause = min(BACKOFF_MOST, BACKOFF * 2.0 ** (retry // endpoints - 1))
        delays.append(Delay(pause, pause / 2, pause))
    return delays


def _throttled(config: GatewayConfig, enabled: list[EndpointConfig]) -> int:
    if config.attempts != "auto":
        return 0
    # A key that refused is asked again from the line, which ends with `max_wait`, or after a pause
    # that grows.
    most = _rests(config.total_timeout)
    lined = _rests(min(config.max_wait, config.total_timeout)) + _pauses(config.total_timeout) + 1
    return min(most, lined) * sum(max(1, len(one.keys)) for one in enabled)


def _rests(seconds: float) -> int:
    """Return how often a key can be asked within so many seconds, if it refuses each time."""
    at, row = 0.0, 0
    while row == 0 or at < seconds:
        rest = doubled(COOL_LEAST, row, COOL_FIRST)
        if rest == COOL_FIRST and at < seconds:
            return row + math.ceil((seconds - at) / rest)
        at += rest
        row += 1
    return row


def _pauses(seconds: float) -> int:
    """Return how many pauses fit between rounds of refusals, with the jitter that makes most."""
    at, row = 0.0, 0
    while at < seconds:
        at += doubled(BACKOFF_THROTTLED, row, BACKOFF_MOST) / 2
        row += 1
    return row


def _silent(config: GatewayConfig, enabled: list[EndpointConfig], most: float) -> float:
    """Return how long an attempt may last in silence. most: where `first_byte_timeout` is auto."""
    longest = 0.0
    for one in enabled:
        first = one.first_byte_timeout or config.first_byte_timeout
        connect = one.connect_timeout or config.connect_timeout
        longest = max(longest, connect + (most if isinstance(first, str) else first))
    return min(longest, config.total_timeout)


def _warnings(config: GatewayConfig, enabled: list[EndpointConfig], silent: float) -> list[str]:
    if not enabled:
        return ["no endpoint is enabled: every request is refused (HF-3109)"]
    if silent < config.total_timeout:
        return []
    text = "a silent endpoint costs a request (no stream) all of its time"
    if config.first_byte_timeout == "auto":
        text = f"until {FIRST_BYTE_SAMPLES} answers are known, {text}"
    return [f"{text}: set `first_byte_timeout`"]
