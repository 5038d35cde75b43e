"""Every answer cut at every byte: an error or the whole body, on time, and nothing left open."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from clients_shapes import Case, Result, cases, cutter, sweep, unfinished, wrong
from httpx_faces import FACES, NOW

import holdfast as hf

LIMIT = 0.25  # seconds, for those that meet silence
PLENTY = 20.0  # for the others: the machine may be busy


def policy(seconds: float, *more: object) -> hf.Policy:
    return hf.policy(hf.Deadline(seconds), hf.Bulkhead(1000), *more)


def asweep(server, client, todo: list[Case], *, method: str | None = None) -> list[Result]:
    """Do what `sweep` does, with 60 tasks instead of threads."""

    async def main() -> list[Result]:
        places = asyncio.Semaphore(60)

        async def one(case: Case) -> Result:
            async with places:
                url, token = server.url(case.shape, case.fault, case.at, case.times)
                began = time.monotonic()
                try:
                    r = await client.client.request(method or case.shape.method, url)
                    outcome = r.status_code, r.content
                except Exception as error:
                    outcome = error
                seconds = time.monotonic() - began
                return Result(case, outcome, seconds, server.seen[token].requests)

        results = await asyncio.gather(*map(one, todo))
        assert len(asyncio.all_tasks()) == 1
        return results

    return client.run(main())


def run(face, server, held, todo, *, method=None, inner=None) -> list[Result]:
    limits = face.lib.Limits(max_connections=200, max_keepalive_connections=20)
    with face.client(held, inner or face.inner(limits=limits)) as client:
        if face.is_async:
            return asweep(server, client, todo, method=method)

        def fetch(method: str, url: str) -> tuple[int, bytes]:
            r = client.get(url) if method == "GET" else client.request(method, url)
            return r.status_code, r.content

        return sweep(server, fetch, todo, method=method)


def check(face, every: int) -> None:
    """No short success, no hang, no other error than the library's, nothing left."""
    closing, silent = policy(PLENTY), policy(LIMIT)
    threads = threading.active_count()
    with cutter() as server:
        results = run(face, server, closing, cases(every=every, faults=("rst", "fin")))
        # The rig makes the redirect longer than its shape, so its last cut is one inside it.
        assert [key for key in unfinished(results) if key[0] != "redirect"] == []
        assert all(one.requests == 1 for one in results)
        holes = run(face, server, silent, cases(every=every, faults=("hole",)))
        assert max(one.seconds for one in holes) < LIMIT + 2  # generous: many at a time
        results += holes
        assert wrong(results) == []
        for one in results:
            if isinstance(one.outcome, BaseException):
                good = (face.lib.TransportError, hf.DeadlineExceeded)
                assert isinstance(one.outcome, good), (one.case, repr(one.outcome))
        for held in (closing, silent):
            assert held.state()["active"] == 0
        assert server.quiet()
    until = time.monotonic() + 5
    while threading.active_count() > threads + 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= threads + 1  # the watchdog's stays for a while


@pytest.mark.parametrize("face", FACES, ids=repr)
def test_an_answer_cut_at_some_bytes_is_never_a_short_success(face):
    check(face, every=7)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("face", FACES, ids=repr)
def test_an_answer_cut_at_any_byte_is_never_a_short_success(face):
    check(face, every=1)


@pytest.mark.parametrize("face", FACES, ids=repr)
def test_what_is_cut_once_is_whole_at_the_second_attempt(face):
    """Bodies of a stated length are read inside the attempt; open ones are the reader's."""
    held = policy(PLENTY, hf.Retry(3, backoff=NOW, budget=None))
    todo = cases(every=7, times=1, faults=("rst", "fin"))
    with cutter() as server:
        results = run(face, server, held, todo)
        assert wrong(results) == []
        failed = {key[0] for key in unfinished(results)}
        assert failed <= {"chunked", "trailers", "gzip_chunked", "deflate_chunked", "gzip_close"}
        for one in results:
            assert one.requests <= 2, one.case
        buffered = [one for one in results if one.case.shape.name in {"length", "gzip", "interim"}]
        assert len(buffered) > 50
        assert all(isinstance(one.outcome, tuple) for one in buffered)


@pytest.mark.parametrize("face", FACES, ids=repr)
def test_a_post_whose_bytes_went_out_is_never_sent_again(face):
    held = policy(LIMIT, hf.Retry(3, backoff=NOW, budget=None))
    todo = [case for case in cases(every=11) if case.shape.name in {"length", "chunked"}]
    with cutter() as server:
        results = run(face, server, held, todo, method="POST")
        assert wrong(results) == []
        assert max(one.requests for one in results) == 1
