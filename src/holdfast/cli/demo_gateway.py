"""The gateway's part of `holdfast demo`: questions to three flaky providers of one API.

`without` is a client that knows the three addresses: three tries for each question, each at the
next address, a pause between them. `with` is the same client without its loop: one address, that
of a gateway. Both meet the same faults, drawn from the same seed.
"""

from __future__ import annotations

import json
import math
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from holdfast import chaos, testing
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from holdfast.cli.demo import Scenario

    Ask = Callable[[str], str]

WORKERS: Final = 8
TRIES: Final = 3
ATTEMPTS: Final = 8
"""The default of 4 is for endpoints of which most work; here all three fail by turns."""
LAST: Final = 60.0
"""Seconds after which a client of the gateway would give up: it leaves the waiting to it."""
_KEY: Final = "sk-demo"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Done(NamedTuple):
    """What came of it. ends: for each question why it has no answer, and whether it is wrong.

    requests, sent: what the providers received, and the bytes of the bodies that they sent.
    """

    ends: list[tuple[str, bool]]
    requests: int
    sent: int
    seconds: float


def lacks() -> str:
    """Return what is missing for a gateway, and how to get it; empty if nothing is."""
    if find_spec("httptools") is None:
        return "httptools is not installed (pip install 'holdfast[gateway]')"
    return ""


def providers(scenario: Scenario) -> list[testing.Provider]:
    """Return the three, not running yet. In the outage none of them is of use.

    Streams break before their first word or not at all: what follows the first word cannot come
    from another provider, so there is nothing to compare.
    """
    since, until = scenario.outage
    wait = math.ceil(until - since)
    busy = testing.ApiError(429, retry_after=wait, since=since, until=until)
    down = testing.ApiError(503, since=since, until=until)
    faults: tuple[list[chaos.Fault], ...] = (
        [busy, chaos.Reset(part="head", share=0.3)],
        [down, testing.ErrorEvent(share=0.5), testing.ApiError(529, share=0.1)],
        [busy, chaos.Stall(part="head", skip=3, first=1), chaos.IdleClose(0.01, share=0.3)],
    )
    return [
        testing.provider(*each, keys=[_KEY], first_seconds=0.03, seed=f"{scenario.seed}/{n}")
        for n, each in enumerate(faults)
    ]


def run(scenario: Scenario, questions: int, *, held: bool, stream: bool, stopped: Event) -> Done:
    """Ask all questions, a few at a time, and compare every answer."""

    def one(number: int) -> tuple[str, bool]:
        if stopped.is_set():
            return "stopped", False
        prompt = f"question {number}"
        try:
            text = ask(prompt)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
            return f"{type(error).__name__}: {error}"[:200], False
        return "", text != testing.reply(prompt)

    with ExitStack() as stack:
        three = [stack.enter_context(llm) for llm in providers(scenario)]
        urls = [llm.url("") for llm in three]
        if held:
            url = stack.enter_context(_gateway(urls, scenario.timeout))
            ask = _straight(url, stream=stream)
        else:
            ask = _by_loop(urls, scenario, stopped, stream=stream)
        began = clock.monotonic()
        with ThreadPoolExecutor(WORKERS) as pool:
            ends = list(pool.map(one, range(questions)))
        seconds = clock.monotonic() - began
        stats = [llm.stats for llm in three]
    requests, sent = sum(s.requests for s in stats), sum(s.bytes_down for s in stats)
    return Done(ends, requests, sent, seconds)


@contextmanager
def _gateway(urls: list[str], timeout: float) -> Iterator[str]:
    from holdfast.gateway.gateway import Gateway  # noqa: PLC0415 - its extra may be missing

    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "attempts": ATTEMPTS,
        # Everything here shares one scheduler: less than 2 s of silence is no sign of anything.
        "first_byte_timeout": max(2.0, timeout),
    }
    with Gateway(endpoints=urls, **settings) as gateway:
        yield gateway.url


def _straight(url: str, *, stream: bool) -> Ask:
    return lambda prompt: ask_once(url, prompt, LAST, stream=stream)


def _by_loop(urls: list[str], scenario: Scenario, stopped: Event, *, stream: bool) -> Ask:
    turn = count()

    def ask(prompt: str) -> str:
        for attempt in range(TRIES):
            url = urls[next(turn) % len(urls)]
            try:
                return ask_once(url, prompt, scenario.timeout, stream=stream)
            except (OSError, HTTPException):
                if attempt == TRIES - 1 or clock.wait(stopped, scenario.pause):
                    raise
        raise AssertionError("unreachable")

    return ask


def ask_once(url: str, prompt: str, timeout: float, *, stream: bool) -> str:
    """Return the answer to a question, as people write it with the standard library."""
    body = {
        "model": "claude-test",
        "max_tokens": 100,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }
    headers = {"x-api-key": _KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 - an address of our own
        f"{url}/v1/messages", json.dumps(body).encode(), headers
    )
    with _opener.open(request, timeout=timeout) as answer:
        if not stream:
            return str(json.load(answer)["content"][0]["text"])
        return "".join(_texts(answer))


def _texts(lines: Any) -> Iterator[str]:  # noqa: ANN401 - what `open` of urllib gives
    for line in lines:
        if line.startswith(b"data: "):
            delta = json.loads(line[6:]).get("delta", {})
            yield delta.get("text", "")
