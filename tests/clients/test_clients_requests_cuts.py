"""Every answer cut at every byte, through requests: an error or the whole body, on time."""

from __future__ import annotations

import threading
import time

import pytest
import requests
from clients_requests_rig import NOW
from clients_shapes import cases, cutter, sweep, unfinished, wrong

import holdfast as hf

LIMIT = 0.2  # seconds, for those that meet silence
PLENTY = 20.0  # for the others: the machine may be busy
OPEN = {"chunked", "trailers", "gzip_chunked", "deflate_chunked", "gzip_close"}


def policy(seconds: float, *more: object) -> hf.Policy:
    return hf.policy(hf.Deadline(seconds), hf.Bulkhead(1000), *more)


def run(server, held, todo, *, method=None, stream=False, threads=24):
    session = requests.Session()
    session.trust_env = False
    hf.clients.requests.mount(session, held)

    def fetch(method: str, url: str) -> tuple[int, bytes]:
        with session.request(method, url, stream=stream) as r:
            body = b"".join(r.iter_content(16)) if stream else r.content
            return r.status_code, body

    with session:
        return sweep(server, fetch, todo, method=method, threads=threads)


def check(every: int, *, stream: bool) -> None:
    """No short success, no hang, no other error than requests' own, nothing left."""
    closing, silent = policy(PLENTY), policy(LIMIT)
    with cutter() as server:
        results = run(server, closing, cases(every=every, faults=("rst", "fin")), stream=stream)
        # The rig makes the redirect longer than its shape, so its last cut is one inside it.
        assert [key for key in unfinished(results) if key[0] != "redirect"] == []
        assert all(one.requests == 1 for one in results)
        holes = run(server, silent, cases(every=every, faults=("hole",)), stream=stream, threads=48)
        assert max(one.seconds for one in holes) < LIMIT + 2  # generous: many at a time
        results += holes
        assert wrong(results) == []
        for one in results:
            if isinstance(one.outcome, BaseException):
                good = (requests.RequestException, hf.DeadlineExceeded)
                assert isinstance(one.outcome, good), (one.case, repr(one.outcome))
        for held in (closing, silent):
            assert held.state()["active"] == 0
        assert server.quiet()


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_an_answer_cut_at_some_bytes_is_never_a_short_success(stream):
    check(7, stream=stream)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_an_answer_cut_at_any_byte_is_never_a_short_success(stream):
    check(1, stream=stream)


def test_what_is_cut_once_is_whole_at_the_second_attempt():
    held = policy(PLENTY, hf.Retry(3, backoff=NOW, budget=None))
    with cutter() as server:
        results = run(server, held, cases(every=7, times=1, faults=("rst", "fin")))
        assert wrong(results) == []
        assert not unfinished(results)
        assert max(one.requests for one in results) == 2


def test_of_streamed_answers_those_of_a_stated_length_are_read_inside_the_attempt():
    held = policy(PLENTY, hf.Retry(3, backoff=NOW, budget=None))
    with cutter() as server:
        todo = cases(every=7, times=1, faults=("rst", "fin"))
        results = run(server, held, todo, stream=True)
        assert wrong(results) == []
        assert {key[0] for key in unfinished(results)} <= OPEN
        # Cuts in the heads of the others are attempts, too.
        cut_in_head = [one for one in results if one.case.shape.name in OPEN and one.case.at < 50]
        assert len(cut_in_head) > 50
        assert all(isinstance(one.outcome, tuple) for one in cut_in_head)


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_a_post_whose_bytes_went_out_is_never_sent_again(stream):
    held = policy(LIMIT, hf.Retry(3, backoff=NOW, budget=None))
    todo = [case for case in cases(every=11) if case.shape.name in {"length", "chunked"}]
    with cutter() as server:
        results = run(server, held, todo, method="POST", stream=stream)
        assert wrong(results) == []
        assert max(one.requests for one in results) == 1


def test_no_thread_is_left_but_the_one_that_looks_after_sockets():
    before = {thread.name for thread in threading.enumerate()}
    with cutter() as server:
        run(server, policy(LIMIT), cases(every=40))
        assert server.quiet()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        more = {thread.name for thread in threading.enumerate()} - before
        if more <= {"holdfast-watchdog"}:
            break
        time.sleep(0.01)
    assert more <= {"holdfast-watchdog"}
