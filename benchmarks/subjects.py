"""What is compared: a hand-written loop, Holdfast, and four peers at their nearest equivalent.

Each subject takes the function to call and returns what it returned. All are used in their
call form, which is the cheapest one of every library, and none has instrumentation attached.

| subject      | has                                           | lacks, of what ours has           |
|--------------|-----------------------------------------------|-----------------------------------|
| loop         | 3 attempts, growing wait                      | everything else                   |
| holdfast     | deadline, bulkhead, rate limit, retry, budget |                                   |
|              | and breaker                                   |                                   |
| stamina      | 3 attempts, time limit looked at between      | bulkhead, rate limit, budget,     |
|              | attempts, jittered backoff                    | breaker, a limit that interrupts  |
| tenacity     | the same                                      | the same                          |
| redress      | the same, budget, breaker                     | bulkhead, rate limit, a limit     |
|              |                                               | that interrupts                   |
| interlock-cb | bulkhead, retry (by tenacity), breaker;       | rate limit, budget, a limit of    |
|              | async: a limit per attempt that interrupts    | the whole call                    |

Synchronous calls are not interrupted here (`interrupt=False`): a worker thread per call would
be measured, in ours as in interlock-cb, whose thread-per-call limit is left out as well.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import interlock
import redress
import stamina
import tenacity
from interlock.integrations.tenacity import RetryStrategy
from redress.strategies import decorrelated_jitter

import holdfast as hf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

ROOM = 1_000_000
"""Permits and rate that are never reached: what is measured is a good call, not a queue."""

PACKAGES = ("stamina", "tenacity", "redress", "interlock-cb")


@dataclass(frozen=True)
class Subject:
    """name: as shown.  call, acall: `(fn) -> value` and its asynchronous form."""

    name: str
    call: Callable[[Callable[[], Any]], Any]
    acall: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


def loop(fn: Callable[[], T]) -> T:
    """Do what many programs do by hand."""
    for attempt in range(3):
        try:
            return fn()
        except OSError:
            if attempt == 2:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError


async def aloop(fn: Callable[[], Awaitable[T]]) -> T:
    """Do the same with `await`."""
    for attempt in range(3):
        try:
            return await fn()
        except OSError:
            if attempt == 2:
                raise
            await asyncio.sleep(0.05 * 2**attempt)
    raise AssertionError


def full_policy(**options: Any) -> hf.Policy:
    """Return the policy that is measured."""
    return hf.policy(
        hf.Deadline(60, interrupt=False),
        hf.Bulkhead(ROOM),
        hf.RateLimit(ROOM, per=0.001),
        hf.Retry(3, budget=hf.Budget()),
        hf.Breaker(),
        **options,
    )


def _holdfast() -> Subject:
    policy = full_policy(name="bench")
    return Subject("holdfast", policy.call, policy.acall)


def _stamina() -> Subject:
    options = {"attempts": 3, "timeout": 60.0, "wait_initial": 0.05, "wait_max": 20.0}
    return Subject(
        "stamina",
        stamina.RetryingCaller(**options).on(OSError),
        stamina.AsyncRetryingCaller(**options).on(OSError),
    )


def _tenacity() -> Subject:
    options: dict[str, Any] = {
        "stop": tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(60),
        "wait": tenacity.wait_random_exponential(multiplier=0.05, max=20),
        "retry": tenacity.retry_if_exception_type(OSError),
        "reraise": True,
    }
    return Subject("tenacity", tenacity.Retrying(**options), tenacity.AsyncRetrying(**options))


def _redress() -> Subject:
    options: dict[str, Any] = {
        "classifier": redress.default_classifier,
        "strategy": decorrelated_jitter(max_s=20),
        "deadline_s": 60,
        "max_attempts": 3,
    }
    return Subject(
        "redress",
        redress.Policy(
            retry=redress.Retry(**options, budget=redress.Budget(max_retries=35, window_s=60)),
            circuit_breaker=redress.CircuitBreaker(),
        ).call,
        redress.AsyncPolicy(
            retry=redress.AsyncRetry(**options, budget=redress.Budget(max_retries=35, window_s=60)),
            circuit_breaker=redress.CircuitBreaker(),
        ).call,
    )


def _interlock() -> Subject:
    def layers() -> tuple[Any, ...]:
        return (
            interlock.BulkheadStrategy(ROOM),
            RetryStrategy(attempts=3, retry=tenacity.retry_if_exception_type(OSError)),
            interlock.CircuitBreakerStrategy(interlock.CircuitBreaker(name="bench")),
        )

    return Subject(
        "interlock-cb",
        interlock.Pipeline(*layers()).call,
        interlock.Pipeline(*layers(), interlock.TimeoutStrategy(60)).call,
    )


def subjects() -> list[Subject]:
    """Return all, the loop first and ours second."""
    ours_and_peers = (_holdfast(), _stamina(), _tenacity(), _redress(), _interlock())
    return [Subject("loop", loop, aloop), *ours_and_peers]
