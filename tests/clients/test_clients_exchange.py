"""One logical HTTP call, through both loops, with a client library made of a script."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import math
import socket

import pytest

import holdfast as hf
from holdfast.clients import aio, sync
from holdfast.clients.body import Once
from holdfast.clients.exchange import Answer, Exchange
from holdfast.clients.options import Options
from holdfast.core.policy import ENOUGH
from holdfast.core.retry import Request

OK = (200, {}, b"fine")
BUSY = (503, {"Retry-After": "3"}, b"busy")
MISSING = (404, {}, b"nothing here")


def reset() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "reset")


class Response:
    """What the scripted library returns: a status and a body, perhaps still to be read."""

    def __init__(self, status, headers, pieces):
        self.status = status
        self.headers = headers
        self.pieces = pieces
        self.closed = False


class Script:
    """Both kinds of sender. steps: answers (status, headers, body), errors, or functions.

    A body that is a list is left open; an exception in it is raised when it is reached.
    reused: whether each sending finds a kept-alive connection, unless it must be fresh.
    """

    def __init__(self, *steps, reused=False):
        self.steps = list(steps)
        self.reused = reused
        self.tries = []
        self.discarded = []

    def _next(self, this):
        self.tries.append(this)
        this.reused = self.reused and not this.fresh
        this.connecting = False
        step = self.steps.pop(0)
        if callable(step):
            step = step(this)
        if isinstance(step, BaseException):
            raise step
        status, headers, body = step
        this.answered = True
        complete = isinstance(body, bytes)
        response = Response(status, headers, body)
        return Answer(response, status, headers, complete)


class SyncScript(Script):
    def send(self, this):
        return self._next(this)

    def discard(self, answer):
        self.discarded.append(answer.response)

    def hold(self, answer, exchange):
        answer.response.pieces = sync.reading(exchange, given(answer.response.pieces))
        return answer.response


class AsyncScript(Script):
    concurrent = True

    async def send(self, this):
        await asyncio.sleep(0)
        return self._next(this)

    async def discard(self, answer):
        self.discarded.append(answer.response)

    def hold(self, answer, exchange):
        answer.response.pieces = aio.reading(exchange, agiven(answer.response.pieces))
        return answer.response


def given(pieces):
    for piece in pieces:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


async def agiven(pieces):
    for piece in pieces:
        await asyncio.sleep(0)
        if isinstance(piece, BaseException):
            raise piece
        yield piece


class Both:
    """One library call, by either loop. fast: on the fast path, which has to be warm."""

    def __init__(self, kind, *, fast=False):
        self.kind = kind
        self.fast = fast
        self.script = None

    def warm(self, policy):
        if self.fast:
            for _ in range(ENOUGH + 1):
                policy.outcome(int)

    def call(self, policy, *steps, method="GET", options=None, reused=False, **how):
        self.warm(policy)
        request = Request(method=method, host="h")
        exchange = Exchange(policy, options or Options(), request, fast=self.fast, **how)
        self.exchange = exchange
        self.script = (SyncScript if self.kind == "sync" else AsyncScript)(*steps, reused=reused)
        if self.kind == "sync":
            return sync.run(exchange, self.script)
        return asyncio.run(aio.arun(exchange, self.script))

    def call_and_read(self, policy, *steps, stop_after=None, **how):
        """Return the pieces of the body as far as they were read."""
        got = []
        if self.kind == "sync":
            response = self.call(policy, *steps, **how)
            with contextlib.closing(response.pieces) as pieces:
                for piece in pieces:
                    got.append(piece)
                    if len(got) == stop_after:
                        break
            return got

        async def run():
            request = Request(method="GET", host="h")
            self.exchange = Exchange(policy, Options(), request, fast=self.fast)
            self.script = AsyncScript(*steps)
            response = await aio.arun(self.exchange, self.script)
            async with contextlib.aclosing(response.pieces) as pieces:
                async for piece in pieces:
                    got.append(piece)
                    if len(got) == stop_after:
                        break

        asyncio.run(run())
        return got


@pytest.fixture(params=["sync", "async", "sync fast", "async fast"])
def library(request):
    kind, _, path = request.param.partition(" ")
    return Both(kind, fast=path == "fast")


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        yield clock


def policy(*extra, attempts=3, **how):
    return hf.policy(hf.Bulkhead(1), hf.Retry(attempts, **how), hf.Breaker(), *extra)


def idle(one) -> bool:
    state = one.state()
    return state["active"] == 0 and state["probes"] == 0


def test_a_good_answer_is_returned(library):
    one = policy()
    assert library.call(one, OK).pieces == b"fine"
    assert idle(one)


def test_a_throttled_answer_is_waited_out_and_repeated(library, clock):
    one = policy()
    assert library.call(one, BUSY, OK).status == 200
    assert 3 <= sum(clock.slept) <= 3.3


def test_the_last_bad_answer_is_returned_not_raised(library):
    one = policy(attempts=2)
    assert library.call(one, (500, {}, b"1"), (500, {}, b"2")).pieces == b"2"
    assert idle(one)


def test_a_client_error_is_returned_at_once_and_is_neutral(library):
    one = policy()
    for _ in range(30):
        assert library.call(one, MISSING).status == 404
    assert one.state()["circuit"] == "closed"
    assert len(library.script.tries) == 1


def test_an_error_is_raised_with_one_note(library):
    one = policy(attempts=2)
    with pytest.raises(ConnectionResetError) as caught:
        library.call(one, reset(), reset())
    (note,) = caught.value.__notes__
    assert note.startswith("2 attempts in")
    assert idle(one)


def test_what_may_have_run_is_not_repeated(library):
    with pytest.raises(ConnectionResetError):
        library.call(policy(), reset(), OK, method="POST")
    assert len(library.script.tries) == 1


def test_what_was_never_sent_is_repeated_whatever_it_is(library):
    def refused(this):
        this.connecting = True
        return ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    assert library.call(policy(), refused, OK, method="POST").status == 200


def test_a_key_of_the_caller_makes_a_post_repeatable(library):
    assert library.call(policy(), reset(), OK, method="POST", keyed=True).status == 200
    assert library.exchange.key is None


def test_the_policy_makes_one_key_per_logical_call(library):
    one = policy(idempotency_key=True)
    library.call(one, reset(), OK, method="POST")
    first = library.exchange.key
    library.call(one, OK, method="POST")
    assert len(first) == 32
    assert library.exchange.key != first
    library.call(one, OK, method="GET")
    assert library.exchange.key is None


def test_a_good_call_of_a_warm_policy_needs_no_machine(library):
    one = policy()
    library.call(one, OK)
    assert (library.exchange._call is None) is library.fast
    assert idle(one)


def test_what_the_server_says_of_its_limit_is_heard_on_either_path(library):
    one = hf.policy(hf.RateLimit(1000), hf.Retry(2))
    library.call(one, (200, {"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}, b"last one"))
    assert one.state()["rate_wait"] > 20


# -- stale connections -------------------------------------------------------------------


def test_a_stale_connection_is_replaced_without_counting(library):
    one = policy(attempts=1)
    assert library.call(one, reset(), OK, reused=True).status == 200
    stale, fresh = library.script.tries
    assert (stale.fresh, fresh.fresh) == (False, True)
    assert library.exchange.call.attempts == 1
    assert one.state()["failures"] == 0


def test_a_fresh_connection_that_fails_too_counts(library):
    with pytest.raises(ConnectionResetError):
        library.call(policy(attempts=1), reset(), reset(), OK, reused=True)
    assert len(library.script.tries) == 2


def test_a_post_is_not_sent_again_because_its_connection_was_old(library):
    with pytest.raises(ConnectionResetError):
        library.call(policy(attempts=1), reset(), OK, reused=True, method="POST")
    assert len(library.script.tries) == 1


@pytest.mark.parametrize(("which", "method", "sendings"), [("any", "POST", 2), ("never", "GET", 1)])
def test_replay_reused_says_what_goes_out_again(library, which, method, sendings):
    with contextlib.suppress(ConnectionResetError):
        library.call(
            policy(attempts=1),
            reset(), OK, reused=True, method=method, options=Options(replay_reused=which),
        )  # fmt: skip
    assert len(library.script.tries) == sendings


def test_once_a_byte_of_the_answer_came_it_was_not_stale(library):
    def cut(this):
        this.answered = True
        return reset()

    with pytest.raises(ConnectionResetError):
        library.call(policy(attempts=1), cut, OK, reused=True)
    assert len(library.script.tries) == 1


def test_a_body_that_is_used_up_is_not_sent_again(library):
    body = Once([b"x"])

    def consumed(_):
        list(body)
        return reset()

    with pytest.raises(ConnectionResetError):
        library.call(policy(), consumed, OK, reused=True, body=body)
    assert len(library.script.tries) == 1
    assert library.exchange.call.reason == "body_not_replayable"


# -- open bodies -------------------------------------------------------------------------


def test_an_open_body_holds_its_permit_until_its_end(library):
    one = policy()
    seen = []

    def look():
        seen.append(one.state()["active"])
        return b"2"

    class Looking(list):
        def __iter__(self):
            yield b"1"
            yield look()

    assert library.call_and_read(one, (200, {}, Looking())) == [b"1", b"2"]
    assert seen == [1]
    assert idle(one)


def test_a_body_that_is_closed_early_gives_its_permit_back_as_a_success(library):
    one = policy()
    assert library.call_and_read(one, (200, {}, [b"1", b"2"]), stop_after=1) == [b"1"]
    assert idle(one)
    assert one.state()["failures"] == 0


def test_a_cut_in_an_open_body_is_the_readers(library):
    one = policy()
    with pytest.raises(ConnectionResetError) as caught:
        library.call_and_read(one, (200, {}, [b"1", reset()]), OK)
    assert caught.value.__notes__ == ["1 attempt in 0 s; the stream had begun"]
    assert len(library.script.tries) == 1
    assert idle(one)
    assert one.state()["failures"] == 1


def test_a_forgotten_body_gives_its_permit_back():
    one = policy()
    library = Both("sync")
    response = library.call(one, (200, {}, [b"1", b"2"]))
    next(response.pieces)
    assert one.state()["active"] == 1
    del response, library
    gc.collect()
    assert idle(one)


def test_a_bad_answer_with_an_open_body_is_discarded_before_the_wait(library):
    one = policy()
    assert library.call(one, (503, {}, [b"long"]), OK).status == 200
    assert [response.status for response in library.script.discarded] == [503]


# -- limits ------------------------------------------------------------------------------


def test_an_attempt_knows_its_limit(library):
    library.call(policy(hf.Timeout(7)), OK)
    (this,) = library.script.tries
    assert this.limit == 7
    assert this.within(None) == 7
    assert this.within(3) == 3


def test_without_a_limit_the_librarys_own_timeout_stands(library):
    library.call(policy(), OK)
    (this,) = library.script.tries
    assert this.limit == math.inf
    assert this.within(None) is None
    assert this.within(3) == 3


def test_an_asynchronous_attempt_is_interrupted_at_its_limit(clock):
    async def run():
        class Hanging(AsyncScript):
            async def send(self, this):
                self.tries.append(this)
                this.connecting = False
                await asyncio.Event().wait()

        one = hf.policy(hf.Deadline(10), hf.Retry(2), hf.Timeout(1))
        sender = Hanging()
        exchange = Exchange(one, Options(), Request(method="GET"))
        with pytest.raises(TimeoutError, match="the attempt took longer than 1 s"):
            await aio.arun(exchange, sender)
        assert len(sender.tries) == 2
        assert one.state()["active"] == 0

    asyncio.run(run())


def test_a_synchronous_attempt_is_ended_through_its_socket():
    # Real time: a socket blocks in it.
    near, far = socket.socketpair()
    one = hf.policy(hf.Deadline(0.05))

    class Hanging(SyncScript):
        def send(self, this):
            this.guard.watch(near)
            if not near.recv(1):
                raise EOFError("the connection ended")

    with near, far, pytest.raises(hf.DeadlineExceeded) as caught:
        sync.run(Exchange(one, Options(), Request(method="GET")), Hanging())
    assert isinstance(caught.value.__cause__, EOFError)


def test_a_read_of_an_open_body_is_interrupted_at_the_timeout():
    async def run():
        async def pieces():
            yield b"1"
            await asyncio.Event().wait()

        one = hf.policy(hf.Deadline(10), hf.Timeout(1))
        exchange = Exchange(one, Options(), Request(method="GET"))
        sender = AsyncScript((200, {}, None))
        sender.hold = lambda answer, exchange: aio.reading(exchange, pieces())
        body = await aio.arun(exchange, sender)
        assert await anext(body) == b"1"
        with pytest.raises(TimeoutError, match="the attempt took longer than 1 s"):
            await anext(body)
        assert one.state()["active"] == 0

    asyncio.run(run())


def test_a_cancelled_call_gives_everything_back():
    async def run():
        class Hanging(AsyncScript):
            async def send(self, this):
                await asyncio.Event().wait()

        one = policy()
        exchange = Exchange(one, Options(), Request(method="GET"))
        task = asyncio.create_task(aio.arun(exchange, Hanging()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert idle(one)

    asyncio.run(run())


def test_a_slow_attempt_is_hedged_and_the_loser_is_discarded(clock):
    async def run():
        class Slow(AsyncScript):
            async def send(self, this):
                self.tries.append(this)
                if len(self.tries) == 1:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        return Answer(Response(200, {}, ["late"]), 200, {}, complete=False)
                return Answer(Response(200, {}, b"hedge"), 200, {}, complete=True)

        one = hf.policy(hf.Retry(2), hf.Hedge(after=1.0, budget=1.0), hf.Breaker())
        for _ in range(2):  # what the budget earns
            await aio.arun(Exchange(one, Options(), Request(method="GET")), AsyncScript(OK))
        sender = Slow()
        response = await aio.arun(Exchange(one, Options(), Request(method="GET")), sender)
        assert response.pieces == b"hedge"
        assert len(sender.tries) == 2
        assert [lost.pieces for lost in sender.discarded] == [["late"]]
        assert idle(one)

    asyncio.run(run())


def test_a_hedged_attempt_whose_copies_all_fail_is_retried_as_one():
    async def run():
        class Failing(AsyncScript):
            async def send(self, this):
                self.tries.append(this)
                this.connecting = False
                await asyncio.sleep(2)
                raise reset()

        one = hf.policy(hf.Retry(2), hf.Hedge(after=1.0, budget=1.0), hf.Breaker())
        for _ in range(3):
            await aio.arun(Exchange(one, Options(), Request(method="GET")), AsyncScript(OK))
        sender = Failing()
        exchange = Exchange(one, Options(), Request(method="GET"))
        with pytest.raises(ConnectionResetError):
            await aio.arun(exchange, sender)
        assert exchange.call.attempts == 2
        assert len(sender.tries) == 4
        assert idle(one)

    asyncio.run(run())


def test_a_body_with_one_position_is_not_hedged():
    async def run():
        class Slow(AsyncScript):
            async def send(self, this):
                await asyncio.sleep(5)
                return await super().send(this)

        one = hf.policy(hf.Hedge(after=1.0, budget=1.0))
        for _ in range(3):
            request = Request(method="PUT")
            sender = Slow(OK)
            await aio.arun(Exchange(one, Options(), request, body=Once([b"x"])), sender)
            assert len(sender.tries) == 1

    asyncio.run(run())


# -- composition -------------------------------------------------------------------------


def test_inside_another_retrying_policy_one_attempt_is_made(library):
    outer = hf.policy(hf.Retry(3, budget=None))
    inner = policy()
    sent = []

    def call():
        try:
            return library.call(inner, reset())
        finally:
            sent.append(len(library.script.tries))

    with pytest.raises(ConnectionResetError):
        outer.call(call)
    assert sent == [1, 1, 1]


def test_an_open_circuit_is_raised_without_sending(library):
    one = policy()
    one.isolate()
    with pytest.raises(hf.CircuitOpen):
        library.call(one, OK)
    assert library.script.tries == []


def test_a_fallback_replaces_the_last_bad_answer(library):
    stand_in = Response(200, {}, b"stale copy")
    one = hf.policy(hf.Fallback(stand_in), hf.Retry(2))
    assert library.call(one, (500, {}, b""), (500, {}, b"")) is stand_in
    assert library.call(one, reset(), reset()) is stand_in


def test_the_hook_is_asked_about_answers(library):
    def hook(found):
        return hf.TRANSIENT if getattr(found, "pieces", None) == b"try again" else None

    one = hf.policy(hf.Retry(3), classify=hook)
    assert library.call(one, (200, {}, b"try again"), OK).pieces == b"fine"


def test_a_code_of_the_provider_decides():
    library = Both("sync")
    sender = SyncScript()
    sender.send = lambda this: Answer(
        Response(429, {}, b""), 429, {}, complete=True, code="1102"  # out of money
    )  # fmt: skip
    exchange = Exchange(policy(), Options(provider="kling"), Request(method="GET"))
    assert sync.run(exchange, sender).status == 429
    assert exchange.call.attempts == 1
    assert exchange.call.reason == "permanent"
    assert library.script is None


def test_events_tell_of_reuse(library):
    with hf.record() as recording:
        library.call(policy(), OK, reused=True)
    *_, event = recording.events()
    assert event.reused
    assert event.kind == "ok"
