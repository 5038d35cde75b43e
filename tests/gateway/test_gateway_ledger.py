"""The ledger: each request has one outcome, each attempt one reason, and the sums are right."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
from collections import Counter
from contextlib import suppress

import pytest
from gateway_rig import always, answer, ask, gateway, in_turn, reset
from gateway_telling import runs, until

from holdfast.core.breaker import Result
from holdfast.gateway.errors import Tried
from holdfast.gateway.ledger import MAX_GONE, MAX_REASONS, OTHER, OUTCOMES, Ledger

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CALLS = 18
"""Calls of functions, ours and built-in, that the ledger makes for a request of one attempt."""
CONTENT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta",'
    b'"delta":{"type":"text_delta","text":"hi"}}\n\n'
)


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def is_balanced(ledger):
    ended = ledger.succeeded + ledger.failed + ledger.cancelled
    return ledger.requests == ended + ledger.in_flight


class Audit:
    """Looks at the ledger whenever it is told of anything."""

    def __init__(self, ledger):
        self.ended = Counter()
        self.attempts = Counter()
        self.balanced = True
        finished, attempt = ledger.finished, ledger.attempt
        at_once = ledger.succeeded_at_once

        def on_finished(exchange, outcome, now):
            finished(exchange, outcome, now)
            self.ended[exchange.id] += 1
            self.balanced &= is_balanced(ledger)

        def on_attempt(endpoint, *args):
            attempt(endpoint, *args)
            self.attempts[endpoint] += 1
            self.balanced &= is_balanced(ledger)

        def on_success(endpoint, *args):
            at_once(endpoint, *args)
            self.ended[f"at once {ledger.succeeded}"] += 1
            self.attempts[endpoint] += 1
            self.balanced &= is_balanced(ledger)

        ledger.finished, ledger.attempt = on_finished, on_attempt
        ledger.succeeded_at_once = on_success


def trouble(seed):
    """Return a script that does all that endpoints do, good and bad."""
    draw = random.Random(seed)

    async def script(upstream, no, writer):
        match draw.randrange(8):
            case 0:
                reset(writer)
                return False
            case 1:
                writer.write(answer(503))
            case 2:
                writer.write(answer(400, b"no"))
            case 3:
                await asyncio.sleep(0.05)
                writer.write(answer())
            case 4:
                writer.write(SSE + chunk(CONTENT))
                await writer.drain()
                writer.close()
                return False
            case 5:
                writer.write(SSE + chunk(CONTENT) + b"0\r\n\r\n")
            case 6:
                writer.write(b"nonsense\r\n\r\n")
                return False
            case _:
                writer.write(answer())
        return True

    return script


async def hasty(port):
    """Ask, and leave before the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n{}")
    await asyncio.sleep(0.002)
    writer.transport.abort()


async def quiet(port, no):
    if no % 4 == 0:
        await hasty(port)
        return
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await ask(port)


@pytest.mark.parametrize("seed", [1, 2, 3])
@runs
async def test_under_mixed_traffic_every_request_ends_once(seed):
    scripts = [trouble(10 * seed + n) for n in range(3)]
    async with gateway(*scripts, settings="total_timeout = 2") as (gw, ups):
        ledger = gw.cluster.ledger
        audit = Audit(ledger)
        for first in range(0, 120, 12):
            await asyncio.gather(*(quiet(gw.port, no) for no in range(first, first + 12)))
        await until(lambda: not ledger.in_flight)
        assert audit.balanced
        assert set(audit.ended.values()) == {1}
        assert len(audit.ended) == ledger.requests == 120
        assert (ledger.in_flight, ledger.streams) == (0, 0)
        assert ledger.succeeded > 10
        assert ledger.cancelled > 5
        accounts = [ledger.accounts[name] for name in "abc"]
        assert [sum(one.reasons.values()) for one in accounts] == [
            audit.attempts[name] for name in "abc"
        ]
        outcomes = Counter()
        for one in ledger.accounts.values():
            outcomes.update(one.outcomes)
        assert set(outcomes) <= set(OUTCOMES)
        assert sum(outcomes.values()) == 120
        # An attempt over a dead connection is sent once more, and stays one attempt.
        asked = sum(len(up.asked) for up in ups)
        assert 100 < asked <= sum(audit.attempts.values()) + ledger.stale


@runs
async def test_what_is_in_flight_is_neither_a_success_nor_a_failure():
    go = asyncio.Event()

    async def script(upstream, no, writer):
        await go.wait()
        writer.write(answer())

    async with gateway(script) as (gw, ups):
        ledger = gw.cluster.ledger
        asking = asyncio.create_task(ask(gw.port))
        await ups[0].asked_first.wait()
        assert (ledger.requests, ledger.in_flight, ledger.succeeded) == (1, 1, 0)
        assert is_balanced(ledger)
        go.set()
        await asking
        assert (ledger.in_flight, ledger.succeeded) == (0, 1)


@runs
async def test_a_stream_under_way_is_counted_as_one_and_a_cut_as_a_failure():
    go = asyncio.Event()

    async def script(upstream, no, writer):
        writer.write(SSE + chunk(CONTENT))
        await go.wait()
        writer.close()
        return False

    async with gateway(script) as (gw, _):
        ledger = gw.cluster.ledger
        asking = asyncio.create_task(ask(gw.port))
        await until(lambda: ledger.streams)
        assert (ledger.streams, ledger.in_flight) == (1, 1)
        go.set()
        _, _, body = await asking
        assert b"HF-3108" in body
        assert (ledger.streams, ledger.failed, ledger.cuts) == (0, 1, 1)
        assert ledger.accounts["a"].outcomes["cut"] == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (204, "ok"), (404, "client_error"), (501, "upstream_error")],
)
@runs
async def test_an_answer_that_is_given_says_how_the_request_ended(status, outcome):
    async with gateway(always(answer(status, b""))) as (gw, _):
        await ask(gw.port)
        assert gw.cluster.ledger.accounts["a"].outcomes[outcome] == 1


@runs
async def test_retries_are_counted_by_what_made_them_necessary():
    async with gateway(in_turn(answer(503), answer())) as (gw, _):
        assert (await ask(gw.port))[0] == 200
        ledger = gw.cluster.ledger
        assert ledger.retries == {"http 503": 1}
        assert ledger.accounts["a"].reasons == {"ok": 1, "http 503": 1}
        at, said = ledger.accounts["a"].last_error
        assert (said.verdict, said.status) == ("http 503", 503)
        assert math.isfinite(at)


@runs
async def test_what_is_no_request_is_refused_and_is_none():
    async with gateway(always(answer())) as (gw, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        ledger = gw.cluster.ledger
        assert (ledger.requests, ledger.refusals) == (0, {"HF-3001": 1})


def test_reasons_are_bounded_and_details_left_out():
    ledger = Ledger()
    for number in range(2 * MAX_REASONS):
        for text in (f"malformed: {number}", f"reason {number}"):
            ledger.attempt("a", Result.FAILED, Tried("a", text, "yes", 1), 0.0, 0.1)
    reasons = ledger.accounts["a"].reasons
    assert len(reasons) == MAX_REASONS + 1
    assert reasons["malformed"] == 2 * MAX_REASONS
    assert sum(reasons.values()) == 4 * MAX_REASONS
    assert reasons[OTHER] > MAX_REASONS


def test_endpoints_that_are_gone_are_kept_few_and_their_sum_is_right():
    ledger = Ledger()
    for number in range(2 * MAX_GONE):
        ledger.know([f"e{number}"])
        ledger.attempt(f"e{number}", Result.OK, None, 0.0, 0.1)
    ledger.know(["last"])
    assert len(ledger.accounts) == MAX_GONE + 2
    assert sum(one.reasons["ok"] for one in ledger.accounts.values()) == 2 * MAX_GONE
    assert ledger.accounts[OTHER].reasons["ok"] == MAX_GONE


class Ended:
    """A finished request, as the ledger looks at it."""

    began, given_at, endpoint_id, streaming = 0.0, math.nan, "a", False


def test_a_request_costs_a_few_calls_and_leaves_no_object_behind():
    ledger = Ledger()
    ledger.know(["a"])
    ended = Ended()

    def one():
        ledger.began()
        ledger.attempt("a", Result.OK, None, 1.0, 0.01)
        ledger.finished(ended, "ok", 1.02)

    calls = Counter()

    def count(frame, event, argument):
        calls[event] += 1

    one()
    gc.collect()
    before = len(gc.get_objects())
    sys.setprofile(count)
    for _ in range(100):
        one()
    sys.setprofile(None)
    assert calls["call"] + calls["c_call"] <= 100 * CALLS
    gc.collect()
    assert len(gc.get_objects()) - before < 10
    assert ledger.requests == 101
